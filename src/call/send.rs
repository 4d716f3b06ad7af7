//! Messages out: responses to a phone's requests, requests of ours, ACK and CANCEL.
//!
//! Invariant: everything that acknowledges or uses up a number is sent with `behind` set to the rev that saves it, and
//! its retransmissions too.

use super::headers::{add_passed, describe_request, describe_response};
use super::leg::{Acknowledgement, Cancel, Client, Leg, Purpose};
use super::{Call, LAZY_SAVE, Output, Settings, Transmit};
use crate::ids::{Flow, LegId, Locator, Rev, Transport};
use crate::sdp::{Agreement, offer_answer};
use crate::sip::transaction::{ClientTransaction, ack_for_failure, cancel_for};
use crate::sip::{HeaderName, Method, Request, Response, Status};
use crate::time::Timestamp;
use bytes::Bytes;

/// Content-Type of our bodies.
const SDP: &str = "application/sdp";
/// ACKs that a leg remembers: a 2xx is repeated for 32 s, and re-INVITEs may follow one another meanwhile.
const ACKNOWLEDGEMENTS: usize = 8;

impl Call {
    /// Answers an open request of a leg's phone; nothing happens when there is none.
    pub(super) fn respond(&mut self, to: &Reply, decorate: impl FnOnce(&mut Response)) {
        let settings = self.settings.clone();
        let Some(leg) = self.record.leg_mut(to.leg) else { return };
        let contact = contact(&settings, leg);
        let tag = leg.dialog.local_tag.clone();
        let Some(server) = leg
            .servers
            .iter_mut()
            .find(|server| server.method == to.method && server.sequence == to.sequence)
        else {
            return;
        };
        let Some(request) = server.request.as_ref() else { return };
        let tag = (to.status != Status(100)).then_some(tag.as_str());
        let mut response = request.response(to.status, tag);
        if to.method == Method::Invite && to.status != Status(100) && to.status.0 < 300 {
            response.headers.push(HeaderName::Contact, contact);
            response.headers.push(HeaderName::Allow, super::headers::ALLOW);
        }
        describe_response(&mut response, &settings.product);
        decorate(&mut response);
        let bytes = response.to_bytes();
        server.transaction.handle_sent(to.status, self.now);
        server.last_response = Some(bytes.clone());
        // A provisional that still waits for its commit is not overtaken by the final response.
        server.behind = to.behind.max(server.behind);
        let behind = server.behind;
        server.awaits_ack = to.method == Method::Invite && to.status.is_success();
        if server.awaits_ack {
            // It brings our address.
            leg.stale = None;
        }
        let (flow, mut unsaved) = (server.flow, false);
        if to.status.is_final() {
            server.request = None;
            if to.method == Method::Invite && !leg.is_negotiating() {
                unsaved = leg.open_invite.take().is_some();
            }
        }
        let transmit = Transmit { flow, bytes, leg: to.leg, behind, request: None };
        self.outputs.push_back(Output::Send(transmit));
        if unsaved {
            self.save_within(LAZY_SAVE);
        }
    }

    /// Answers with a status and nothing else.
    pub(super) fn refuse(&mut self, leg: LegId, method: &Method, sequence: u32, status: u16) {
        self.respond(&Reply::new(leg, method.clone(), sequence, status), |_| {});
    }

    /// Sends a request within a leg's dialog.
    pub(super) fn send_request(
        &mut self,
        leg: LegId,
        request: Request,
        purpose: Purpose,
        behind: Option<Rev>,
    ) {
        if let Some(prepared) = self.prepare_request(leg, request) {
            self.send_prepared(leg, prepared, purpose, behind);
        }
    }

    /// Completes a request: Via with a new branch, Contact, what describes us. An INVITE is noted in the record, so the
    /// save between this and `send_prepared` holds it.
    pub(super) fn prepare_request(&mut self, leg: LegId, mut request: Request) -> Option<Prepared> {
        let settings = self.settings.clone();
        let call = self.record.id;
        let leg = self.record.leg_mut(leg)?;
        leg.branches += 1;
        let number = leg.branches;
        let locator = Locator { call, leg: leg.id, node: settings.node_number };
        request.headers.push_front(HeaderName::Via, via(&settings, &leg.flow, locator, number));
        if matches!(request.method, Method::Invite | Method::Update) {
            request.headers.push(HeaderName::Contact, contact(&settings, leg));
        }
        describe_request(&mut request, &settings.product);
        let bytes = request.to_bytes();
        if request.method == Method::Invite {
            leg.open_invite = Some(bytes.clone());
        }
        Some(Prepared { number, request, bytes })
    }

