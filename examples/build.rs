//! Generates the stubs of every example's `.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["quickstart", "greeter", "route_guide", "kv"];
    rdma_rpc_codegen::configure()
        // Large `bytes` fields stay where they arrived instead of being copied into a `Vec`.
        .bytes([".quickstart.v1", ".kv.v1"])
        .compile_protos(&protos.map(|name| format!("proto/{name}.proto")), &["proto"])?;
    Ok(())
}
