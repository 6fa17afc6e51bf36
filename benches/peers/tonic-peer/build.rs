//! tonic's stubs from our echo's own .proto; payloads are `Bytes`, as in ours.

include!("../lock_version.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    lock_version("tonic");
    println!("cargo:rerun-if-changed=../../proto/echo.proto");
    let descriptors = protox::compile(["../../proto/echo.proto"], ["../../proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
