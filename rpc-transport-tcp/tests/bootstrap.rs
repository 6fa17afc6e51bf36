//! The handshake between two real ends, and against peers that close, stall, lie or are strangers.

use std::time::Duration;

use proptest::prelude::*;
use rdma_rpc_core::link::{FrameSink, Link, Received};
use rdma_rpc_core::upgrade::{Exchange, Liveness, MAX_EXCHANGE_BYTES};
use rdma_rpc_transport_tcp::bootstrap::{Culprit, Declined, MAGIC, RejectCode};
use rdma_rpc_transport_tcp::{
    BootstrapError, BootstrapOptions, ClientBootstrap, Confirmed, Listener, Offer, Outcome,
    ServerBootstrap, Socket, SocketOptions, TcpLinkOptions, TransportKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

/// Far above any bound under test: reaching it is a hang.
const HANG: Duration = Duration::from_secs(20);

fn options() -> BootstrapOptions {
    BootstrapOptions { authority: Some("kv:7400".into()), ..BootstrapOptions::default() }
}

fn hasty(timeout_ms: u64) -> BootstrapOptions {
    BootstrapOptions { handshake_timeout: Duration::from_millis(timeout_ms), ..options() }
}

fn offer(transport: TransportKind) -> Offer {
    Offer { transport, body: vec![1, 2, 3] }
}

fn sockets() -> (Socket, Socket) {
    let (a, b) = UnixStream::pair().unwrap();
    let options = SocketOptions::default();
    (Socket::from_unix(a, &options).unwrap(), Socket::from_unix(b, &options).unwrap())
}

/// One of our ends, and the raw stream of a peer under the test's control.
fn socket_and_raw() -> (Socket, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    (Socket::from_unix(a, &SocketOptions::default()).unwrap(), b)
}

/// Two ends after the replies, the server having chosen `choice` of shm and rdma.
async fn agreed(
    choice: TransportKind,
    client: &BootstrapOptions,
    server: &BootstrapOptions,
) -> (ClientBootstrap, ServerBootstrap) {
    let (a, b) = sockets();
    let offers = vec![offer(TransportKind::Rdma), offer(TransportKind::Shm)];
    let serve = async {
        let mut bootstrap = ServerBootstrap::accept(b, server).await.unwrap();
        bootstrap.answer(choice, b"body", Vec::new()).await.unwrap();
        bootstrap
    };
    let (client, server) = tokio::join!(ClientBootstrap::over(a, client, offers), serve);
    (client.unwrap(), server)
}

/// Sends one frame each way over what the handshake left.
async fn prove_link(client: Confirmed, server: Confirmed) {
    let mut a = client.into_link(&TcpLinkOptions::default());
    let mut b = server.into_link(&TcpLinkOptions::default());
    for _ in 0..2 {
        assert!(a.send_owned([b"h", b"e"], &bytes::Bytes::from_static(b"ll"), b"o").unwrap());
        a.flush().unwrap();
        std::future::poll_fn(|cx| b.poll_ready(cx)).await.unwrap();
        let Some(Received::Frame(frame)) = b.receive().unwrap() else { panic!("no frame") };
        assert_eq!(frame, b"hello");
        std::mem::swap(&mut a, &mut b);
    }
}

/// The bytes a real client sends first.
async fn hello_bytes() -> Vec<u8> {
    let (socket, mut raw) = socket_and_raw();
    let offers = vec![offer(TransportKind::Rdma), offer(TransportKind::Shm)];
    let client =
        tokio::spawn(async move { ClientBootstrap::over(socket, &options(), offers).await });
    let mut bytes = vec![0; 4096];
    let n = raw.read(&mut bytes).await.unwrap();
    bytes.truncate(n);
    client.abort();
    bytes
}

/// The bytes a real server answers with.
async fn reply_bytes() -> Vec<u8> {
    let (socket, mut raw) = socket_and_raw();
    raw.write_all(&hello_bytes().await).await.unwrap();
    let mut server = ServerBootstrap::accept(socket, &options()).await.unwrap();
    let declined =
        vec![Declined { transport: TransportKind::Rdma, reason: "no device here".into() }];
    server.answer(TransportKind::Shm, b"where it is", declined).await.unwrap();
    let mut bytes = vec![0; 4096];
    let n = raw.read(&mut bytes).await.unwrap();
    bytes.truncate(n);
    bytes
}

async fn accept_of(bytes: &[u8], options: &BootstrapOptions) -> Result<(), BootstrapError> {
    let (socket, mut raw) = socket_and_raw();
    raw.write_all(bytes).await.unwrap();
    raw.shutdown().await.unwrap();
    // What the server says is read and forgotten, so that it never lingers.
    let drain = tokio::spawn(async move {
        let mut sink = Vec::new();
        let _ = raw.read_to_end(&mut sink).await;
    });
    let outcome = timeout(HANG, ServerBootstrap::accept(socket, options)).await.expect("hang");
    let outcome = outcome.map(drop);
    drain.await.unwrap();
    outcome
}

async fn connect_to(bytes: &[u8]) -> Result<(), BootstrapError> {
    let (socket, mut raw) = socket_and_raw();
    raw.write_all(bytes).await.unwrap();
    raw.shutdown().await.unwrap();
    let offers = vec![offer(TransportKind::Rdma), offer(TransportKind::Shm)];
    timeout(HANG, ClientBootstrap::over(socket, &options(), offers)).await.expect("hang").map(drop)
}

#[tokio::test]
async fn over_a_real_port_both_ends_learn_what_was_agreed() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) =
            Listener::bind(&address.parse().unwrap(), &SocketOptions::default()).await
        else {
            assert_eq!(address, "[::1]:0", "only IPv6 may be missing");
            println!("skipped: this host has no {address}");
            continue;
        };
        let with = |features| BootstrapOptions {
            features,
            authority: None,
            ..BootstrapOptions::default()
        };
        let offers = vec![
            offer(TransportKind::Rdma),
            offer(TransportKind::Shm),
            offer(TransportKind::Unknown(77)),
        ];
        let serve = async {
            let socket = listener.accept().await.unwrap();
            let mut server = ServerBootstrap::accept(socket, &with(0b110)).await.unwrap();
            assert_eq!(server.authority(), listener.local_address().to_string());
            assert_eq!(server.offers(), offers);
            let no_device = Declined { transport: TransportKind::Rdma, reason: "no device".into() };
            server.answer(TransportKind::Tcp, &[], vec![no_device]).await.unwrap();
            server.confirm(Ok(())).await.unwrap()
        };
        let connect = async {
            let client =
                ClientBootstrap::connect(listener.local_address(), &with(0b011), offers.clone())
                    .await
                    .unwrap();
            assert_eq!(client.answer().transport, TransportKind::Tcp);
            client.confirm(Ok(())).await.unwrap()
        };
        let (server, client) = tokio::join!(serve, connect);
        for end in [&server, &client] {
            assert_eq!((end.version, end.features), (1, 0b010));
            let Outcome::Tcp { reason } = &end.outcome else { panic!("upgraded") };
            assert_eq!(
                reason,
                "rdma: no device; shm: tcp was chosen; transport 77: not known to this server"
            );
        }
        assert_eq!(client.peer, server.local);
        assert_eq!(client.local, server.peer);
        prove_link(client, server).await;
    }
}

