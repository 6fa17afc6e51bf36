//! Two sessions joined by hand: what the protocol costs with no driver, link or runtime. A call
//! opens a stream, is answered with one RESPONSE and is over; every frame is copied once, by a
//! queue that keeps its memory.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use rdma_rpc_core::link::{BulkDescriptor, FrameSink, LinkError, LinkLimits};
use rdma_rpc_core::metadata::MetadataMap;
use rdma_rpc_core::session::{
    Event, FrameRef, NewStream, Opened, Role, Session, SessionConfig, StreamId,
};

const LIMITS: LinkLimits = LinkLimits {
    max_frame_bytes: 64 << 10,
    bulk_threshold_bytes: None,
    max_bulk_bytes: 0,
    lend_threshold_bytes: None,
};

/// Frames end to end, each behind its length.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut start = 0;
        for end in self.ends.drain(..) {
            each(&self.bytes[start..end]);
            start = end;
        }
        self.bytes.clear();
    }
}

impl FrameSink for Frames {
    fn limits(&self) -> LinkLimits {
        LIMITS
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        let start = self.ends.last().copied().unwrap_or(0);
        self.bytes.resize(start + len, 0);
        Ok(Some(&mut self.bytes[start..]))
    }

    fn commit(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn bulk_reserve(&mut self, _: usize) -> Result<Option<&mut [u8]>, LinkError> {
        unreachable!("these limits have no bulk")
    }

    fn bulk_commit(&mut self) -> BulkDescriptor {
        unreachable!("these limits have no bulk")
    }

    fn bulk_release(&mut self, _: &BulkDescriptor) -> Result<(), LinkError> {
        unreachable!("these limits have no bulk")
    }

    fn bulk_pull(&mut self, _: u64, _: &BulkDescriptor, _: usize) -> Result<bool, LinkError> {
        unreachable!("these limits have no bulk")
    }
}

struct Pair {
    client: Session,
    server: Session,
    to_server: Frames,
    to_client: Frames,
    now: Instant,
    none: MetadataMap,
    message: Bytes,
    asked: Vec<StreamId>,
}

impl Pair {
    fn new() -> Pair {
        let now = Instant::now();
        let session = |role| Session::new(role, SessionConfig::default(), LIMITS, now);
        let mut pair = Pair {
            client: session(Role::Client),
            server: session(Role::Server),
            to_server: Frames::default(),
            to_client: Frames::default(),
            now,
            none: MetadataMap::new(),
            message: Bytes::from_static(&[7; 32]),
            asked: Vec::new(),
        };
        pair.client.transmit(&mut pair.to_server).expect("frames always have room");
        pair.server.transmit(&mut pair.to_client).expect("frames always have room");
        assert_eq!(pair.exchange(1), 1, "the first call binds the method's number");
        pair
    }

    /// So many calls opened, asked, answered and finished; how many were.
    fn exchange(&mut self, calls: usize) -> usize {
        let request = NewStream {
            path: "/bench.Echo/Unary",
            metadata: &self.none,
            timeout: None,
            message: Some(&self.message),
            end: true,
            max_message_bytes: 1 << 20,
        };
        for _ in 0..calls {
            let opened = self.client.open(&mut self.to_server, &request);
            assert!(matches!(opened, Ok(Opened::Stream(_))));
        }
        let (server, asked, now) = (&mut self.server, &mut self.asked, self.now);
        self.to_server.drain(|bytes| {
            let event = server.handle_frame(now, FrameRef { bytes, owner: None });
            if let Event::Request { stream, .. } = event.expect("a frame of ours") {
                asked.push(stream);
            }
        });
        for stream in self.asked.drain(..) {
            self.server
                .respond(&mut self.to_client, stream, &self.none, &self.none, &self.message)
                .expect("frames always have room");
        }
        let (client, mut answered) = (&mut self.client, 0);
        self.to_client.drain(|bytes| {
            let event = client.handle_frame(now, FrameRef { bytes, owner: None });
            if let Event::Response { message, .. } = event.expect("a frame of ours") {
                black_box(message.as_slice());
                answered += 1;
            }
        });
        answered
    }
}

fn session(c: &mut Criterion) {
    let mut pair = Pair::new();
    c.bench_function("session-call-32", |b| b.iter(|| assert_eq!(pair.exchange(1), 1)));
    let mut group = c.benchmark_group("session");
    group.throughput(criterion::Throughput::Elements(64));
    group.bench_function("64-calls-32", |b| b.iter(|| assert_eq!(pair.exchange(64), 64)));
}

criterion_group!(benches, session);
criterion_main!(benches);
