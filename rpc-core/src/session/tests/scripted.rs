//! A peer that breaks one rule at a time: the error names the byte, and nothing else happens.

use super::*;
use crate::wire::{Header, MAX_UNANSWERED_BULKS, flag};

/// One end with a peer the test plays.
struct Victim {
    end: End,
    now: Instant,
}

fn settings(entries: &[(u16, u64)]) -> Vec<u8> {
    let mut bytes = Header::new(Kind::Settings, 0).to_bytes().to_vec();
    for (id, value) in entries {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn whole(header: Header, body: &[u8]) -> Vec<u8> {
    [&header.to_bytes(), body].concat()
}

fn short(kind: Kind, stream: u32) -> Vec<u8> {
    whole(Header::new(kind, stream), &[])
}

fn message(stream: u32, flags: u8, total: u32, body: &[u8]) -> Vec<u8> {
    let header = Header::new(Kind::Message, stream).flags(flag::MESSAGE | flags);
    whole(header.numbers(0, total), body)
}

fn bulk(stream: u32, len: u32) -> Vec<u8> {
    whole(Header::new(Kind::Bulk, stream).flags(flag::MESSAGE).code(8).numbers(0, len), &[1; 8])
}

impl Victim {
    fn new(role: Role) -> Victim {
        let now = Instant::now();
        Victim { end: End::new(role, SessionConfig::default(), BULK, now), now }
    }

    /// A server with method 0 bound and streams 1 (open) and 2 (the client has sent all).
    fn server() -> Victim {
        let mut victim = Victim::new(Role::Server);
        victim.end.reads = false;
        victim.takes(&settings(&[(2, 65_536)]));
        victim.takes(&whole(Header::new(Kind::Method, 0), b"/a/b"));
        victim.takes(&short(Kind::Request, 1));
        victim.takes(&whole(Header::new(Kind::Request, 2).flags(flag::END), &[]));
        victim.end.take();
        victim
    }

    /// A client with stream 1 open and stream 2 open but not sent.
    fn client() -> Victim {
        let mut victim = Victim::new(Role::Client);
        victim.end.reads = false;
        victim.takes(&settings(&[(1, 100), (2, 65_536)]));
        for room_bytes in [usize::MAX, 0] {
            victim.end.sink.room_bytes = room_bytes;
            let request = NewStream {
                path: "/a/b",
                metadata: &MetadataMap::new(),
                timeout: None,
                message: None,
                end: false,
                max_message_bytes: 100_000,
            };
            victim.end.session.open(&mut victim.end.sink, &request).unwrap();
        }
        victim
    }

    fn takes(&mut self, frame: &[u8]) {
        self.end.receive(self.now, frame).unwrap();
    }

    /// The error of a frame: its offset and its text.
    fn refuses(mut self, frame: &[u8], offset: usize, says: &str) {
        self.end.take();
        let before = self.end.session.frames_received;
        let error = self.end.receive(self.now, frame).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says), "{text}");
        let SessionError::Protocol { error, frame: number, kind, .. } = error else { panic!() };
        assert_eq!((error.offset, number), (offset, before), "{text}");
        assert_eq!(kind, if frame.len() < 16 { 0 } else { frame[0] });
        assert!(text.contains(&format!("byte {offset} of the frame")), "{text}");
        assert_eq!(self.end.take(), []);
    }
}

#[test]
fn frames_that_are_wrong_for_anybody() {
    for make in [Victim::server, Victim::client] {
        for len in 0..16 {
            make().refuses(&[1; 16][..len], len, "inside its header");
        }
        let mut unknown = [0; 16];
        unknown[0] = 0x7f;
        make().refuses(&unknown, 0, "unknown kind");
        unknown[0] = 0xff;
        make().takes(&unknown);
        make().refuses(&settings(&[]), 0, "SETTINGS came twice");
        for stream in [0, 16_385, u32::MAX] {
            make().refuses(&message(stream, 0, 1, b"a"), 4, "no such stream");
            make().refuses(&short(Kind::Window, stream), 4, "no such stream");
            make().refuses(&short(Kind::Reset, stream), 4, "no such stream");
            make().refuses(&bulk(stream, 3000), 4, "no such stream");
        }
        make().refuses(&whole(Header::new(Kind::Reset, 1), b"ab\xff"), 18, "UTF-8");
        make().refuses(&whole(Header::new(Kind::GoAway, 0), b"\xc3"), 16, "UTF-8");
        make().refuses(&whole(Header::new(Kind::Bulk, 1).code(33), &[0; 33]), 16, "too long");
        make().refuses(&whole(Header::new(Kind::Bulk, 1).code(9), &[0; 8]), 24, "its descriptor");
        let head = Header::new(Kind::Bulk, 1).code(8);
        make().refuses(&whole(head.numbers(5, 100), &[0; 12]), 28, "the first bytes");
        make().refuses(&whole(head.numbers(2, 3), &[0; 12]), 12, "more than the message's length");
        make().refuses(&whole(Header::new(Kind::BulkDone, 0), &[0; 33]), 16, "too long");
        make().refuses(&whole(Header::new(Kind::BulkDone, 0), &[0; 8]), 0, "without a BULK");
        make().refuses(&whole(Header::new(Kind::Message, 1), b"x"), 16, "after the end of the");
    }
    for role in [Role::Client, Role::Server] {
        Victim::new(role).refuses(&short(Kind::Ping, 0), 0, "first frame is not SETTINGS");
        let mut odd = settings(&[(2, 65_536)]);
        odd.push(0);
        Victim::new(role).refuses(&odd, 26, "inside an entry");
        let small = settings(&[(9, 1), (2, 65_535)]);
        Victim::new(role).refuses(&small, 26, "below 64 KiB");
        // What is not known yet is skipped.
        Victim::new(role).takes(&settings(&[(9, 1), (700, u64::MAX), (2, u64::MAX)]));
    }
    Victim::new(Role::Client).refuses(&settings(&[(1, 0)]), 16, "no streams");
}

