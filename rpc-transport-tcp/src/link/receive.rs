//! What has arrived: frames cut out of a reusable buffer, long ones in memory of their own.

use std::io;
use std::ops::Range;

use bytes::{BufMut, Bytes};
use rdma_rpc_core::link::LinkError;
use rdma_rpc_core::warm;

use super::{FILLER, FILLER_BYTES, PREFIX_BYTES};
use crate::socket::Socket;

/// What the buffer starts with, and what it may grow to while reads fill it, in bytes.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Frames of at least this many bytes are given away instead of lent.
const OWNED_BYTES: usize = 8 * 1024;

/// What must have arrived of a long frame before memory for all of it is set aside: so much, or a
/// sixteenth. Its length is already known to be within `max_frame_bytes`; this makes a liar pay for
/// each lie.
const PROOF_BYTES: usize = 4 * 1024;

fn proof_bytes(len: usize) -> usize {
    (len / 16).clamp(PROOF_BYTES, MAX_BUFFER_BYTES - PREFIX_BYTES)
}

/// Where a frame of 64 KiB or more begins in a page, or behind that. What is allocated begins near the
/// beginning of a page, and so does what the kernel copies from and to, some bytes apart. Copies between
/// such places take two to four times as long on AMD's Zen (`rep movsb`, from a source whose address
/// is a few bytes from its destination's modulo 4096): a call of 1 MiB took 760 us instead of 570, and takes
/// 230 since senders see to it too (`Outbound::filler_bytes`).
const STAGGER_BYTES: usize = 2048;

/// A long frame, as far as it has arrived.
#[derive(Debug)]
struct Long {
    memory: Vec<u8>,
    /// Where it begins there.
    start: usize,
    len: usize,
}

impl Long {
    fn new(len: usize, beginning: &[u8]) -> Long {
        let start = if len < warm::LEAST_BYTES { 0 } else { STAGGER_BYTES };
        let mut memory = warm::buffer(start + len);
        memory.resize(start, 0);
        memory.extend_from_slice(beginning);
        Long { memory, start, len }
    }

    fn missing(&self) -> usize {
        self.start + self.len - self.memory.len()
    }
}

/// What [`Inbound::advance`] found.
#[derive(Debug)]
pub(super) enum Next {
    /// A frame in the buffer.
    Lent(Range<usize>),
    /// A frame of its own.
    Owned(Bytes),
    /// Nothing now.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Inbound {
    buffer: Vec<u8>,
    /// The bytes in `buffer` that have arrived and were not handed out.
    start: usize,
    end: usize,
    /// Position of `buffer[start]` (or, with a long frame under way, of its next byte) since the
    /// link began.
    offset: u64,
    /// A long frame of which only the beginning has arrived.
    long: Option<Long>,
    max_frame_bytes: usize,
    /// Length of the last frame: the next is probably as long.
    last_len: usize,
    /// A filler was skipped, and its frame has not come yet.
    filled: bool,
    /// Why nothing more comes.
    end_cause: Option<LinkError>,
}

impl Inbound {
    pub(super) fn new(early: &[u8], max_frame_bytes: usize) -> Inbound {
        Inbound {
            buffer: early.to_vec(),
            start: 0,
            end: early.len(),
            offset: 0,
            long: None,
            max_frame_bytes,
            last_len: 0,
            filled: false,
            end_cause: None,
        }
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.buffer.capacity() + self.long.as_ref().map_or(0, |long| long.memory.capacity())
    }

    /// Whether the peer's end of stream, or an error, has been seen.
    pub(super) fn ended(&self) -> bool {
        self.end_cause.is_some()
    }

    /// Whether `advance` has something to say without reading.
    pub(super) fn has_frame(&self) -> bool {
        if self.end_cause.is_some() {
            return true;
        }
        if self.long.is_some() {
            return false;
        }
        if let Some(filler) = self.filler() {
            return filler.is_err() || filler.is_ok_and(|bytes| self.end - self.start >= bytes);
        }
        match self.declared() {
            None => false,
            Some(len) => {
                len == 0
                    || len > self.max_frame_bytes
                    || self.end - self.start >= PREFIX_BYTES + len
            }
        }
    }

