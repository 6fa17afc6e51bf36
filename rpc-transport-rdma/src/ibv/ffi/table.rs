//! One pointer for each C function, filled by opening a library or by linking it.
//!
//! A table is had by [`Verbs::get`] or [`RdmaCm::get`], so nothing can be called before its library
//! is there: `let verbs = Verbs::get()?; unsafe { (verbs.ibv_alloc_pd)(context) }`.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libc::sockaddr;

use super::load::{Library, LoadError, Source};
use super::*;

/// Declares a table: its struct, how it is filled from a library, and how by the linker.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $table:ident from $prototypes:path;
        required { $( $name:ident: fn($($argument:ty),*) $(-> $result:ty)?; )* }
        optional {
            $( $optional:ident: fn($($optional_argument:ty),*) $(-> $optional_result:ty)?; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[allow(dead_code)] // A table is whole, whatever of it is called.
        pub(crate) struct $table {
            $( pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?, )*
            $(
                /// Missing in libraries older than the function.
                pub(crate) $optional: Option<
                    unsafe extern "C" fn($($optional_argument),*) $(-> $optional_result)?
                >,
            )*
        }

        impl $table {
            /// Every function looked up by its name.
            ///
            /// # Safety
            ///
            /// `library` is the C library the table is declared for: each of its functions has
            /// the type of the field of its name.
            #[allow(dead_code)] // Nothing is looked up in a library that is linked.
            unsafe fn from_library(library: &Library) -> Result<$table, LoadError> {
                // SAFETY: by this function's contract the symbols have the types of the fields.
                unsafe {
                    Ok($table {
                        $( $name: library.function(stringify!($name))?, )*
                        $( $optional: library.function(stringify!($optional)).ok(), )*
                    })
                }
            }

            /// The same functions as the linker finds them. The generated declarations must have
            /// the types of the fields for this to compile; where nothing is linked it is never
            /// instantiated, only checked (hence generic).
            #[allow(dead_code)]
            fn linked<const INSTANTIATED: bool>() -> $table {
                use $prototypes as c;
                $table { $( $name: c::$name, )* $( $optional: Some(c::$optional), )* }
            }
        }
    };
}

#[cfg(feature = "ibverbs")]
use ibverbs_sys as declared;
#[cfg(not(feature = "ibverbs"))]
use verbs_prototypes as declared;

table! {
    /// Functions of libibverbs. `man` has a page for each; errors are `errno` or returned as it.
    Verbs from declared;
    required {
        ibv_get_device_list: fn(*mut c_int) -> *mut *mut ibv_device;
        ibv_free_device_list: fn(*mut *mut ibv_device);
        ibv_get_device_name: fn(*mut ibv_device) -> *const c_char;
        ibv_open_device: fn(*mut ibv_device) -> *mut ibv_context;
        ibv_close_device: fn(*mut ibv_context) -> c_int;
        ibv_query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        // Call [`Verbs::query_port`] instead: this one leaves the tail of the struct as it was.
        ibv_query_port: fn(*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
        ibv_query_gid: fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
        ibv_query_pkey: fn(*mut ibv_context, u8, c_int, *mut u16) -> c_int;
        ibv_alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
        ibv_dealloc_pd: fn(*mut ibv_pd) -> c_int;
        ibv_reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        ibv_dereg_mr: fn(*mut ibv_mr) -> c_int;
        ibv_create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
        ibv_destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
        ibv_create_cq: fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int)
            -> *mut ibv_cq;
        ibv_destroy_cq: fn(*mut ibv_cq) -> c_int;
        ibv_get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        ibv_ack_cq_events: fn(*mut ibv_cq, c_uint);
        ibv_create_qp: fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
        ibv_destroy_qp: fn(*mut ibv_qp) -> c_int;
        ibv_modify_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
        ibv_query_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int, *mut ibv_qp_init_attr) -> c_int;
        ibv_get_async_event: fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
        ibv_ack_async_event: fn(*mut ibv_async_event);
        ibv_wc_status_str: fn(ibv_wc_status::Type) -> *const c_char;
        ibv_event_type_str: fn(ibv_event_type) -> *const c_char;
        ibv_port_state_str: fn(ibv_port_state::Type) -> *const c_char;
        ibv_node_type_str: fn(ibv_node_type) -> *const c_char;
    }
    optional {
        _ibv_query_gid_ex: fn(*mut ibv_context, u32, u32, *mut ibv_gid_entry, u32, usize) -> c_int;
        _ibv_query_gid_table: fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize;
        ibv_reg_mr_iova2: fn(*mut ibv_pd, *mut c_void, usize, u64, c_uint) -> *mut ibv_mr;
    }
}

