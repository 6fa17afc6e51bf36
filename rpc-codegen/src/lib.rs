//! Generates rdma-rpc clients and servers from `.proto` files, in a build script, with no
//! `protoc` on the machine.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), rdma_rpc_codegen::Error> {
//!     rdma_rpc_codegen::compile_protos(&["proto/kv.proto"], &["proto"])
//! }
//! ```
//!
//! The generated file is named after the package (`kv.v1.rs`, or `_.rs` without one) and is
//! included where its types should live. Messages are structs by prost, which the crate has to
//! depend on, and on prost-types if well-known types are used. Each service becomes three
//! modules, for a service `Kv`:
//!
//! - `kv_client`, with `KvClient`: one function per method;
//! - `kv_server`, with the trait `Kv` to implement and `KvServer` to add to a server;
//! - `kv_descriptor`, with the names and kinds of its methods, which the two share.
//!
//! [`configure`] gives a [`Builder`] for everything beyond that.
//!
//! # Names
//!
//! Names become Rust names as in prost-build: `GetItem` the function `get_item`, `type` the
//! function `r#type`. Where two names of one scope become the same in Rust (`get` and `Get`), the
//! one that is spelled the usual protobuf way keeps it and the others are numbered in the order
//! of the file (`get2`). Methods that would hide functions of the stubs, such as `new` and
//! `clone`, get an underscore. None of this changes what is on the wire.
//!
//! # What is refused
//!
//! Groups of proto2, enum values that become the same variant, editions, and package names
//! without a letter, each with file and line. Extensions are parsed and generate nothing.
//!
//! # Deprecation
//!
//! Services, methods, fields and enum values that are deprecated are `#[deprecated]`. Messages and
//! enums are not: the code that prost derives for a type uses the type, so the attribute would warn
//! in every crate that includes the generated file. Their comments are carried over.
#![forbid(unsafe_code)]

mod builder;
mod check;
mod comments;
mod error;
mod externs;
mod generate;
mod ident;
mod load;
mod locate;
mod output;
mod paths;
mod rename;
mod service;

use std::path::Path;

pub use builder::Builder;
pub use error::{Diagnostic, Error};
pub use paths::Paths;
pub use prost_types::FileDescriptorSet;

/// Generates code for `protos`, found in `includes`, into `OUT_DIR`.
///
/// # Errors
///
/// As [`Builder::compile_protos`].
pub fn compile_protos(
    protos: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), Error> {
    configure().compile_protos(protos, includes)
}

/// Generates code for descriptors into `OUT_DIR`.
///
/// # Errors
///
/// As [`Builder::compile_fds`].
pub fn compile_fds(fds: FileDescriptorSet) -> Result<(), Error> {
    configure().compile_fds(fds)
}

/// Settings, to change and then to call [`Builder::compile_protos`] on.
///
/// ```no_run
/// fn main() -> Result<(), rdma_rpc_codegen::Error> {
///     rdma_rpc_codegen::configure()
///         .build_server(false)
///         .bytes(".kv.v1.Value.data")
///         .type_attribute(".", "#[derive(Eq)]")
///         .compile_protos(&["proto/kv.proto"], &["proto"])
/// }
/// ```
pub fn configure() -> Builder {
    Builder::default()
}
