//! The frames of the handshake as values: encoding, and checked decoding that names the byte.

use super::error::BootstrapError;
use super::{RejectCode, TransportKind};
use crate::link::MIN_MAX_FRAME_BYTES;

/// What each end sends first.
pub const MAGIC: [u8; 8] = [0xF2, b'R', b'R', b'P', b'C', 0x0D, 0x0A, 0x1A];

/// The longest bootstrap frame, in bytes, header included.
pub const MAX_BOOTSTRAP_FRAME_BYTES: usize = 64 * 1024;

/// The most offers of one HELLO.
pub const MAX_OFFERS: usize = 8;

/// The longest body of an offer and of an answer, in bytes.
pub const MAX_BODY_BYTES: usize = 1024;

/// The longest authority, in bytes.
pub const MAX_AUTHORITY_BYTES: usize = 1024;

/// The longest reason of a declined offer or a fallback, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// The longest text of a REJECT, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Bytes before the payload of a frame.
pub(super) const HEADER_BYTES: usize = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    Hello = 1,
    HelloReply = 2,
    Reject = 3,
    Exchange = 4,
    Confirm = 5,
}

impl FrameKind {
    fn from_code(code: u8) -> Option<FrameKind> {
        Some(match code {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloReply,
            3 => FrameKind::Reject,
            4 => FrameKind::Exchange,
            5 => FrameKind::Confirm,
            _ => return None,
        })
    }
}

/// A transport a client can use besides TCP, with what the server's side of it must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which transport. Not [`TransportKind::Tcp`], which is implied.
    pub transport: TransportKind,
    /// At most [`MAX_BODY_BYTES`], opaque to the handshake.
    pub body: Vec<u8>,
}

/// An offer that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// Which transport.
    pub transport: TransportKind,
    /// Why, for people.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) min_version: u16,
    pub(super) max_version: u16,
    pub(super) features: u64,
    pub(super) timeout_ms: u32,
    pub(super) max_frame_bytes: u32,
    pub(super) authority: String,
    pub(super) offers: Vec<Offer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HelloReply {
    pub(super) version: u16,
    pub(super) features: u64,
    pub(super) max_frame_bytes: u32,
    pub(super) transport: TransportKind,
    pub(super) body: Vec<u8>,
    pub(super) declined: Vec<Declined>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reject {
    pub(super) code: RejectCode,
    pub(super) min_version: u16,
    pub(super) max_version: u16,
    pub(super) text: String,
}

/// One end's final word on the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Upgraded,
    Fallback(String),
}

/// Checks the eight bytes before a payload; `offset` is the first one's position.
pub(super) fn decode_header(
    header: [u8; HEADER_BYTES],
    offset: u64,
) -> Result<(FrameKind, usize), BootstrapError> {
    let [code, z0, z1, z2, length @ ..] = header;
    let Some(kind) = FrameKind::from_code(code) else {
        return Err(BootstrapError::malformed(
            "a frame kind from 1 to 5",
            &format!("{code}"),
            offset,
        ));
    };
    if let Some(at) = [z0, z1, z2].iter().position(|&byte| byte != 0) {
        let got = format!("{:#04x}", [z0, z1, z2][at]);
        return Err(BootstrapError::malformed("a zero byte", &got, offset + 1 + at as u64));
    }
    let length = u32::from_le_bytes(length) as usize;
    let most = match kind {
        FrameKind::Exchange => rdma_rpc_core::upgrade::MAX_EXCHANGE_BYTES,
        _ => MAX_BOOTSTRAP_FRAME_BYTES - HEADER_BYTES,
    };
    if length > most {
        return Err(BootstrapError::malformed(
            &format!("a payload length of at most {most} in a {kind:?} frame"),
            &format!("{length}"),
            offset + 4,
        ));
    }
    Ok((kind, length))
}

