//! Settings.

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

use crate::error::Error;
use crate::externs::Externs;
use crate::generate;
use crate::load;
use crate::paths::{Attributes, Paths};
use crate::service::StubSettings;

/// Settings for code generation; see [`configure`](crate::configure).
///
/// Paths of messages and fields are given as prost-build takes them: `"."` for everything,
/// `".package.Message.field"` for one thing and what is in it, `"Message.field"` for all that end
/// so. They are the names in the `.proto` file, also where a name had to be changed to be unique
/// in Rust.
#[derive(Debug, Clone)]
#[must_use = "nothing is generated before `compile_protos` or `compile_fds`"]
pub struct Builder {
    pub(crate) stubs: StubSettings,
    pub(crate) externs: Externs,
    pub(crate) out_dir: Option<PathBuf>,
    pub(crate) file_descriptor_set_path: Option<PathBuf>,
    pub(crate) include_file: Option<PathBuf>,
    pub(crate) default_package_filename: String,
    pub(crate) emit_rerun_if_changed: bool,
    pub(crate) type_attributes: Attributes,
    pub(crate) field_attributes: Attributes,
    pub(crate) message_attributes: Attributes,
    pub(crate) enum_attributes: Attributes,
    pub(crate) bytes: Vec<String>,
    pub(crate) btree_map: Vec<String>,
    pub(crate) boxed: Vec<String>,
    pub(crate) skip_debug: Vec<String>,
    pub(crate) retain_enum_prefix: bool,
    pub(crate) enable_type_names: bool,
    pub(crate) prost_path: Option<String>,
    pub(crate) prost_types_path: Option<String>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            stubs: StubSettings {
                build_client: true,
                build_server: true,
                codegen_path: "::rdma_rpc::codegen".to_owned(),
                use_arc_self: false,
                generate_default_stubs: false,
                client_mod_attributes: Attributes::default(),
                client_attributes: Attributes::default(),
                server_mod_attributes: Attributes::default(),
                server_attributes: Attributes::default(),
                trait_attributes: Attributes::default(),
                disable_comments: Vec::new(),
            },
            externs: Externs::default(),
            out_dir: None,
            file_descriptor_set_path: None,
            include_file: None,
            default_package_filename: "_".to_owned(),
            emit_rerun_if_changed: std::env::var_os("CARGO").is_some(),
            type_attributes: Attributes::default(),
            field_attributes: Attributes::default(),
            message_attributes: Attributes::default(),
            enum_attributes: Attributes::default(),
            bytes: Vec::new(),
            btree_map: Vec::new(),
            boxed: Vec::new(),
            skip_debug: Vec::new(),
            retain_enum_prefix: false,
            enable_type_names: false,
            prost_path: None,
            prost_types_path: None,
        }
    }
}

/// What is generated, and where to.
impl Builder {
    /// Whether clients are generated. They are by default.
    pub fn build_client(mut self, enable: bool) -> Self {
        self.stubs.build_client = enable;
        self
    }

    /// Whether servers are generated. They are by default.
    pub fn build_server(mut self, enable: bool) -> Self {
        self.stubs.build_server = enable;
        self
    }

    /// The folder for the generated files, made if it is not there. Without this, `OUT_DIR`.
    pub fn out_dir(mut self, out_dir: impl AsRef<Path>) -> Self {
        self.out_dir = Some(out_dir.as_ref().to_owned());
        self
    }

    /// Also writes the encoded `FileDescriptorSet`, with imports, comments and extension options,
    /// for reflection and other tools.
    pub fn file_descriptor_set_path(mut self, path: impl AsRef<Path>) -> Self {
        self.file_descriptor_set_path = Some(path.as_ref().to_owned());
        self
    }

    /// Also writes a file that includes all others, each in the module of its package. `path` is
    /// relative to the output folder.
    pub fn include_file(mut self, path: impl AsRef<Path>) -> Self {
        self.include_file = Some(path.as_ref().to_owned());
        self
    }

    /// The file for types without a package: `_` (and `.rs`) by default.
    pub fn default_package_filename(mut self, filename: impl Into<String>) -> Self {
        self.default_package_filename = filename.into();
        self
    }

    /// Whether cargo is told about every file that was read, imports included. On by default in
    /// build scripts.
    pub fn emit_rerun_if_changed(mut self, enable: bool) -> Self {
        self.emit_rerun_if_changed = enable;
        self
    }
}

/// Types from elsewhere.
impl Builder {
    /// Uses Rust types that are not generated here for a protobuf package or type:
    /// `(".other.package", "::other_crate::package")`. Services of that package are left to that
    /// crate as well.
    pub fn extern_path(mut self, proto_path: impl AsRef<str>, rust_path: impl AsRef<str>) -> Self {
        let paths = (proto_path.as_ref().to_owned(), rust_path.as_ref().to_owned());
        self.externs.paths.push(paths);
        self
    }

    /// Generates `google.protobuf` instead of using prost-types. Off by default.
    pub fn compile_well_known_types(mut self, enable: bool) -> Self {
        self.externs.compile_well_known_types = enable;
        self
    }

    /// Where stubs find their run-time support: `::rdma_rpc::codegen` by default.
    pub fn codegen_path(mut self, path: impl AsRef<str>) -> Self {
        self.stubs.codegen_path = path.as_ref().to_owned();
        self
    }

    /// Where messages find prost: `::prost` by default.
    pub fn prost_path(mut self, path: impl Into<String>) -> Self {
        self.prost_path = Some(path.into());
        self
    }

    /// Where messages find prost-types: `::prost_types` by default.
    pub fn prost_types_path(mut self, path: impl Into<String>) -> Self {
        self.prost_types_path = Some(path.into());
        self
    }
}

