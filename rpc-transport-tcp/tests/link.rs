//! The link over real sockets: content and order, readiness, back-pressure, endings.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rdma_rpc_core::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkErrorKind, Received};
use rdma_rpc_core::poll_set::PollSet;
use rdma_rpc_transport_tcp::{Keepalive, Socket, SocketOptions, TcpLink, TcpLinkOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

const HANG: Duration = Duration::from_secs(30);

fn tiny() -> SocketOptions {
    let mut options = SocketOptions::default();
    // Not the receive buffer: with a window far below loopback's segment size TCP itself waits
    // for its timers, 40 to 200 ms at a time.
    options.send_buffer_bytes = Some(4096);
    options
}

async fn tcp_streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(address), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

async fn sockets(unix: bool, options: &SocketOptions) -> (Socket, Socket) {
    if unix {
        let (a, b) = UnixStream::pair().unwrap();
        (Socket::from_unix(a, options).unwrap(), Socket::from_unix(b, options).unwrap())
    } else {
        let (a, b) = tcp_streams().await;
        (Socket::from_tcp(a, options).unwrap(), Socket::from_tcp(b, options).unwrap())
    }
}

async fn links(unix: bool, options: &SocketOptions) -> (TcpLink, TcpLink) {
    let (a, b) = sockets(unix, options).await;
    let link = TcpLinkOptions::default();
    (TcpLink::new(a, &[], &link), TcpLink::new(b, &[], &link))
}

async fn link_and_raw() -> (TcpLink, TcpStream) {
    let (a, b) = tcp_streams().await;
    let socket = Socket::from_tcp(a, &SocketOptions::default()).unwrap();
    (TcpLink::new(socket, &[], &TcpLinkOptions::default()), b)
}

/// A frame both ends can compute.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number.wrapping_mul(31) ^ i.wrapping_mul(7) ^ (i >> 8)) as u8).collect()
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    len: usize,
    owned: bool,
    flush: bool,
}

/// Moves on without ever waiting; true when a frame could be queued.
fn try_send(link: &mut TcpLink, number: usize, plan: Plan) -> Result<bool, LinkError> {
    try_send_bytes(link, &Bytes::from(frame(number, plan.len)), plan)
}

fn try_send_bytes(link: &mut TcpLink, bytes: &Bytes, plan: Plan) -> Result<bool, LinkError> {
    if plan.owned {
        let head = plan.len.min(13);
        // Every other one with something after the body.
        let tail = plan.len.saturating_sub(plan.len % 2 * 7).max(head);
        let body = bytes.slice(head..tail);
        return link.send_owned(
            [&bytes[..head / 2], &bytes[head / 2..head]],
            &body,
            &bytes[tail..],
        );
    }
    match link.reserve(plan.len)? {
        None => Ok(false),
        Some(room) => {
            room.copy_from_slice(bytes);
            link.commit();
            Ok(true)
        }
    }
}

/// Sends what is planned and checks what the peer planned, sleeping only in `poll_ready`.
async fn drive(mut link: TcpLink, ours: Vec<Plan>, theirs: Vec<Plan>) -> TcpLink {
    let (mut sent, mut got) = (0, 0);
    let frames: Vec<Bytes> =
        ours.iter().enumerate().map(|(i, plan)| Bytes::from(frame(i, plan.len))).collect();
    while sent < ours.len() || got < theirs.len() || link.has_unsent() {
        while sent < ours.len() {
            if !try_send_bytes(&mut link, &frames[sent], ours[sent]).unwrap() {
                break;
            }
            if ours[sent].flush {
                link.flush().unwrap();
            }
            sent += 1;
        }
        link.flush().unwrap();
        while got < theirs.len() {
            match link.receive().unwrap() {
                None => break,
                Some(Received::Frame(bytes)) => {
                    assert_eq!(bytes, frame(got, theirs[got].len), "frame {got}");
                }
                Some(Received::Owned(bytes)) => {
                    assert_eq!(bytes, frame(got, theirs[got].len), "frame {got}");
                }
                Some(Received::Pulled { .. }) => panic!("pulled on a socket"),
            }
            got += 1;
        }
        if sent < ours.len() || got < theirs.len() || link.has_unsent() {
            poll_fn(|cx| link.poll_ready(cx)).await.unwrap();
        }
    }
    link
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let len = prop_oneof![
        6 => 1_usize..200,
        2 => 200_usize..9000,
        1 => 9000_usize..=80 * 1024,
        1 => Just(80 * 1024_usize),
    ];
    let plan = (len, any::<bool>(), any::<bool>()).prop_map(|(len, owned, flush)| Plan {
        len,
        owned,
        flush,
    });
    proptest::collection::vec(plan, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_arrive_whole_and_in_order(
        ours in plans(),
        theirs in plans(),
        unix in any::<bool>(),
        small_staging in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (a, b) = sockets(unix, &tiny()).await;
            let mut options = TcpLinkOptions::default();
            if small_staging {
                options.staging_bytes = 0;
                options.max_owned_bytes = 0;
            }
            let a = TcpLink::new(a, &[], &options);
            let b = TcpLink::new(b, &[], &options);
            let both = async {
                tokio::join!(
                    drive(a, ours.clone(), theirs.clone()),
                    drive(b, theirs.clone(), ours.clone()),
                )
            };
            timeout(HANG, both).await.expect("readiness was missed: both ends sleep");
        });
    }
}

