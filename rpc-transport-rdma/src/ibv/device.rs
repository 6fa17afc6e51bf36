//! An open device: its context, what it said of itself, and its memory pool.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustix::io::Errno;

use super::address::{Gid, Network, PathMtu};
use super::error::{failed, failed_now, make_non_blocking};
use super::events::Listener;
use super::facts::{DeviceFacts, DeviceLimits, GidFacts, LinkLayer, PortFacts, PortState};
use super::ffi::{self, Verbs};
use super::pool::MemoryPool;
use super::removal::{self, Entry, Holder};
use super::siw;
use crate::verbs::VerbError;

/// The longest GID table asked for; the kernel's own limit of entries that hold something is far
/// lower.
const MAX_GIDS: usize = 1024;

/// An open device. Closed when the last user is gone, so that it can be removed while a program
/// that once used it goes on.
#[derive(Debug)]
pub(super) struct Device {
    verbs: &'static Verbs,
    context: NonNull<ffi::ibv_context>,
    /// Never used: see [`super::siw`].
    in_the_way: Option<NonNull<ffi::ibv_cq>>,
    facts: DeviceFacts,
    pool: Arc<MemoryPool>,
    /// Of all connections: see [`super::rest`].
    resting_bytes: AtomicUsize,
    gone: OnceLock<String>,
    /// A thread looks whether it is removed.
    watched: AtomicBool,
    listeners: Mutex<Vec<(u32, Weak<dyn Listener>)>>,
}

// SAFETY: the verbs API is thread safe (ibv_open_device(3), "thread safety" of rdma-core: every
// object may be used from any thread); the context lives until drop.
unsafe impl Send for Device {}
// SAFETY: as for Send.
unsafe impl Sync for Device {}

/// Open devices, by name. A device is open once in a process, however many channels and servers
/// use it, because its memory pool bounds them together.
static OPEN: Mutex<Vec<(String, Weak<Device>)>> = Mutex::new(Vec::new());

/// The kernel's list of devices, freed with the value.
struct List {
    verbs: &'static Verbs,
    first: NonNull<*mut ffi::ibv_device>,
    len: usize,
}

impl List {
    fn get(verbs: &'static Verbs) -> Result<List, VerbError> {
        let mut len: c_int = 0;
        // SAFETY: `len` is written by the call; the result is a list of `len` devices or null.
        let first = unsafe { (verbs.ibv_get_device_list)(&raw mut len) };
        let first = NonNull::new(first)
            .ok_or_else(|| failed_now("ibv_get_device_list", "looking for RDMA devices"))?;
        Ok(List { verbs, first, len: usize::try_from(len).unwrap_or(0) })
    }

    fn iter(&self) -> impl Iterator<Item = (*mut ffi::ibv_device, String)> + '_ {
        (0..self.len).map(|at| {
            // SAFETY: the list has `len` entries and lives until drop.
            let device = unsafe { *self.first.as_ptr().add(at) };
            // SAFETY: an entry of the list is a device; its name is a C string inside it.
            let name = unsafe { CStr::from_ptr((self.verbs.ibv_get_device_name)(device)) };
            (device, name.to_string_lossy().into_owned())
        })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list came from ibv_get_device_list; contexts opened from it stay valid.
        unsafe { (self.verbs.ibv_free_device_list)(self.first.as_ptr()) };
    }
}

