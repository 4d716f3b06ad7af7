//! A dialog as RFC 3261 §12 has it, for the side that we play on a leg. Plain data, stored in the call's record.
//!
//! Invariant: the remote target is kept byte-exact; the route set, once a dialog is confirmed, never changes.

use super::{HeaderName, Method, NameAddr, Request, Response, Uri};
use serde::{Deserialize, Serialize};

/// Max-Forwards of requests that we start (§8.1.1.6).
pub const MAX_FORWARDS: u8 = 70;

/// One dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// Their tag; empty until a response brings it.
    pub remote_tag: String,
    /// Our From/To value without tag (name-addr text).
    pub local_party: String,
    /// Theirs, without tag.
    pub remote_party: String,
    /// Their Contact URI, byte-exact.
    pub remote_target: Uri,
    /// Record-Route in the order of use (name-addr texts).
    pub route_set: Vec<String>,
    /// Number of our last request; 0 before the first.
    pub local_seq: u32,
    /// Number of their last request; `None` before the first.
    pub remote_seq: Option<u32>,
}

impl Dialog {
    /// As UAS from the INVITE (§12.1.1). `None` without Contact, From, To, Call-ID or CSeq: 400.
    pub fn from_request(request: &Request, local_tag: &str) -> Option<Self> {
        let from = request.from()?;
        Some(Self {
            call_id: request.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: from.tag().unwrap_or_default().into_owned(),
            local_party: request.to()?.party(),
            remote_party: from.party(),
            remote_target: request.contact()?.uri,
            route_set: request
                .headers
                .elements(&HeaderName::RecordRoute)
                .map(str::to_owned)
                .collect(),
            local_seq: 0,
            remote_seq: Some(request.cseq()?.number),
        })
    }

    /// As UAC, from the INVITE we sent (before any response): remote_tag empty, remote target is the Request-URI.
    pub fn from_own_request(request: &Request) -> Option<Self> {
        let from = request.from()?;
        let to = request.to()?;
        Some(Self {
            call_id: request.call_id()?.to_owned(),
            local_tag: from.tag()?.into_owned(),
            remote_tag: to.tag().unwrap_or_default().into_owned(),
            local_party: from.party(),
            remote_party: to.party(),
            remote_target: request.uri.clone(),
            route_set: Vec::new(),
            local_seq: request.cseq()?.number,
            remote_seq: None,
        })
    }

    /// As UAC: what a response to the first INVITE with a To tag sets (§12.1.2): tag, target, route set. The 2xx sets
    /// it anew (§13.2.2.4). Not for a re-INVITE: that refreshes the target only.
    pub fn establish(&mut self, response: &Response) {
        let Some(tag) = response.to().and_then(|to| to.tag()) else { return };
        self.remote_tag = tag.into_owned();
        if let Some(contact) = response.contact() {
            self.remote_target = contact.uri;
        }
        self.route_set =
            response.headers.elements(&HeaderName::RecordRoute).map(str::to_owned).collect();
        self.route_set.reverse();
    }

    /// Target refresh (§12.2) by a request or 2xx with Contact.
    pub fn refresh_target(&mut self, contact: &NameAddr<'_>) {
        self.remote_target = contact.uri.clone();
    }

    /// A new request within the dialog (§12.2.1.1): Request-URI, Route (loose and strict), From, To, Call-ID, CSeq,
    /// Max-Forwards. Via and Contact are the caller's to add. Raises `local_seq` (not for ACK and CANCEL).
    pub fn request(&mut self, method: Method) -> Request {
        if !matches!(method, Method::Ack | Method::Cancel) {
            self.local_seq = self.local_seq.saturating_add(1);
        }
        self.numbered(method, self.local_seq)
    }

    /// The ACK for a 2xx (§13.2.2.4) to the INVITE with that number.
    pub fn ack(&self, invite_seq: u32) -> Request {
        self.numbered(Method::Ack, invite_seq)
    }

    /// Takes a request's number (§12.2.2): false when it is lower than one seen: answer 500.
    pub fn accept_seq(&mut self, number: u32) -> bool {
        if self.remote_seq.is_some_and(|seen| number < seen) {
            return false;
        }
        self.remote_seq = Some(number);
        true
    }

    fn numbered(&self, method: Method, number: u32) -> Request {
        let (uri, routes) = self.request_uri_and_routes();
        let mut request = Request::new(method, uri);
        for route in routes {
            request.headers.push(HeaderName::Route, route);
        }
        request.headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
        request.headers.push(HeaderName::From, tagged(&self.local_party, &self.local_tag));
        request.headers.push(HeaderName::To, tagged(&self.remote_party, &self.remote_tag));
        request.headers.push(HeaderName::CallId, self.call_id.as_str());
        request.headers.push(HeaderName::CSeq, format!("{number} {}", request.method));
        request
    }

