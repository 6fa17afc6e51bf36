//! Mistakes that rings have been known to make, one test each.

mod ring_support;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rdma_rpc_core::link::{FrameSink, Link, LinkErrorKind, Received};
use rdma_rpc_transport_rdma::ring::{RingConfig, RingLink};
use rdma_rpc_transport_rdma::sim::{Fabric, Fault, SimConfig};
use rdma_rpc_transport_rdma::verbs::{QueuePair, RemoteAddr, WorkRequest};
use ring_support::{
    Alarm, Message, Owner, SimLink, assert_no_rule_broken, calm, drive, fill, join, linked,
    linked_on, numbered, put, settle, small_config, steps, take,
};

#[test]
fn frames_committed_together_leave_as_one_burst() {
    let (fabric, mut links) = linked_on(1, calm(), small_config());
    let [one, two] = &mut links;
    let before = two.usage().receives_posted;
    for number in 0..50 {
        assert!(put(one, &numbered(number, 8)));
    }
    assert!(one.has_unsent(), "nothing leaves before flush");
    steps(&fabric, 20);
    assert!(take(two).unwrap().is_none());
    one.flush().unwrap();
    assert!(!one.has_unsent());
    steps(&fabric, 20);
    for number in 0..50 {
        assert_eq!(take(two).unwrap().unwrap(), numbered(number, 8));
    }
    assert_eq!(before - two.usage().receives_posted, 1, "one immediate for fifty frames");
}

/// 1: bytes are released from the head only; what is unread is never written again.
#[test]
fn unread_bursts_are_never_overwritten() {
    let (fabric, mut links) = linked_on(2, calm(), small_config());
    let (mut sent, mut read) = (0, 0);
    for round in 0..2000u64 {
        let [one, two] = &mut links;
        let len = (round * 997 % 3000) as usize;
        if put(one, &numbered(sent, len.max(8))) {
            sent += 1;
        }
        one.flush().unwrap();
        steps(&fabric, 3);
        if round % 3 == 0
            && let Some(frame) = take(two).unwrap()
        {
            assert_eq!(frame, numbered(read, frame.len()));
            read += 1;
        }
    }
    assert!(sent - read > 3, "the ring was full all along");
    assert!(read > 500);
    assert_no_rule_broken(&fabric);
}

/// 2 and 4: far more bursts than the send queue holds, and windows much longer than the signal
/// interval.
#[test]
fn more_bursts_than_the_send_queue_holds() {
    for (send_depth, write_with_imm) in [(4, true), (5, false), (6, true), (9, false), (64, true)] {
        let device = SimConfig { send_depth, write_with_imm, ..calm() };
        let (fabric, mut links) = linked_on(3, device, small_config());
        let mut got = 0;
        for number in 0..500 {
            let [one, two] = &mut links;
            assert!(put(one, &numbered(number, 16)));
            one.flush().unwrap(); // each frame is a burst of its own, as far as slots go
            for _ in 0..if one.has_unsent() { 20 } else { 1 } {
                steps(&fabric, 2);
                while let Some(frame) = take(two).unwrap() {
                    assert_eq!(frame, numbered(got, 16));
                    got += 1;
                }
                one.flush().unwrap();
            }
        }
        got += settle(&fabric, &mut links)[1].len() as u64;
        assert_eq!(got, 500, "send depth {send_depth}");
        assert_no_rule_broken(&fabric);
    }
}

/// 3: with few receives and a reader that does not read, no immediate is sent without a receive.
#[test]
fn receives_are_never_exceeded() {
    for receive_depth in [4, 5, 8] {
        let device = SimConfig { receive_depth, ..calm() };
        let (fabric, mut links) = linked_on(4, device, small_config());
        for number in 0..40 {
            for link in &mut links {
                assert!(put(link, &numbered(number, 16)));
                link.flush().unwrap();
            }
            steps(&fabric, 10);
        }
        // One burst per receive for data is out; the other frames wait, together.
        let got = settle(&fabric, &mut links);
        for frames in &got {
            assert_eq!(frames.len(), 40);
        }
        assert_no_rule_broken(&fabric);
    }
}

/// 5: both write until nothing goes, neither reads; then both read.
#[test]
fn two_full_rings_come_loose() {
    let (fabric, mut links) = linked_on(5, calm(), small_config());
    let mut counts = [0u64; 2];
    for _ in 0..50 {
        for (link, count) in links.iter_mut().zip(&mut counts) {
            while put(link, &numbered(*count, 1000)) {
                *count += 1;
            }
            link.flush().unwrap();
        }
        steps(&fabric, 5);
    }
    let alarms = [Arc::new(Alarm::default()), Arc::new(Alarm::default())];
    for (link, alarm) in links.iter_mut().zip(&alarms) {
        // Both want room, both have frames to read.
        let waker = Waker::from(alarm.clone());
        let ready = link.poll_ready(&mut Context::from_waker(&waker));
        assert!(matches!(ready, Poll::Ready(Ok(()))));
    }
    let got = settle(&fabric, &mut links);
    assert_eq!(got[1].len() as u64, counts[0]);
    assert_eq!(got[0].len() as u64, counts[1]);
    for link in &mut links {
        assert!(put(link, &[0; 5000]), "room again");
    }
    assert_no_rule_broken(&fabric);
}

