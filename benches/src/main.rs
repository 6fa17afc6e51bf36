//! `echo`: one server or one client of an echo service, measured. See `benches/README.md`.
//!
//! ```text
//! echo server --transport tcp|shm|rdma --addr 127.0.0.1:PORT [--rt st|st-pin|mt|spin]
//! echo client --transport ... --addr ... --case NAME --mode unary|stream --payload BYTES
//!             --conns N --outstanding N --secs S --warmup S --server-pid PID --rep N
//! ```

mod cpu;
mod load;
mod options;
mod service;

use options::{Options, Role};

fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("echo: {problem}");
            std::process::exit(2);
        }
    };
    let runtime = options.runtime();
    let result = runtime.block_on(async move {
        match options.role {
            Role::Server => service::serve(options).await,
            Role::Client => load::run(options).await,
        }
    });
    if let Err(problem) = result {
        eprintln!("echo: {problem}");
        std::process::exit(1);
    }
}
