//! Target refresh (RFC 3261 §12.2, §14): phones that know us by an address that died with its node are told ours, by a
//! re-INVITE that changes nothing else. A phone that only rings cannot be told: it is cancelled and rings anew.
//!
//! Invariants: a refresh is an offer like any other, one at a time on a leg, saved before it is sent; a phone that
//! refuses keeps its audio: only its word that there is no such dialog (481) ends the call. Until a phone was told, the
//! record names the address it knows, so another takeover tells it again.

use super::anchor::{self, Moving, Nudge, Progress};
use super::leg::{Leg, LegState, Purpose};
use super::media::Then;
use super::offer::Body;
use super::record::{Bridge, Phase};
use super::send::set_sdp_request;
use super::{Call, Output, Transmit};
use crate::event::Event;
use crate::ids::{Flow, LegId, Locator, Purpose as TokenPurpose};
use crate::limits;
use crate::sdp::offer_answer::{self, Spoken};
use crate::sdp::{Description, LegDescription, Security};
use crate::sip::transaction::cancel_for;
use crate::sip::{Dialog, HeaderName, Message, Method, Request, Response, Status};
use crate::time::Timestamp;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;

/// A phone that puts it off (491, 500 with Retry-After) is asked so often.
const ATTEMPTS: u8 = 4;
/// A phone that was sent our 2xx again has so long to acknowledge it; one that acknowledged the first to an address
/// that is no more stays silent, and is told ours all the same.
const ACK_PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait that a phone may ask for (§14.2).
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How a restored leg's phone is reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// As before.
    AsBefore,
    /// By this flow: the address that the phone knows us by is no more.
    By(Flow),
    /// Not until it comes back: its connection ended with an address that is no more.
    Lost,
}

/// How a leg's phone was reached.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// By this flow.
    pub flow: &'a Flow,
    /// Remote target of the dialog.
    pub contact: &'a str,
    /// Whose phone it is.
    pub extension: Option<&'a str>,
}

/// Where a restored call finds itself.
pub struct Place<'a> {
    /// How the phone at the end of a way is reached.
    pub reach: &'a dyn Fn(&Way<'_>) -> Reach,
    /// Phones are told of another address from then on; the shell spreads it.
    pub refresh_at: Timestamp,
}

/// The phone of a leg knows us by an address that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    /// What it knows.
    pub known: SocketAddr,
    pub stage: Stage,
    pub attempts: u8,
}

/// How far telling it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// To be told from then on.
    Due(Timestamp),
    /// Our re-INVITE is out.
    Told,
    /// It refused, or cannot be reached: again when it comes by another flow.
    Waiting,
}

impl Place<'_> {
    /// The address is still the same.
    pub fn as_before() -> Self {
        Self { reach: &|_| Reach::AsBefore, refresh_at: Timestamp::EPOCH }
    }
}

impl Leg {
    fn way(&self) -> Way<'_> {
        let contact = self.dialog.remote_target.as_str();
        Way { flow: &self.flow, contact, extension: self.extension.as_deref() }
    }

    /// The leg of a restored call finds its way to the phone.
    pub(super) fn settle_in(&mut self, place: &Place<'_>) {
        if !self.is_live() || self.stale.is_some() {
            return;
        }
        let (stage, flow) = match (place.reach)(&self.way()) {
            Reach::AsBefore => return,
            // Its connection is another one, to the address that it knows.
            Reach::By(flow) if flow.local == self.flow.local => return self.move_to(flow),
            Reach::By(flow) => (Stage::Due(place.refresh_at), flow),
            Reach::Lost => (Stage::Waiting, self.flow),
        };
        let known = self.flow.local;
        for server in self.servers.iter_mut().filter(|server| server.flow.local == known) {
            server.flow.local = flow.local;
        }
        self.stale = Some(Stale { known, stage, attempts: 0 });
        self.flow = flow;
    }

    /// Its phone has another flow, by which it hears what it asked by the former one.
    pub(super) fn move_to(&mut self, flow: Flow) {
        let former = core::mem::replace(&mut self.flow, flow);
        for server in self.servers.iter_mut().filter(|server| server.flow == former) {
            server.flow = flow;
        }
    }

    /// The phone comes by another flow: what it could not be told before it is told now.
    pub(super) fn follow(&mut self, flow: Flow, now: Timestamp) {
        self.move_to(flow);
        if let Some(stale) = self.stale.as_mut().filter(|stale| stale.stage == Stage::Waiting) {
            (stale.stage, stale.attempts) = (Stage::Due(now), 0);
        }
    }

    /// When a refresh can be sent, as far as can be said now: what else blocks it ends with an input.
    pub(super) fn refresh_timeout(&self) -> Option<Timestamp> {
        let stale = self.stale.and_then(|stale| match stale.stage {
            Stage::Due(at) => Some(at),
            Stage::Told | Stage::Waiting => None,
        });
        let moving = self.moving.as_ref().and_then(Moving::due_at);
        let steered = self.steered.and_then(|steered| steered.due_at);
        let at = stale.into_iter().chain(moving).chain(steered).min()?;
        if self.state != LegState::Confirmed || self.owed_ack.is_some() {
            return None;
        }
        match (self.awaits_ack(), self.is_offering()) {
            (_, true) => None,
            (true, false) => stale.map(|at| at + ACK_PATIENCE),
            (false, false) => Some(at),
        }
    }
}

