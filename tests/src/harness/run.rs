//! Runs one case.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use super::child::binary;
use super::system::raise_descriptor_limit;
use super::{Place, Processes, allowed};

/// A case that takes longer hangs. The longest takes a minute on a slow machine that has nothing else to do.
const CASE_TIMEOUT: Duration = Duration::from_secs(180);

/// Runs a case in this process, in a thread and a runtime of its own, for a bounded time. The
/// client has one thread where the server is another process, so that both kinds of runtime are
/// used.
///
/// # Panics
/// If the case fails or hangs.
pub fn run<F: Future<Output = ()>>(
    name: &'static str,
    place: Place,
    case: impl FnOnce(Place) -> F + Send + 'static,
) {
    raise_descriptor_limit();
    let (done, finished) = mpsc::channel();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let mut builder = match place.processes {
            Processes::One => tokio::runtime::Builder::new_multi_thread(),
            Processes::Two => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime starts");
        runtime.block_on(case(place));
        runtime.shutdown_timeout(Duration::from_secs(5));
        // Whoever waits may have given up.
        let _ = done.send(());
    });
    let thread = thread.expect("a thread starts");
    let limit = allowed(CASE_TIMEOUT);
    match finished.recv_timeout(limit) {
        // The thread ended, well or not.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("case {name} at {place} hangs: not done after {limit:?}")
        }
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a case in a process of its own: cases that count what a process holds.
///
/// # Panics
/// If the case fails.
pub fn run_isolated(name: &str, place: Place) {
    let output = std::process::Command::new(binary())
        .args(["case", name, &place.to_string()])
        .output()
        .expect("the conformance binary starts");
    assert!(
        output.status.success(),
        "case {name} at {place}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
