//! The verbs rules, on two shared-memory queue pairs in one process.

use std::time::{Duration, Instant};

use rdma_rpc_transport_rdma::shm::{ShmConfig, ShmQueuePair, ShmRegion};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status,
    WorkRequest,
};

type Request<'a> = WorkRequest<'a, ShmRegion>;

const NOWHERE: RemoteAddr = RemoteAddr { addr: 0, rkey: 0 };

fn pair(config: ShmConfig) -> (ShmQueuePair, ShmQueuePair) {
    ShmQueuePair::pair(&config).unwrap()
}

fn whole(region: &ShmRegion) -> Local<'_, ShmRegion> {
    Local { region, offset: 0, len: region.len() }
}

fn write<'a>(id: u64, from: &'a ShmRegion, to: RemoteAddr, imm: Option<u32>) -> Request<'a> {
    WorkRequest { id, op: Op::Write { from: Some(whole(from)), to, imm }, signaled: true }
}

fn imm<'a>(id: u64, imm: u32) -> Request<'a> {
    WorkRequest { id, op: Op::Write { from: None, to: NOWHERE, imm: Some(imm) }, signaled: true }
}

fn send_done(id: u64, status: Status) -> Completion {
    Completion { what: Completed::Send { id }, status }
}

fn received(imm: u32, status: Status) -> Completion {
    Completion { what: Completed::Receive { imm }, status }
}

/// One poll's completions.
fn poll(qp: &mut ShmQueuePair) -> Vec<Completion> {
    let mut into = [received(0, Status::Success); 64];
    let count = qp.poll(&mut into).unwrap();
    into[..count].to_vec()
}

/// Polls until `count` completions have come.
fn poll_for(qp: &mut ShmQueuePair, count: usize) -> Vec<Completion> {
    let give_up = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < give_up, "only {all:?} of {count} completions");
        all.extend(poll(qp));
    }
    all
}

/// Polls until the queue pair reports its failure; what came before, and the failure.
fn poll_to_the_end(qp: &mut ShmQueuePair) -> (Vec<Completion>, String) {
    let give_up = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    let mut into = [received(0, Status::Success); 3];
    loop {
        assert!(Instant::now() < give_up, "no end after {all:?}");
        match qp.poll(&mut into) {
            Ok(count) => all.extend_from_slice(&into[..count]),
            Err(error) => return (all, error.to_string()),
        }
    }
}

#[test]
fn a_write_is_there_before_its_immediate_is_seen() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let ring = b.register(4096, Access::RemoteWrite).unwrap();
    let mut staging = a.register(100, Access::Local).unwrap();
    staging.bytes_mut().copy_from_slice(&[0x42; 100]);
    b.post_receives(1).unwrap();
    a.post_send(&[write(7, &staging, ring.remote().offset(1001).unwrap(), Some(99))]).unwrap();
    assert_eq!(poll(&mut b), [received(99, Status::Success)]);
    let mut seen = [0; 102];
    ring.read(1000, &mut seen);
    assert_eq!((seen[0], seen[1], seen[100], seen[101]), (0, 0x42, 0x42, 0));
    assert_eq!(poll(&mut a), [send_done(7, Status::Success)]);
}

#[test]
fn plain_writes_and_words_need_no_receive_and_make_no_completion_there() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let cell = b.register(64, Access::RemoteWrite).unwrap();
    let staging = a.register(8, Access::Local).unwrap();
    let word = Op::WriteWord { word: 0x0807_0605_0403_0201, to: cell.remote().offset(8).unwrap() };
    a.post_send(&[
        write(1, &staging, cell.remote(), None),
        WorkRequest { id: 2, op: word, signaled: false },
    ])
    .unwrap();
    let mut seen = [0; 8];
    cell.read(8, &mut seen);
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(poll(&mut b), []);
    assert_eq!(poll(&mut a), [send_done(1, Status::Success)]);
}

#[test]
fn sends_and_immediates_consume_receives_in_order() {
    let (mut a, mut b) = pair(ShmConfig::default());
    b.post_receives(3).unwrap();
    let send = WorkRequest { id: 1, op: Op::Send { word: 11 }, signaled: true };
    a.post_send(&[imm(0, 10), send, imm(2, 12), imm(3, 13)]).unwrap();
    let first = [10, 11, 12].map(|value| received(value, Status::Success));
    assert_eq!(poll(&mut b), first);
    assert_eq!(poll(&mut b), []);
    assert_eq!(poll(&mut a), [0, 1, 2].map(|id| send_done(id, Status::Success)));
    b.post_receives(1).unwrap();
    assert_eq!(poll(&mut a), [send_done(3, Status::Success)]);
    assert_eq!(poll(&mut b), [received(13, Status::Success)]);
}

