//! PROTOCOL.md and the code say the same: its numbers are read from the page, and its vectors are
//! what a session writes and what a session understands.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdma_rpc_core::Code;
use rdma_rpc_core::link::{BulkDescriptor, FrameSink, LinkError, LinkLimits};
use rdma_rpc_core::metadata::{MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MetadataMap};
use rdma_rpc_core::parts::Parts;
use rdma_rpc_core::session::{
    Batch, Encode, Event, FrameRef, NewStream, Opened, Role, Session, SessionConfig, StreamId,
};
use rdma_rpc_core::wire::{self, Kind, flag};

const PAGE: &str = include_str!("../../PROTOCOL.md");

/// The fenced blocks whose info string begins with `tag`: the rest of the string, and the lines.
fn blocks(tag: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        if let Some(name) = info.strip_prefix(tag) {
            blocks.push((name.trim(), body));
        }
    }
    blocks
}

/// Lines of two columns in the one block of this kind.
fn table(tag: &str) -> Vec<(&'static str, &'static str)> {
    let mut found = blocks(tag);
    assert_eq!(found.len(), 1, "one {tag} block");
    let lines = found.remove(0).1;
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        (words.next().unwrap(), words.next().unwrap())
    };
    lines.into_iter().map(row).collect()
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

fn hex(lines: &[&str]) -> Vec<u8> {
    let bytes = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().to_owned();
        line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    lines.iter().flat_map(|line| -> Vec<u8> { bytes(line) }).collect()
}

#[test]
fn kinds_flags_codes_and_limits_are_the_pages() {
    let mut kinds = BTreeMap::new();
    for (byte, name) in table("kinds") {
        let kind = Kind::from_byte(number(byte) as u8).unwrap_or_else(|| panic!("kind {byte}"));
        assert_eq!(format!("{kind:?}").to_lowercase(), name.replace('_', "").to_lowercase());
        kinds.insert(kind as u8, name);
    }
    let all = (0..=255).filter(|byte| Kind::from_byte(*byte).is_some()).count();
    assert_eq!(kinds.len(), all, "every kind is on the page");
    let flags = [
        ("END", u64::from(flag::END)),
        ("MESSAGE", u64::from(flag::MESSAGE)),
        ("MORE", u64::from(flag::MORE)),
        ("TIMEOUT", u64::from(flag::TIMEOUT)),
    ];
    let said: Vec<_> = table("flags").into_iter().map(|(bit, name)| (name, number(bit))).collect();
    assert_eq!(said, flags);
    let codes = table("codes");
    assert_eq!(codes.len(), 17);
    for (code, name) in codes {
        let code = Code::from(number(code) as i32);
        assert_eq!(format!("{code:?}").to_lowercase(), name.replace('_', "").to_lowercase());
    }
    let limits: Vec<(&str, u64)> = vec![
        ("HEADER_BYTES", wire::HEADER_BYTES as u64),
        ("SKIPPABLE", u64::from(wire::SKIPPABLE)),
        ("MESSAGE_OVERHEAD_BYTES", wire::MESSAGE_OVERHEAD_BYTES),
        ("INITIAL_WINDOW_BYTES", wire::INITIAL_WINDOW_BYTES),
        ("INITIAL_MAX_STREAMS", u64::from(wire::INITIAL_MAX_STREAMS)),
        ("MAX_UNANSWERED_BULKS", u64::from(wire::MAX_UNANSWERED_BULKS)),
        ("MAX_BATCH_MESSAGES", u64::from(wire::MAX_BATCH_MESSAGES)),
        ("MAX_PATH_BYTES", wire::MAX_PATH_BYTES as u64),
        ("MAX_METHODS", u64::from(wire::MAX_METHODS)),
        ("MAX_METADATA_BYTES", MAX_METADATA_BYTES as u64),
        ("MAX_METADATA_ENTRIES", MAX_METADATA_ENTRIES as u64),
        ("MAX_BULK_DESCRIPTOR_BYTES", rdma_rpc_core::link::MAX_BULK_DESCRIPTOR_BYTES as u64),
    ];
    let said: Vec<_> =
        table("limits").into_iter().map(|(name, value)| (name, number(value))).collect();
    assert_eq!(said, limits);
}

/// Keeps the frames, and bulk messages under descriptors of eight bytes.
#[derive(Debug, Default)]
struct Capture {
    frames: VecDeque<Vec<u8>>,
    staging: Vec<u8>,
    bulk: Vec<u8>,
}

const LIMITS: LinkLimits = LinkLimits {
    max_frame_bytes: 4096,
    bulk_threshold_bytes: Some(100_000),
    max_bulk_bytes: 1 << 20,
    lend_threshold_bytes: Some(200_000),
};

