//! A program's memory lent to the peer's READs on real RDMA devices. Ignored unless asked for;
//! `ibv_support` says what the environment must name.

mod ibv_support;

use std::time::Duration;

use bytes::Bytes;
use ibv_support::{End, World, turn};
use rdma_rpc_transport_rdma::BulkBuffer;
use rdma_rpc_transport_rdma::ibv::{IbvConfig, IbvRegion};
use rdma_rpc_transport_rdma::verbs::{
    Access, Local, Op, QueuePair, Region, RemoteAddr, Status, WorkRequest,
};
use tokio::time::timeout;

const KIB: usize = 1 << 10;
const LEAST: usize = 64 * KIB;
const LEN: usize = 300 * KIB;
/// A READ of so many bytes loses no packet on a line that loses none.
const PIECE: usize = 64 * KIB;

fn config() -> IbvConfig {
    IbvConfig { lends_from_bytes: LEAST, ..IbvConfig::default() }
}

/// Runs a test between two ends of a new connection.
fn between(test: impl AsyncFnOnce(End, End)) {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let (one, two) = world.pair(&config()).await;
        test(End::new(one), End::new(two)).await;
    });
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

/// What the peer finds where `at` says, piece by piece.
async fn pull(end: &mut End, target: &IbvRegion, at: RemoteAddr, len: usize) {
    for offset in (0..len).step_by(PIECE) {
        let into = Local { region: target, offset, len: PIECE.min(len - offset) };
        let from = at.offset(offset as u64).unwrap();
        assert_eq!(end.does(1, Op::Read { into, from }).await, Status::Success, "at {offset}");
    }
}

/// Whether a READ is not answered.
async fn is_refused(end: &mut End, target: &IbvRegion, at: RemoteAddr, len: usize) -> bool {
    let op = Op::Read { into: Local { region: target, offset: 0, len }, from: at };
    end.qp.post_send(&[WorkRequest { id: 2, op, signaled: true }]).unwrap();
    let (completions, _) = end.drain().await;
    completions.iter().all(|completion| completion.status != Status::Success)
}

/// What the peer is done with answers READs that come late, for a while. (Over iWARP none does.)
async fn rests(reader: &mut End, target: &IbvRegion, at: RemoteAddr, owner: &mut End) {
    if owner.qp.caps().write_with_imm {
        pull(reader, target, at, LEN).await;
        assert_eq!(target.bytes(), numbered(LEN));
        let later = Duration::from_millis(1500);
        timeout(later, owner.next()).await.expect_err("nothing comes");
    }
}

/// Whether the memory of bytes goes to the next buffer when these are dropped, as it does if no other
/// share of them is left.
fn is_used_again(bytes: Bytes) -> bool {
    let (place, len) = (bytes.as_ptr(), bytes.len());
    drop(bytes);
    BulkBuffer::copy_from_slice(&numbered(len)).as_ptr() == place
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn what_is_lent_is_read_where_it_lies_until_it_is_taken_back() {
    between(async |mut reader, mut lender| {
        let target = reader.qp.register(LEN, Access::ReadTarget).unwrap();
        let bytes = BulkBuffer::copy_from_slice(&numbered(LEN)).freeze();
        // Neither the whole nor at a page's start.
        for range in [0..LEN, 1..LEN, 4097..LEN - 3, 100_001..100_001 + LEAST] {
            let part = bytes.slice(range);
            let at = lender.qp.lend(&part).expect("it is lent");
            pull(&mut reader, &target, at, part.len()).await;
            assert_eq!(target.bytes()[..part.len()], part);
            lender.qp.take_back(at);
        }
        let at = lender.qp.lend(&bytes).expect("it is lent");
        lender.qp.take_back(at);
        rests(&mut reader, &target, at, &mut lender).await;
        assert!(is_refused(&mut reader, &target, at, PIECE).await, "it is not lent any more");
        assert!(is_used_again(bytes), "nobody else keeps it");
    });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn memory_that_was_read_and_is_given_up_rests_too() {
    between(async |mut reader, mut owner| {
        let target = reader.qp.register(LEN, Access::ReadTarget).unwrap();
        let mut region = owner.qp.register(LEN, Access::RemoteRead).unwrap();
        region.bytes_mut().copy_from_slice(&numbered(LEN));
        let at = region.remote();
        drop(region);
        rests(&mut reader, &target, at, &mut owner).await;
        assert!(is_refused(&mut reader, &target, at, PIECE).await, "it is gone");
    });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn what_rests_goes_early_where_memory_is_short() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { memory_bytes: 16 << 20, ..config() };
        let (one, _two) = world.pair(&config).await;
        let mut one = End::new(one);
        for _ in 0..8 {
            drop(one.qp.register(5 << 20, Access::RemoteRead).expect("what rests makes room"));
        }
    });
}

