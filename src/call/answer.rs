//! From a branch's 2xx to the caller's: agreement, media, one commit, then 200 and ACK. Late offers go the other way
//! round: the callee's offer in the 200, the caller's answer in its ACK, and only then the callee's ACK (RFC 6337
//! §2.3).

use super::leg::{Leg, LegState};
use super::media::Then;
use super::modify::{Exchange, Stage};
use super::offer::Body;
use super::record::{Bridge, Phase};
use super::send::set_sdp;
use super::{Call, headers};
use crate::event::Event;
use crate::ids::LegId;
use crate::sdp::offer_answer::{self, Disagreement, Spoken, TRANSCODABLE, agree_alone};
use crate::sdp::{Agreement, Description};
use crate::sip::{Response, Status};
use crate::views::EndCause;

impl Call {
    /// 2xx to the first INVITE of a branch.
    pub(super) fn branch_answered(&mut self, id: LegId, response: &Response) {
        let sequence = response.cseq().map_or(1, |cseq| cseq.number);
        let transfers = self.is_transferring();
        let wins = (self.record.phase == Phase::Ringing || transfers)
            && self.record.leg(id).is_some_and(Leg::is_ringing);
        let now = self.now;
        let late = self.record.offer.is_none() && !self.rings_caller();
        let Some(leg) = self.record.leg_mut(id) else { return };
        if leg.answered_at.is_some() {
            return self.end_foreign_answer(id, response);
        }
        leg.dialog.establish(response);
        leg.last_status = Some(response.status.0);
        if late {
            leg.owed_answer = Body::of_response(response).description().map(Box::new);
        }
        if !wins {
            return self.end_late_answer(id, sequence);
        }
        leg.state = LegState::Confirmed;
        leg.answered_at = Some(now);
        leg.owed_ack = Some(sequence);
        self.follow_route(id);
        self.end_branches(Some(id), None);
        if transfers {
            return self.transfer_answered(id, response);
        }
        if self.rings_caller() {
            return self.caller_answered(id, response);
        }
        self.record.phase = Phase::Answering(id);
        self.ringing_repeat_at = None;
        self.record.passed = headers::passed(&response.headers);
        match (Body::of_response(response), self.record.offer.is_some()) {
            (Body::Description(offer), false) => self.relay_late_offer(id, *offer),
            (Body::Description(answer), true) => self.take_answer(id, &answer),
            (Body::Nothing, true) if self.record.bridge == Bridge::Leg(id) => {
                self.apply_media(Then::Answer { leg: id });
            }
            (Body::Nothing | Body::Bad(_), _) => {
                let why = "the callee sent no usable SDP";
                self.fail_by_phone(Status(488), EndCause::Rejected, why);
            }
        }
    }

    fn take_answer(&mut self, id: LegId, answer: &Description) {
        if let Err(why) = self.settle(id, answer) {
            return self.disagree(why);
        }
        self.record.bridge = Bridge::Leg(id);
        self.apply_media(Then::Answer { leg: id });
    }

    /// Agrees on a branch's answer and notes it on both legs. An answer that the caller was given before binds: another
    /// branch is then transcoded to it.
    pub(super) fn settle(&mut self, id: LegId, answer: &Description) -> Result<(), Disagreement> {
        let offer = self.record.offer.clone().ok_or(Disagreement::NoAudio)?;
        let (from, called) = (self.record.caller_leg(), self.is_called());
        let caller = self.record.leg(from).ok_or(Disagreement::NoAudio)?;
        let leg = self.record.leg(id).ok_or(Disagreement::NoAudio)?;
        let mut agreement = offer_answer::agree(
            &offer,
            &caller.description,
            &caller.policy,
            answer,
            &leg.description,
        )?;
        // A caller that was called has answered before anybody else.
        let is_bound = self.caller_answer.is_some() || called;
        if is_bound {
            bind_offerer(&mut agreement, caller)?;
        }
        if let Some(caller) = self.record.leg_mut(from) {
            if !is_bound {
                caller.description.take(offer);
            }
            caller.set_sides(agreement.streams.iter().map(|stream| stream.offerer.clone()));
            caller.note_hold(true);
        }
        if let Some(leg) = self.record.leg_mut(id) {
            leg.description.take(answer.clone());
            leg.set_sides(agreement.streams.iter().map(|stream| stream.answerer.clone()));
            leg.note_hold(agreement.streams.iter().any(|stream| stream.offerer.direction.sends()));
        }
        Ok(())
    }

