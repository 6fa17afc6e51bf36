//! Generates the stubs of every example's `.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rdma_rpc_codegen::compile_protos(&["proto/greeter.proto"], &["proto"])?;
    Ok(())
}