#[test]
fn pings_without_end() {
    for make in [Victim::server, Victim::client] {
        let mut victim = make();
        victim.end.sink.room_bytes = 0;
        for _ in 0..16 {
            victim.takes(&short(Kind::Ping, 0));
        }
        victim.refuses(&short(Kind::Ping, 0), 0, "faster than pongs");
    }
}

#[test]
fn bulks_without_end() {
    let mut victim = Victim::server();
    victim.end.sink.room_bytes = 0;
    for _ in 0..MAX_UNANSWERED_BULKS {
        // Nobody wants them: the stream is not open.
        victim.takes(&bulk(7, 3000));
    }
    victim.refuses(&bulk(7, 3000), 0, "unanswered");
}

#[test]
fn a_client_that_does_not_read_cannot_make_a_server_queue_without_end() {
    let mut victim = Victim::server();
    victim.end.sink.room_bytes = 0;
    for _ in 0..2 {
        let mut queued = 0;
        for stream in 1..=128 {
            let frame = short(Kind::Request, stream);
            if stream > 2 && victim.end.session.control.len() < 140 {
                let _ = victim.end.receive(victim.now, &frame);
            }
            let _ = victim.end.receive(victim.now, &short(Kind::Reset, stream));
            queued = victim.end.session.control.len();
        }
        assert!(queued <= 130, "{queued}");
    }
    victim.refuses(&short(Kind::Request, 1), 4, "open already");
}

#[test]
fn requests_that_are_wrong() {
    let request = |flags: u8, code: u16, a: u32, b: u32, body: &[u8]| {
        whole(Header::new(Kind::Request, 3).flags(flags).code(code).numbers(a, b), body)
    };
    let server = Victim::server;
    server().refuses(&request(0, 1, 0, 0, &[]), 2, "not bound");
    server().refuses(&request(flag::TIMEOUT, 0, 0, 0, &[0; 7]), 16, "inside its timeout");
    server().refuses(&request(0, 0, 5, 0, &[0; 4]), 20, "inside its metadata");
    server().refuses(&request(flag::TIMEOUT, 0, 5, 0, &[0; 12]), 28, "inside its metadata");
    server().refuses(&request(0, 0, u32::MAX, 0, &[0; 4]), 20, "inside its metadata");
    server().refuses(&request(0, 0, 2, 0, &[0; 4]), 18, "bytes after the end");
    server().refuses(&request(flag::MESSAGE, 0, 0, 5, &[0; 4]), 12, "length");
    server().refuses(&request(flag::MESSAGE, 0, 0, 3, &[0; 4]), 12, "length");
    let more = flag::MESSAGE | flag::MORE;
    server().refuses(&request(more, 0, 0, 4, &[0; 4]), 12, "add up");
    server().refuses(&request(more | flag::END, 0, 0, 9, &[0; 4]), 1, "inside a message");
    server().refuses(&short(Kind::Request, 1), 4, "open already");
    server().refuses(&short(Kind::Request, 0), 4, "no such stream");
    server().refuses(&short(Kind::Request, 16_385), 4, "no such stream");
    let method = |number: u16, body: &[u8]| whole(Header::new(Kind::Method, 0).code(number), body);
    server().refuses(&method(0, b"/x"), 2, "in order");
    server().refuses(&method(2, b"/x"), 2, "in order");
    server().refuses(&method(1, &[b'x'; 513]), 528, "path is too long");
    server().refuses(&method(1, b"ab\xffc"), 18, "UTF-8");
    let mut victim = server();
    for number in 1..2048 {
        victim.takes(&method(number, b"/x"));
    }
    victim.refuses(&method(2048, b"/x"), 2, "too many");
    for kind in [Kind::Response, Kind::Trailers, Kind::Headers] {
        server().refuses(&short(kind, 1), 0, "only servers send");
    }
    for kind in [Kind::Request, Kind::Method] {
        Victim::client().refuses(&short(kind, 1), 0, "only clients send");
    }
}

