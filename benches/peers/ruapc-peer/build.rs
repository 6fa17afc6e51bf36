//! Finds out which ruapc this is.

include!("../lock_version.rs");

fn main() {
    lock_version("ruapc");
}
