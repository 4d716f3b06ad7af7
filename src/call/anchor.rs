//! The media session moves to another host: it is opened there first, then both phones are told by a re-INVITE that
//! changes our addresses and nothing else (RFC 3261 §14, RFC 3264 §8), or by UPDATE (RFC 3311) where a re-INVITE is not
//! taken. `refresh` sends what this file wants said, one offer at a time on a leg.
//!
//! Invariants: no phone is told before the session is there, and with SRTP our keys there are new; what a former node
//! that lives has of the session goes on until all phones were told, and takes the call back when one refuses; a call
//! whose audio is nowhere ends within `PATIENCE`. Whether a phone was told is read from what it was told last, so
//! another owner knows it too.

use super::leg::{Leg, LegState, Purpose};
use super::media::Then;
use super::record::Phase;
use super::steer::Steered;
use super::{Call, LAZIEST_SAVE, LAZY_SAVE, Output};
use crate::control::Release;
use crate::event::Event;
use crate::ids::{LegId, NodeName};
use crate::limits;
use crate::rtp::srtp::Keying;
use crate::sdp::Direction;
use crate::sip::{Method, Response};
use crate::time::Timestamp;
use crate::views::EndCause;
use core::net::SocketAddr;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// 491 is tried again so often.
const ATTEMPTS: u8 = 4;
/// After 500 and 503, unless the phone says when.
const ONCE_MORE: Duration = Duration::from_millis(200);
/// A phone that says nothing at all for so long, while its audio is gone, is gone too.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A phone that took the news is to be heard at the new port within.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// A phone that was heard so lately is expected to be heard again.
const HEARD_LATELY: Duration = Duration::from_secs(15);
/// A call whose phone refuses waits so long for its former media node.
const PATIENCE: Duration = Duration::from_secs(10);

/// A move under way, in the record until all phones were told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Anchor {
    /// Where the session was.
    pub from: NodeName,
    /// Our ports there: number and address by stream.
    pub ports: Vec<(LegId, Vec<(u16, SocketAddr)>)>,
    /// It is there still.
    pub lives: bool,
    /// The session is back where it came from: it moves no more.
    pub returns: bool,
}

/// A phone is to be told of another media node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moving {
    pub progress: Progress,
    /// 491 so far.
    glares: u8,
    /// 500 or 503 came once.
    repeated: bool,
    /// It takes no re-INVITE.
    pub by_update: bool,
    pub nudge: Nudge,
}

/// How far telling it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// To be told from then on.
    Due(Timestamp),
    /// Our offer is out.
    Told,
    /// It took it: its RTP is awaited.
    Listening {
        /// Asked for, or judged, then.
        at: Timestamp,
        /// Packets that had come from it before.
        heard: u64,
        /// The media node was asked.
        asked: bool,
    },
    /// It does not take it: the former media node may come back until then.
    Refused(Timestamp),
}

/// A phone that took the news and sends nothing is asked to stop, and to begin again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nudge {
    /// Not needed so far.
    No,
    /// It is to stop: what is in force otherwise.
    Stop(String),
    /// It is to begin again, with this.
    Begin(String),
    /// Nothing came of it, or all is well.
    Done,
}

impl Moving {
    pub(super) const fn at(at: Timestamp) -> Self {
        let progress = Progress::Due(at);
        Self { progress, glares: 0, repeated: false, by_update: false, nudge: Nudge::No }
    }

    /// Our offer is out already, by whoever owned the call.
    fn told() -> Self {
        Self { progress: Progress::Told, ..Self::at(Timestamp::EPOCH) }
    }

    pub(super) const fn due_at(&self) -> Option<Timestamp> {
        match self.progress {
            Progress::Due(at) => Some(at),
            Progress::Told | Progress::Listening { .. } | Progress::Refused(_) => None,
        }
    }
}

impl Leg {
    /// The phone knows where its media node takes RTP, or was promised nothing yet.
    fn knows_media(&self) -> bool {
        self.description.names(&self.local_addresses())
    }

