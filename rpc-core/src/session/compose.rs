//! Frames that carry calls, written byte by byte.

use super::control::{MAX_TEXT_BYTES, cut, frame};
use super::{NewStream, RESOURCE_EXHAUSTED};
use crate::metadata::MetadataMap;
use crate::wire::{HEADER_BYTES, Header, Kind, flag};

#[inline]
pub(super) fn request_extra_len(request: &NewStream<'_>) -> usize {
    request.metadata.encoded_len() + if request.timeout.is_some() { 8 } else { 0 }
}

#[inline]
pub(super) fn write_request_head(
    into: &mut [u8],
    slot: u32,
    method: u16,
    request: &NewStream<'_>,
    has_message: bool,
    message_len: usize,
) {
    let metadata_len = request.metadata.encoded_len();
    let mut flags = 0;
    if request.end {
        flags |= flag::END;
    }
    if has_message {
        flags |= flag::MESSAGE;
    }
    if request.timeout.is_some() {
        flags |= flag::TIMEOUT;
    }
    let header = Header::new(Kind::Request, slot + 1)
        .flags(flags)
        .code(method)
        .numbers(metadata_len as u32, message_len as u32);
    into[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let mut at = HEADER_BYTES;
    if let Some((timeout, _)) = request.timeout {
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        into[at..at + 8].copy_from_slice(&timeout_us.to_le_bytes());
        at += 8;
    }
    write_block(request.metadata, &mut into[at..at + metadata_len]);
}

/// The head of a RESPONSE: `into` is as long as it is.
#[inline]
pub(super) fn write_response_head(
    into: &mut [u8],
    slot: u32,
    metadata: &MetadataMap,
    trailers: &MetadataMap,
) {
    let metadata_len = metadata.encoded_len();
    let trailers_len = into.len() - HEADER_BYTES - metadata_len;
    let header =
        Header::new(Kind::Response, slot + 1).numbers(metadata_len as u32, trailers_len as u32);
    let (head, blocks) = into.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header.to_bytes());
    let (first, second) = blocks.split_at_mut(metadata_len);
    write_block(metadata, first);
    write_block(trailers, second);
}

/// The length of a metadata block in bytes, if the map may be sent at all.
#[inline]
pub(super) fn block_len(metadata: &MetadataMap) -> Option<usize> {
    metadata.checked_encoded_len().ok()
}

#[inline]
pub(super) fn write_block(metadata: &MetadataMap, into: &mut [u8]) {
    if !into.is_empty() {
        metadata.encode(into);
    }
}

/// `body` is the descriptor, and what comes before and after the bytes to pull.
pub(super) fn bulk_frame(slot: u32, len: usize, end: bool, body: [&[u8]; 3]) -> Box<[u8]> {
    let flags = flag::MESSAGE | if end { flag::END } else { 0 };
    let header = Header::new(Kind::Bulk, slot + 1)
        .flags(flags)
        .code(body[0].len() as u16)
        .numbers(body[1].len() as u32, len as u32);
    frame(header, &body)
}

/// TRAILERS that fit a frame. A text is cut; details and metadata that do not fit are left out,
/// and the text says so. The code always arrives, but for OK: a call whose trailers are lost has
/// not gone well.
pub(super) fn trailers_frame(
    slot: u32,
    code: u16,
    text: &str,
    metadata: &MetadataMap,
    details: &[u8],
    limit: usize,
) -> Box<[u8]> {
    let text = cut(text, MAX_TEXT_BYTES);
    let metadata_len = metadata.encoded_len();
    if block_len(metadata).is_none() || text.len() + metadata_len + details.len() > limit {
        let text = format!(
            "{} [details of {} and trailing metadata of {metadata_len} bytes did not fit a frame]",
            cut(text, MAX_TEXT_BYTES / 2),
            details.len(),
        );
        let code = if code == 0 { RESOURCE_EXHAUSTED } else { code };
        return trailers_frame(slot, code, &text, &MetadataMap::new(), &[], limit);
    }
    let header = Header::new(Kind::Trailers, slot + 1)
        .code(code)
        .numbers(metadata_len as u32, text.len() as u32);
    let mut block = vec![0; metadata_len];
    write_block(metadata, &mut block);
    frame(header, &[&block, text.as_bytes(), details])
}
