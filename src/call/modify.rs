//! re-INVITE (RFC 3261 §14, RFC 6337): an offer of one phone passed on to the other, one at a time on each leg.
//!
//! Invariants: a refused re-INVITE leaves both legs and the media as they were; a leg never has two offers open: the
//! second waits (ours) or gets 491 or 500 (theirs); a repeated description is answered by us.

use super::leg::{LegState, Purpose};
use super::media::Then;
use super::offer::Body;
use super::record::{Bridge, Phase};
use super::send::{Reply, retry_after_seconds, set_sdp, set_sdp_request};
use super::{Call, headers};
use crate::event::Event;
use crate::ids::{LegId, Rev};
use crate::sdp::offer_answer::{self, Disagreement, Spoken};
use crate::sdp::{Description, LegDescription};
use crate::sip::{HeaderName, Method, Response, Status};
use crate::time::Timestamp;
use crate::views::EndCause;
use core::time::Duration;

/// 491 is tried again so often before the phone that asked is told of it.
const ATTEMPTS: u8 = 4;

/// A re-INVITE on its way from one leg to the other.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub from: LegId,
    pub to: LegId,
    /// CSeq number of the INVITE that began it.
    pub sequence: u32,
    /// What is to be answered: the offer of `from`, or, when that was late, the offer in the 200 of `to`.
    pub offer: Option<Description>,
    pub stage: Stage,
    pub attempts: u8,
    /// The description of `to` before our offer; comes back when it is refused.
    pub backup: Option<LegDescription>,
}

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Our INVITE is out.
    Offered,
    /// 491 came: again at this time (RFC 3261 §14.1).
    Retry(Timestamp),
    /// The media node is making it so.
    Applying,
    /// Late offer: the 200 with the offer is out, the ACK will bring the answer.
    AwaitingAck,
}

impl Call {
    /// A re-INVITE of a confirmed leg's phone; its server transaction is open.
    pub(super) fn handle_reinvite(&mut self, id: LegId, sequence: u32) {
        let offering = self.is_offering_to(id);
        let (now, brings_answer) = (self.now, self.awaits_answer_of(id));
        let Some(leg) = self.record.leg_mut(id) else { return };
        let body = leg
            .servers
            .iter()
            .find(|server| server.method == Method::Invite && server.sequence == sequence)
            .and_then(|server| server.request.as_ref())
            .map_or(Body::Nothing, Body::of_request);
        if offering || leg.open_client_invite().is_some() {
            return self.refuse(id, &Method::Invite, sequence, 491);
        }
        match body {
            Body::Bad(status) => self.refuse(id, &Method::Invite, sequence, status.0),
            Body::Description(_) | Body::Nothing => {
                if !brings_answer {
                    // Who goes on has our 2xx. Its ACK may have gone to a node that is no more.
                    leg.stop_waiting_for_ack(now);
                }
                self.queued.push_back(id);
                self.next_exchange();
            }
        }
    }

    /// The ACK of our 2xx to this leg's phone answers an offer of ours.
    fn awaits_answer_of(&self, id: LegId) -> bool {
        let late = self
            .exchange
            .as_ref()
            .is_some_and(|exchange| exchange.from == id && exchange.stage == Stage::AwaitingAck);
        late || self.record.bridge == Bridge::Echo
    }

    /// An offer for this leg is on its way, or waits for the time to leave: the phone's own would wait for it for ever.
    fn is_offering_to(&self, id: LegId) -> bool {
        let waits = self.queued.iter().any(|queued| self.record.peer_of(*queued) == Some(id));
        waits
            || self.exchange.as_ref().is_some_and(|exchange| {
                exchange.to == id && matches!(exchange.stage, Stage::Offered | Stage::Retry(_))
            })
    }

    /// A second INVITE before the first has its final response (RFC 3261 §14.2): later, please.
    pub(super) fn refuse_second_invite(&mut self, id: LegId, sequence: u32) {
        let seconds = retry_after_seconds(self.record.id.0, self.now);
        self.respond(&Reply::new(id, Method::Invite, sequence, 500), |response| {
            response.headers.push(HeaderName::RetryAfter, seconds.to_string());
        });
    }