    /// Opens the client transaction of a prepared request and sends it.
    pub(super) fn send_prepared(
        &mut self,
        leg: LegId,
        prepared: Prepared,
        purpose: Purpose,
        behind: Option<Rev>,
    ) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(leg) else { return };
        let Prepared { number, request, bytes } = prepared;
        let is_invite = request.method == Method::Invite;
        let reliable = leg.flow.transport.is_reliable();
        leg.clients.push(Client {
            number,
            method: request.method.clone(),
            purpose,
            request,
            bytes: bytes.clone(),
            behind,
            transaction: ClientTransaction::new(is_invite, reliable, now),
            cancel: Cancel::No,
            deadline: None,
            in_doubt: false,
        });
        let (flow, leg, request) = (leg.flow, leg.id, Some(number));
        self.outputs.push_back(Output::Send(Transmit { flow, bytes, leg, behind, request }));
    }

    /// Acknowledges a 2xx to our INVITE with that number, now and whenever the 2xx is repeated. An offer in the 2xx
    /// that has no answer (`sdp`) is refused line by line.
    pub(super) fn acknowledge(
        &mut self,
        leg: LegId,
        sequence: u32,
        sdp: Option<&str>,
        behind: Option<Rev>,
    ) {
        let settings = self.settings.clone();
        let call = self.record.id;
        let Some(leg) = self.record.leg_mut(leg) else { return };
        leg.branches += 1;
        leg.owed_ack = None;
        let refusal = leg.owed_answer.take().filter(|_| sdp.is_none()).map(|offer| {
            offer_answer::answer(&offer, &mut leg.description, &Agreement::default(), &[])
        });
        let sdp = sdp.or(refusal.as_deref());
        let locator = Locator { call, leg: leg.id, node: settings.node_number };
        let mut ack = leg.dialog.ack(sequence);
        let via = via(&settings, &leg.flow, locator, leg.branches);
        ack.headers.push_front(HeaderName::Via, via);
        describe_request(&mut ack, &settings.product);
        if let Some(sdp) = sdp {
            set_sdp_request(&mut ack, sdp);
        }
        let bytes = ack.to_bytes();
        if leg.acknowledgements.len() >= ACKNOWLEDGEMENTS {
            leg.acknowledgements.remove(0);
        }
        leg.acknowledgements.push(Acknowledgement {
            sequence,
            remote_tag: leg.dialog.remote_tag.clone(),
            bytes: bytes.clone(),
            behind,
        });
        leg.open_invite = None;
        let (flow, leg) = (leg.flow, leg.id);
        self.outputs.push_back(Output::Send(Transmit { flow, bytes, leg, behind, request: None }));
    }

    /// Repeats the ACK of a repeated 2xx; false when it was never sent.
    pub(super) fn repeat_acknowledgement(&mut self, leg: LegId, response: &Response) -> bool {
        let Some(leg) = self.record.leg(leg) else { return false };
        let sequence = response.cseq().map(|cseq| cseq.number);
        let tag = response.to().and_then(|to| to.tag());
        let Some(ack) = leg
            .acknowledgements
            .iter()
            .find(|ack| Some(ack.sequence) == sequence && tag.as_deref() == Some(&ack.remote_tag))
        else {
            return false;
        };
        let (bytes, behind) = (ack.bytes.clone(), ack.behind);
        let (flow, leg) = (leg.flow, leg.id);
        self.outputs.push_back(Output::Send(Transmit { flow, bytes, leg, behind, request: None }));
        true
    }

    /// Acknowledges a failure of an INVITE (RFC 3261 §17.1.1.3).
    pub(super) fn acknowledge_failure(&mut self, leg: LegId, number: u32, response: &Response) {
        let Some(leg) = self.record.leg_mut(leg) else { return };
        let Some(client) = find_client(&leg.clients, number, &Method::Invite) else { return };
        leg.open_invite = None;
        let bytes = ack_for_failure(&client.request, response).to_bytes();
        let (flow, leg) = (leg.flow, leg.id);
        let ack = Transmit { flow, bytes, leg, behind: None, request: None };
        self.outputs.push_back(Output::Send(ack));
    }

    /// Flows by which requests of ours are open.
    pub fn open_flows(&self) -> impl Iterator<Item = &Flow> {
        let open = |leg: &&Leg| leg.clients.iter().any(|client| client.transaction.is_pending());
        self.record.legs.iter().filter(open).map(|leg| &leg.flow)
    }

    /// Another process had the connections until now: it may not have sent what it was to send.
    pub fn say_again_by(&mut self, is_lost: impl Fn(&Flow) -> bool) {
        self.say_again(|leg| is_lost(&leg.flow));
    }

    /// Open requests of ours to these phones; again does no harm.
    pub(super) fn say_again(&mut self, is_lost: impl Fn(&Leg) -> bool) {
        for leg in self.record.legs.iter().filter(|leg| is_lost(leg)) {
            let open = leg.clients.iter().filter(|client| is_due(leg, client));
            self.outputs.extend(open.map(|client| {
                let (flow, bytes, behind) = (leg.flow, client.bytes.clone(), client.behind);
                let request = Some(client.number);
                Output::Send(Transmit { flow, bytes, leg: leg.id, behind, request })
            }));
        }
    }

    /// What waited to leave is still to be said.
    pub fn is_wanted(&self, transmit: &Transmit) -> bool {
        let Some(leg) = self.record.leg(transmit.leg) else { return false };
        let is_it = |client: &&Client| Some(client.number) == transmit.request;
        transmit.request.is_none()
            || leg.clients.iter().filter(is_it).any(|client| is_due(leg, client))
    }

    /// Cancels every open INVITE of ours on a leg, at once or as soon as a provisional came.
    pub(super) fn cancel_invites(&mut self, leg: LegId, reason: Option<&str>) {
        let Some(leg) = self.record.leg_mut(leg) else { return };
        for client in &mut leg.clients {
            let open = client.method == Method::Invite && client.transaction.is_pending();
            if open && client.cancel == Cancel::No {
                client.cancel = Cancel::Wanted(reason.map(str::to_owned));
            }
        }
        let id = leg.id;
        self.send_wanted_cancels(id);
    }

    /// Sends the CANCELs that only waited for a provisional.
    pub(super) fn send_wanted_cancels(&mut self, leg: LegId) {
        let now = self.now;
        let product = self.settings.product.clone();
        let Some(leg) = self.record.leg_mut(leg) else { return };
        let reliable = leg.flow.transport.is_reliable();
        let mut cancels = Vec::new();
        for client in &mut leg.clients {
            let Cancel::Wanted(reason) = &client.cancel else { continue };
            if !client.transaction.is_pending() || !client.transaction.has_provisional() {
                continue;
            }
            let mut cancel = cancel_for(&client.request);
            if let Some(reason) = reason {
                cancel.headers.push(HeaderName::Reason, reason.as_str());
            }
            describe_request(&mut cancel, &product);
            client.cancel = Cancel::Sent;
            client.deadline = Some(now + crate::limits::TRANSACTION_TIMEOUT);
            cancels.push((client.number, cancel));
        }
        for (number, request) in cancels {
            let bytes = request.to_bytes();
            leg.clients.push(Client {
                number,
                method: Method::Cancel,
                purpose: Purpose::Cancel,
                request,
                bytes: bytes.clone(),
                behind: None,
                transaction: ClientTransaction::new(false, reliable, now),
                cancel: Cancel::No,
                deadline: None,
                in_doubt: false,
            });
            let flow = leg.flow;
            self.outputs.push_back(Output::Send(Transmit {
                flow,
                bytes,
                leg: leg.id,
                behind: None,
                request: Some(number),
            }));
        }
    }

    /// BYE on a leg; the dialog is over for us.
    pub(super) fn send_bye(&mut self, leg: LegId, reason: Option<&str>) {
        self.send_bye_behind(leg, reason, None);
    }

    /// The same, not before that rev is committed.
    pub(super) fn send_bye_behind(
        &mut self,
        leg: LegId,
        reason: Option<&str>,
        behind: Option<Rev>,
    ) {
        let Some(record) = self.record.leg_mut(leg) else { return };
        let mut bye = record.dialog.request(Method::Bye);
        if let Some(reason) = reason {
            bye.headers.push(HeaderName::Reason, reason);
        }
        // Numbers on a dialog only rise: what still waits for its commit there goes first.
        let requests = record.clients.iter().filter_map(|client| client.behind);
        let acknowledgements = record.acknowledgements.iter().filter_map(|ack| ack.behind);
        let behind = requests.chain(acknowledgements).chain(behind).max();
        self.send_request(leg, bye, Purpose::Bye, behind);
    }
}

