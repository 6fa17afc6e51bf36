//! Two sessions joined by hand: no runtime, no clock but the test's.

mod bare;
mod connection;
mod flow;
mod lying;
mod model;
mod scripted;
mod streams;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::stream::State;
use super::*;
use crate::link::{BulkDescriptor, FrameSink, LinkError};
use crate::metadata::MetadataMap;
use crate::parts::Parts;
use crate::wire::Kind;

/// Frames leave into a queue as far as the test gives room.
#[derive(Debug)]
pub(super) struct TestSink {
    limits: LinkLimits,
    /// Bytes of frames that still fit.
    room_bytes: usize,
    out: VecDeque<Vec<u8>>,
    staging: Vec<u8>,
    bulk: Vec<u8>,
    bulks: HashMap<u64, Vec<u8>>,
    next_bulk: u64,
    max_bulks: usize,
    /// Up to so many calls, the link prefers frames to bulk.
    few_calls: usize,
}

impl TestSink {
    fn new(limits: LinkLimits) -> TestSink {
        TestSink {
            limits,
            room_bytes: usize::MAX,
            out: VecDeque::new(),
            staging: Vec::new(),
            bulk: Vec::new(),
            bulks: HashMap::new(),
            next_bulk: 0,
            max_bulks: usize::MAX,
            few_calls: 0,
        }
    }
}

impl FrameSink for TestSink {
    fn limits(&self) -> LinkLimits {
        self.limits
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        assert!(len <= self.limits.max_frame_bytes, "a frame of {len} bytes");
        if len > self.room_bytes {
            return Ok(None);
        }
        // What was there before is not zero: whoever reserves fills all of it.
        self.staging.clear();
        self.staging.resize(len, 0xa5);
        Ok(Some(&mut self.staging))
    }

    fn commit(&mut self) {
        if self.room_bytes != usize::MAX {
            self.room_bytes -= self.staging.len();
        }
        self.out.push_back(std::mem::take(&mut self.staging));
    }

    fn prefers_frame(&self, _len: usize, calls: usize) -> bool {
        calls <= self.few_calls
    }

    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        assert!(self.limits.bulk_threshold_bytes.is_some() && len <= self.limits.max_bulk_bytes);
        if self.bulks.len() >= self.max_bulks {
            return Ok(None);
        }
        self.bulk.clear();
        self.bulk.resize(len, 0xa5);
        Ok(Some(&mut self.bulk))
    }

    fn bulk_commit(&mut self) -> BulkDescriptor {
        self.next_bulk += 1;
        self.bulks.insert(self.next_bulk, std::mem::take(&mut self.bulk));
        BulkDescriptor::new(&self.next_bulk.to_le_bytes()).unwrap()
    }

    fn bulk_lend(&mut self, body: &Bytes) -> Result<Option<BulkDescriptor>, LinkError> {
        if self.bulks.len() >= self.max_bulks {
            return Ok(None);
        }
        self.bulk = body.to_vec();
        Ok(Some(self.bulk_commit()))
    }

    fn bulk_release(&mut self, descriptor: &BulkDescriptor) -> Result<(), LinkError> {
        let number = u64::from_le_bytes(descriptor.as_bytes().try_into().unwrap());
        self.bulks.remove(&number).expect("released twice, or never reserved");
        Ok(())
    }

    fn bulk_pull(&mut self, _: u64, _: &BulkDescriptor, _: usize) -> Result<bool, LinkError> {
        unreachable!("sessions do not pull")
    }
}

/// An event that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Bound(u16, String),
    Request {
        stream: StreamId,
        method: u16,
        deadline: Option<Instant>,
        metadata: Vec<u8>,
        message: Option<Vec<u8>>,
        end: bool,
    },
    Message {
        stream: StreamId,
        message: Option<Vec<u8>>,
        position: u64,
        end: bool,
    },
    Headers(StreamId, Vec<u8>),
    Response {
        stream: StreamId,
        metadata: Vec<u8>,
        trailers: Vec<u8>,
        message: Vec<u8>,
    },
    Finished {
        stream: StreamId,
        code: u16,
        text: String,
        refused: bool,
    },
    Refused(StreamId, Refusal),
    Cancelled(StreamId, u16),
    /// Put there by a test that looked after deadlines.
    Expired(StreamId),
    GoAway {
        unseen: Vec<StreamId>,
        code: u16,
        reason: String,
    },
}

