//! A response: a message, or a stream of messages, with what travels beside it.

use std::fmt;

use crate::extensions::Extensions;
use crate::metadata::MetadataMap;

/// A message (or a stream of messages) with metadata before it, and for unary calls metadata
/// after it.
///
/// ```
/// use rdma_rpc_core::Response;
///
/// let mut response = Response::new("message");
/// response.metadata_mut().insert("x-served-by", "a7".parse().unwrap());
/// response.trailers_mut().insert("x-cost", 3.into());
/// assert_eq!(response.into_inner(), "message");
/// ```
pub struct Response<T> {
    metadata: MetadataMap,
    extensions: Extensions,
    /// Boxed, because few responses have any.
    trailers: Option<Box<MetadataMap>>,
    message: T,
}

/// Trailers on their way through `into_parts` and `from_parts`.
struct Trailers(Box<MetadataMap>);

static NO_TRAILERS: MetadataMap = MetadataMap::new();

// One response is made and moved for every call.
const _: () = assert!(size_of::<Response<()>>() <= 40);

impl<T> Response<T> {
    /// A response with this message and nothing else; allocates nothing.
    pub fn new(message: T) -> Response<T> {
        Response {
            metadata: MetadataMap::new(),
            extensions: Extensions::new(),
            trailers: None,
            message,
        }
    }

    /// The message.
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, to change.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The metadata the server sends before the first message.
    pub fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// The metadata, to change.
    pub fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.metadata
    }

    /// The metadata the server sends after the message of a unary call. (After a stream, the
    /// stream itself has it.)
    pub fn trailers(&self) -> &MetadataMap {
        self.trailers.as_deref().unwrap_or(&NO_TRAILERS)
    }

    /// The trailers, to change.
    pub fn trailers_mut(&mut self) -> &mut MetadataMap {
        self.trailers.get_or_insert_default()
    }

    /// The message alone.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Takes metadata and trailers out; allocates nothing.
    #[inline]
    pub(crate) fn take_metadata(&mut self) -> (MetadataMap, MetadataMap) {
        let trailers = self.trailers.take().map(|trailers| *trailers).unwrap_or_default();
        (std::mem::take(&mut self.metadata), trailers)
    }

    /// Takes the response apart.
    ///
    /// Trailers, if any, go into the extensions, where [`Response::from_parts`] finds them again.
    pub fn into_parts(mut self) -> (MetadataMap, T, Extensions) {
        if let Some(trailers) = self.trailers {
            self.extensions.insert(Trailers(trailers));
        }
        (self.metadata, self.message, self.extensions)
    }

    /// Puts a response together.
    pub fn from_parts(
        metadata: MetadataMap,
        message: T,
        mut extensions: Extensions,
    ) -> Response<T> {
        let trailers = extensions.remove().map(|Trailers(trailers)| trailers);
        Response { metadata, extensions, trailers, message }
    }

    /// Changes the message and keeps everything else.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Response<U> {
        Response {
            metadata: self.metadata,
            extensions: self.extensions,
            trailers: self.trailers,
            message: change(self.message),
        }
    }

    /// The extensions: values for interceptors and handlers in this process.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The extensions, to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

impl<T> From<T> for Response<T> {
    fn from(message: T) -> Response<T> {
        Response::new(message)
    }
}

impl<T: fmt::Debug> fmt::Debug for Response<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Response");
        out.field("metadata", &self.metadata).field("message", &self.message);
        if let Some(trailers) = &self.trailers {
            out.field("trailers", trailers);
        }
        out.field("extensions", &self.extensions).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_everything() {
        let mut response = Response::from(1u8);
        response.metadata_mut().insert("k", "v".parse().unwrap());
        response.trailers_mut().insert("t", "w".parse().unwrap());
        response.extensions_mut().insert("mine");
        *response.get_mut() += 1;

        let (metadata, message, extensions) = response.into_parts();
        let response = Response::from_parts(metadata, message, extensions).map(u32::from);
        assert_eq!(response.metadata().get("k").unwrap(), "v");
        assert_eq!(response.trailers().get("t").unwrap(), "w");
        assert_eq!(response.extensions().get(), Some(&"mine"));
        assert_eq!(response.extensions().len(), 1);
        assert_eq!(response.into_inner(), 2u32);
    }

    #[test]
    fn nothing_is_there_unless_set() {
        let response = Response::new(());
        assert!(response.metadata().is_empty() && response.trailers().is_empty());
        let (metadata, (), extensions) = response.into_parts();
        assert!(metadata.is_empty() && extensions.is_empty());
    }
}
