//! The greeter and the route guide on every transport, and every way to say where.

mod common;

use common::{Folder, Server, Signal, example, run};

const GREETINGS: &str =
    "Hello, Ann!\nHello, Ann!\nBonjour, Ann!\nHallo, Ann!\nHej, Ann!\nCiao, Ann!\n";

/// What the client prints when it came over this transport.
#[track_caller]
fn check_greetings(stdout: &str, transport: &str) {
    let rest = stdout.strip_prefix(GREETINGS).unwrap_or_else(|| panic!("{stdout}"));
    assert!(rest.starts_with(&format!("over {transport}, because ")), "{rest}");
}

#[test]
fn the_target_chooses_the_transport() {
    let server = Server::of("greeter");
    for (scheme, transport) in [("tcp", "tcp"), ("shm", "shm"), ("auto", "shm")] {
        let target = format!("{scheme}://{}", server.address);
        let client = run(example("greeter").args(["client", "--target", &target, "Ann"]));
        check_greetings(&client.ok(), transport);
    }
    server.stop();
}

#[test]
fn a_unix_socket_serves_as_itself_and_as_a_way_to_shared_memory() {
    let folder = Folder::new("unix");
    let address = format!("unix:{}", folder.0.join("greeter.sock").display());
    let server = Server::start(example("greeter").args(["server", "--listen", &address]));
    for (target, transport) in [(address.clone(), "tcp"), (format!("auto+{address}"), "shm")] {
        let client = run(example("greeter").args(["client", "--target", &target, "Ann"]));
        check_greetings(&client.ok(), transport);
    }
    server.stop();
}

#[test]
fn the_environment_and_a_file_do_as_well_as_options() {
    let folder = Folder::new("config");
    let file = folder.write("server.toml", "listen = \"127.0.0.1:0\"\n");
    let server = Server::start(example("greeter").arg("server").env("RDMA_RPC_CONFIG", file));

    let target = format!("tcp://{}", server.address);
    let client = run(example("greeter").args(["client", "Ann"]).env("RDMA_RPC_TARGET", target));
    check_greetings(&client.ok(), "tcp");

    let target = format!("target = \"shm://{}\"\n[shm]\nprogress = \"event\"\n", server.address);
    let file = folder.write("client.toml", &target);
    let client = run(example("greeter").args(["client", "Ann"]).env("RDMA_RPC_CONFIG", &file));
    check_greetings(&client.ok(), "shm");

    // The environment wins over the file, the option over both.
    let mut client = example("greeter");
    client.args(["client", "--target", &format!("tcp://{}", server.address), "Ann"]);
    client.env("RDMA_RPC_CONFIG", &file).env("RDMA_RPC_TARGET", "tcp://127.0.0.1:1");
    check_greetings(&run(&mut client).ok(), "tcp");
    server.stop();

    let server =
        Server::start(example("greeter").arg("server").env("RDMA_RPC_LISTEN", "127.0.0.1:0"));
    server.stop();
}

#[test]
fn a_server_takes_its_transports_from_a_file_and_the_environment() {
    let folder = Folder::new("transports");
    let only_tcp = folder.write("tcp.toml", "transports = [\"tcp\"]\n");
    let both = folder.write("both.toml", "transports = [\"shm\", \"tcp\"]\n");
    let declined = "nothing faster works; rdma: not among the allowed transports; \
                    shm: the server does not allow it\n";
    // The environment wins over the file.
    for (file, variable) in [(&only_tcp, ""), (&both, "tcp")] {
        let mut server = example("greeter");
        server.args(["server", "--listen", "127.0.0.1:0"]);
        server.env("RDMA_RPC_CONFIG", file).env("RDMA_RPC_TRANSPORTS", variable);
        let server = Server::start(&mut server);
        let auto = format!("auto://{}", server.address);
        let mut client = example("greeter");
        client.args(["client", "--target", &auto, "Ann"]).env("RDMA_RPC_TRANSPORTS", "shm,tcp");
        let stdout = run(&mut client).ok();
        assert_eq!(stdout, format!("{GREETINGS}over tcp, because {declined}"));

        let shm = format!("shm://{}", server.address);
        let stderr = run(example("greeter").args(["client", "--target", &shm])).failed();
        let why = format!(
            "greeter: Unavailable: cannot connect to {shm}: the server is there, but only TCP \
             works: shm: the server does not allow it\n"
        );
        assert!(stderr.ends_with(&why), "{stderr}");
        server.stop();
    }
}

/// The part of a log line between `key=` and the next key.
#[track_caller]
fn field<'a>(line: &'a str, key: &str, next: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!(" {key}=")).unwrap_or_else(|| panic!("{key}: {line}"));
    match next {
        "" => rest,
        next => rest.split_once(&format!(" {next}=")).unwrap_or_else(|| panic!("{next}: {line}")).0,
    }
}

