//! From bytes to a decision: what a message is, whether it may pass, and who takes it (RFC 3261 §8.2, §16.3, §18.2).
//!
//! Invariants: what is no message costs nothing but a count; an ACK is never answered; requests with a tag of ours go
//! to their call or get 481; every other request passes the same checks in the same order.

use super::pass_on::Stray;
use super::worker::Worker;
use crate::call::Input;
use crate::control::PeerFrame;
use crate::event::Event;
use crate::ids::{Flow, Locator};
use crate::net::stun;
use crate::net::tcp::TcpEvent;
use crate::net::udp::Datagram;
use crate::sip::address::stamp_via;
use crate::sip::framing::StreamError;
use crate::sip::uri::Host;
use crate::sip::{HeaderName, Message, MessageError, Method, NameAddr, Request, Response, Uri};
use bytes::Bytes;

impl Worker {
    /// A datagram: a keep-alive, STUN, or a message.
    pub(super) fn handle_datagram(&mut self, datagram: Datagram) {
        let Datagram { bytes, flow } = datagram;
        let keeps_alive = |byte: &u8| matches!(byte, b'\r' | b'\n' | b'\0' | b' ');
        if flow.remote.port() == 0 || bytes.iter().all(keeps_alive) {
            return;
        }
        if stun::is_stun(&bytes) {
            if let Some(answer) = stun::answer(&bytes, flow.remote) {
                self.sockets.send(flow, answer);
            }
            return;
        }
        self.handle_message(&bytes, flow);
    }

    /// What happened on a connection.
    pub(super) fn handle_stream(&mut self, event: TcpEvent) {
        match event {
            TcpEvent::Connected(_) => {}
            TcpEvent::Message { flow, bytes } => self.handle_message(&bytes, flow),
            TcpEvent::Broken { flow, error, head } => self.handle_broken(flow, error, head),
            TcpEvent::Closed(flow) => {
                if let Some(connection) = flow.connection {
                    self.lose_connection(connection);
                }
            }
        }
    }

    /// A stream that cannot be read on: the request at its end is answered, if it can be (§18.3).
    fn handle_broken(&mut self, flow: Flow, error: StreamError, head: Option<Bytes>) {
        let (status, reason) = match error {
            StreamError::NoContentLength => (400, "Content-Length Missing Or Bad"),
            StreamError::TooLarge => (513, "Message Too Large"),
            StreamError::NotSip => (400, "Not SIP"),
        };
        self.emit(&Event::Malformed { what: reason });
        let request = match head.as_ref().map(Message::parse) {
            Some(Ok(Message::Request(request))) => request,
            Some(Err(MessageError::Refuse(request, ..))) => *request,
            Some(Ok(Message::Response(_)) | Err(MessageError::NotSip)) | None => return,
        };
        if request.top_via().is_some() {
            self.refuse_saying(&request, &flow, status, reason);
        }
    }

    /// One whole message.
    pub(super) fn handle_message(&mut self, bytes: &Bytes, flow: Flow) {
        self.handle_message_hopped(bytes, flow, 0);
    }

    /// The same, passed on by so many nodes before.
    pub(super) fn handle_message_hopped(&mut self, bytes: &Bytes, flow: Flow, hops: u8) {
        self.arrived = bytes.clone();
        match Message::parse(bytes) {
            Ok(Message::Request(request)) => self.handle_request(request, flow, bytes, hops),
            Ok(Message::Response(response)) => self.handle_response(response, flow, bytes, hops),
            Err(MessageError::Refuse(mut request, status, reason)) => {
                self.emit(&Event::Malformed { what: reason });
                if request.top_via().is_some() {
                    stamp_via(&mut request, &flow);
                    self.refuse_saying(&request, &flow, status.0, reason);
                }
            }
            Err(MessageError::NotSip) => self.emit(&Event::Malformed { what: "not SIP" }),
        }
    }

    fn handle_request(&mut self, mut request: Request, flow: Flow, bytes: &Bytes, hops: u8) {
        stamp_via(&mut request, &flow);
        let tag = request.to().and_then(|to| to.tag());
        match tag.map(|tag| self.settings.key.locate_tag(&tag)) {
            Some(located) => self.handle_in_dialog(located, request, flow, bytes, hops),
            None if hops == 0 && self.pass_to_refuge(flow, bytes, hops) => {}
            None if request.method == Method::Cancel => {
                self.handle_cancel(request, flow, bytes, hops);
            }
            None => self.handle_outside(request, flow),
        }
    }

    fn handle_in_dialog(
        &mut self,
        located: Option<Locator>,
        request: Request,
        flow: Flow,
        bytes: &Bytes,
        hops: u8,
    ) {
        let Some(locator) = located else {
            return self.refuse(&request, &flow, 481);
        };
        if self.calls.get(locator.call).is_none() {
            if !self.pass_on(Stray::new(&locator, flow, bytes, hops)) {
                self.refuse(&request, &flow, 481);
            }
            return;
        }
        if self.lacks_options(&request, &flow) {
            return;
        }
        let (call, leg) = (locator.call, locator.leg);
        self.note_received(call, leg, flow);
        let first_said = self.peers.passed.first_said(call, bytes, self.now);
        if let Some((slot, at)) = self.calls.get_mut(call).zip(first_said) {
            slot.call.was_told(at);
        }
        self.input(call, Input::Request { leg, request, flow });
        self.release_stranded(call, flow, |waiting| {
            waiting.request.is_some() && waiting.leg == leg
        });
    }

