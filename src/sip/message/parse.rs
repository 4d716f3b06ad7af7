//! Bytes to messages (RFC 3261 §7, §25; §18.3 for Content-Length over datagrams), as tolerant as RFC 4475 allows.
//!
//! Invariant: any bytes are taken without a panic. A line that is no header is skipped and loses nothing else; what a
//! response to a request needs is kept even when the request is refused.

use super::{Message, MessageError, Request, Response};
use crate::limits;
use crate::sip::{HeaderName, Headers, Method, NameAddr, Status, Uri, Via, lexer, uri};
use bytes::Bytes;
use memchr::memchr;
use std::borrow::Cow;

const BAD_REQUEST: Status = Status(400);
const UNSUPPORTED_SCHEME: Status = Status(416);
const VERSION_NOT_SUPPORTED: Status = Status(505);
const MESSAGE_TOO_LARGE: Status = Status(513);

/// Why a request is refused.
type Flaw = (Status, &'static str);

impl Message {
    /// Parses one whole message: header and body as framed (over UDP: the datagram; Content-Length cuts it, a longer
    /// one is 400, an absent one means the rest).
    pub fn parse(bytes: &Bytes) -> Result<Self, MessageError> {
        let mut lines = Lines::new(bytes);
        let first = text_of(lines.next().ok_or(MessageError::NotSip)?);
        if first.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("SIP/")) {
            return parse_response(&first, lines, bytes).ok_or(MessageError::NotSip);
        }
        let (mut request, line_flaw) = request_line(&first).ok_or(MessageError::NotSip)?;
        let (head, head_flaw) = Head::read(lines, bytes.len());
        request.headers = head.headers;
        let body = head.content_length.and_then(|length| cut(bytes, head.body_start, length));
        let too_large = bytes.len() > limits::SIP_MESSAGE_BYTES;
        let flaw = line_flaw
            .filter(|(status, _)| *status != UNSUPPORTED_SCHEME)
            .or(too_large.then_some((MESSAGE_TOO_LARGE, "Message Too Large")))
            .or(head_flaw)
            .or(body.as_ref().err().copied())
            .or(check(&request).err().map(|reason| (BAD_REQUEST, reason)))
            .or(line_flaw);
        if let Some((status, reason)) = flaw {
            return Err(MessageError::Refuse(Box::new(request), status, reason));
        }
        request.body = body.unwrap_or_default();
        Ok(Self::Request(request))
    }
}

fn parse_response(first: &str, lines: Lines<'_>, bytes: &Bytes) -> Option<Message> {
    let (version, rest) = first.split_once(' ')?;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let code = lexer::number(code).filter(|_| code.len() == 3)?;
    let status = Status(u16::try_from(code).ok().filter(|code| (100..700).contains(code))?);
    let (head, flaw) = Head::read(lines, bytes.len());
    if !version.eq_ignore_ascii_case("SIP/2.0") || flaw.is_some() {
        return None;
    }
    let body = cut(bytes, head.body_start, head.content_length.ok()?).ok()?;
    let response =
        Response { status, reason: reason.trim().to_owned(), headers: head.headers, body };
    let is_sound = response.top_via().is_some()
        && response.cseq().is_some()
        && response.call_id().is_some_and(|call_id| !call_id.is_empty())
        && response.from().is_some()
        && response.to().is_some();
    is_sound.then_some(Message::Response(response))
}

/// `None` when the line is no request line at all; with a flaw when it is one that must be refused.
fn request_line(line: &str) -> Option<(Request, Option<Flaw>)> {
    let (method, rest) = line.split_once(' ')?;
    let trimmed = rest.trim_end();
    let (uri_text, version) = trimmed.rsplit_once(' ')?;
    let is_sip = version.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("SIP/"));
    if !lexer::is_token(method) || !is_sip {
        return None;
    }
    let uri = Uri::parse(uri_text);
    let flaw = match &uri {
        _ if !version.eq_ignore_ascii_case("SIP/2.0") => {
            Some((VERSION_NOT_SUPPORTED, "Version Not Supported"))
        }
        Err(_) => Some((BAD_REQUEST, "Bad Request-URI")),
        Ok(_) if trimmed.len() != rest.len() => Some((BAD_REQUEST, "Bad Request-Line")),
        Ok(uri) if uri.headers().next().is_some() => Some((BAD_REQUEST, "Headers in Request-URI")),
        Ok(uri) if uri.scheme() == uri::Scheme::Other => {
            Some((UNSUPPORTED_SCHEME, "Unsupported URI Scheme"))
        }
        Ok(_) => None,
    };
    let uri = uri.unwrap_or_else(|_| Uri::unchecked(uri_text));
    Some((Request::new(Method::from(method), uri), flaw))
}

