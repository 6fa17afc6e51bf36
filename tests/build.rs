//! Generates the stubs of the conformance service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rdma_rpc_codegen::configure()
        .bytes(["."])
        .compile_protos(&["proto/conformance.proto"], &["proto"])?;
    Ok(())
}
