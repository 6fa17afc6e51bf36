//! Messages of every size, and their limits.

use futures_util::{StreamExt, stream};
use rdma_rpc::{Code, RequestSeen};

use super::support::{KIB, MIB, exchange, failure, field_bytes, next, output, over, simple};
use crate::harness::Place;
use crate::pattern::{checksum, payload};
use crate::proto::test_service_client::TestServiceClient;
use crate::proto::{SimpleRequest, StreamingInputCallRequest};

/// Where something changes: mailbox, batch, page, bulk, frame, window, ring and message limits.
const THRESHOLDS: [usize; 10] =
    [104, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 80 * KIB, 256 * KIB, MIB];

/// Just below and above: a frame's and a burst's headers are 16 to 64 bytes.
const OFFSETS: [isize; 9] = [-65, -33, -17, -16, -1, 0, 1, 16, 17];

fn around_thresholds() -> impl Iterator<Item = usize> {
    let near =
        |threshold: usize| OFFSETS.iter().map(move |by| threshold.saturating_add_signed(*by));
    THRESHOLDS.into_iter().flat_map(near).chain([0, 2, 3, 4]).filter(|bytes| *bytes != 1)
}

/// Unary messages of sizes around every threshold, each way.
pub async fn every_threshold(place: Place) {
    let world = place.world().await;
    let client = world.client();
    for total in around_thresholds() {
        let bytes = field_bytes(total).unwrap_or(0);
        exchange(&client, bytes, 0).await.unwrap();
        exchange(&client, 0, bytes).await.unwrap();
    }
}

/// The same sizes as messages of one stream, which share its window.
pub async fn streams_of_every_size(place: Place) {
    stream_both_ways(
        place,
        around_thresholds().map(|total| field_bytes(total).unwrap_or(0)).collect(),
    )
    .await;
}

/// Thousands of short messages, which travel together, with longer ones between them.
pub async fn short_messages_together(place: Place) {
    stream_both_ways(place, (0..5000).map(|number| number * 37 % 1100).collect()).await;
}

/// Messages of these sizes on one stream there, and on one back.
async fn stream_both_ways(place: Place, sizes: Vec<usize>) {
    let world = place.world().await;
    let mut want = 0u64;
    for bytes in &sizes {
        want = want.rotate_left(1) ^ checksum(&payload(*bytes, 5));
    }
    let sent = sizes.clone();
    let messages =
        stream::iter(sent).map(|bytes| StreamingInputCallRequest { payload: payload(bytes, 5) });
    let reply = world.client().streaming_input_call(messages).await.unwrap().into_inner();
    assert_eq!((reply.messages, reply.checksum), (sizes.len() as u64, want));

    let request = output(&sizes, 1);
    let mut responses = world.client().streaming_output_call(request).await.unwrap().into_inner();
    for (number, bytes) in sizes.into_iter().enumerate() {
        next(&mut responses, number as u64, bytes).await;
    }
    over(responses).await;
}

/// 64 MiB there and 64 MiB back, in one message each.
pub async fn sixty_four_mib_both_ways(place: Place) {
    let world = place.tuned(|tuning| tuning.max_message_bytes(64 * MIB + KIB)).await;
    let client = world.client();
    exchange(&client, 64 * MIB, 64 * MIB).await.unwrap();
    // What that took is free again.
    let (one, other) = tokio::join!(exchange(&client, 40 * MIB, 1), exchange(&client, 1, 40 * MIB));
    one.and(other).unwrap();
}

/// Messages of 16 MiB in streams, each way at once, until 64 MiB have passed.
pub async fn sixty_four_mib_streams(place: Place) {
    let world = place.tuned(|tuning| tuning.max_message_bytes(16 * MIB + KIB)).await;
    let requests = stream::repeat_with(|| {
        let mut request = output(&[16 * MIB], 1);
        request.payload = payload(16 * MIB, 1);
        request
    });
    let mut responses =
        world.client().full_duplex_call(requests.take(4)).await.unwrap().into_inner();
    for _ in 0..4 {
        next(&mut responses, 0, 16 * MIB).await;
    }
    over(responses).await;
}

/// The default limit of 4 MiB, to the byte: requests at the server, responses at the client, in
/// unary calls and streams.
pub async fn four_mib_limit(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let limit = field_bytes(4 * MIB).expect("such a message exists");
    exchange(&client, limit, 0).await.unwrap();
    exchange(&client, 0, limit).await.unwrap();
    let request = output(&[limit], 1);
    let mut responses = client.streaming_output_call(request).await.unwrap().into_inner();
    next(&mut responses, 0, limit).await;
    over(responses).await;

    let status = failure(client.unary_call(simple(payload(limit + 1, 1), 0)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("4194305"), "the length is not named: {status}");
    let status = failure(client.unary_call(simple(payload(0, 1), limit + 1)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("4194305"), "the length is not named: {status}");

    let messages = stream::iter([1000, limit + 1, 1000])
        .map(|bytes| StreamingInputCallRequest { payload: payload(bytes, 5) });
    let status = failure(client.streaming_input_call(messages).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let request = output(&[1000, limit + 1, 1000], 1);
    let mut responses = client.streaming_output_call(request).await.unwrap().into_inner();
    next(&mut responses, 0, 1000).await;
    let status = responses.message().await.expect_err("longer than the limit");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

    exchange(&client, 100, 100).await.unwrap();
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// Limits of one generated client, both ways; the others on its channel keep theirs.
pub async fn limits_of_one_client(place: Place) {
    let world = place.world().await;
    let small = TestServiceClient::new(world.channel().clone())
        .max_decoding_message_size(1000)
        .max_encoding_message_size(2000);
    let most = field_bytes(1000).expect("such a message exists");
    exchange(&small, 0, most).await.unwrap();
    let status = failure(small.unary_call(simple(payload(0, 1), most + 1)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let most = field_bytes(2000).expect("such a message exists");
    exchange(&small, most, 0).await.unwrap();
    let status = failure(small.unary_call(simple(payload(most + 1, 1), 0)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    exchange(&world.client(), 100_000, 100_000).await.unwrap();
}

/// `limits.max_send_message_bytes` of the configuration: refused before it is sent, on both sides.
pub async fn configured_send_limit(place: Place) {
    let world = place
        .tuned(|tuning| {
            tuning.client.limits.max_send_message_bytes = 10_000;
            tuning.server.limits.max_send_message_bytes = 20_000;
        })
        .await;
    let client = world.client();
    let most = field_bytes(10_000).expect("such a message exists");
    exchange(&client, most, 0).await.unwrap();
    let status = failure(client.unary_call(simple(payload(most + 1, 1), 0)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    let most = field_bytes(20_000).expect("such a message exists");
    exchange(&client, 0, most).await.unwrap();
    let status = failure(client.unary_call(simple(payload(0, 1), most + 1)).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    client.unary_call(SimpleRequest::default()).await.unwrap();
}
