//! Regions: those this side registered and offered, and those of the peer mapped here.
//!
//! An rkey is `generation << 12 | slot`: the slot indexes a table, the generation keeps an old
//! key from opening a new region in the same slot. The address of a region's first byte is its
//! rkey shifted up by 32 bits, so that an address used with the wrong rkey is out of bounds. No
//! real address crosses between the processes.
//!
//! Offers and withdrawals travel on the socket, in order. A memfd is kept open only until its
//! offer is sent.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::blocks;
use super::fdpass::{self, Message, Sent};
use super::mapping::{Mapping, OwnedMapping};
use super::memfd::OfferedMemfd;
use super::prefetch::{prefetch_read, prefetch_write};
use crate::verbs::{Access, Region, RemoteAddr, VerbError};

const SLOT_BITS: u32 = 12;
/// The most regions one side can offer at once.
pub(super) const MAX_REGIONS: u32 = 1 << SLOT_BITS;
/// Generations of one slot. Below 2^19, so that addresses have room above the rkey.
const MAX_GENERATION: u32 = (1 << 18) - 1;
/// No region's rkey is above this.
pub(super) const MAX_RKEY: u32 = MAX_GENERATION << SLOT_BITS | (MAX_REGIONS - 1);
/// Messages that wait here, beyond the some 270 the socket itself holds, before `register` says
/// that there is no room now.
const MAX_UNSENT: usize = 256;
/// Of what will be written so much is fetched at most: half of a small first-level cache, in which what
/// a program works with should stay.
const FETCH_BYTES: usize = 16 * 1024;
/// The longest region.
const MAX_REGION_BYTES: usize = 1 << 46;

fn address_base(rkey: u32) -> u64 {
    u64::from(rkey) << 32
}

/// Memory registered for a shared-memory queue pair.
pub struct ShmRegion {
    memory: OwnedMapping,
    len: usize,
    access: Access,
    /// 0 for local memory, which has none.
    rkey: u32,
    dropped: Arc<DropBox>,
}

impl ShmRegion {
    /// The memory, for requests to hold on to.
    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        self.memory.mapping()
    }

    /// Whether no other process has it.
    pub(super) fn is_local(&self) -> bool {
        self.access.is_local()
    }

    /// Where a burst at `offset` would lie, for a hint.
    pub(super) fn address(&self, offset: usize) -> usize {
        self.memory.mapping().address(offset)
    }

    /// Whether the region belongs to the queue pair with this drop box.
    pub(super) fn belongs_to(&self, regions: &OwnRegions) -> bool {
        Arc::ptr_eq(&self.dropped, &regions.dropped)
    }
}

impl fmt::Debug for ShmRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmRegion")
            .field("len", &self.len)
            .field("access", &self.access)
            .field("rkey", &self.rkey)
            .finish_non_exhaustive()
    }
}

impl Region for ShmRegion {
    fn len(&self) -> usize {
        self.len
    }

    fn remote(&self) -> RemoteAddr {
        RemoteAddr { addr: address_base(self.rkey), rkey: self.rkey }
    }

    fn prefetch(&self, offset: usize) {
        prefetch_read(self.address(offset));
    }

    fn will_write(&self, offset: usize, len: usize) {
        prefetch_write(self.address(offset), len.min(FETCH_BYTES));
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.memory.mapping().read(offset, into);
    }

    fn read_new(&self, offset: usize, len: usize) -> Vec<u8> {
        self.memory.mapping().read_new(offset, len)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }
}

impl Drop for ShmRegion {
    fn drop(&mut self) {
        if self.rkey != 0 {
            self.dropped.put(self.rkey);
        }
    }
}

/// Where dropped regions leave their rkeys for the queue pair, which may be in another thread or
/// gone.
#[derive(Debug, Default)]
struct DropBox {
    any: AtomicBool,
    rkeys: Mutex<Vec<u32>>,
}

impl DropBox {
    fn put(&self, rkey: u32) {
        self.rkeys.lock().unwrap_or_else(PoisonError::into_inner).push(rkey);
        self.any.store(true, Ordering::Release);
    }

