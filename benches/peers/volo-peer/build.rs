//! Generates the service, and finds out which volo this is.

include!("../lock_version.rs");

fn main() {
    lock_version("volo-thrift");
    println!("cargo:rerun-if-changed=echo.thrift");
    let service = volo_build::Builder::thrift().add_service("echo.thrift");
    service.filename("echo.rs".into()).write().expect("a thrift service");
}
