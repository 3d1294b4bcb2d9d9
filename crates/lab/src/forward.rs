//! `spiderpool-lab forward`: a port here that leads to a port in another network namespace.
//!
//! The namespaces of the cluster have no way to the machine's own network, on purpose (another address on a node would change what is
//! tested). So connections are accepted here and opened there, by threads that live in that namespace.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// From where to where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// The file of the network namespace to connect in
    #[arg(long)]
    net: PathBuf,
    /// Where to connect to
    #[arg(long)]
    to: SocketAddr,
}

/// Forwards until it is killed.
pub fn run(args: Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let net = File::open(&args.net).with_context(|| format!("cannot open {}", args.net.display()))?;
    // From here on every socket is made over there; the listener stays what it is.
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {}", args.net.display()))?;
    println!("forwarding {} to {}", args.listen, args.to);
    for client in listener.incoming() {
        // A client that went away before it was accepted concerns nobody.
        let Ok(client) = client else { continue };
        thread::spawn(move || {
            if let Err(error) = join(&client, args.to) {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    Ok(())
}

/// Copies both ways until both sides are done.
fn join(client: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server));
        one_way(&server, client);
    });
    Ok(())
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    let whole = io::copy(&mut from, &mut to);
    // The other side learns of the end; after an error of all of it.
    let _ = to.shutdown(Shutdown::Write);
    if whole.is_err() {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