    /// Begins the next exchange that waits, when both legs are free. A phone's re-INVITE may overtake its ACK, and the
    /// ACK may bring an answer: that comes first.
    pub(super) fn next_exchange(&mut self) {
        if self.exchange.is_some() || self.record.phase != Phase::Confirmed {
            return;
        }
        let Some(from) = self.queued.front().copied() else { return };
        let Some(leg) = self.record.leg_mut(from).filter(|leg| !leg.awaits_ack()) else { return };
        let Some(server) = leg.open_server_invite() else {
            self.queued.pop_front();
            return self.next_exchange();
        };
        let sequence = server.sequence;
        let request = server.request.as_ref();
        let body = request.map_or(Body::Nothing, Body::of_request);
        let passed = request.map(|request| headers::passed(&request.headers)).unwrap_or_default();
        let offer = match body.offer(&leg.description) {
            Ok(offer) => offer,
            Err(why) => {
                self.queued.pop_front();
                self.refuse_offer(from, sequence, why);
                return self.next_exchange();
            }
        };
        let repeated =
            !leg.in_doubt && offer.as_ref().is_some_and(|offer| leg.description.is_repeat(offer));
        if self.record.bridge == Bridge::Echo {
            self.queued.pop_front();
            return self.answer_echo(from, sequence, offer);
        }
        if repeated {
            self.queued.pop_front();
            self.answer_repeat(from, sequence);
            return self.next_exchange();
        }
        let Some(to) = self.record.peer_of(from) else { return };
        if self.has_left() {
            // Nobody is there to ask, until somebody comes: later, please (RFC 3261 §14.1).
            self.queued.pop_front();
            self.refuse(from, &Method::Invite, sequence, 491);
            return self.next_exchange();
        }
        let free = |leg: &super::leg::Leg| !leg.is_negotiating() && leg.owed_ack.is_none();
        if !self.record.leg(to).is_some_and(free) {
            return;
        }
        self.queued.pop_front();
        self.exchange = Some(Exchange {
            from,
            to,
            sequence,
            offer,
            stage: Stage::Offered,
            attempts: 0,
            backup: None,
        });
        self.record.passed = passed;
        self.grow_streams();
    }

    /// An offer that cannot be: 488, and everything stays as it was.
    fn refuse_offer(&mut self, id: LegId, sequence: u32, why: Disagreement) {
        let warning = [headers::warning(why)];
        self.respond(&Reply::new(id, Method::Invite, sequence, 488), |response| {
            super::send::pass(response, &warning);
        });
    }

    /// A new audio line needs ports on both legs first; else the offer goes on at once.
    fn grow_streams(&mut self) {
        let Some(exchange) = &self.exchange else { return };
        let wanted = exchange
            .offer
            .as_ref()
            .map_or(1, |offer| usize::from(offer_answer::anchored_streams(offer)));
        let (from, to) = (exchange.from, exchange.to);
        let has = |id| self.record.leg(id).map_or(0, |leg| leg.streams.len());
        if wanted > has(from).min(has(to)) {
            return self.apply_media(Then::Offer);
        }
        self.send_offer();
    }

    /// Sends the exchange's offer to the other leg, behind one commit with the 100.
    pub(super) fn send_offer(&mut self) {
        let Some(mut exchange) = self.exchange.clone() else { return };
        exchange.backup = self.record.leg(exchange.to).map(|leg| leg.description.clone());
        let policy =
            self.record.leg(exchange.from).map(|leg| leg.policy.clone()).unwrap_or_default();
        let passed = self.record.passed.clone();
        let Some(leg) = self.record.leg_mut(exchange.to) else { return };
        let own_policy = leg.policy.clone();
        let local = leg.local_addresses();
        let sdp = match &exchange.offer {
            None => None,
            Some(offer) => {
                let description = &mut leg.description;
                match offer_answer::relay_offer(offer, &policy, description, &own_policy, &local) {
                    Ok(sdp) => Some(sdp),
                    Err(_) => return self.refuse_exchange(Status(488), &[]),
                }
            }
        };
        let mut invite = leg.dialog.request(Method::Invite);
        headers::add_passed(&mut invite.headers, &passed);
        if let Some(sdp) = &sdp {
            set_sdp_request(&mut invite, sdp);
        }
        let Some(invite) = self.prepare_request(exchange.to, invite) else { return };
        let rev = self.save();
        if exchange.attempts == 0 {
            let reply = Reply::new(exchange.from, Method::Invite, exchange.sequence, 100);
            self.respond(&reply.behind(rev), |_| {});
        }
        let to = exchange.to;
        self.exchange = Some(Exchange { stage: Stage::Offered, ..exchange });
        self.send_prepared(to, invite, Purpose::Modify, Some(rev));
    }

