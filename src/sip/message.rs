//! Requests and responses: building, reading and serializing them (RFC 3261 §7, §8.2.6). Parsing is `parse`'s.
//!
//! Invariant: what leaves `to_bytes` is one message: no value can break out of its header line.

mod parse;

pub(super) use parse::{Lines, text_of};

use super::lexer;
use super::{HeaderName, Headers, Method, NameAddr, Status, Uri, Via};
use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;
use std::borrow::Cow;

/// What came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Request-URI, byte-exact.
    pub uri: Uri,
    /// Header fields; Content-Length is written on serializing and never kept here.
    pub headers: Headers,
    /// Body, binary safe.
    pub body: Bytes,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: Status,
    /// Reason phrase as written.
    pub reason: String,
    /// Header fields.
    pub headers: Headers,
    /// Body.
    pub body: Bytes,
}

/// CSeq (§20.16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Below 2^31.
    pub number: u32,
    /// Method.
    pub method: Method,
}

/// Why bytes are no message; `Request` variants can still be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not SIP at all, or a response that is malformed: drop and count.
    #[error("not a SIP message")]
    NotSip,
    /// A request with a first line we can read, but that must be refused with this status (400, 416, 505, 513). The
    /// request carries the headers that could be read, so a response can be built.
    #[error("bad request: {1}")]
    Refuse(Box<Request>, Status, &'static str),
}

impl Request {
    /// An empty one.
    pub fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: Headers::default(), body: Bytes::new() }
    }

    /// What must be there and well formed in every request (§8.1.1): To, From, CSeq (same method), Call-ID, top Via.
    /// `Err` tells what is wrong, for a 400. `Message::parse` has asked this already.
    pub fn check(&self) -> Result<(), &'static str> {
        parse::check(self)
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.get(&HeaderName::From)?).ok()
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.get(&HeaderName::To)?).ok()
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<&str> {
        self.headers.get(&HeaderName::CallId)
    }

    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq> {
        cseq(&self.headers)
    }

    /// Top Via.
    pub fn top_via(&self) -> Option<Via<'_>> {
        Via::read(self.headers.elements(&HeaderName::Via).next()?)
    }

    /// First Contact.
    pub fn contact(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.elements(&HeaderName::Contact).next()?).ok()
    }

    /// For the wire, with Content-Length.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = buffer(&self.headers, &self.body);
        put(&mut out, self.method.as_str());
        out.put_u8(b' ');
        put(&mut out, self.uri.as_str());
        out.put_slice(b" SIP/2.0\r\n");
        put_headers_and_body(out, &self.headers, &self.body)
    }

    /// A response to this request (§8.2.6): Via, From, To, Call-ID, CSeq copied (Record-Route too when 18x or 2xx to
    /// INVITE is built, Timestamp when 100); `to_tag` is added when the To has none.
    pub fn response(&self, status: Status, to_tag: Option<&str>) -> Response {
        let makes_dialog = self.method == Method::Invite && status.0 > 100 && status.0 < 300;
        let mut headers = Headers::with_capacity(12, 768);
        for (name, value) in self.headers.iter() {
            let copied = match name {
                HeaderName::Via | HeaderName::From | HeaderName::CallId | HeaderName::CSeq => true,
                HeaderName::RecordRoute => makes_dialog,
                HeaderName::Timestamp => status.0 == 100,
                _ => false,
            };
            if copied {
                headers.push(name.clone(), value);
            } else if *name == HeaderName::To {
                headers.push(HeaderName::To, with_tag(value, to_tag));
            }
        }
        Response { status, reason: status.reason_phrase(), headers, body: Bytes::new() }
    }
}

impl Response {
    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq> {
        cseq(&self.headers)
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.get(&HeaderName::From)?).ok()
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.get(&HeaderName::To)?).ok()
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<&str> {
        self.headers.get(&HeaderName::CallId)
    }

    /// Top Via.
    pub fn top_via(&self) -> Option<Via<'_>> {
        Via::read(self.headers.elements(&HeaderName::Via).next()?)
    }

    /// First Contact.
    pub fn contact(&self) -> Option<NameAddr<'_>> {
        NameAddr::read(self.headers.elements(&HeaderName::Contact).next()?).ok()
    }

    /// For the wire, with Content-Length.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = buffer(&self.headers, &self.body);
        put(&mut out, "SIP/2.0 ");
        put(&mut out, &self.status.0.to_string());
        out.put_u8(b' ');
        put(&mut out, &self.reason);
        out.put_slice(b"\r\n");
        put_headers_and_body(out, &self.headers, &self.body)
    }
}

impl Message {
    /// For the wire, with Content-Length.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Request(request) => request.to_bytes(),
            Self::Response(response) => response.to_bytes(),
        }
    }
}

fn cseq(headers: &Headers) -> Option<CSeq> {
    let (number, method) = headers.get(&HeaderName::CSeq)?.split_once(char::is_whitespace)?;
    // §8.1.1.5: less than 2**31.
    let number = lexer::number(number).filter(|number| *number < 1 << 31)?;
    let method = method.trim_start();
    lexer::is_token(method).then(|| CSeq { number, method: Method::from(method) })
}

/// The value as it was written; a tag can be appended to both of its forms (§20.10).
fn with_tag<'a>(to: &'a str, tag: Option<&str>) -> Cow<'a, str> {
    match tag {
        Some(tag) if NameAddr::parse(to).is_ok_and(|to| to.tag().is_none()) => {
            Cow::Owned([to, ";tag=", tag].concat())
        }
        _ => Cow::Borrowed(to),
    }
}

fn buffer(headers: &Headers, body: &[u8]) -> BytesMut {
    BytesMut::with_capacity(headers.wire_size() + body.len() + 128)
}

/// A line break within a first line would begin a header of its own: it becomes a space.
fn put(out: &mut BytesMut, text: &str) {
    if memchr2(b'\r', b'\n', text.as_bytes()).is_some() {
        out.extend(
            text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
        );
    } else {
        out.put_slice(text.as_bytes());
    }
}

fn put_headers_and_body(mut out: BytesMut, headers: &Headers, body: &[u8]) -> Bytes {
    for (name, value) in headers.iter().filter(|(name, _)| **name != HeaderName::ContentLength) {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"Content-Length: ");
    out.put_slice(body.len().to_string().as_bytes());
    out.put_slice(b"\r\n\r\n");
    out.put_slice(body);
    out.freeze()
}

#[cfg(test)]
mod tests;
