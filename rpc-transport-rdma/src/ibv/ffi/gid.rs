//! One entry of a port's GID table, with its type.
//!
//! The type (RoCE v1 or v2) and the network interface come from `_ibv_query_gid_ex`, which
//! rdma-core has had since version 32; from an older library, from the files the kernel shows.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io::{self, ErrorKind};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::*;

impl Verbs {
    /// The entry at `index` of the table of port `port_num`. An empty entry is `ENODATA`.
    ///
    /// # Safety
    ///
    /// `context` is an open device's.
    pub(crate) unsafe fn query_gid_entry(
        &self,
        context: *mut ibv_context,
        port_num: u8,
        index: u32,
    ) -> io::Result<ibv_gid_entry> {
        let Some(query) = self._ibv_query_gid_ex else {
            // SAFETY: this function's contract.
            return unsafe { self.query_gid_entry_of_files(context, port_num, index) };
        };
        let mut entry = ibv_gid_entry::default();
        let (port, size) = (u32::from(port_num), size_of::<ibv_gid_entry>());
        // SAFETY: the context is open by this function's contract; `entry` has the size given.
        match unsafe { query(context, port, index, &raw mut entry, 0, size) } {
            0 => Ok(entry),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// The same without `_ibv_query_gid_ex`.
    ///
    /// # Safety
    ///
    /// `context` is an open device's.
    unsafe fn query_gid_entry_of_files(
        &self,
        context: *mut ibv_context,
        port_num: u8,
        index: u32,
    ) -> io::Result<ibv_gid_entry> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let c_index = i32::try_from(index).map_err(invalid)?;
        let mut gid = ibv_gid::default();
        // SAFETY: the context is open by this function's contract; `gid` is writable.
        if unsafe { (self.ibv_query_gid)(context, port_num, c_index, &raw mut gid) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the fields of the union are the same 16 bytes of integers.
        if unsafe { gid.raw } == [0; 16] {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        // SAFETY: the context is open by this function's contract.
        let port = unsafe { self.query_port(context, port_num) };
        let link_layer = port.map_err(io::Error::from_raw_os_error)?.link_layer;
        // SAFETY: an open context points to its device, whose path libibverbs ends with a zero.
        let path = unsafe { CStr::from_ptr((*(*context).device).ibdev_path.as_ptr()) };
        let device = Path::new(OsStr::from_bytes(path.to_bytes()));
        let port_files = device.join("ports").join(port_num.to_string());
        let (gid_type, ndev_ifindex) = attributes(&port_files, index, link_layer)?;
        Ok(ibv_gid_entry {
            gid,
            gid_index: index,
            port_num: port_num.into(),
            gid_type,
            ndev_ifindex,
        })
    }
}

/// The type, and the index of the network interface (0 if there is none), of entry `index` as
/// `gid_attrs` below `port_files` shows them.
fn attributes(port_files: &Path, index: u32, link_layer: u8) -> io::Result<(u32, u32)> {
    let attributes = port_files.join("gid_attrs");
    let types = attributes.join("types").join(index.to_string());
    let words = match fs::read_to_string(&types) {
        Ok(words) => words,
        // The folder came with RoCE v2: a kernel without it has v1 only.
        Err(error) if error.kind() == ErrorKind::NotFound && !attributes.exists() => {
            "IB/RoCE v1".to_owned()
        }
        Err(error) => return Err(in_file(&types, error.kind(), &error)),
    };
    let ethernet = u32::from(link_layer) == IBV_LINK_LAYER_ETHERNET;
    let gid_type = match words.trim_end() {
        "IB/RoCE v1" if ethernet => IBV_GID_TYPE_ROCE_V1,
        "IB/RoCE v1" => IBV_GID_TYPE_IB,
        "RoCE v2" => IBV_GID_TYPE_ROCE_V2,
        other => {
            let problem = format!("{other:?} is no GID type we know");
            return Err(in_file(&types, ErrorKind::InvalidData, &problem));
        }
    };
    // InfiniBand has no interface there: the file is missing, or reading it is an error.
    let interface = fs::read(attributes.join("ndevs").join(index.to_string())).unwrap_or_default();
    let Ok(interface) = CString::new(interface.trim_ascii()) else { return Ok((gid_type, 0)) };
    // SAFETY: the argument is a string that ends with a zero.
    Ok((gid_type, unsafe { libc::if_nametoindex(interface.as_ptr()) }))
}

fn in_file(path: &Path, kind: ErrorKind, problem: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int};

    use super::*;

    /// A port's folder with one entry, 3, of the type `words` on the loopback interface.
    fn port_folder(words: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for (name, content) in [("types", words), ("ndevs", "lo\n")] {
            let attribute = folder.path().join("ports/1/gid_attrs").join(name);
            fs::create_dir_all(&attribute).expect("a folder");
            fs::write(attribute.join("3"), content).expect("a file");
        }
        folder
    }

    fn read(folder: &tempfile::TempDir, index: u32, link_layer: u32) -> io::Result<(u32, u32)> {
        let layer = u8::try_from(link_layer).expect("one byte");
        attributes(&folder.path().join("ports/1"), index, layer)
    }

    #[test]
    fn the_type_is_read_with_the_link_layer_in_mind() {
        // SAFETY: the argument is a string that ends with a zero.
        let lo = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
        let v1 = port_folder("IB/RoCE v1\n");
        let ethernet = read(&v1, 3, IBV_LINK_LAYER_ETHERNET).expect("a known type");
        assert_eq!(ethernet, (IBV_GID_TYPE_ROCE_V1, lo));
        let infiniband = read(&v1, 3, IBV_LINK_LAYER_INFINIBAND).expect("a known type");
        assert_eq!(infiniband.0, IBV_GID_TYPE_IB);
        let v2 = read(&port_folder("RoCE v2\n"), 3, IBV_LINK_LAYER_ETHERNET).expect("known");
        assert_eq!(v2, (IBV_GID_TYPE_ROCE_V2, lo));
    }

    #[test]
    fn an_unknown_type_or_a_missing_entry_names_the_file() {
        let unknown = read(&port_folder("RoCE v3\n"), 3, IBV_LINK_LAYER_ETHERNET);
        let error = unknown.expect_err("no such type").to_string();
        assert!(error.contains("gid_attrs/types/3") && error.contains("RoCE v3"), "{error}");
        let missing = read(&port_folder("RoCE v2\n"), 4, IBV_LINK_LAYER_ETHERNET);
        let error = missing.expect_err("no such entry");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("gid_attrs/types/4"), "{error}");
    }

    #[test]
    fn a_kernel_without_the_folder_has_version_1() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let entry = read(&folder, 0, IBV_LINK_LAYER_ETHERNET).expect("the old kernel's type");
        assert_eq!(entry, (IBV_GID_TYPE_ROCE_V1, 0));
    }