#[tokio::test]
async fn an_upgrade_exchanges_messages_and_leaves_a_quiet_socket() {
    let (mut client, mut server) = agreed(TransportKind::Shm, &options(), &options()).await;
    assert_eq!(client.answer().body, b"body");
    assert_eq!(client.answer().declined[0].reason, "shm was chosen");
    let long = vec![7; MAX_EXCHANGE_BYTES];
    let too_long = client.send(&vec![7; MAX_EXCHANGE_BYTES + 1]).await.unwrap_err();
    assert_eq!(too_long.kind(), std::io::ErrorKind::InvalidInput);
    let (sent, got) = tokio::join!(client.send(&long), server.receive());
    sent.unwrap();
    assert_eq!(got.unwrap(), long);
    server.send(b"").await.unwrap();
    assert_eq!(client.receive().await.unwrap(), b"");
    let (client, server) = tokio::join!(client.confirm(Ok(())), server.confirm(Ok(())));
    let (client, server) = (client.unwrap(), server.unwrap());
    for end in [&client, &server] {
        assert_eq!(end.outcome, Outcome::Upgraded(TransportKind::Shm));
        assert!(end.early.is_empty());
    }
    let mut liveness = client.into_liveness();
    let mut poll = tokio_test_poll(&mut liveness);
    assert!(poll.is_none());
    drop(server);
    poll = Some(std::future::poll_fn(|cx| liveness.poll_closed(cx)).await);
    assert_eq!(poll.unwrap().kind(), std::io::ErrorKind::ConnectionAborted);
}

