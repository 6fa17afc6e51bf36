//! The messages on the Unix socket between two queue pairs, and the file descriptors they carry.
//!
//! The socket is `SOCK_SEQPACKET`: one `sendmsg` is one `recvmsg`, so there are no partial
//! messages. After the hello it carries only what was found at the peer's mark (if it told where
//! that is, and it can be read) and offers and withdrawals of regions, far from the data path; its
//! closing is how a dead peer is noticed.
//!
//! ```text
//!   HELLO   1 | "rdmashm" 7 | version u16 | token 16 | receive_depth u32 | max_regions u32
//!             | max_bytes u64 | mark u64                             + control memfd, eventfd
//!   OFFER   2 | rkey u32 | access u8 (1 read, 2 write, 3 view)
//!             | len u64                                              + memfd
//!   REVOKE  3 | rkey u32
//!   SEEN    4 | mark 16
//! ```
//!
//! All numbers are little-endian. Anything else is garbage, which ends the queue pair: a message
//! of another length, with another number of descriptors, or cut short by the kernel. Every
//! descriptor that arrived is owned from the first moment, so garbage leaks none; the control
//! buffer has room for two, so the kernel installs no more however many are sent.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::cross_read::MARK_BYTES;
use crate::verbs::Access;

/// Version of the socket messages and of the control block's layout.
pub(super) const VERSION: u16 = 1;
/// Length of the secret that proves a connection is the one the bootstrap spoke of.
pub(super) const TOKEN_BYTES: usize = 16;

const MAGIC: &[u8; 7] = b"rdmashm";
const HELLO: u8 = 1;
const OFFER: u8 = 2;
const REVOKE: u8 = 3;
const SEEN: u8 = 4;
const HELLO_BYTES: usize = 50;
const OFFER_BYTES: usize = 14;
const REVOKE_BYTES: usize = 5;
const SEEN_BYTES: usize = 1 + MARK_BYTES;
const MAX_FDS: usize = 2;

/// What a side says about itself at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// The secret from the bootstrap.
    pub(super) token: [u8; TOKEN_BYTES],
    /// Entries of the completion ring in the sender's control block.
    pub(super) receive_depth: u32,
    /// Regions of the receiver that the sender will map at once.
    pub(super) max_regions: u32,
    /// Bytes of the receiver that the sender will map at once.
    pub(super) max_bytes: u64,
    /// Where the sender's mark is in its memory; 0: its memory is not to be read.
    pub(super) mark_at: u64,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The first message of each side.
    Hello(Hello),
    /// A region the receiver may access.
    Offer { rkey: u32, access: Access, len: u64 },
    /// A region the receiver may access no more.
    Revoke { rkey: u32 },
    /// What the sender found in the receiver's memory where its mark should be.
    Seen { mark: [u8; MARK_BYTES] },
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        match self {
            Message::Hello(hello) => {
                bytes.push(HELLO);
                bytes.extend_from_slice(MAGIC);
                bytes.extend_from_slice(&VERSION.to_le_bytes());
                bytes.extend_from_slice(&hello.token);
                bytes.extend_from_slice(&hello.receive_depth.to_le_bytes());
                bytes.extend_from_slice(&hello.max_regions.to_le_bytes());
                bytes.extend_from_slice(&hello.max_bytes.to_le_bytes());
                bytes.extend_from_slice(&hello.mark_at.to_le_bytes());
            }
            Message::Offer { rkey, access, len } => {
                bytes.push(OFFER);
                bytes.extend_from_slice(&rkey.to_le_bytes());
                bytes.push(access_code(*access));
                bytes.extend_from_slice(&len.to_le_bytes());
            }
            Message::Revoke { rkey } => {
                bytes.push(REVOKE);
                bytes.extend_from_slice(&rkey.to_le_bytes());
            }
            Message::Seen { mark } => {
                bytes.push(SEEN);
                bytes.extend_from_slice(mark);
            }
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Message, String> {
        let expected = match bytes.first() {
            Some(&HELLO) => HELLO_BYTES,
            Some(&OFFER) => OFFER_BYTES,
            Some(&REVOKE) => REVOKE_BYTES,
            Some(&SEEN) => SEEN_BYTES,
            other => return Err(format!("socket message of kind {other:?} at byte 0")),
        };
        if bytes.len() != expected {
            let (kind, found) = (bytes[0], bytes.len());
            return Err(format!("socket message of kind {kind} has {found} bytes, not {expected}"));
        }
        match bytes[0] {
            HELLO => Message::parse_hello(bytes),
            OFFER => {
                let access = match bytes[5] {
                    1 => Access::RemoteRead,
                    2 => Access::RemoteWrite,
                    3 => Access::Viewed,
                    other => return Err(format!("offer with access {other} at byte 5")),
                };
                let len = u64::from_le_bytes(field(bytes, 6));
                Ok(Message::Offer { rkey: u32::from_le_bytes(field(bytes, 1)), access, len })
            }
            SEEN => Ok(Message::Seen { mark: field(bytes, 1) }),
            _ => Ok(Message::Revoke { rkey: u32::from_le_bytes(field(bytes, 1)) }),
        }
    }

    fn parse_hello(bytes: &[u8]) -> Result<Message, String> {
        if bytes[1..8] != *MAGIC {
            return Err(format!("hello with magic {:02x?} at byte 1", &bytes[1..8]));
        }
        let version = u16::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(format!(
                "hello of version {version} at byte 8; this side speaks {VERSION}"
            ));
        }
        Ok(Message::Hello(Hello {
            token: field(bytes, 10),
            receive_depth: u32::from_le_bytes(field(bytes, 26)),
            max_regions: u32::from_le_bytes(field(bytes, 30)),
            max_bytes: u64::from_le_bytes(field(bytes, 34)),
            mark_at: u64::from_le_bytes(field(bytes, 42)),
        }))
    }

    /// Descriptors that must come with it.
    fn fds(&self) -> usize {
        match self {
            Message::Hello(_) => 2,
            Message::Offer { .. } => 1,
            Message::Revoke { .. } | Message::Seen { .. } => 0,
        }
    }
}

