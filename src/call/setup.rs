//! From the caller's INVITE to the branches' INVITEs: dial plan, ports, one commit, then 100 and all INVITEs.

use super::io::{Answer, Invitation, Query, Settings};
use super::leg::{Leg, LegState, Purpose, Server};
use super::media::Then;
use super::offer::Body;
use super::record::{
    Added2, Added3, Added4, Added5, Bridge, CallRecord, MediaRecord, Party, Phase,
};
use super::send::{Reply, set_sdp_request};
use super::{Call, Output, headers};
use crate::directory::{Binding, User};
use crate::event::Event;
use crate::ids::{Flow, LegId, Locator, Purpose as TokenPurpose};
use crate::limits;
use crate::routing::{self, Decision, Service};
use crate::rtp::srtp::Seed;
use crate::sdp::offer_answer::{self, Disagreement};
use crate::sdp::{LegDescription, Policy, Security};
use crate::sip::transaction::ServerTransaction;
use crate::sip::uri::Host;
use crate::sip::{Dialog, HeaderName, Method, NameAddr, Request, Status, Uri};
use crate::time::Timestamp;
use crate::views::EndCause;
use crate::views::call::LegRole;
use core::time::Duration;
use std::sync::Arc;

/// An invitation is good for so long after its ring timeout: who takes the call over may let it ring on a little.
const INVITED_LONGER: Duration = Duration::from_secs(64);

/// A question that was asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// Whom does the dialled URI ring?
    Route { number: u32 },
    /// Can whom an operator wants called be called? If so, these phones of the caller ring first.
    Origin { number: u32, user: Arc<User>, phones: Vec<Binding> },
    /// Whom does the URI ring that a called caller is to be connected with?
    Target { number: u32 },
    /// Whom does the Contact of a 302 ring? Asked for that branch.
    Redirect { number: u32, diverted: LegId },
    /// To which flow does the first Route of a leg lead?
    NextHop { number: u32, leg: LegId },
}

impl Question {
    const fn number(&self) -> u32 {
        match self {
            Self::Route { number }
            | Self::Origin { number, .. }
            | Self::Target { number }
            | Self::Redirect { number, .. }
            | Self::NextHop { number, .. } => *number,
        }
    }
}

impl Call {
    /// A new call. `None` when the INVITE lacks what `Request::check` wants: the shell refuses it.
    pub fn new(settings: Arc<Settings>, invitation: Invitation, now: Timestamp) -> Option<Self> {
        let Invitation { id, key, epoch, entropy, caller, request, flow } = invitation;
        let seed = Seed::new(entropy);
        let body = Body::of_request(&request);
        let security = Security::new(caller.srtp, seed.part(LegId::CALLER.0));
        let leg = caller_leg((&settings, id), &caller, security, (&request, flow), now)?;
        let dialled = request.uri.user().unwrap_or_default();
        let emergency = settings.emergency_numbers.contains(&dialled)
            || request.uri.as_str().to_ascii_lowercase().starts_with("urn:service:sos");
        let record = CallRecord {
            id,
            key,
            epoch,
            rev: crate::ids::Rev(0),
            phase: Phase::Routing,
            caller: Party {
                extension: Some(caller.extension.clone()),
                display_name: caller.display_name.clone(),
                uri: leg.dialog.remote_party.clone(),
            },
            callee: Party { uri: request.uri.as_str().to_owned(), ..Party::default() },
            request_uri: request.uri.as_str().to_owned(),
            emergency,
            created_at: now,
            ringing_at: None,
            answered_at: None,
            ring_deadline: now + settings.ring_timeout,
            legs: vec![leg],
            bridge: Bridge::Nothing,
            offer: None,
            passed: headers::passed(&request.headers),
            max_forwards: max_forwards(&request).saturating_sub(1),
            private: asks_privacy(&request),
            media: MediaRecord::default(),
            owners: vec![settings.node.clone()],
            end: None,
            added_2: Added2::default(),
            added_3: Added3::default(),
            added_4: Added4::default(),
            added_5: Added5::default(),
            seed,
        };
        let mut call = Self::with_record(settings, record, now);
        call.emit(Event::CallCreated {
            call: id,
            caller: caller.extension.clone(),
            callee: dialled,
        });
        call.start(body, request.uri);
        Some(call)
    }

    fn start(&mut self, body: Body, dialled: Uri) {
        match body {
            Body::Nothing => {}
            Body::Bad(status) => return self.fail(status, EndCause::Rejected, None),
            Body::Description(_) => {
                let Some(caller) = self.record.leg(LegId::CALLER) else { return };
                match body.offer(&caller.description) {
                    Ok(offer) => self.record.offer = offer,
                    Err(why) => return self.disagree(why),
                }
            }
        }
        let number = self.ask(|number| Query::Route { number, uri: dialled });
        self.questions.push(Question::Route { number });
    }