#[test]
fn messages_that_are_wrong() {
    for make in [Victim::server, Victim::client] {
        make().refuses(&message(1, 0, 5, b"abcd"), 12, "length");
        make().refuses(&message(1, flag::MORE, 4, b"abcd"), 12, "add up");
        make().refuses(&message(1, flag::MORE, 3, b"abcd"), 12, "add up");
        make().refuses(&message(1, flag::MORE, 3, b""), 12, "add up");
        make().refuses(&message(1, flag::MORE | flag::END, 9, b"abcd"), 1, "inside a message");
        let begun = || {
            let mut victim = make();
            victim.takes(&message(1, flag::MORE, 9, b"abcd"));
            victim
        };
        begun().refuses(&message(1, 0, 8, b"abcd"), 12, "changed");
        begun().refuses(&message(1, 0, 9, b"abcd"), 12, "add up");
        begun().refuses(&message(1, 0, 9, b"abcdef"), 12, "add up");
        begun().refuses(&message(1, flag::MORE, 9, b"abcde"), 12, "add up");
        let end = whole(Header::new(Kind::Message, 1).flags(flag::END), &[]);
        begun().refuses(&end, 1, "inside a message");
        begun().refuses(&bulk(1, 3000), 0, "inside another message");
        let mut ended = make();
        ended.takes(&end);
        ended.refuses(&message(1, 0, 1, b"a"), 0, "after the end of messages");
        let mut ended = make();
        ended.takes(&end);
        ended.refuses(&bulk(1, 3000), 0, "after the end of messages");
        let window = make().end.session.window_bytes();
        let mut full = make();
        let mut sent = 0;
        while sent < window {
            full.takes(&message(1, 0, 4000, &[0; 4000]));
            sent += 4032;
        }
        full.refuses(&message(1, 0, 0, b""), 0, "beyond the stream's window");
    }
}

#[test]
fn answers_that_are_wrong() {
    let client = Victim::client;
    let answer = |kind: Kind, code: u16, a: u32, b: u32, body: &[u8]| {
        whole(Header::new(kind, 1).code(code).numbers(a, b), body)
    };
    client().refuses(&answer(Kind::Headers, 0, 5, 0, b"abcd"), 20, "inside its metadata");
    client().refuses(&answer(Kind::Headers, 0, 3, 0, b"abcd"), 19, "bytes after the end");
    client().refuses(&answer(Kind::Response, 0, 5, 0, b"abcd"), 20, "inside its metadata");
    client().refuses(&answer(Kind::Response, 0, 2, 3, b"abcd"), 20, "inside its trailers");
    client().refuses(&answer(Kind::Trailers, 0, 5, 0, b"abcd"), 20, "inside its metadata");
    client().refuses(&answer(Kind::Trailers, 0, 2, 3, b"abcd"), 20, "inside its status message");
    client().refuses(&answer(Kind::Trailers, 0, 2, 2, b"abc\xff"), 19, "UTF-8");
    let headers = short(Kind::Headers, 1);
    let mut twice = client();
    twice.takes(&headers);
    twice.end.take();
    twice.refuses(&headers, 0, "HEADERS twice");
    for first in [message(1, 0, 1, b"a"), bulk(1, 3000), headers.clone()] {
        let mut late = client();
        late.takes(&first);
        late.end.take();
        late.refuses(&short(Kind::Response, 1), 0, "RESPONSE after");
    }
    let mut cut = client();
    cut.takes(&message(1, flag::MORE, 9, b"abcd"));
    cut.refuses(&answer(Kind::Trailers, 0, 0, 0, b""), 0, "inside a message");
    let mut cut = client();
    cut.takes(&message(1, flag::MORE, 9, b"abcd"));
    cut.refuses(&short(Kind::Response, 1), 0, "inside a message");
    // A server may give up in the middle of a message, but not succeed there.
    let mut cut = client();
    cut.takes(&message(1, flag::MORE, 9, b"abcd"));
    cut.takes(&answer(Kind::Trailers, 13, 0, 0, b""));
    for kind in [Kind::Headers, Kind::Response, Kind::Trailers, Kind::Reset, Kind::Message] {
        client().refuses(&short(kind, 2), 4, "has not been sent");
        client().refuses(&short(kind, 3), 4, "no such stream");
        let mut over = client();
        over.takes(&short(Kind::Trailers, 1));
        over.end.take();
        over.refuses(&short(kind, 1), 4, "not open");
    }
}

#[test]
fn a_server_reset_without_a_code_is_unavailable() {
    let mut victim = Victim::client();
    victim.takes(&whole(Header::new(Kind::Reset, 1), b"no"));
    let seen = victim.end.take();
    assert!(
        matches!(&seen[..], [Seen::Finished { code: UNAVAILABLE, text, refused: true, .. }] if text == "no")
    );
}