/// Attributes and comments.
impl Builder {
    /// An attribute for messages, enums and oneofs.
    pub fn type_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.type_attributes.push(path, attribute);
        self
    }

    /// An attribute for fields and enum values.
    pub fn field_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.field_attributes.push(path, attribute);
        self
    }

    /// An attribute for messages only.
    pub fn message_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.message_attributes.push(path, attribute);
        self
    }

    /// An attribute for enums and oneofs.
    pub fn enum_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.enum_attributes.push(path, attribute);
        self
    }

    /// An attribute for the client modules of a package or service.
    pub fn client_mod_attribute(
        mut self,
        path: impl AsRef<str>,
        attribute: impl AsRef<str>,
    ) -> Self {
        self.stubs.client_mod_attributes.push(path, attribute);
        self
    }

    /// An attribute for client structs.
    pub fn client_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.stubs.client_attributes.push(path, attribute);
        self
    }

    /// An attribute for the server modules of a package or service.
    pub fn server_mod_attribute(
        mut self,
        path: impl AsRef<str>,
        attribute: impl AsRef<str>,
    ) -> Self {
        self.stubs.server_mod_attributes.push(path, attribute);
        self
    }

    /// An attribute for server structs.
    pub fn server_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.stubs.server_attributes.push(path, attribute);
        self
    }

    /// An attribute for the traits that servers implement.
    pub fn trait_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.stubs.trait_attributes.push(path, attribute);
        self
    }

    /// Leaves out comments of messages, fields, services and methods.
    pub fn disable_comments(mut self, paths: impl Paths) -> Self {
        self.stubs.disable_comments.extend(paths.into_paths());
        self
    }
}

/// The shape of messages and traits.
impl Builder {
    /// `bytes` fields that become `bytes::Bytes`, which are decoded without a copy.
    pub fn bytes(mut self, paths: impl Paths) -> Self {
        self.bytes.extend(paths.into_paths());
        self
    }

    /// `map` fields that become `BTreeMap`.
    pub fn btree_map(mut self, paths: impl Paths) -> Self {
        self.btree_map.extend(paths.into_paths());
        self
    }

    /// Message fields that are put in a `Box`. Recursive ones are anyhow.
    pub fn boxed(mut self, paths: impl Paths) -> Self {
        self.boxed.extend(paths.into_paths());
        self
    }

    /// Types that get no `Debug`.
    pub fn skip_debug(mut self, paths: impl Paths) -> Self {
        self.skip_debug.extend(paths.into_paths());
        self
    }

    /// Keeps the enum's name in front of its variants.
    pub fn retain_enum_prefix(mut self) -> Self {
        self.retain_enum_prefix = true;
        self
    }

    /// Implements `prost::Name`, which `Any` uses.
    pub fn enable_type_names(mut self) -> Self {
        self.enable_type_names = true;
        self
    }

    /// Server traits whose methods take `self: Arc<Self>`, so that what they start can outlive
    /// the call.
    pub fn use_arc_self(mut self, enable: bool) -> Self {
        self.stubs.use_arc_self = enable;
        self
    }

    /// Server traits whose methods answer `unimplemented` unless they are written. Types of
    /// response streams still have to be named.
    pub fn generate_default_stubs(mut self, enable: bool) -> Self {
        self.stubs.generate_default_stubs = enable;
        self
    }
}

/// Generation.
impl Builder {
    /// Generates code for `protos` and for what they import. Each must lie in one of `includes`,
    /// where imports are looked for too, in this order.
    ///
    /// # Errors
    ///
    /// A mistake in a `.proto` file, with its place; a setting that makes no sense; a file that
    /// cannot be read or written.
    pub fn compile_protos(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        self.check()?;
        let loaded = load::protos(protos, includes)?;
        if self.emit_rerun_if_changed {
            for path in &loaded.read {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
        generate::generate(&self, loaded)
    }

    /// Generates code for descriptors, as another compiler or `file_descriptor_set_path` made
    /// them. Everything they import has to be in the set.
    ///
    /// # Errors
    ///
    /// As [`Builder::compile_protos`].
    pub fn compile_fds(self, fds: FileDescriptorSet) -> Result<(), Error> {
        self.check()?;
        generate::generate(&self, load::descriptors(fds)?)
    }

    /// Refuses settings that would make code that does not parse.
    fn check(&self) -> Result<(), Error> {
        let stubs = &self.stubs;
        for (setting, attributes) in [
            ("type_attribute", &self.type_attributes),
            ("field_attribute", &self.field_attributes),
            ("message_attribute", &self.message_attributes),
            ("enum_attribute", &self.enum_attributes),
            ("client_mod_attribute", &stubs.client_mod_attributes),
            ("client_attribute", &stubs.client_attributes),
            ("server_mod_attribute", &stubs.server_mod_attributes),
            ("server_attribute", &stubs.server_attributes),
            ("trait_attribute", &stubs.trait_attributes),
        ] {
            attributes.check(setting)?;
        }
        for (setting, path) in [
            ("codegen_path", Some(&stubs.codegen_path)),
            ("prost_path", self.prost_path.as_ref()),
            ("prost_types_path", self.prost_types_path.as_ref()),
        ] {
            if let Some(path) = path
                && let Err(error) = syn::parse_str::<syn::Path>(path)
            {
                return Err(Error::misuse(format!(
                    "{setting}({path:?}): not a Rust path: {error}"
                )));
            }
        }
        let is_absolute = |path: &str| path.starts_with("::") || path.starts_with("crate::");
        if !is_absolute(&stubs.codegen_path) {
            return Err(Error::misuse(format!(
                "codegen_path({:?}): must begin with '::' or 'crate::', because stubs use it \
                 from modules of different depth",
                stubs.codegen_path
            )));
        }
        self.externs.check()
    }
}
