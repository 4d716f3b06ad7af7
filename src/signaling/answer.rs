//! Answers that no machine makes: stateless responses (RFC 3261 §8.2.7) to what is refused, challenged or answered at
//! once.
//!
//! Invariants: an ACK is never answered; the To tag is derived from the request, so a repeated request gets the same
//! answer without a memory of it; replies leave by `reply_flow`.

use super::worker::Worker;
use crate::event::Event;
use crate::ids::Flow;
use crate::sip::address::reply_flow;
use crate::sip::{HeaderName, Method, Request, Response, Status, digest};
use bytes::Bytes;

/// An answer that waits for a commit, and what it answers, should the commit fail.
#[derive(Debug)]
pub(super) struct HeldAnswer {
    pub request: Request,
    pub flow: Flow,
    pub bytes: Bytes,
}

impl Worker {
    /// A response of ours to a request that belongs to no call.
    pub(super) fn response(&self, request: &Request, status: u16) -> Response {
        let mut response = request.response(Status(status), Some(&self.stateless_tag(request)));
        response.headers.push(HeaderName::Server, self.settings.product.as_str());
        response
    }

    /// Sends a response by the way of its request.
    pub(super) fn reply(&mut self, request: &Request, flow: &Flow, response: &Response) {
        if request.method != Method::Ack {
            let (flow, bytes) = (reply_flow(request, flow), response.to_bytes());
            self.note_registering(request, false, flow, &bytes);
            self.transmit(flow, bytes);
        }
    }

    /// Sends an answer that waited, or had nothing to wait for.
    pub(super) fn send_held(&mut self, answer: HeldAnswer) {
        let HeldAnswer { request, flow, bytes } = answer;
        self.note_registering(&request, false, flow, &bytes);
        self.transmit(flow, bytes);
    }

    /// Answers with a status and nothing else.
    pub(super) fn refuse(&mut self, request: &Request, flow: &Flow, status: u16) {
        let response = self.response(request, status);
        self.reply(request, flow, &response);
    }

    /// Answers with a status and the reason in our words.
    pub(super) fn refuse_saying(
        &mut self,
        request: &Request,
        flow: &Flow,
        status: u16,
        reason: &str,
    ) {
        let mut response = self.response(request, status);
        reason.clone_into(&mut response.reason);
        self.reply(request, flow, &response);
    }

    /// 503: come again so many seconds later (RFC 3261 §21.5.4).
    pub(super) fn refuse_for_now(
        &mut self,
        request: &Request,
        flow: &Flow,
        reason: &'static str,
        seconds: u64,
    ) {
        self.emit(&Event::Shed { what: reason });
        let mut response = self.response(request, 503);
        reason.clone_into(&mut response.reason);
        response.headers.push(HeaderName::RetryAfter, seconds.to_string());
        self.reply(request, flow, &response);
    }

    /// 401 with a challenge for each algorithm.
    pub(super) fn challenge(&mut self, request: &Request, flow: &Flow, stale: bool) {
        let mut response = self.response(request, 401);
        let user_agent = request.headers.get(&HeaderName::UserAgent).unwrap_or_default();
        let algorithms = digest::algorithms_for(user_agent);
        let key = &self.settings.key;
        let challenges = digest::challenges(&self.realm, key, algorithms, stale, self.now);
        for challenge in challenges {
            response.headers.push(HeaderName::WwwAuthenticate, challenge);
        }
        self.reply(request, flow, &response);
    }

    fn stateless_tag(&self, request: &Request) -> String {
        let headers = &request.headers;
        let part = |name: &HeaderName| headers.get(name).unwrap_or_default().as_bytes();
        let parts = [
            part(&HeaderName::CallId),
            part(&HeaderName::From),
            part(&HeaderName::CSeq),
            part(&HeaderName::Via),
        ];
        let mac = self.settings.key.mac("stateless-tag", &parts);
        mac.iter().take(8).fold(String::with_capacity(16), |mut tag, byte| {
            for digit in [byte >> 4, byte & 15] {
                tag.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
            tag
        })
    }
}