#[test]
fn what_was_chosen_and_why_is_in_the_log_of_both_ends() {
    for (scheme, transport, client_why, server_why) in [
        ("tcp", "tcp", "the target asks for it", "the client offers nothing faster"),
        ("shm", "shm", "both ends are on one host", "both ends are on one host"),
    ] {
        let mut server = example("greeter");
        server.args(["server", "--listen", "127.0.0.1:0"]).env("RUST_LOG", "info");
        let server = Server::start(&mut server);
        let target = format!("{scheme}://{}", server.address);
        let mut client = example("greeter");
        client.args(["client", "--target", &target]).env("RUST_LOG", "info");
        let client = run(&mut client);
        assert!(client.status.success(), "{client:#?}");
        server.running.signal(Signal::INT);
        let server = server.running.end();
        for (log, event, because) in [
            (&client.stderr, "dial: connected target=", client_why),
            (&server.stderr, "accept: client connected peer=", server_why),
        ] {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(event)).collect();
            let [line] = lines[..] else { panic!("{event:?} is not there once:\n{log}") };
            assert!(line.contains(" INFO "), "{line}");
            assert_eq!(field(line, "transport", "device"), format!("{transport:?}"), "{line}");
            assert_eq!(field(line, "because", ""), format!("{because:?}"), "{line}");
            let device = field(line, "device", "because");
            match transport {
                "tcp" => assert!(device.starts_with("127.0.0.1:"), "{line}"),
                _ => assert!(device.starts_with("shm to pid "), "{line}"),
            }
        }
    }
}

#[test]
fn a_server_stopped_as_soon_as_it_is_there_ends_well() {
    // Many at once: a server must be stopped between any two of its steps.
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| (0..25).for_each(|_| drop(Server::of("greeter").stop())));
        }
    });
}

#[test]
fn mistakes_are_told() {
    let server = Server::of("greeter");
    let target = format!("tcp://{}", server.address);
    let client = run(example("greeter").args(["client", "--target", &target, ""]));
    assert!(client.failed().contains("whom shall I greet?"));

    let taken = run(example("greeter").args(["server", "--listen", &server.address]));
    let stderr = taken.failed();
    assert!(stderr.contains("cannot listen on") && stderr.contains(&server.address), "{stderr}");

    let target = format!("rdma://{}", server.address);
    let client = run(example("greeter").args(["client", "--target", &target]));
    let stderr = client.failed();
    if !std::path::Path::new("/sys/class/infiniband").exists() {
        let told = format!(
            "greeter: Unavailable: cannot connect to {target}: rdma: no RDMA device: \
             /sys/class/infiniband does not exist, so the kernel has no RDMA support loaded \
             (modprobe ib_uverbs and the card's driver, or rdma_rxe for Soft-RoCE)\n"
        );
        assert!(stderr.ends_with(&told), "{stderr}");
    } else {
        // What is wrong then is the device's or the loopback address's, which has no device.
        assert!(stderr.contains(&format!("cannot connect to {target}: ")), "{stderr}");
        assert!(stderr.contains("rdma: "), "{stderr}");
    }
    let address = server.address.clone();
    server.stop();

    let target = format!("auto://{address}");
    let client = run(example("greeter").args(["client", "--target", &target]));
    let stderr = client.failed();
    assert!(stderr.contains("refused"), "{stderr}");

    let folder = Folder::new("mistake");
    let file = folder.write("client.toml", "tarket = \"x\"\n");
    let client = run(example("greeter").arg("client").env("RDMA_RPC_CONFIG", file));
    let stderr = client.failed();
    assert!(stderr.contains("client.toml, line 1") && stderr.contains("tarket"), "{stderr}");
}

#[test]
fn route_guide_makes_a_call_of_each_kind() {
    let server = Server::of("route-guide");
    for scheme in ["tcp", "shm"] {
        // The guide keeps notes: each transport gets a guide of its own.
        let server = Server::of("route-guide");
        let target = format!("{scheme}://{}", server.address);
        let client = run(example("route-guide").args(["client", "--target", &target]));
        let want = format!(
            "connected over {scheme}\n\
             at 54.1000, 10.1000 is Old Lighthouse\n\
             at 54.0000, 10.0000 is nothing\n\
             between 54.1000, 10.1000 and 54.1035, 10.1060:\n  Old Lighthouse\n  Ferry Landing\n  \
             Fish Market\n  Rope Maker's House\n"
        );
        let stdout = client.ok();
        let rest = stdout.strip_prefix(&want).unwrap_or_else(|| panic!("{stdout}"));
        let (walk, notes) = rest.split_once('\n').expect("a walk and notes");
        assert!(walk.starts_with("walked past 13 points with 12 places, "), "{walk}");
        assert_eq!(
            notes,
            "a note at 54.1000, 10.1000: the door is locked\n\
             a note at 54.1000, 10.1000: the door is locked\n\
             a note at 54.1000, 10.1000: the key is under the mat\n"
        );
        server.stop();
    }
    server.stop();
}
