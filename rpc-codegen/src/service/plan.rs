//! The Rust names of services and methods, settled before anything is generated.

use std::collections::HashMap;

use prost_types::{FileDescriptorProto, ServiceDescriptorProto};

use crate::ident::{Scope, camel, camel_stem, sanitize, snake, snake_stem};
use crate::rename::{Modules, dotted_package, module_of};

/// What the stubs have beside the methods of a service. A method of that name gets an
/// underscore, in the client and in the server's trait alike: a trait method `clone` would make
/// every `store.clone()` in its implementation ambiguous.
const OWN_NAMES: &[&str] =
    &["new", "clone", "max_decoding_message_size", "max_encoding_message_size"];

/// The Rust names of one service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceNames {
    /// The service's name, or that with a number if another service has the same Rust name.
    spelling: String,
    methods: Vec<MethodNames>,
}

/// The Rust names of one method.
#[derive(Debug, Clone)]
pub(crate) struct MethodNames {
    /// In the client and in the server's trait.
    pub(crate) function: String,
    /// The associated type for the response stream.
    pub(crate) stream: String,
}

impl ServiceNames {
    pub(crate) fn client_module(&self) -> String {
        module(&self.spelling, "client")
    }

    pub(crate) fn server_module(&self) -> String {
        module(&self.spelling, "server")
    }

    pub(crate) fn descriptor_module(&self) -> String {
        module(&self.spelling, "descriptor")
    }

    pub(crate) fn client(&self) -> String {
        sanitize(&format!("{}Client", camel_stem(&self.spelling)))
    }

    pub(crate) fn server(&self) -> String {
        sanitize(&format!("{}Server", camel_stem(&self.spelling)))
    }

    /// The trait a server implements.
    pub(crate) fn service_trait(&self) -> String {
        camel(&self.spelling)
    }

    pub(crate) fn method(&self, index: usize) -> &MethodNames {
        &self.methods[index]
    }
}

fn module(spelling: &str, kind: &str) -> String {
    sanitize(&format!("{}_{kind}", snake_stem(spelling)))
}

/// Names for every service, by the fully qualified name in the `.proto` file.
pub(crate) fn plan(
    files: &[FileDescriptorProto],
    modules: &mut Modules,
) -> HashMap<String, ServiceNames> {
    let mut plan = HashMap::new();
    for rust_spelling in [true, false] {
        for file in files {
            let scope = modules.entry(module_of(file)).or_default();
            for service in &file.service {
                if (camel_stem(service.name()) == service.name()) == rust_spelling {
                    let name = format!("{}.{}", dotted_package(file), service.name());
                    plan.insert(name, service_names(service, scope));
                }
            }
        }
    }
    plan
}

fn service_names(service: &ServiceDescriptorProto, scope: &mut Scope) -> ServiceNames {
    let spelling = scope.claim(service.name(), |name| {
        ["client", "server", "descriptor"].iter().map(|kind| module(name, kind)).collect()
    });
    let mut methods: Vec<Option<MethodNames>> = vec![None; service.method.len()];
    let mut taken = Scope::default();
    for rust_spelling in [true, false] {
        for (method, names) in service.method.iter().zip(&mut methods) {
            if (camel_stem(method.name()) == method.name()) == rust_spelling {
                let spelling =
                    taken.claim(method.name(), |name| vec![function(name), stream(name)]);
                *names =
                    Some(MethodNames { function: function(&spelling), stream: stream(&spelling) });
            }
        }
    }
    ServiceNames { spelling, methods: methods.into_iter().flatten().collect() }
}

fn function(name: &str) -> String {
    let ident = snake(name);
    if OWN_NAMES.contains(&ident.as_str()) { format!("{ident}_") } else { ident }
}

fn stream(name: &str) -> String {
    sanitize(&format!("{}Stream", camel_stem(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::MethodDescriptorProto;

    fn service(name: &str, methods: &[&str]) -> ServiceDescriptorProto {
        let method = |name: &&str| MethodDescriptorProto {
            name: Some(name.to_string()),
            ..MethodDescriptorProto::default()
        };
        ServiceDescriptorProto {
            name: Some(name.to_owned()),
            method: methods.iter().map(method).collect(),
            options: None,
        }
    }

    fn functions(methods: &[&str]) -> Vec<String> {
        let names = service_names(&service("S", methods), &mut Scope::default());
        names.methods.into_iter().map(|method| method.function).collect()
    }

    #[test]
    fn methods_that_differ_by_case_get_numbers() {
        assert_eq!(functions(&["get", "Get", "GET"]), ["get2", "get", "get3"]);
        assert_eq!(functions(&["get_item", "GetItem"]), ["get_item2", "get_item"]);
        assert_eq!(functions(&["Get2", "get", "Get"]), ["get2", "get3", "get"]);
        // Different functions, but the same stream type.
        assert_eq!(functions(&["Foo1", "foo_1"]), ["foo1", "foo_12"]);
    }

    #[test]
    fn keywords_and_our_own_names_are_avoided() {
        assert_eq!(
            functions(&["Type", "move", "Self", "New", "clone", "MaxDecodingMessageSize"]),
            ["r#type", "r#move", "self_", "new_", "clone_", "max_decoding_message_size_"]
        );
    }

    #[test]
    fn a_service_called_self_has_ordinary_stubs() {
        let names = service_names(&service("Self", &[]), &mut Scope::default());
        assert_eq!(names.client_module(), "self_client");
        assert_eq!(names.client(), "SelfClient");
        assert_eq!(names.service_trait(), "Self_");
    }

    #[test]
    fn services_of_one_package_do_not_share_a_module() {
        let file = |services| FileDescriptorProto {
            package: Some("p".into()),
            service: services,
            ..FileDescriptorProto::default()
        };
        let files = [file(vec![service("foo_bar", &[])]), file(vec![service("FooBar", &[])])];
        let plan = plan(&files, &mut Modules::new());
        assert_eq!(plan[".p.FooBar"].client(), "FooBarClient");
        assert_eq!(plan[".p.foo_bar"].client(), "FooBar2Client");
        assert_eq!(plan[".p.foo_bar"].server_module(), "foo_bar2_server");
    }
}