table! {
    /// Functions of librdmacm. Each returns 0, or -1 with the reason in `errno`.
    RdmaCm from rdma_cm_prototypes;
    required {
        rdma_create_event_channel: fn() -> *mut rdma_event_channel;
        rdma_destroy_event_channel: fn(*mut rdma_event_channel);
        rdma_create_id: fn(*mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, rdma_port_space)
            -> c_int;
        rdma_destroy_id: fn(*mut rdma_cm_id) -> c_int;
        rdma_bind_addr: fn(*mut rdma_cm_id, *mut sockaddr) -> c_int;
        rdma_resolve_addr: fn(*mut rdma_cm_id, *mut sockaddr, *mut sockaddr, c_int) -> c_int;
        rdma_resolve_route: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_listen: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_connect: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_accept: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_reject: fn(*mut rdma_cm_id, *const c_void, u8) -> c_int;
        rdma_disconnect: fn(*mut rdma_cm_id) -> c_int;
        rdma_get_cm_event: fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
        rdma_ack_cm_event: fn(*mut rdma_cm_event) -> c_int;
        rdma_create_qp: fn(*mut rdma_cm_id, *mut ibv_pd, *mut ibv_qp_init_attr) -> c_int;
        rdma_destroy_qp: fn(*mut rdma_cm_id);
        rdma_set_option: fn(*mut rdma_cm_id, c_int, c_int, *mut c_void, usize) -> c_int;
        rdma_migrate_id: fn(*mut rdma_cm_id, *mut rdma_event_channel) -> c_int;
        rdma_get_src_port: fn(*mut rdma_cm_id) -> u16;
        rdma_get_dst_port: fn(*mut rdma_cm_id) -> u16;
        rdma_event_str: fn(rdma_cm_event_type) -> *const c_char;
    }
    optional {
    }
}

impl Verbs {
    /// libibverbs, opened by the first call. A failure is remembered too: a library installed
    /// later is found by the next process.
    #[cfg(not(feature = "ibverbs"))]
    pub(crate) fn get() -> Result<&'static Verbs, LoadError> {
        static TABLE: OnceLock<Result<Verbs, LoadError>> = OnceLock::new();
        TABLE.get_or_init(|| Verbs::open(&Source::IBVERBS)).as_ref().map_err(LoadError::clone)
    }

    /// libibverbs as it is linked: never an error.
    #[cfg(feature = "ibverbs")]
    pub(crate) fn get() -> Result<&'static Verbs, LoadError> {
        static TABLE: OnceLock<Verbs> = OnceLock::new();
        Ok(TABLE.get_or_init(Verbs::linked::<true>))
    }

    /// Opened from where `source` says, which names libibverbs but in tests.
    #[cfg(any(test, not(feature = "ibverbs")))]
    fn open(source: &Source) -> Result<Verbs, LoadError> {
        let library = Library::open(source)?;
        // SAFETY: `linked` checks the fields' types against declarations generated from the header
        // of `libibverbs.so.1`, and a soname promises that these stay as they are.
        unsafe { Verbs::from_library(&library) }
    }

    /// Properties of a port. Fields this library does not know are zero.
    ///
    /// # Safety
    ///
    /// `context` is an open device's.
    pub(crate) unsafe fn query_port(
        &self,
        context: *mut ibv_context,
        port_num: u8,
    ) -> Result<ibv_port_attr, c_int> {
        // The function dates from when the struct ended at `flags`, and writes no further.
        let mut attr = ibv_port_attr::default();
        let short = (&raw mut attr).cast();
        // SAFETY: the context is open by this function's contract; `attr` is at least as large as
        // the old struct the function writes, which it begins with.
        match unsafe { (self.ibv_query_port)(context, port_num, short) } {
            0 => Ok(attr),
            errno => Err(errno),
        }
    }
}

