//! Services by path.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::call::IncomingCall;
use super::handler::Handler;
use crate::service::{MessageLimits, ServiceDescriptor};

/// A service, as generated code makes one from a user's `impl`.
pub trait Service: Send + Sync + 'static {
    /// Its name and methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Limits on its messages.
    fn limits(&self) -> MessageLimits {
        MessageLimits::default()
    }

    /// Begins to handle a call of the method at this index of the descriptor.
    fn call(&self, method: usize, call: IncomingCall<'_>) -> Handler;
}

/// The services of a server.
#[derive(Clone, Default)]
pub struct Router {
    methods: HashMap<&'static str, (Arc<dyn Service>, usize)>,
    names: Vec<&'static str>,
    max_send_bytes: Option<usize>,
}

impl Router {
    /// A router with no services: every call is answered with `UNIMPLEMENTED`.
    pub fn new() -> Router {
        Router::default()
    }

    /// Adds a service; one with the same name is replaced.
    #[must_use]
    pub fn add_service(mut self, service: impl Service) -> Router {
        let service: Arc<dyn Service> = Arc::new(service);
        let descriptor = service.descriptor();
        self.names.retain(|name| *name != descriptor.name);
        self.names.push(descriptor.name);
        for (index, method) in descriptor.methods.iter().enumerate() {
            self.methods.insert(method.path, (Arc::clone(&service), index));
        }
        self
    }

    /// Refuses to send messages of more than this many bytes, where the service has no limit of
    /// its own.
    #[must_use]
    pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> Router {
        self.max_send_bytes = Some(limit_bytes);
        self
    }

    pub(super) fn limits(&self) -> MessageLimits {
        MessageLimits { encode_bytes: self.max_send_bytes, decode_bytes: None }
    }

    /// The names of the services.
    pub fn service_names(&self) -> &[&'static str] {
        &self.names
    }

    pub(super) fn find(&self, path: &str) -> Option<(Arc<dyn Service>, usize)> {
        self.methods.get(path).map(|(service, index)| (Arc::clone(service), *index))
    }

    /// Why nothing serves a path.
    pub(super) fn explain(&self, path: &str) -> String {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if self.names.contains(&service) {
            format!("service {service} has no method {path}")
        } else {
            format!("no service {service:?} here (method {path}); there are {:?}", self.names)
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("services", &self.names).finish()
    }
}