/// How an offer says what the peer may do.
fn access_code(access: Access) -> u8 {
    match access {
        Access::RemoteRead => 1,
        Access::RemoteWrite => 2,
        Access::Viewed => 3,
        Access::Local | Access::ReadTarget => unreachable!("local memory is not offered"),
    }
}

/// `N` bytes at `offset`; the caller has checked the length.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

/// What a look at the socket brought.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message with exactly the descriptors it must have.
    Message(Message, Vec<OwnedFd>),
    /// Nothing now.
    Empty,
    /// The peer has closed its end, or its process is gone.
    Closed,
    /// Something nobody sends.
    Garbage(String),
    /// The call failed.
    Failed(Errno),
}

/// What became of a message to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It can be received now.
    Yes,
    /// The socket is full: try again later.
    Full,
    /// The peer is gone.
    Closed,
    /// The call failed.
    Failed(Errno),
}

/// Receives one message, without waiting.
pub(super) fn receive(socket: impl AsFd) -> Incoming {
    // One byte more than the longest message, so that a longer one shows.
    let mut bytes = [0_u8; HELLO_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut buffers, &mut control, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Incoming::Empty,
            Err(Errno::CONNRESET | Errno::NOTCONN) => return Incoming::Closed,
            Err(errno) => return Incoming::Failed(errno),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // Either more descriptors than any message has, or this process has no room for them.
        let (got, limit) = (fds.len(), "RLIMIT_NOFILE (ulimit -n)");
        return Incoming::Garbage(format!(
            "descriptors were cut off after {got}: the peer sent more than {MAX_FDS}, or {limit} \
             of this process is used up"
        ));
    }
    if received.bytes == 0 {
        return Incoming::Closed;
    }
    if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > HELLO_BYTES {
        return Incoming::Garbage(format!("socket message of more than {HELLO_BYTES} bytes"));
    }
    match Message::parse(&bytes[..received.bytes]) {
        Err(what) => Incoming::Garbage(what),
        Ok(message) if message.fds() != fds.len() => Incoming::Garbage(format!(
            "{message:?} came with {} descriptors, not {}",
            fds.len(),
            message.fds()
        )),
        Ok(message) => Incoming::Message(message, fds),
    }
}

