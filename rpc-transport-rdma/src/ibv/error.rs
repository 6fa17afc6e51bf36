//! From an errno to a sentence that says what to do.

use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::verbs::VerbError;

/// The errno a verb left behind.
pub(super) fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

/// Forgets what an earlier verb left behind.
#[allow(unsafe_code)]
pub(super) fn clear_errno() {
    // SAFETY: the place is this thread's own.
    unsafe { *libc::__errno_location() = 0 };
}

/// A verb that failed with an errno, and what a person can do about it.
pub(super) fn failed(verb: &'static str, errno: i32, what: impl Into<String>) -> VerbError {
    // Some drivers return the errno negated (Soft-iWARP's post verbs do).
    let errno = errno.saturating_abs();
    let what = what.into();
    let context = match advice(verb, errno) {
        Some(advice) => format!("{what}; {advice}"),
        None => what,
    };
    VerbError { verb, errno, context }
}

/// A verb that set errno.
pub(super) fn failed_now(verb: &'static str, what: impl Into<String>) -> VerbError {
    failed(verb, last_errno(), what)
}

/// A verb that sets errno on most devices; what an older call said was [cleared](clear_errno).
pub(super) fn failed_perhaps_silently(verb: &'static str, what: String) -> VerbError {
    match last_errno() {
        0 => VerbError {
            verb,
            errno: Errno::NOBUFS.raw_os_error(),
            context: format!("{what}; the provider does not say why, see dmesg"),
        },
        errno => failed(verb, errno, what),
    }
}

/// Makes a descriptor fit for the runtime's reactor: reading what is not there is no wait.
pub(super) fn make_non_blocking(fd: &impl AsFd, what: &str) -> Result<(), VerbError> {
    let failed = |errno: Errno| failed("fcntl", errno.raw_os_error(), what);
    let flags = fcntl_getfl(fd).map_err(failed)?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(failed)
}

/// A descriptor that the runtime's reactor cannot watch.
pub(super) fn not_watched(what: &str, error: std::io::Error) -> VerbError {
    let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
    VerbError { verb: "epoll_ctl", errno, context: format!("watching {what}: {error}") }
}

fn advice(verb: &str, errno: i32) -> Option<String> {
    // Drivers leave numbers behind that are no errno, 0 among them.
    let is = |known: Errno| known.raw_os_error() == errno;
    let registers = matches!(verb, "ibv_reg_mr" | "ibv_create_qp" | "ibv_create_cq");
    if is(Errno::NOMEM) && registers {
        return Some(memlock_advice());
    }
    // libibverbs tries a node of another name when it may not open the first, and reports that one
    // missing.
    let hidden = verb == "ibv_open_device" && is(Errno::NOENT);
    if is(Errno::ACCESS) || is(Errno::PERM) || hidden {
        return Some(
            "may this user open /dev/infiniband/uverbs* and rdma_cm (usually mode 0666, or a group \
             rdma)? In a container: --device /dev/infiniband and a memlock limit"
                .to_owned(),
        );
    }
    if is(Errno::NOSYS) || (is(Errno::NODEV) && verb.starts_with("rdma_")) {
        return Some("load the kernel's part: modprobe ib_uverbs rdma_ucm".to_owned());
    }
    if is(Errno::IO) || is(Errno::NODEV) {
        return Some("the device is gone, or its driver was reloaded".to_owned());
    }
    None
}

/// Registered memory counts against RLIMIT_MEMLOCK.
fn memlock_advice() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    match limit.current {
        Some(bytes) => format!(
            "memlock is {} KiB; raise it with `ulimit -l unlimited`, limits.conf (memlock) or \
             systemd's LimitMEMLOCK=infinity",
            bytes / 1024
        ),
        None => "memlock is not limited, so the device or the system is out of memory".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let text = failed("ibv_reg_mr", Errno::NOMEM.raw_os_error(), "4096 bytes").to_string();
        assert!(text.contains("memlock") && text.contains("4096 bytes"), "{text}");
        let text = failed("ibv_open_device", Errno::ACCESS.raw_os_error(), "rxe0").to_string();
        assert!(text.contains("/dev/infiniband"), "{text}");
        let text = failed("ibv_open_device", Errno::NOENT.raw_os_error(), "rxe0").to_string();
        assert!(text.contains("/dev/infiniband"), "{text}");
        let text = failed("ibv_get_device_list", Errno::NOSYS.raw_os_error(), "").to_string();
        assert!(text.contains("modprobe"), "{text}");
    }

    #[test]
    fn negated_numbers_are_turned_round() {
        assert_eq!(failed("ibv_post_send", -22, "").errno, 22);
    }

    #[test]
    fn numbers_that_are_no_errno_are_told_as_they_are() {
        for errno in [0, 28, 4096, 70_000, i32::MAX, i32::MIN] {
            let error = failed("rdma_get_cm_event", errno, "connecting");
            assert_eq!(error.errno, errno.saturating_abs());
            assert!(error.to_string().contains("connecting"), "{error}");
        }
    }
}
