//! The simulator keeps the rules of [`crate::verbs`].

use std::task::{Context, Poll, Waker};

use super::{Fabric, SimConfig, SimQueuePair, SimRegion};
use crate::verbs::{
    Access, Completed, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status,
    WorkRequest,
};

fn pair(config: SimConfig) -> (Fabric, SimQueuePair, SimQueuePair) {
    let fabric = Fabric::new(3);
    let (one, two) = fabric.pair(config, config);
    (fabric, one.queue_pair, two.queue_pair)
}

fn steps(fabric: &Fabric, count: usize) {
    (0..count).for_each(|_| fabric.step());
}

fn poll(queue_pair: &mut SimQueuePair) -> Vec<Completion> {
    let nothing = Completion { what: Completed::Send { id: 0 }, status: Status::Success };
    let mut into = [nothing; 64];
    let count = queue_pair.poll(&mut into).unwrap();
    into[..count].to_vec()
}

fn write<'a>(
    id: u64,
    from: &'a SimRegion,
    to: RemoteAddr,
    imm: Option<u32>,
) -> WorkRequest<'a, SimRegion> {
    let from = Some(Local { region: from, offset: 0, len: from.len() });
    WorkRequest { id, op: Op::Write { from, to, imm }, signaled: true }
}

/// A WRITE of nothing.
fn request<'a>(id: u64, signaled: bool) -> WorkRequest<'a, SimRegion> {
    let op = Op::Write { from: None, to: RemoteAddr { addr: 0, rkey: 0 }, imm: None };
    WorkRequest { id, op, signaled }
}

#[test]
fn a_write_is_there_before_its_immediate() {
    let (fabric, mut one, mut two) = pair(SimConfig::default());
    let mut from = one.register(64, Access::Local).unwrap();
    let to = two.register(64, Access::RemoteWrite).unwrap();
    two.post_receives(1).unwrap();
    from.bytes_mut().fill(9);
    one.post_send(&[write(1, &from, to.remote(), Some(5))]).unwrap();
    loop {
        fabric.step();
        if let [completion] = poll(&mut two)[..] {
            assert_eq!(completion.what, Completed::Receive { imm: 5 });
            break;
        }
    }
    let mut bytes = [0; 64];
    to.read(0, &mut bytes);
    assert_eq!(bytes, [9; 64]);
}

#[test]
fn an_immediate_without_a_receive_waits_and_then_fails() {
    let (fabric, mut one, mut two) = pair(SimConfig::default());
    let imm = |id| WorkRequest { id, op: Op::Send { word: 1 }, signaled: true };
    one.post_send(&[imm(1)]).unwrap();
    steps(&fabric, 50);
    assert!(poll(&mut one).is_empty() && poll(&mut two).is_empty());
    two.post_receives(1).unwrap();
    steps(&fabric, 50);
    assert_eq!(poll(&mut two).len(), 1);
    assert_eq!(poll(&mut one)[0].status, Status::Success);
    one.post_send(&[imm(2), imm(3)]).unwrap();
    steps(&fabric, 2000);
    let statuses: Vec<Status> = poll(&mut one).iter().map(|c| c.status).collect();
    assert_eq!(statuses, [Status::ReceiverNotReady, Status::Flushed]);
    assert!(matches!(one.post_send(&[imm(4)]), Err(PostError::Failed)));
    assert_eq!(fabric.stats().receiver_not_ready, 2);
}

#[test]
fn a_wrong_access_fails_both_and_changes_nothing() {
    let cases: [(Access, u64, u32); 4] = [
        (Access::RemoteWrite, 1, 0),        // runs over the end
        (Access::RemoteWrite, 0, 1),        // another key
        (Access::RemoteRead, 0, 0),         // may be read only
        (Access::RemoteWrite, u64::MAX, 0), // before the start
    ];
    for (access, shift, key) in cases {
        let (fabric, mut one, mut two) = pair(SimConfig::default());
        let mut from = one.register(64, Access::Local).unwrap();
        from.bytes_mut().fill(9);
        let to = two.register(64, access).unwrap();
        two.post_receives(2).unwrap();
        let at = to.remote();
        let at = RemoteAddr { addr: at.addr.wrapping_add(shift), rkey: at.rkey.wrapping_add(key) };
        one.post_send(&[write(1, &from, at, Some(1))]).unwrap();
        steps(&fabric, 300);
        assert_eq!(poll(&mut one)[0].status, Status::RemoteAccess);
        assert!(poll(&mut two).iter().all(|c| c.status == Status::Flushed));
        let mut bytes = [1; 64];
        to.read(0, &mut bytes);
        assert_eq!(bytes, [0; 64]);
    }
}

