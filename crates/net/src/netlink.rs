//! Routing netlink: requests that change something, one by one or in a batch, and dumps.

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use crate::Error;
use crate::netns::Netns;
use crate::socket::{Message, Socket};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Fail if the object exists.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Make the object if it does not exist.
pub(crate) const CREATE: u16 = 0x400;
/// Add to what exists.
pub(crate) const APPEND: u16 = 0x800;
/// Replace the object if it exists.
pub(crate) const REPLACE: u16 = 0x100;

/// A change that can be sent, alone or in a batch. Made by the functions of the objects' modules, such as
/// [`crate::Route::add`].
#[derive(Clone, Debug)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    doing: String,
}

impl Request {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16, doing: String) -> Self {
        Self { message, flags, doing }
    }

    /// The operation and its objects, in words.
    pub fn doing(&self) -> &str {
        &self.doing
    }
}

/// A routing netlink socket. It works on the namespace in which it was opened, whatever thread uses it.
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Opens a socket in another namespace.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        let opened = netns.run(Self::open);
        opened.map_err(|error| Error::io(format!("entering {}", netns.path().display()), error))?
    }

    /// Carries one request out.
    pub fn run(&mut self, request: Request) -> Result<(), Error> {
        self.run_all(&[request]).pop().expect("one request has one verdict")
    }

    /// Carries requests out in their order, sent in one system call. Every request has its own verdict: the kernel goes
    /// on after a failure.
    pub fn run_all(&mut self, requests: &[Request]) -> Vec<Result<(), Error>> {
        let mut verdicts: Vec<Option<Result<(), Error>>> = requests.iter().map(|_| None).collect();
        let mut bytes = Vec::new();
        let first = self.socket.sequence_after();
        for request in requests {
            let sequence = self.socket.next_sequence();
            bytes.extend(encode(request.message.clone(), request.flags | REQUEST | ACK, sequence));
        }
        let exchange = self.exchange(requests, first, &bytes, &mut verdicts);
        let failed = |request: &Request, error: &Error| Error::Malformed {
            doing: request.doing.clone(),
            why: error.to_string(),
        };
        let missing = exchange.err();
        requests
            .iter()
            .zip(verdicts)
            .map(|(request, verdict)| match (verdict, &missing) {
                (Some(verdict), _) => verdict,
                (None, Some(error)) => Err(failed(request, error)),
                (None, None) => unreachable!("the exchange ends when every request has its verdict"),
            })
            .collect()
    }

    fn exchange(
        &mut self,
        requests: &[Request],
        first: u32,
        bytes: &[u8],
        verdicts: &mut [Option<Result<(), Error>>],
    ) -> Result<(), Error> {
        let Some(head) = requests.first() else { return Ok(()) };
        self.socket.send(&head.doing, bytes)?;
        while verdicts.iter().any(Option::is_none) {
            self.socket.receive(&head.doing, |message| {
                let at = message.sequence.wrapping_sub(first) as usize;
                let (Some(request), Some(verdict)) = (requests.get(at), message.verdict()) else { return Ok(()) };
                verdicts[at] =
                    Some(verdict.map_err(|(errno, said)| Error::Refused { doing: request.doing.clone(), errno, said }));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Lists objects. `pick` turns a message into what the caller wants, or skips it. A table or a protocol family that
    /// the kernel does not have is empty.
    pub(crate) fn dump<T>(
        &mut self,
        doing: &str,
        message: &RouteNetlinkMessage,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let listed = self.socket.dump(
            doing,
            |sequence| encode(message.clone(), REQUEST | DUMP, sequence),
            |reply| decode(doing, reply).map(&mut pick),
        );
        match listed {
            Err(error) if error.unsupported() || error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Asks for one object.
    pub(crate) fn fetch(&mut self, doing: &str, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Error> {
        let sequence = self.socket.next_sequence();
        self.socket.send(doing, &encode(message, REQUEST, sequence))?;
        let mut answer = None;
        while answer.is_none() {
            self.socket.receive(doing, |reply| {
                if reply.sequence != sequence {
                    return Ok(());
                }
                if let Some(verdict) = reply.verdict() {
                    let missing = || (libc::ENOENT, None);
                    let (errno, said) = verdict.err().unwrap_or_else(missing);
                    return Err(Error::Refused { doing: doing.to_owned(), errno, said });
                }
                answer = Some(decode(doing, reply)?);
                Ok(())
            })?;
        }
        Ok(answer.expect("the loop ends with an answer"))
    }
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

fn decode(doing: &str, reply: &Message<'_>) -> Result<RouteNetlinkMessage, Error> {
    let mut header = NetlinkHeader::default();
    header.message_type = reply.kind;
    RouteNetlinkMessage::deserialize(&header, reply.payload)
        .map_err(|error| Error::Malformed { doing: doing.to_owned(), why: error.to_string() })
}