    /// What the phone is to be told; `directions` are those of its streams if an operator changed them.
    pub(super) fn news(&mut self, directions: &[Direction]) -> Option<String> {
        let local = self.local_addresses();
        let nudge = self.moving.as_ref().map(|moving| &moving.nudge);
        let is_nudge = matches!(nudge, Some(Nudge::Stop(_) | Nudge::Begin(_)));
        if !is_nudge && self.tell_steered() {
            return self.description.turn(directions, &local);
        }
        match self.moving.as_ref().map(|moving| &moving.nudge) {
            None => self.description.repeat(),
            Some(Nudge::No | Nudge::Done) => self.description.relocate(&local),
            Some(Nudge::Stop(_)) => self.description.redirect(Direction::Inactive),
            Some(Nudge::Begin(text)) => {
                let text = text.clone();
                Some(self.description.say_again(&text))
            }
        }
    }

    /// Packets that came from the phone, as the media node told last.
    fn packets_heard(&self) -> u64 {
        self.statistics.iter().map(|stream| stream.packets_received).sum()
    }

    /// RTP of this phone would be missed.
    fn is_heard(&self, now: Timestamp) -> bool {
        let lately = |at: Timestamp| now.saturating_since(at) < HEARD_LATELY;
        let mut streams = self.statistics.iter();
        self.phone_sends()
            && !self.holds
            && streams.any(|stream| stream.last_packet_at.is_some_and(lately))
    }

    /// When the move wants a turn.
    pub(super) fn move_timeout(&self) -> Option<Timestamp> {
        match self.moving.as_ref()?.progress {
            Progress::Listening { at, .. } | Progress::Refused(at) => Some(at),
            Progress::Due(_) | Progress::Told => None,
        }
    }
}

impl Call {
    /// The session is asked for at another host. What of it is not told to phones yet begins with the answer.
    pub(super) fn handle_media_moves(&mut self, lives: bool) {
        if !self.record.media.open {
            return;
        }
        let earlier = self.opening.take().or_else(|| self.record.added_3.anchor.take());
        if earlier.is_none() {
            self.record.added_5.former_keys.clear();
        }
        let anchor = match (earlier, self.record.media.nodes.last()) {
            (Some(earlier), _) => Some(Anchor { returns: false, ..earlier }),
            (None, Some(from)) => {
                Some(Anchor { from: from.clone(), ports: self.ports(), lives, returns: false })
            }
            (None, None) => None,
        };
        self.opening = anchor;
        self.forget_plans();
        self.resume_media(Then::Anchor);
    }

    /// A node that had sessions is there again: a phone that refused has its audio back.
    pub(super) fn handle_media_returned(&mut self, node: &NodeName) {
        let Some(anchor) = &mut self.record.added_3.anchor else { return };
        if anchor.from != *node {
            return;
        }
        anchor.lives = true;
        let refused = |leg: &Leg| {
            let progress = leg.moving.as_ref().map(|moving| moving.progress);
            matches!(progress, Some(Progress::Refused(_)))
        };
        if self.record.legs.iter().any(refused) {
            self.go_back();
        }
    }

    /// The session is there: phones can be told.
    pub(super) fn anchored(&mut self) {
        let Some(anchor) = self.opening.take() else { return };
        self.record.added_5.wanted_media = None;
        if self.record.added_5.former_keys.is_empty() {
            self.record.added_5.former_keys = self.own_keys();
        }
        let number = self.move_number();
        for leg in self.record.legs.iter_mut().filter(|leg| leg.is_live()) {
            leg.set_own_keys(&leg.moved_keys(number));
        }
        self.record.added_3.reanchors += 1;
        self.record.added_3.anchor = Some(anchor);
        if let Some(node) = self.record.media.nodes.last().cloned() {
            self.emit(Event::CallReanchored { call: self.record.id, node });
        }
        self.save_within(LAZY_SAVE);
    }

    /// Another owner carries the move on.
    pub(super) fn resume_move(&mut self, at: Timestamp) {
        let Some(anchor) = &self.record.added_3.anchor else { return };
        let (now, lives) = (self.now, anchor.lives);
        for leg in self.record.legs.iter_mut().filter(|leg| leg.state == LegState::Confirmed) {
            let open = |client: &&mut super::leg::Client| client.purpose == Purpose::Refresh;
            if let Some(client) = leg.clients.iter_mut().find(open) {
                client.deadline = (!lives).then_some(now + ANSWER_WITHIN);
                leg.moving = Some(Moving::told());
            } else if !leg.knows_media() {
                leg.moving = Some(Moving::at(at));
            }
        }
    }

