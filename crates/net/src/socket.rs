//! A blocking netlink socket: requests out, acknowledgements with the kernel's own words and dumps in.

use netlink_packet_core::NlasIterator;

use crate::Error;

const HEADER: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
/// A dump was disturbed by a change and may be inconsistent.
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// The acknowledgement carries attributes.
const FLAG_ACK_TLVS: u16 = 0x200;
/// The acknowledgement repeats only the header of the request.
const FLAG_CAPPED: u16 = 0x100;
const ACK_MESSAGE: u16 = 1;
/// The kernel never sends more than 32 KiB at once.
const BUFFER: usize = 64 << 10;

/// A refusal: the error number, and what the kernel says about it.
pub(crate) type Refusal = (i32, Option<String>);

pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of a reply.
pub(crate) struct Message<'a> {
    pub kind: u16,
    flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// The verdict of an acknowledgement or of the end of a dump; `None` for messages with data.
    pub fn verdict(&self) -> Option<Result<(), Refusal>> {
        if !matches!(self.kind, TYPE_ERROR | TYPE_DONE) {
            return None;
        }
        let code = self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        if code == 0 {
            return Some(Ok(()));
        }
        Some(Err((-code, self.explanation())))
    }

    /// The text of the extended acknowledgement, which stands behind the repeated request.
    fn explanation(&self) -> Option<String> {
        if self.flags & FLAG_ACK_TLVS == 0 {
            return None;
        }
        let skip = match self.kind {
            TYPE_DONE => 4,
            _ if self.flags & FLAG_CAPPED != 0 => 4 + HEADER,
            _ => {
                let request = self.payload.get(4..8)?.first_chunk()?;
                4 + (u32::from_ne_bytes(*request) as usize).next_multiple_of(4)
            }
        };
        let attributes = NlasIterator::new(self.payload.get(skip..)?);
        let text = attributes.flatten().find(|attribute| attribute.kind() == ACK_MESSAGE)?;
        Some(String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_owned())
    }
}

impl Socket {
    /// Opens a socket in the calling thread's namespace, where it stays.
    pub fn open(protocol: isize) -> Result<Self, Error> {
        let doing = || "opening a netlink socket";
        let inner = netlink_sys::Socket::new(protocol).map_err(|error| Error::io(doing(), error))?;
        // Old kernels lack these; then explanations are absent and dumps are filtered here only.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        let _ = inner.set_netlink_get_strict_chk(true);
        Ok(Self { inner, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// What [`Socket::next_sequence`] will return.
    pub fn sequence_after(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// A sequence number that no request on this socket has had.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends requests in one system call.
    pub fn send(&self, doing: &str, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.inner.send(bytes, 0).map_err(|error| Error::io(doing, error))?;
        if sent == bytes.len() {
            return Ok(());
        }
        Err(Error::Malformed { doing: doing.to_owned(), why: format!("{sent} of {} bytes were sent", bytes.len()) })
    }

    /// Receives once and calls `each` for every message.
    pub fn receive(
        &mut self,
        doing: &str,
        mut each: impl FnMut(&Message<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.buffer.clear();
        loop {
            match self.inner.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(doing, error)),
            }
        }
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let cut = || Error::Malformed { doing: doing.to_owned(), why: "a message is cut short".to_owned() };
            let header: &[u8; HEADER] = rest.first_chunk().ok_or_else(cut)?;
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let message = Message {
                kind: u16::from_ne_bytes([e, f]),
                flags: u16::from_ne_bytes([g, h]),
                sequence: u32::from_ne_bytes([i, j, k, l]),
                payload: rest.get(HEADER..length).ok_or_else(cut)?,
            };
            each(&message)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends a dump request and collects what `each` makes of its messages. A dump that a change disturbed is repeated.
    pub fn dump<T>(
        &mut self,
        doing: &str,
        mut request: impl FnMut(u32) -> Vec<u8>,
        mut each: impl FnMut(&Message<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        loop {
            let sequence = self.next_sequence();
            self.send(doing, &request(sequence))?;
            let (mut found, mut done, mut disturbed) = (Vec::new(), None, false);
            while done.is_none() {
                self.receive(doing, |message| {
                    if message.sequence != sequence {
                        return Ok(());
                    }
                    disturbed |= message.flags & FLAG_DUMP_INTERRUPTED != 0;
                    match message.verdict() {
                        Some(verdict) => done = Some(verdict),
                        None => found.extend(each(message)?),
                    }
                    Ok(())
                })?;
            }
            if let Some(Err((errno, said))) = done {
                return Err(Error::Refused { doing: doing.to_owned(), errno, said });
            }
            if !disturbed {
                return Ok(found);
            }
        }
    }
}