    fn request_uri_and_routes(&self) -> (Uri, Vec<String>) {
        let first = self.route_set.first().and_then(|route| NameAddr::parse(route).ok());
        match first {
            // A strict router takes its own URI off the Request-URI and the target off the last Route.
            Some(strict) if strict.uri.param("lr").is_none() => {
                let target = format!("<{}>", self.remote_target);
                let routes = self.route_set.iter().skip(1).cloned().chain([target]).collect();
                (strict.uri, routes)
            }
            _ => (self.remote_target.clone(), self.route_set.clone()),
        }
    }
}

fn tagged(party: &str, tag: &str) -> String {
    if tag.is_empty() { party.to_owned() } else { format!("{party};tag={tag}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Message, Status};
    use bytes::Bytes;

    fn invite(record_routes: &str, contact: &str) -> Request {
        let text = format!(
            "INVITE sip:bob@b.example SIP/2.0\r\nVia: SIP/2.0/UDP [2001:db8::1];branch=z9hG4bK1\r\n{record_routes}\
             From: A <sip:a@a.example>;tag=theirs;x=1\r\nTo: sip:bob@b.example\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\n\
             Contact: <{contact}>\r\n\r\n"
        );
        match Message::parse(&Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn routes(request: &Request) -> Vec<&str> {
        request.headers.all(&HeaderName::Route).collect()
    }

    #[test]
    fn callee_side_keeps_the_order_of_record_route() {
        let target = "sip:a@[2001:DB8::1]:5070;ob;Line=x%2a";
        let request = invite("Record-Route: <sip:p2;lr>, <sip:p1;lr>\r\n", target);
        let mut dialog = Dialog::from_request(&request, "ours").expect("a dialog");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.as_str(), target, "byte-exact");
        assert_eq!(routes(&bye), ["<sip:p2;lr>", "<sip:p1;lr>"]);
        assert_eq!(bye.headers.get(&HeaderName::From), Some("<sip:bob@b.example>;tag=ours"));
        assert_eq!(
            bye.headers.get(&HeaderName::To),
            Some("\"A\" <sip:a@a.example>;x=1;tag=theirs")
        );
        assert_eq!(bye.headers.get(&HeaderName::CSeq), Some("1 BYE"));
        assert_eq!(bye.headers.get(&HeaderName::MaxForwards), Some("70"));
        assert_eq!(dialog.request(Method::Info).headers.get(&HeaderName::CSeq), Some("2 INFO"));
        assert_eq!(dialog.ack(1).headers.get(&HeaderName::CSeq), Some("1 ACK"));
        assert_eq!(dialog.local_seq, 2);
    }

    /// §12.2.1.1, the example of a strict router.
    #[test]
    fn strict_router_gets_its_own_uri() {
        let request = invite("Record-Route: <sip:p1>, <sip:p2;lr>\r\n", "sip:a@h");
        let mut dialog = Dialog::from_request(&request, "ours").expect("a dialog");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.as_str(), "sip:p1");
        assert_eq!(routes(&bye), ["<sip:p2;lr>", "<sip:a@h>"]);
    }

    #[test]
    fn caller_side_is_established_by_responses() {
        let request = invite("", "sip:us@h");
        let mut dialog = Dialog::from_own_request(&request).expect("a dialog");
        assert_eq!(
            (dialog.remote_tag.as_str(), dialog.remote_target.as_str()),
            ("", "sip:bob@b.example")
        );
        assert_eq!((dialog.local_seq, dialog.remote_seq), (7, None));
        let mut response = request.response(Status(180), None);
        let before = dialog.clone();
        dialog.establish(&response);
        assert_eq!(dialog, before, "without a tag there is no dialog");
        response = request.response(Status(183), Some("t1"));
        response.headers.push(HeaderName::RecordRoute, "<sip:p1;lr>, <sip:p2;lr>");
        response.headers.push(HeaderName::RecordRoute, "<sip:p3;lr>");
        response.headers.push(HeaderName::Contact, "<sip:bob@[::1]:6000>");
        dialog.establish(&response);
        assert_eq!(dialog.route_set, ["<sip:p3;lr>", "<sip:p2;lr>", "<sip:p1;lr>"]);
        let ack = dialog.ack(7);
        assert_eq!(ack.uri.as_str(), "sip:bob@[::1]:6000");
        assert_eq!(ack.headers.get(&HeaderName::To), Some("<sip:bob@b.example>;tag=t1"));
        assert_eq!(dialog.request(Method::Invite).headers.get(&HeaderName::CSeq), Some("8 INVITE"));
    }

    #[test]
    fn numbers_only_rise() {
        let mut dialog = Dialog::from_request(&invite("", "sip:a@h"), "t").expect("a dialog");
        for (number, expect) in [(6, false), (7, true), (9, true), (8, false)] {
            assert_eq!(dialog.accept_seq(number), expect, "{number}");
        }
        assert_eq!(dialog.remote_seq, Some(9));
    }

    #[test]
    fn without_a_contact_there_is_no_dialog() {
        let mut request = invite("", "sip:a@h");
        request.headers.remove(&HeaderName::Contact);
        assert_eq!(Dialog::from_request(&request, "t"), None);
    }
}