/// An open request of ours may be said again. Numbers on a dialog only rise: what was asked before the BYE is not, nor
/// what the phone does not take any more, for it answered a later one. What it has already it knows by its branch, and
/// CANCEL by that of its INVITE (RFC 3261 §17.2.3, §9.2).
fn is_due(leg: &Leg, client: &Client) -> bool {
    let outlives = matches!(client.purpose, Purpose::Invite | Purpose::Cancel | Purpose::Bye);
    let is_known = client.purpose == Purpose::Cancel || client.transaction.has_provisional();
    let is_next = client.request.cseq().is_none_or(|cseq| cseq.number >= leg.answered_seq);
    client.transaction.is_pending() && (leg.is_live() || outlives) && (is_known || is_next)
}

/// A request that is ready to leave.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    number: u32,
    request: Request,
    bytes: Bytes,
}

/// Which request of a phone is answered, and how.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub leg: LegId,
    pub method: Method,
    pub sequence: u32,
    pub status: Status,
    pub behind: Option<Rev>,
}

impl Reply {
    pub fn new(leg: LegId, method: Method, sequence: u32, status: u16) -> Self {
        Self { leg, method, sequence, status: Status(status), behind: None }
    }

    /// Not before this rev is committed.
    pub fn behind(mut self, rev: Rev) -> Self {
        self.behind = Some(rev);
        self
    }
}

