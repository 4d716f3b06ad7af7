//! Requests outside a dialog that begin nothing: OPTIONS, keep-alives, and what is not offered (RFC 3261 §8.2.1, §11.2,
//! RFC 6665 §8.3).

use super::worker::Worker;
use crate::call::{ACCEPT, ALLOW};
use crate::ids::Flow;
use crate::sip::{HeaderName, Method, Request};

/// Extensions that work (§20.37).
const SUPPORTED: &str = "path, outbound";

impl Worker {
    pub(super) fn handle_out_of_dialog(&mut self, request: &Request, flow: &Flow) {
        match &request.method {
            Method::Options => self.answer_options(request, flow),
            // Phones keep their NAT open so, and know no credentials for it; whoever asks learns nothing.
            Method::Notify if is_keep_alive(request) => self.refuse(request, flow, 200),
            // A source address is no credential: what is not offered is told to users only.
            _ if self.authenticate(request, flow).is_none() => {}
            Method::Subscribe => self.refuse(request, flow, 489),
            // They make sense in a dialog only.
            Method::Bye | Method::Info | Method::Notify => self.refuse(request, flow, 481),
            Method::Other(_) => self.refuse_method(request, flow, 501),
            Method::Ack
            | Method::Cancel
            | Method::Invite
            | Method::Message
            | Method::Prack
            | Method::Publish
            | Method::Refer
            | Method::Register
            | Method::Update => self.refuse_method(request, flow, 405),
        }
    }

    fn answer_options(&mut self, request: &Request, flow: &Flow) {
        let mut response = self.response(request, 200);
        for (name, value) in [
            (HeaderName::Allow, ALLOW),
            (HeaderName::Accept, ACCEPT),
            (HeaderName::from("Accept-Encoding"), "identity"),
            (HeaderName::AcceptLanguage, "en"),
            (HeaderName::Supported, SUPPORTED),
        ] {
            response.headers.push(name, value);
        }
        self.reply(request, flow, &response);
    }

    fn refuse_method(&mut self, request: &Request, flow: &Flow, status: u16) {
        let mut response = self.response(request, status);
        response.headers.push(HeaderName::Allow, ALLOW);
        self.reply(request, flow, &response);
    }
}

fn is_keep_alive(request: &Request) -> bool {
    let event = request.headers.get(&HeaderName::Event);
    event.is_some_and(|event| event.trim().eq_ignore_ascii_case("keep-alive"))
}
