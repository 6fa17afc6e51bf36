//! A lock that is held for a few instructions at a time.
//!
//! Under it runs no code but ours: nobody is woken, nothing of a user's is dropped, no `await`. Then
//! whoever finds it taken need not sleep in the kernel, and letting go is a store instead of a
//! second locked instruction, of which a small call has few to spend.

use std::fmt;
use std::time::Duration;

use spin::mutex::{SpinMutex, SpinMutexGuard};

/// Looks before a waiting thread lets others run: its holder may have lost its CPU.
const LOOKS: u32 = 64;
/// Yields before it sleeps: its holder may have a lower priority than all who wait.
const YIELDS: u32 = 64;
const SLEEP: Duration = Duration::from_micros(50);

/// A value under a brief lock.
#[derive(Default)]
pub(crate) struct Brief<T> {
    value: SpinMutex<T>,
}

impl<T> Brief<T> {
    pub(crate) const fn new(value: T) -> Brief<T> {
        Brief { value: SpinMutex::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> SpinMutexGuard<'_, T> {
        match self.value.try_lock() {
            Some(value) => value,
            None => self.wait(),
        }
    }

    /// Nobody else has it.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[cold]
    fn wait(&self) -> SpinMutexGuard<'_, T> {
        let mut waits = 0;
        loop {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if let Some(value) = self.value.try_lock() {
                    return value;
                }
            }
            if waits < YIELDS {
                waits += 1;
                std::thread::yield_now();
            } else {
                std::thread::sleep(SLEEP);
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Brief<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn many_threads_take_turns() {
        let count = Arc::new(Brief::new(0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let count = Arc::clone(&count);
                std::thread::spawn(move || (0..20_000).for_each(|_| *count.lock() += 1))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*count.lock(), 80_000);
    }

    #[test]
    fn who_waits_long_gets_it_in_the_end() {
        let value = Arc::new(Brief::new(1));
        let held = value.lock();
        let waiting = Arc::clone(&value);
        let thread = std::thread::spawn(move || *waiting.lock());
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
        assert_eq!(thread.join().unwrap(), 1);
    }
}
