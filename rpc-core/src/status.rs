//! How a call ended: [`Code`], [`Status`], and whether the server can have seen the request.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::metadata::MetadataMap;

mod code;

pub use self::code::Code;

/// Whether the server can have seen the request of a call that failed.
///
/// Only [`RequestSeen::NeverSent`] makes it safe to repeat a call that must not run twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestSeen {
    /// The status was made by a program or came from the server: nothing is claimed.
    #[default]
    Unknown,
    /// No byte of the request has left this process in a way the server could act on.
    NeverSent,
    /// The request left, or may have: the server may have run it, wholly or in part.
    MayHaveRun,
}

/// How a call ended: a code, a message, and optionally details, metadata and a cause.
///
/// One pointer big, so that `Result<Response<T>, Status>` stays small. A clone copies the
/// message and the metadata, and shares the details and the cause.
///
/// ```
/// use rdma_rpc_core::{Code, Status};
///
/// let status = Status::not_found("no key \"a\"");
/// assert_eq!(status.code(), Code::NotFound);
/// assert_eq!(status.message(), "no key \"a\"");
/// ```
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    request_seen: RequestSeen,
    message: String,
    details: Bytes,
    metadata: MetadataMap,
    source: Option<Arc<dyn Error + Send + Sync + 'static>>,
}

const _: () = assert!(size_of::<Status>() == size_of::<usize>());
const _: () = assert!(size_of::<Option<Status>>() == size_of::<usize>());

/// One constructor for each code.
macro_rules! constructors {
    ($($name:ident $code:ident),* $(,)?) => {$(
        #[doc = concat!("A status with [`Code::", stringify!($code), "`] and this message.")]
        pub fn $name(message: impl Into<String>) -> Status {
            Status::new(Code::$code, message)
        }
    )*};
}

impl Status {
    /// A status with this code and message. Of the message 1024 bytes travel to the caller; a
    /// longer one is cut, between characters.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status::with_details_and_metadata(code, message, Bytes::new(), MetadataMap::new())
    }

    /// A status with details: bytes whose meaning client and server agree on, often an encoded
    /// `google.rpc.Status`.
    pub fn with_details(code: Code, message: impl Into<String>, details: Bytes) -> Status {
        Status::with_details_and_metadata(code, message, details, MetadataMap::new())
    }

    /// A status with metadata of its own.
    pub fn with_metadata(code: Code, message: impl Into<String>, metadata: MetadataMap) -> Status {
        Status::with_details_and_metadata(code, message, Bytes::new(), metadata)
    }

    /// A status with details and metadata.
    pub fn with_details_and_metadata(
        code: Code,
        message: impl Into<String>,
        details: Bytes,
        metadata: MetadataMap,
    ) -> Status {
        Status(Box::new(Inner {
            code,
            request_seen: RequestSeen::Unknown,
            message: message.into(),
            details,
            metadata,
            source: None,
        }))
    }

    constructors! {
        ok Ok,
        cancelled Cancelled,
        unknown Unknown,
        invalid_argument InvalidArgument,
        deadline_exceeded DeadlineExceeded,
        not_found NotFound,
        already_exists AlreadyExists,
        permission_denied PermissionDenied,
        resource_exhausted ResourceExhausted,
        failed_precondition FailedPrecondition,
        aborted Aborted,
        out_of_range OutOfRange,
        unimplemented Unimplemented,
        internal Internal,
        unavailable Unavailable,
        data_loss DataLoss,
        unauthenticated Unauthenticated,
    }

    /// A status from any error: the error itself if it is a [`Status`], a copy of the first
    /// `Status` among its causes (with the error as source), otherwise [`Code::Unknown`] with the
    /// error's text and the error as source.
    pub fn from_error(error: Box<dyn Error + Send + Sync + 'static>) -> Status {
        match Status::try_from_error(error) {
            Ok(status) => status,
            Err(error) => {
                let mut status = Status::unknown(error.to_string());
                status.set_source(error.into());
                status
            }
        }
    }

    /// Like [`Status::from_error`], but gives the error back where no `Status` is among it and
    /// its causes.
    pub fn try_from_error(
        error: Box<dyn Error + Send + Sync + 'static>,
    ) -> Result<Status, Box<dyn Error + Send + Sync + 'static>> {
        let error = match error.downcast::<Status>() {
            Ok(status) => return Ok(*status),
            Err(error) => error,
        };
        match status_among_causes(&*error) {
            Some(mut status) => {
                status.set_source(error.into());
                Ok(status)
            }
            None => Err(error),
        }
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message; may be empty.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The details; may be empty.
    pub fn details(&self) -> &[u8] {
        &self.0.details
    }

    /// The details without a copy.
    pub fn details_bytes(&self) -> &Bytes {
        &self.0.details
    }

    /// The metadata that came with the status.
    pub fn metadata(&self) -> &MetadataMap {
        &self.0.metadata
    }

    /// The metadata that goes with the status.
    pub fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.0.metadata
    }

    /// Names the cause. It stays in this process; only code, message, details and metadata
    /// travel.
    pub fn set_source(&mut self, source: Arc<dyn Error + Send + Sync + 'static>) -> &mut Status {
        self.0.source = Some(source);
        self
    }

    /// Whether the server can have seen the request of the call that ended with this status.
    ///
    /// The library says so for every failure it finds itself: [`RequestSeen::NeverSent`] or
    /// [`RequestSeen::MayHaveRun`]. A status that a program made or a server sent says
    /// [`RequestSeen::Unknown`].
    pub fn request_seen(&self) -> RequestSeen {
        self.0.request_seen
    }

    /// Says whether the server can have seen the request.
    #[must_use]
    pub(crate) fn with_request_seen(mut self, request_seen: RequestSeen) -> Status {
        self.0.request_seen = request_seen;
        self
    }
}