impl RdmaCm {
    /// librdmacm, opened by the first call; a failure is remembered. RoCE and InfiniBand work
    /// without.
    pub(crate) fn get() -> Result<&'static RdmaCm, LoadError> {
        static TABLE: OnceLock<Result<RdmaCm, LoadError>> = OnceLock::new();
        TABLE.get_or_init(|| RdmaCm::open(&Source::RDMACM)).as_ref().map_err(LoadError::clone)
    }

    /// Opened from where `source` says, which names librdmacm but in tests.
    fn open(source: &Source) -> Result<RdmaCm, LoadError> {
        let library = Library::open(source)?;
        // SAFETY: `linked` checks the fields' types against declarations generated from the header
        // of `librdmacm.so.1`, and a soname promises that these stay as they are.
        unsafe { RdmaCm::from_library(&library) }
    }
}

/// A table of the test's own, to replace functions in.
#[cfg(test)]
pub(super) fn own() -> Result<Verbs, LoadError> {
    #[cfg(feature = "ibverbs")]
    return Ok(Verbs::linked::<true>());
    #[cfg(not(feature = "ibverbs"))]
    return Verbs::open(&Source::IBVERBS);
}

#[cfg(test)]
mod tests {
    use super::*;

    // The words of `dlerror` are glibc's.
    #[cfg(target_env = "gnu")]
    #[test]
    fn a_library_that_is_not_there_is_named_with_its_package() {
        let source = Source { soname: "libibverbs-not-here.so.1", ..Source::IBVERBS };
        let error = Verbs::open(&source).expect_err("there is no such library").to_string();
        assert_eq!(
            error,
            "cannot open libibverbs-not-here.so.1: libibverbs-not-here.so.1: cannot open shared \
             object file: No such file or directory; install it with `apt install libibverbs1 \
             ibverbs-providers` (Debian, Ubuntu) or `dnf install libibverbs` (Fedora)"
        );
        let source = Source { soname: "librdmacm-not-here.so.1", ..Source::RDMACM };
        let error = RdmaCm::open(&source).expect_err("there is no such library").to_string();
        assert!(error.contains("`apt install librdmacm1`"), "{error}");
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn a_function_the_library_lacks_is_named() {
        // The C library is there, and has no verbs.
        let source = Source { soname: "libc.so.6", ..Source::IBVERBS };
        let error = Verbs::open(&source).expect_err("no verbs in libc").to_string();
        for part in ["libc.so.6 has no function ibv_get_device_list", "undefined symbol", "newer"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_second_call_gives_the_same_table_or_the_same_error() {
        match (Verbs::get(), Verbs::get()) {
            (Ok(first), Ok(second)) => assert!(std::ptr::eq(first, second)),
            (first, second) => {
                let words = |result: Result<_, LoadError>| result.map_err(|e| e.to_string()).err();
                assert_eq!(words(first.map(|_| ())), words(second.map(|_| ())));
            }
        }
    }

    #[test]
    fn a_port_is_zeroed_before_an_old_library_writes_less() {
        unsafe extern "C" fn old(
            _context: *mut ibv_context,
            port_num: u8,
            attr: *mut _compat_ibv_port_attr,
        ) -> c_int {
            if port_num != 1 {
                return libc::EINVAL;
            }
            // SAFETY: the caller passes room for the whole struct.
            unsafe { (*attr.cast::<ibv_port_attr>()).lid = 5 };
            0
        }
        let verbs = match own() {
            Ok(table) => Verbs { ibv_query_port: old, ..table },
            Err(error) => return eprintln!("skipped: {error}"),
        };
        // SAFETY: the function above ignores the context.
        let (known, unknown) = unsafe {
            let context = std::ptr::null_mut();
            (verbs.query_port(context, 1), verbs.query_port(context, 2))
        };
        let attr = known.expect("port 1 is known");
        assert_eq!((attr.lid, attr.port_cap_flags2, attr.flags), (5, 0, 0));
        assert_eq!(unknown.err(), Some(libc::EINVAL));
    }
}