    fn take(&self) -> Vec<u32> {
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *self.rkeys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Clone, Copy)]
struct OwnSlot {
    generation: u32,
    /// Length of the region that has the slot now; `None` while it is free.
    len: Option<u64>,
}

/// The regions this side registered.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct OwnRegions {
    dropped: Arc<DropBox>,
    unsent: VecDeque<(Message, Option<OwnedFd>)>,

    slots: Vec<OwnSlot>,
    free: Vec<u32>,
    offered_bytes: u64,
    max_regions: u32,
    max_bytes: u64,
}

impl OwnRegions {
    /// `max_regions` and `max_bytes` are what the peer will map.
    pub(super) fn new(max_regions: u32, max_bytes: u64) -> OwnRegions {
        OwnRegions {
            slots: Vec::new(),
            free: Vec::new(),
            offered_bytes: 0,
            max_regions: max_regions.min(MAX_REGIONS),
            max_bytes,
            dropped: Arc::default(),
            unsent: VecDeque::new(),
        }
    }

    /// Makes a region. Unless it is local, its offer is queued to be sent.
    pub(super) fn register(&mut self, len: usize, access: Access) -> Result<ShmRegion, VerbError> {
        let failed = |errno: Errno, context: String| VerbError {
            verb: "register",
            errno: errno.raw_os_error(),
            context,
        };
        if len == 0 || len > MAX_REGION_BYTES {
            let context = format!("a region of {len} bytes; it must have 1 to 2^46");
            return Err(failed(Errno::INVAL, context));
        }
        let dropped = Arc::clone(&self.dropped);
        if access.is_local() {
            let memory = OwnedMapping::new(match access {
                Access::ReadTarget => blocks::part(len)?,
                // Of staging memory much is never touched: it stays in small pages.
                _ => Mapping::private(len)?,
            });
            return Ok(ShmRegion { memory, len, access, rkey: 0, dropped });
        }
        if self.offered_bytes.saturating_add(len as u64) > self.max_bytes {
            let context = format!(
                "{len} more bytes: the peer maps at most {} and has {}; raise its max_peer_bytes",
                self.max_bytes, self.offered_bytes
            );
            return Err(failed(Errno::NOSPC, context));
        }
        // Offers the peer does not take would pile up here, each with an open memfd.
        if self.unsent.len() >= MAX_UNSENT {
            let context = "the peer takes no more offers of regions now; try again later";
            return Err(failed(Errno::AGAIN, context.into()));
        }
        let slot = self.free_slot().ok_or_else(|| {
            let context = format!(
                "one more region: the peer maps at most {}; raise its max_peer_regions",
                self.max_regions
            );
            failed(Errno::NOSPC, context)
        })?;
        let made = match access {
            Access::RemoteRead | Access::Viewed => Mapping::for_peer_to_read(len),
            _ => Mapping::for_both(len),
        };
        let (mapping, fd) = made.inspect_err(|_| self.free.push(slot))?;
        let entry = &mut self.slots[slot as usize];
        entry.len = Some(len as u64);
        let rkey = entry.generation << SLOT_BITS | slot;
        self.offered_bytes += len as u64;
        self.unsent.push_back((Message::Offer { rkey, access, len: len as u64 }, Some(fd)));
        Ok(ShmRegion { memory: OwnedMapping::new(mapping), len, access, rkey, dropped })
    }

    /// A handle of memory of the peer's.
    pub(super) fn view(&self, mapping: Arc<Mapping>, len: usize) -> ShmRegion {
        let (memory, dropped) = (OwnedMapping::of_peer(mapping), Arc::clone(&self.dropped));
        ShmRegion { memory, len, access: Access::RemoteWrite, rkey: 0, dropped }
    }