/// A bulk message that was described and not pulled yet.
#[derive(Debug)]
pub(super) struct Waiting {
    stream: StreamId,
    descriptor: BulkDescriptor,
    /// What came before and after what is to be pulled.
    ends: [Vec<u8>; 2],
    len: usize,
    position: u64,
    end: bool,
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    session: Session,
    sink: TestSink,
    seen: Vec<Seen>,
    waiting: VecDeque<Waiting>,
    /// Every message counts as read when it arrives.
    reads: bool,
    /// Frames are given away rather than lent.
    owned: bool,
    /// Frames that the short way took.
    bare_frames: u32,
}

impl End {
    fn new(role: Role, config: SessionConfig, limits: LinkLimits, now: Instant) -> End {
        End {
            session: Session::new(role, config, limits, now),
            sink: TestSink::new(limits),
            seen: Vec::new(),
            waiting: VecDeque::new(),
            reads: true,
            owned: false,
            bare_frames: 0,
        }
    }

    fn transmit(&mut self) {
        self.session.transmit(&mut self.sink).unwrap();
    }

    fn receive(&mut self, now: Instant, frame: &[u8]) -> Result<(), SessionError> {
        let bytes = Bytes::copy_from_slice(frame);
        let owner = self.owned.then_some(&bytes);
        let mut short_way = self.session.clone();
        let bare = bare::take(&mut short_way, now, frame);
        if bare.is_none() {
            assert_eq!(short_way, self.session, "left to handle_frame, but not untouched");
        }
        let event = self.session.handle_frame(now, FrameRef { bytes: &bytes, owner })?;
        if let Some(bare) = bare {
            self.bare_frames += 1;
            assert_eq!(bare, bare::of(&event), "the short way is another way");
            assert_eq!(short_way, self.session, "the short way leads elsewhere");
        }
        let seen = match event {
            Event::None => return Ok(()),
            Event::Bound { method, path } => Seen::Bound(method, path.to_owned()),
            Event::Request { stream, method, deadline, metadata, message, end } => {
                let metadata = metadata.to_vec();
                let (message, position) = kept(message);
                if self.reads {
                    self.session.consumed(stream, position);
                }
                Seen::Request { stream, method, deadline, metadata, message, end }
            }
            Event::Message { stream, message, end } => {
                let (message, position) = kept(message);
                if self.reads {
                    self.session.consumed(stream, position);
                }
                Seen::Message { stream, message, position, end }
            }
            Event::Messages { stream, mut messages, end } => {
                if self.reads {
                    self.session.consumed(stream, messages.end());
                }
                loop {
                    let (message, position) = messages.first().unwrap();
                    let message = Some(message.to_vec());
                    let more = messages.pop();
                    let end = end && !more;
                    self.seen.push(Seen::Message { stream, message, position, end });
                    if !more {
                        return Ok(());
                    }
                }
            }
            Event::Bulk { stream, descriptor, head, len, tail, position, end } => {
                let ends = [head, tail].map(<[u8]>::to_vec);
                self.waiting.push_back(Waiting { stream, descriptor, ends, len, position, end });
                // Its place in the order; the bytes come when it is pulled.
                Seen::Message { stream, message: None, position, end }
            }
            Event::BulkReleased { descriptor } => {
                self.sink.bulk_release(&descriptor).unwrap();
                return Ok(());
            }
            Event::Headers { stream, metadata } => Seen::Headers(stream, metadata.to_vec()),
            Event::Response { stream, metadata, trailers, message } => Seen::Response {
                stream,
                metadata: metadata.to_vec(),
                trailers: trailers.to_vec(),
                message: message.as_slice().to_vec(),
            },
            Event::Finished { stream, finish } => Seen::Finished {
                stream,
                code: finish.code,
                text: finish.message.to_owned(),
                refused: finish.refused,
            },
            Event::Refused { stream, why } => Seen::Refused(stream, why),
            Event::Cancelled { stream, code } => Seen::Cancelled(stream, code),
            Event::GoAway { unseen, code, reason } => {
                Seen::GoAway { unseen, code, reason: reason.to_owned() }
            }
        };
        self.seen.push(seen);
        Ok(())
    }

    fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// The kinds of the frames that wait to be delivered.
    fn kinds(&self) -> Vec<Kind> {
        self.sink.out.iter().map(|frame| Kind::from_byte(frame[0]).unwrap()).collect()
    }

    fn assert_idle(&self) {
        assert_eq!((self.session.open_streams(), self.session.is_sending()), (0, false));
        assert_eq!(self.session.buffered_bytes(), 0);
        assert_eq!(self.session.deadlines.earliest(), None);
        assert!(!self.session.wants_room());
        assert!(self.sink.bulks.is_empty(), "{} bulk buffers", self.sink.bulks.len());
        assert_eq!((self.session.bulks_out, self.session.bulks_owed), (0, 0));
        assert!(self.session.streams.iter().all(|stream| stream.state == State::Idle));
    }
}

fn kept(message: Option<Message<'_>>) -> (Option<Vec<u8>>, u64) {
    let position = message.as_ref().map_or(0, |message| message.position);
    (message.map(|message| message.payload.as_slice().to_vec()), position)
}

/// Both ends and the time.
#[derive(Debug)]
pub(super) struct Pair {
    client: End,
    server: End,
    now: Instant,
    empty: MetadataMap,
}

pub(super) const SMALL_FRAMES: LinkLimits = LinkLimits { max_frame_bytes: 4096, ..ROOMY };

pub(super) const BULK: LinkLimits =
    LinkLimits { bulk_threshold_bytes: Some(2000), max_bulk_bytes: 1 << 20, ..SMALL_FRAMES };

/// Half of the long messages have a part long enough to be lent.
pub(super) const LENDING: LinkLimits = LinkLimits { lend_threshold_bytes: Some(3000), ..BULK };

pub(super) const ROOMY: LinkLimits = LinkLimits {
    max_frame_bytes: 64 * 1024,
    bulk_threshold_bytes: None,
    max_bulk_bytes: 0,
    lend_threshold_bytes: None,
};

/// What a test asks of a call it opens.
#[derive(Clone)]
pub(super) struct Ask {
    path: &'static str,
    message: Option<Bytes>,
    end: bool,
    timeout: Option<Duration>,
    max_message_bytes: usize,
}

/// A unary call with a message of this many bytes.
pub(super) fn unary(len: usize) -> Ask {
    Ask { message: Some(body(len)), end: true, ..streaming() }
}

/// A call that streams its messages.
pub(super) fn streaming() -> Ask {
    Ask { path: "/a.B/C", message: None, end: false, timeout: None, max_message_bytes: 4 << 20 }
}

/// The same message with its ends by themselves.
pub(super) fn apart(message: &Bytes) -> Parts {
    let len = message.len();
    let (head, tail) = (len.min(3), len.max(5) - 2);
    Parts {
        head: message.slice(..head),
        body: message.slice(head..tail.min(len)),
        tail: message.slice(tail.min(len)..),
    }
}

/// Bytes that differ from place to place.
pub(super) fn body(len: usize) -> Bytes {
    (0..len).map(|at| (at * 7 + at / 251 + len) as u8).collect()
}

impl Pair {
    fn new(limits: LinkLimits) -> Pair {
        Pair::with(limits, SessionConfig::default(), SessionConfig::default())
    }

    fn with(limits: LinkLimits, client: SessionConfig, server: SessionConfig) -> Pair {
        let now = Instant::now();
        Pair {
            client: End::new(Role::Client, client, limits, now),
            server: End::new(Role::Server, server, limits, now),
            now,
            empty: MetadataMap::new(),
        }
    }

    /// A pair that has exchanged SETTINGS.
    fn settled(limits: LinkLimits) -> Pair {
        let mut pair = Pair::new(limits);
        pair.run();
        pair
    }

