//! Rules of the house that a compiler does not check: where `unsafe` may be, how long a file may
//! be, which way packages depend, and no unfinished marks.

use std::fs;
use std::path::{Path, PathBuf};

/// The only files, and folders with all below them, that may contain `unsafe` code.
const UNSAFE_ROOMS: [&str; 9] = [
    "rpc-core/src/lend.rs", // an unsafe trait, whose work is left to Vec
    "rpc-core/src/copy.rs", // the same trait, whose work is left to a slice
    "benches/peers/raw/src/memory.rs", // what the machine can do with bare shared memory
    "rpc-transport-rdma/src/bulk_buffer.rs", // the same trait, over slices
    "rpc-transport-rdma/src/copy.rs",
    "rpc-transport-rdma/src/shm/mapping.rs",
    "rpc-transport-rdma/src/shm/cross_read.rs",
    "rpc-transport-rdma/src/shm/prefetch.rs",
    "rpc-transport-rdma/src/ibv/", // C libraries: every call of a device is unsafe
];

/// Files that may be longer than [`MAX_LINES`].
const LONG_FILES: [&str; 1] = [
    // Generated from a C header, to be looked up in and not read.
    "rpc-transport-rdma/src/ibv/ffi/verbs.rs",
];

/// About what fits in a head. Longer files are split.
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").into()
}

/// Every Rust file of ours, by its path from the root; generated and built files left out.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(folder).expect("a readable folder");
        for path in entries.map(|entry| entry.expect("a readable entry").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "golden" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 50, "found only {} files below {}", paths.len(), root.display());
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            (name, fs::read_to_string(&path).expect("UTF-8"))
        })
        .collect()
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether the file `name` is `room`, or below it if `room` is a folder (ends in a slash).
fn is_in(name: &str, room: &str) -> bool {
    name == room || (room.ends_with('/') && name.starts_with(room))
}

#[test]
fn unsafe_stays_in_its_rooms() {
    // Spelt so that this file does not match itself.
    let word = concat!("un", "safe");
    let uses = |line: &str| {
        let code = code(line);
        ["{", "fn", "impl", "extern"].iter().any(|after| code.contains(&format!("{word} {after}")))
    };
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| !UNSAFE_ROOMS.iter().any(|room| is_in(name, room)))
        .flat_map(|(name, text)| {
            let lines = text.lines().enumerate().filter(|(_, line)| uses(line));
            lines.map(move |(number, line)| format!("{name}:{}: {line}", number + 1))
        })
        .collect();
    assert!(offenders.is_empty(), "{offenders:#?}");
}

#[test]
fn files_can_be_held_in_the_head() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| !LONG_FILES.contains(&name.as_str()))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split these: {long:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("dbg", "!("), concat!("todo", "!(")];
    let offenders: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| {
            let lines = text.lines().enumerate();
            lines
                .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)))
                .map(move |(number, line)| format!("{name}:{}: {line}", number + 1))
        })
        .collect();
    assert!(offenders.is_empty(), "{offenders:#?}");
}

#[test]
fn packages_depend_one_way() {
    let forbidden = [
        ("rpc-core", &["rdma-rpc-transport", "rdma-rpc-codegen", "rustix", "socket2"][..]),
        ("rpc-transport-tcp", &["rdma-rpc-transport-rdma"][..]),
        ("rpc-transport-rdma", &["rdma-rpc-transport-tcp"][..]),
        ("rpc-codegen", &["rdma-rpc-core", "rdma-rpc-transport", "tokio"][..]),
    ];
    for (package, names) in forbidden {
        let manifest = root().join(package).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a manifest");
        let dependencies = text.split("[dependencies]").nth(1).expect("a dependency table");
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for name in names {
            assert!(
                !dependencies.contains(name),
                "{} must not depend on {name}",
                manifest.display()
            );
        }
    }
}