    pub(super) fn lent(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The length the next prefix declares, if the prefix is there.
    fn declared(&self) -> Option<usize> {
        let prefix = self.buffer[self.start..self.end].first_chunk::<PREFIX_BYTES>()?;
        Some(u32::from_le_bytes(*prefix) as usize)
    }

    /// The filler that comes next, if it is one: its bytes with their length. One is enough before a
    /// frame; a row of them would keep us from everything else.
    fn filler(&self) -> Option<Result<usize, LinkError>> {
        let len = self.declared()?.checked_sub(FILLER as usize)?;
        if len > FILLER_BYTES - PREFIX_BYTES {
            return None;
        }
        Some(if self.filled {
            Err(LinkError::misbehaved(format!(
                "a filler of {len} bytes behind another at offset {} of the stream",
                self.offset,
            )))
        } else {
            Ok(PREFIX_BYTES + len)
        })
    }

    /// The next frame, from what has arrived or from the socket.
    pub(super) fn advance(&mut self, socket: &Socket, peer: &str) -> Result<Next, LinkError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            if let Some(cause) = &self.end_cause {
                return Err(cause.clone());
            }
            let read = self.read(socket);
            if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Ok(Next::Nothing);
            }
            self.note(&read, peer);
        }
    }

    /// Reads what has arrived, whether the runtime knows of it or not. `false`: the rest of a long
    /// frame is read when it does.
    pub(super) fn fetch(&mut self, socket: &Socket, peer: &str) -> bool {
        if self.long.is_some() {
            return false;
        }
        if !self.has_frame() {
            let room = self.room();
            let read = socket.read_unasked(&mut self.buffer[room]);
            self.end += *read.as_ref().unwrap_or(&0);
            self.note(&read, peer);
        }
        true
    }

    /// A frame out of what has arrived.
    fn take(&mut self) -> Result<Option<Next>, LinkError> {
        if let Some(long) = self.long.take() {
            if long.missing() > 0 {
                self.long = Some(long);
                return Ok(None);
            }
            return Ok(Some(Next::Owned(warm::share(long.memory).slice(long.start..))));
        }
        while let Some(filler) = self.filler() {
            let bytes = filler.inspect_err(|error| self.end_cause = Some(error.clone()))?;
            if self.end - self.start < bytes {
                return Ok(None);
            }
            self.skip(bytes);
            self.filled = true;
        }
        let Some(len) = self.declared() else { return Ok(None) };
        if len == 0 || len > self.max_frame_bytes {
            let error = LinkError::misbehaved(format!(
                "a frame of {len} bytes at offset {} of the stream: 1 to {} are allowed",
                self.offset, self.max_frame_bytes
            ));
            self.end_cause = Some(error.clone());
            return Err(error);
        }
        self.filled = false;
        let body = self.start + PREFIX_BYTES;
        let arrived = self.end - body;
        if arrived >= len {
            self.skip(PREFIX_BYTES + len);
            self.last_len = len;
            let range = body..body + len;
            if len >= OWNED_BYTES {
                return Ok(Some(Next::Owned(Bytes::copy_from_slice(&self.buffer[range]))));
            }
            return Ok(Some(Next::Lent(range)));
        }
        if len >= OWNED_BYTES && arrived >= proof_bytes(len) {
            self.long = Some(Long::new(len, &self.buffer[body..self.end]));
            self.skip(PREFIX_BYTES + arrived);
            self.last_len = len;
        }
        Ok(None)
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    fn read(&mut self, socket: &Socket) -> io::Result<usize> {
        if let Some(long) = &mut self.long {
            let missing = long.missing();
            let n = socket.try_read_buf(&mut (&mut long.memory).limit(missing))?;
            self.offset += n as u64;
            return Ok(n);
        }
        let room = self.room();
        let n = socket.try_read(&mut self.buffer[room])?;
        self.end += n;
        Ok(n)
    }

    /// Where in the buffer the next read goes.
    fn room(&mut self) -> Range<usize> {
        self.make_room();
        self.end..self.read_until().clamp(self.end + 1, self.buffer.len())
    }

    /// Whether nothing more comes: the end of the stream, or an error that is more than "not now".
    fn note(&mut self, read: &io::Result<usize>, peer: &str) {
        let cause = match read {
            Ok(0) => self.end_of_stream(peer),
            Ok(_) => return,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return,
                _ => read_failed(peer, error),
            },
        };
        self.end_cause = Some(cause);
    }

    fn expects_long(&self) -> bool {
        self.last_len >= OWNED_BYTES
    }

    /// Where the next read into the buffer ends. A long frame's proof is fetched by as few reads as
    /// it takes, and nothing behind it, so that nearly all of the frame is read to where it stays.
    fn read_until(&self) -> usize {
        match self.declared() {
            _ if !self.expects_long() => self.buffer.len(),
            Some(len) if len >= OWNED_BYTES && len <= self.max_frame_bytes => {
                self.start + PREFIX_BYTES + proof_bytes(len)
            }
            _ => self.end + FILLER_BYTES + PREFIX_BYTES + proof_bytes(self.last_len),
        }
    }

    /// Moves what is left to the front and makes the buffer large enough for a useful read.
    fn make_room(&mut self) {
        let waiting = self.end - self.start;
        let filled = self.end == self.buffer.len();
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = waiting;
        }
        // A frame shorter than OWNED_BYTES, or the proof of a longer one, must always fit.
        let wanted = match self.buffer.len() {
            len if len < FIRST_BUFFER_BYTES => FIRST_BUFFER_BYTES,
            len if filled && !self.expects_long() => (len * 2).min(MAX_BUFFER_BYTES),
            len => len,
        };
        // What a proof takes, the buffer has at once: growing it byte by byte would be reading so.
        let least = if self.expects_long() { self.read_until() } else { self.end + 1 };
        self.buffer.resize(wanted.max(least.min(MAX_BUFFER_BYTES)).max(self.end + 1), 0);
    }

    /// What the end of stream means here.
    fn end_of_stream(&self, peer: &str) -> LinkError {
        let (got, of) = match (&self.long, self.declared()) {
            (Some(long), _) => (long.len - long.missing(), long.len),
            (None, Some(len)) => (self.end - self.start - PREFIX_BYTES, len & !(FILLER as usize)),
            (None, None) if self.start == self.end => {
                return LinkError::closed(format!("{peer} closed the connection"));
            }
            (None, None) => {
                return LinkError::closed(format!(
                    "{peer} closed at offset {} of the stream with {} bytes of a frame's length \
                     missing",
                    self.arrived(),
                    PREFIX_BYTES - (self.end - self.start),
                ));
            }
        };
        LinkError::closed(format!(
            "{peer} closed at offset {} of the stream in the middle of a frame: {} of its {of} \
             bytes are missing",
            self.arrived(),
            of - got,
        ))
    }

    /// Bytes that have arrived since the link began.
    fn arrived(&self) -> u64 {
        self.offset + (self.end - self.start) as u64
    }
}