#[test]
fn a_waiting_request_holds_back_those_behind_it() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let cell = b.register(8, Access::RemoteWrite).unwrap();
    let word = Op::WriteWord { word: 5, to: cell.remote() };
    a.post_send(&[imm(0, 1), WorkRequest { id: 1, op: word, signaled: true }]).unwrap();
    let mut seen = [0; 8];
    cell.read(0, &mut seen);
    assert_eq!(seen, [0; 8], "it must not overtake the one that waits");
    b.post_receives(1).unwrap();
    assert_eq!(poll(&mut a), [0, 1].map(|id| send_done(id, Status::Success)));
    cell.read(0, &mut seen);
    assert_eq!(u64::from_le_bytes(seen), 5);
}

#[test]
fn no_receive_in_time_fails_both_and_flushes_in_order() {
    let timeout = Duration::from_millis(50);
    let config = ShmConfig { receiver_not_ready_timeout: timeout, ..Default::default() };
    let (mut a, mut b) = pair(config);
    a.post_receives(2).unwrap();
    let unsignaled = WorkRequest { signaled: false, ..imm(1, 1) };
    a.post_send(&[imm(0, 0), unsignaled, imm(2, 2)]).unwrap();
    let start = Instant::now();
    let (all, error) = poll_to_the_end(&mut a);
    assert!(start.elapsed() >= timeout);
    let flushed = Status::Flushed;
    let (sends, receives): (Vec<_>, Vec<_>) =
        all.iter().copied().partition(|done| matches!(done.what, Completed::Send { .. }));
    assert_eq!(
        sends,
        [send_done(0, Status::ReceiverNotReady), send_done(1, flushed), send_done(2, flushed)]
    );
    assert_eq!(receives, [received(0, flushed); 2]);
    assert!(error.contains("no receive"), "{error}");
    assert!(matches!(a.post_send(&[imm(3, 3)]), Err(PostError::Failed)));
    assert!(matches!(a.post_receives(1), Err(PostError::Failed)));
    let (all, error) = poll_to_the_end(&mut b);
    assert_eq!(all, []);
    assert!(error.contains("waited too long"), "{error}");
}

#[test]
fn violations_change_no_memory_and_fail_both() {
    type Make = fn(RemoteAddr, RemoteAddr) -> RemoteAddr;
    let cases: [(&str, Make); 6] = [
        ("past the end", |ring, _| ring.offset(61).unwrap()),
        ("before the start", |ring, _| RemoteAddr { addr: ring.addr - 1, ..ring }),
        ("address zero", |ring, _| RemoteAddr { addr: 0, ..ring }),
        ("unknown key", |ring, _| RemoteAddr { rkey: ring.rkey + 1, ..ring }),
        ("no key", |_, _| NOWHERE),
        ("read-only", |_, pool| pool),
    ];
    for (name, target) in cases {
        let (mut a, mut b) = pair(ShmConfig::default());
        let ring = b.register(64, Access::RemoteWrite).unwrap();
        let pool = b.register(64, Access::RemoteRead).unwrap();
        let mut staging = a.register(4, Access::Local).unwrap();
        staging.bytes_mut().fill(0xFF);
        b.post_receives(2).unwrap();
        let to = target(ring.remote(), pool.remote());
        a.post_send(&[imm(0, 5), write(1, &staging, to, Some(6)), imm(2, 7)]).unwrap();
        let (all, error) = poll_to_the_end(&mut a);
        assert_eq!(
            all,
            [
                send_done(0, Status::Success),
                send_done(1, Status::RemoteAccess),
                send_done(2, Status::Flushed)
            ],
            "{name}"
        );
        assert!(error.contains("outside"), "{name}: {error}");
        let (all, error) = poll_to_the_end(&mut b);
        assert_eq!(all, [received(5, Status::Success), received(0, Status::Flushed)], "{name}");
        assert!(error.contains("registered memory"), "{name}: {error}");
        let mut seen = [0; 64];
        ring.read(0, &mut seen);
        assert_eq!(seen, [0; 64], "{name}");
        assert_eq!(pool.bytes(), [0; 64], "{name}");
    }
}

