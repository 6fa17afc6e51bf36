//! What a build script sees: output for cargo, the files, the descriptors.

#[allow(dead_code)]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::FileDescriptorSet;
use rdma_rpc_codegen::configure;
use support::{CASES, protos};

const OUT_DIR: &str = "RDMA_RPC_CODEGEN_TEST_OUT_DIR";

/// Runs in a process of its own, started by the tests below: only then can its output be read.
#[test]
fn child_process() {
    let Some(out_dir) = std::env::var_os(OUT_DIR) else {
        return;
    };
    configure()
        .out_dir(out_dir)
        .emit_rerun_if_changed(std::env::var_os("QUIET").is_none())
        .compile_protos(&[protos().join("shop/v1/stock.proto")], &[protos()])
        .unwrap();
}

fn watched(quiet: bool) -> BTreeSet<String> {
    let out_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env(OUT_DIR, out_dir.path());
    if quiet {
        command.env("QUIET", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("cargo:rerun-if-changed="))
        .map(|(_, path)| path.to_owned())
        .collect()
}

#[test]
fn cargo_learns_of_every_file_including_imports() {
    let expected =
        ["shop/v1/stock.proto", "shop/v1/order.proto", "shop/common/money.proto", "root.proto"];
    let expected = expected.map(|name| protos().join(name).to_str().unwrap().to_owned());
    assert_eq!(watched(false), BTreeSet::from(expected));
    assert_eq!(watched(true), BTreeSet::new());
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_descriptor_set_holds_imports_and_comments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.bin");
    configure()
        .out_dir(folder.path())
        .file_descriptor_set_path(&path)
        .emit_rerun_if_changed(false)
        .compile_protos(&["shop/v1/stock.proto"], &[protos()])
        .unwrap();
    let set = FileDescriptorSet::decode(fs::read(path).unwrap().as_slice()).unwrap();
    let files: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
    assert_eq!(
        files,
        ["shop/common/money.proto", "root.proto", "shop/v1/order.proto", "shop/v1/stock.proto"]
    );
    let locations = &set.file[3].source_code_info.as_ref().unwrap().location;
    let comment = " In the same package as Orders, in another file.\n";
    assert!(locations.iter().any(|location| location.leading_comments() == comment));
}

#[test]
fn the_descriptor_set_keeps_options_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("options.bin");
    configure()
        .out_dir(folder.path())
        .file_descriptor_set_path(&path)
        .emit_rerun_if_changed(false)
        .compile_protos(&["options.proto"], &[protos()])
        .unwrap();
    let bytes = fs::read(path).unwrap();
    let rule = b"/v1/{name=shelves/*}";
    assert!(bytes.windows(rule.len()).any(|window| window == rule));
    FileDescriptorSet::decode(bytes.as_slice()).unwrap();
}

#[test]
fn descriptors_give_the_same_code_as_their_protos() {
    for case in CASES {
        let folder = tempfile::tempdir().unwrap();
        let set_path = folder.path().join("set.bin");
        let (from_protos, from_set) = (folder.path().join("protos"), folder.path().join("set"));
        let paths: Vec<PathBuf> = case.protos.iter().map(|proto| protos().join(proto)).collect();
        (case.configure)(configure())
            .out_dir(&from_protos)
            .file_descriptor_set_path(&set_path)
            .emit_rerun_if_changed(false)
            .compile_protos(&paths, &[protos()])
            .unwrap();
        let mut set = FileDescriptorSet::decode(fs::read(set_path).unwrap().as_slice()).unwrap();
        (case.configure)(configure()).out_dir(&from_set).compile_fds(set.clone()).unwrap();
        assert_eq!(names(&from_protos), names(&from_set), "{}", case.name);
        for name in names(&from_protos) {
            let read = |folder: &Path| fs::read_to_string(folder.join(&name)).unwrap();
            assert_eq!(read(&from_protos), read(&from_set), "{}/{name}", case.name);
        }
        // Nor does it matter in which order the files come.
        set.file.reverse();
        (case.configure)(configure()).out_dir(&from_set).compile_fds(set.clone()).unwrap();
        // Some compilers leave out all places, some only those of things without comments.
        for file in &mut set.file {
            let info = file.source_code_info.as_mut();
            info.into_iter()
                .for_each(|info| info.location.retain(|l| l.leading_comments.is_some()));
        }
        (case.configure)(configure()).out_dir(&from_set).compile_fds(set.clone()).unwrap();
        set.file.iter_mut().for_each(|file| file.source_code_info = None);
        (case.configure)(configure()).out_dir(&from_set).compile_fds(set).unwrap();
    }
}

#[test]
fn unchanged_files_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let generate = || CASES[0].generate(folder.path());
    generate();
    let path = folder.path().join("greet.v1.rs");
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    generate();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
    fs::write(&path, "something else").unwrap();
    generate();
    assert!(fs::read_to_string(&path).unwrap().contains("GreeterClient"));
}

#[test]
fn the_default_paths_are_those_of_the_facade() {
    let folder = tempfile::tempdir().unwrap();
    configure()
        .out_dir(folder.path())
        .default_package_filename("root")
        .prost_path("::rdma_rpc::codegen::prost")
        .emit_rerun_if_changed(false)
        .compile_protos(&["root.proto"], &[protos()])
        .unwrap();
    assert_eq!(names(folder.path()), BTreeSet::from(["root.rs".to_owned()]));
    let code = fs::read_to_string(folder.path().join("root.rs")).unwrap();
    assert!(code.contains("::rdma_rpc::codegen::Client"));
    assert!(code.contains("#[prost(prost_path = \"::rdma_rpc::codegen::prost\")]"));
    assert!(!code.contains("crate::mock"));
}
