//! The bytes that PROTOCOL.md shows of TCP framing are what links write and understand.

use std::future::poll_fn;

use rdma_rpc_core::link::{FrameSink, Link, Received};
use rdma_rpc_transport_tcp::{Socket, SocketOptions, TcpLink, TcpLinkOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The bytes of a block: hexadecimal, `#` begins a comment.
fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../PROTOCOL.md");
    let start = format!("```hex {name}\n");
    let block = text.split(&start).nth(1).unwrap_or_else(|| panic!("no block {name}"));
    let block = block.split("```").next().unwrap_or_default();
    let words = block.lines().flat_map(|line| line.split('#').next().map(str::split_whitespace));
    words.flatten().map(|word| u8::from_str_radix(word, 16).expect(name)).collect()
}

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