/// Appends a frame. `payload` must be within the limits of its kind.
pub(super) fn encode_frame(out: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    debug_assert!(payload.len() + HEADER_BYTES <= MAX_BOOTSTRAP_FRAME_BYTES);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The longest beginning of `text` within `most` bytes that ends between characters.
fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn put_string(out: &mut Vec<u8>, text: &str, most: usize) {
    let text = clip(text, most);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Hello {
    /// The payload. The caller has checked the limits ([`Hello::check`]).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.min_version.to_le_bytes());
        out.extend_from_slice(&self.max_version.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&self.timeout_ms.to_le_bytes());
        out.extend_from_slice(&self.max_frame_bytes.to_le_bytes());
        put_string(&mut out, &self.authority, MAX_AUTHORITY_BYTES);
        out.push(self.offers.len() as u8);
        for offer in &self.offers {
            out.extend_from_slice(&[offer.transport.code(), 0]);
            out.extend_from_slice(&(offer.body.len() as u16).to_le_bytes());
            out.extend_from_slice(&offer.body);
        }
        out
    }

    /// Whether this end may send it.
    pub(super) fn check(&self) -> Result<(), BootstrapError> {
        let misuse = |text: String| Err(BootstrapError::misuse(text));
        if self.min_version > self.max_version {
            return misuse(format!(
                "the lowest protocol version {} is above the highest {}",
                self.min_version, self.max_version
            ));
        }
        if self.authority.len() > MAX_AUTHORITY_BYTES {
            return misuse(format!(
                "the authority is {} bytes long, at most {MAX_AUTHORITY_BYTES} fit",
                self.authority.len()
            ));
        }
        if self.offers.len() > MAX_OFFERS {
            return misuse(format!("{} offers, at most {MAX_OFFERS} fit", self.offers.len()));
        }
        for (i, offer) in self.offers.iter().enumerate() {
            if offer.transport.code() == TransportKind::Tcp.code() {
                return misuse("tcp is implied and cannot be offered".to_string());
            }
            if self.offers[..i].iter().any(|other| other.transport == offer.transport) {
                return misuse(format!("{} is offered twice", offer.transport));
            }
            check_body(offer.transport, &offer.body)?;
        }
        Ok(())
    }

    pub(super) fn decode(payload: &[u8], offset: u64) -> Result<Hello, BootstrapError> {
        let mut reader = Reader { rest: payload, offset, frame: "HELLO" };
        let min_version = reader.u16("the lowest version")?;
        let max_at = reader.offset;
        let max_version = reader.u16("the highest version")?;
        if min_version > max_version {
            return Err(BootstrapError::malformed(
                &format!("a highest version of at least {min_version}"),
                &format!("{max_version}"),
                max_at,
            ));
        }
        let features = reader.u64("feature bits")?;
        let timeout_ms = reader.u32("the handshake timeout")?;
        let max_frame_bytes = reader.frame_limit()?;
        let authority = reader.string("the authority", MAX_AUTHORITY_BYTES)?;
        let count = reader.count("the number of offers", MAX_OFFERS)?;
        let mut offers: Vec<Offer> = Vec::with_capacity(count);
        for _ in 0..count {
            let at = reader.offset;
            let transport = TransportKind::from_code(reader.u8("an offered transport")?);
            if transport == TransportKind::Tcp {
                return Err(BootstrapError::malformed("no offer of tcp", "one", at));
            }
            if offers.iter().any(|other| other.transport == transport) {
                let got = format!("{transport} again");
                return Err(BootstrapError::malformed("a transport not yet offered", &got, at));
            }
            reader.zero()?;
            let body = reader.bytes("an offer's body", MAX_BODY_BYTES)?.to_vec();
            offers.push(Offer { transport, body });
        }
        Ok(Hello {
            min_version,
            max_version,
            features,
            timeout_ms,
            max_frame_bytes,
            authority,
            offers,
        })
    }
}

/// Whether a body fits into an offer or an answer.
pub(super) fn check_body(transport: TransportKind, body: &[u8]) -> Result<(), BootstrapError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(BootstrapError::misuse(format!(
            "the body for {transport} is {} bytes long, at most {MAX_BODY_BYTES} fit",
            body.len()
        )));
    }
    Ok(())
}

impl HelloReply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&self.max_frame_bytes.to_le_bytes());
        out.push(self.transport.code());
        out.push(self.declined.len() as u8);
        out.extend_from_slice(&(self.body.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.body);
        for declined in &self.declined {
            out.extend_from_slice(&[declined.transport.code(), 0]);
            put_string(&mut out, &declined.reason, MAX_REASON_BYTES);
        }
        out
    }

    pub(super) fn decode(payload: &[u8], offset: u64) -> Result<HelloReply, BootstrapError> {
        let mut reader = Reader { rest: payload, offset, frame: "HELLO-REPLY" };
        let version = reader.u16("the chosen version")?;
        reader.zero()?;
        reader.zero()?;
        let features = reader.u64("feature bits")?;
        let max_frame_bytes = reader.frame_limit()?;
        let transport = TransportKind::from_code(reader.u8("the chosen transport")?);
        let count = reader.count("the number of declined offers", MAX_OFFERS)?;
        let body = reader.bytes("the answer's body", MAX_BODY_BYTES)?.to_vec();
        let mut declined = Vec::with_capacity(count);
        for _ in 0..count {
            let transport = TransportKind::from_code(reader.u8("a declined transport")?);
            reader.zero()?;
            let reason = reader.string("the reason", MAX_REASON_BYTES)?;
            declined.push(Declined { transport, reason });
        }
        Ok(HelloReply { version, features, max_frame_bytes, transport, body, declined })
    }
}