/// 5 and the wake-up race: a writer that sleeps on a full ring is woken by the first release,
/// with the reader's whole direction idle, and whichever of the two moves first.
#[test]
fn a_sleeping_writer_is_woken_by_a_release() {
    for seed in 0..200 {
        let (fabric, mut links) = linked_on(seed, SimConfig::default(), small_config());
        let [one, two] = &mut links;
        while put(one, &[7; 3000]) {
            one.flush().unwrap();
        }
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(alarm.clone());
        let mut cx = Context::from_waker(&waker);
        steps(&fabric, (seed % 7) as usize);
        let mut read = 0;
        if seed % 2 == 0 {
            steps(&fabric, 40);
            while read < 2 && take(two).unwrap().is_some() {
                read += 1;
            }
        }
        let mut ready = one.poll_ready(&mut cx).is_ready();
        for _ in 0..200 {
            steps(&fabric, 5);
            if read < 2 && take(two).unwrap().is_some() {
                read += 1;
            }
            // The reader rests: that, too, is when it answers.
            let _ = two.poll_ready(&mut Context::from_waker(Waker::noop()));
            if !ready && alarm.take() {
                ready = one.poll_ready(&mut cx).is_ready();
            }
        }
        assert!(ready, "seed {seed}: not woken: {one:?}");
        assert!(put(one, &[7; 3000]), "seed {seed}");
        assert_no_rule_broken(&fabric);
    }
}

/// 6: many completions at once; none is lost.
#[test]
fn a_long_batch_of_completions_is_taken_whole() {
    let (fabric, mut links) = linked_on(6, calm(), small_config());
    let [one, two] = &mut links;
    for number in 0..61 {
        assert!(put(one, &numbered(number, 16)));
        one.flush().unwrap();
        steps(&fabric, 1);
    }
    steps(&fabric, 50);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm);
    // A single poll, after all of them.
    assert!(two.poll_ready(&mut Context::from_waker(&waker)).is_ready());
    for number in 0..61 {
        assert_eq!(take(two).unwrap().unwrap(), numbered(number, 16));
    }
}