/// A message that was pulled, as the program gets it.
struct Pulled(IbvRegion);

impl AsRef<[u8]> for Pulled {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn what_was_pulled_is_lent_where_it_lies() {
    between(async |mut one, mut two| {
        // One in an arena, one in pages of its own.
        for len in [LEN, 9 * LEN] {
            let target = one.qp.register(len, Access::ReadTarget).unwrap();
            let back = two.qp.register(len, Access::ReadTarget).unwrap();
            let bytes = BulkBuffer::copy_from_slice(&numbered(len)).freeze();
            let at = two.qp.lend(&bytes).expect("it is lent");
            pull(&mut one, &target, at, len).await;
            two.qp.take_back(at);
            let pulled = Bytes::from_owner(Pulled(target));
            let at = one.qp.lend(&pulled).expect("it is lent on");
            pull(&mut two, &back, at, len).await;
            one.qp.take_back(at);
            assert_eq!(back.bytes(), bytes);
        }
    });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_peer_reads_nothing_beside_what_it_is_lent() {
    for (before, after) in [(1, 0), (0, 1)] {
        between(async |mut reader, mut lender| {
            let target = reader.qp.register(LEN, Access::ReadTarget).unwrap();
            let bytes = BulkBuffer::copy_from_slice(&numbered(LEN)).freeze();
            let at = lender.qp.lend(&bytes.slice(before..LEN - after)).expect("it is lent");
            let beside = RemoteAddr { addr: bytes.as_ptr().addr() as u64, rkey: at.rkey };
            let from = if before > 0 { beside } else { at.offset((LEN - 64) as u64).unwrap() };
            assert!(is_refused(&mut reader, &target, from, 64).await, "{before} {after}");
        });
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn memory_that_is_not_worth_it_is_not_lent() {
    between(async |_reader, mut lender| {
        assert_eq!(lender.qp.caps().lends_from_bytes, Some(LEAST));
        let bulk = BulkBuffer::copy_from_slice(&numbered(LEAST)).freeze();
        assert!(lender.qp.lend(&bulk).is_some());
        assert!(lender.qp.lend(&bulk.slice(1..)).is_none(), "too short");
        assert!(lender.qp.lend(&Bytes::new()).is_none(), "empty");
        assert!(lender.qp.lend(&numbered(LEN).into()).is_none(), "of the allocator");
    });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn what_is_lent_when_the_connection_ends_is_let_go_of() {
    between(async |_reader, mut lender| {
        let bytes = BulkBuffer::copy_from_slice(&numbered(LEN)).freeze();
        for _ in 0..3 {
            lender.qp.lend(&bytes).expect("it is lent");
        }
        lender.qp.fail();
        assert!(lender.qp.lend(&bytes).is_none(), "a failed queue pair lends nothing");
        let place = bytes.as_ptr();
        assert!(!is_used_again(bytes), "the peer may be reading it");
        drop(lender);
        assert_eq!(BulkBuffer::copy_from_slice(&numbered(LEN)).as_ptr(), place);
    });
}