    /// Asks the shell; the answer comes with the number.
    pub(super) fn ask(&mut self, query: impl FnOnce(u32) -> Query) -> u32 {
        self.question_count += 1;
        let number = self.question_count;
        self.outputs.push_back(Output::Ask(query(number)));
        number
    }

    pub(super) fn handle_answer(&mut self, answer: Answer) {
        let number = match &answer {
            Answer::Route { number, .. } | Answer::Resolve { number, .. } => *number,
        };
        let Some(at) = self.questions.iter().position(|question| question.number() == number)
        else {
            return;
        };
        match (self.questions.remove(at), answer) {
            (Question::Route { .. }, Answer::Route { decision, .. }) => self.take_route(decision),
            (Question::Origin { user, phones, .. }, Answer::Route { decision, .. }) => {
                self.ring_caller(&user, &phones, decision);
            }
            (Question::Target { .. }, Answer::Route { decision, .. }) => {
                self.take_target(decision);
            }
            (Question::Redirect { diverted, .. }, Answer::Route { decision, .. }) => {
                self.take_redirect(diverted, decision);
            }
            (Question::NextHop { leg, .. }, Answer::Resolve { flow: Some(flow), .. }) => {
                if let Some(leg) = self.record.leg_mut(leg) {
                    leg.flow = flow;
                }
            }
            (Question::NextHop { .. }, _)
            | (
                Question::Route { .. }
                | Question::Origin { .. }
                | Question::Target { .. }
                | Question::Redirect { .. },
                Answer::Resolve { .. },
            ) => {}
        }
    }

    fn take_route(&mut self, decision: Decision) {
        if self.record.phase != Phase::Routing {
            return;
        }
        match decision {
            Decision::Refuse(status) => self.fail(status, EndCause::Rejected, None),
            Decision::Unknown { user_known, .. } => {
                self.fail(routing::unknown(user_known), EndCause::Rejected, None);
            }
            Decision::Service(Service::Echo) => self.start_echo(),
            Decision::Ring { user, bindings } => {
                self.name_callee(&user);
                if let Some(timeout) = user.ring_timeout_ms {
                    self.record.ring_deadline =
                        self.record.created_at + Duration::from_millis(timeout);
                }
                self.add_branches(&user, &bindings, &[]);
                self.open_ports(Then::Invite);
            }
        }
    }

    /// A leg for every binding, as far as `limits::LEGS_PER_CALL` allows.
    pub(super) fn add_branches(&mut self, user: &User, bindings: &[Binding], diverted: &[String]) {
        for binding in bindings {
            if self.record.legs.len() >= limits::LEGS_PER_CALL {
                return;
            }
            let next = self.record.legs.iter().map(|leg| leg.id.0).max().unwrap_or(0) + 1;
            if let Some(leg) = self.branch_leg(LegId(next), user, binding, diverted) {
                self.record.legs.push(leg);
            }
        }
    }

    /// Asks the media node for every live leg's ports; streams are as many as the offer has.
    pub(super) fn open_ports(&mut self, then: Then) {
        self.apply_media(then);
    }

    /// Ports are known: one commit, then 100 to the caller and INVITE to every branch that waits.
    pub(super) fn invite_branches(&mut self) {
        let waiting: Vec<LegId> = self
            .record
            .legs
            .iter()
            .filter(|leg| leg.is_ringing() && leg.state == LegState::Waiting)
            .map(|leg| leg.id)
            .collect();
        let mut invites = Vec::new();
        for id in waiting {
            match self.branch_invite(id) {
                Ok(None) => {}
                Ok(Some(invite)) => {
                    if let Some(leg) = self.record.leg_mut(id) {
                        leg.state = LegState::Inviting;
                        leg.dialog.local_seq = 1;
                    }
                    invites.extend(self.prepare_request(id, invite).map(|ready| (id, ready)));
                }
                Err(why) => self.branch_unoffered(id, why),
            }
        }
        if invites.is_empty() {
            return self.settle_branches();
        }
        let first = self.record.phase == Phase::Routing;
        if !self.is_transferring() {
            self.record.phase = Phase::Ringing;
        }
        let rev = self.save();
        if first {
            self.respond_caller(Status(100), Some(rev), |_| {});
        }
        for (id, invite) in invites {
            self.send_prepared(id, invite, Purpose::Invite, Some(rev));
        }
    }

    /// Answers the caller's first INVITE; a caller that was called sent none, and no leg has that id.
    pub(super) fn respond_caller(
        &mut self,
        status: Status,
        behind: Option<crate::ids::Rev>,
        decorate: impl FnOnce(&mut crate::sip::Response),
    ) {
        let Some(caller) = self.record.leg_mut(LegId::CALLER) else { return };
        caller.last_status = Some(status.0);
        let Some(server) = caller.open_server_invite() else { return };
        let sequence = server.sequence;
        let reply = Reply { leg: LegId::CALLER, method: Method::Invite, sequence, status, behind };
        self.respond(&reply, decorate);
    }