impl FrameSink for Capture {
    fn limits(&self) -> LinkLimits {
        LIMITS
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.staging = vec![0; len];
        Ok(Some(&mut self.staging))
    }

    fn commit(&mut self) {
        self.frames.push_back(std::mem::take(&mut self.staging));
    }

    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.bulk = vec![0; len];
        Ok(Some(&mut self.bulk))
    }

    fn bulk_commit(&mut self) -> BulkDescriptor {
        BulkDescriptor::new(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap()
    }

    fn bulk_lend(&mut self, _: &Bytes) -> Result<Option<BulkDescriptor>, LinkError> {
        Ok(BulkDescriptor::new(&[8, 7, 6, 5, 4, 3, 2, 1]))
    }

    fn bulk_release(&mut self, _: &BulkDescriptor) -> Result<(), LinkError> {
        Ok(())
    }

    fn bulk_pull(&mut self, _: u64, _: &BulkDescriptor, _: usize) -> Result<bool, LinkError> {
        Ok(true)
    }
}

/// A client and a server whose frames are all named.
struct Talk {
    client: Session,
    server: Session,
    client_out: Capture,
    server_out: Capture,
    now: Instant,
    vectors: BTreeMap<&'static str, Vec<u8>>,
    /// The server's stream of the last REQUEST.
    at_server: Option<StreamId>,
    events: Vec<String>,
}

fn metadata() -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-user", "ann".parse().unwrap());
    metadata
}

impl Talk {
    fn new() -> Talk {
        let now = Instant::now();
        let config = SessionConfig::default();
        Talk {
            client: Session::new(Role::Client, config, LIMITS, now),
            server: Session::new(Role::Server, config, LIMITS, now),
            client_out: Capture::default(),
            server_out: Capture::default(),
            now,
            vectors: BTreeMap::new(),
            at_server: None,
            events: Vec::new(),
        }
    }

    /// Takes the next frame of the client under this name, and gives it to the server.
    fn client_says(&mut self, name: &'static str) {
        self.client.transmit(&mut self.client_out).unwrap();
        let frame = self.client_out.frames.pop_front().unwrap_or_else(|| panic!("{name}"));
        let event =
            self.server.handle_frame(self.now, FrameRef { bytes: &frame, owner: None }).unwrap();
        if let Event::Request { stream, .. } = &event {
            self.at_server = Some(*stream);
        }
        self.events.push(format!("{name}: {event:?}"));
        self.vectors.insert(name, frame);
    }

    fn server_says(&mut self, name: &'static str) {
        self.server.transmit(&mut self.server_out).unwrap();
        let frame = self.server_out.frames.pop_front().unwrap_or_else(|| panic!("{name}"));
        let event =
            self.client.handle_frame(self.now, FrameRef { bytes: &frame, owner: None }).unwrap();
        self.events.push(format!("{name}: {event:?}"));
        self.vectors.insert(name, frame);
    }

