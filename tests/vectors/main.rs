//! Vectors: what the RFCs and real phones put on the wire, and what must come of it.

mod frames;
mod g711;
mod rtp;
mod sip_digest;
mod sip_ipv6;
mod sip_probes;
mod sip_properties;
mod sip_torture;
mod srtp;

use bytes::Bytes;
use holdfast::sip::{Message, MessageError, Request, Response};

/// A message as the RFCs print it: lines get CRLF, `{len}` becomes the length of the body.
fn wire(text: &str) -> Bytes {
    let text = text.strip_prefix('\n').unwrap_or(text).replace('\n', "\r\n");
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Bytes::from(text.replace("{len}", &body.len().to_string()))
}

/// `ok`, `drop`, or the status a request is refused with.
fn verdict(bytes: &Bytes) -> String {
    match Message::parse(bytes) {
        Ok(_) => "ok".to_owned(),
        Err(MessageError::NotSip) => "drop".to_owned(),
        Err(MessageError::Refuse(_, status, _)) => status.to_string(),
    }
}

#[track_caller]
fn request(bytes: &Bytes) -> Request {
    match Message::parse(bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("no request: {other:?}\n{}", String::from_utf8_lossy(bytes)),
    }
}

#[track_caller]
fn response(bytes: &Bytes) -> Response {
    match Message::parse(bytes) {
        Ok(Message::Response(response)) => response,
        other => panic!("no response: {other:?}\n{}", String::from_utf8_lossy(bytes)),
    }
}