impl Reject {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.code.code().to_le_bytes());
        out.extend_from_slice(&self.min_version.to_le_bytes());
        out.extend_from_slice(&self.max_version.to_le_bytes());
        put_string(&mut out, &self.text, MAX_TEXT_BYTES);
        out
    }

    pub(super) fn decode(payload: &[u8], offset: u64) -> Result<Reject, BootstrapError> {
        let mut reader = Reader { rest: payload, offset, frame: "REJECT" };
        Ok(Reject {
            code: RejectCode::from_code(reader.u16("the code")?),
            min_version: reader.u16("the lowest version")?,
            max_version: reader.u16("the highest version")?,
            text: reader.string("the text", MAX_TEXT_BYTES)?,
        })
    }
}

impl Verdict {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, reason) = match self {
            Verdict::Upgraded => (1, ""),
            Verdict::Fallback(reason) => (2, reason.as_str()),
        };
        let mut out = vec![code, 0];
        put_string(&mut out, reason, MAX_REASON_BYTES);
        out
    }

    pub(super) fn decode(payload: &[u8], offset: u64) -> Result<Verdict, BootstrapError> {
        let mut reader = Reader { rest: payload, offset, frame: "CONFIRM" };
        let code = reader.u8("the verdict")?;
        reader.zero()?;
        let reason = reader.string("the reason", MAX_REASON_BYTES)?;
        match code {
            1 => Ok(Verdict::Upgraded),
            2 => Ok(Verdict::Fallback(reason)),
            other => Err(BootstrapError::malformed(
                "verdict 1 (UPGRADED) or 2 (FALLBACK)",
                &format!("{other}"),
                offset,
            )),
        }
    }
}

/// Takes fields off a payload, knowing where each lies in the stream.
struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
    frame: &'static str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], BootstrapError> {
        let Some((field, rest)) = self.rest.split_at_checked(len) else {
            return Err(BootstrapError::malformed(
                &format!("{what} ({len} bytes)"),
                &format!("a {} frame that ends after {} of them", self.frame, self.rest.len()),
                self.offset + self.rest.len() as u64,
            ));
        };
        self.rest = rest;
        self.offset += len as u64;
        Ok(field)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], BootstrapError> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N, what)?);
        Ok(field)
    }

    fn u8(&mut self, what: &str) -> Result<u8, BootstrapError> {
        Ok(self.array::<1>(what)?[0])
    }

    fn u16(&mut self, what: &str) -> Result<u16, BootstrapError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &str) -> Result<u32, BootstrapError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, BootstrapError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn zero(&mut self) -> Result<(), BootstrapError> {
        let at = self.offset;
        match self.u8("a zero byte")? {
            0 => Ok(()),
            other => Err(BootstrapError::malformed("a zero byte", &format!("{other:#04x}"), at)),
        }
    }

    fn frame_limit(&mut self) -> Result<u32, BootstrapError> {
        let at = self.offset;
        let bytes = self.u32("the longest link frame")?;
        if (bytes as usize) < MIN_MAX_FRAME_BYTES {
            let expected = format!("a link frame limit of at least {MIN_MAX_FRAME_BYTES}");
            return Err(BootstrapError::malformed(&expected, &format!("{bytes}"), at));
        }
        Ok(bytes)
    }

    fn count(&mut self, what: &str, most: usize) -> Result<usize, BootstrapError> {
        let at = self.offset;
        let count = usize::from(self.u8(what)?);
        self.bounded(what, count, most, at)
    }

    fn bounded(
        &self,
        what: &str,
        value: usize,
        most: usize,
        at: u64,
    ) -> Result<usize, BootstrapError> {
        if value > most {
            let expected = format!("{what} to be at most {most}");
            return Err(BootstrapError::malformed(&expected, &format!("{value}"), at));
        }
        Ok(value)
    }

    fn bytes(&mut self, what: &str, most: usize) -> Result<&'a [u8], BootstrapError> {
        let at = self.offset;
        let len = usize::from(self.u16(what)?);
        let len = self.bounded(&format!("the length of {what}"), len, most, at)?;
        self.take(len, what)
    }

    fn string(&mut self, what: &str, most: usize) -> Result<String, BootstrapError> {
        let bytes = self.bytes(what, most)?;
        let start = self.offset - bytes.len() as u64;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(error) => Err(BootstrapError::malformed(
                &format!("UTF-8 in {what}"),
                "other bytes",
                start + error.valid_up_to() as u64,
            )),
        }
    }
}

#[cfg(test)]
mod tests;