fn tokio_test_poll(liveness: &mut impl Liveness) -> Option<std::io::Error> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match liveness.poll_closed(&mut cx) {
        std::task::Poll::Ready(error) => Some(error),
        std::task::Poll::Pending => None,
    }
}

/// Every combination of who fails and how far the messages got: both ends stay on the socket,
/// with the reason, and the link works.
#[tokio::test]
async fn a_failed_upgrade_falls_back_at_every_step() {
    for (client_ok, server_ok) in [(true, false), (false, true), (false, false)] {
        for messages in 0..4 {
            let (mut client, mut server) =
                agreed(TransportKind::Rdma, &options(), &options()).await;
            for i in 0..messages {
                // The last message is sent and never read, as when its reader has just failed.
                let read = i + 1 < messages || (client_ok && server_ok);
                if i % 2 == 0 {
                    client.send(b"m").await.unwrap();
                    if read || server_ok {
                        server.receive().await.unwrap();
                    }
                } else {
                    server.send(b"m").await.unwrap();
                    if read || client_ok {
                        client.receive().await.unwrap();
                    }
                }
            }
            let why = |ok: bool, who: &str| if ok { Ok(()) } else { Err(format!("{who} broke")) };
            let both = async {
                tokio::join!(
                    client.confirm(why(client_ok, "client")),
                    server.confirm(why(server_ok, "server")),
                )
            };
            let (client, server) = timeout(HANG, both).await.expect("hang");
            let (client, server) = (client.unwrap(), server.unwrap());
            for (end, ok) in [(&client, client_ok), (&server, server_ok)] {
                let Outcome::Tcp { reason } = &end.outcome else { panic!("upgraded") };
                assert!(reason.contains("broke"), "{reason}");
                assert_eq!(reason.contains("peer's"), ok, "{reason}");
            }
            prove_link(client, server).await;
        }
    }
}

#[tokio::test]
async fn a_peer_that_gives_up_ends_the_other_ends_wait() {
    let (mut client, server) = agreed(TransportKind::Rdma, &options(), &options()).await;
    let server = tokio::spawn(server.confirm(Err("no memory".into())));
    let error = timeout(HANG, client.receive()).await.expect("hang").unwrap_err();
    assert!(error.to_string().contains("no memory"), "{error}");
    let client = client.confirm(Err(error.to_string())).await.unwrap();
    prove_link(client, server.await.unwrap().unwrap()).await;

    let (client, mut server) = agreed(TransportKind::Rdma, &options(), &options()).await;
    let client = tokio::spawn(client.confirm(Err("no queue pair".into())));
    let error = timeout(HANG, server.receive()).await.expect("hang").unwrap_err();
    assert!(error.to_string().contains("no queue pair"), "{error}");
    // An end that believes itself upgraded still agrees to fall back.
    let server = server.confirm(Ok(())).await.unwrap();
    assert!(matches!(server.outcome, Outcome::Tcp { .. }));
    prove_link(client.await.unwrap().unwrap(), server).await;
}