    /// A device whose files are in `folder`, and a context that points to it.
    fn device_of(folder: &Path) -> ibv_device {
        let mut device = ibv_device::default();
        let path = folder.to_str().expect("UTF-8").bytes();
        device.ibdev_path.iter_mut().zip(path).for_each(|(to, from)| *to = from as c_char);
        device
    }

    #[test]
    fn an_old_library_is_completed_from_files() {
        unsafe extern "C" fn query_gid(
            _context: *mut ibv_context,
            _port: u8,
            index: c_int,
            gid: *mut ibv_gid,
        ) -> c_int {
            // SAFETY: the caller passes a writable GID.
            unsafe { (*gid).raw[15] = u8::try_from(index).expect("a small index") };
            0
        }
        unsafe extern "C" fn query_port(
            _context: *mut ibv_context,
            _port: u8,
            attr: *mut _compat_ibv_port_attr,
        ) -> c_int {
            // SAFETY: the caller passes room for the whole struct.
            unsafe { (*attr.cast::<ibv_port_attr>()).link_layer = IBV_LINK_LAYER_ETHERNET as u8 };
            0
        }
        let old = match table::own() {
            Ok(table) => Verbs {
                ibv_query_gid: query_gid,
                ibv_query_port: query_port,
                _ibv_query_gid_ex: None,
                ..table
            },
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let folder = port_folder("RoCE v2\n");
        let mut device = device_of(folder.path());
        let mut context = ibv_context { device: &raw mut device, ..Default::default() };
        // SAFETY: the functions above ask of the context only what it has: its device.
        let (entry, empty) = unsafe {
            let context = &raw mut context;
            (old.query_gid_entry(context, 1, 3), old.query_gid_entry(context, 1, 0))
        };
        let entry = entry.expect("entry 3 is there");
        assert_eq!((entry.gid_index, entry.port_num), (3, 1));
        assert_eq!(entry.gid_type, IBV_GID_TYPE_ROCE_V2);
        // SAFETY: the fields of the union are the same 16 bytes of integers.
        assert_eq!(unsafe { entry.gid.raw }[15], 3);
        assert_eq!(empty.err().and_then(|e| e.raw_os_error()), Some(libc::ENODATA));
    }

    #[test]
    fn a_new_library_is_asked_with_the_size_of_the_entry() {
        unsafe extern "C" fn query_gid_ex(
            _context: *mut ibv_context,
            port: u32,
            index: u32,
            entry: *mut ibv_gid_entry,
            flags: u32,
            size: usize,
        ) -> c_int {
            if (port, flags, size) != (2, 0, 32) {
                return libc::EINVAL;
            }
            if index == 9 {
                return libc::ENODATA;
            }
            // SAFETY: the caller passes a writable entry.
            unsafe { (*entry).gid_type = IBV_GID_TYPE_ROCE_V2 };
            0
        }
        let new = match table::own() {
            Ok(table) => Verbs { _ibv_query_gid_ex: Some(query_gid_ex), ..table },
            Err(error) => return eprintln!("skipped: {error}"),
        };
        // SAFETY: the function above ignores the context.
        let (entry, empty) = unsafe {
            let context = std::ptr::null_mut();
            (new.query_gid_entry(context, 2, 0), new.query_gid_entry(context, 2, 9))
        };
        assert_eq!(entry.expect("an entry").gid_type, IBV_GID_TYPE_ROCE_V2);
        assert_eq!(empty.err().and_then(|e| e.raw_os_error()), Some(libc::ENODATA));
    }
}