    /// The SDP answer for the caller; made once.
    pub(super) fn answer_for_caller(&mut self, id: LegId) -> String {
        if let Some(sdp) = &self.caller_answer {
            return sdp.clone();
        }
        let agreement = self.agreement(LegId::CALLER, id);
        let offer = self.record.offer.clone();
        let Some((caller, offer)) = self.record.leg_mut(LegId::CALLER).zip(offer) else {
            return String::new();
        };
        let local = caller.local_addresses();
        let sdp = offer_answer::answer(&offer, &mut caller.description, &agreement, &local);
        self.caller_answer = Some(sdp.clone());
        sdp
    }

    /// What is in force between two legs, as an agreement whose offerer is the first.
    pub(super) fn agreement(&self, offerer: LegId, answerer: LegId) -> Agreement {
        let sides = |id| {
            let streams = self.record.leg(id).map(|leg| leg.streams.as_slice()).unwrap_or_default();
            streams.iter().filter_map(|stream| stream.side.clone())
        };
        let streams = sides(offerer).zip(sides(answerer)).enumerate();
        let streams = streams.map(|(index, (offerer, answerer))| offer_answer::StreamAgreement {
            index: u8::try_from(index).unwrap_or(u8::MAX),
            offerer,
            answerer,
        });
        Agreement { streams: streams.collect() }
    }

    /// Both can hear each other: one commit, then ACK to the callee and 200 to the caller.
    pub(super) fn send_answer(&mut self, id: LegId) {
        if self.record.phase != Phase::Answering(id) {
            return;
        }
        let sdp = self.answer_for_caller(id);
        self.confirm(id);
        let rev = self.save();
        let owed = self.record.leg_mut(id).and_then(|leg| leg.owed_ack.take());
        if let Some(sequence) = owed {
            self.acknowledge(id, sequence, None, Some(rev));
        }
        let passed = core::mem::take(&mut self.record.passed);
        self.respond_caller(Status(200), Some(rev), |response| {
            super::send::pass(response, &passed);
            set_sdp(response, &sdp);
        });
    }

