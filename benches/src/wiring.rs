//! What the command line means for our configuration.

use rdma_rpc::config::{ClientConfig, Progress, ServerConfig};
use rpc_bench_load::{MAX_MESSAGE_BYTES, Options};

fn progress(options: &Options) -> Progress {
    match options.rt.as_str() {
        "spin" | "spin-mt" => Progress::Busy,
        _ if options.transport.ends_with("-event") => Progress::Event,
        _ => Progress::Adaptive,
    }
}

/// `rdma`, `shm`, `tcp` or `unix`, with `-event` to sleep instead of polling.
pub(crate) fn client_config(options: &Options) -> Result<ClientConfig, String> {
    let target = match options.transport.trim_end_matches("-event") {
        "unix" => format!("unix:{}", options.addr),
        "shm" if options.addr.starts_with('/') => format!("shm+unix:{}", options.addr),
        transport => format!("{transport}://{}", options.addr),
    };
    let target = target.parse().map_err(|error| format!("{error}"))?;
    let mut config = ClientConfig::new(target).resolve().map_err(|error| error.to_string())?;
    config.shm.progress = progress(options);
    config.tcp.progress = progress(options);
    config.rdma.progress = progress(options);
    config.limits.max_message_bytes = MAX_MESSAGE_BYTES;
    Ok(config)
}

pub(crate) fn server_config(options: &Options) -> Result<ServerConfig, String> {
    let listen = match options.addr.strip_prefix('/') {
        Some(path) => format!("unix:/{path}"),
        None => options.addr.clone(),
    };
    let mut config = ServerConfig::new(listen.parse().map_err(|error| format!("{error}"))?);
    config.shm.progress = progress(options);
    config.tcp.progress = progress(options);
    config.rdma.progress = progress(options);
    config.limits.max_message_bytes = MAX_MESSAGE_BYTES;
    Ok(config)
}
