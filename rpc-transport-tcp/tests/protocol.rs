//! The bytes that PROTOCOL.md shows of TCP framing are what links write and understand.

use std::future::poll_fn;

use rdma_rpc_core::link::{FrameSink, Link, Received};
use rdma_rpc_transport_tcp::{Socket, SocketOptions, TcpLink, TcpLinkOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[path = "../../rpc-transport-rdma/src/protocol_text.rs"]
mod protocol_text;
use protocol_text::vector;

fn link_and_raw() -> (TcpLink, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    let socket = Socket::from_unix(a, &SocketOptions::default()).unwrap();
    (TcpLink::new(socket, &[], &TcpLinkOptions::default()), b)
}

#[tokio::test]
async fn the_pages_frame_is_what_a_link_writes() {
    let (mut link, mut raw) = link_and_raw();
    let written = vector("tcp/frame");
    let frame = &written[4..];
    link.reserve(frame.len()).unwrap().unwrap().copy_from_slice(frame);
    link.commit();
    link.flush().unwrap();
    let mut bytes = vec![0; written.len()];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, written);
}

#[tokio::test]
async fn the_pages_frames_are_understood_with_a_filler_and_without() {
    let frame = vector("tcp/frame")[4..].to_vec();
    for name in ["tcp/frame", "tcp/filler"] {
        let (mut link, mut raw) = link_and_raw();
        raw.write_all(&vector(name)).await.unwrap();
        let received = loop {
            match link.receive().unwrap() {
                Some(Received::Frame(bytes)) => break bytes.to_vec(),
                Some(Received::Owned(bytes)) => break bytes.to_vec(),
                Some(other) => panic!("{name}: {other:?}"),
                None => {}
            }
            poll_fn(|cx| link.poll_ready(cx)).await.unwrap();
        };
        assert_eq!(received, frame, "{name}");
    }
}