/// Two threads, so that bytes arrive between any two steps of the other end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_never_missed_under_ping_pong() {
    for unix in [false, true] {
        let (mut a, mut b) = links(unix, &SocketOptions::default()).await;
        let one = |len| Plan { len, owned: false, flush: true };
        let echo = tokio::spawn(async move {
            for i in 0..20_000 {
                b = drive(b, vec![one(1 + i % 90)], vec![one(1 + i % 90)]).await;
                // Frames are numbered within each drive, so every round is frame 0.
            }
        });
        for i in 0..20_000 {
            a = timeout(HANG, drive(a, vec![one(1 + i % 90)], vec![one(1 + i % 90)]))
                .await
                .expect("readiness was missed");
        }
        echo.await.unwrap();
    }
}

/// In a poll set the kernel wakes as ever, and the set sends to sleep whoever has waited too long.
#[tokio::test]
async fn a_link_in_a_poll_set_is_woken_by_frames_and_by_the_end_of_its_patience() {
    for unix in [false, true] {
        let (mut near, mut far) = links(unix, &SocketOptions::default()).await;
        let set = PollSet::current(Some(Duration::from_millis(20)));
        for number in 0..100 {
            let woken = poll_fn(|cx| near.poll_ready_in(cx, &set));
            let sent = async {
                tokio::task::yield_now().await;
                let message = frame(number, 100);
                far.reserve(100).unwrap().unwrap().copy_from_slice(&message);
                far.commit();
                far.flush().unwrap();
            };
            let (ready, ()) = timeout(HANG, async { tokio::join!(woken, sent) }).await.unwrap();
            ready.unwrap();
            let received = loop {
                match near.receive().unwrap() {
                    Some(Received::Frame(received)) => break received.to_vec(),
                    Some(other) => panic!("{other:?}"),
                    None => timeout(HANG, poll_fn(|cx| near.poll_ready_in(cx, &set)))
                        .await
                        .expect("a frame was missed")
                        .unwrap(),
                }
            };
            assert_eq!(received, frame(number, 100));
        }
        // Nothing comes any more: the set wakes the link's owner for nothing, once.
        assert!(near.receive().unwrap().is_none());
        let mut looks = 0;
        let told = poll_fn(|cx| {
            looks += 1;
            match near.poll_ready_in(cx, &set) {
                Poll::Pending if looks == 1 => Poll::Pending,
                ready => Poll::Ready(ready),
            }
        });
        assert!(timeout(HANG, told).await.expect("its patience ends").is_pending());
        assert_eq!(looks, 2);
    }
}

#[tokio::test]
async fn frames_split_anywhere_are_put_together() {
    let (mut link, mut raw) = link_and_raw().await;
    let lengths = [1, 2, 300, 8191, 8192, 8193, 20_000, 81_920, 5];
    let mut wire = Vec::new();
    for (number, &len) in lengths.iter().enumerate() {
        wire.extend_from_slice(&(len as u32).to_le_bytes());
        wire.extend_from_slice(&frame(number, len));
    }
    let writer = tokio::spawn(async move {
        let mut rest = &wire[..];
        let mut step = 1;
        while !rest.is_empty() {
            let n = rest.len().min(step);
            raw.write_all(&rest[..n]).await.unwrap();
            rest = &rest[n..];
            step = if step > 5000 { 1 } else { step * 3 };
            tokio::task::yield_now().await;
        }
        raw
    });
    for (number, &len) in lengths.iter().enumerate() {
        let got = next(&mut link).await.unwrap();
        assert_eq!(got, frame(number, len));
    }
    drop(writer.await.unwrap());
    let end = next(&mut link).await.unwrap_err();
    assert_eq!(end.kind(), LinkErrorKind::Closed);
}

