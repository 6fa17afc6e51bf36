//! Servers that are none: a client says clearly what it met, in bounded time, and holds nothing.

use std::time::{Duration, Instant};

use rdma_rpc::{Code, RequestSeen, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::support::within;
use crate::harness::{Place, Transport, Tuning, allowed, allowed_ms};
use crate::proto::Empty;
use crate::proto::test_service_client::TestServiceClient;

const MAGIC: [u8; 8] = [0xF2, b'R', b'R', b'P', b'C', 0x0D, 0x0A, 0x1A];
const PATIENCE: Duration = Duration::from_secs(10);

/// How an impostor ends what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    HangUp,
    Wait,
}

/// What a client's first call gives when a server answers any client with `bytes`.
async fn met(place: Place, bytes: Vec<u8>, then: Then) -> Status {
    let folder = tempfile::tempdir().expect("a scratch folder can be made");
    let (address, impostor) = stand_in(place, folder.path(), bytes, then).await;
    let mut tuning = Tuning::default();
    tuning.client.handshake_timeout_ms = allowed_ms(700);
    let client = TestServiceClient::new(place.channel_to(&address, &tuning));
    let begin = Instant::now();
    let call = within(PATIENCE, "a call", client.empty_call(Empty {})).await;
    let status = call.expect_err("this is no server");
    assert!(begin.elapsed() < allowed(PATIENCE / 4), "only after {:?}", begin.elapsed());
    impostor.abort();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    assert!(status.message().contains(&address), "{status}");
    status
}

/// Listens, and gives its address.
async fn stand_in(
    place: Place,
    folder: &std::path::Path,
    bytes: Vec<u8>,
    then: Then,
) -> (String, JoinHandle<()>) {
    async fn play<S>(mut stream: S, bytes: &[u8], then: Then)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut heard = [0; 4096];
        // The client may be gone: all the better.
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(bytes).await;
        if then == Then::Wait {
            std::future::pending().await
        }
    }
    if place.transport == Transport::Unix {
        let path = folder.join("impostor");
        let address = format!("unix:{}", path.display());
        let listener = UnixListener::bind(path).expect("the path is free");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let bytes = bytes.clone();
                tokio::spawn(async move { play(stream, &bytes, then).await });
            }
        });
        return (address, task);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move { play(stream, &bytes, then).await });
        }
    });
    (address, task)
}

fn reply(kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Servers of other protocols: the error says that this is no server of ours.
pub async fn other_protocols(place: Place) {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..],
        b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\0\x02\x02\x16",
    ] {
        for then in [Then::HangUp, Then::Wait] {
            let status = met(place, answer.to_vec(), then).await;
            assert!(
                status.message().contains("magic") || status.message().contains("not"),
                "{status}"
            );
        }
    }
}

/// A server that accepts and says nothing: the handshake's timeout ends it.
pub async fn silence(place: Place) {
    let status = met(place, Vec::new(), Then::Wait).await;
    assert!(status.message().contains("handshake timeout ran out"), "{status}");
    let status = met(place, reply(2, 20, &[1, 0]), Then::Wait).await;
    assert!(status.message().contains("handshake timeout ran out"), "{status}");
}

/// A server that hangs up at any byte of its reply.
pub async fn hang_up(place: Place) {
    let whole = reply(2, 20, &[1, 0, 0, 0]);
    for cut in [0, 1, 7, 8, 9, 15, 16, 20] {
        let status = met(place, whole[..cut].to_vec(), Then::HangUp).await;
        assert!(status.message().contains("closed"), "after {cut} bytes: {status}");
    }
}

/// A refusal is passed on in its own words.
pub async fn refusal(place: Place) {
    let mut payload = Vec::new();
    for number in [2u16, 3, 9] {
        payload.extend(number.to_le_bytes());
    }
    let text = b"closed for lunch";
    payload.extend((text.len() as u16).to_le_bytes());
    payload.extend(text);
    let status = met(place, reply(3, payload.len() as u32, &payload), Then::HangUp).await;
    assert!(status.message().contains("closed for lunch"), "{status}");
}

/// Lengths no reply has: refused by their byte, and nothing is allocated for them.
pub async fn oversized_reply(place: Place) {
    for length in [u32::MAX, 65_529] {
        let status = met(place, reply(2, length, &[]), Then::Wait).await;
        assert!(status.message().contains(&length.to_string()), "{status}");
        assert!(status.message().contains("byte 12"), "{status}");
    }
}

/// A reply that chooses what was not offered.
pub async fn unasked_transport(place: Place) {
    // Rings in shared memory, where RDMA is offered; RDMA elsewhere.
    let unasked = if place.link_name() == "rdma" { 2 } else { 3 };
    for transport in [unasked, 77] {
        let mut payload = vec![1, 0, 0, 0];
        payload.extend(0u64.to_le_bytes());
        payload.extend((80u32 << 10).to_le_bytes());
        payload.extend([transport, 0, 0, 0]);
        let status = met(place, reply(2, payload.len() as u32, &payload), Then::Wait).await;
        assert!(status.message().contains("expected a transport that was offered"), "{status}");
    }
}
