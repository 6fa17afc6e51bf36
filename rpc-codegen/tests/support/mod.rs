//! The cases of the golden tests: which protos with which settings.

use std::path::{Path, PathBuf};

use rdma_rpc_codegen::{Builder, configure};

/// A set of protos generated together.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) protos: &'static [&'static str],
    pub(crate) configure: fn(Builder) -> Builder,
}

pub(crate) const CASES: &[Case] = &[
    Case { name: "greet", protos: &["greet.proto"], configure: |builder| builder },
    Case {
        name: "names",
        protos: &["names.proto", "names_services.proto", "names_proto2.proto", "names_outer.proto"],
        configure: |builder| builder,
    },
    Case {
        name: "packages",
        protos: &["shop/v1/order.proto", "shop/v1/stock.proto"],
        configure: |builder| builder.enable_type_names(),
    },
    Case {
        name: "externs",
        protos: &["shop/v1/stock.proto"],
        configure: |builder| {
            builder
                .extern_path(".shop.common", "crate::packages::shop::common")
                .extern_path(".RootMessage", "crate::packages::RootMessage")
        },
    },
    Case {
        name: "client_only",
        protos: &["root.proto"],
        configure: |builder| builder.build_server(false),
    },
    Case {
        name: "server_only",
        protos: &["root.proto"],
        configure: |builder| builder.build_client(false),
    },
    Case {
        name: "messages_only",
        protos: &["root.proto"],
        configure: |builder| builder.build_client(false).build_server(false),
    },
    Case { name: "options", protos: &["options.proto"], configure: |builder| builder },
    Case {
        name: "well_known",
        protos: &["greet.proto"],
        configure: |builder| builder.compile_well_known_types(true),
    },
    Case {
        name: "settings",
        protos: &["settings.proto"],
        configure: |builder| {
            builder
                .bytes([".settings.Blob.data", "leaf.data", "Blob.raw"])
                .btree_map("Blob.sorted")
                .boxed([".settings.Blob.leaf", ".settings.Blob.which.boxed"])
                .skip_debug(".settings.Leaf")
                .retain_enum_prefix()
                .disable_comments([".settings.Blob", ".settings.Blob.data", "Store.Put"])
                .type_attribute(".settings.leaf", "#[doc = \"renamed\"]")
                .field_attribute("leaf.data", "#[doc = \"a field of it\"]")
                .message_attribute(".settings.Leaf", "#[derive(PartialOrd)]")
                .enum_attribute("Kind", "#[doc = \"an enum\"]")
                .client_mod_attribute("settings", "#[cfg(all())]")
                .server_mod_attribute(".settings.Store", "#[cfg(all())]")
                .client_attribute("Store", "#[doc(alias = \"shop\")]")
                .server_attribute(".", "#[doc(alias = \"shop\")]")
                .trait_attribute("Store", "#[doc(alias = \"shop\")]")
                .use_arc_self(true)
                .generate_default_stubs(true)
        },
    },
];

/// The folder with the protos.
pub(crate) fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protos")
}

impl Case {
    /// Generates the case into `out_dir`, with the mock as its run-time support.
    pub(crate) fn generate(&self, out_dir: &Path) {
        let builder = configure()
            .out_dir(out_dir)
            .include_file("mod.rs")
            .emit_rerun_if_changed(false)
            .codegen_path("crate::mock");
        let protos_dir = protos();
        let paths: Vec<PathBuf> = self.protos.iter().map(|proto| protos_dir.join(proto)).collect();
        if let Err(error) = (self.configure)(builder).compile_protos(&paths, &[protos_dir]) {
            panic!("{}: {error}", self.name);
        }
    }
}
