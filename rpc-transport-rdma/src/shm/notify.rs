//! Waking the other side: an eventfd and the `armed` word before it.
//!
//! ```text
//!   sleeper                                 sender
//!   armed = what to be woken for            publish (entry, posted receives, state)
//!   fence(SeqCst)                           fence(SeqCst)
//!   look again: anything published?         armed & mask?  no: nothing more to do
//!   no: sleep on the eventfd                yes: swap armed with 0; was it set? write eventfd
//! ```
//!
//! Of the two fences one comes first, so either the sleeper sees what was published or the sender
//! sees that it is armed. A side that polls never arms, so its peer makes no system call.
//!
//! The eventfd is shared with a process of the same user (or root), which could make it blocking;
//! such a process can stop this one by signals too, so that is no new power.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::verbs::VerbError;

/// Wake me for completions, for a failure, and for socket messages.
pub(super) const WAKE_COMPLETIONS: u64 = 1;
/// Wake me when receives are posted: a request of mine waits for one.
pub(super) const WAKE_RECEIVES: u64 = 2;

/// A new eventfd that never blocks.
pub(super) fn new_event() -> Result<OwnedFd, VerbError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    rustix::event::eventfd(0, flags).map_err(|errno| VerbError {
        verb: "eventfd",
        errno: errno.raw_os_error(),
        context: "making a wake-up; EMFILE: raise RLIMIT_NOFILE (ulimit -n)".into(),
    })
}

/// Checks that what the peer gave is an eventfd that does not block.
pub(super) fn check_event(fd: &OwnedFd) -> Result<(), String> {
    let flags = rustix::fs::fcntl_getfl(fd)
        .map_err(|errno| format!("offered a wake-up that cannot be examined ({errno})"))?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        return Err("offered a wake-up that blocks".into());
    }
    use std::os::fd::AsRawFd;
    // Where /proc is not mounted this cannot be checked, and the flag above has to do.
    match std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(kind) if kind.as_os_str() != "anon_inode:[eventfd]" => {
            Err(format!("offered {} as a wake-up, not an eventfd", kind.display()))
        }
        _ => Ok(()),
    }
}

/// Says what this side wants to be woken for. Look again after this, before sleeping.
pub(super) fn arm(armed: &AtomicU64, wants: u64) {
    armed.store(wants, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Says that this side is awake.
pub(super) fn disarm(armed: &AtomicU64) {
    armed.store(0, Ordering::Relaxed);
}

/// Wakes the other side if it sleeps and wants to be woken for one of `mask`. Publish first.
pub(super) fn ring(armed: &AtomicU64, event: &OwnedFd, mask: u64) {
    fence(Ordering::SeqCst);
    if armed.load(Ordering::Relaxed) & mask == 0 {
        return;
    }
    // Whoever takes the word wakes, whatever it holds by now: waking once too often is harmless.
    if armed.swap(0, Ordering::Relaxed) != 0 {
        match rustix::io::write(event, &this_cpu().to_ne_bytes()) {
            // EAGAIN: the counter is full, so the eventfd is readable already.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => tracing::warn!(%errno, "shm: the peer's eventfd cannot be written"),
        }
    }
}

/// Takes all wake-ups, if there were any: the sum of what those who rang wrote, which is the CPU of the
/// one who did, as a rule.
pub(super) fn drain(event: impl AsFd) -> Option<u64> {
    let mut rung = [0_u8; 8];
    rustix::io::read(event, &mut rung).ok().map(|_| u64::from_ne_bytes(rung))
}

/// The number of the CPU that runs this, and one more: an eventfd counts nothing else.
pub(super) fn this_cpu() -> u64 {
    rustix::thread::sched_getcpu() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_armed_side_is_woken_once_and_only_for_what_it_wants() {
        let event = new_event().unwrap();
        let armed = AtomicU64::new(0);
        ring(&armed, &event, WAKE_COMPLETIONS);
        assert_eq!(drain(&event), None);
        arm(&armed, WAKE_COMPLETIONS);
        ring(&armed, &event, WAKE_RECEIVES);
        assert_eq!(drain(&event), None);
        ring(&armed, &event, WAKE_COMPLETIONS);
        ring(&armed, &event, WAKE_COMPLETIONS);
        assert!(drain(&event).is_some());
        assert_eq!(drain(&event), None, "the second ring found it awake");
        arm(&armed, WAKE_COMPLETIONS | WAKE_RECEIVES);
        disarm(&armed);
        ring(&armed, &event, WAKE_RECEIVES);
        assert_eq!(drain(&event), None);
    }

    #[test]
    fn whoever_rings_says_on_which_cpu() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let allowed = sched_getaffinity(None).unwrap();
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(2) {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).unwrap();
            let event = new_event().unwrap();
            ring(&AtomicU64::new(WAKE_COMPLETIONS), &event, WAKE_COMPLETIONS);
            assert_eq!(this_cpu(), cpu as u64 + 1);
            assert_eq!(drain(&event), Some(this_cpu()));
        }
        sched_setaffinity(None, &allowed).unwrap();
    }

    #[test]
    fn a_full_counter_is_no_error() {
        let event = new_event().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let armed = AtomicU64::new(WAKE_COMPLETIONS);
        ring(&armed, &event, WAKE_COMPLETIONS);
        assert!(drain(&event).is_some());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(check_event(&new_event().unwrap()).is_ok());
        let (socket, _other) = crate::shm::fdpass::tests::socket_pair();
        assert!(check_event(&socket).unwrap_err().contains("not an eventfd"));
        let blocking = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(check_event(&blocking).unwrap_err().contains("blocks"));
    }

    /// Sleeper and sender meet at the same moment, over and over: whoever comes second must see
    /// the other. Without either fence this fails, on x86-64 too.
    #[test]
    fn either_the_sleeper_looks_in_time_or_the_sender_wakes_it() {
        const ROUNDS: usize = 60_000;
        #[repr(align(128))]
        #[derive(Default)]
        struct Line(AtomicU64);
        let event = new_event().unwrap();
        let (published, armed, turn) = (Line::default(), Line::default(), Line::default());
        let meet = |count: &Line, target: u64| {
            count.0.fetch_add(1, Ordering::SeqCst);
            let mut spins = 0;
            while count.0.load(Ordering::SeqCst) < target {
                spins += 1;
                if spins % 4096 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
        };
        let mut missed = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS as u64 {
                    meet(&turn, round * 4 + 2);
                    published.0.store(1, Ordering::Release);
                    ring(&armed.0, &event, WAKE_COMPLETIONS);
                    meet(&turn, round * 4 + 4);
                }
            });
            for round in 0..ROUNDS as u64 {
                meet(&turn, round * 4 + 2);
                arm(&armed.0, WAKE_COMPLETIONS);
                let seen = published.0.load(Ordering::Acquire) == 1;
                meet(&turn, round * 4 + 4);
                let woken = drain(&event).is_some();
                missed += u32::from(!seen && !woken);
                published.0.store(0, Ordering::Relaxed);
                armed.0.store(0, Ordering::Relaxed);
            }
        });
        assert_eq!(missed, 0, "rounds in which neither saw the other");
    }
}
