//! The module both stubs of a service share: its name, its methods.

use std::fmt::Write;

use prost_build::Method;
use prost_types::method_options::IdempotencyLevel;

use super::{ALLOW, Kind, Stub};

impl Stub<'_> {
    pub(super) fn descriptor_module(&self) -> String {
        let codegen = self.codegen();
        let name = self.full_name;
        let methods: String =
            self.service.methods.iter().map(|method| self.method_descriptor(method)).collect();
        let mut text = String::new();
        write!(
            text,
            r#"
            /// What clients and servers of `{name}` agree on.
            pub mod {module} {{
                {ALLOW}
                /// The full name of the service.
                pub const SERVICE_NAME: &str = "{name}";
                /// The methods, in the order of the `.proto` file.
                pub static METHODS: [{codegen}::MethodDescriptor; {count}] = [{methods}];
                /// The service and its methods.
                pub static SERVICE: {codegen}::ServiceDescriptor = {codegen}::ServiceDescriptor {{
                    name: SERVICE_NAME,
                    methods: &METHODS,
                }};
            }}
            "#,
            module = self.names.descriptor_module(),
            count = self.service.methods.len(),
        )
        .expect("writing to a string does not fail");
        text
    }

    fn method_descriptor(&self, method: &Method) -> String {
        let codegen = self.codegen();
        let idempotency = match method.options.idempotency_level() {
            IdempotencyLevel::IdempotencyUnknown => "Unknown",
            IdempotencyLevel::NoSideEffects => "NoSideEffects",
            IdempotencyLevel::Idempotent => "Idempotent",
        };
        format!(
            r#"{codegen}::MethodDescriptor {{
                name: "{name}",
                path: "{path}",
                kind: {codegen}::MethodKind::{kind},
                idempotency: {codegen}::Idempotency::{idempotency},
            }},"#,
            name = method.proto_name,
            path = self.wire_path(method),
            kind = Kind::of(method).variant(),
        )
    }
}