#[test]
fn reads_need_the_read_right_and_stay_in_bounds() {
    for (name, access, from, len) in
        [("write-only", Access::RemoteWrite, 0, 64), ("past the end", Access::RemoteRead, 1, 64)]
    {
        let (mut a, mut b) = pair(ShmConfig::default());
        let source = b.register(64, access).unwrap();
        let target = a.register(64, Access::Local).unwrap();
        let into = Local { region: &target, offset: 0, len };
        let from = source.remote().offset(from).unwrap();
        a.post_send(&[WorkRequest { id: 1, op: Op::Read { into, from }, signaled: false }])
            .unwrap();
        let (all, _) = poll_to_the_end(&mut a);
        assert_eq!(all, [send_done(1, Status::RemoteAccess)], "{name}");
    }
}

#[test]
fn a_long_read_goes_slice_by_slice_and_never_holds_the_caller() {
    const BYTES: usize = 64 << 20;
    let (mut a, mut b) = pair(ShmConfig { slice_bytes: 1 << 20, ..Default::default() });
    let mut source = b.register(BYTES, Access::RemoteRead).unwrap();
    for (index, chunk) in source.bytes_mut().chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&(index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    let target = a.register(BYTES, Access::Local).unwrap();
    b.post_receives(1).unwrap();
    let read = Op::Read { into: whole(&target), from: source.remote() };
    a.post_send(&[WorkRequest { id: 1, op: read, signaled: true }, imm(2, 3)]).unwrap();
    assert_eq!(poll(&mut b), [], "the immediate waits for the READ");
    let mut polls = 0;
    let done = loop {
        polls += 1;
        let done = poll(&mut a);
        if !done.is_empty() {
            break done;
        }
    };
    assert!((62..=64).contains(&polls), "{polls} polls of 1 MiB for 64 MiB");
    assert_eq!(done[0], send_done(1, Status::Success));
    assert!(target.bytes() == source.bytes());
    assert_eq!(poll_for(&mut b, 1), [received(3, Status::Success)]);
}

#[test]
fn a_long_write_goes_slice_by_slice_and_its_immediate_comes_last() {
    const BYTES: usize = 3 << 20;
    let (mut a, mut b) = pair(ShmConfig { slice_bytes: 1 << 20, ..Default::default() });
    let ring = b.register(BYTES, Access::RemoteWrite).unwrap();
    let mut staging = a.register(BYTES, Access::Local).unwrap();
    staging.bytes_mut().fill(9);
    b.post_receives(1).unwrap();
    a.post_send(&[write(1, &staging, ring.remote(), Some(1))]).unwrap();
    assert_eq!(poll(&mut b), []);
    assert_eq!(poll_for(&mut a, 1), [send_done(1, Status::Success)]);
    assert_eq!(poll(&mut b), [received(1, Status::Success)]);
    let mut seen = vec![0; BYTES];
    ring.read(0, &mut seen);
    assert!(seen.iter().all(|&byte| byte == 9));
}

#[test]
fn a_full_send_queue_is_back_pressure_and_a_signalled_completion_frees_it() {
    let (mut a, mut b) = pair(ShmConfig { send_depth: 4, ..Default::default() });
    b.post_receives(16).unwrap();
    let quiet = |id| WorkRequest { signaled: false, ..imm(id, id as u32) };
    a.post_send(&[quiet(0), quiet(1), imm(2, 2)]).unwrap();
    assert!(matches!(a.post_send(&[quiet(3), quiet(4)]), Err(PostError::Full)));
    a.post_send(&[quiet(3)]).unwrap();
    assert!(matches!(a.post_send(&[quiet(4)]), Err(PostError::Full)));
    assert_eq!(poll(&mut a), [send_done(2, Status::Success)]);
    a.post_send(&[quiet(4), quiet(5), imm(6, 6)]).unwrap();
    assert!(matches!(a.post_send(&[quiet(7)]), Err(PostError::Full)));
    assert_eq!(poll_for(&mut b, 7).len(), 7);
}

#[test]
fn receives_beyond_the_depth_are_back_pressure() {
    let (mut a, _b) = pair(ShmConfig { receive_depth: 8, ..Default::default() });
    a.post_receives(7).unwrap();
    assert!(matches!(a.post_receives(2), Err(PostError::Full)));
    a.post_receives(1).unwrap();
    assert!(matches!(a.post_receives(1), Err(PostError::Full)));
}

#[test]
fn bad_local_requests_are_refused_whole() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let ring = b.register(64, Access::RemoteWrite).unwrap();
    let own = a.register(64, Access::Local).unwrap();
    b.post_receives(8).unwrap();
    let outside = Local { region: &own, offset: 60, len: 5 };
    let overflow = Local { region: &own, offset: usize::MAX, len: 2 };
    let foreign = whole(&ring);
    for from in [outside, overflow, foreign] {
        let op = Op::Write { from: Some(from), to: ring.remote(), imm: Some(1) };
        let bad = WorkRequest { id: 1, op, signaled: true };
        let Err(PostError::Verb(error)) = a.post_send(&[imm(0, 0), bad]) else {
            panic!("{from:?} must be refused")
        };
        assert!(error.context.contains("request 1"), "{error}");
    }
    let op = Op::WriteWord { word: 1, to: ring.remote().offset(4).unwrap() };
    let bad = WorkRequest { id: 1, op, signaled: true };
    assert!(matches!(a.post_send(&[bad]), Err(PostError::Verb(_))));
    assert_eq!(poll(&mut b), [], "nothing of a refused list is posted");
    a.post_send(&[imm(0, 0)]).unwrap();
    assert_eq!(poll(&mut a), [send_done(0, Status::Success)]);
}