    /// A request without a tag of ours.
    pub(super) fn handle_outside(&mut self, mut request: Request, flow: Flow) {
        if request.method == Method::Ack {
            // Acknowledges a response that we sent without a memory of it.
            return;
        }
        let hops = request.headers.get(&HeaderName::MaxForwards).map(str::trim);
        if hops.is_some_and(is_zero) && request.method != Method::Options {
            return self.refuse(&request, &flow, 483);
        }
        if !self.strip_routes(&mut request, &flow) {
            return self.refuse_saying(&request, &flow, 403, "Relaying Denied");
        }
        if self.lacks_options(&request, &flow) {
            return;
        }
        match request.method {
            Method::Invite => self.handle_invite(request, flow),
            Method::Register => self.handle_register(request, flow),
            _ => self.handle_out_of_dialog(&request, &flow),
        }
    }

    fn handle_response(&mut self, response: Response, flow: Flow, bytes: &Bytes, hops: u8) {
        let located = response
            .top_via()
            .and_then(|via| self.settings.key.locate_branch(via.branch().unwrap_or_default()));
        match located {
            Some((locator, number)) if super::pings::is_ping(&locator) => {
                let is_own = locator.node == self.settings.node_number;
                let whose = self.peers.likely_owner(locator.call, locator.node);
                match whose.filter(|_| hops == 0 && !is_own) {
                    // Processes of a host share its port: the answer may come to another than asked.
                    Some(name) => {
                        let frame = PeerFrame::Forward { flow, bytes: bytes.clone(), hops: 1 };
                        self.peers.send(&name, frame);
                    }
                    None if response.status.0 < 200 => {}
                    None => self.handle_pong(number, response.status.0),
                }
            }
            Some((locator, branch)) if self.calls.get(locator.call).is_some() => {
                let leg = locator.leg;
                self.note_received(locator.call, leg, flow);
                self.input(locator.call, Input::Response { leg, branch, response, flow });
            }
            Some((locator, _)) if self.pass_on(Stray::new(&locator, flow, bytes, hops)) => {}
            Some(_) | None => {
                self.emit(&Event::Malformed { what: "a response to no request of ours" });
            }
        }
    }

    /// What we do not know is required (§8.2.2.3): answered with 420. Not asked of ACK and CANCEL.
    fn lacks_options(&mut self, request: &Request, flow: &Flow) -> bool {
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return false;
        }
        // What REGISTER may require is the registrar's to know.
        let asked = (request.method != Method::Register).then_some(&HeaderName::Require);
        let required = asked.into_iter().flat_map(|name| request.headers.elements(name));
        let all: Vec<&str> =
            required.chain(request.headers.elements(&HeaderName::ProxyRequire)).collect();
        if all.is_empty() {
            return false;
        }
        let mut response = self.response(request, 420);
        response.headers.push(HeaderName::Unsupported, all.join(", "));
        self.reply(request, flow, &response);
        true
    }

    /// Removes the Routes that name us (§16.4). False: one is left that names somebody else.
    fn strip_routes(&self, request: &mut Request, flow: &Flow) -> bool {
        if request.headers.get(&HeaderName::Route).is_none() {
            return true;
        }
        let foreign = request.headers.elements(&HeaderName::Route).any(|route| {
            NameAddr::parse(route).map_or(true, |route| !self.names_us(&route.uri, request, flow))
        });
        if !foreign {
            request.headers.remove(&HeaderName::Route);
        }
        !foreign
    }

    /// The address the phone sent to, the one that we advertise, or the domain that it calls us by.
    fn names_us(&self, uri: &Uri, request: &Request, flow: &Flow) -> bool {
        let port = uri.port();
        match uri.host() {
            Some(Host::Ip(ip)) if ip == flow.local.ip().to_canonical() => {
                port.unwrap_or(5060) == flow.local.port()
            }
            Some(host) => {
                let text = host.to_string();
                let public = self.settings.advertise.public.as_ref().is_some_and(|(public, at)| {
                    public.eq_ignore_ascii_case(&text)
                        && port.unwrap_or(5060) == at.unwrap_or(flow.local.port())
                });
                // An outbound proxy set to the same name as the domain is we ourselves.
                let domain = matches!(host, Host::Name(_))
                    && request
                        .uri
                        .host()
                        .is_some_and(|domain| domain.to_string().eq_ignore_ascii_case(&text));
                public || domain
            }
            None => false,
        }
    }
}

fn is_zero(number: &str) -> bool {
    !number.is_empty() && number.bytes().all(|byte| byte == b'0')
}