    fn try_open(&mut self, ask: &Ask) -> Opened {
        let message = ask.message.as_ref().map(apart);
        let request = NewStream {
            path: ask.path,
            metadata: &self.empty,
            timeout: ask.timeout.map(|timeout| (timeout, self.now + timeout)),
            message: message.as_ref().map(|message| message as &dyn Encode),
            end: ask.end,
            max_message_bytes: ask.max_message_bytes,
        };
        self.client.session.open(&mut self.client.sink, &request).unwrap()
    }

    fn open(&mut self, ask: &Ask) -> StreamId {
        match self.try_open(ask) {
            Opened::Stream(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn client_sends(&mut self, id: StreamId, len: usize, end: bool) -> Sending {
        self.client
            .session
            .send_message(&mut self.client.sink, id, &apart(&body(len)), end)
            .unwrap()
    }

    fn server_sends(&mut self, id: StreamId, len: usize) -> Sending {
        self.server
            .session
            .send_message(&mut self.server.sink, id, &apart(&body(len)), false)
            .unwrap()
    }

    fn respond(&mut self, id: StreamId, len: usize) {
        let (session, sink) = (&mut self.server.session, &mut self.server.sink);
        session.respond(sink, id, &self.empty, &self.empty, &apart(&body(len))).unwrap();
    }

    fn finish(&mut self, id: StreamId, code: u16) {
        let (session, sink) = (&mut self.server.session, &mut self.server.sink);
        session.finish(sink, id, code, "done", &self.empty, &[]).unwrap();
    }

    /// Delivers one frame to the server; whether there was one.
    fn step_server(&mut self) -> bool {
        let Some(frame) = self.client.sink.out.pop_front() else { return false };
        self.server.receive(self.now, &frame).unwrap();
        true
    }

    /// Delivers one frame to the client; whether there was one.
    fn step_client(&mut self) -> bool {
        let Some(frame) = self.server.sink.out.pop_front() else { return false };
        self.client.receive(self.now, &frame).unwrap();
        true
    }

    /// Pulls one bulk message each way; whether there was any.
    fn pull(&mut self) -> bool {
        let one = pull_one(&mut self.client, &self.server.sink);
        let other = pull_one(&mut self.server, &self.client.sink);
        one || other
    }

    /// Everything that can happen without more room or time happens.
    fn run(&mut self) {
        loop {
            self.client.transmit();
            self.server.transmit();
            let mut moved = false;
            while self.step_server() {
                moved = true;
            }
            while self.step_client() {
                moved = true;
            }
            if !(moved | self.pull()) {
                return;
            }
        }
    }

    /// The streams of the requests the server saw.
    fn requests(&mut self) -> Vec<StreamId> {
        let seen = self.server.take();
        seen.iter()
            .filter_map(|seen| match seen {
                Seen::Request { stream, .. } => Some(*stream),
                _ => None,
            })
            .collect()
    }

    fn assert_idle(&self) {
        self.client.assert_idle();
        self.server.assert_idle();
        let client = &self.client.session;
        let slots = client.streams.len().min(client.peer_max_streams as usize);
        assert_eq!(client.free.len(), slots);
    }
}

fn pull_one(reader: &mut End, sender: &TestSink) -> bool {
    let Some(waiting) = reader.waiting.pop_front() else { return false };
    let Waiting { stream, descriptor, ends: [head, tail], len, position, end } = waiting;
    let number = u64::from_le_bytes(descriptor.as_bytes().try_into().unwrap());
    let message = sender.bulks.get(&number).expect("pulled after it was released").clone();
    assert_eq!(message.len(), len);
    let message = [head, message, tail].concat();
    reader.session.bulk_done(&descriptor);
    if reader.reads {
        reader.session.consumed(stream, position);
    }
    let whole = Seen::Message { stream, message: Some(message), position, end };
    let place = Seen::Message { stream, message: None, position, end };
    match reader.seen.iter_mut().find(|seen| **seen == place) {
        Some(seen) => *seen = whole,
        None => reader.seen.push(whole),
    }
    true
}