    /// Phones that are to be told; a move of which all know is over.
    pub(super) fn find_untold(&mut self) {
        let moves = self.record.added_3.anchor.is_some() && self.opening.is_none();
        if !moves || self.record.phase != Phase::Confirmed {
            return;
        }
        let now = self.now;
        for leg in self.record.legs.iter_mut().filter(|leg| leg.state == LegState::Confirmed) {
            let (knows, received) = (leg.knows_media(), leg.packets_heard());
            leg.moving = match leg.moving.take() {
                None if !knows => Some(Moving::at(now)),
                // It learnt it by another offer or answer of ours.
                Some(moving) if knows && moving.due_at().is_some() && moving.nudge == Nudge::No => {
                    None
                }
                Some(Moving { progress: Progress::Listening { heard, .. }, .. })
                    if received > heard =>
                {
                    None
                }
                // What it took is out of date.
                Some(Moving { progress: Progress::Listening { .. }, .. }) if !knows => {
                    Some(Moving::at(now))
                }
                moving => moving,
            };
        }
        let mut live = self.record.legs.iter().filter(|leg| leg.is_live());
        if live.all(|leg| leg.moving.is_none() && leg.knows_media()) {
            self.finish_move();
        }
    }

    /// All phones know.
    fn finish_move(&mut self) {
        self.record.added_3.resumed_at = Some(self.now);
        self.leave_former_media();
        // Many calls move at once: what another owner would find out by itself, and do once more, is not worth a write.
        self.save_within(LAZIEST_SAVE);
    }

    /// The call is over.
    pub(super) fn abandon_move(&mut self) {
        for leg in &mut self.record.legs {
            leg.moving = None;
        }
        self.leave_former_media();
    }

    /// What a former node has of the session is not needed any more.
    fn leave_former_media(&mut self) {
        let anchor = self.opening.take().or_else(|| self.record.added_3.anchor.take());
        self.record.added_5.former_keys.clear();
        let Some(Anchor { from, .. }) = anchor else { return };
        if self.record.media.nodes.last() != Some(&from) {
            let (session, epoch) = (self.session(), self.record.epoch);
            let release = Release { session, epoch, rev: self.record.media.rev };
            self.outputs.push_back(Output::MediaLeft(from, release));
        }
    }

    /// The offer to a phone is out: one whose audio is gone has so long for a word.
    pub(super) fn await_word(&mut self, id: LegId) {
        let lives = self.record.added_3.anchor.as_ref().is_some_and(|anchor| anchor.lives);
        let deadline = (!lives).then_some(self.now + ANSWER_WITHIN);
        let Some(leg) = self.record.leg_mut(id).filter(|leg| leg.moving.is_some()) else { return };
        if let Some(client) = leg.clients.last_mut() {
            client.deadline = deadline;
        }
    }

    /// A phone works on it.
    pub(super) fn note_word(&mut self, id: LegId) {
        let deadline = self.now + limits::TRANSACTION_TIMEOUT;
        let clients = self.record.leg_mut(id).into_iter().flat_map(|leg| &mut leg.clients);
        for client in clients.filter(|client| client.purpose == Purpose::Refresh) {
            client.deadline = client.deadline.map(|_| deadline);
        }
    }

    /// A phone took what it was told.
    pub(super) fn move_accepted(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let (is_heard, heard) = (leg.is_heard(now), leg.packets_heard());
        let Some(moving) = &mut leg.moving else { return };
        moving.nudge = match core::mem::replace(&mut moving.nudge, Nudge::Done) {
            Nudge::No => Nudge::No,
            Nudge::Stop(text) => {
                moving.progress = Progress::Due(now);
                moving.nudge = Nudge::Begin(text);
                return;
            }
            Nudge::Begin(_) | Nudge::Done => Nudge::Done,
        };
        moving.progress = Progress::Listening { at: now + HEARD_WITHIN, heard, asked: false };
        if !is_heard {
            leg.moving = None;
        }
    }

