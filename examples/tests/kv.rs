//! The key-value service on every transport, and what happens when a server goes.

mod common;

use std::process::{Command, Stdio};

use common::{Running, Server, Signal, example, run, until};

fn client(server: &Server, scheme: &str) -> Command {
    let mut command = example("kv");
    command.args(["client", "--target", &format!("{scheme}://{}", server.address)]);
    command
}

#[test]
fn the_demonstration_is_right_on_every_transport() {
    let server = Server::of("kv");
    for (scheme, transport) in [("tcp", "tcp"), ("shm", "shm"), ("auto", "shm")] {
        let stdout = run(&mut client(&server, scheme)).ok();
        assert!(stdout.starts_with(&format!("connected over {transport}: ")), "{stdout}");
        assert!(stdout.ends_with("all answers were right\n"), "{stdout}");
    }
    server.stop();
}

#[test]
fn what_one_transport_puts_another_gets() {
    let server = Server::of("kv");
    let put = run(client(&server, "tcp").args(["--name", "ann", "put", "a", "one"])).ok();
    assert_eq!(put, "version 1\n");
    assert_eq!(run(client(&server, "shm").args(["get", "a"])).ok(), "one");
    assert_eq!(run(client(&server, "auto").args(["scan"])).ok(), "       1  a  ann\n");
    let refused = run(client(&server, "shm").args(["put", "a", "two", "--if-version", "7"]));
    assert!(refused.failed().contains("key \"a\" has version 1, not 7"));
    assert_eq!(run(client(&server, "shm").args(["del", "a"])).ok(), "version 2\n");
    assert!(run(client(&server, "tcp").args(["get", "a"])).failed().contains("no key \"a\""));
    server.stop();
}

#[test]
fn a_scan_goes_on_after_a_full_page() {
    let server = Server::of("kv");
    let bench = run(client(&server, "shm").args(["bench", "--seconds", "0"])).ok();
    assert!(bench.starts_with("64 callers over shm, values of 100 bytes\n"), "{bench}");
    // One put and one delete for each of its callers.
    for key in ["p/1", "p/2", "p/3", "q"] {
        run(client(&server, "tcp").args(["put", key, "x"])).ok();
    }
    let listed = run(client(&server, "tcp").args(["scan", "p/", "--limit", "2"])).ok();
    assert_eq!(listed, "     129  p/1  kv\n     130  p/2  kv\n");
    assert_eq!(run(client(&server, "tcp").args(["scan"])).ok().lines().count(), 4);
    server.stop();
}

#[test]
fn the_store_keeps_its_memory_bound() {
    let mut command = example("kv");
    command.args(["server", "--listen", "127.0.0.1:0", "--memory-mib", "1"]);
    let server = Server::start(&mut command);
    let folder = common::Folder::new("bound");
    let file = folder.0.join("value");
    std::fs::write(&file, vec![7; 700 << 10]).expect("written");
    let put = |key: &str| run(client(&server, "shm").args(["put", key, "--file"]).arg(&file));
    put("a").ok();
    assert!(put("b").failed().contains("of 1048576 are in use"));
    // The same key again only replaces its value.
    put("a").ok();
    server.stop();
}

#[test]
fn a_watcher_hears_changes_until_the_server_stops() {
    for scheme in ["tcp", "shm"] {
        let server = Server::of("kv");
        let mut watcher = Running::start(client(&server, scheme).args(["watch", "w/"]));
        // The watcher does not say when it has begun: change until it has heard.
        let heard = std::thread::spawn(move || (watcher.line(), watcher));
        until("the watcher hears", || {
            run(client(&server, "tcp").args(["put", "elsewhere", "x"])).ok();
            run(client(&server, "tcp").args(["--name", "bob", "put", "w/1", "value"])).ok();
            heard.is_finished()
        });
        let (line, watcher) = heard.join().expect("a line");
        assert!(line.ends_with("  w/1  put 5 bytes  bob"), "{line}");
        server.stop();
        let stderr = watcher.end().failed();
        assert!(stderr.contains("the server is shutting down"), "{stderr}");
    }
}

#[test]
fn a_watcher_that_sleeps_stops_nobody_and_is_told_what_it_missed() {
    for scheme in ["tcp", "shm"] {
        let server = Server::of("kv");
        let mut watcher = Running::start(client(&server, scheme).args(["watch"]));
        let heard = std::thread::spawn(move || (watcher.line(), watcher));
        until("the watcher hears", || {
            run(client(&server, scheme).args(["put", "a", "x"])).ok();
            heard.is_finished()
        });
        let (_, watcher) = heard.join().expect("a line");
        watcher.signal(Signal::STOP);
        let bench = run(client(&server, scheme).args(["bench", "--seconds", "1"])).ok();
        assert!(bench.contains("\nput: "), "{bench}");
        watcher.signal(Signal::CONT);
        let stderr = watcher.end().failed();
        assert!(stderr.contains("Aborted: ") && stderr.contains("changes were missed"), "{stderr}");
        server.stop();
    }
}

#[test]
fn a_server_that_stops_finishes_what_is_open() {
    for scheme in ["tcp", "shm"] {
        let server = Server::of("kv");
        let mut load = Running::start(client(&server, scheme).arg("load").stdin(Stdio::piped()));
        load.write("first one\n");
        until("the first entry is put", || {
            run(client(&server, "tcp").args(["get", "first"])).status.success()
        });

        server.running.signal(Signal::INT);
        // New calls are refused; the open one goes on.
        until("new calls are refused", || {
            !run(client(&server, "tcp").args(["get", "first"])).status.success()
        });
        load.write("second two\nthird\n");
        load.close_stdin();
        assert_eq!(load.end().ok(), "3 entries, the last with version 3\n");
        server.running.end().ok();
    }
}

#[test]
fn clients_of_a_killed_server_fail_and_say_why() {
    for scheme in ["tcp", "shm"] {
        let server = Server::of("kv");
        let mut bench = Running::start(client(&server, scheme).args(["bench", "--seconds", "50"]));
        assert!(bench.line().contains(&format!("over {scheme}")));
        server.running.signal(Signal::KILL);
        let stderr = bench.end().failed();
        let told = stderr.contains(&format!("{scheme} connection to {}", server.address))
            || stderr.contains("cannot connect to");
        assert!(told, "{stderr}");
    }
}