/// Sends one message with its descriptors, without waiting.
pub(super) fn send(socket: impl AsFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Sent {
    debug_assert_eq!(message.fds(), fds.len());
    send_bytes(socket, &message.encode(), fds)
}

fn send_bytes(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Sent {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "no message carries more than {MAX_FDS} descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Sent::Yes,
            Err(Errno::INTR) => {}
            // TOOMANYREFS: more descriptors of this user are in flight than RLIMIT_NOFILE allows;
            // they become fewer as peers receive.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => {
                return Sent::Full;
            }
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Sent::Closed,
            Err(errno) => return Sent::Failed(errno),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::protocol_text::vector;
    use crate::shm::notify::new_event;

    pub(in crate::shm) fn socket_pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap()
    }

    fn hello() -> Message {
        Message::Hello(Hello {
            token: [7; TOKEN_BYTES],
            receive_depth: 0x0102_0304,
            max_regions: 5,
            max_bytes: 6,
            mark_at: 7,
        })
    }

    fn messages() -> [Message; 5] {
        [
            hello(),
            Message::Offer { rkey: 0x1234_5678, access: Access::RemoteRead, len: 1 << 40 },
            Message::Offer { rkey: 1, access: Access::RemoteWrite, len: 1 },
            Message::Revoke { rkey: u32::MAX },
            Message::Seen { mark: [9; MARK_BYTES] },
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for message in messages() {
            assert_eq!(Message::parse(&message.encode()), Ok(message));
        }
        let mark = std::array::from_fn(|i| i as u8);
        assert_eq!(Message::Seen { mark }.encode(), vector("shm/seen"));
        let hello = Message::Hello(Hello {
            token: [7; TOKEN_BYTES],
            receive_depth: 1024,
            max_regions: 5,
            max_bytes: 6,
            mark_at: 0x7fff_f7ff_f000,
        });
        assert_eq!(hello.encode(), vector("shm/hello"));
        let revoke = Message::Revoke { rkey: 0x0403_0201 };
        assert_eq!(revoke.encode(), [3, 1, 2, 3, 4]);
    }

    #[test]
    fn every_truncation_extension_and_changed_kind_is_refused() {
        for message in messages() {
            let bytes = message.encode();
            for len in 0..bytes.len() {
                assert!(Message::parse(&bytes[..len]).is_err());
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Message::parse(&longer).is_err());
            let mut changed = bytes.clone();
            changed[0] = 9;
            assert!(Message::parse(&changed).unwrap_err().contains("kind"));
        }
        let mut other_version = hello().encode();
        other_version[8] = 2;
        assert!(Message::parse(&other_version).unwrap_err().contains("version 2"));
        let mut other_magic = hello().encode();
        other_magic[1] = b'x';
        assert!(Message::parse(&other_magic).unwrap_err().contains("magic"));
    }

    #[test]
    fn descriptors_travel_and_close_on_exec() {
        let (a, b) = socket_pair();
        let (first, second) = (new_event().unwrap(), new_event().unwrap());
        assert_eq!(send(&a, &hello(), &[first.as_fd(), second.as_fd()]), Sent::Yes);
        let Incoming::Message(message, fds) = receive(&b) else { panic!("a message") };
        assert_eq!((message, fds.len()), (hello(), 2));
        for fd in &fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert!(matches!(receive(&b), Incoming::Empty));
        drop(a);
        assert!(matches!(receive(&b), Incoming::Closed));
    }

    #[test]
    fn too_few_descriptors_and_descriptors_where_none_belong_are_garbage() {
        let (a, b) = socket_pair();
        let event = new_event().unwrap();
        assert_eq!(send_bytes(&a, &hello().encode(), &[event.as_fd()]), Sent::Yes);
        assert!(matches!(receive(&b), Incoming::Garbage(_)));
        let revoke = Message::Revoke { rkey: 1 }.encode();
        assert_eq!(send_bytes(&a, &revoke, &[event.as_fd()]), Sent::Yes);
        assert!(matches!(receive(&b), Incoming::Garbage(_)));
        assert_eq!(send_bytes(&a, &[1; 200], &[]), Sent::Yes);
        assert!(matches!(receive(&b), Incoming::Garbage(_)));
    }

    #[test]
    fn a_full_socket_is_no_error_and_a_closed_one_is_told_apart() {
        let (a, b) = socket_pair();
        let revoke = Message::Revoke { rkey: 1 };
        let sent = (0..100_000).take_while(|_| send(&a, &revoke, &[]) == Sent::Yes).count();
        assert!(sent > 0);
        assert_eq!(send(&a, &revoke, &[]), Sent::Full);
        drop(b);
        assert_eq!(send(&a, &revoke, &[]), Sent::Closed);
    }
}
