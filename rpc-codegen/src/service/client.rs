//! The client of a service.

use prost_build::Method;

use super::{ALLOW, Kind, Stub};

impl Stub<'_> {
    pub(super) fn client_module(&self) -> String {
        let codegen = self.codegen();
        let methods: String = (0..self.service.methods.len())
            .map(|index| self.client_method(index, &self.service.methods[index]))
            .collect();
        format!(
            r#"
            /// Client of `{name}`.
            {mod_attributes}
            pub mod {module} {{
                {ALLOW}
                {docs}
                {deprecated}
                {attributes}
                #[derive(Debug, Clone)]
                pub struct {client} {{
                    client: {codegen}::Client,
                }}
                impl {client} {{
                    /// A client that sends its calls over `channel`. Clones share the channel.
                    pub fn new(channel: impl ::core::convert::Into<{codegen}::Channel>) -> Self {{
                        Self {{ client: {codegen}::Client::new(::core::convert::Into::into(channel)) }}
                    }}
                    /// The longest response message that is accepted, in bytes.
                    #[must_use]
                    pub fn max_decoding_message_size(mut self, limit_bytes: usize) -> Self {{
                        self.client = self.client.max_decoding_message_size(limit_bytes);
                        self
                    }}
                    /// The longest request message that is sent, in bytes.
                    #[must_use]
                    pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> Self {{
                        self.client = self.client.max_encoding_message_size(limit_bytes);
                        self
                    }}
                    {methods}
                }}
            }}
            "#,
            name = self.full_name,
            mod_attributes = self.settings.client_mod_attributes.lines(&self.module_names()),
            module = self.names.client_module(),
            docs = self.service_docs(&format!("Client of `{}`.", self.full_name)),
            deprecated = deprecated(self.service.options.deprecated()),
            attributes = self.settings.client_attributes.lines(&[self.full_name]),
            client = self.names.client(),
        )
    }

    /// One function. It is not an `async fn`: handing on the runtime's future as it is saves a
    /// state machine that would hold the request a second time. `'a` lets it compile in every
    /// edition, whose rules for what `impl Future` captures differ.
    fn client_method(&self, index: usize, method: &Method) -> String {
        let codegen = self.codegen();
        let kind = Kind::of(method);
        let (input, output) = (self.input(method), self.output(method));
        let (bound, convert) = if kind.streams_requests() {
            (
                format!("{codegen}::IntoStreamingRequest<Message = {input}>"),
                format!("{codegen}::IntoStreamingRequest::into_streaming_request(request)"),
            )
        } else {
            (
                format!("{codegen}::IntoRequest<{input}>"),
                format!("{codegen}::IntoRequest::into_request(request)"),
            )
        };
        let response = if kind.streams_responses() {
            format!("{codegen}::Streaming<{output}>")
        } else {
            output
        };
        format!(
            r#"
            {docs}
            {deprecated}
            pub fn {function}<'a, R>(
                &'a self,
                request: R,
            ) -> impl ::core::future::Future<
                Output = ::core::result::Result<{codegen}::Response<{response}>, {codegen}::Status>,
            > + 'a
            where
                R: {bound} + 'a,
            {{
                self.client.{call}(&super::{descriptor}::METHODS[{index}], {convert})
            }}
            "#,
            docs = self.method_docs(method, &format!("Calls `{}`.", method.proto_name)),
            deprecated = deprecated(method.options.deprecated()),
            function = self.names.method(index).function,
            call = kind.function(),
            descriptor = self.names.descriptor_module(),
        )
    }
}

fn deprecated(is_deprecated: bool) -> &'static str {
    if is_deprecated { "#[deprecated]" } else { "" }
}