/// A copy of the first `Status` among an error and its causes.
fn status_among_causes(error: &(dyn Error + 'static)) -> Option<Status> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(status) = error.downcast_ref::<Status>() {
            return Some(status.clone());
        }
        // An `io::Error` made of another error names that error's source as its own, not the
        // error itself.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn code_of_io_error(error: &io::Error) -> Code {
    use io::ErrorKind::*;
    match error.kind() {
        BrokenPipe | WouldBlock | WriteZero | Interrupted => Code::Internal,
        ConnectionRefused | ConnectionReset | NotConnected | AddrInUse | AddrNotAvailable => {
            Code::Unavailable
        }
        AlreadyExists => Code::AlreadyExists,
        ConnectionAborted => Code::Aborted,
        InvalidData => Code::DataLoss,
        InvalidInput => Code::InvalidArgument,
        NotFound => Code::NotFound,
        PermissionDenied => Code::PermissionDenied,
        TimedOut => Code::DeadlineExceeded,
        UnexpectedEof => Code::OutOfRange,
        _ => Code::Unknown,
    }
}

impl From<io::Error> for Status {
    /// The code that fits the error's kind; the error becomes the source.
    fn from(error: io::Error) -> Status {
        let mut status = Status::new(code_of_io_error(&error), error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Status");
        out.field("code", &self.0.code);
        // What is empty most of the time is noise.
        if !self.0.message.is_empty() {
            out.field("message", &self.0.message);
        }
        if !self.0.details.is_empty() {
            out.field("details", &self.0.details);
        }
        if !self.0.metadata.is_empty() {
            out.field("metadata", &self.0.metadata);
        }
        if self.0.request_seen != RequestSeen::Unknown {
            out.field("request_seen", &self.0.request_seen);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code: '{}'", self.0.code)?;
        if !self.0.message.is_empty() {
            write!(f, ", message: {:?}", self.0.message)?;
        }
        match self.0.request_seen {
            RequestSeen::Unknown => {}
            RequestSeen::NeverSent => f.write_str(", the request was never sent")?,
            RequestSeen::MayHaveRun => f.write_str(", the request may have run")?,
        }
        // The source is left to whoever walks the chain, so that it is not printed twice.
        Ok(())
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constructor_for_each_code() {
        let made = [
            Status::ok("m"),
            Status::cancelled("m"),
            Status::unknown("m"),
            Status::invalid_argument("m"),
            Status::deadline_exceeded("m"),
            Status::not_found("m"),
            Status::already_exists("m"),
            Status::permission_denied("m"),
            Status::resource_exhausted("m"),
            Status::failed_precondition("m"),
            Status::aborted("m"),
            Status::out_of_range("m"),
            Status::unimplemented("m"),
            Status::internal("m"),
            Status::unavailable("m"),
            Status::data_loss("m"),
            Status::unauthenticated("m"),
        ];
        for (status, code) in made.iter().zip(code::ALL) {
            assert_eq!(status.code(), code);
            assert_eq!(status.message(), "m");
            assert_eq!(status.request_seen(), RequestSeen::Unknown);
        }
    }

    #[test]
    fn everything_is_kept_and_cloned() {
        let mut metadata = MetadataMap::new();
        metadata.insert("k", "v".parse().unwrap());
        let mut status = Status::with_details_and_metadata(
            Code::Aborted,
            "conflict",
            Bytes::from_static(b"\x01\x02"),
            metadata,
        )
        .with_request_seen(RequestSeen::MayHaveRun);
        status.set_source(Arc::new(io::Error::other("cause")));
        status.metadata_mut().insert("l", "w".parse().unwrap());
        let copy = status.clone();
        drop(status);
        assert_eq!(copy.details(), b"\x01\x02");
        assert_eq!(copy.metadata().get("k").unwrap(), "v");
        assert_eq!(copy.metadata().get("l").unwrap(), "w");
        assert_eq!(copy.request_seen(), RequestSeen::MayHaveRun);
        assert_eq!(copy.source().unwrap().to_string(), "cause");
    }

    #[test]
    fn shown_without_noise() {
        assert_eq!(Status::ok("").to_string(), "code: 'no error'");
        let status = Status::unavailable("gone").with_request_seen(RequestSeen::NeverSent);
        assert_eq!(
            status.to_string(),
            "code: 'the service is unavailable now', message: \"gone\", the request was never sent"
        );
        assert_eq!(
            format!("{status:?}"),
            "Status { code: Unavailable, message: \"gone\", request_seen: NeverSent }"
        );
    }

    #[test]
    fn io_errors_keep_their_kind() {
        let status = Status::from(io::Error::new(io::ErrorKind::TimedOut, "late"));
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "late");
        assert!(status.source().unwrap().is::<io::Error>());
    }

    #[derive(Debug)]
    struct Outer(Status);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_status_is_found_among_causes() {
        let status = Status::from_error(Box::new(Outer(Status::not_found("x"))));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "x"));
        assert_eq!(status.source().unwrap().to_string(), "outer");

        let status = Status::from_error(Box::new(Status::aborted("y")));
        assert_eq!((status.code(), status.message()), (Code::Aborted, "y"));
        assert!(status.source().is_none());

        let wrapped = io::Error::other(Outer(Status::data_loss("z")));
        let status = Status::from_error(wrapped.into());
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "z"));

        let status = Status::from_error("plain".into());
        assert_eq!((status.code(), status.message()), (Code::Unknown, "plain"));
        assert!(Status::try_from_error("plain".into()).is_err());
    }
}