#[test]
fn a_read_brings_what_was_written() {
    let (fabric, mut one, mut two) = pair(SimConfig::default());
    let mut from = two.register(64, Access::RemoteRead).unwrap();
    from.bytes_mut().fill(3);
    let into = one.register(64, Access::ReadTarget).unwrap();
    let lent = into.bytes();
    let local = Local { region: &into, offset: 8, len: 40 };
    let op = Op::Read { into: local, from: from.remote() };
    one.post_send(&[WorkRequest { id: 1, op, signaled: true }]).unwrap();
    steps(&fabric, 100);
    assert_eq!(poll(&mut one)[0].status, Status::Success);
    assert_eq!(into.bytes()[7..9], [0, 3]);
    assert_eq!(into.bytes()[47..49], [3, 0]);
    assert_eq!(lent, [0; 64], "what was lent before does not change under its reader");
}

#[test]
fn slots_are_freed_by_the_signalled_completion_that_was_polled() {
    let config = SimConfig { send_depth: 3, ..SimConfig::default() };
    let (fabric, mut one, _two) = pair(config);
    one.post_send(&[request(1, false), request(2, false)]).unwrap();
    steps(&fabric, 50);
    let two_more = [request(3, true), request(4, true)];
    assert!(matches!(one.post_send(&two_more), Err(PostError::Full)), "all or none");
    one.post_send(&[request(3, true)]).unwrap();
    steps(&fabric, 50);
    assert!(matches!(one.post_send(&[request(4, true)]), Err(PostError::Full)), "not polled yet");
    assert_eq!(poll(&mut one).len(), 1);
    one.post_send(&[request(4, true), request(5, true), request(6, true)]).unwrap();
}

#[test]
fn arming_looks_again() {
    let config = SimConfig { wake_spuriously: 0, ..SimConfig::default() };
    let (fabric, mut one, _two) = pair(config);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(one.poll_event(&mut cx).is_pending());
    one.post_send(&[request(1, true)]).unwrap();
    steps(&fabric, 50);
    assert!(matches!(one.poll_event(&mut cx), Poll::Ready(Ok(()))));
    poll(&mut one);
    assert!(one.poll_event(&mut cx).is_pending());
}

#[test]
fn a_seed_gives_the_same_run() {
    let run = |seed| {
        let fabric = Fabric::new(seed);
        let (one, two) = fabric.pair(SimConfig::default(), SimConfig::default());
        let (mut one, mut two) = (one.queue_pair, two.queue_pair);
        two.post_receives(20).unwrap();
        let mut trace = Vec::new();
        for id in 0..20 {
            let op = Op::Send { word: id as u32 };
            one.post_send(&[WorkRequest { id, op, signaled: id % 3 == 0 }]).unwrap();
            fabric.step();
            trace.push((poll(&mut one), poll(&mut two)));
        }
        trace
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_view_shows_what_was_published_and_ends_with_its_handle() {
    let (fabric, mut one, mut two) = pair(SimConfig { views: true, ..SimConfig::default() });
    let mut ring = one.register(64, Access::Viewed).unwrap();
    let view = two.view(ring.remote(), 60).unwrap();
    ring.bytes_mut().fill(5);
    let mut seen = [1; 60];
    view.read(0, &mut seen);
    assert_eq!(seen, [0; 60], "not before it was published");
    ring.publish();
    view.read(0, &mut seen);
    assert_eq!(seen, [5; 60]);
    assert!(two.view(ring.remote(), 65).is_err());
    assert!(two.view(ring.remote().offset(1).unwrap(), 8).is_err());
    let read = one.register(64, Access::RemoteRead).unwrap();
    assert!(two.view(read.remote(), 8).is_err());
    drop(ring);
    view.read(0, &mut seen);
    assert_eq!(seen, [5; 60]);
    drop(view);
    assert_eq!(fabric.stats().region_dropped_in_use, 0);
}
