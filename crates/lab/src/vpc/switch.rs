//! The switch's loop: frames from TAP devices through the [`Fabric`] and out again, on one thread that owns all state.
//!
//! Others reach the state by sending a [`Job`], which runs between two batches of frames; so there is no lock on the
//! frames' way and no frame sees half a change.

use super::fabric::{Fabric, PortId, Verdict};
use super::tap::Tap;
use anyhow::{Context, Result, anyhow};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tracing::warn;

/// Frames taken from one port before the others get their turn.
const BATCH: usize = 64;
/// More than any frame: a machine with a larger MTU must not be cut short unnoticed.
const BUFFER: usize = 65_536 + 64;
/// What the waker is called in epoll.
const WAKER: u64 = u64::MAX;

/// Something to do with the state between two batches.
pub type Job = Box<dyn FnOnce(&mut Fabric, Duration) + Send>;

/// A way into a running switch.
#[derive(Debug, Clone)]
pub struct Handle {
    jobs: Sender<Job>,
    waker: Arc<OwnedFd>,
}

impl Handle {
    /// Runs `job` on the switch's thread with the time since its start, and returns what it returned.
    pub fn with<T: Send + 'static>(&self, job: impl FnOnce(&mut Fabric, Duration) -> T + Send + 'static) -> Result<T> {
        let (answer, outcome) = channel();
        let gone = || anyhow!("the switch has ended");
        self.jobs.send(Box::new(move |fabric, now| drop(answer.send(job(fabric, now))))).map_err(|_| gone())?;
        rustix::io::write(&*self.waker, &1u64.to_ne_bytes()).context("cannot wake the switch")?;
        outcome.recv().map_err(|_| gone())
    }
}

/// A switch with its ports, not yet running.
#[derive(Debug)]
pub struct Switch {
    fabric: Fabric,
    ports: Vec<Tap>,
    jobs: Receiver<Job>,
    waker: Arc<OwnedFd>,
    epoll: OwnedFd,
    started: Instant,
}

impl Switch {
    /// Joins the fabric with its ports, which come in the fabric's order.
    pub fn new(fabric: Fabric, ports: Vec<Tap>) -> Result<(Self, Handle)> {
        assert_eq!(fabric.port_names().count(), ports.len(), "one device per port");
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*waker, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        for (index, port) in (0u64..).zip(&ports) {
            epoll::add(&epoll, port, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        }
        let (jobs, queue) = channel();
        let handle = Handle { jobs, waker: waker.clone() };
        Ok((Self { fabric, ports, jobs: queue, waker, epoll, started: Instant::now() }, handle))
    }

    /// Forwards frames; ends only with an error.
    pub fn run(mut self) -> Result<Infallible> {
        let mut events = Vec::with_capacity(self.ports.len() + 1);
        let mut buffer = vec![0; BUFFER];
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in events.drain(..) {
                let data = event.data;
                match usize::try_from(data.u64()) {
                    Ok(index) if index < self.ports.len() => self.drain(PortId(index), &mut buffer)?,
                    _ => drop(rustix::io::read(&*self.waker, &mut [0u8; 8])),
                }
            }
            while let Ok(job) = self.jobs.try_recv() {
                job(&mut self.fabric, self.started.elapsed());
            }
        }
    }

    /// Takes up to a batch of frames from a port.
    fn drain(&mut self, from: PortId, buffer: &mut [u8]) -> Result<()> {
        let now = self.started.elapsed();
        for _ in 0..BATCH {
            let length = match self.ports[from.0].read(buffer) {
                Ok(Some(length)) => length,
                Ok(None) => return Ok(()),
                Err(error) => return self.lost(from, error),
            };
            match self.fabric.forward(now, from, buffer, length) {
                Verdict::Deliver(to) => {
                    if self.ports[to.0].write(&buffer[..length]).is_err() {
                        self.fabric.undeliverable(now, from, to, &buffer[..length]);
                    }
                }
                Verdict::Answer(length) => {
                    // An asker that went down meanwhile asks again when it is up.
                    let _ = self.ports[from.0].write(&buffer[..length]);
                }
                Verdict::Silence | Verdict::Drop(_) => {}
            }
        }
        Ok(())
    }

    /// Somebody deleted the device behind a port. The other ports go on.
    fn lost(&mut self, port: PortId, error: Errno) -> Result<()> {
        let name = self.fabric.port_names().nth(port.0).unwrap_or_default().to_owned();
        warn!(port = name, %error, "port lost");
        epoll::delete(&self.epoll, &self.ports[port.0]).with_context(|| format!("cannot stop watching port {name}"))
    }
}
