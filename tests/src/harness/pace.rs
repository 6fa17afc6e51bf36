//! How slow this machine may be.

use std::sync::OnceLock;
use std::time::Duration;

const VARIABLE: &str = "CONFORMANCE_TIME_FACTOR";

/// By how much an emulated machine is slower than a real one: `CONFORMANCE_TIME_FACTOR`, 1 unless
/// set. It stretches how long a case waits for something, and nothing else that is asserted.
///
/// # Panics
/// If the variable is not a number from 1 to 1000.
fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let Ok(text) = std::env::var(VARIABLE) else { return 1 };
        match text.parse() {
            Ok(factor @ 1..=1000) => factor,
            _ => panic!("{VARIABLE}={text:?}: write a number from 1 to 1000"),
        }
    })
}

/// The longest that something may take here which takes at most `limit` on a real machine.
pub fn allowed(limit: Duration) -> Duration {
    limit * factor()
}

/// The time a device may take to acknowledge a packet here, from that on a real machine: the
/// exponent of a power of two. It grows with the factor's square root, because a packet that is
/// lost costs all of it.
pub(super) fn allowed_exponent(exponent: u8) -> u8 {
    (u32::from(exponent) + factor().ilog2().div_ceil(2)).min(31) as u8
}

/// [`allowed`] for the milliseconds of a configuration or of a request.
pub fn allowed_ms(limit_ms: u64) -> u64 {
    limit_ms * u64::from(factor())
}