    pub(super) fn confirm(&mut self, id: LegId) {
        let now = self.now;
        self.record.phase = Phase::Confirmed;
        self.record.answered_at = Some(now);
        if let Some(caller) = self.record.leg_mut(self.record.caller_leg())
            && caller.state != LegState::Confirmed
        {
            (caller.state, caller.answered_at) = (LegState::Confirmed, Some(now));
            self.follow_route(LegId::CALLER);
        }
        self.start_probes();
        let answered_by = self.record.leg(id).and_then(|leg| leg.extension.clone());
        let setup = now.saturating_since(self.record.created_at);
        self.emit(Event::CallAnswered {
            call: self.record.id,
            answered_by: answered_by.unwrap_or_default(),
            setup_ms: u64::try_from(setup.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// The callee's offer becomes the caller's, in the 200; the caller's ACK will answer it.
    fn relay_late_offer(&mut self, id: LegId, offer: Description) {
        let Some(leg) = self.record.leg(id) else { return };
        let policy = leg.policy.clone();
        let offer = match offer_answer::screened(offer, &leg.description) {
            Ok(offer) => offer,
            Err(why) => return self.disagree(why),
        };
        let Some(caller) = self.record.leg_mut(LegId::CALLER) else { return };
        let local = caller.local_addresses();
        let caller_policy = caller.policy.clone();
        let relayed = offer_answer::relay_offer(
            &offer,
            &policy,
            &mut caller.description,
            &caller_policy,
            &local,
        );
        let sequence = caller.open_server_invite().map_or(0, |server| server.sequence);
        let Ok(sdp) = relayed else {
            return self.fail_by_phone(Status(488), EndCause::Rejected, "no codec in common");
        };
        self.exchange = Some(Exchange {
            from: LegId::CALLER,
            to: id,
            sequence,
            offer: Some(offer),
            stage: Stage::AwaitingAck,
            attempts: 0,
            backup: None,
        });
        self.record.bridge = Bridge::Leg(id);
        self.confirm(id);
        let rev = self.save();
        let passed = core::mem::take(&mut self.record.passed);
        self.respond_caller(Status(200), Some(rev), |response| {
            super::send::pass(response, &passed);
            set_sdp(response, &sdp);
        });
    }

    /// A branch that lost answered all the same: acknowledged, then ended (RFC 3261 §13.2.2.4).
    fn end_late_answer(&mut self, id: LegId, sequence: u32) {
        let now = self.now;
        self.acknowledge(id, sequence, None, None);
        self.send_bye(id, None);
        if let Some(leg) = self.record.leg_mut(id) {
            leg.state = LegState::Ended;
            leg.ended_at.get_or_insert(now);
        }
    }

    /// A proxy behind the branch forked, and a second phone answered: its dialog is acknowledged and ended.
    fn end_foreign_answer(&mut self, id: LegId, response: &Response) {
        if self.repeat_acknowledgement(id, response) {
            return;
        }
        let Some(leg) = self.record.leg(id) else { return };
        let tag = response.to().and_then(|to| to.tag()).unwrap_or_default();
        if tag == leg.dialog.remote_tag {
            return;
        }
        let dialog = leg.dialog.clone();
        let sequence = response.cseq().map_or(1, |cseq| cseq.number);
        if let Some(leg) = self.record.leg_mut(id) {
            leg.dialog.establish(response);
        }
        self.acknowledge(id, sequence, None, None);
        self.send_bye(id, None);
        if let Some(leg) = self.record.leg_mut(id) {
            let local_seq = leg.dialog.local_seq;
            leg.dialog = dialog;
            leg.dialog.local_seq = local_seq;
        }
    }

    pub(super) fn start_echo(&mut self) {
        self.record.bridge = Bridge::Echo;
        self.apply_media(Then::Echo);
    }

    /// Ports are known: the caller's own voice comes back to it.
    pub(super) fn send_echo_answer(&mut self) {
        if self.record.phase != Phase::Routing {
            return;
        }
        let offer = self.record.offer.clone();
        let Some(caller) = self.record.leg_mut(LegId::CALLER) else { return };
        let local = caller.local_addresses();
        let policy = caller.policy.clone();
        let sdp = match offer {
            None => offer_answer::own_offer(
                &mut caller.description,
                &policy,
                crate::sdp::Direction::SendRecv,
                &local,
            ),
            Some(offer) => match agree_alone(&offer, &caller.description, &policy, Spoken::Offer) {
                Err(why) => return self.disagree(why),
                Ok(sides) => {
                    let sdp =
                        offer_answer::answer_alone(&offer, &mut caller.description, &sides, &local);
                    caller.description.take(offer);
                    caller.set_sides(sides.into_iter());
                    sdp
                }
            },
        };
        self.confirm(LegId::CALLER);
        self.apply_media(Then::Nothing);
        let rev = self.save();
        self.respond_caller(Status(200), Some(rev), |response| set_sdp(response, &sdp));
    }
}

/// Keeps the offerer's side as it was promised; the other side must then be the same codec or one we can transcode.
pub(super) fn bind_offerer(agreement: &mut Agreement, caller: &Leg) -> Result<(), Disagreement> {
    for (stream, known) in agreement.streams.iter_mut().zip(&caller.streams) {
        let Some(side) = &known.side else { continue };
        let (Some(promised), Some(new)) = (&side.codec, &stream.answerer.codec) else { continue };
        let same = promised.encoding.eq_ignore_ascii_case(&new.encoding)
            && promised.clock_rate_hz == new.clock_rate_hz;
        let known = |codec: &crate::control::Codec| {
            TRANSCODABLE.iter().any(|name| codec.encoding.eq_ignore_ascii_case(name))
        };
        if same || (known(promised) && known(new)) {
            stream.offerer = side.clone();
        } else {
            return Err(Disagreement::NoCodec);
        }
    }
    Ok(())
}
