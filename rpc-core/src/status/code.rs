//! The gRPC status codes.

use std::fmt;

/// The 17 gRPC status codes.
///
/// Meanings and numbers are those of gRPC; a number that is none of them reads as
/// [`Code::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// No error.
    Ok = 0,
    /// The caller gave the call up.
    Cancelled = 1,
    /// An error that fits no other code, or a code this program does not know.
    Unknown = 2,
    /// The argument is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed before the call finished. The call may still have succeeded.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What should be created exists.
    AlreadyExists = 6,
    /// The caller is known, and may not do this.
    PermissionDenied = 7,
    /// A quota, a limit or memory is used up.
    ResourceExhausted = 8,
    /// The system is not in the state the call needs; repeating the call alone will not help.
    FailedPrecondition = 9,
    /// A conflict, such as a failed transaction; the caller may repeat the whole sequence.
    Aborted = 10,
    /// Past the valid range, such as reading past the end of a file.
    OutOfRange = 11,
    /// The server does not have this method.
    Unimplemented = 12,
    /// An invariant is broken.
    Internal = 13,
    /// The service cannot be reached now; repeating the call may help.
    Unavailable = 14,
    /// Data is lost or damaged for good.
    DataLoss = 15,
    /// The caller did not prove who it is.
    Unauthenticated = 16,
}

impl Code {
    /// One line in English, for logs and messages.
    pub fn description(&self) -> &'static str {
        match self {
            Code::Ok => "no error",
            Code::Cancelled => "the call was cancelled",
            Code::Unknown => "unknown error",
            Code::InvalidArgument => "an argument is invalid",
            Code::DeadlineExceeded => "the deadline passed before the call finished",
            Code::NotFound => "the requested entity was not found",
            Code::AlreadyExists => "the entity already exists",
            Code::PermissionDenied => "the caller lacks permission",
            Code::ResourceExhausted => "a resource is exhausted",
            Code::FailedPrecondition => "the system is not in the state the call needs",
            Code::Aborted => "the call was aborted",
            Code::OutOfRange => "past the valid range",
            Code::Unimplemented => "not implemented or not supported",
            Code::Internal => "internal error",
            Code::Unavailable => "the service is unavailable now",
            Code::DataLoss => "data is lost or damaged",
            Code::Unauthenticated => "the caller is not authenticated",
        }
    }

    /// The code with this number; [`Code::Unknown`] when there is none.
    pub const fn from_i32(number: i32) -> Code {
        match number {
            0 => Code::Ok,
            1 => Code::Cancelled,
            3 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            6 => Code::AlreadyExists,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            10 => Code::Aborted,
            11 => Code::OutOfRange,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            14 => Code::Unavailable,
            15 => Code::DataLoss,
            16 => Code::Unauthenticated,
            _ => Code::Unknown,
        }
    }

    /// The code whose number is written in decimal, as gRPC writes it in text;
    /// [`Code::Unknown`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Code {
        let number = match *bytes {
            [ones @ b'0'..=b'9'] => ones - b'0',
            [b'1', ones @ b'0'..=b'6'] => 10 + (ones - b'0'),
            _ => return Code::Unknown,
        };
        Code::from_i32(i32::from(number))
    }
}

impl From<i32> for Code {
    fn from(number: i32) -> Code {
        Code::from_i32(number)
    }
}

impl From<Code> for i32 {
    fn from(code: Code) -> i32 {
        code as i32
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.description())
    }
}

/// Every code, in the order of the numbers.
#[cfg(test)]
pub(super) const ALL: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_grpc_numbers() {
        for (number, code) in ALL.into_iter().enumerate() {
            let number = number as i32;
            assert_eq!(i32::from(code), number);
            assert_eq!(Code::from(number), code);
            assert_eq!(Code::from_bytes(number.to_string().as_bytes()), code);
        }
        for number in [-1, 17, i32::MIN, i32::MAX] {
            assert_eq!(Code::from(number), Code::Unknown);
        }
        for text in ["", "17", "19", "20", "00", "1 ", "a", "160", "-1", "1\u{660}"] {
            assert_eq!(Code::from_bytes(text.as_bytes()), Code::Unknown, "{text:?}");
        }
    }

    #[test]
    fn descriptions_differ() {
        let mut seen: Vec<_> = ALL.iter().map(Code::description).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), ALL.len());
    }
}