impl Device {
    /// Opens every device there is. Those that cannot be opened are left out; if that is all of
    /// them, the error says why of the first.
    ///
    /// # Errors
    /// If there is no library, no kernel support, or no permission.
    pub(super) fn open_all(memory_bytes: usize) -> Result<Vec<Arc<Device>>, String> {
        let verbs = Verbs::get().map_err(|error| error.to_string())?;
        let list = List::get(verbs).map_err(|error| error.to_string())?;
        let mut devices = Vec::new();
        let mut first_error = None;
        for (device, name) in list.iter() {
            match Device::open(verbs, device, &name, memory_bytes) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    tracing::debug!(%name, %error, "an RDMA device cannot be used");
                    first_error.get_or_insert_with(|| format!("{name}: {error}"));
                }
            }
        }
        match first_error {
            Some(error) if devices.is_empty() => Err(error),
            _ => Ok(devices),
        }
    }

    fn open(
        verbs: &'static Verbs,
        device: *mut ffi::ibv_device,
        name: &str,
        memory_bytes: usize,
    ) -> Result<Arc<Device>, VerbError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, device)| device.strong_count() > 0);
        let known = open.iter().find(|(known, _)| known == name).and_then(|(_, d)| d.upgrade());
        let mut pool = None;
        if let Some(device) = known
            && device.gone().is_none()
        {
            // Ports come up and addresses change: what was recorded then is asked again.
            let facts = device.ask(name)?;
            if facts == device.facts {
                return Ok(device);
            }
            pool = Some(device.pool.clone());
        }
        // SAFETY: `device` is an entry of a live list.
        let context = unsafe { (verbs.ibv_open_device)(device) };
        let context =
            NonNull::new(context).ok_or_else(|| failed_now("ibv_open_device", name.to_owned()))?;
        let nothing = DeviceFacts {
            name: name.to_owned(),
            iwarp: false,
            vendor_id: 0,
            limits: DeviceLimits {
                max_qp_wr: 0,
                max_cqe: 0,
                max_mr_bytes: 0,
                max_reads_responder: 0,
                max_reads_initiator: 0,
            },
            ports: Vec::new(),
        };
        let pool = pool.unwrap_or_else(|| MemoryPool::new(memory_bytes));
        let mut device = Device {
            verbs,
            context,
            in_the_way: None,
            facts: nothing,
            pool,
            resting_bytes: AtomicUsize::new(0),
            gone: OnceLock::new(),
            watched: AtomicBool::new(false),
            listeners: Mutex::default(),
        };
        device.facts = device.ask(name)?;
        device.in_the_way = siw::take_refused_key(verbs, context, &device.facts);
        make_non_blocking(&device, &format!("{}: event channel", device.facts.name))?;
        let device = Arc::new(device);
        open.retain(|(known, _)| known != name);
        open.push((name.to_owned(), Arc::downgrade(&device)));
        Ok(device)
    }

    /// The functions.
    pub(super) fn verbs(&self) -> &'static Verbs {
        self.verbs
    }

    /// The context, open for as long as this value lives.
    pub(super) fn context(&self) -> *mut ffi::ibv_context {
        self.context.as_ptr()
    }

    /// What the device said when it was opened.
    pub(super) fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Its memory.
    pub(super) fn pool(&self) -> &Arc<MemoryPool> {
        &self.pool
    }

    /// The bytes that rest of all connections.
    pub(super) fn resting_bytes(&self) -> &AtomicUsize {
        &self.resting_bytes
    }

    /// Why the device cannot be used any more, if so.
    pub(super) fn gone(&self) -> Option<&str> {
        self.gone.get().map(String::as_str)
    }

    /// The device is fatally broken or removed.
    pub(super) fn mark_gone(&self, why: &str) {
        let _ = self.gone.set(why.to_owned());
    }

    /// Its entry in sysfs, if it has one.
    fn entry(&self) -> Option<Entry> {
        // SAFETY: the context names its device for as long as it is open.
        unsafe { entry_of(self.context()) }
    }

    /// From now on connections end when the device is removed, so that the removal can go on.
    pub(super) fn watch_removal(self: &Arc<Self>) {
        let Some(entry) = self.entry() else { return };
        if !self.watched.swap(true, Ordering::AcqRel) {
            removal::watch(entry, Box::new(Watch(Arc::downgrade(self))));
        }
    }

    /// Tells `listener` of trouble with its queue pair, as long as it lives.
    pub(super) fn listen(&self, qp_num: u32, listener: Weak<dyn Listener>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|(_, listener)| listener.strong_count() > 0);
        listeners.push((qp_num, listener));
    }

    /// Tells the listeners of one queue pair, or all.
    pub(super) fn tell(&self, qp_num: Option<u32>, why: &str) {
        let listeners: Vec<_> = {
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            let meant = |number: u32| qp_num.is_none_or(|meant| meant == number);
            listeners.iter().filter(|(number, _)| meant(*number)).map(|(_, l)| l.clone()).collect()
        };
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.failed(why);
        }
    }

    fn ask(&self, name: &str) -> Result<DeviceFacts, VerbError> {
        let mut attr = ffi::ibv_device_attr::default();
        // SAFETY: the context is open; `attr` is written by the call.
        let result = unsafe { (self.verbs.ibv_query_device)(self.context(), &raw mut attr) };
        if result != 0 {
            return Err(failed("ibv_query_device", result, name));
        }
        // SAFETY: the context names its device for as long as it is open.
        let transport = unsafe { (*(*self.context()).device).transport_type };
        let iwarp = transport == ffi::IBV_TRANSPORT_IWARP;
        let gids = if iwarp { Vec::new() } else { self.gid_table(name, attr.phys_port_cnt)? };
        let mut ports = Vec::new();
        for number in 1..=attr.phys_port_cnt {
            ports.push(self.port(name, number, &gids)?);
        }
        let unsigned = |value: c_int| u32::try_from(value).unwrap_or(0);
        let reads = |value: c_int| u8::try_from(value.clamp(0, 255)).unwrap_or(0);
        Ok(DeviceFacts {
            name: name.to_owned(),
            iwarp,
            vendor_id: attr.vendor_id,
            limits: DeviceLimits {
                max_qp_wr: unsigned(attr.max_qp_wr),
                max_cqe: unsigned(attr.max_cqe),
                max_mr_bytes: attr.max_mr_size,
                max_reads_responder: reads(attr.max_qp_rd_atom),
                max_reads_initiator: reads(attr.max_qp_init_rd_atom),
            },
            ports,
        })
    }

    fn port(
        &self,
        name: &str,
        number: u8,
        gids: &[(u32, GidFacts)],
    ) -> Result<PortFacts, VerbError> {
        // SAFETY: the context is open.
        let attr = unsafe { self.verbs.query_port(self.context(), number) };
        let attr =
            attr.map_err(|errno| failed("ibv_query_port", errno, format!("{name} port {number}")))?;
        let infiniband = u32::from(attr.link_layer) != ffi::IBV_LINK_LAYER_ETHERNET;
        let of_port = gids.iter().filter(|(port, _)| *port == u32::from(number));
        Ok(PortFacts {
            number,
            state: match attr.state {
                ffi::ibv_port_state::IBV_PORT_ACTIVE => PortState::Active,
                other => PortState::Down(other),
            },
            link_layer: if infiniband { LinkLayer::InfiniBand } else { LinkLayer::Ethernet },
            lid: attr.lid,
            active_mtu: u8::try_from(attr.active_mtu)
                .ok()
                .and_then(PathMtu::from_code)
                .unwrap_or(SMALLEST_MTU),
            gids: of_port.map(|(_, gid)| *gid).collect(),
        })
    }

    /// The GIDs of all ports, with their ports.
    fn gid_table(&self, name: &str, ports: u8) -> Result<Vec<(u32, GidFacts)>, VerbError> {
        let mut entries = vec![ffi::ibv_gid_entry::default(); MAX_GIDS];
        let Some(query) = self.verbs._ibv_query_gid_table else {
            return self.gid_entries_one_by_one(name, ports);
        };
        // SAFETY: the context is open, and `entries` has room for as many as it is said to have.
        let count = unsafe {
            query(
                self.context(),
                entries.as_mut_ptr(),
                entries.len(),
                0,
                size_of::<ffi::ibv_gid_entry>(),
            )
        };
        let count = usize::try_from(count).map_err(|_| {
            failed("ibv_query_gid_table", i32::try_from(count).unwrap_or(i32::MIN), name)
        })?;
        entries.truncate(count);
        Ok(entries.iter().filter_map(gid_facts).collect())
    }

    /// The same with libraries older than rdma-core 33.
    fn gid_entries_one_by_one(
        &self,
        name: &str,
        ports: u8,
    ) -> Result<Vec<(u32, GidFacts)>, VerbError> {
        let mut found = Vec::new();
        for port in 1..=ports {
            for index in 0..MAX_GIDS as u32 {
                // SAFETY: the context is open.
                match unsafe { self.verbs.query_gid_entry(self.context(), port, index) } {
                    Ok(entry) => found.extend(gid_facts(&entry)),
                    Err(error) if error.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {}
                    // Beyond the table's end.
                    Err(_) if index > 0 => break,
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                        return Err(failed("ibv_query_gid_ex", errno, format!("{name}: {error}")));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A device that is used, to be told of its removal. The thread that watches does not hold it.
struct Watch(Weak<Device>);

impl Holder for Watch {
    fn holds(&self) -> bool {
        self.0.strong_count() > 0
    }

    fn let_go(&self) {
        let Some(device) = self.0.upgrade() else { return };
        if device.gone().is_none() {
            let why =
                format!("the RDMA device {} is being removed from the system", device.facts.name);
            tracing::warn!(device = %device.facts.name, "{why}; its connections end");
            device.mark_gone(&why);
        }
        // Whoever came after the last time as well.
        device.tell(None, device.gone().unwrap_or_default());
    }
}

/// The entry in sysfs of a context's device.
///
/// # Safety
/// The context is open.
pub(super) unsafe fn entry_of(context: *mut ffi::ibv_context) -> Option<Entry> {
    // SAFETY: an open context names its device, whose path is a C string inside it.
    let path = unsafe { CStr::from_ptr((&raw const (*(*context).device).dev_path).cast()) };
    Entry::at(std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

/// An entry of a table of GIDs with its port, if it holds something we know.
fn gid_facts(entry: &ffi::ibv_gid_entry) -> Option<(u32, GidFacts)> {
    // SAFETY: both halves of the union are plain bytes.
    let gid = Gid(unsafe { entry.gid.raw });
    let network = match entry.gid_type {
        ffi::IBV_GID_TYPE_IB => Network::InfiniBand,
        ffi::IBV_GID_TYPE_ROCE_V1 => Network::RoceV1,
        ffi::IBV_GID_TYPE_ROCE_V2 => Network::RoceV2,
        _ => return None,
    };
    let facts = GidFacts { index: entry.gid_index, gid, network };
    (!gid.is_zero()).then_some((entry.port_num, facts))
}

/// What a port that says nonsense is taken to carry.
const SMALLEST_MTU: PathMtu = match PathMtu::from_code(1) {
    Some(mtu) => mtu,
    None => unreachable!(),
};

impl AsFd for Device {
    /// The channel of asynchronous events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open, its descriptor never changes, and is closed with it.
        unsafe { BorrowedFd::borrow_raw((*self.context()).async_fd) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(cq) = self.in_the_way {
            // SAFETY: made with the device and known to nobody else.
            unsafe { (self.verbs.ibv_destroy_cq)(cq.as_ptr()) };
        }
        // SAFETY: every object made on the context holds the device, so none is left.
        let result = unsafe { (self.verbs.ibv_close_device)(self.context()) };
        if result != 0 {
            tracing::warn!(device = self.facts.name, result, "ibv_close_device failed");
        }
    }
}