    fn free_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.slots.len() as u32;
        if slot >= self.max_regions {
            return None;
        }
        self.slots.push(OwnSlot { generation: 1, len: None });
        Some(slot)
    }

    /// Whether regions have been dropped since the last [`OwnRegions::collect_dropped`].
    pub(super) fn any_dropped(&self) -> bool {
        self.dropped.any.load(Ordering::Acquire)
    }

    /// Queues the withdrawal of dropped regions; how many.
    pub(super) fn collect_dropped(&mut self) -> u64 {
        let rkeys = self.dropped.take();
        rkeys.iter().for_each(|&rkey| self.withdraw(rkey));
        rkeys.len() as u64
    }

    fn withdraw(&mut self, rkey: u32) {
        let slot = rkey & (MAX_REGIONS - 1);
        let entry = &mut self.slots[slot as usize];
        self.offered_bytes -= entry.len.take().unwrap_or(0);
        entry.generation += 1;
        // A slot whose generations are used up is never handed out again.
        if entry.generation <= MAX_GENERATION {
            self.free.push(slot);
        }
        self.unsent.push_back((Message::Revoke { rkey }, None));
    }

    /// Queues a message that is no region's, in order with theirs. To be announced.
    pub(super) fn queue(&mut self, message: Message) {
        self.unsent.push_back((message, None));
    }

    /// Whether messages wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what waits, until the socket is full. How many went, and the last outcome.
    pub(super) fn send(&mut self, socket: impl AsFd) -> (u64, Sent) {
        let mut sent = 0;
        while let Some((message, fd)) = self.unsent.front() {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            match fdpass::send(&socket, message, &fds) {
                Sent::Yes => {
                    self.unsent.pop_front();
                    sent += 1;
                }
                other => return (sent, other),
            }
        }
        (sent, Sent::Yes)
    }
}

/// What the peer may do to a region, and the region.
#[derive(Debug)]
struct PeerRegion {
    rkey: u32,
    access: Access,
    mapping: Arc<Mapping>,
}

/// Why an access to the peer's memory cannot go ahead.
#[derive(Debug)]
pub(super) enum AccessError {
    /// The rkey names no region, which may be on its way.
    UnknownKey,
    /// The peer's memory rules forbid it.
    Violation(Box<Broken>),
}

/// A rule that a request breaks, and how.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl Broken {
    #[cold]
    pub(super) fn rule(what: impl Into<String>) -> Box<Broken> {
        Box::new(Broken(what.into()))
    }
}

/// The peer's regions that are mapped here.
#[derive(Debug)]
pub(super) struct PeerRegions {
    slots: Vec<Option<PeerRegion>>,
    mapped: u32,
    mapped_bytes: u64,
    max_regions: u32,
    max_bytes: u64,
}

impl PeerRegions {
    /// At most `max_regions` of `max_bytes` together will be mapped.
    pub(super) fn new(max_regions: u32, max_bytes: u64) -> PeerRegions {
        let max_regions = max_regions.min(MAX_REGIONS);
        PeerRegions { slots: Vec::new(), mapped: 0, mapped_bytes: 0, max_regions, max_bytes }
    }

    /// Maps a region the peer offers. An error is the peer's fault or a failed mmap; both end the
    /// queue pair.
    pub(super) fn add(
        &mut self,
        rkey: u32,
        access: Access,
        len: u64,
        fd: OwnedFd,
    ) -> Result<(), String> {
        let slot = (rkey & (MAX_REGIONS - 1)) as usize;
        let generation = rkey >> SLOT_BITS;
        if generation == 0 || generation > MAX_GENERATION || slot >= self.max_regions as usize {
            return Err(format!("offered a region with the impossible rkey {rkey:#x}"));
        }
        if self.slots.get(slot).is_some_and(Option::is_some) {
            return Err(format!("offered rkey {rkey:#x} while its slot is taken"));
        }
        if self.mapped >= self.max_regions {
            return Err(format!("offered more than the {} regions it may", self.max_regions));
        }
        let total = self.mapped_bytes.saturating_add(len);
        if total > self.max_bytes {
            return Err(format!("offered {total} bytes in all, of {} it may", self.max_bytes));
        }
        let bytes = usize::try_from(len).ok().filter(|&bytes| bytes <= MAX_REGION_BYTES);
        let bytes = bytes.ok_or_else(|| format!("offered a region of {len} bytes"))?;
        let memfd = OfferedMemfd::check(fd, bytes)?;
        let mapping = Mapping::of_peer(&memfd, access == Access::RemoteWrite)
            .map_err(|error| error.to_string())?;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(PeerRegion { rkey, access, mapping: Arc::new(mapping) });
        self.mapped += 1;
        self.mapped_bytes = total;
        Ok(())
    }