/// 7: what arrives between the last look and the arming wakes.
#[test]
fn an_arrival_after_the_last_look_wakes() {
    for after in 0..30 {
        let (fabric, mut links) = linked(after);
        let [one, two] = &mut links;
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(alarm.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(put(one, b"frame"));
        one.flush().unwrap();
        steps(&fabric, after as usize);
        let mut ready = two.poll_ready(&mut cx).is_ready();
        for _ in 0..100 {
            fabric.step();
            if !ready && alarm.take() {
                ready = two.poll_ready(&mut cx).is_ready();
            }
        }
        assert!(ready, "after {after} steps");
        assert_eq!(take(two).unwrap().unwrap(), b"frame");
    }
}

/// 8: a bulk buffer stays as it is until the peer has released it, whatever else is sent.
#[test]
fn a_bulk_buffer_is_not_reused_while_it_may_be_read() {
    let mut config = small_config();
    config.send_pool.max_buffers = 2;
    let slow = SimConfig { place: 20, ..SimConfig::default() };
    let (fabric, mut links) = linked_on(8, slow, config);
    let [one, two] = &mut links;
    let mut descriptors = Vec::new();
    for number in 0..2 {
        fill(one.bulk_reserve(50_000).unwrap().unwrap(), 0, number);
        descriptors.push(one.bulk_commit());
        assert!(two.bulk_pull(number, &descriptors[number as usize], 50_000).unwrap());
    }
    assert!(one.bulk_reserve(50_000).unwrap().is_none(), "both are busy: back-pressure");
    let mut pulled = Vec::new();
    while pulled.len() < 2 {
        fabric.step();
        assert!(one.bulk_reserve(50_000).unwrap().is_none());
        if let Some(Received::Pulled { ticket, message }) = two.receive().unwrap() {
            assert_eq!(message, numbered(ticket, 50_000));
            pulled.push(message);
        }
    }
    assert_eq!(two.usage().pull_buffers_busy, 2);
    drop(pulled);
    assert_eq!(two.usage().pull_buffers_busy, 0);
    one.bulk_release(&descriptors[0]).unwrap();
    let ready = one.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(ready.is_ready(), "the buffer that was wanted is there");
    assert!(one.bulk_reserve(50_000).unwrap().is_some());
    assert_no_rule_broken(&fabric);
}

/// 10: a consumer that keeps pulled messages holds up pulls, not frames; dropping one of them, in
/// another thread, wakes.
#[test]
fn a_slow_consumer_of_bulk_messages_does_not_stop_frames() {
    let mut config = small_config();
    config.receive_pool.max_buffers = 1;
    let (fabric, mut links) = linked_on(10, calm(), config);
    let [one, two] = &mut links;
    let mut descriptors = Vec::new();
    for number in 0..2 {
        fill(one.bulk_reserve(9000).unwrap().unwrap(), 0, number);
        descriptors.push(one.bulk_commit());
    }
    assert!(two.bulk_pull(0, &descriptors[0], 9000).unwrap());
    steps(&fabric, 50);
    let Some(Received::Pulled { message, .. }) = two.receive().unwrap() else { panic!() };
    assert!(!two.bulk_pull(1, &descriptors[1], 9000).unwrap(), "the pool is used up");
    assert!(put(one, b"still here"));
    one.flush().unwrap();
    steps(&fabric, 20);
    assert_eq!(take(two).unwrap().unwrap(), b"still here");

    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(two.poll_ready(&mut cx).is_pending());
    std::thread::spawn(move || drop(message)).join().unwrap();
    assert!(alarm.take(), "the return of the buffer wakes");
    assert!(two.poll_ready(&mut cx).is_ready());
    assert!(two.bulk_pull(1, &descriptors[1], 9000).unwrap());
}

/// 13: an idle connection is idle, and the first burst after it needs no more steps than ever.
#[test]
fn an_idle_connection_costs_nothing_and_starts_at_once() {
    let (fabric, mut links) = linked_on(13, calm(), small_config());
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    let steps_to_arrive = |links: &mut [SimLink; 2]| {
        let [one, two] = links;
        assert!(put(one, b"first"));
        one.flush().unwrap();
        for count in 1..100 {
            fabric.step();
            if take(two).unwrap().is_some() {
                return count;
            }
        }
        panic!("never");
    };
    let warm = steps_to_arrive(&mut links);
    settle(&fabric, &mut links);
    for link in &mut links {
        assert!(link.poll_ready(&mut cx).is_pending());
    }
    alarm.take();
    steps(&fabric, 10_000);
    assert!(!alarm.take(), "an idle connection wakes nobody");
    assert!(fabric.is_idle());
    assert!(steps_to_arrive(&mut links) <= warm + 2);
}

/// 15: a completion that is none of ours is an error that names it, not a slot freed twice.
#[test]
fn a_stale_completion_is_found() {
    let fabric = Fabric::new(15);
    let (mut one, two) = fabric.pair(calm(), calm());
    // A request from before the ring: its completion is still to come when the ring begins.
    let target = RemoteAddr { addr: 0, rkey: 0 };
    let op = rdma_rpc_transport_rdma::verbs::Op::Write { from: None, to: target, imm: None };
    one.queue_pair.post_send(&[WorkRequest { id: 99, op, signaled: true }]).unwrap();
    let [mut one, _two] = join(one, two, [small_config(), small_config()]);
    steps(&fabric, 20);
    let error = take(&mut one).unwrap_err();
    assert_eq!(error.kind(), LinkErrorKind::Io);
    assert!(error.to_string().contains("request 99"), "{error}");
}

/// What had arrived before the peer died is delivered, and then the end.
#[test]
fn a_killed_peer_is_noticed_after_its_last_burst() {
    let (fabric, links) = linked_on(16, calm(), small_config());
    let [mut one, mut two] = links;
    for number in 0..10 {
        assert!(put(&mut one, &numbered(number, 500)));
        one.flush().unwrap();
        steps(&fabric, 5);
    }
    steps(&fabric, 50);
    fabric.inject(Fault::ProcessKilled, 0);
    std::mem::forget(one);
    steps(&fabric, 100);
    let waker = Waker::noop();
    let mut cx = Context::from_waker(waker);
    let mut number = 0;
    let error = loop {
        let _ = two.poll_ready(&mut cx);
        fabric.step();
        match take(&mut two) {
            Ok(Some(frame)) => {
                assert_eq!(frame, numbered(number, 500));
                number += 1;
            }
            Ok(None) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(number, 10);
    assert_eq!(error.kind(), LinkErrorKind::Closed, "{error}");
}

/// Either end may be the first to say hello and to send; the other need not be connected yet.
#[test]
fn the_first_end_may_send_before_the_second_has_heard_it() {
    let fabric = Fabric::new(17);
    let (one, two) = fabric.pair(calm(), calm());
    let one =
        RingLink::prepare(one.queue_pair, Some(Box::new(one.liveness)), small_config()).unwrap();
    let two =
        RingLink::prepare(two.queue_pair, Some(Box::new(two.liveness)), small_config()).unwrap();
    let hello = one.hello();
    let mut one = one.connect(&two.hello()).unwrap();
    for number in 0..20 {
        assert!(put(&mut one, &numbered(number, 100)));
        one.flush().unwrap();
        steps(&fabric, 10);
    }
    let mut two = two.connect(&hello).unwrap();
    for number in 0..20 {
        assert_eq!(take(&mut two).unwrap().unwrap(), numbered(number, 100));
    }
}

#[test]
fn both_ends_agree_on_the_smaller_ring() {
    let fabric = Fabric::new(18);
    let (one, two) = fabric.pair(calm(), calm());
    let large = RingConfig { ring_bytes: 128 * 1024, ..small_config() };
    let links = join(one, two, [large, small_config()]);
    assert_eq!(links[0].limits(), links[1].limits());
    assert!(links[0].limits().max_frame_bytes >= 4096);
}

#[test]
fn an_orderly_close_delivers_everything_first() {
    let device = SimConfig { receive_depth: 4, ..calm() };
    let (fabric, links) = linked_on(19, device, small_config());
    let [mut one, mut two] = links;
    for number in 0..30 {
        assert!(put(&mut one, &numbered(number, 300)));
        one.flush().unwrap();
    }
    assert!(one.has_unsent(), "more than the peer has receives for");
    let mut cx = Context::from_waker(Waker::noop());
    let (mut number, mut closed) = (0, false);
    let error = loop {
        closed = closed || one.poll_close(&mut cx).map(Result::unwrap).is_ready();
        fabric.step();
        match take(&mut two) {
            Ok(Some(frame)) => {
                assert_eq!(frame, numbered(number, 300));
                number += 1;
            }
            Ok(None) => {
                let _ = two.poll_ready(&mut cx);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(number, 30);
    assert_eq!(error.kind(), LinkErrorKind::Closed);
    assert!(error.to_string().contains("in order"), "{error}");
    for _ in 0..100 {
        fabric.step();
        closed = closed || one.poll_close(&mut cx).map(Result::unwrap).is_ready();
    }
    assert!(closed);
}

/// Without immediates (iWARP) a completed request need not have arrived: whoever closes keeps its
/// queue pair until the other end is gone, and that this then fails is in order.
#[test]
fn without_immediates_whoever_closes_goes_last() {
    let device = SimConfig { write_with_imm: false, ..calm() };
    let (fabric, links) = linked_on(23, device, small_config());
    let [mut one, mut two] = links;
    assert!(put(&mut one, &numbered(0, 300)));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..200 {
        assert!(one.poll_close(&mut cx).is_pending(), "the other end is still there");
        fabric.step();
    }
    assert_eq!(take(&mut two).unwrap().unwrap(), numbered(0, 300));
    let error = take(&mut two).unwrap_err();
    assert!(error.to_string().contains("in order"), "{error}");
    drop(two);
    let closed = (0..500).any(|_| {
        fabric.step();
        one.poll_close(&mut cx).map(Result::unwrap).is_ready()
    });
    assert!(closed, "{one:?}");
}

/// One large message in many pieces beside a stream of frames.
#[test]
fn a_large_bulk_message_arrives_whole() {
    let (fabric, links) = linked_on(20, calm(), small_config());
    let [one, two] = links;
    let list = vec![Message::Bulk(256 * 1024), Message::Frame(100), Message::Bulk(0)];
    let mut owners = [Owner::new(0, one, list, 0, 20), Owner::new(1, two, vec![], 3, 20)];
    let mut now = 0;
    drive(&fabric, &mut owners, &mut now, |o| o.iter().all(Owner::is_satisfied));
    assert!(fabric.stats().reads >= 16, "in pieces of 16 KiB");
    assert_no_rule_broken(&fabric);
}

#[test]
fn a_device_without_reads_has_no_bulk() {
    let device = SimConfig { reads_in_flight: 0, ..calm() };
    let (_fabric, links) = linked_on(21, device, small_config());
    assert_eq!(links[0].limits().bulk_threshold_bytes, None);
    assert_eq!(links[0].limits().max_bulk_bytes, 0);
}

#[test]
fn info_names_the_transport_and_the_device() {
    let (_fabric, links) = linked(22);
    let info = links[0].info();
    assert_eq!(
        (info.transport, info.device.as_str(), info.peer.as_str()),
        ("rdma", "sim0", "peer")
    );
}

#[test]
fn a_frame_too_long_is_refused_and_named() {
    let (_fabric, mut links) = linked(23);
    let most = links[0].limits().max_frame_bytes;
    let message = links[0].reserve(most + 1).unwrap_err().to_string();
    assert!(message.contains(&format!("the longest is {most}")), "{message}");
    assert!(links[0].reserve(most).unwrap().is_some(), "the link still works");
}
