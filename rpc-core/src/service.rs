//! What generated code says about a service: names, paths, kinds and limits.

/// The kind of a method: who streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One message each way.
    Unary,
    /// Many messages to the server, one back.
    ClientStreaming,
    /// One message to the server, many back.
    ServerStreaming,
    /// Many messages each way.
    BidiStreaming,
}

/// Whether a call may be repeated (`idempotency_level` in the `.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Idempotency {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The call changes nothing.
    NoSideEffects,
    /// Repeating the call changes nothing more.
    Idempotent,
}

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodDescriptor {
    /// Its name in the `.proto`.
    pub name: &'static str,
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Who streams.
    pub kind: MethodKind,
    /// Whether it may be repeated.
    pub idempotency: Idempotency,
}

/// One service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceDescriptor {
    /// `package.Service`.
    pub name: &'static str,
    /// Its methods, in the order of the `.proto`.
    pub methods: &'static [MethodDescriptor],
}

/// Limits on the messages of one service or client, in bytes. `None`: the connection's limit for
/// what is received (4 MiB unless configured), no limit for what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageLimits {
    /// The longest message accepted.
    pub decode_bytes: Option<usize>,
    /// The longest message sent.
    pub encode_bytes: Option<usize>,
}

impl MessageLimits {
    /// The same limits, accepting messages of up to this many bytes.
    #[must_use]
    pub fn max_decoding_message_size(self, limit_bytes: usize) -> MessageLimits {
        MessageLimits { decode_bytes: Some(limit_bytes), ..self }
    }

    /// The same limits, sending messages of up to this many bytes.
    #[must_use]
    pub fn max_encoding_message_size(self, limit_bytes: usize) -> MessageLimits {
        MessageLimits { encode_bytes: Some(limit_bytes), ..self }
    }
}
