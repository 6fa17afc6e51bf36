//! Metadata both ways: at the start of a call, and at its end.

use futures_util::stream;
use rdma_rpc::metadata::{MetadataMap, MetadataValue};
use rdma_rpc::{Code, Request, RequestSeen};

use super::support::{failure, next, output, simple};
use crate::harness::Place;
use crate::pattern::payload;
use crate::proto::{Empty, SimpleRequest};
use crate::service::{ECHO_INITIAL, ECHO_TRAILING};

fn custom(map: &mut MetadataMap) {
    map.insert(ECHO_INITIAL, MetadataValue::from_static("test_initial_metadata_value"));
    map.insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(&[0x0a, 0x0b, 0x0a, 0x0b, 0x0a, 0x0b]));
}

fn check_initial(map: &MetadataMap) {
    assert_eq!(map.get(ECHO_INITIAL).expect("initial metadata"), "test_initial_metadata_value");
}

fn check_trailing(map: &MetadataMap) {
    let value = map.get_bin(ECHO_TRAILING).expect("trailing metadata");
    assert_eq!(&value.to_bytes().unwrap()[..], [0x0a, 0x0b, 0x0a, 0x0b, 0x0a, 0x0b]);
}

/// As gRPC has it: a text value comes back first, a binary value last; unary and full duplex.
pub async fn custom_metadata(place: Place) {
    let world = place.world().await;
    let mut request = Request::new(simple(payload(271_828, 1), 314_159));
    custom(request.metadata_mut());
    let response = world.client().unary_call(request).await.unwrap();
    check_initial(response.metadata());
    check_trailing(response.trailers());

    let mut request = Request::new(stream::iter([output(&[314_159], 1)]));
    custom(request.metadata_mut());
    let response = world.client().full_duplex_call(request).await.unwrap();
    check_initial(response.metadata());
    let mut responses = response.into_inner();
    next(&mut responses, 0, 314_159).await;
    check_trailing(&responses.trailers().await.unwrap().expect("a client gets trailers"));
}

/// Repeated keys keep their order; binary values of every byte and length; empty values.
pub async fn metadata_of_every_kind(place: Place) {
    let world = place.world().await;
    let texts: Vec<String> = vec![String::new(), "a".into(), "~ !\"".into(), "x".repeat(3000)];
    let every_byte: Vec<u8> = (0..=255).collect();
    let binaries: Vec<&[u8]> = vec![&[], &[0], &every_byte, &every_byte[..7]];
    let mut request = Request::new(Empty {});
    for text in &texts {
        request.metadata_mut().append(ECHO_INITIAL, text.parse().unwrap());
    }
    for bytes in &binaries {
        request.metadata_mut().append_bin(ECHO_TRAILING, MetadataValue::from_bytes(bytes));
    }
    let response = world.client().empty_call(request).await.unwrap();
    let got: Vec<_> = response.metadata().get_all(ECHO_INITIAL).iter().collect();
    assert_eq!(got.len(), texts.len());
    for (got, want) in got.into_iter().zip(&texts) {
        assert_eq!(got.to_str().unwrap(), want);
    }
    let got: Vec<_> = response.trailers().get_all_bin(ECHO_TRAILING).iter().collect();
    assert_eq!(got.len(), binaries.len());
    for (got, want) in got.into_iter().zip(&binaries) {
        assert_eq!(&got.to_bytes().unwrap()[..], *want);
    }
}

/// Metadata beyond any frame is refused before it is sent, in words; the connection goes on.
pub async fn metadata_too_long(place: Place) {
    let world = place.world().await;
    let client = world.client();
    for kib in [4, 14, 60, 1024] {
        let mut request = Request::new(SimpleRequest::default());
        let value = "v".repeat(kib << 10);
        request.metadata_mut().insert(ECHO_INITIAL, value.parse().unwrap());
        match client.unary_call(request).await {
            Ok(response) => {
                let got = response.metadata().get(ECHO_INITIAL).expect("it comes back");
                assert_eq!(got.to_str().unwrap(), value);
                assert!(kib < 1024, "1 MiB of metadata got through");
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("metadata"), "{status}");
                assert!(kib > 4, "4 KiB of metadata must get through: {status}");
                if status.request_seen() == RequestSeen::NeverSent {
                    assert!(status.message().contains("request"), "{status}");
                }
            }
        }
    }
    // At the server, in an answer that has metadata of its own.
    assert_eq!(failure(client.unimplemented_call(Empty {}).await).code(), Code::Unimplemented);
}
