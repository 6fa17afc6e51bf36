//! What a test asks of the operating system, without programs that a slim machine may lack.

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

/// Lets this process, and the children it starts from now on, open as many descriptors as this
/// user may: a connection over shared memory takes four at each end, and the usual soft limit of
/// 1024 is too low for two hundred of them in one process.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("cannot raise the limit of open files: {error}");
    }
}

/// Sends a signal to a process.
///
/// # Panics
/// If there is no such process, or it is not ours.
pub fn send_signal(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.unwrap_or_else(|| panic!("{process} is no process"));
    if let Err(error) = kill_process(pid, signal) {
        panic!("cannot send signal {} to process {process}: {error}", signal.as_raw());
    }
}
