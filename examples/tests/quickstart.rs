//! The first program anyone runs: it works, it leaves nothing, and it notices wrong answers.

mod common;

use common::{Running, Signal, children, example, run, until};

#[test]
fn it_measures_both_transports() {
    let stdout = run(&mut example("quickstart")).ok();
    for want in
        ["shm           tcp", "unary call, p99", "auto://127.0.0.1:", "took shm: ", "Next: "]
    {
        assert!(stdout.contains(want), "{want:?} is not in:\n{stdout}");
    }
}

#[test]
fn it_fails_at_any_wrong_answer() {
    for (wrong, told) in [
        ("add", "Add(500, 1) is 502, not 501"),
        ("count-order", "message 500 of Count is 501, not 500"),
        ("count-short", "the number of messages of Count is 29999, not 30000"),
        ("digest", "Digest is"),
        ("square", "message 500 of Square is 250001, not 250000"),
        ("echo", "byte 8388608 of the answer of Echo"),
    ] {
        let stderr = run(example("quickstart").args(["--wrong", wrong])).failed();
        assert!(stderr.contains("quickstart failed: over shm: wrong reply: "), "{stderr}");
        assert!(stderr.contains(told), "{told:?} is not in:\n{stderr}");
    }
}

#[test]
fn killed_it_leaves_no_process() {
    let parent = Running::start(&mut example("quickstart"));
    let mut pids = Vec::new();
    until("it has two children", || {
        pids = children(parent.id());
        pids.len() >= 2
    });
    parent.signal(Signal::KILL);
    let gone = |pid: &u32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // An orphan that ended may wait to be reaped by whoever inherited it.
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    until("both are gone", || pids.iter().all(gone));
}
