//! Frames and metadata blocks, written and read.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rdma_rpc_core::metadata::MetadataMap;
use rdma_rpc_core::wire::{Header, Kind};

fn wire(c: &mut Criterion) {
    let header = Header::new(Kind::Request, 7).code(1).numbers(0, 32);
    c.bench_function("header-encode", |b| b.iter(|| black_box(header).to_bytes()));
    let bytes = header.to_bytes();
    c.bench_function("header-parse", |b| b.iter(|| Header::parse(black_box(&bytes)).is_ok()));

    let mut metadata = MetadataMap::new();
    metadata.insert("x-request-id", "0123456789abcdef".parse().expect("ASCII"));
    let mut block = vec![0; metadata.encoded_len()];
    c.bench_function("metadata-encode", |b| b.iter(|| metadata.encode(black_box(&mut block))));
    c.bench_function("metadata-decode", |b| b.iter(|| MetadataMap::decode(black_box(&block))));
}

criterion_group!(benches, wire);
criterion_main!(benches);