/// A body of ours in a response.
pub(super) fn set_sdp(response: &mut Response, sdp: &str) {
    response.headers.set(HeaderName::ContentType, SDP);
    response.body = Bytes::copy_from_slice(sdp.as_bytes());
}

/// A body of ours in a request.
pub(super) fn set_sdp_request(request: &mut Request, sdp: &str) {
    request.headers.set(HeaderName::ContentType, SDP);
    request.body = Bytes::copy_from_slice(sdp.as_bytes());
}

/// A client transaction by its branch number and method (CANCEL shares the INVITE's branch).
pub(super) fn find_client<'a>(
    clients: &'a [Client],
    number: u32,
    method: &Method,
) -> Option<&'a Client> {
    clients.iter().find(|client| client.number == number && client.method == *method)
}

/// Our Contact towards a leg's phone.
pub(super) fn contact(settings: &Settings, leg: &Leg) -> String {
    let transport = match leg.flow.transport {
        Transport::Udp => "",
        Transport::Tcp | Transport::Tls => ";transport=tcp",
        Transport::Ws | Transport::Wss => ";transport=ws",
    };
    let user = crate::sip::uri::escape_user(&leg.contact_user);
    format!("<sip:{user}@{}{transport}>", settings.advertise.host_port(&leg.flow))
}

/// Passed header fields and nothing else.
pub(super) fn pass(response: &mut Response, fields: &[(String, String)]) {
    add_passed(&mut response.headers, fields);
}

pub(super) fn via(settings: &Settings, flow: &Flow, locator: Locator, number: u32) -> String {
    let branch = settings.key.token(locator, crate::ids::Purpose::Branch(number));
    let rport = if flow.transport.is_reliable() { "" } else { ";rport" };
    format!(
        "SIP/2.0/{} {};branch={branch}{rport}",
        flow.transport.via_name(),
        settings.advertise.host_port(flow),
    )
}

/// Seconds of a random-looking Retry-After between 0 and 10 (RFC 3261 §14.2), the same for a repeated step.
pub(super) fn retry_after_seconds(call: u128, now: Timestamp) -> u64 {
    let call = u64::try_from(call & u128::from(u32::MAX)).unwrap_or(0);
    (call ^ now.as_secs()) % 11
}
