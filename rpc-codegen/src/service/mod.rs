//! Client and server stubs, written as Rust text.
//!
//! Stubs use no names from preludes and import nothing: a service may be called `Send`, `Result`
//! or `T`. They know the codegen path, the package's types (`super::`), `core` and `std`.

mod client;
mod descriptor;
mod plan;
mod server;

use std::collections::HashMap;

use prost_build::{Comments, Method, Service};

use crate::externs::{Externs, from_inner_module};
use crate::paths::{Attributes, matches};
pub(crate) use plan::{ServiceNames, plan};

/// Lints of the user's crate that do not concern generated code.
const ALLOW: &str = "#![allow(missing_docs, dead_code, deprecated, unreachable_pub, \
                     unused_qualifications, clippy::all, clippy::pedantic)]\n";

/// What users can choose about stubs.
#[derive(Debug, Clone)]
pub(crate) struct StubSettings {
    pub(crate) build_client: bool,
    pub(crate) build_server: bool,
    pub(crate) codegen_path: String,
    pub(crate) use_arc_self: bool,
    pub(crate) generate_default_stubs: bool,
    pub(crate) client_mod_attributes: Attributes,
    pub(crate) client_attributes: Attributes,
    pub(crate) server_mod_attributes: Attributes,
    pub(crate) server_attributes: Attributes,
    pub(crate) trait_attributes: Attributes,
    pub(crate) disable_comments: Vec<String>,
}

/// Writes the stubs of one service after the other.
#[derive(Debug)]
pub(crate) struct StubGenerator {
    pub(crate) settings: StubSettings,
    pub(crate) externs: Externs,
    pub(crate) plan: HashMap<String, ServiceNames>,
}

impl prost_build::ServiceGenerator for StubGenerator {
    fn generate(&mut self, service: Service, buf: &mut String) {
        let package = service.package.trim_matches('.');
        let dot = if package.is_empty() { "" } else { "." };
        let full_name = format!("{package}{dot}{}", service.proto_name);
        let names = self
            .plan
            .get(&format!(".{full_name}"))
            .expect("every service of the descriptor set was given its names");
        let stub = Stub {
            settings: &self.settings,
            externs: &self.externs,
            full_name: &full_name,
            service: &service,
            names,
        };
        if self.settings.build_client || self.settings.build_server {
            buf.push_str(&stub.descriptor_module());
        }
        if self.settings.build_client {
            buf.push_str(&stub.client_module());
        }
        if self.settings.build_server {
            buf.push_str(&stub.server_module());
        }
    }
}

/// One service on its way to text.
struct Stub<'a> {
    settings: &'a StubSettings,
    externs: &'a Externs,
    /// `package.Service`, as on the wire.
    full_name: &'a str,
    service: &'a Service,
    names: &'a ServiceNames,
}

/// Which sides of a method are streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unary,
    ClientStreaming,
    ServerStreaming,
    BidiStreaming,
}

impl Kind {
    fn of(method: &Method) -> Kind {
        match (method.client_streaming, method.server_streaming) {
            (false, false) => Kind::Unary,
            (true, false) => Kind::ClientStreaming,
            (false, true) => Kind::ServerStreaming,
            (true, true) => Kind::BidiStreaming,
        }
    }

    /// The variant of `MethodKind`.
    fn variant(self) -> &'static str {
        match self {
            Kind::Unary => "Unary",
            Kind::ClientStreaming => "ClientStreaming",
            Kind::ServerStreaming => "ServerStreaming",
            Kind::BidiStreaming => "BidiStreaming",
        }
    }

    /// The function of `Client` and of `IncomingCall`.
    fn function(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ClientStreaming => "client_streaming",
            Kind::ServerStreaming => "server_streaming",
            Kind::BidiStreaming => "bidi_streaming",
        }
    }

    fn streams_requests(self) -> bool {
        matches!(self, Kind::ClientStreaming | Kind::BidiStreaming)
    }

    fn streams_responses(self) -> bool {
        matches!(self, Kind::ServerStreaming | Kind::BidiStreaming)
    }
}

impl Stub<'_> {
    /// The path to the run-time support.
    fn codegen(&self) -> &str {
        &self.settings.codegen_path
    }

    /// A method's path on the wire.
    fn wire_path(&self, method: &Method) -> String {
        format!("/{}/{}", self.full_name, method.proto_name)
    }

    fn input(&self, method: &Method) -> String {
        from_inner_module(&method.input_type, self.externs.covers(&method.input_proto_type))
    }

    fn output(&self, method: &Method) -> String {
        from_inner_module(&method.output_type, self.externs.covers(&method.output_proto_type))
    }

    /// The package and the service: what module attributes are matched with.
    fn module_names(&self) -> [&str; 2] {
        [self.service.package.trim_matches('.'), self.full_name]
    }

    /// The comments from the `.proto` file as doc comments, or `otherwise`.
    fn service_docs(&self, otherwise: &str) -> String {
        self.docs(&self.service.comments, self.full_name, otherwise)
    }

    fn method_docs(&self, method: &Method, otherwise: &str) -> String {
        let name = format!("{}.{}", self.full_name, method.proto_name);
        self.docs(&method.comments, &name, otherwise)
    }

    fn docs(&self, comments: &Comments, name: &str, otherwise: &str) -> String {
        let mut text = String::new();
        if !self.settings.disable_comments.iter().any(|pattern| matches(pattern, name)) {
            // Blocks detached from the thing itself are not about it.
            let own = Comments { leading_detached: Vec::new(), ..comments.clone() };
            own.append_with_indent(0, &mut text);
        }
        if text.is_empty() { format!("/// {otherwise}\n") } else { text }
    }
}
