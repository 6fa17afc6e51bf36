//! Whether this machine has RDMA devices, and if not, what is missing: for the sentence a person
//! reads when `rdma://` fails or `auto://` chose something else.

use std::fs;
use std::path::Path;

const DEVICES: &str = "/sys/class/infiniband";

/// The names of the kernel's RDMA devices, such as `mlx5_0` or `rxe0`.
pub fn devices() -> Vec<String> {
    devices_in(Path::new(DEVICES))
}

/// Why there is no RDMA device, as a sentence that says what to do; `None` if there is one.
pub fn why_no_device() -> Option<String> {
    explain(Path::new(DEVICES))
}

fn devices_in(class: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn explain(class: &Path) -> Option<String> {
    if !class.exists() {
        return Some(format!(
            "no RDMA device: {} does not exist, so the kernel has no RDMA support loaded \
             (modprobe ib_uverbs and the card's driver, or rdma_rxe for Soft-RoCE)",
            class.display()
        ));
    }
    let devices = devices_in(class);
    if devices.is_empty() {
        return Some(format!(
            "no RDMA device: {} is empty (load the card's driver, or add a Soft-RoCE device with \
             `rdma link add rxe0 type rxe netdev eth0`)",
            class.display()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_situation_has_its_own_advice() {
        let missing = explain(Path::new("/no/such/folder")).unwrap();
        assert!(missing.contains("modprobe"), "{missing}");
        let folder = std::env::temp_dir().join(format!("rdma-rpc-probe-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let empty = explain(&folder).unwrap();
        assert!(empty.contains("rdma link add"), "{empty}");
        fs::create_dir_all(folder.join("mlx5_0")).unwrap();
        assert_eq!(explain(&folder), None);
        assert_eq!(devices_in(&folder), ["mlx5_0"]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