async fn next(link: &mut TcpLink) -> Result<Vec<u8>, LinkError> {
    loop {
        match link.receive()? {
            Some(Received::Frame(bytes)) => return Ok(bytes.to_vec()),
            Some(Received::Owned(bytes)) => return Ok(bytes.to_vec()),
            Some(Received::Pulled { .. }) => panic!("pulled on a socket"),
            None => {
                let ready = timeout(HANG, poll_fn(|cx| link.poll_ready(cx)));
                ready.await.expect("readiness was missed")?;
            }
        }
    }
}

#[tokio::test]
async fn bytes_read_past_the_bootstrap_come_first() {
    let (a, mut raw) = tcp_streams().await;
    let socket = Socket::from_tcp(a, &SocketOptions::default()).unwrap();
    let early = [3, 0, 0, 0, b'a', b'b', b'c', 4, 0, 0];
    let mut link = TcpLink::new(socket, &early, &TcpLinkOptions::default());
    assert!(ready_now(&mut link));
    assert_eq!(next(&mut link).await.unwrap(), b"abc");
    raw.write_all(&[0, b'd', b'e', b'f', b'g']).await.unwrap();
    assert_eq!(next(&mut link).await.unwrap(), b"defg");
}

fn ready_now(link: &mut TcpLink) -> bool {
    link.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn bad_lengths_are_the_peers_fault_with_the_offset() {
    for bad in [0, TcpLinkOptions::default().max_frame_bytes as u32 + 1, u32::MAX] {
        let (mut link, mut raw) = link_and_raw().await;
        raw.write_all(&[2, 0, 0, 0, 1, 1]).await.unwrap();
        raw.write_all(&bad.to_le_bytes()).await.unwrap();
        assert_eq!(next(&mut link).await.unwrap(), [1, 1]);
        let error = next(&mut link).await.unwrap_err();
        assert_eq!(error.kind(), LinkErrorKind::PeerMisbehaved);
        assert!(error.to_string().contains("offset 6"), "{error}");
        assert!(error.to_string().contains(&bad.to_string()), "{error}");
        assert!(next(&mut link).await.is_err(), "a dead link stays dead");
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_says_what_is_missing() {
    for (sent, missing) in [
        (vec![9, 0], "2 bytes of a frame's length missing"),
        (vec![9, 0, 0, 0], "9 of its 9 bytes"),
        (vec![9, 0, 0, 0, 1, 2, 3], "6 of its 9 bytes"),
        ([&50_000_u32.to_le_bytes()[..], &[0; 30_000]].concat(), "20000 of its 50000 bytes"),
    ] {
        let (mut link, mut raw) = link_and_raw().await;
        raw.write_all(&[1, 0, 0, 0, 7]).await.unwrap();
        raw.write_all(&sent).await.unwrap();
        raw.shutdown().await.unwrap();
        assert_eq!(next(&mut link).await.unwrap(), [7]);
        let error = next(&mut link).await.unwrap_err();
        assert_eq!(error.kind(), LinkErrorKind::Closed);
        assert!(error.to_string().contains(missing), "{error}");
        assert!(error.to_string().contains(&format!("offset {}", 5 + sent.len())), "{error}");
    }
}

#[tokio::test]
async fn an_orderly_close_delivers_everything_first() {
    for unix in [false, true] {
        // The kernel buffers are small: most frames leave only while the close is under way.
        let (mut a, mut b) = links(unix, &tiny()).await;
        let plan = Plan { len: 3000, owned: false, flush: false };
        for number in 0..60 {
            assert!(try_send(&mut a, number, plan).unwrap());
        }
        // Unread bytes at the closing end must not turn the close into a reset.
        assert!(try_send(&mut b, 0, plan).unwrap());
        b.flush().unwrap();
        let close = async {
            poll_fn(|cx| a.poll_close(cx)).await.unwrap();
            assert!(a.reserve(1).is_err(), "sent after the close");
            drop(a);
        };
        let read = async {
            for number in 0..60 {
                assert_eq!(next(&mut b).await.unwrap(), frame(number, 3000), "frame {number}");
            }
            next(&mut b).await.unwrap_err()
        };
        let ((), end) = timeout(HANG, async { tokio::join!(close, read) }).await.expect("hang");
        assert_eq!(end.kind(), LinkErrorKind::Closed);
        assert!(end.to_string().contains("closed the connection"), "{end}");
    }
}

#[tokio::test]
async fn what_a_gone_peer_sent_is_received_before_the_error() {
    let (mut link, mut raw) = link_and_raw().await;
    raw.write_all(&[2, 0, 0, 0, 8, 9]).await.unwrap();
    raw.set_zero_linger().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(raw);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let plan = Plan { len: 100, owned: false, flush: false };
    for number in 0..5 {
        assert!(try_send(&mut link, number, plan).unwrap());
        link.flush().unwrap();
    }
    assert_eq!(next(&mut link).await.unwrap(), [8, 9]);
    assert_eq!(next(&mut link).await.unwrap_err().kind(), LinkErrorKind::Closed);
}

#[tokio::test]
async fn a_slow_reader_is_back_pressure_not_memory() {
    for owned in [false, true] {
        let (mut link, mut raw) = link_and_raw().await;
        let plan = Plan { len: 60_000, owned, flush: true };
        let mut queued = 0;
        // Until neither the kernel nor the link takes more.
        loop {
            if !try_send(&mut link, queued, plan).unwrap() {
                break;
            }
            link.flush().unwrap();
            queued += 1;
            assert!(queued < 10_000, "no back-pressure after {queued} frames");
        }
        // One longest frame of copies, the lent messages, and one more of those.
        let limit = (1088 + 1024 + 64) * 1024;
        for _ in 0..100 {
            assert!(!try_send(&mut link, queued, plan).unwrap());
            link.flush().unwrap();
        }
        assert!(link.buffered_capacity_bytes() <= limit, "{}", link.buffered_capacity_bytes());
        assert!(!ready_now(&mut link), "ready although nothing can move");

        // The reader wakes up: so does the sender, and nothing was lost.
        let reader = tokio::spawn(async move {
            let mut wire = vec![0; (4 + 60_000) * (queued + 1)];
            raw.read_exact(&mut wire).await.unwrap();
            wire
        });
        while !try_send(&mut link, queued, plan).unwrap() {
            let ready = timeout(HANG, poll_fn(|cx| link.poll_ready(cx)));
            ready.await.expect("readiness was missed").unwrap();
            link.flush().unwrap();
        }
        timeout(HANG, poll_fn(|cx| link.poll_close(cx))).await.expect("hang").unwrap();
        let wire = reader.await.unwrap();
        for (number, got) in wire.chunks(4 + 60_000).enumerate() {
            assert_eq!(got[..4], 60_000_u32.to_le_bytes());
            assert!(got[4..] == frame(number, 60_000), "frame {number}");
        }
    }
}

#[tokio::test]
async fn a_reader_that_has_died_ends_the_connection() {
    let (a, raw) = tcp_streams().await;
    let mut options = SocketOptions::default();
    options.keepalive =
        Some(Keepalive { interval: Duration::from_secs(1), timeout: Duration::from_millis(1000) });
    let socket = Socket::from_tcp(a, &options).unwrap();
    let mut link = TcpLink::new(socket, &[], &TcpLinkOptions::default());
    let plan = Plan { len: 60_000, owned: false, flush: true };
    let dying = async {
        loop {
            // The peer's process lives, acknowledges, and never reads.
            match try_send(&mut link, 0, plan).and_then(|sent| {
                link.flush()?;
                if !sent {
                    link.receive()?;
                }
                Ok(sent)
            }) {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(error) = poll_fn(|cx| link.poll_ready(cx)).await {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    };
    let error = timeout(HANG, dying).await.expect("a dead reader stalled its sender for ever");
    assert_eq!(error.kind(), LinkErrorKind::Io);
    assert!(error.to_string().contains("keepalive timeout"), "{error}");
    drop(raw);
}

#[tokio::test]
async fn an_idle_link_costs_no_buffers() {
    let (mut a, mut b) = links(false, &SocketOptions::default()).await;
    assert!(size_of::<TcpLink>() < 1024, "{}", size_of::<TcpLink>());
    assert!(!ready_now(&mut a));
    assert_eq!(a.buffered_capacity_bytes(), 0);
    let plan = Plan { len: 100, owned: false, flush: true };
    a = drive(a, vec![plan; 10], vec![]).await;
    b = drive(b, vec![], vec![plan; 10]).await;
    assert!(a.buffered_capacity_bytes() < 17 * 1024, "{}", a.buffered_capacity_bytes());
    assert!(b.buffered_capacity_bytes() < 17 * 1024, "{}", b.buffered_capacity_bytes());
}

#[tokio::test]
async fn a_lying_length_costs_no_memory() {
    let (mut link, mut raw) = link_and_raw().await;
    raw.write_all(&(80 * 1024_u32).to_le_bytes()).await.unwrap();
    raw.write_all(&[0; 1000]).await.unwrap();
    poll_fn(|cx| link.poll_ready(cx)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(link.receive().unwrap().is_none());
    assert!(link.buffered_capacity_bytes() < 17 * 1024, "{}", link.buffered_capacity_bytes());
}

#[tokio::test]
async fn the_staging_ring_shrinks_when_it_is_quiet() {
    let (mut link, mut raw) = link_and_raw().await;
    let sink = tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while raw.read(&mut bytes).await.unwrap() > 0 {}
    });
    let large = Plan { len: 60_000, owned: false, flush: false };
    for number in 0..4 {
        assert!(try_send(&mut link, number, large).unwrap());
    }
    assert!(link.buffered_capacity_bytes() > 200_000);
    let small = Plan { len: 50, owned: false, flush: true };
    for _ in 0..10_000 {
        link = drive(link, vec![small], vec![]).await;
    }
    assert!(link.buffered_capacity_bytes() < 17 * 1024, "{}", link.buffered_capacity_bytes());
    drop(link);
    sink.await.unwrap();
}

#[tokio::test]
async fn write_interest_only_while_something_waits() {
    let (mut a, _b) = links(true, &SocketOptions::default()).await;
    // The socket is writable all the time: an idle link must not be woken for that.
    assert!(!ready_now(&mut a));
    let forgotten = a.reserve(10).unwrap().unwrap().len();
    assert_eq!(forgotten, 10);
    assert!(!a.has_unsent());
    assert!(!ready_now(&mut a));
    a.reserve(3).unwrap().unwrap().copy_from_slice(b"abc");
    a.commit();
    assert!(a.has_unsent());
    assert!(ready_now(&mut a));
    a.flush().unwrap();
    assert!(!ready_now(&mut a));
}

#[tokio::test]
async fn frames_out_of_bounds_and_bulk_are_refused_by_name() {
    let (mut a, _b) = links(true, &SocketOptions::default()).await;
    let limits = a.limits();
    assert_eq!(
        (limits.max_frame_bytes, limits.bulk_threshold_bytes),
        (TcpLinkOptions::default().max_frame_bytes, None)
    );
    for len in [0, limits.max_frame_bytes + 1] {
        assert!(a.reserve(len).unwrap_err().to_string().contains(&format!("of {len} bytes")));
    }
    let nothing = BulkDescriptor::new(&[]).unwrap();
    assert!(a.bulk_reserve(1).unwrap_err().to_string().contains("no bulk"));
    let error = a.bulk_pull(1, &nothing, 1).unwrap_err();
    assert_eq!(error.kind(), LinkErrorKind::PeerMisbehaved);
    assert_eq!(a.bulk_release(&nothing).unwrap_err().kind(), LinkErrorKind::PeerMisbehaved);
    let info = a.info();
    assert_eq!(info.transport, "tcp");
    assert!(info.peer.starts_with("unix:pid "), "{}", info.peer);
}

#[tokio::test]
async fn a_killed_peer_is_noticed_while_asleep() {
    let (mut link, raw) = link_and_raw().await;
    assert!(matches!(link.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    let killer = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(raw);
    };
    let (end, ()) = tokio::join!(next(&mut link), killer);
    assert_eq!(end.unwrap_err().kind(), LinkErrorKind::Closed);
}

/// BBR is not for connections within a host; any other choice of the system stays.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_within_the_host_leaves_bbr_and_nothing_else() {
    let systems = std::fs::read("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    let systems = systems.trim_ascii_end();
    let (near, far) = tcp_streams().await;
    for stream in [near, far] {
        let raw = socket2::SockRef::from(&stream).try_clone().unwrap();
        let _socket = Socket::from_tcp(stream, &SocketOptions::default()).unwrap();
        let name = raw.tcp_congestion().unwrap();
        let name = name.split(|byte| *byte == 0).next().unwrap();
        if systems.starts_with(b"bbr") {
            assert!([&b"cubic"[..], b"reno"].contains(&name), "{name:?}");
        } else {
            assert_eq!(name, systems);
        }
    }
}