    /// A phone did not take it.
    pub(super) fn move_refused(&mut self, id: LegId, response: &Response) {
        self.forget_offer(id);
        let now = self.now;
        let glares =
            self.record.leg(id).and_then(|leg| leg.moving.as_ref()).map_or(0, |m| m.glares);
        let sequence = response.cseq().map_or(0, |cseq| cseq.number);
        let glare = self.glare_delay(id, glares, sequence);
        let later = super::refresh::retry_after(response).unwrap_or(ONCE_MORE);
        let Some(moving) = self.record.leg_mut(id).and_then(|leg| leg.moving.as_mut()) else {
            return;
        };
        moving.progress = match response.status.0 {
            491 if glares + 1 < ATTEMPTS => {
                moving.glares += 1;
                Progress::Due(now + glare)
            }
            500 | 503 if !moving.repeated => {
                moving.repeated = true;
                Progress::Due(now + later)
            }
            405 | 500..=599 if !moving.by_update => {
                moving.by_update = true;
                Progress::Due(now)
            }
            481 => return self.move_failed("a phone knows no such dialog"),
            408 => return self.move_unanswered(),
            _ => Progress::Refused(now + PATIENCE),
        };
        if matches!(moving.progress, Progress::Refused(_)) && self.may_go_back() {
            self.go_back();
        }
        self.next_exchange();
    }

    /// What a former owner asked was answered to it, perhaps.
    pub(super) fn ask_anew(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        leg.open_invite = None;
        match &mut leg.moving {
            Some(moving) => moving.progress = Progress::Due(now),
            None if leg.steered.is_some() => leg.steered = Some(Steered::at(now)),
            None => self.refresh_failed(id),
        }
    }

    /// A phone said nothing.
    pub(super) fn move_unanswered(&mut self) {
        match self.may_go_back() {
            true => self.go_back(),
            false => self.move_failed("a phone does not answer"),
        }
    }

    /// Never dead air.
    pub(super) fn move_failed(&mut self, why: &str) {
        self.end_by_system(EndCause::ReanchorFailed, why);
    }

    /// Nobody takes the session, before any phone was told: a former node that lives keeps it.
    pub(super) fn opening_failed(&mut self) {
        self.record.added_3.anchor = self.opening.take();
        self.record.added_5.wanted_media = None;
        match self.may_go_back() {
            true => self.go_back(),
            false => self.move_failed("no media node takes the call"),
        }
    }

    /// Timers of moves.
    pub(super) fn time_moves(&mut self) {
        let now = self.now;
        let (mut ask, mut over) = (false, false);
        for moving in self.record.legs.iter_mut().filter_map(|leg| leg.moving.as_mut()) {
            match &mut moving.progress {
                Progress::Listening { at, asked, .. } if *at <= now => {
                    (*at, *asked, ask) = (now + HEARD_WITHIN, true, true);
                }
                Progress::Refused(at) => over |= *at <= now,
                Progress::Listening { .. } | Progress::Due(_) | Progress::Told => {}
            }
        }
        if over {
            self.move_failed("a phone does not take another media node");
        } else if ask {
            self.apply_media(Then::Listen);
        }
    }

    /// The media node says what it heard since: from whom nothing came is asked to stop and to begin again, once.
    pub(super) fn judge_silence(&mut self) {
        let now = self.now;
        let mut over = false;
        for leg in &mut self.record.legs {
            let (received, sent) = (leg.packets_heard(), leg.description.sent.clone());
            let Some(moving) = &mut leg.moving else { continue };
            let Progress::Listening { heard, asked: true, .. } = moving.progress else { continue };
            match (&moving.nudge, sent) {
                _ if received > heard => {}
                (Nudge::No, Some(sent)) => {
                    moving.nudge = Nudge::Stop(sent);
                    moving.progress = Progress::Due(now);
                }
                (_, _) => over = true,
            }
        }
        if over {
            match self.may_go_back() {
                true => self.go_back(),
                false => self.move_failed("a phone sends nothing to another media node"),
            }
        }
    }

