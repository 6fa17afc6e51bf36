//! What is generated, compared with what is committed. `RDMA_RPC_BLESS=1` commits it anew; the
//! `stubs` test compiles it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use support::CASES;

fn files(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap().replace("\r\n", "\n"))
        })
        .collect()
}

#[test]
fn generated_code_is_as_committed() {
    for case in CASES {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case.name);
        let scratch = tempfile::tempdir().unwrap();
        case.generate(scratch.path());
        if std::env::var_os("RDMA_RPC_BLESS").is_some() {
            let _ = fs::remove_dir_all(&golden);
            fs::create_dir_all(&golden).unwrap();
            for (name, content) in files(scratch.path()) {
                fs::write(golden.join(name), content).unwrap();
            }
        }
        let (expected, found) = (files(&golden), files(scratch.path()));
        let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "files of {}", case.name);
        for (name, content) in &found {
            let old = &expected[name];
            if content != old {
                let line =
                    content.lines().zip(old.lines()).take_while(|(new, old)| new == old).count();
                panic!(
                    "{}/{name} differs from line {} on:\n  committed: {:?}\n  generated: {:?}\n\
                     RDMA_RPC_BLESS=1 cargo test -p rdma-rpc-codegen --test golden accepts it",
                    case.name,
                    line + 1,
                    old.lines().nth(line),
                    content.lines().nth(line),
                );
            }
        }
    }
}

#[test]
fn generation_is_deterministic() {
    for case in CASES {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for folder in &folders {
            case.generate(folder.path());
        }
        assert_eq!(files(folders[0].path()), files(folders[1].path()), "{}", case.name);
    }
}
