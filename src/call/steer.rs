//! What an operator does to an answered call. A hold of ours: the phone hears nothing and is not heard from that moment
//! on, whatever it thinks of it, and is told by a re-INVITE (`refresh` sends it). Holds of the phones stay theirs.
//!
//! Invariants: what was done is in the record before the operator is told so, and so is who has to be told of it; as
//! long as a phone is held, nothing that it is told asks anything of it (`LegDescription::parked`).

use super::leg::{Leg, LegState, Purpose};
use super::media::Then;
use super::record::{Bridge, Phase};
use super::{Call, LAZY_SAVE};
use crate::event::Event;
use crate::ids::{LegId, NodeName, Rev};
use crate::sdp::Direction;
use crate::time::Timestamp;
use crate::views::call::LegRole;
use crate::views::steer::{Steering, SteeringAct};

const NOT_ANSWERED: &str = "the call is not answered, or over";
pub(super) const NO_LEG: &str = "there is no such phone in the call";

/// A phone is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steered {
    /// From then on; none: our offer is out.
    pub due_at: Option<Timestamp>,
    pub attempts: u8,
}

impl Steered {
    pub(super) const fn at(at: Timestamp) -> Self {
        Self { due_at: Some(at), attempts: 0 }
    }
}

impl Leg {
    /// What is about to be said tells the phone of a hold, or of its end.
    pub(super) fn tell_steered(&mut self) -> bool {
        if let Some(steered) = &mut self.steered {
            steered.due_at = None;
        }
        self.steered.is_some()
    }
}

