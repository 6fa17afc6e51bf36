//! Generates the echo service; payloads are `Bytes`, so that long ones are not copied.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rdma_rpc_codegen::configure().bytes(["."]).compile_protos(&["proto/echo.proto"], &["proto"])?;
    Ok(())
}
