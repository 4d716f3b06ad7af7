//! What phones ask within a dialog, and which responses mean what: the dispatch of a call.

use super::leg::{Client, LegState, Purpose, Server};
use super::offer::Body;
use super::record::{Bridge, Phase};
use super::send::{Reply, pass};
use super::{Call, LAZY_SAVE_ACK, Output, Transmit, headers};
use crate::event::Event;
use crate::ids::{Flow, LegId};
use crate::limits;
use crate::sip::transaction::{RequestAction, ResponseAction, ServerTransaction};
use crate::sip::{HeaderName, Method, Request, Response, Status};
use crate::views::{EndCause, EndedBy};

/// A leg with too many open transactions is to wait until some are over.
const RETRY_SECONDS: &str = "5";

impl Call {
    pub(super) fn handle_request(&mut self, id: LegId, request: Request, flow: Flow) {
        let Some(cseq) = request.cseq() else { return };
        if request.method == Method::Ack {
            self.handle_ack(id, &request, cseq.number);
        } else if request.method == Method::Cancel {
            self.handle_cancel(id, &request, cseq.number, flow);
        } else if !self.repeat_response(id, &request, cseq.number, flow) {
            self.handle_new_request(id, request, cseq.number, flow);
        }
    }

    /// A request that is open or was answered: its last response again, where it came from now.
    fn repeat_response(&mut self, id: LegId, request: &Request, sequence: u32, flow: Flow) -> bool {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return false };
        let Some(server) = leg
            .servers
            .iter_mut()
            .find(|server| server.method == request.method && server.sequence == sequence)
        else {
            return false;
        };
        server.flow = crate::sip::address::reply_flow(request, &flow);
        if server.transaction.handle_retransmission(now) == RequestAction::Retransmit
            && let Some(bytes) = server.last_response.clone()
        {
            let (flow, behind) = (server.flow, server.behind);
            let again = Transmit { flow, bytes, leg: id, behind, request: None };
            self.outputs.push_back(Output::Send(again));
        }
        true
    }

    fn handle_new_request(&mut self, id: LegId, request: Request, sequence: u32, flow: Flow) {
        let from_tag = request.from().and_then(|from| from.tag()).unwrap_or_default();
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let reply_flow = crate::sip::address::reply_flow(&request, &flow);
        let open = leg.servers.len() + leg.clients.len();
        // There is always room for one BYE.
        let is_first_bye = request.method == Method::Bye
            && leg.servers.iter().all(|server| server.method != Method::Bye);
        if open >= limits::TRANSACTIONS_PER_LEG && !is_first_bye {
            let mut response = request.response(Status(503), Some(&leg.dialog.local_tag));
            response.headers.push(HeaderName::RetryAfter, RETRY_SECONDS);
            let bytes = response.to_bytes();
            let flow = reply_flow;
            let transmit = Transmit { flow, bytes, leg: id, behind: None, request: None };
            self.emit(Event::Shed { what: "request on a busy leg" });
            return self.outputs.push_back(Output::Send(transmit));
        }
        let is_invite = request.method == Method::Invite;
        let method = request.method.clone();
        let in_dialog = from_tag == leg.dialog.remote_tag;
        let in_order = in_dialog && leg.dialog.accept_seq(sequence);
        if in_order {
            self.note_in_order(id, &request, flow);
        }
        let Some(leg) = self.record.leg_mut(id) else { return };
        let over = leg.state == LegState::Ended;
        leg.servers.push(Server {
            method: method.clone(),
            sequence,
            request: Some(request),
            flow: reply_flow,
            transaction: ServerTransaction::new(is_invite, flow.transport.is_reliable(), now),
            last_response: None,
            awaits_ack: false,
            behind: None,
            inherited: false,
        });
        match method {
            _ if !in_dialog => self.refuse(id, &method, sequence, 481),
            _ if !in_order => self.refuse(id, &method, sequence, 500),
            Method::Bye => self.handle_bye(id, sequence),
            Method::Options => self.answer_options(id, sequence),
            _ if over => self.refuse(id, &method, sequence, 481),
            Method::Invite => self.handle_invite_in_dialog(id, sequence),
            Method::Info => self.relay_info(id, sequence),
            Method::Notify => self.refuse(id, &method, sequence, 200),
            Method::Subscribe => self.refuse(id, &method, sequence, 489),
            Method::Ack
            | Method::Cancel
            | Method::Message
            | Method::Prack
            | Method::Publish
            | Method::Refer
            | Method::Register
            | Method::Update
            | Method::Other(_) => {
                self.respond(&Reply::new(id, method, sequence, 405), |response| {
                    response.headers.set(HeaderName::Allow, headers::ALLOW);
                });
            }
        }
    }

    /// What a request of the dialog tells whatever it asks: where its phone is, and that it waits for nothing else.
    fn note_in_order(&mut self, id: LegId, request: &Request, flow: Flow) {
        let is_invite = request.method == Method::Invite;
        if is_invite {
            self.forget_inherited(id);
        }
        let Some(leg) = self.record.leg_mut(id) else { return };
        // It found us: it knows our address.
        leg.move_to(flow);
        leg.stale = None;
        if is_invite && let Some(contact) = request.contact() {
            leg.dialog.refresh_target(&contact);
        }
        if is_invite && !leg.is_offering() {
            leg.open_invite = Some(request.to_bytes());
        }
    }

    fn handle_invite_in_dialog(&mut self, id: LegId, sequence: u32) {
        let Some(leg) = self.record.leg(id) else { return };
        let confirmed = leg.state == LegState::Confirmed;
        let mut others = leg.servers.iter().filter(|server| server.sequence != sequence);
        let another = others.any(Server::is_open_invite);
        if another {
            self.refuse_second_invite(id, sequence);
        } else if confirmed && self.record.phase == Phase::Confirmed {
            self.handle_reinvite(id, sequence);
        } else {
            self.refuse(id, &Method::Invite, sequence, 491);
        }
    }

    fn answer_options(&mut self, id: LegId, sequence: u32) {
        self.respond(&Reply::new(id, Method::Options, sequence, 200), |response| {
            response.headers.push(HeaderName::Allow, headers::ALLOW);
            response.headers.push(HeaderName::Accept, headers::ACCEPT);
        });
    }

    /// BYE: 200 at once, and the other leg gets its own.
    /// The other phone is told before this one is answered: should this node die between the two, BYE is repeated.
    fn handle_bye(&mut self, id: LegId, sequence: u32) {
        let reply = Reply::new(id, Method::Bye, sequence, 200);
        if self.leaves_early(id) {
            // Nobody else is told of it: the next owner is to know.
            let rev = self.note_departure(id);
            return self.respond(&reply.behind(rev), |_| {});
        }
        self.take_bye(id);
        self.respond(&reply, |_| {});
    }

    fn take_bye(&mut self, id: LegId) {
        let (is_caller, called) = (id == self.record.caller_leg(), self.is_called());
        if !self.end_dialog(id) {
            return;
        }
        let by = if is_caller { EndedBy::Caller } else { EndedBy::Callee };
        if self.is_to_come(id) {
            self.branch_failed(id, Status(480), Vec::new());
        } else if self.record.phase == Phase::Confirmed {
            if let Some(leg) = self.record.leg_mut(id) {
                leg.state = LegState::Ended;
                if let Some(server) = leg.open_server_invite() {
                    let sequence = server.sequence;
                    self.refuse(id, &Method::Invite, sequence, 487);
                }
            }
            self.end_by_phone(by);
        } else if is_caller {
            // One that was called waits in a dialog, which is over now.
            if let Some(leg) = self.record.leg_mut(id).filter(|_| called) {
                leg.state = LegState::Ended;
            }
            self.cancelled();
        } else {
            // A BYE on a dialog that the caller does not know yet: the branch is over.
            self.branch_failed(id, Status(480), Vec::new());
            if self.record.phase == Phase::Answering(id) {
                self.fail_by_phone(Status(480), EndCause::Bye, "the callee hung up at once");
            }
        }
    }

    /// Its phone said BYE. False: it was over before.
    pub(super) fn end_dialog(&mut self, id: LegId) -> bool {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return false };
        if leg.bye_after_ack.take().is_some() {
            // It needs none of ours any more.
            leg.stop_waiting_for_ack(now);
            self.conclude();
            return false;
        }
        if leg.state == LegState::Ended {
            return false;
        }
        leg.ended_at = Some(now);
        leg.stop_waiting_for_ack(now);
        if let Some(sequence) = leg.owed_ack {
            // The BYE overtook it; a 2xx is acknowledged all the same (RFC 3261 §13.2.2.4).
            self.acknowledge(id, sequence, None, None);
        }
        true
    }

    fn handle_ack(&mut self, id: LegId, request: &Request, sequence: u32) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let Some(server) = leg
            .servers
            .iter_mut()
            .find(|server| server.method == Method::Invite && server.sequence == sequence)
        else {
            return;
        };
        if !server.awaits_ack {
            return server.transaction.handle_failure_ack(now);
        }
        server.awaits_ack = false;
        server.transaction.handle_success_ack(now);
        leg.stale = None;
        if !leg.is_offering() {
            leg.open_invite = None;
        }
        let bye = leg.bye_after_ack.take();
        if let Some(reason) = bye {
            self.send_bye(id, reason.as_deref());
            return self.conclude();
        }
        self.save_within(LAZY_SAVE_ACK);
        let awaited = self.exchange.as_ref().is_some_and(|exchange| {
            exchange.from == id
                && exchange.sequence == sequence
                && exchange.stage == super::modify::Stage::AwaitingAck
        });
        if awaited {
            self.late_answer(id, Body::of_request(request));
        } else if self.record.bridge == Bridge::Echo && !request.body.is_empty() {
            self.echo_answer(id, Body::of_request(request));
        } else {
            self.next_exchange();
        }
    }

    /// CANCEL: 200 at once; it undoes what has no final response yet (RFC 3261 §9.2).
    fn handle_cancel(&mut self, id: LegId, request: &Request, sequence: u32, flow: Flow) {
        let known = self.record.leg(id).is_some_and(|leg| {
            leg.servers
                .iter()
                .any(|server| server.method == Method::Invite && server.sequence == sequence)
        });
        let status = Status(if known { 200 } else { 481 });
        let tag = self.record.leg(id).map(|leg| leg.dialog.local_tag.clone());
        let mut response = request.response(status, tag.as_deref());
        headers::describe_response(&mut response, &self.settings.product);
        self.outputs.push_back(Output::Send(Transmit {
            flow: crate::sip::address::reply_flow(request, &flow),
            bytes: response.to_bytes(),
            leg: id,
            behind: None,
            request: None,
        }));
        let Some(leg) = self.record.leg_mut(id) else { return };
        if leg.open_server_invite().is_none_or(|server| server.sequence != sequence) {
            return;
        }
        if self.record.phase == Phase::Confirmed {
            self.cancel_exchange(id, sequence);
        } else if id == LegId::CALLER {
            self.record.passed = headers::passed(&request.headers);
            self.cancelled();
        }
    }

    /// A re-INVITE was cancelled: so is ours, or it never leaves.
    fn cancel_exchange(&mut self, id: LegId, sequence: u32) {
        match &self.exchange {
            Some(exchange) if exchange.from == id => match exchange.stage {
                super::modify::Stage::Offered => {
                    let to = exchange.to;
                    self.cancel_invites(to, None);
                }
                super::modify::Stage::Retry(_) => self.refuse_exchange(Status(487), &[]),
                super::modify::Stage::Applying | super::modify::Stage::AwaitingAck => {}
            },
            Some(_) | None => {
                self.queued.retain(|queued| *queued != id);
                self.refuse(id, &Method::Invite, sequence, 487);
            }
        }
    }

    /// INFO passes to the other leg, its answer comes back (RFC 6086, and legacy DTMF).
    fn relay_info(&mut self, id: LegId, sequence: u32) {
        let to = self.record.peer_of(id).filter(|_| self.record.phase == Phase::Confirmed);
        let Some((to, leg)) = to.zip(self.record.leg(id)) else {
            return self.refuse(id, &Method::Info, sequence, 200);
        };
        let Some(request) = leg
            .servers
            .iter()
            .find(|server| server.method == Method::Info && server.sequence == sequence)
            .and_then(|server| server.request.clone())
        else {
            return;
        };
        let Some(leg) = self.record.leg_mut(to) else { return };
        let mut info = leg.dialog.request(Method::Info);
        for name in [HeaderName::ContentType, HeaderName::ContentDisposition] {
            if let Some(value) = request.headers.get(&name) {
                info.headers.push(name, value);
            }
        }
        if let Some(package) = request.headers.get(&HeaderName::from("Info-Package")) {
            info.headers.push(HeaderName::from("Info-Package"), package);
        }
        headers::add_passed(&mut info.headers, &headers::passed(&request.headers));
        info.body = request.body.clone();
        let purpose = Purpose::Relay { to: id, method: Method::Info, sequence };
        let rev = self.save();
        self.send_request(to, info, purpose, Some(rev));
    }

    pub(super) fn handle_response(
        &mut self,
        id: LegId,
        number: u32,
        response: &Response,
        _flow: Flow,
    ) {
        let now = self.now;
        let Some(cseq) = response.cseq() else { return };
        let Some(leg) = self.record.leg_mut(id) else { return };
        // A number that we never gave says nothing.
        if cseq.number <= leg.dialog.local_seq {
            leg.answered_seq = leg.answered_seq.max(cseq.number);
        }
        let Some(client) = leg
            .clients
            .iter_mut()
            .find(|client| client.number == number && client.method == cseq.method)
        else {
            if cseq.method == Method::Invite && response.status.is_success() {
                self.acknowledge_again(id, cseq.number, response);
            }
            return;
        };
        let purpose = client.purpose.clone();
        if client.in_doubt {
            (client.in_doubt, client.deadline) = (false, None);
        }
        match client.transaction.handle_response(response.status, now) {
            ResponseAction::Ignore => {}
            ResponseAction::Acknowledge => self.acknowledge_failure(id, number, response),
            ResponseAction::AcknowledgeAndDeliver => {
                self.acknowledge_failure(id, number, response);
                self.take_response(id, &purpose, response);
            }
            ResponseAction::Deliver => self.take_response(id, &purpose, response),
        }
    }

    /// A 2xx of a dialog that is up, repeated after its transaction was forgotten or restored elsewhere.
    fn acknowledge_again(&mut self, id: LegId, sequence: u32, response: &Response) {
        if self.repeat_acknowledgement(id, response) {
            return;
        }
        let tag = response.to().and_then(|to| to.tag());
        let ours = self.record.leg(id).is_some_and(|leg| {
            leg.owed_ack.is_none() && tag.as_deref() == Some(&leg.dialog.remote_tag)
        });
        if ours {
            self.acknowledge(id, sequence, None, None);
        }
    }

    fn take_response(&mut self, id: LegId, purpose: &Purpose, response: &Response) {
        let status = response.status;
        if self.has_outlived(id, purpose) {
            return self.take_late_word(id, response);
        }
        match purpose {
            Purpose::Invite if status.is_provisional() => self.branch_provisional(id, response),
            Purpose::Invite if status.is_success() => {
                if !self.repeat_acknowledgement(id, response) {
                    self.branch_answered(id, response);
                }
            }
            Purpose::Invite => self.branch_refused(id, response),
            Purpose::Modify if status.is_provisional() => self.send_wanted_cancels(id),
            Purpose::Modify => {
                let repeated = status.is_success() && self.repeat_acknowledgement(id, response);
                let owed = self.record.leg(id).is_some_and(|leg| leg.owed_ack.is_some());
                if !repeated && !owed {
                    self.exchange_answered(id, response);
                }
            }
            Purpose::Refresh if status.is_provisional() => self.note_word(id),
            Purpose::Refresh => {
                if !(status.is_success() && self.repeat_acknowledgement(id, response)) {
                    self.refresh_answered(id, response);
                }
            }
            Purpose::Relay { to, method, sequence } if status.is_final() => {
                self.relay_answer(*to, method, *sequence, response);
            }
            Purpose::Dial if status.is_final() => self.dial_next(id),
            Purpose::Probe if status.is_final() => self.probe_answered(id, status),
            Purpose::Relay { .. }
            | Purpose::Dial
            | Purpose::Probe
            | Purpose::Cancel
            | Purpose::Bye => {}
        }
    }

    /// It was asked of a leg that is over: what its phone says to it, or does not, changes nothing for who talks on.
    fn has_outlived(&self, id: LegId, purpose: &Purpose) -> bool {
        let asks = matches!(purpose, Purpose::Modify | Purpose::Refresh | Purpose::Probe);
        asks && self.record.leg(id).is_some_and(|leg| leg.state == LegState::Ended)
    }

    fn take_late_word(&mut self, id: LegId, response: &Response) {
        if response.status.is_provisional() {
            self.send_wanted_cancels(id);
        } else if !(response.status.is_success() && self.repeat_acknowledgement(id, response)) {
            self.end_stray_answer(id, response);
        }
    }

    fn relay_answer(&mut self, to: LegId, method: &Method, sequence: u32, response: &Response) {
        let status = match response.status.0 {
            401 | 407 | 300..=399 => Status(500),
            _ => response.status,
        };
        let mut reply = Reply::new(to, method.clone(), sequence, 0);
        reply.status = status;
        let passed = headers::passed(&response.headers);
        self.respond(&reply, |answer| pass(answer, &passed));
    }

    /// A request of ours could not leave (RFC 3261 §8.1.3.1).
    pub(super) fn handle_unreachable(&mut self, id: LegId, number: u32) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let at = leg
            .clients
            .iter()
            .position(|client| client.number == number && client.transaction.is_pending());
        if let Some(at) = at {
            let client = leg.clients.remove(at);
            self.client_failed(id, client, Status(503));
        }
    }

    /// A request of ours got no answer, by time-out (408) or for want of a way (503).
    pub(super) fn client_failed(&mut self, id: LegId, client: Client, status: Status) {
        match client.purpose {
            _ if self.has_outlived(id, &client.purpose) => {}
            Purpose::Invite => self.branch_unreached(id, status),
            Purpose::Modify if client.in_doubt => self.give_up_inherited(id),
            Purpose::Modify => {
                self.refuse_exchange(status, &[]);
                self.leg_is_gone();
            }
            Purpose::Relay { to, method, sequence } => {
                self.refuse(to, &method, sequence, 408);
            }
            Purpose::Refresh if client.in_doubt => self.ask_anew(id),
            Purpose::Refresh => self.refresh_failed(id),
            Purpose::Dial => self.dial_next(id),
            Purpose::Probe => self.probe_unanswered(id),
            Purpose::Cancel | Purpose::Bye => {}
        }
    }

    /// A registration moved: dialogs whose remote target it is, or that went by its flow, follow. What a connection
    /// took with it is said again.
    pub(super) fn move_flow(&mut self, contact: &str, from: Flow, flow: Flow) {
        let mut moved = Vec::new();
        for leg in &mut self.record.legs {
            let speaks = leg.is_live() || leg.clients.iter().any(|it| it.transaction.is_pending());
            // Behind a proxy many phones come by one flow.
            let came_by_it = leg.flow == from && leg.dialog.route_set.is_empty();
            if speaks && (came_by_it || leg.dialog.remote_target.as_str() == contact) {
                moved.extend((leg.flow != flow).then_some(leg.id));
                leg.follow(flow, self.now);
            }
        }
        if moved.is_empty() {
            return;
        }
        if flow.transport.is_reliable() {
            self.say_again(|leg| moved.contains(&leg.id));
        }
        self.save_within(super::LAZY_SAVE);
    }

    /// A proxy recorded itself: requests go to its address (design "Where a request goes").
    pub(super) fn follow_route(&mut self, id: LegId) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let Some(first) = leg.dialog.route_set.first() else { return };
        let Ok(route) = crate::sip::NameAddr::parse(first) else { return };
        if leg.flow.transport.is_reliable() {
            return;
        }
        match route.uri.host() {
            Some(crate::sip::uri::Host::Ip(ip)) => {
                let port = route.uri.port().unwrap_or(5060);
                leg.flow.remote = core::net::SocketAddr::new(ip, port);
            }
            Some(crate::sip::uri::Host::Name(_)) => {
                let uri = route.uri;
                let number = self.ask(|number| super::Query::Resolve { number, uri });
                self.questions.push(super::setup::Question::NextHop { number, leg: id });
            }
            None => {}
        }
    }
}