impl Call {
    /// An operator wants it. The rev with which it is kept, or what stands against it.
    pub fn steer(&mut self, wish: &Steering, now: Timestamp) -> Result<Rev, &'static str> {
        self.now = now;
        if self.record.phase != Phase::Confirmed {
            return Err(NOT_ANSWERED);
        }
        let (act, role, changes) = match *wish {
            Steering::Hold { leg } => (SteeringAct::Hold, leg, self.park(leg, true)?),
            Steering::Unhold { leg } => (SteeringAct::Unhold, leg, self.park(leg, false)?),
            Steering::Dial { leg, ref digits } => {
                self.dial(leg, digits)?;
                (SteeringAct::Dtmf, Some(leg), true)
            }
            Steering::Play { leg, tone, duration_ms } => {
                self.play(leg, tone, duration_ms)?;
                (SteeringAct::Play, leg, true)
            }
            Steering::Stop { leg } => (SteeringAct::Stop, leg, self.stop_playing(leg)?),
            Steering::Move { ref node } => {
                self.want_media(node.as_deref())?;
                (SteeringAct::Move, None, true)
            }
            Steering::Transfer { .. } => return Err("whom it leads to is not known"),
        };
        if changes {
            self.emit(Event::CallSteered { call: self.record.id, act, role });
        }
        let rev = self.save();
        self.refresh_targets();
        Ok(rev)
    }

    /// False: they were so before.
    fn park(&mut self, role: Option<LegRole>, parked: bool) -> Result<bool, &'static str> {
        let legs = self.connected(role)?;
        let changed: Vec<LegId> =
            legs.into_iter().filter(|id| self.is_parked(*id) != parked).collect();
        if changed.is_empty() {
            return Ok(false);
        }
        for id in changed {
            match parked {
                true => self.record.added_5.parked.push(id),
                false => self.record.added_5.parked.retain(|known| *known != id),
            }
            if let Some(leg) = self.record.leg_mut(id) {
                leg.description.parked = parked;
            }
            self.tell_phone(id);
        }
        self.apply_media(Then::Nothing);
        Ok(true)
    }

    /// The shell moves the session, and another one would.
    fn want_media(&mut self, node: Option<&str>) -> Result<(), &'static str> {
        if !self.record.media.open || self.opening.is_some() || self.record.added_3.anchor.is_some()
        {
            return Err("its media are on the way to another node already");
        }
        self.record.added_5.wanted_media = node.map(|node| NodeName(node.into()));
        Ok(())
    }

    /// The media node that an operator wants it to move to.
    pub fn wanted_media(&self) -> Option<&NodeName> {
        self.record.added_5.wanted_media.as_ref()
    }

    pub(super) fn tell_phone(&mut self, id: LegId) {
        let now = self.now;
        if let Some(leg) = self.record.leg_mut(id) {
            leg.steered = Some(Steered::at(now));
        }
        if !self.record.added_5.untold.contains(&id) {
            self.record.added_5.untold.push(id);
        }
    }

    /// The phones that talk: that one, or all.
    pub(super) fn connected(&self, role: Option<LegRole>) -> Result<Vec<LegId>, &'static str> {
        let callee = match self.record.bridge {
            Bridge::Leg(callee) => Some(callee),
            Bridge::Nothing | Bridge::Echo | Bridge::Ringback => None,
        };
        let caller = Some(self.record.caller_leg());
        let wanted = match role {
            None => [caller, callee],
            Some(LegRole::Caller) => [caller, None],
            Some(LegRole::Callee) => [callee, None],
        };
        let talks =
            |id: &LegId| self.record.leg(*id).is_some_and(|leg| leg.state == LegState::Confirmed);
        let legs: Vec<LegId> = wanted.into_iter().flatten().filter(talks).collect();
        if legs.is_empty() { Err(NO_LEG) } else { Ok(legs) }
    }

    pub(super) fn is_parked(&self, id: LegId) -> bool {
        self.record.added_5.parked.contains(&id)
    }

    /// What the phone of a leg is to be offered, by stream: what the other phone wants. One that an operator holds, or
    /// held until just now, says less than it wants.
    pub(super) fn directions_to(&self, id: LegId) -> Vec<Direction> {
        let count = self.record.leg(id).map_or(0, |leg| leg.streams.len());
        let peer = self.record.peer_of(id).and_then(|peer| self.record.leg(peer));
        let direction = |at: usize| {
            let Some(peer) = peer else { return Direction::SendRecv };
            let side = peer.streams.get(at).and_then(|stream| stream.side.as_ref());
            let side = side.map_or(Direction::Inactive, |side| side.direction);
            let hides = peer.description.parked || peer.steered.is_some();
            Direction::new(side.sends() || hides, side.receives() || hides && !peer.holds)
        };
        (0..count).map(direction).collect()
    }

    /// A phone took what it was told. The other one may have been told less meanwhile, when it asked.
    pub(super) fn steering_accepted(&mut self, id: LegId) {
        let told = |leg: &mut Leg| leg.steered.take_if(|steered| steered.due_at.is_none());
        if self.record.leg_mut(id).and_then(told).is_none() {
            return;
        }
        self.record.added_5.untold.retain(|known| *known != id);
        let Some(peer) = self.record.peer_of(id) else { return };
        let directions = self.directions_to(peer);
        let knows = |leg: &Leg| !leg.description.promises_less(&directions);
        if !self.is_parked(id) && !self.record.leg(peer).is_none_or(knows) {
            self.tell_phone(peer);
        }
    }

    /// It did not: again then, or never. Nothing is heard of it, and it hears nothing, all the same.
    pub(super) fn steering_refused(&mut self, id: LegId, again: Option<Timestamp>) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let Some(steered) = leg.steered else { return };
        if again.is_none() && steered.due_at.is_some() {
            // It was about an earlier wish: the one that has come since is to be told.
            return;
        }
        leg.steered = again.map(|at| Steered { due_at: Some(at), attempts: steered.attempts + 1 });
        if again.is_none() {
            self.record.added_5.untold.retain(|known| *known != id);
            self.save_within(LAZY_SAVE);
        }
    }

    /// Another owner carries it on.
    pub(super) fn resume_steering(&mut self, at: Timestamp) {
        let (parked, untold) =
            (self.record.added_5.parked.clone(), self.record.added_5.untold.clone());
        for leg in &mut self.record.legs {
            leg.description.parked = parked.contains(&leg.id);
            if untold.contains(&leg.id) {
                let is_out = leg.clients.iter().any(|client| client.purpose == Purpose::Refresh);
                let due_at = (!is_out).then_some(at);
                leg.steered = Some(Steered { due_at, attempts: 0 });
            }
        }
    }
}