#[test]
fn what_arrived_is_delivered_before_the_flush_and_the_error() {
    let (mut a, mut b) = pair(ShmConfig::default());
    b.post_receives(4).unwrap();
    a.post_send(&[imm(0, 1), imm(1, 2)]).unwrap();
    b.post_send(&[imm(0, 9)]).unwrap();
    drop(a);
    let (all, error) = poll_to_the_end(&mut b);
    let receives: Vec<_> =
        all.iter().copied().filter(|done| matches!(done.what, Completed::Receive { .. })).collect();
    assert_eq!(
        receives,
        [
            received(1, Status::Success),
            received(2, Status::Success),
            received(0, Status::Flushed),
            received(0, Status::Flushed)
        ]
    );
    assert!(all.contains(&send_done(0, Status::Flushed)), "the waiting request flushes: {all:?}");
    assert!(error.contains("closed"), "{error}");
}

#[test]
fn fail_flushes_here_and_is_noticed_there() {
    let (mut a, mut b) = pair(ShmConfig::default());
    a.post_receives(2).unwrap();
    b.post_send(&[imm(0, 4)]).unwrap();
    a.post_send(&[imm(5, 5)]).unwrap();
    a.fail();
    let (all, error) = poll_to_the_end(&mut a);
    for expected in
        [send_done(5, Status::Flushed), received(4, Status::Success), received(0, Status::Flushed)]
    {
        assert!(all.contains(&expected), "{expected:?} in {all:?}");
    }
    assert_eq!(all.len(), 3);
    assert!(error.contains("owner"), "{error}");
    let (_, error) = poll_to_the_end(&mut b);
    assert!(error.contains("the peer moved its queue pair to the error state"), "{error}");
}

#[test]
fn memory_of_a_waiting_request_outlives_its_handle() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let ring = b.register(64, Access::RemoteWrite).unwrap();
    let mut staging = a.register(64, Access::Local).unwrap();
    staging.bytes_mut().fill(3);
    a.post_send(&[write(1, &staging, ring.remote(), Some(1))]).unwrap();
    drop(staging);
    b.post_receives(1).unwrap();
    assert_eq!(poll(&mut a), [send_done(1, Status::Success)]);
    let mut seen = [0; 64];
    ring.read(0, &mut seen);
    assert_eq!(seen, [3; 64]);
}