impl Call {
    /// Ways to the phones of its live legs.
    pub fn ways(&self) -> impl Iterator<Item = Way<'_>> {
        let legs = self.record.legs.iter().filter(|leg| leg.is_live() && leg.stale.is_none());
        legs.map(Leg::way)
    }

    /// An address that phones of this call know us by is no more, though its owner lives.
    pub fn relocate(&mut self, place: &Place<'_>, now: Timestamp) {
        self.now = now;
        for leg in &mut self.record.legs {
            leg.settle_in(place);
        }
        if self.record.phase == Phase::Ringing {
            self.probe_waiting_caller();
        }
        let rings = self.record.phase == Phase::Ringing || self.is_transferring();
        if rings && self.ring_anew() {
            self.apply_media(Then::Invite);
        }
        self.refresh_targets();
    }

    /// Sends what is due, all in one save.
    pub(super) fn refresh_targets(&mut self) {
        self.find_untold();
        if self.record.phase != Phase::Confirmed {
            return;
        }
        let now = self.now;
        let due: Vec<LegId> =
            self.refreshes().filter(|(at, _)| *at <= now).map(|due| due.1).collect();
        let mut invites = Vec::new();
        for id in due {
            let directions = self.directions_to(id);
            let Some(leg) = self.record.leg_mut(id) else { continue };
            leg.stop_waiting_for_ack(now);
            let mut invite = leg.dialog.request(anchor::method(leg.moving.as_ref()));
            if let Some(sdp) = leg.news(&directions) {
                set_sdp_request(&mut invite, &sdp);
            }
            if let Some(stale) = &mut leg.stale {
                stale.stage = Stage::Told;
            }
            if let Some(moving) = &mut leg.moving {
                moving.progress = Progress::Told;
            }
            invites.extend(self.prepare_request(id, invite).map(|invite| (id, invite)));
        }
        if invites.is_empty() {
            return;
        }
        let rev = self.save();
        for (id, invite) in invites {
            self.send_prepared(id, invite, Purpose::Refresh, Some(rev));
            self.await_word(id);
        }
    }

    /// When which leg's phone can be told. One whose ACK or answer an exchange awaits is not disturbed.
    pub(super) fn refreshes(&self) -> impl Iterator<Item = (Timestamp, LegId)> {
        let busy = self.exchange.as_ref().map(|exchange| (exchange.from, exchange.to));
        let confirmed = self.record.phase == Phase::Confirmed;
        let legs = self.record.legs.iter().filter(move |leg| {
            confirmed && busy.is_none_or(|(from, to)| leg.id != from && leg.id != to)
        });
        legs.filter_map(|leg| Some((leg.refresh_timeout()?, leg.id)))
    }

    /// A final response to a refresh.
    pub(super) fn refresh_answered(&mut self, id: LegId, response: &Response) {
        if response.status.is_success() {
            return self.refresh_accepted(id, response);
        }
        let now = self.now;
        let leg = self.record.leg(id);
        let stale = leg.and_then(|leg| leg.stale).map(|stale| stale.attempts);
        let steered = leg.and_then(|leg| leg.steered).map(|steered| steered.attempts);
        let attempts = stale.max(steered).unwrap_or(0);
        let sequence = response.cseq().map_or(0, |cseq| cseq.number);
        let wait = match response.status.0 {
            491 => Some(self.glare_delay(id, attempts, sequence)),
            500 => retry_after(response),
            _ => None,
        };
        let again = wait.filter(|_| attempts + 1 < ATTEMPTS);
        if let Some(stale) = self.record.leg_mut(id).and_then(|leg| leg.stale.as_mut()) {
            stale.attempts += 1;
            stale.stage = again.map_or(Stage::Waiting, |wait| Stage::Due(now + wait));
        }
        self.steering_refused(id, again.map(|wait| now + wait));
        if self.record.leg(id).is_some_and(|leg| leg.moving.is_some()) {
            return self.move_refused(id, response);
        }
        if response.status == Status(481) {
            return self.leg_is_gone();
        }
        if again.is_none() {
            let what = match stale {
                Some(_) => "a phone does not take our new address",
                None => "a phone does not take a hold",
            };
            self.emit(Event::Misbehaved { call: Some(self.record.id), what });
        }
        self.next_exchange();
    }

    /// A refresh got no answer: perhaps only a NAT stands against it, and the phone talks on.
    pub(super) fn refresh_failed(&mut self, id: LegId) {
        if let Some(leg) = self.record.leg_mut(id) {
            leg.open_invite = None;
            if let Some(stale) = &mut leg.stale {
                stale.stage = Stage::Waiting;
            }
            let moves = leg.moving.is_some();
            self.steering_refused(id, None);
            if moves {
                return self.move_unanswered();
            }
        }
        self.next_exchange();
    }

    fn refresh_accepted(&mut self, id: LegId, response: &Response) {
        let Some(cseq) = response.cseq() else { return };
        let (sequence, is_invite) = (cseq.number, cseq.method == Method::Invite);
        let mut is_nudge = false;
        if let Some(leg) = self.record.leg_mut(id) {
            leg.stale = None;
            leg.owed_ack = is_invite.then_some(sequence).or(leg.owed_ack);
            let nudge = leg.moving.as_ref().map(|moving| &moving.nudge);
            is_nudge = matches!(nudge, Some(Nudge::Stop(_)));
            if let Some(contact) = response.contact() {
                leg.dialog.refresh_target(&contact);
            }
        }
        if let Some(answer) = Body::of_response(response).description().filter(|_| !is_nudge) {
            self.take_refreshed(id, answer);
        }
        self.steering_accepted(id);
        self.move_accepted(id);
        let rev = self.save();
        if is_invite {
            self.acknowledge(id, sequence, None, Some(rev));
        }
        self.next_exchange();
    }

    /// Most phones answer what they answered before. What one says anew holds for its own leg; if nothing comes of
    /// it, what was agreed stays.
    fn take_refreshed(&mut self, id: LegId, answer: Description) {
        let Some(leg) = self.record.leg(id).filter(|leg| !leg.description.is_repeat(&answer))
        else {
            return;
        };
        let peer = self.record.peer_of(id).and_then(|peer| self.record.leg(peer));
        let sides = match peer {
            None => {
                let (ours, spoken) = (&leg.description, Spoken::Answer);
                offer_answer::agree_alone(&answer, ours, &leg.policy, spoken).ok()
            }
            Some(peer) => peer.description.received.as_ref().and_then(|offer| {
                let (theirs, ours) = (&peer.description, &leg.description);
                offer_answer::agree(offer, theirs, &peer.policy, &answer, ours).ok().map(|agreed| {
                    agreed.streams.into_iter().map(|stream| stream.answerer).collect()
                })
            }),
        };
        let offered = leg.description.promises_sound();
        if let Some(sides) = sides {
            self.change_sides(id, answer, sides, offered);
            self.apply_media(Then::Nothing);
        }
    }

    /// re-INVITEs of ours to phones that answer to an address that is no more: undone, and acknowledged in case they
    /// were accepted. Who asked for them asks again through us.
    pub(super) fn abandon_reinvites(&mut self) {
        if self.record.phase != Phase::Confirmed {
            return;
        }
        let key = self.settings.key.clone();
        let ours = |leg: &Leg| {
            let request = open_invite(leg)?;
            key.locate_branch(request.top_via()?.branch()?)?;
            let sequence = request.cseq()?.number;
            (leg.owed_ack != Some(sequence)).then_some((leg.id, request, sequence, leg.flow))
        };
        // What rings, and asks to take a phone's place, is not one of them.
        let talks = |leg: &&Leg| leg.stale.is_some() && leg.state == LegState::Confirmed;
        let legs = self.record.legs.iter().filter(talks);
        for (id, request, sequence, flow) in legs.filter_map(ours).collect::<Vec<_>>() {
            let bytes = cancel_for(&request).to_bytes();
            let cancel = Transmit { flow, bytes, leg: id, behind: None, request: None };
            self.outputs.push_back(Output::Send(cancel));
            self.acknowledge(id, sequence, None, None);
        }
    }

    /// Branches that ring at phones which answer to an address that is no more: CANCEL with the Via that they know,
    /// and another INVITE under another Call-ID, which no phone takes for a merged request. One that waits for its
    /// ports was asked nothing yet: its first INVITE tells it our address. True: some are to be invited.
    pub(super) fn ring_anew(&mut self) -> bool {
        let is_waiting = |leg: &Leg| leg.is_ringing() && leg.state == LegState::Waiting;
        for leg in self.record.legs.iter_mut().filter(|leg| is_waiting(leg)) {
            leg.stale = None;
        }
        let waits = self.record.legs.iter().any(is_waiting);
        let stale = self.record.legs.iter().filter(|leg| leg.stale.is_some() && leg.is_ringing());
        let stale: Vec<LegId> = stale.map(|leg| leg.id).collect();
        for id in &stale {
            let now = self.now;
            for client in self.record.leg_mut(*id).into_iter().flat_map(|leg| &mut leg.clients) {
                // A provisional may have gone to the old address: the CANCEL waits for none.
                if client.is_open_invite() {
                    client.transaction.handle_response(Status(180), now);
                }
            }
            self.cancel_invites(*id, None);
            let successor = self.successor_of(*id);
            if let Some(leg) = self.record.leg_mut(*id) {
                leg.state = LegState::Ended;
                leg.ended_at = Some(now);
                leg.open_invite = None;
            }
            if self.record.bridge == Bridge::Leg(*id) {
                self.record.bridge = Bridge::Ringback;
            }
            self.record.legs.extend(successor);
        }
        waits || !stale.is_empty()
    }

    /// A new leg to the same phone, as it was before it was invited.
    fn successor_of(&self, id: LegId) -> Option<Leg> {
        let next = self.record.legs.iter().map(|leg| leg.id.0).max()?.checked_add(1)?;
        if self.record.legs.len() >= limits::LEGS_PER_CALL {
            return None;
        }
        let leg = self.record.leg(id)?;
        let (next, node) = (LegId(next), self.settings.node_number);
        let locator = Locator { call: self.record.id, leg: next, node };
        let key = &self.settings.key;
        let dialog = Dialog {
            call_id: key.token(locator, TokenPurpose::DialogCallId),
            local_tag: key.token(locator, TokenPurpose::Tag),
            remote_tag: String::new(),
            remote_target: open_invite(leg)?.uri,
            route_set: Vec::new(),
            local_seq: 0,
            remote_seq: None,
            ..leg.dialog.clone()
        };
        let description = LegDescription::new(
            key.sdp_session_id(locator),
            Security::new(leg.description.security.policy, self.record.seed.part(next.0)),
        );
        let leg = leg.clone();
        Some(Leg {
            extension: leg.extension,
            policy: leg.policy,
            contact_user: leg.contact_user,
            domain: leg.domain,
            path: leg.path,
            diverted_by: leg.diverted_by,
            user_agent: leg.user_agent,
            ..Leg::new((next, leg.role), dialog, leg.flow, description, self.now)
        })
    }
}

/// The INVITE of a leg that was open when its owner died.
pub(super) fn open_invite(leg: &Leg) -> Option<Request> {
    let text: &Bytes = leg.open_invite.as_ref()?;
    match Message::parse(text) {
        Ok(Message::Request(request)) => Some(request),
        Ok(Message::Response(_)) | Err(_) => None,
    }
}

pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers.get(&HeaderName::RetryAfter)?;
    let seconds = value.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}