    /// Unmaps a region the peer withdraws.
    pub(super) fn remove(&mut self, rkey: u32) -> Result<(), String> {
        let slot = (rkey & (MAX_REGIONS - 1)) as usize;
        let entry = self.slots.get_mut(slot);
        let Some(region) = entry.and_then(|entry| entry.take_if(|region| region.rkey == rkey))
        else {
            return Err(format!("withdrew rkey {rkey:#x}, which it had not offered"));
        };
        self.mapped -= 1;
        self.mapped_bytes -= region.mapping.len() as u64;
        Ok(())
    }

    /// The memory of a region that the peer lets us view, if it has `len` bytes.
    pub(super) fn view(&self, of: RemoteAddr, len: usize) -> Result<Arc<Mapping>, VerbError> {
        let context = match self.resolve(of, len, Access::Viewed) {
            Ok((mapping, 0)) => return Ok(Arc::clone(mapping)),
            Ok((_, offset)) => format!("it begins at byte {offset} of its region"),
            Err(AccessError::UnknownKey) => format!("no region with rkey {:#x}", of.rkey),
            Err(AccessError::Violation(broken)) => broken.0,
        };
        Err(VerbError {
            verb: "view",
            errno: Errno::INVAL.raw_os_error(),
            context: format!("what the peer offered: {context}"),
        })
    }

    /// The mapping and the offset in it of `len` bytes at `at`, if `access` to them is allowed.
    #[inline]
    pub(super) fn resolve(
        &self,
        at: RemoteAddr,
        len: usize,
        access: Access,
    ) -> Result<(&Arc<Mapping>, usize), AccessError> {
        let slot = (at.rkey & (MAX_REGIONS - 1)) as usize;
        let region = match self.slots.get(slot) {
            Some(Some(region)) if region.rkey == at.rkey => region,
            _ => return Err(AccessError::UnknownKey),
        };
        let offset = at.addr.wrapping_sub(address_base(at.rkey));
        match usize::try_from(offset) {
            Ok(offset) if region.access == access && region.mapping.contains(offset, len) => {
                Ok((&region.mapping, offset))
            }
            _ => Err(AccessError::Violation(Broken::rule(region.violation(at, len, access)))),
        }
    }
}