fn read_failed(peer: &str, error: &io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::ConnectionReset => {
            LinkError::closed(format!("{peer} reset the connection, or its process ended"))
        }
        io::ErrorKind::TimedOut => LinkError::io(format!(
            "{peer} answered nothing before the keepalive timeout: it is gone or unreachable \
             ({error})"
        )),
        _ => LinkError::io(format!("reading from {peer}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::SocketOptions;
    use rdma_rpc_core::link::LinkErrorKind;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    /// Frames of these lengths, received; how many reads brought bytes of the last one.
    async fn reads_for_the_last(lens: &[usize]) -> usize {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours, &SocketOptions::default()).unwrap();
        let mut inbound = Inbound::new(&[], 2 << 20);
        let mut reads = 0;
        for &len in lens {
            let mut bytes = (len as u32).to_le_bytes().to_vec();
            bytes.extend((0..len).map(|at| at as u8));
            let sent = async {
                theirs.write_all(&bytes).await.unwrap();
            };
            let received = async {
                reads = 0;
                loop {
                    match inbound.take().unwrap() {
                        Some(Next::Lent(range)) => {
                            return assert_eq!(inbound.lent(range), &bytes[PREFIX_BYTES..]);
                        }
                        Some(Next::Owned(frame)) => {
                            return assert_eq!(frame, bytes[PREFIX_BYTES..]);
                        }
                        Some(Next::Nothing) | None => {}
                    }
                    match inbound.read(&socket) {
                        Ok(_) => reads += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                            std::future::poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
                        }
                    }
                }
            };
            tokio::join!(sent, received);
        }
        reads
    }

    /// A Unix socket gives what the peer wrote in pieces of up to 32 KiB.
    const MOST_READS: usize = 8 + (1 << 20) / (32 * 1024);

    /// Nothing here lets the runtime look at its sockets.
    #[tokio::test]
    async fn whoever_asks_the_socket_itself_finds_what_the_runtime_has_not_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours, &SocketOptions::default()).unwrap();
        let theirs = Socket::from_unix(theirs, &SocketOptions::default()).unwrap();
        let mut inbound = Inbound::new(&[], 1 << 20);
        let nothing = |inbound: &mut Inbound| {
            matches!(inbound.advance(&socket, "peer").unwrap(), Next::Nothing)
        };
        assert!(nothing(&mut inbound), "the runtime's word is used up");
        for round in 0..3_u8 {
            assert!(inbound.fetch(&socket, "peer") && nothing(&mut inbound));
            theirs.try_write(&[2, 0, 0, 0, round, 7, 1, 0, 0, 0, 9]).unwrap();
            assert!(nothing(&mut inbound), "round {round}: only the runtime would bring it");
            assert!(inbound.fetch(&socket, "peer"));
            for want in [&[round, 7][..], &[9]] {
                // What is there already is not asked for again.
                assert!(inbound.fetch(&socket, "peer"));
                let Next::Lent(range) = inbound.advance(&socket, "peer").unwrap() else {
                    panic!("round {round}: no frame")
                };
                assert_eq!(inbound.lent(range), want);
            }
        }
        // The rest of a long frame is read to where it stays, when the runtime says so.
        theirs.try_write(&[&100_000_u32.to_le_bytes()[..], &[5; 20_000]].concat()).unwrap();
        assert!(inbound.fetch(&socket, "peer") && nothing(&mut inbound));
        assert!(!inbound.fetch(&socket, "peer"));
        // And the end comes that way too.
        let mut inbound = Inbound::new(&[], 1 << 20);
        drop(theirs);
        while inbound.end_cause.is_none() {
            assert!(inbound.fetch(&socket, "peer"));
            inbound.start = inbound.end;
        }
        let error = inbound.advance(&socket, "peer").unwrap_err();
        assert_eq!(error.kind(), LinkErrorKind::Closed);
    }

    #[tokio::test]
    async fn a_filler_is_skipped_however_it_comes_and_a_second_one_is_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours, &SocketOptions::default()).unwrap();
        let theirs = Socket::from_unix(theirs, &SocketOptions::default()).unwrap();
        let filler =
            |len: u32| [&(FILLER | len).to_le_bytes()[..], &vec![7; len as usize]].concat();
        let frame = [2, 0, 0, 0, 5, 6];
        let longest = (FILLER_BYTES - PREFIX_BYTES) as u32;
        let bytes = [filler(longest), frame.to_vec(), filler(0), frame.to_vec()].concat();
        for piece in [1, 3, 50, 128, 131, bytes.len()] {
            let (mut inbound, mut got) = (Inbound::new(&[], 4096), 0);
            for part in bytes.chunks(piece) {
                theirs.try_write(part).unwrap();
                inbound.fetch(&socket, "peer");
                while let Next::Lent(range) = inbound.advance(&socket, "peer").unwrap() {
                    assert_eq!(inbound.lent(range), [5, 6]);
                    got += 1;
                }
                assert!(!inbound.has_frame(), "in pieces of {piece}: it would be asked for ever");
            }
            assert_eq!((got, inbound.offset), (2, bytes.len() as u64), "in pieces of {piece}");
        }
        for (bytes, said) in [
            ([filler(3), filler(3)].concat(), "a filler of 3 bytes behind another at offset 7"),
            (filler(longest + 1), "a frame of 2147483773 bytes at offset 0"),
        ] {
            let mut inbound = Inbound::new(&bytes, 4096);
            assert!(inbound.has_frame());
            let errors: Vec<_> = (0..3)
                .filter_map(|_| inbound.advance(&socket, "peer").err())
                .map(|error| error.to_string())
                .collect();
            assert!(
                errors.len() >= 2 && errors.iter().all(|text| text.contains(said)),
                "{errors:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_long_frame_takes_few_reads_whatever_came_before_it() {
        for before in [&[][..], &[100], &[9_000], &[20_000], &[60_000; 3], &[1 << 20; 2]] {
            let lens = [before, &[1 << 20]].concat();
            let reads = reads_for_the_last(&lens).await;
            assert!(reads <= MOST_READS, "{reads} reads after {before:?}");
        }
    }
}
