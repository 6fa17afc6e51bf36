//! `conformance server`, `conformance case NAME PLACE`, `conformance list`, and `conformance hold`
//! (the client of the cases that kill one).

use rdma_rpc_tests::harness::{Place, run, serve_until_stdin_closes};
use rdma_rpc_tests::{cases, harness};

fn main() {
    harness::raise_descriptor_limit();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["server"] => runtime().block_on(serve_until_stdin_closes()),
        ["hold", target] => runtime().block_on(cases::crash::hold_calls(target)),
        ["case", name, place] => {
            let place: Place = place.parse().unwrap_or_else(usage);
            match cases::find(name) {
                Some((name, case)) => run(name, place, case),
                None => usage(format!("no case {name:?}: see conformance list")),
            }
        }
        ["list"] => cases::names().for_each(|name| println!("{name}")),
        _ => usage(format!(
            "usage: {} server | case NAME PLACE | list | hold TARGET",
            harness::binary().display()
        )),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime starts")
}

fn usage<T>(problem: String) -> T {
    eprintln!("{problem}");
    std::process::exit(2);
}
