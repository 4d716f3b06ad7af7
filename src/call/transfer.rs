//! Blind transfer by an operator: one phone leaves, and whom it talks to is connected with somebody else. The new
//! phones ring with the staying phone's own description as the offer, while the call goes on; the one that answers
//! takes the place of the one that leaves, which gets BYE. REFER is not used: many phones ask their user first, or
//! refuse it, and what became of it would not be known here.
//!
//! Invariants: until somebody answers the call is as it was, and so it stays when nobody does; a phone that hangs up to
//! leave ends nothing (as in RFC 5589, where who transfers need not wait for the outcome): the one that stays hears
//! ringback, and the call is over when nobody comes; the staying phone is bound to the codec that it talks, and is told
//! nothing unless what it may hear and say changes; the phone that leaves gets its BYE when the call is stored without
//! it, from whoever owns the call then.

use super::answer::bind_offerer;
use super::leg::{Leg, LegState};
use super::media::Then;
use super::offer::Body;
use super::record::{Bridge, Party, Phase, Transfer, Transferred};
use super::{Call, LAZY_SAVE};
use crate::directory::{Binding, User};
use crate::event::Event;
use crate::ids::{LegId, Rev};
use crate::limits;
use crate::sdp::Description;
use crate::sdp::offer_answer::{self, Disagreement};
use crate::sip::{Method, Response, Status};
use crate::time::Timestamp;
use crate::views::call::LegRole;
use crate::views::steer::{SteeringAct, TransferRecord, TransferView};
use crate::views::{EndedBy, Rfc3339};
use core::time::Duration;

/// Told to the phone that leaves (RFC 3326).
const TRANSFERRED: &str = "SIP;cause=200;text=\"Transferred\"";
/// A CDR tells of no more.
const RECORDS: usize = 16;

impl Transferred {
    pub(super) fn view(&self) -> TransferRecord {
        TransferRecord {
            at: Rfc3339(self.at),
            leg: self.role,
            from: self.from.clone(),
            to: self.to.clone(),
            sip_status: self.status,
        }
    }
}