    fn branch_leg(
        &self,
        id: LegId,
        user: &User,
        binding: &Binding,
        diverted: &[String],
    ) -> Option<Leg> {
        let locator = Locator { call: self.record.id, leg: id, node: self.settings.node_number };
        let key = &self.settings.key;
        let domain = domain_of(&binding.aor);
        let (role, local_party, contact_user) = match (self.rings_caller(), self.presented()) {
            (true, _) => (LegRole::Caller, self.target_party(&domain), self.target_user()),
            (_, Some(party)) => {
                let user = party.extension.clone().unwrap_or_default();
                (self.coming_role(), identity(&party, &domain), user)
            }
            (false, None) => (self.coming_role(), self.caller_party(&domain), self.caller_user()),
        };
        let remote_target = Uri::parse(&binding.contact).ok()?;
        let dialog = Dialog {
            call_id: key.token(locator, TokenPurpose::DialogCallId),
            local_tag: key.token(locator, TokenPurpose::Tag),
            remote_tag: String::new(),
            local_party,
            remote_party: format!("<{}>", binding.aor),
            remote_target,
            route_set: Vec::new(),
            local_seq: 0,
            remote_seq: None,
        };
        let description = LegDescription::new(
            key.sdp_session_id(locator),
            Security::new(user.srtp, self.record.seed.part(id.0)),
        );
        Some(Leg {
            extension: Some(user.extension.clone()),
            policy: Policy { codecs: user.codecs.clone() },
            contact_user,
            domain,
            path: binding.path.clone(),
            diverted_by: diverted.to_vec(),
            user_agent: binding.user_agent.clone(),
            ..Leg::new((id, role), dialog, binding.flow, description, self.now)
        })
    }

    /// From towards a phone: the caller's name and `extension@` the domain that phone registered with, so that redial
    /// from its call log works.
    fn caller_party(&self, domain: &str) -> String {
        if self.record.private {
            return "\"Anonymous\" <sip:anonymous@anonymous.invalid>".to_owned();
        }
        identity(&self.record.caller, domain)
    }

    /// User part of our Contact towards a callee; like From it tells nothing of a caller that asked so.
    fn caller_user(&self) -> String {
        let known = self.record.caller.extension.clone().filter(|_| !self.record.private);
        known.unwrap_or_else(|| "anonymous".to_owned())
    }

    /// Seconds that a phone may ring (RFC 3261 §13.3.1). It stops by itself if who was to cancel it died, and the
    /// CANCEL was lost.
    fn invited_for(&self) -> u64 {
        let deadline = self.transfer_deadline().unwrap_or(self.record.ring_deadline);
        (deadline.saturating_since(self.now) + INVITED_LONGER).as_secs()
    }

    fn branch_invite(&mut self, id: LegId) -> Result<Option<Request>, Disagreement> {
        let offer = self.record.offer.clone();
        let offering = self.staying().unwrap_or_else(|| self.record.caller_leg());
        let offering = self.record.leg(offering).map(|leg| leg.policy.clone());
        let caller_policy = offering.unwrap_or_default();
        let calls_caller = self.calls_caller();
        let passed = self.record.passed.clone();
        let presented = self.presented();
        let private = self.record.private && presented.is_none();
        let (max_forwards, expires) = (self.record.max_forwards, self.invited_for());
        let domain = self.record.leg(id).map(|leg| leg.domain.clone()).unwrap_or_default();
        let identity = identity(presented.as_ref().unwrap_or(&self.record.caller), &domain);
        let Some(leg) = self.record.leg_mut(id) else { return Ok(None) };
        let local = leg.local_addresses();
        let sdp = match &offer {
            Some(offer) => Some(offer_answer::relay_offer(
                offer,
                &caller_policy,
                &mut leg.description,
                &leg.policy,
                &local,
            )?),
            None if calls_caller.is_some() => Some(leg.first_offer(&local)?),
            None => None,
        };
        let mut invite = Request::new(Method::Invite, leg.dialog.remote_target.clone());
        let fields = &mut invite.headers;
        for route in &leg.path {
            fields.push(HeaderName::Route, route.as_str());
        }
        fields.push(HeaderName::MaxForwards, max_forwards.to_string());
        let (party, tag) = (&leg.dialog.local_party, &leg.dialog.local_tag);
        fields.push(HeaderName::From, format!("{party};tag={tag}"));
        fields.push(HeaderName::To, leg.dialog.remote_party.as_str());
        fields.push(HeaderName::CallId, leg.dialog.call_id.as_str());
        fields.push(HeaderName::CSeq, "1 INVITE");
        fields.push(HeaderName::Expires, expires.to_string());
        if let Some(asking) = calls_caller {
            headers::add_passed(fields, &asking);
        } else if private {
            fields.push(HeaderName::Privacy, "id");
        } else {
            fields.push(HeaderName::PAssertedIdentity, identity);
        }
        for diversion in leg.diverted_by.iter().rev() {
            fields.push(HeaderName::Diversion, diversion.as_str());
        }
        headers::add_passed(fields, &passed);
        if let Some(sdp) = sdp {
            set_sdp_request(&mut invite, &sdp);
        }
        Ok(Some(invite))
    }
}

