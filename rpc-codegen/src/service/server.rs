//! The trait a service implements, and the server that calls it.

use prost_build::Method;

use super::{ALLOW, Kind, Stub};

impl Stub<'_> {
    pub(super) fn server_module(&self) -> String {
        format!(
            r#"
            /// Server of `{name}`.
            {mod_attributes}
            pub mod {module} {{
                {ALLOW}
                {service_trait}
                {server_struct}
                {service_impl}
                /// The full name of the service.
                pub const SERVICE_NAME: &str = "{name}";
            }}
            "#,
            name = self.full_name,
            mod_attributes = self.settings.server_mod_attributes.lines(&self.module_names()),
            module = self.names.server_module(),
            service_trait = self.service_trait(),
            server_struct = self.server_struct(),
            service_impl = self.service_impl(),
        )
    }

    fn service_trait(&self) -> String {
        let methods: String = (0..self.service.methods.len())
            .map(|index| self.trait_method(index, &self.service.methods[index]))
            .collect();
        format!(
            r#"
            {docs}
            {attributes}
            pub trait {name}: ::core::marker::Send + ::core::marker::Sync + 'static {{
                {methods}
            }}
            "#,
            docs = self.service_docs(&format!("What a server of `{}` does.", self.full_name)),
            attributes = self.settings.trait_attributes.lines(&[self.full_name]),
            name = self.names.service_trait(),
        )
    }

    fn trait_method(&self, index: usize, method: &Method) -> String {
        let codegen = self.codegen();
        let names = self.names.method(index);
        let kind = Kind::of(method);
        let mut text = String::new();
        let response = if kind.streams_responses() {
            text.push_str(&format!(
                r#"
                /// Streams the responses of [`{function}`](Self::{function}).
                type {stream}: {codegen}::Stream<
                    Item = ::core::result::Result<{output}, {codegen}::Status>,
                > + ::core::marker::Send + 'static;
                "#,
                function = names.function,
                stream = names.stream,
                output = self.output(method),
            ));
            format!("Self::{}", names.stream)
        } else {
            self.output(method)
        };
        let body = if self.settings.generate_default_stubs {
            format!(
                r#"{{
                    let _ = request;
                    async {{
                        ::core::result::Result::Err({codegen}::Status::unimplemented(
                            "{path} is not implemented",
                        ))
                    }}
                }}"#,
                path = self.wire_path(method),
            )
        } else {
            ";".to_owned()
        };
        let receiver =
            if self.settings.use_arc_self { "self: ::std::sync::Arc<Self>" } else { "&self" };
        text.push_str(&format!(
            r#"
            {docs}
            fn {function}(
                {receiver},
                request: {request},
            ) -> impl ::core::future::Future<
                Output = ::core::result::Result<{codegen}::Response<{response}>, {codegen}::Status>,
            > + ::core::marker::Send{body}
            "#,
            docs = self.method_docs(method, &format!("Answers `{}`.", method.proto_name)),
            function = names.function,
            request = self.handler_request(method),
        ));
        text
    }

    /// The request as a handler gets it.
    fn handler_request(&self, method: &Method) -> String {
        let codegen = self.codegen();
        let input = self.input(method);
        if Kind::of(method).streams_requests() {
            format!("{codegen}::Request<{codegen}::Streaming<{input}>>")
        } else {
            format!("{codegen}::Request<{input}>")
        }
    }

    fn server_struct(&self) -> String {
        let codegen = self.codegen();
        let server = self.names.server();
        format!(
            r#"
            /// Serves `{name}` with an implementation of [`{service_trait}`]. Clones share it.
            {attributes}
            pub struct {server}<T> {{
                inner: ::std::sync::Arc<T>,
                limits: {codegen}::MessageLimits,
            }}
            impl<T> {server}<T> {{
                /// Serves `inner`.
                pub fn new(inner: T) -> Self {{
                    Self::from_arc(::std::sync::Arc::new(inner))
                }}
                /// Serves `inner`, which others may use too.
                pub fn from_arc(inner: ::std::sync::Arc<T>) -> Self {{
                    Self {{ inner, limits: ::core::default::Default::default() }}
                }}
                /// The longest request message that is accepted, in bytes.
                #[must_use]
                pub fn max_decoding_message_size(mut self, limit_bytes: usize) -> Self {{
                    self.limits = self.limits.max_decoding_message_size(limit_bytes);
                    self
                }}
                /// The longest response message that is sent, in bytes.
                #[must_use]
                pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> Self {{
                    self.limits = self.limits.max_encoding_message_size(limit_bytes);
                    self
                }}
            }}
            impl<T> ::core::clone::Clone for {server}<T> {{
                fn clone(&self) -> Self {{
                    Self {{ inner: ::std::sync::Arc::clone(&self.inner), limits: self.limits }}
                }}
            }}
            impl<T> ::core::fmt::Debug for {server}<T> {{
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
                    f.debug_struct("{server}").finish_non_exhaustive()
                }}
            }}
            "#,
            name = self.full_name,
            service_trait = self.names.service_trait(),
            attributes = self.settings.server_attributes.lines(&[self.full_name]),
        )
    }

    fn service_impl(&self) -> String {
        let codegen = self.codegen();
        let arms: String = (0..self.service.methods.len())
            .map(|index| self.dispatch(index, &self.service.methods[index]))
            .collect();
        format!(
            r#"
            impl<T: self::{service_trait}> {codegen}::Service for {server}<T> {{
                fn descriptor(&self) -> &'static {codegen}::ServiceDescriptor {{
                    &super::{descriptor}::SERVICE
                }}
                fn limits(&self) -> {codegen}::MessageLimits {{
                    self.limits
                }}
                fn call(&self, method: usize, call: {codegen}::IncomingCall<'_>) -> {codegen}::Handler {{
                    let call = call.with_limits(self.limits);
                    match method {{
                        {arms}
                        _ => call.unimplemented(),
                    }}
                }}
            }}
            "#,
            service_trait = self.names.service_trait(),
            server = self.names.server(),
            descriptor = self.names.descriptor_module(),
        )
    }

    /// Gives a call to the method. A unary call's future gives the service back: what serves one
    /// call after the other need not count who shares it.
    fn dispatch(&self, index: usize, method: &Method) -> String {
        let kind = Kind::of(method);
        let unary = matches!(kind, Kind::Unary);
        let argument = match (self.settings.use_arc_self, unary) {
            (true, true) => "::std::sync::Arc::clone(&inner)",
            (true, false) => "inner",
            (false, _) => "&inner",
        };
        let answer = format!(
            "<T as self::{service_trait}>::{function}({argument}, request).await",
            service_trait = self.names.service_trait(),
            function = self.names.method(index).function,
        );
        let (call, request) = (kind.function(), self.handler_request(method));
        if unary {
            return format!(
                r#"
                {index} => call.{call}(&self.inner, |inner, request: {request}| async move {{
                    let answer = {answer};
                    (answer, inner)
                }}),
                "#
            );
        }
        format!(
            r#"
            {index} => {{
                let inner = ::std::sync::Arc::clone(&self.inner);
                call.{call}(move |request: {request}| async move {{ {answer} }})
            }}
            "#
        )
    }
}
