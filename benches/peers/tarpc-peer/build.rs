//! Finds out which tarpc this is.

include!("../lock_version.rs");

fn main() {
    lock_version("tarpc");
}
