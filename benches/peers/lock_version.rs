// Included by build scripts: `PEER_VERSION` becomes the version of a package in Cargo.lock, so that
// every line of figures says what was measured.

fn lock_version(package: &str) {
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let lock = std::fs::read_to_string("../Cargo.lock").unwrap_or_default();
    let name = format!("name = \"{package}\"");
    let version = lock.lines().skip_while(|line| *line != name).nth(1).unwrap_or("version = \"?\"");
    println!("cargo:rustc-env=PEER_VERSION={}", version["version = ".len()..].trim_matches('"'));
}