#[tokio::test]
async fn a_stalled_upgrade_times_out_half_way_and_falls_back() {
    let (mut client, mut server) = agreed(TransportKind::Shm, &hasty(600), &hasty(5000)).await;
    let start = Instant::now();
    // Both wait for the other: nobody ever sends. The server follows the client's shorter time.
    let (a, b) = tokio::join!(client.receive(), server.receive());
    let (a, b) = (a.unwrap_err(), b.unwrap_err());
    assert_eq!(a.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(b.kind(), std::io::ErrorKind::TimedOut);
    let (client, server) =
        tokio::join!(client.confirm(Err(a.to_string())), server.confirm(Err(b.to_string())));
    let waited = start.elapsed();
    assert!(waited < Duration::from_millis(600), "{waited:?}");
    prove_link(client.unwrap(), server.unwrap()).await;
}

#[tokio::test]
async fn an_upgrade_stopped_in_the_middle_of_a_frame_still_falls_back() {
    let (socket, mut raw) = socket_and_raw();
    raw.write_all(&hello_bytes().await).await.unwrap();
    let mut server = ServerBootstrap::accept(socket, &options()).await.unwrap();
    server.answer(TransportKind::Shm, &[], Vec::new()).await.unwrap();
    let exchange = [4, 0, 0, 0, 5, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    raw.write_all(&exchange[..10]).await.unwrap();
    let cut = timeout(Duration::from_millis(20), server.receive()).await;
    assert!(cut.is_err(), "half a message was taken for a whole one");
    raw.write_all(&exchange[10..]).await.unwrap();
    raw.write_all(&[5, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]).await.unwrap();
    raw.write_all(b"early").await.unwrap();
    let confirmed = server.confirm(Err("stopped".into())).await.unwrap();
    assert_eq!(confirmed.early, b"early");
    assert!(matches!(confirmed.outcome, Outcome::Tcp { .. }));
}

#[tokio::test]
async fn hello_closed_truncated_or_stalled_at_every_byte() {
    let bytes = hello_bytes().await;
    accept_of(&bytes, &options()).await.unwrap();
    let mut stalled = Vec::new();
    for n in 0..bytes.len() {
        let error = accept_of(&bytes[..n], &options()).await.unwrap_err();
        assert!(error.is_closed() && error.culprit() == Culprit::Peer, "{n}: {error:?}");
        assert_eq!(error.byte_offset(), Some(n as u64), "{error}");

        let (socket, mut raw) = socket_and_raw();
        raw.write_all(&bytes[..n]).await.unwrap();
        stalled.push(tokio::spawn(async move {
            let error = timeout(HANG, ServerBootstrap::accept(socket, &hasty(50))).await;
            let error = error.expect("hang").unwrap_err();
            assert!(error.is_timeout(), "{n}: {error:?}");
            assert_eq!(error.byte_offset(), Some(n as u64), "{error}");
            drop(raw);
        }));
    }
    for task in stalled {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn reply_closed_truncated_or_stalled_at_every_byte() {
    let bytes = reply_bytes().await;
    connect_to(&bytes).await.unwrap();
    let mut stalled = Vec::new();
    for n in 0..bytes.len() {
        let error = connect_to(&bytes[..n]).await.unwrap_err();
        assert!(error.is_closed(), "{n}: {error:?}");
        assert_eq!(error.byte_offset(), Some(n as u64), "{error}");

        let (socket, mut raw) = socket_and_raw();
        raw.write_all(&bytes[..n]).await.unwrap();
        stalled.push(tokio::spawn(async move {
            let hasty = hasty(50);
            let outcome = ClientBootstrap::over(socket, &hasty, Vec::new());
            let error = timeout(HANG, outcome).await.expect("hang").unwrap_err();
            assert!(error.is_timeout(), "{n}: {error:?}");
            drop(raw);
        }));
    }
    for task in stalled {
        task.await.unwrap();
    }
}

/// A corrupted byte is either harmless (an opaque body, a name) or an error with an offset; never
/// a hang or a panic.
#[tokio::test]
async fn every_corrupted_byte_is_found_or_harmless() {
    let hello = hello_bytes().await;
    let reply = reply_bytes().await;
    for (n, flip) in (0..hello.len().max(reply.len())).flat_map(|n| [(n, 0xFF), (n, 0x01)]) {
        let changed = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[n] ^= flip;
            bytes
        };
        if n < hello.len()
            && let Err(error) = accept_of(&changed(&hello), &options()).await
        {
            assert!(!error.is_timeout(), "hello {n}: {error:?}");
            assert!(error.byte_offset().is_some(), "hello {n}: {error:?}");
        }
        if n < reply.len()
            && let Err(error) = connect_to(&changed(&reply)).await
        {
            assert!(!error.is_timeout(), "reply {n}: {error:?}");
            // A reply whose kind was flipped to REJECT is a refusal, which has no offset.
            assert!(error.byte_offset().is_some() || error.is_rejected(), "reply {n}: {error:?}");
        }
        if n < MAGIC.len() {
            let error = accept_of(&changed(&hello), &options()).await.unwrap_err();
            assert_eq!(error.byte_offset(), Some(n as u64));
        }
    }
}

#[tokio::test]
async fn confirmation_closed_or_stalled_at_every_byte() {
    let confirm = [5, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0];
    for close in [true, false] {
        for n in 0..confirm.len() {
            let (socket, mut raw) = socket_and_raw();
            raw.write_all(&hello_bytes().await).await.unwrap();
            let mut server = ServerBootstrap::accept(socket, &hasty(60)).await.unwrap();
            server.answer(TransportKind::Shm, &[], Vec::new()).await.unwrap();
            raw.write_all(&confirm[..n]).await.unwrap();
            if close {
                raw.shutdown().await.unwrap();
            }
            let error = timeout(HANG, server.confirm(Ok(()))).await.expect("hang").unwrap_err();
            assert_eq!(error.is_closed(), close, "{n}: {error:?}");
            assert_eq!(error.is_timeout(), !close, "{n}: {error:?}");
        }
    }
}

#[tokio::test]
async fn strangers_are_named() {
    for (bytes, want) in [
        (&b"GET / HTTP/1.1\r\nhost: kv\r\n\r\n"[..], "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 preface"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "a TLS hello"),
        (b"\x00\x01\x02", "0x00 where 0xf2 belongs"),
        (b"\xF2RRPC\n\n\x1A", "0x0a where 0x0d belongs"),
    ] {
        let error = accept_of(bytes, &options()).await.unwrap_err();
        assert!(error.is_malformed() && error.to_string().contains(want), "{error}");
        assert!(error.byte_offset().is_some());
    }
    let error = connect_to(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap_err();
    assert!(error.is_malformed() && error.to_string().contains("an HTTP response"), "{error}");
}

#[tokio::test]
async fn huge_lengths_are_refused_before_they_are_read() {
    for length in [65_529_u32, 1 << 20, u32::MAX] {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(&length.to_le_bytes());
        let error = accept_of(&bytes, &options()).await.unwrap_err();
        assert!(error.is_malformed(), "{error:?}");
        assert_eq!(error.byte_offset(), Some(12));
    }
}

#[tokio::test]
async fn versions_without_overlap_are_named_on_both_ends() {
    for (client, server) in [((2, 3), (1, 1)), ((1, 1), (4, 9))] {
        let with =
            |(min_version, max_version)| BootstrapOptions { min_version, max_version, ..options() };
        let (a, b) = sockets();
        let (client_options, server_options) = (with(client), with(server));
        let (ours, theirs) =
            tokio::join!(ClientBootstrap::over(a, &client_options, Vec::new()), async {
                let outcome = ServerBootstrap::accept(b, &server_options).await;
                outcome.map(drop)
            });
        for error in [ours.map(drop).unwrap_err(), theirs.unwrap_err()] {
            assert!(error.is_version_mismatch(), "{error:?}");
            for (min, max) in [client, server] {
                assert!(error.to_string().contains(&format!("{min} to {max}")), "{error}");
            }
        }
    }
    let newer = BootstrapOptions { min_version: 1, max_version: 7, ..options() };
    let (client, server) = agreed(TransportKind::Tcp, &newer, &options()).await;
    assert_eq!((client.version(), server.version()), (1, 1));
}

#[tokio::test]
async fn a_rejected_client_gets_the_code_and_the_text() {
    for code in [RejectCode::Draining, RejectCode::TooManyConnections, RejectCode::Unknown(99)] {
        let (a, b) = sockets();
        let options = options();
        let reject = async {
            let server = ServerBootstrap::accept(b, &options).await.unwrap();
            server.reject(code, "128 of 128 connections are open").await;
        };
        let connect =
            async { ClientBootstrap::over(a, &options, Vec::new()).await.map(drop).unwrap_err() };
        let (error, ()) = tokio::join!(connect, reject);
        assert_eq!(error.reject_code(), Some(code));
        assert!(error.to_string().contains("128 of 128"), "{error}");
        assert_eq!(error.culprit(), Culprit::Peer);
    }
}

#[tokio::test]
async fn an_unreadable_hello_is_answered_before_the_close() {
    let mut bytes = hello_bytes().await;
    bytes[16] = 9; // lowest version above the highest
    let (socket, mut raw) = socket_and_raw();
    raw.write_all(&bytes).await.unwrap();
    let server = tokio::spawn(async move { ServerBootstrap::accept(socket, &options()).await });
    let mut answer = Vec::new();
    timeout(HANG, raw.read_to_end(&mut answer)).await.expect("hang").unwrap();
    drop(raw);
    assert_eq!(answer[..9], [&MAGIC[..], &[3]].concat());
    assert!(server.await.unwrap().unwrap_err().is_malformed());
    let error = connect_to(&answer).await.unwrap_err();
    assert_eq!(error.reject_code(), Some(RejectCode::Malformed));
    assert!(error.to_string().contains("byte 18"), "{error}");
}

#[tokio::test]
async fn misuse_is_refused_before_anything_is_sent() {
    let long = Offer { transport: TransportKind::Shm, body: vec![0; 1025] };
    for (offers, want) in [
        (vec![offer(TransportKind::Tcp)], "implied"),
        (vec![offer(TransportKind::Shm), offer(TransportKind::Shm)], "twice"),
        (vec![long], "1025 bytes"),
        ((10..19).map(|n| offer(TransportKind::Unknown(n))).collect(), "at most 8"),
    ] {
        let (socket, mut raw) = socket_and_raw();
        let error = ClientBootstrap::over(socket, &options(), offers).await.map(drop).unwrap_err();
        assert!(error.is_misuse() && error.culprit() == Culprit::Local, "{error:?}");
        assert!(error.to_string().contains(want), "{error}");
        assert_eq!(raw.read(&mut [0; 8]).await.unwrap(), 0);
    }
    let (_client, mut server) = agreed(TransportKind::Tcp, &options(), &options()).await;
    let again = server.answer(TransportKind::Tcp, &[], Vec::new()).await.unwrap_err();
    assert!(again.is_misuse());
    assert!(server.send(b"x").await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_never_panics_hangs_or_passes(
        garbage in proptest::collection::vec(any::<u8>(), 0..600),
        with_magic in any::<bool>(),
        with_header in any::<bool>(),
        kind in 0_u8..8,
    ) {
        let mut bytes = Vec::new();
        if with_magic {
            bytes.extend_from_slice(&MAGIC);
            if with_header {
                bytes.extend_from_slice(&[kind, 0, 0, 0]);
                bytes.extend_from_slice(&(garbage.len() as u32).to_le_bytes());
            }
        }
        bytes.extend_from_slice(&garbage);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for outcome in [accept_of(&bytes, &options()).await, connect_to(&bytes).await] {
                match outcome {
                    Ok(()) => assert!(with_magic, "passed without the magic"),
                    Err(error) => assert!(!error.is_timeout(), "{error:?}"),
                }
            }
        });
    }
}
