//! Test vectors of every handshake frame, and what a decoder refuses at which byte.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn framed(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(&mut out, kind, payload);
    out
}

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        timeout_ms: 5000,
        max_frame_bytes: 80 * 1024,
        authority: "kv:7400".into(),
        offers: vec![Offer { transport: TransportKind::Shm, body: vec![0xAB, 0xCD] }],
    }
}

#[test]
fn hello_is_the_documented_bytes() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(framed(FrameKind::Hello, &hello().encode()));
    let vector = "F2 52 52 50 43 0D 0A 1A \
         01 00 00 00 24 00 00 00 \
         01 00 01 00  00 00 00 00 00 00 00 00  88 13 00 00  00 40 01 00 \
         07 00 6B 76 3A 37 34 30 30 \
         01  02 00 02 00 AB CD";
    assert_eq!(bytes, hex(vector));
    assert_eq!(Hello::decode(&bytes[16..], 16).unwrap(), hello());
}

#[test]
fn the_other_frames_are_fixed_bytes_too() {
    let reply = HelloReply {
        version: 1,
        features: 0x0102,
        max_frame_bytes: 4096,
        transport: TransportKind::Shm,
        body: vec![7],
        declined: vec![Declined { transport: TransportKind::Rdma, reason: "no".into() }],
    };
    let vector = "02 00 00 00 1B 00 00 00 \
         01 00 00 00  02 01 00 00 00 00 00 00  00 10 00 00  02 01 01 00 07 \
         03 00 02 00 6E 6F";
    assert_eq!(framed(FrameKind::HelloReply, &reply.encode()), hex(vector));
    assert_eq!(HelloReply::decode(&reply.encode(), 0).unwrap(), reply);

    let reject =
        Reject { code: RejectCode::Draining, min_version: 1, max_version: 3, text: "bye".into() };
    let vector = "03 00 00 00 0B 00 00 00  02 00 01 00 03 00 03 00 62 79 65";
    assert_eq!(framed(FrameKind::Reject, &reject.encode()), hex(vector));
    assert_eq!(Reject::decode(&reject.encode(), 0).unwrap(), reject);

    assert_eq!(framed(FrameKind::Exchange, &[1, 2, 3]), hex("04 00 00 00 03 00 00 00 01 02 03"));
    assert_eq!(
        framed(FrameKind::Confirm, &Verdict::Upgraded.encode()),
        hex("05 00 00 00 04 00 00 00 01 00 00 00")
    );
    let fallback = Verdict::Fallback("x".into());
    assert_eq!(
        framed(FrameKind::Confirm, &fallback.encode()),
        hex("05 00 00 00 05 00 00 00 02 00 01 00 78")
    );
    assert_eq!(Verdict::decode(&fallback.encode(), 0).unwrap(), fallback);
}

#[test]
fn a_later_versions_longer_hello_is_understood() {
    let mut payload = hello().encode();
    payload.extend_from_slice(b"what version 2 added");
    assert_eq!(Hello::decode(&payload, 0).unwrap(), hello());
}

#[test]
fn every_truncation_names_the_byte_where_it_ended() {
    let payload = hello().encode();
    for len in 0..payload.len() {
        let error = Hello::decode(&payload[..len], 16).unwrap_err();
        assert_eq!(error.byte_offset(), Some(16 + len as u64), "{error}");
        assert!(error.is_malformed());
    }
}

#[test]
fn lengths_and_duplicates_are_checked_at_their_byte() {
    let decode = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut payload = hello().encode();
        change(&mut payload);
        Hello::decode(&payload, 100).unwrap_err()
    };
    let at = |error: BootstrapError| error.byte_offset().unwrap() - 100;
    assert_eq!(at(decode(&|p| p[0] = 9)), 2, "lowest above highest");
    assert_eq!(at(decode(&|p| p[16..20].fill(0))), 16, "frame limit");
    assert_eq!(at(decode(&|p| p[21] = 5)), 20, "authority too long");
    assert_eq!(at(decode(&|p| p[24] = 0xFF)), 24, "authority not UTF-8");
    assert_eq!(at(decode(&|p| p[29] = 9)), 29, "too many offers");
    assert_eq!(at(decode(&|p| p[30] = 1)), 30, "tcp offered");
    assert_eq!(at(decode(&|p| p[31] = 1)), 31, "not zero");
    assert_eq!(at(decode(&|p| p[33] = 5)), 32, "body too long");
    let twice = decode(&|p| {
        p[29] = 2;
        p.extend_from_slice(&[2, 0, 0, 0]);
    });
    assert_eq!(at(twice), 36, "shm twice");
}

#[test]
fn headers_are_checked_before_anything_is_read() {
    let decode = |header| decode_header(header, 8);
    assert_eq!(decode([4, 0, 0, 0, 0, 0x40, 0, 0]).unwrap(), (FrameKind::Exchange, 16384));
    for (header, offset) in [
        ([0, 0, 0, 0, 0, 0, 0, 0], 8),
        ([6, 0, 0, 0, 0, 0, 0, 0], 8),
        ([1, 0, 1, 0, 0, 0, 0, 0], 10),
        ([1, 0, 0, 0, 0xF9, 0xFF, 0, 0], 12),
        ([4, 0, 0, 0, 1, 0x40, 0, 0], 12),
        ([5, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], 12),
    ] {
        assert_eq!(decode(header).unwrap_err().byte_offset(), Some(offset), "{header:?}");
    }
}

#[test]
fn long_reasons_are_clipped_between_characters() {
    let reason = "é".repeat(400);
    let Verdict::Fallback(back) = Verdict::decode(&Verdict::Fallback(reason).encode(), 0).unwrap()
    else {
        panic!("verdict changed");
    };
    assert_eq!(back, "é".repeat(256));
}