    fn open(&mut self, message: Option<&'static str>, timeout: Option<Duration>) -> StreamId {
        let message = message.map(|text| Bytes::from_static(text.as_bytes()));
        let unary = message.is_some();
        let metadata = if unary { metadata() } else { MetadataMap::new() };
        let request = NewStream {
            path: "/kv.Kv/Get",
            metadata: &metadata,
            timeout: timeout.map(|timeout| (timeout, self.now + timeout)),
            message: message.as_ref().map(|message| message as &dyn Encode),
            end: unary,
            max_message_bytes: 1 << 20,
        };
        match self.client.open(&mut self.client_out, &request).unwrap() {
            Opened::Stream(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn client_sends(&mut self, id: StreamId, len: usize) {
        let bytes = if len == 3 { Bytes::from_static(b"abc") } else { vec![0; len].into() };
        self.client.send_message(&mut self.client_out, id, &bytes, false).unwrap();
    }

    fn client_sends_batch(&mut self, id: StreamId, messages: &[&str]) {
        let mut batch = Batch::default();
        for message in messages {
            batch.push(message.len()).unwrap().copy_from_slice(message.as_bytes());
        }
        self.client.send_batch(&mut self.client_out, id, &batch).unwrap();
    }

    fn client_sends_parts(&mut self, id: StreamId, parts: &Parts) {
        self.client.send_message(&mut self.client_out, id, parts, false).unwrap();
    }
}

/// Every vector of the page, made by sessions that talk to each other.
fn talk() -> Talk {
    let mut talk = Talk::new();
    let none = MetadataMap::new();
    talk.client_says("settings-client");
    talk.server_says("settings-server");

    let _ = talk.open(Some("abc"), Some(Duration::from_millis(1500)));
    talk.client_says("method");
    talk.client_says("request-unary");
    let stream = talk.at_server.unwrap();
    let answer = Bytes::from_static(b"abcd");
    talk.server.respond(&mut talk.server_out, stream, &none, &metadata(), &answer).unwrap();
    talk.server_says("response");

    let id = talk.open(None, None);
    talk.client_says("request-streaming");
    let stream = talk.at_server.unwrap();
    talk.client_sends(id, 3);
    talk.client_says("message");
    talk.client_sends(id, 5000);
    talk.client_says("message-first-piece");
    talk.client_says("message-last-piece");
    talk.client_sends_batch(id, &["abc", "", "de"]);
    talk.client_says("messages");
    talk.server.send_headers(&mut talk.server_out, stream, &metadata()).unwrap();
    talk.server_says("headers");
    talk.client_sends(id, 150_000);
    talk.client_says("bulk");
    let (head, body, tail) = (Bytes::from("ab"), Bytes::from(vec![0; 250_000]), Bytes::from("c"));
    talk.client_sends_parts(id, &Parts { head, body, tail });
    talk.client_says("bulk-around");
    talk.server.bulk_done(&BulkDescriptor::new(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap());
    talk.server_says("bulk-done");
    talk.server.consumed(stream, 35 + 5032 + 101 + 150_032 + 250_035);
    talk.server_says("window");
    talk.client.end_messages(&mut talk.client_out, id).unwrap();
    talk.client_says("message-end");
    talk.server
        .finish(&mut talk.server_out, stream, 5, "no such key", &metadata(), &[9, 9])
        .unwrap();
    talk.server_says("trailers");

    let id = talk.open(None, None);
    talk.client_says("request-streaming");
    talk.client.cancel(id, 1);
    talk.client_says("reset-client");
    talk.server_says("trailers-cancelled");

    let _ = talk.open(None, None);
    talk.client_says("request-streaming");
    talk.now += Duration::from_secs(10);
    assert_eq!(talk.client.handle_timeout(talk.now), Ok(None), "a pause is no silence");
    talk.client.note_heard(talk.now);
    talk.now += Duration::from_secs(10);
    assert_eq!(talk.client.handle_timeout(talk.now), Ok(None));
    talk.client_says("ping");
    talk.server_says("pong");
    talk.server.go_away(0, "bye");
    talk.server_says("go-away");

    let full = SessionConfig { max_streams: 1, ..SessionConfig::default() };
    let mut refusing = Talk::new();
    refusing.server = Session::new(Role::Server, full, LIMITS, refusing.now);
    let _ = (refusing.open(None, None), refusing.open(None, None));
    for name in ["settings-client", "method", "request-streaming", "request-refused"] {
        refusing.client_says(name);
    }
    refusing.server_says("settings-server");
    refusing.server_says("reset-server");
    let reset = refusing.vectors.remove("reset-server").unwrap();
    talk.vectors.insert("reset-server", reset);
    for name in ["message-first-piece", "message-last-piece"] {
        // Only the headers are on the page.
        talk.vectors.get_mut(name).unwrap().truncate(wire::HEADER_BYTES);
    }
    let mut block = vec![0; metadata().encoded_len()];
    metadata().encode(&mut block);
    talk.vectors.insert("metadata", block);
    talk
}

#[test]
fn the_pages_vectors_are_what_sessions_write() {
    let made = talk().vectors;
    let said: BTreeMap<_, _> = blocks("hex session/").into_iter().collect();
    for (name, bytes) in &made {
        let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let page = said.get(name).unwrap_or_else(|| panic!("{name} is not on the page: {text:?}"));
        assert_eq!(&hex(page), bytes, "{name} is {}", text.join(" "));
    }
    for name in said.keys() {
        assert!(made.contains_key(name), "nobody makes the page's vector {name}");
    }
}

#[test]
fn the_pages_vectors_are_understood_as_it_says() {
    let events = talk().events;
    for (name, lines) in blocks("means session/") {
        let event = events
            .iter()
            .find_map(|event| event.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("no event {name}"));
        for line in lines {
            assert!(event.contains(line.trim()), "{name}: {event} has no {line}");
        }
    }
}

#[test]
fn unknown_kinds_are_skipped_only_with_the_skip_bit() {
    let now = Instant::now();
    let mut server = Session::new(Role::Server, SessionConfig::default(), LIMITS, now);
    let vectors = talk().vectors;
    let mut handle = |frame: &[u8]| {
        server.handle_frame(now, FrameRef { bytes: frame, owner: None }).map(|event| {
            assert!(matches!(event, Event::None));
        })
    };
    handle(&vectors["settings-client"]).unwrap();
    let mut odd = vec![0xff; 40];
    handle(&odd).unwrap();
    odd[0] = 0x7f;
    assert!(handle(&odd).unwrap_err().to_string().contains("byte 0 of the frame"));
}