    /// Phones that were asked and have not answered, or will be as soon as the session is there.
    pub fn unanswered_moves(&self) -> usize {
        let legs = self.record.legs.iter().filter(|leg| leg.is_live());
        let told =
            |leg: &Leg| leg.moving.as_ref().is_some_and(|moving| moving.progress == Progress::Told);
        legs.filter(|leg| self.opening.is_some() || told(leg)).count()
    }

    /// Its phones know, or knew until lately, that media node.
    pub fn moves_from(&self, node: &NodeName) -> bool {
        let anchor = self.opening.as_ref().or(self.record.added_3.anchor.as_ref());
        anchor.is_some_and(|anchor| anchor.from == *node)
    }

    fn may_go_back(&self) -> bool {
        let anchor = self.record.added_3.anchor.as_ref();
        anchor.is_some_and(|anchor| anchor.lives && !anchor.returns)
    }

    /// The former node has the session again, on its ports; phones that were told of the other are told of it.
    fn go_back(&mut self) {
        let Some(anchor) = self.record.added_3.anchor.take() else { return };
        let left = self.record.media.nodes.last().cloned().unwrap_or_else(|| anchor.from.clone());
        let ports = self.ports();
        for (id, former) in anchor.ports {
            let streams = self.record.leg_mut(id).map(|leg| &mut leg.streams);
            for (stream, (port, local)) in streams.into_iter().flatten().zip(former) {
                (stream.port, stream.local) = (port, local);
            }
        }
        if !self.record.added_5.former_keys.is_empty() {
            let left = self.own_keys();
            for (id, keys) in core::mem::replace(&mut self.record.added_5.former_keys, left) {
                if let Some(leg) = self.record.leg_mut(id) {
                    leg.set_own_keys(&keys);
                }
            }
        }
        self.record.added_3.anchor = Some(Anchor { from: left, ports, lives: true, returns: true });
        self.forget_plans();
        self.note_media_node(anchor.from.clone());
        self.outputs.push_back(Output::MediaBack(anchor.from));
        // Who is to take a phone's place may have waited for ports at the other one.
        self.apply_media(if self.is_transferring() { Then::Invite } else { Then::Nothing });
    }

    /// What phones were to be told is out of date; what they are asked is answered first.
    fn forget_plans(&mut self) {
        for leg in &mut self.record.legs {
            leg.moving.take_if(|moving| moving.progress != Progress::Told);
        }
    }

    /// What was in force before an offer of ours that a phone did not take is in force again.
    fn forget_offer(&mut self, id: LegId) {
        let anchor = self.record.added_3.anchor.as_ref();
        let ports = anchor.and_then(|anchor| anchor.ports.iter().find(|(leg, _)| *leg == id));
        let Some((_, ports)) = ports else { return };
        let former: Vec<SocketAddr> = ports.iter().map(|(_, local)| *local).collect();
        let keys = self.record.added_5.former_keys.iter().find(|(leg, _)| *leg == id);
        let keys = keys.map_or_else(Vec::new, |(_, keys)| keys.clone());
        if let Some(leg) = self.record.leg_mut(id) {
            let wished = leg.own_keys();
            leg.set_own_keys(&keys);
            leg.description.return_to(&former);
            leg.set_own_keys(&wished);
        }
    }

    /// Of the next move, or of the one whose session is asked for.
    pub(super) const fn move_number(&self) -> u32 {
        self.record.added_3.reanchors + 1
    }

    /// Of legs that have any.
    fn own_keys(&self) -> Vec<(LegId, Vec<Option<Keying>>)> {
        let legs = self.record.legs.iter().filter(|leg| leg.is_live());
        let keys = legs.map(|leg| (leg.id, leg.own_keys()));
        keys.filter(|(_, keys)| keys.iter().any(Option::is_some)).collect()
    }

    fn ports(&self) -> Vec<(LegId, Vec<(u16, SocketAddr)>)> {
        let ports = |leg: &Leg| {
            let ports = leg.streams.iter().map(|stream| (stream.port, stream.local));
            (leg.id, ports.collect())
        };
        self.record.legs.iter().filter(|leg| leg.is_live()).map(ports).collect()
    }
}

/// How a phone is told.
pub(super) const fn method(moving: Option<&Moving>) -> Method {
    match moving {
        Some(Moving { by_update: true, .. }) => Method::Update,
        Some(_) | None => Method::Invite,
    }
}