    /// A final response to the exchange's INVITE.
    pub(super) fn exchange_answered(&mut self, id: LegId, response: &Response) {
        let Some(exchange) = self.exchange.clone().filter(|exchange| exchange.to == id) else {
            return self.end_stray_answer(id, response);
        };
        if !response.status.is_success() {
            return self.exchange_refused(&exchange, response);
        }
        let sequence = response.cseq().map_or(0, |cseq| cseq.number);
        if let Some(leg) = self.record.leg_mut(id) {
            leg.owed_ack = Some(sequence);
            leg.stale = None;
            if let Some(contact) = response.contact() {
                leg.dialog.refresh_target(&contact);
            }
        }
        let Some(description) = Body::of_response(response).description() else {
            return self.end_by_system(EndCause::Rejected, "re-INVITE answered without SDP");
        };
        self.record.passed = headers::passed(&response.headers);
        if exchange.offer.is_none() {
            if let Some(leg) = self.record.leg_mut(id) {
                leg.owed_answer = Some(Box::new(description.clone()));
            }
            return self.relay_late_reoffer(&exchange, description);
        }
        match self.settle_exchange(exchange.from, id, &description) {
            Ok(()) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.stage = Stage::Applying;
                }
                self.apply_media(Then::Exchange);
            }
            Err(why) => self.end_by_system(EndCause::Rejected, &why.to_string()),
        }
    }

    /// Agrees on `answerer`'s answer to the exchange's offer and notes it on both legs.
    fn settle_exchange(
        &mut self,
        offerer: LegId,
        answerer: LegId,
        answer: &Description,
    ) -> Result<(), Disagreement> {
        let missing = Disagreement::NoAudio;
        let exchange = self.exchange.as_ref().ok_or(missing)?;
        let offer = exchange.offer.clone().ok_or(missing)?;
        let from = self.record.leg(offerer).ok_or(missing)?;
        let to = self.record.leg(answerer).ok_or(missing)?;
        let agreement =
            offer_answer::agree(&offer, &from.description, &from.policy, answer, &to.description)?;
        let offered = agreement.streams.iter().any(|stream| stream.offerer.direction.sends());
        let sides = agreement.streams.into_iter();
        let (offering, answering): (Vec<_>, Vec<_>) =
            sides.map(|stream| (stream.offerer, stream.answerer)).unzip();
        self.change_sides(offerer, offer, offering, true);
        self.change_sides(answerer, answer.clone(), answering, offered);
        Ok(())
    }

    pub(super) fn change_sides(
        &mut self,
        id: LegId,
        description: Description,
        sides: Vec<offer_answer::StreamSide>,
        offered: bool,
    ) {
        let call = self.record.id;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let held = leg.holds;
        leg.description.take(description);
        leg.in_doubt = false;
        leg.set_sides(sides.into_iter());
        leg.note_hold(offered);
        let holds = leg.holds;
        if holds != held {
            self.emit(Event::CallHold { call, leg: id, held: holds });
        }
        self.start_probes();
    }

    /// The answer is in force: one commit, then 200 to who asked and ACK to who answered.
    pub(super) fn finish_exchange(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        let agreement = self.agreement(exchange.from, exchange.to);
        let Some((leg, offer)) = self.record.leg_mut(exchange.from).zip(exchange.offer) else {
            return;
        };
        let local = leg.local_addresses();
        let sdp = offer_answer::answer(&offer, &mut leg.description, &agreement, &local);
        // Who takes over from here owes this ACK: the INVITE is not open any more.
        let rev = self.save();
        let owed = self.record.leg_mut(exchange.to).and_then(|leg| leg.owed_ack.take());
        if let Some(sequence) = owed {
            self.acknowledge(exchange.to, sequence, None, Some(rev));
        }
        let reply = Reply::new(exchange.from, Method::Invite, exchange.sequence, 200);
        let passed = core::mem::take(&mut self.record.passed);
        self.respond(&reply.behind(rev), |response| {
            super::send::pass(response, &passed);
            set_sdp(response, &sdp);
        });
        self.next_exchange();
    }

    /// Late re-INVITE: the offer of `to` becomes the offer for `from`, in its 200.
    fn relay_late_reoffer(&mut self, exchange: &Exchange, offer: Description) {
        let Some(leg) = self.record.leg(exchange.to) else { return };
        let policy = leg.policy.clone();
        let offer = match offer_answer::screened(offer, &leg.description) {
            Ok(offer) => offer,
            Err(why) => return self.end_by_system(EndCause::Rejected, &why.to_string()),
        };
        let Some(leg) = self.record.leg_mut(exchange.from) else { return };
        let local = leg.local_addresses();
        let own_policy = leg.policy.clone();
        let description = &mut leg.description;
        let relayed = offer_answer::relay_offer(&offer, &policy, description, &own_policy, &local);
        let Ok(sdp) = relayed else {
            return self.end_by_system(EndCause::Rejected, "no codec in common any more");
        };
        if let Some(exchange) = &mut self.exchange {
            exchange.offer = Some(offer);
            exchange.stage = Stage::AwaitingAck;
        }
        let rev = self.save();
        let passed = core::mem::take(&mut self.record.passed);
        let reply = Reply::new(exchange.from, Method::Invite, exchange.sequence, 200);
        self.respond(&reply.behind(rev), |response| {
            super::send::pass(response, &passed);
            set_sdp(response, &sdp);
        });
    }

    /// The ACK of a late offer brought the answer.
    pub(super) fn late_answer(&mut self, id: LegId, body: Body) {
        let Some(exchange) = self.exchange.clone() else { return };
        let Some(answer) = body.description() else {
            return self.end_by_system(EndCause::Rejected, "the ACK of a late offer had no SDP");
        };
        match self.settle_exchange(exchange.to, id, &answer) {
            Ok(()) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.stage = Stage::Applying;
                }
                self.apply_media(Then::LateAnswer);
            }
            Err(why) => self.end_by_system(EndCause::Rejected, &why.to_string()),
        }
    }

    /// The late answer is in force: ACK with our answer to who offered.
    pub(super) fn finish_late_answer(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        let agreement = self.agreement(exchange.to, exchange.from);
        let Some((leg, offer)) = self.record.leg_mut(exchange.to).zip(exchange.offer) else {
            return;
        };
        let local = leg.local_addresses();
        let sdp = offer_answer::answer(&offer, &mut leg.description, &agreement, &local);
        let rev = self.save();
        let owed = self.record.leg_mut(exchange.to).and_then(|leg| leg.owed_ack.take());
        if let Some(sequence) = owed {
            self.acknowledge(exchange.to, sequence, Some(&sdp), Some(rev));
        }
        self.next_exchange();
    }

    fn exchange_refused(&mut self, exchange: &Exchange, response: &Response) {
        match response.status.0 {
            491 if exchange.attempts + 1 < ATTEMPTS => {
                self.restore_backup();
                let at =
                    self.now + self.glare_delay(exchange.to, exchange.attempts, exchange.sequence);
                if let Some(exchange) = &mut self.exchange {
                    exchange.stage = Stage::Retry(at);
                    exchange.attempts += 1;
                }
            }
            408 | 481 => {
                let status = response.status;
                self.refuse_exchange(status, &[]);
                self.leg_is_gone();
            }
            _ => {
                let status = match response.status.0 {
                    401 | 407 | 300..=399 => Status(488),
                    _ => response.status,
                };
                self.refuse_exchange(status, &headers::passed(&response.headers));
            }
        }
    }

    /// Tells who asked; everything stays as it was.
    pub(super) fn refuse_exchange(&mut self, status: Status, passed: &[(String, String)]) {
        self.restore_backup();
        let Some(exchange) = self.exchange.take() else { return };
        let mut reply = Reply::new(exchange.from, Method::Invite, exchange.sequence, 0);
        reply.status = status;
        self.respond(&reply, |response| super::send::pass(response, passed));
        self.next_exchange();
    }

    /// The former description is in force again; its version only rises.
    fn restore_backup(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        let (to, Some(backup)) = (exchange.to, exchange.backup.take()) else { return };
        if let Some(leg) = self.record.leg_mut(to)
            && leg.description.sent != backup.sent
        {
            leg.description = backup.after_refusal(&leg.description);
        }
    }

    /// RFC 3261 §14.1: 2.1-4 s when we made the dialog's Call-ID, 0-2 s when the phone did; in steps of 10 ms.
    pub(super) fn glare_delay(&self, to: LegId, attempts: u8, sequence: u32) -> Duration {
        let drawn = self
            .settings
            .key
            .mac("glare", &[&self.record.id.0.to_be_bytes(), &[attempts], &sequence.to_be_bytes()]);
        let random = u64::from(u16::from_be_bytes([drawn[0], drawn[1]]));
        let called = self.record.added_4.origin.is_some();
        let ours = called || to != LegId::CALLER;
        if ours {
            Duration::from_millis(2_100 + random % 191 * 10)
        } else {
            Duration::from_millis(random % 201 * 10)
        }
    }

    /// The same description again (a session refresh): our last SDP again.
    fn answer_repeat(&mut self, id: LegId, sequence: u32) {
        let sdp = self.record.leg_mut(id).and_then(|leg| leg.description.repeat());
        let rev = self.save();
        self.respond(&Reply::new(id, Method::Invite, sequence, 200).behind(rev), |response| {
            set_sdp(response, &sdp.unwrap_or_default());
        });
    }

    fn answer_echo(&mut self, id: LegId, sequence: u32, offer: Option<Description>) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let (local, policy) = (leg.local_addresses(), leg.policy.clone());
        let sdp = match offer {
            None => {
                let direction = crate::sdp::Direction::SendRecv;
                offer_answer::own_offer(&mut leg.description, &policy, direction, &local)
            }
            Some(offer) => {
                let spoken = Spoken::Offer;
                let agreed = offer_answer::agree_alone(&offer, &leg.description, &policy, spoken);
                let sides = match agreed {
                    Ok(sides) => sides,
                    Err(why) => return self.refuse_offer(id, sequence, why),
                };
                let description = &mut leg.description;
                let sdp = offer_answer::answer_alone(&offer, description, &sides, &local);
                self.change_sides(id, offer, sides, true);
                sdp
            }
        };
        self.apply_media(Then::Nothing);
        let rev = self.save();
        self.respond(&Reply::new(id, Method::Invite, sequence, 200).behind(rev), |response| {
            set_sdp(response, &sdp);
        });
    }

    /// The caller of an echo answered our late offer.
    pub(super) fn echo_answer(&mut self, id: LegId, body: Body) {
        let Some(answer) = body.description() else { return };
        let Some(leg) = self.record.leg(id) else { return };
        let (description, spoken) = (&leg.description, Spoken::Answer);
        let agreed = offer_answer::agree_alone(&answer, description, &leg.policy, spoken);
        match agreed {
            Ok(sides) => {
                self.change_sides(id, answer, sides, true);
                self.apply_media(Then::Nothing);
            }
            Err(why) => self.end_by_system(EndCause::Rejected, &why.to_string()),
        }
    }

    /// The ACK that a phone is owed. An offer in its 2xx whose answer nobody gives any more is answered by what is in
    /// force between it and its peer; one that has none is refused.
    pub(super) fn pay_in_force(&mut self, id: LegId, behind: Option<Rev>) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let Some(sequence) = leg.owed_ack.take() else { return };
        let peer = self.record.peer_of(id).filter(|_| self.record.phase == Phase::Confirmed);
        let agreement = peer.map(|peer| self.agreement(id, peer));
        let sdp = agreement.zip(self.record.leg_mut(id)).and_then(|(agreement, leg)| {
            let (offer, local) = (leg.owed_answer.as_ref()?, leg.local_addresses());
            Some(offer_answer::answer(offer, &mut leg.description, &agreement, &local))
        });
        self.acknowledge(id, sequence, sdp.as_deref(), behind);
    }

    /// An exchange that ends before its time: as agreed if its answer is settled, refused otherwise. True: refused, and
    /// what a phone was told of it does not hold.
    pub(super) fn cut_exchange(&mut self) -> bool {
        let Some(stage) = self.exchange.as_ref().map(|exchange| exchange.stage) else {
            return false;
        };
        let is_late = self.awaited.iter().any(|(_, then)| *then == Then::LateAnswer);
        for (_, then) in &mut self.awaited {
            if matches!(then, Then::Offer | Then::Exchange | Then::LateAnswer) {
                *then = Then::Nothing;
            }
        }
        match stage {
            Stage::Applying if is_late => self.finish_late_answer(),
            Stage::Applying => self.finish_exchange(),
            Stage::Offered | Stage::Retry(_) | Stage::AwaitingAck => {
                self.refuse_exchange(Status(491), &[]);
                return true;
            }
        }
        false
    }

    /// A 2xx to a re-INVITE that nobody waits for any more; an UPDATE has no ACK.
    pub(super) fn end_stray_answer(&mut self, id: LegId, response: &Response) {
        let cseq = response.cseq().filter(|cseq| cseq.method == Method::Invite);
        if let Some(cseq) = cseq.filter(|_| response.status.is_success()) {
            if let Some(leg) =
                self.record.leg_mut(id).filter(|leg| leg.asked_for_offer(cseq.number))
            {
                leg.owed_answer = Body::of_response(response).description().map(Box::new);
            }
            if let Some(leg) = self.record.leg_mut(id) {
                leg.owed_ack = Some(cseq.number);
            }
            self.pay_in_force(id, None);
            if self.record.leg(id).is_some_and(|leg| leg.state == LegState::Ended) {
                self.send_bye(id, None);
            }
        }
    }
}