#[test]
fn a_region_dropped_while_the_peer_reads_is_a_violation_and_no_crash() {
    const BYTES: usize = 8 << 20;
    let (mut a, mut b) = pair(ShmConfig { slice_bytes: 1 << 20, ..Default::default() });
    let source = b.register(BYTES, Access::RemoteRead).unwrap();
    let target = a.register(BYTES, Access::Local).unwrap();
    let read = Op::Read { into: whole(&target), from: source.remote() };
    a.post_send(&[WorkRequest { id: 1, op: read, signaled: true }]).unwrap();
    assert_eq!(poll(&mut a), []);
    drop(source);
    drop(target);
    poll(&mut b);
    // The withdrawal is taken when this side next looks; the READ has pieces left until then.
    let all = loop {
        let mut into = [received(0, Status::Success); 4];
        match a.poll(&mut into) {
            Ok(0) => {}
            Ok(count) => break into[..count].to_vec(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(all, [send_done(1, Status::RemoteAccess)]);
    let (_, error) = poll_to_the_end(&mut b);
    assert!(error.contains("registered memory"), "{error}");
}

#[test]
fn regions_can_be_made_and_dropped_for_ever() {
    let config = ShmConfig { max_peer_regions: 4, ..Default::default() };
    let (mut a, mut b) = pair(config);
    let staging = a.register(8, Access::Local).unwrap();
    b.post_receives(1).unwrap();
    for round in 0..2000 {
        let ring = b.register(8, Access::RemoteWrite).unwrap();
        a.post_send(&[write(round, &staging, ring.remote(), None)]).unwrap();
        assert_eq!(poll(&mut a), [send_done(round, Status::Success)]);
    }
    let held: Vec<_> = (0..4).map(|_| b.register(8, Access::RemoteRead).unwrap()).collect();
    let error = b.register(8, Access::RemoteRead).unwrap_err();
    assert!(error.to_string().contains("max_peer_regions"), "{error}");
    drop(held);
}

#[test]
fn the_caps_say_what_the_configuration_says() {
    let config = ShmConfig { send_depth: 33, receive_depth: 64, ..Default::default() };
    let (a, _b) = pair(config);
    let caps = a.caps();
    assert_eq!((caps.send_depth, caps.receive_depth, caps.inline_bytes), (33, 64, 0));
    assert!(caps.write_with_imm && caps.reads_in_flight > 0);
    assert_eq!(a.device(), "shm to this process");
}

#[test]
fn a_view_shows_what_its_owner_wrote_before_the_immediate() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let mut ring = a.register(5000, Access::Viewed).unwrap();
    let view = b.view(ring.remote(), 4096).unwrap();
    assert_eq!(view.len(), 4096);
    b.post_receives(2).unwrap();
    for number in 1..=2 {
        ring.bytes_mut()[4000..4096].fill(number);
        a.post_send(&[imm(u64::from(number), u32::from(number))]).unwrap();
        assert_eq!(poll(&mut b), [received(u32::from(number), Status::Success)]);
        let mut seen = [0; 97];
        view.read(3999, &mut seen);
        assert_eq!((seen[0], &seen[1..]), (0, &[number; 96][..]));
    }
}

#[test]
fn a_view_outlasts_the_region_and_the_peer() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let mut ring = a.register(4096, Access::Viewed).unwrap();
    ring.bytes_mut().fill(7);
    let (at, view) = (ring.remote(), b.view(ring.remote(), 4096).unwrap());
    drop(ring);
    let _withdraws_it = a.register(8, Access::RemoteRead).unwrap();
    assert!(b.view(at, 4096).is_err());
    drop(a);
    drop(b);
    let mut seen = [0; 4096];
    view.read(0, &mut seen);
    assert_eq!(seen, [7; 4096]);
}

#[test]
fn a_view_is_of_a_whole_region_that_the_peer_shows() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let ring = a.register(4096, Access::Viewed).unwrap();
    let [read, written] =
        [Access::RemoteRead, Access::RemoteWrite].map(|access| a.register(4096, access).unwrap());
    let mut refused = |at: RemoteAddr, len: usize, why: &str| {
        let error = b.view(at, len).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(ring.remote(), 4097, "4097 bytes");
    refused(ring.remote().offset(8).unwrap(), 8, "byte 8");
    refused(read.remote(), 8, "allows RemoteRead");
    refused(written.remote(), 8, "allows RemoteWrite");
    refused(RemoteAddr { rkey: 0x7000, ..ring.remote() }, 8, "no region with rkey 0x7000");
    assert!(b.view(ring.remote(), 4096).is_ok(), "a refusal ends nothing");
}

#[test]
fn what_is_shown_is_neither_written_nor_read_by_requests() {
    for reads in [false, true] {
        let (mut a, mut b) = pair(ShmConfig::default());
        let ring = a.register(64, Access::Viewed).unwrap();
        let local = b.register(64, Access::ReadTarget).unwrap();
        let op = if reads {
            Op::Read { into: whole(&local), from: ring.remote() }
        } else {
            Op::Write { from: Some(whole(&local)), to: ring.remote(), imm: None }
        };
        b.post_send(&[WorkRequest { id: 1, op, signaled: true }]).unwrap();
        assert_eq!(poll_for(&mut b, 1), [send_done(1, Status::RemoteAccess)]);
        let (_, failure) = poll_to_the_end(&mut a);
        assert!(failure.contains("outside our registered memory"), "{failure}");
    }
}

#[test]
#[should_panic(expected = "no slices")]
fn a_view_lends_no_slice() {
    let (mut a, mut b) = pair(ShmConfig::default());
    let ring = a.register(64, Access::Viewed).unwrap();
    let _ = b.view(ring.remote(), 64).unwrap().bytes();
}