/// See `Request::check`.
pub(super) fn check(request: &Request) -> Result<(), &'static str> {
    let headers = &request.headers;
    for (name, flaw) in [
        (&HeaderName::From, "Two From"),
        (&HeaderName::To, "Two To"),
        (&HeaderName::CallId, "Two Call-ID"),
        (&HeaderName::CSeq, "Two CSeq"),
        (&HeaderName::MaxForwards, "Two Max-Forwards"),
    ] {
        if headers.all(name).nth(1).is_some() {
            return Err(flaw);
        }
    }
    let is_name_addr = |text: &str| NameAddr::parse(text).is_ok();
    if !headers.get(&HeaderName::From).is_some_and(is_name_addr) {
        return Err("Missing or bad From");
    }
    if !headers.get(&HeaderName::To).is_some_and(is_name_addr) {
        return Err("Missing or bad To");
    }
    if request.call_id().is_none_or(str::is_empty) {
        return Err("Missing Call-ID");
    }
    match request.cseq() {
        None => return Err("Missing or bad CSeq"),
        Some(cseq) if cseq.method != request.method => return Err("CSeq of another method"),
        Some(_) => {}
    }
    let mut vias = headers.elements(&HeaderName::Via).peekable();
    if vias.peek().is_none() || !vias.all(|via| Via::parse(via).is_some()) {
        return Err("Missing or bad Via");
    }
    let hops = headers.get(&HeaderName::MaxForwards);
    if hops.is_some_and(|hops| lexer::number(hops).is_none_or(|hops| hops > 255)) {
        return Err("Bad Max-Forwards");
    }
    let mut contacts = headers.elements(&HeaderName::Contact);
    if !contacts.all(|contact| contact == "*" || is_name_addr(contact)) {
        return Err("Bad Contact");
    }
    Ok(())
}

/// What stands before the body.
struct Head {
    headers: Headers,
    /// `Ok(None)` when absent.
    content_length: Result<Option<usize>, Flaw>,
    body_start: usize,
}

impl Head {
    /// Of a message of so many bytes.
    fn read(mut lines: Lines<'_>, bytes: usize) -> (Self, Option<Flaw>) {
        // Room for what is set later too: the top Via with its stamp, a Route less.
        let headers = Headers::with_capacity(16, bytes.min(limits::SIP_MESSAGE_BYTES) + 128);
        let mut head = Self { headers, content_length: Ok(None), body_start: 0 };
        let mut flaw = None;
        for line in lines.by_ref() {
            let line = text_of(line);
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim_ascii_end(), value.trim());
            if !lexer::is_token(name) {
                continue;
            }
            match HeaderName::from(name) {
                HeaderName::ContentLength => head.add_content_length(value),
                _ if head.headers.len() >= limits::SIP_HEADERS => {
                    flaw = Some((MESSAGE_TOO_LARGE, "Too many header fields"));
                }
                name => head.headers.push(name, value),
            }
        }
        head.body_start = lines.position;
        if !lines.ended {
            flaw = Some((BAD_REQUEST, "No end of header"));
        }
        (head, flaw)
    }

    fn add_content_length(&mut self, value: &str) {
        let length = lexer::number(value).and_then(|length| usize::try_from(length).ok());
        self.content_length = match (self.content_length, length) {
            (Ok(None), Some(length)) => Ok(Some(length)),
            (Ok(Some(before)), Some(length)) if before == length => Ok(Some(length)),
            _ => Err((BAD_REQUEST, "Bad Content-Length")),
        };
    }
}

/// The body, without what a datagram carries behind it.
fn cut(bytes: &Bytes, start: usize, length: Option<usize>) -> Result<Bytes, Flaw> {
    let available = bytes.len().saturating_sub(start);
    let length = length.unwrap_or(available);
    if length > available {
        return Err((BAD_REQUEST, "Content-Length beyond the end"));
    }
    Ok(bytes.slice(bytes.len() - available..bytes.len() - available + length))
}

/// Logical lines up to the empty one: what follows a line break and begins with LWS belongs to the line before.
pub(in crate::sip) struct Lines<'a> {
    bytes: &'a [u8],
    /// Where the next line begins; behind the empty line once that was read.
    pub(in crate::sip) position: usize,
    /// The empty line was read.
    pub(in crate::sip) ended: bool,
}

impl<'a> Lines<'a> {
    /// Line breaks before the first line are skipped (§7.5).
    pub(in crate::sip) fn new(bytes: &'a [u8]) -> Self {
        let position = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        Self { bytes, position, ended: false }
    }

    /// Length of the physical line at `rest`, with its line break; `None` when it has none yet.
    fn physical(rest: &[u8]) -> Option<usize> {
        memchr(b'\n', rest).map(|position| position + 1)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.position..)?;
        if self.ended || rest.is_empty() {
            return None;
        }
        let mut length = Self::physical(rest).unwrap_or(rest.len());
        if matches!(rest.get(..length), Some(b"\r\n" | b"\n")) {
            self.position += length;
            self.ended = true;
            return None;
        }
        while let Some(more @ [b' ' | b'\t', ..]) = rest.get(length..) {
            length += Self::physical(more).unwrap_or(more.len());
        }
        self.position += length;
        rest.get(..length)
    }
}

/// A logical line as text: unfolded (§7.3.1), without its line break.
pub(in crate::sip) fn text_of(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text =
        core::str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
    if memchr(b'\n', line).is_none() {
        return text;
    }
    let pieces: Vec<_> =
        text.split('\n').map(str::trim).filter(|piece| !piece.is_empty()).collect();
    Cow::Owned(pieces.join(" "))
}