impl Call {
    /// An operator wants it; whom it leads to is known. The rev with which it is kept, or what stands against it.
    pub fn transfer(
        &mut self,
        role: LegRole,
        to: &str,
        (user, phones): (&User, &[Binding]),
        now: Timestamp,
    ) -> Result<Rev, &'static str> {
        self.now = now;
        let leaves = *self.connected(Some(role))?.first().ok_or(super::steer::NO_LEG)?;
        let stays = self.record.peer_of(leaves).ok_or("nobody else is in the call")?;
        if self.is_transferring() {
            return Err("another transfer is under way");
        }
        let stays = self.record.leg(stays).ok_or("nobody else is in the call")?;
        if stays.extension.as_ref() == Some(&user.extension) {
            return Err("that is who stays");
        }
        let offer = stays.description.received.clone().ok_or("the call is being set up")?;
        if self.record.legs.len() >= limits::LEGS_PER_CALL {
            return Err("the call has had too many phones");
        }
        let timeout = user.ring_timeout_ms.map(Duration::from_millis);
        let deadline = now + timeout.unwrap_or(self.settings.ring_timeout);
        self.record.offer = Some(offer);
        self.record.passed.clear();
        self.best = None;
        self.record.added_5.transfer = Some(Transfer { leaves, to: to.to_owned(), deadline });
        self.add_branches(user, phones, &[]);
        self.emit(Event::CallSteered {
            call: self.record.id,
            act: SteeringAct::Transfer,
            role: Some(role),
        });
        let rev = self.save();
        self.open_ports(Then::Invite);
        Ok(rev)
    }

    pub(super) const fn is_transferring(&self) -> bool {
        self.record.added_5.transfer.is_some()
    }

    pub(super) fn transfer_deadline(&self) -> Option<Timestamp> {
        let transfer = self.record.added_5.transfer.as_ref();
        transfer.filter(|_| self.record.phase == Phase::Confirmed).map(|one| one.deadline)
    }

    pub(super) fn transfer_view(&self) -> Option<TransferView> {
        let transfer = self.record.added_5.transfer.as_ref()?;
        let leg = self.record.leg(transfer.leaves)?.role;
        Some(TransferView { leg, to: transfer.to.clone() })
    }

    /// Who goes on talking.
    pub(super) fn staying(&self) -> Option<LegId> {
        self.record.peer_of(self.record.added_5.transfer.as_ref()?.leaves)
    }

    /// Who leaves hangs up before anybody came.
    pub(super) fn leaves_early(&self, id: LegId) -> bool {
        let transfer = self.record.added_5.transfer.as_ref();
        let leaves = transfer.is_some_and(|transfer| transfer.leaves == id);
        leaves && self.record.phase == Phase::Confirmed && !self.has_left()
    }

    /// It did: who stays is alone until somebody comes.
    pub(super) fn has_left(&self) -> bool {
        let transfer = self.record.added_5.transfer.as_ref();
        let leg = transfer.and_then(|transfer| self.record.leg(transfer.leaves));
        leg.is_some_and(|leg| !leg.is_live())
    }

    /// It did, just now. The rev with which it is kept.
    pub(super) fn note_departure(&mut self, id: LegId) -> Rev {
        self.end_dialog(id);
        let is_cut = self.part_from(id);
        if let Some(leg) = self.record.leg_mut(id) {
            leg.state = LegState::Ended;
        }
        if let Some(stays) = self.staying().filter(|_| is_cut) {
            self.tell_phone(stays);
        }
        self.start_probes();
        self.apply_media(Then::Nothing);
        let rev = self.save();
        self.next_exchange();
        self.refresh_targets();
        rev
    }

    /// A leg of who is called by a transfer.
    pub(super) fn is_to_come(&self, id: LegId) -> bool {
        self.is_transferring() && self.record.leg(id).is_some_and(Leg::is_ringing)
    }

    /// Whose place is taken.
    pub(super) fn coming_role(&self) -> LegRole {
        let leaves = self.record.added_5.transfer.as_ref().map(|transfer| transfer.leaves);
        match leaves == Some(self.record.caller_leg()) {
            true => LegRole::Caller,
            false => LegRole::Callee,
        }
    }

    /// Whom the new phones are shown, when it is not the caller as it presents itself.
    pub(super) fn presented(&self) -> Option<Party> {
        let stays = self.record.leg(self.staying()?)?;
        let record = &self.record;
        if stays.extension.is_some() && stays.extension == record.caller.extension {
            return None;
        }
        let known = (stays.extension == record.callee.extension).then(|| record.callee.clone());
        let unknown = || Party { extension: stays.extension.clone(), ..Party::default() };
        Some(known.unwrap_or_else(unknown))
    }

    pub(super) fn transfer_rings(&mut self, id: LegId, response: &Response) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        leg.dialog.establish(response);
        leg.state = LegState::Early;
        leg.last_status = Some(response.status.0);
        self.save_within(LAZY_SAVE);
    }

    /// A new phone took the call: it has the place of the one that leaves.
    pub(super) fn transfer_answered(&mut self, id: LegId, response: &Response) {
        let Some((transfer, stays)) = self.record.added_5.transfer.clone().zip(self.staying())
        else {
            return;
        };
        let answer = Body::of_response(response).description();
        let agreed = answer.ok_or(Disagreement::NoAudio);
        if let Err(why) = agreed.and_then(|answer| self.agree_with_coming(stays, id, &answer)) {
            self.end_leg(id, Some(&format!("SIP;cause=488;text=\"{why}\"")));
            return self.fail_transfer(Status(488));
        }
        match transfer.leaves == self.record.caller_leg() {
            true => self.record.added_5.caller = Some(id),
            false => self.record.bridge = Bridge::Leg(id),
        }
        self.note_transfer(200);
        let is_cut = self.part_from(transfer.leaves);
        // What the staying phone said since it was offered to who comes is news to that one.
        for leg in [id, stays] {
            let hears_otherwise = self.record.leg(leg).is_some_and(|leg| self.hears_otherwise(leg));
            if hears_otherwise || is_cut && leg == stays {
                self.tell_phone(leg);
            }
        }
        self.start_probes();
        self.apply_media(Then::Nothing);
        // The phone that leaves is in it as one that talks: who takes over from here owes it a BYE.
        let rev = self.save();
        self.pay_in_force(id, Some(rev));
        self.pay_in_force(stays, Some(rev));
        self.end_leg_behind(transfer.leaves, Some(TRANSFERRED), Some(rev));
        self.save_within(LAZY_SAVE);
        self.next_exchange();
        self.refresh_targets();
    }

    /// Another owner carries it on: phones that left, and were not told so, perhaps.
    pub(super) fn end_left_behind(&mut self) {
        let Bridge::Leg(callee) = self.record.bridge else { return };
        if self.record.phase != Phase::Confirmed {
            return;
        }
        let talk = [self.record.caller_leg(), callee];
        let left = self.record.legs.iter().filter(|leg| leg.state == LegState::Confirmed);
        let left: Vec<LegId> = left.map(|leg| leg.id).filter(|id| !talk.contains(id)).collect();
        for id in left {
            self.end_leg(id, Some(TRANSFERRED));
        }
    }

    fn hears_otherwise(&self, leg: &Leg) -> bool {
        !leg.description.is_turned(&self.directions_to(leg.id))
    }

    fn agree_with_coming(
        &mut self,
        stays: LegId,
        id: LegId,
        answer: &Description,
    ) -> Result<(), Disagreement> {
        let missing = Disagreement::NoAudio;
        let offer = self.record.offer.clone().ok_or(missing)?;
        let staying = self.record.leg(stays).ok_or(missing)?;
        let coming = self.record.leg(id).ok_or(missing)?;
        let (ours, theirs) = (&staying.description, &coming.description);
        let mut agreed = offer_answer::agree(&offer, ours, &staying.policy, answer, theirs)?;
        bind_offerer(&mut agreed, staying)?;
        let offered = coming.description.promises_sound();
        if let Some(leg) = self.record.leg_mut(id) {
            leg.description.take(answer.clone());
            leg.set_sides(agreed.streams.into_iter().map(|stream| stream.answerer));
            leg.note_hold(offered);
        }
        Ok(())
    }

    /// What was under way with the phone that leaves comes to nothing, but for what both phones have agreed on. True:
    /// the one that stays may have been told what does not hold.
    fn part_from(&mut self, leaves: LegId) -> bool {
        self.queued.retain(|queued| *queued != leaves);
        let concerns =
            self.exchange.as_ref().is_some_and(|one| [one.from, one.to].contains(&leaves));
        let is_cut = concerns && self.cut_exchange();
        let open = self.record.leg_mut(leaves).and_then(|leg| leg.open_server_invite());
        if let Some(sequence) = open.map(|server| server.sequence) {
            self.refuse(leaves, &Method::Invite, sequence, 487);
        }
        if let Some(leg) = self.record.leg_mut(leaves) {
            (leg.moving, leg.steered) = (None, None);
        }
        let added = &mut self.record.added_5;
        added.parked.retain(|leg| *leg != leaves);
        added.untold.retain(|leg| *leg != leaves);
        added.dialling.retain(|one| one.leg != leaves);
        added.playing.retain(|one| one.leg != leaves);
        is_cut
    }

    /// Nobody came: the call goes on as it was, unless somebody has left for it.
    pub(super) fn fail_transfer(&mut self, status: Status) {
        if self.record.phase != Phase::Confirmed {
            return;
        }
        let (has_left, role) = (self.has_left(), self.coming_role());
        self.note_transfer(status.0);
        self.end_branches(None, Some("Q.850;cause=16"));
        if has_left {
            return self.end_by_phone(match role {
                LegRole::Caller => EndedBy::Caller,
                LegRole::Callee => EndedBy::Callee,
            });
        }
        self.apply_media(Then::Nothing);
        self.save();
    }

    /// It is over.
    pub(super) fn note_transfer(&mut self, status: u16) {
        let Some(Transfer { leaves, to, .. }) = self.record.added_5.transfer.take() else { return };
        let Some(leg) = self.record.leg(leaves) else { return };
        let (at, role, from) = (self.now, leg.role, leg.extension.clone());
        self.emit(Event::CallTransferred { call: self.record.id, role, to: to.clone(), status });
        let transfers = &mut self.record.added_5.transfers;
        if transfers.len() < RECORDS {
            transfers.push(Transferred { at, role, from, to, status });
        }
    }
}
