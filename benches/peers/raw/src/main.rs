//! `raw`: what this machine can do between two processes with no framework on top: the limits our
//! figures are held against. The command line is that of `echo`; `--transport` says what is used:
//!
//! | transport | an exchange is | `--addr` |
//! |---|---|---|
//! | `tcp` | `--payload` bytes there and back, tokio sockets | IP:PORT |
//! | `tcp-blocking` | the same, blocking sockets | IP:PORT |
//! | `tcp-batch` | `--outstanding` messages written at once, all echoes read | IP:PORT |
//! | `eventfd` | a count through an eventfd each way: two threads put to sleep and woken | a path |
//! | `memory` | a word of a shared page set, and the answer polled for | a path |
//! | `vm-readv` | `--payload` bytes copied out of the other process | a path |

mod memory;
mod sockets;

use rpc_bench_load::{Options, Role};

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    let options = rpc_bench_load::parse("raw", version);
    if options.transport == "tcp" {
        return rpc_bench_load::run("raw", version, sockets::serve_tokio, sockets::connect_tokio);
    }
    if matches!(options.rt.as_str(), "st-pin" | "spin") {
        options.pin();
    }
    let result = match options.role {
        Role::Server => serve(&options),
        Role::Client => client(&options).map(|line| println!("{line}")),
    };
    rpc_bench_load::end("raw", result);
}

fn serve(options: &Options) -> Result<(), String> {
    match options.transport.as_str() {
        "tcp-blocking" | "tcp-batch" => sockets::serve_blocking(options),
        "eventfd" | "memory" | "vm-readv" => memory::serve(options),
        other => Err(format!("unknown transport {other:?}")),
    }
}

fn client(options: &Options) -> Result<String, String> {
    match options.transport.as_str() {
        "tcp-blocking" | "tcp-batch" => sockets::exchange_blocking(options),
        "eventfd" | "memory" | "vm-readv" => memory::exchange(options),
        other => Err(format!("unknown transport {other:?}")),
    }
}