impl PeerRegion {
    #[cold]
    fn violation(&self, at: RemoteAddr, len: usize, access: Access) -> String {
        format!(
            "{access:?} of {len} bytes at {:#x} with rkey {:#x}, which allows {:?} of {} bytes at \
             {:#x}",
            at.addr,
            at.rkey,
            self.access,
            self.mapping.len(),
            address_base(self.rkey)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::fdpass::Incoming;
    use crate::shm::fdpass::tests::socket_pair;
    use crate::shm::memfd;

    fn sealed(len: usize) -> OwnedFd {
        let fd = memfd::create(len).unwrap();
        memfd::seal(&fd).unwrap();
        fd
    }

    fn key(generation: u32, slot: u32) -> u32 {
        generation << SLOT_BITS | slot
    }

    #[test]
    fn a_registered_region_can_be_offered_mapped_reached_and_withdrawn() {
        let (a, b) = socket_pair();
        let mut own = OwnRegions::new(4, 1 << 20);
        let mut peer = PeerRegions::new(4, 1 << 20);
        let region = own.register(5000, Access::RemoteWrite).unwrap();
        assert_eq!(own.send(&a), (1, Sent::Yes));
        let Incoming::Message(Message::Offer { rkey, access, len }, mut fds) = fdpass::receive(&b)
        else {
            panic!("an offer")
        };
        peer.add(rkey, access, len, fds.pop().unwrap()).unwrap();
        let at = region.remote();
        assert!(peer.resolve(at, 5000, Access::RemoteWrite).is_ok());
        for (at, len, access) in [
            (at, 5001, Access::RemoteWrite),
            (at.offset(5000).unwrap(), 1, Access::RemoteWrite),
            (at, 1, Access::RemoteRead),
            (RemoteAddr { addr: 0, ..at }, 1, Access::RemoteWrite),
            (RemoteAddr { addr: u64::MAX, ..at }, 2, Access::RemoteWrite),
            (at, usize::MAX, Access::RemoteWrite),
        ] {
            let refused = peer.resolve(at, len, access);
            assert!(matches!(refused, Err(AccessError::Violation(_))), "{at:?} {len} {access:?}");
        }
        drop(region);
        assert!(own.any_dropped());
        assert_eq!(own.collect_dropped(), 1);
        assert_eq!(own.send(&a), (1, Sent::Yes));
        let Incoming::Message(Message::Revoke { rkey }, _) = fdpass::receive(&b) else {
            panic!("a withdrawal")
        };
        peer.remove(rkey).unwrap();
        assert!(matches!(peer.resolve(at, 1, Access::RemoteWrite), Err(AccessError::UnknownKey)));
        let again = own.register(10, Access::RemoteWrite).unwrap();
        assert_ne!(again.remote().rkey, at.rkey, "the old key must not open the new region");
    }

    #[test]
    fn our_own_limits_are_clear_errors_and_dropping_gives_room_back() {
        let mut own = OwnRegions::new(2, 10_000);
        assert!(own.register(0, Access::Local).is_err());
        let first = own.register(6000, Access::RemoteRead).unwrap();
        let too_long = own.register(4001, Access::RemoteRead).unwrap_err();
        assert!(too_long.to_string().contains("max_peer_bytes"), "{too_long}");
        let _second = own.register(1, Access::RemoteRead).unwrap();
        let too_many = own.register(1, Access::RemoteRead).unwrap_err();
        assert!(too_many.to_string().contains("max_peer_regions"), "{too_many}");
        own.register(1 << 20, Access::Local).unwrap();
        drop(first);
        own.collect_dropped();
        own.register(9000, Access::RemoteRead).unwrap();
    }

    #[test]
    fn lying_offers_are_refused() {
        let mut peer = PeerRegions::new(2, 8192);
        let write = Access::RemoteWrite;
        for bad_key in [0, 1, key(0, 1), key(1, 2), key(MAX_GENERATION + 1, 0), u32::MAX] {
            assert!(peer.add(bad_key, write, 4096, sealed(4096)).is_err(), "{bad_key:#x}");
        }
        assert!(peer.add(key(1, 0), write, 4096, memfd::create(4096).unwrap()).is_err());
        assert!(peer.add(key(1, 0), write, 4097, sealed(4096)).is_err());
        assert!(peer.add(key(1, 0), write, 0, sealed(4096)).is_err());
        assert!(peer.add(key(1, 0), write, u64::MAX, sealed(4096)).is_err());
        assert!(peer.add(key(1, 0), write, 8193, sealed(9000)).is_err());
        peer.add(key(1, 0), write, 4096, sealed(4096)).unwrap();
        assert!(peer.add(key(2, 0), write, 1, sealed(1)).is_err(), "the slot is taken");
        assert!(peer.add(key(1, 1), write, 4097, sealed(4097)).is_err(), "too many bytes");
        assert!(peer.remove(key(2, 0)).is_err());
        assert!(peer.remove(key(1, 9)).is_err());
        peer.remove(key(1, 0)).unwrap();
        assert!(peer.remove(key(1, 0)).is_err());
        assert_eq!((peer.mapped, peer.mapped_bytes), (0, 0));
    }
}