/// A user as a phone that registered with that domain knows it.
fn identity(party: &Party, domain: &str) -> String {
    let extension = party.extension.as_deref().unwrap_or("anonymous");
    named(&party.display_name, extension, domain)
}

/// Name and address of somebody at that domain.
pub(super) fn named(display_name: &str, user: &str, domain: &str) -> String {
    let uri = format!("sip:{}@{domain}", crate::sip::uri::escape_user(user));
    let Ok(uri) = Uri::parse(&uri) else { return "<sip:anonymous@anonymous.invalid>".into() };
    NameAddr::new(display_name, uri).to_string()
}

fn caller_leg(
    (settings, call): (&Settings, crate::ids::CallId),
    caller: &User,
    security: Security,
    (request, flow): (&Request, Flow),
    now: Timestamp,
) -> Option<Leg> {
    let locator = Locator { call, leg: LegId::CALLER, node: settings.node_number };
    let tag = settings.key.token(locator, TokenPurpose::Tag);
    let dialog = Dialog::from_request(request, &tag)?;
    let cseq = request.cseq()?;
    let reply_flow = crate::sip::address::reply_flow(request, &flow);
    let domain = match request.from()?.uri.host() {
        Some(Host::Ip(ip)) => bracketed(ip),
        Some(Host::Name(name)) => name,
        None => String::new(),
    };
    let who = (LegId::CALLER, LegRole::Caller);
    let description = LegDescription::new(settings.key.sdp_session_id(locator), security);
    Some(Leg {
        extension: Some(caller.extension.clone()),
        policy: Policy { codecs: caller.codecs.clone() },
        contact_user: request.uri.user().unwrap_or_default(),
        domain,
        user_agent: request.headers.get(&HeaderName::UserAgent).map(str::to_owned),
        open_invite: Some(request.to_bytes()),
        servers: vec![Server {
            method: Method::Invite,
            sequence: cseq.number,
            request: Some(request.clone()),
            flow: reply_flow,
            transaction: ServerTransaction::new(true, flow.transport.is_reliable(), now),
            last_response: None,
            awaits_ack: false,
            inherited: false,
            behind: None,
        }],
        ..Leg::new(who, dialog, dialog_flow(request, &flow), description, now)
    })
}

/// Where requests of ours on the caller's dialog go: back where the INVITE came from; only a UDP phone that asked no
/// rport and whose Contact names its own source address is reached at the Contact's port.
fn dialog_flow(request: &Request, flow: &Flow) -> Flow {
    let mut flow = *flow;
    let asked_rport = request.top_via().is_some_and(|via| via.param("rport").is_some());
    if flow.transport.is_reliable() || asked_rport {
        return flow;
    }
    let contact = request.contact().map(|contact| contact.uri);
    if let Some(contact) = contact
        && contact.host() == Some(Host::Ip(flow.remote.ip().to_canonical()))
    {
        flow.remote.set_port(contact.port().unwrap_or(5060));
    }
    flow
}

fn max_forwards(request: &Request) -> u8 {
    let value = request.headers.get(&HeaderName::MaxForwards);
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(70)
}

fn asks_privacy(request: &Request) -> bool {
    request.headers.get(&HeaderName::Privacy).is_some_and(|value| {
        value.split(';').any(|word| {
            let word = word.trim();
            word.eq_ignore_ascii_case("id") || word.eq_ignore_ascii_case("user")
        })
    })
}

/// What an address of record says after the `@`, its port too, for the From of calls to that phone: a call back from
/// its call log goes where it registered.
fn domain_of(aor: &str) -> String {
    let uri = Uri::parse(aor).ok();
    let host = match uri.as_ref().and_then(Uri::host) {
        Some(Host::Ip(ip)) => bracketed(ip),
        Some(Host::Name(name)) => name,
        None => return "anonymous.invalid".to_owned(),
    };
    match uri.as_ref().and_then(Uri::port) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

fn bracketed(ip: core::net::IpAddr) -> String {
    match ip {
        core::net::IpAddr::V4(ip) => ip.to_string(),
        core::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
