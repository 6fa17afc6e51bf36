//! Strangers and liars on the port of a serving server: they are turned away in words where they
//! can understand them, the server keeps serving others, and it holds nothing for them. What they
//! can do after a good handshake is in [`super::breach`].

use std::time::Instant;

use super::stranger::{MAGIC, PATIENCE, Siege, Stranger, framed, hello, text};
use super::support::{exchange, within};
use crate::harness::{Place, allowed};
use crate::pattern::payload;

/// Bytes that are nothing: the server hangs up without a word.
pub async fn garbage(place: Place) {
    let siege = Siege::begin(place).await;
    for (bytes, seed) in [(1, 1), (7, 2), (8, 3), (16, 4), (1000, 5), (1 << 20, 6), (4 << 20, 7)] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&payload(bytes, seed)).await;
        let heard = stranger.hear_out().await;
        assert!(heard.is_empty(), "to a stranger: {:?}", text(&heard));
        siege.others_are_served().await;
    }
    // Right beginnings, wrong ends.
    for cut in 1..MAGIC.len() {
        let mut stranger = Stranger::arrive(&siege.world).await;
        let mut bytes = MAGIC[..cut].to_vec();
        bytes.extend([0; 64]);
        stranger.say(&bytes).await;
        assert!(stranger.hear_out().await.is_empty());
    }
    siege.end().await;
}

/// Clients of other protocols.
pub async fn http_preface(place: Place) {
    let siege = Siege::begin(place).await;
    for preface in [
        &b"GET / HTTP/1.1\r\nHost: kv\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(preface).await;
        let heard = stranger.hear_out().await;
        assert!(heard.is_empty(), "to a stranger: {:?}", text(&heard));
    }
    siege.end().await;
}

/// A handshake that ends at any byte, by the client's hanging up or by its falling silent.
pub async fn truncated_hello(place: Place) {
    let siege = Siege::begin(place).await;
    let whole = hello(1, 1);
    let mut silent = Vec::new();
    for cut in 0..whole.len() {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&whole[..cut]).await;
        drop(stranger);
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&whole[..cut]).await;
        silent.push(stranger);
    }
    siege.others_are_served().await;
    for mut stranger in silent {
        stranger.hear_out().await;
    }
    siege.end().await;
}

/// Lengths beyond what there is or may be: refused by the byte where they stand, nothing is
/// allocated for them.
pub async fn oversized_lengths(place: Place) {
    let siege = Siege::begin(place).await;
    for length in [u32::MAX, 1 << 31, 65_529, 1 << 24] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&framed(1, length, &[])).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("payload length") && heard.contains("byte 12"), "{heard:?}");
        assert!(heard.contains(&length.to_string()), "{heard:?}");
    }
    // Inside the HELLO: authority, number of offers, an offer's body.
    let mut inside = hello(1, 1);
    let authority = 16 + 20;
    inside[authority..authority + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut many = hello(1, 1);
    *many.last_mut().expect("not empty") = 255;
    for bytes in [inside, many] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&bytes).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("at most"), "{heard:?}");
    }
    siege.end().await;
}

/// Versions this server does not speak: the refusal names both ends' versions.
pub async fn wrong_version(place: Place) {
    let siege = Siege::begin(place).await;
    for (min, max) in [(2, 2), (7, 900), (0, 0)] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&hello(min, max)).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("no protocol version in common"), "{heard:?}");
        assert!(heard.contains(&format!("the client {min} to {max}")), "{heard:?}");
    }
    let mut stranger = Stranger::arrive(&siege.world).await;
    stranger.say(&hello(3, 1)).await;
    assert!(text(&stranger.hear_out().await).contains("a highest version of at least 3"));
    drop(stranger);
    siege.end().await;
}

/// Hundreds of connections that never say anything, or never enough.
pub async fn half_open_by_the_hundred(place: Place) {
    let siege = Siege::begin(place).await;
    let mut strangers = Vec::new();
    for number in 0..300 {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&hello(1, 1)[..number % 30]).await;
        strangers.push(stranger);
    }
    siege.holds_little("300 half-open connections").await;
    siege.others_are_served().await;
    for mut stranger in strangers {
        stranger.hear_out().await;
    }
    siege.end().await;
}

/// Clients that shake hands and then say nothing are served when they speak, and cost little.
pub async fn silence_after_handshake(place: Place) {
    let siege = Siege::begin(place).await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        strangers.push(stranger);
    }
    siege.holds_little("200 idle connections").await;
    siege.others_are_served().await;
    drop(strangers);
    siege.end().await;
}

/// Connections in the middle of their handshake do not hold a shutdown.
pub async fn shutdown_among_strangers(place: Place) {
    let mut world = place.world().await;
    exchange(&world.client(), 1000, 1000).await.unwrap();
    let mut strangers = Vec::new();
    for number in 0..20 {
        let mut stranger = Stranger::arrive(&world).await;
        stranger.say(&hello(1, 1)[..number]).await;
        strangers.push(stranger);
    }
    let mut idle = Stranger::arrive(&world).await;
    idle.introduce().await;
    let begin = Instant::now();
    within(PATIENCE, "the shutdown", world.shut_down()).await;
    assert!(begin.elapsed() < allowed(PATIENCE / 5), "the shutdown took {:?}", begin.elapsed());
}
