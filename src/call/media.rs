//! The call's media session as one wish: built from the legs each time, never edited. What is to happen once it is so
//! waits by rev.

use super::leg::{Leg, Stream};
use super::play::tone_named;
use super::record::{Bridge, Phase};
use super::{COUNTS_SAVED_WITHIN, Call, LAZIEST_SAVE, LAZY_SAVE, Output};
use crate::control::{
    Apply, Carried, Hears, LegSpec, Refusal, Release, Reply, Report, ReportKind, Request, Resume,
    SessionSpec, SessionState, StreamSpec, Tone,
};
use crate::event::Event;
use crate::ids::{LegId, NodeName, SessionId};
use crate::sdp::offer_answer;
use crate::sip::Status;
use crate::views::EndCause;
use core::time::Duration;

/// A media node that does not answer so long is not waited for, except by a call whose sound flows.
const MEDIA_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer by one that somebody has answered: both phones wait, the callee's repeats its 200 for 32 s, and a media node
/// that stands still or is started again is mostly back by then.
const ANSWERED_TIMEOUT: Duration = Duration::from_secs(10);
/// The last statistics are worth no more than this to a call that ended.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// What is to be done when the media node has applied a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Ports are open: invite the branches that wait.
    Invite,
    /// The caller can hear this branch: 18x with SDP.
    EarlyAnswer { leg: LegId, status: u16 },
    /// Both can hear each other: 200 and ACK.
    Answer { leg: LegId },
    /// The caller hears itself: 200.
    Echo,
    /// Ports for a new stream are open: pass the re-INVITE on.
    Offer,
    /// A re-INVITE's answer is in force: 200 and ACK.
    Exchange,
    /// A late offer's answer is in force: ACK with SDP.
    LateAnswer,
    /// The session is at another host: phones are told.
    Anchor,
    /// What came from phones that were told is known.
    Listen,
    /// Nothing waits.
    Nothing,
}

impl Then {
    /// How long the media node is waited for.
    const fn patience(&self) -> Duration {
        match self {
            Self::EarlyAnswer { .. } | Self::Answer { .. } => ANSWERED_TIMEOUT,
            Self::Invite
            | Self::Echo
            | Self::Offer
            | Self::Exchange
            | Self::LateAnswer
            | Self::Anchor
            | Self::Listen
            | Self::Nothing => MEDIA_TIMEOUT,
        }
    }
}

impl Call {
    /// Sends the wish as it is now.
    pub(super) fn apply_media(&mut self, then: Then) {
        let wish = self.next_wish(then);
        self.outputs.push_back(Output::Media(Request::Apply(wish)));
    }

    /// The same, to a media node that may have to begin the session anew: with what was told of it last.
    pub(super) fn resume_media(&mut self, then: Then) {
        let apply = self.next_wish(then);
        let carried = self.carried();
        self.outputs.push_back(Output::Media(Request::Resume(Resume { apply, carried })));
    }

    fn carried(&self) -> Vec<Carried> {
        let of_leg = |leg: &Leg| {
            let id = leg.id;
            let heard = leg.statistics.iter().zip(0_u8..);
            let heard =
                heard.filter(|(known, _)| known.latched.is_some() || known.packets_received > 0);
            heard.map(move |(known, index)| (id, index, known.clone())).collect::<Vec<_>>()
        };
        let all = self.record.legs.iter().filter(|leg| leg.is_live()).flat_map(of_leg);
        let elsewhere = self.opening.is_some();
        let carried = all.map(|(leg, index, mut statistics)| {
            // From another host we are another source, and a NAT may show the phone at another port.
            statistics.latched = statistics.latched.filter(|_| !elsewhere);
            let sent = self.sent.iter().filter(|_| !elsewhere);
            let sent = sent.into_iter().find(|(of, at, _)| (*of, *at) == (leg, index));
            Carried { leg, index, statistics, sent: sent.map(|(.., sent)| *sent) }
        });
        carried.collect()
    }

    fn next_wish(&mut self, then: Then) -> Apply {
        self.record.media.rev.0 += 1;
        self.record.media.open = true;
        let rev = self.record.media.rev;
        let spec = self.session_spec();
        self.media_is_stale = false;
        let patience = then.patience();
        self.awaited.push_back((rev, then));
        // What waits for an earlier wish waits for this one.
        let former = self.media_deadline.filter(|_| self.awaited.len() > 1);
        self.media_deadline = Some(self.now + patience).max(former);
        Apply { session: self.session(), epoch: self.record.epoch, rev, spec }
    }

    /// Takes the session down; the row with the CDR is saved when the last statistics are here, or soon.
    pub(super) fn release_media(&mut self) {
        self.awaited.clear();
        self.abandon_move();
        if !self.record.media.open {
            self.media_deadline = None;
            return self.conclude();
        }
        self.record.media.open = false;
        self.record.media.rev.0 += 1;
        self.media_deadline = Some(self.now + RELEASE_TIMEOUT);
        self.outputs.push_back(Output::Media(Request::Release(Release {
            session: self.session(),
            epoch: self.record.epoch,
            rev: self.record.media.rev,
        })));
    }

    /// The wish is told to where the session is now; the record follows lazily.
    pub(super) fn handle_media_moved(&mut self, node: NodeName) {
        self.record.added_5.wanted_media.take_if(|wanted| *wanted == node);
        self.note_media_node(node);
        if self.record.media.open {
            self.save_within(LAZY_SAVE);
            self.resume_media(Then::Nothing);
        }
    }

    pub(super) fn note_media_node(&mut self, node: NodeName) {
        if self.record.media.nodes.last() != Some(&node) {
            self.record.media.nodes.push(node);
        }
    }

    pub(super) fn handle_media(&mut self, node: NodeName, reply: Reply) {
        self.note_media_node(node);
        match reply {
            Reply::Applied(state) => self.media_applied(&state),
            Reply::Released(state) => {
                self.take_statistics(&state);
                if self.record.phase == Phase::Ended {
                    self.media_deadline = None;
                    self.conclude();
                }
            }
            // Another owner's, or over: nothing comes of the wish, but the store has the last word on that.
            Reply::Refused { reason: Refusal::Stale, rev, .. } => {
                self.media_is_stale |= rev == self.record.media.rev;
            }
            Reply::Refused { rev, .. } if rev < self.record.media.rev => {}
            // No room for one more: the call is as it was.
            Reply::Refused { .. } if self.is_transferring() && self.opening.is_none() => {
                self.fail_transfer(Status(503));
            }
            Reply::Refused { .. } => {
                // The first wish was refused: there is no session. Later ones leave it as it was.
                let begun = self.record.legs.iter().any(|leg| !leg.streams.is_empty());
                self.record.media.open &= begun;
                self.handle_media_lost();
            }
        }
    }

    /// Nothing came of the wish in time. Sound of a confirmed call flows without us: whether a silent node is lost is
    /// known to the shell, which sends the wish again when the link is back.
    pub(super) fn media_is_late(&mut self) {
        if self.record.phase == Phase::Confirmed && !self.media_is_stale {
            self.media_deadline = None;
        } else {
            self.handle_media_lost();
        }
    }

    pub(super) fn handle_media_lost(&mut self) {
        self.media_deadline = None;
        self.awaited.clear();
        match self.record.phase {
            Phase::Ended => self.conclude(),
            Phase::Confirmed if self.opening.is_some() => self.opening_failed(),
            Phase::Confirmed => self.end_by_system(EndCause::NodeLost, "the media node is gone"),
            Phase::Routing | Phase::Ringing | Phase::Answering(_) => {
                self.fail(Status(503), EndCause::NodeLost, Some("no media node"));
            }
        }
    }

    pub(super) fn handle_report(&mut self, report: Report) {
        match report.kind {
            ReportKind::State(state) => self.take_statistics(&state),
            ReportKind::Digit { leg, digit, .. } => {
                self.emit(Event::DigitDialled { call: self.record.id, leg, digit });
            }
            ReportKind::Silence { leg, .. } => {
                let sends = self
                    .record
                    .leg(leg)
                    .is_some_and(|leg| leg.is_live() && leg.phone_sends() && !leg.holds);
                if self.record.phase == Phase::Confirmed && sends {
                    self.end_by_system(EndCause::RtpTimeout, "no RTP");
                }
            }
            ReportKind::RolledOver { leg, stream, roll_over } => {
                let streams = self.record.leg_mut(leg).map(|leg| &mut leg.streams);
                let stream = streams.and_then(|streams| streams.get_mut(usize::from(stream)));
                if let Some(stream) = stream {
                    stream.roll_over = Some(roll_over);
                    self.save_within(LAZIEST_SAVE);
                }
            }
            ReportKind::Sent(sent) => self.sent = sent,
            ReportKind::Missed(missed) => self.take_missed(&missed),
            ReportKind::Ended(state) => {
                self.take_statistics(&state);
                self.record.media.open = false;
                self.handle_media_lost();
            }
        }
    }

    fn media_applied(&mut self, state: &SessionState) {
        if self.record.phase == Phase::Ended {
            return;
        }
        for leg_state in &state.legs {
            let Some(leg) = self.record.leg_mut(leg_state.leg) else { continue };
            for stream in &leg_state.streams {
                let at = usize::from(stream.index);
                match leg.streams.get_mut(at) {
                    Some(known) => (known.port, known.local) = (stream.port, stream.local),
                    None => leg.streams.push(Stream {
                        port: stream.port,
                        local: stream.local,
                        side: None,
                        roll_over: None,
                    }),
                }
            }
        }
        self.take_statistics(state);
        let due: Vec<Then> = core::iter::from_fn(|| {
            let (rev, _) = self.awaited.front()?;
            (*rev <= state.rev).then(|| self.awaited.pop_front().map(|(_, then)| then))?
        })
        .collect();
        if self.awaited.is_empty() {
            self.media_deadline = None;
            self.acts_done();
        }
        for then in due {
            self.media_is_so(then);
        }
    }

    fn media_is_so(&mut self, then: Then) {
        if self.record.phase == Phase::Ended {
            return;
        }
        match then {
            Then::Invite => self.invite_branches(),
            Then::EarlyAnswer { leg, status } => self.send_early_answer(leg, status),
            Then::Answer { leg } => self.send_answer(leg),
            Then::Echo => self.send_echo_answer(),
            Then::Offer => self.send_offer(),
            Then::Exchange => self.finish_exchange(),
            Then::LateAnswer => self.finish_late_answer(),
            Then::Anchor => self.anchored(),
            Then::Listen => self.judge_silence(),
            Then::Nothing => {}
        }
    }

    fn take_statistics(&mut self, state: &SessionState) {
        let mut latched = false;
        self.is_transcoding = false;
        for leg_state in &state.legs {
            let statistics: Vec<_> =
                leg_state.streams.iter().map(|stream| stream.statistics.clone()).collect();
            self.is_transcoding |= statistics.iter().any(|stream| stream.transcoding);
            let Some(leg) = self.record.leg_mut(leg_state.leg) else { continue };
            latched |=
                statistics.iter().zip(&leg.statistics).any(|(new, old)| new.latched != old.latched);
            leg.statistics = statistics;
        }
        let is_old = self.now.saturating_since(self.saved_at) >= COUNTS_SAVED_WITHIN;
        if latched || is_old {
            self.save_within(LAZIEST_SAVE);
        }
        self.judge_sound();
        self.sample_sound();
    }

    pub(super) fn session(&self) -> SessionId {
        SessionId::from(self.record.id)
    }

    fn session_spec(&self) -> SessionSpec {
        let legs = self.record.legs.iter().filter(|leg| leg.is_live());
        SessionSpec {
            confirmed: matches!(self.record.phase, Phase::Confirmed | Phase::Answering(_)),
            emergency: self.record.emergency,
            legs: legs.map(|leg| self.leg_spec(leg)).collect(),
            acts: self.acts(),
        }
    }

    fn leg_spec(&self, leg: &Leg) -> LegSpec {
        let hears = self.hears(leg.id);
        let other = match hears {
            Hears::Leg(other) => self.record.leg(other),
            Hears::Echo => Some(leg),
            Hears::Nothing | Hears::Tone(_) => None,
        };
        let count = leg.streams.len().max(self.stream_count());
        let streams = (0..count).map(|at| {
            let index = u8::try_from(at).unwrap_or(u8::MAX);
            let peer = Some(leg.flow.remote.ip().to_canonical());
            let stream = leg.streams.get(at);
            let port = stream.map(|stream| stream.port).filter(|_| self.opening.is_none());
            let Some(side) = stream.and_then(|stream| stream.side.as_ref()) else {
                return silent_stream(index, port, peer);
            };
            let other_side = other
                .and_then(|other| other.streams.get(at))
                .and_then(|stream| stream.side.as_ref());
            let mut spec = offer_answer::stream_spec(
                side,
                index,
                leg.description.generation,
                port,
                peer,
                hears,
                self.rtp_timeout_ms(),
            );
            spec.from_phone &= !leg.description.parked;
            if let Some((srtp, keys)) = spec.srtp.as_mut().zip(side.keys.as_ref()) {
                srtp.roll_over = stream.and_then(|stream| stream.roll_over);
                if self.opening.is_some() {
                    srtp.sent = leg.description.security.moved(keys, index, self.move_number());
                }
            }
            if other_side.is_none() && matches!(hears, Hears::Leg(_)) {
                spec.hears = Hears::Nothing;
            }
            spec
        });
        LegSpec { leg: leg.id, streams: streams.collect() }
    }

    /// RTP is owed from the answer on, not while it rings.
    fn rtp_timeout_ms(&self) -> u32 {
        if self.record.phase != Phase::Confirmed
            && !matches!(self.record.phase, Phase::Answering(_))
        {
            return 0;
        }
        u32::try_from(self.settings.rtp_timeout.as_millis()).unwrap_or(u32::MAX)
    }

    fn hears(&self, leg: LegId) -> Hears {
        if let Some(tone) = self.tone_of(leg) {
            return Hears::Tone(tone_named(tone));
        }
        if self.is_parked(leg) {
            return Hears::Nothing;
        }
        if self.has_left() && self.staying() == Some(leg) {
            return Hears::Tone(Tone::Ringback);
        }
        let caller = self.record.caller_leg();
        match self.record.bridge {
            Bridge::Leg(callee) if leg == caller => Hears::Leg(callee),
            Bridge::Leg(callee) if leg == callee => Hears::Leg(caller),
            Bridge::Echo if leg == caller => Hears::Echo,
            Bridge::Ringback if leg == caller => Hears::Tone(Tone::Ringback),
            Bridge::Leg(_) | Bridge::Nothing | Bridge::Echo | Bridge::Ringback => Hears::Nothing,
        }
    }

    /// Streams a leg needs: as many as the offer under negotiation anchors; one for a late offer.
    fn stream_count(&self) -> usize {
        let offer = self
            .exchange
            .as_ref()
            .and_then(|exchange| exchange.offer.as_ref())
            .or(self.record.offer.as_ref());
        offer.map_or(1, |offer| usize::from(offer_answer::anchored_streams(offer)).max(1))
    }
}

fn silent_stream(index: u8, port: Option<u16>, peer: Option<core::net::IpAddr>) -> StreamSpec {
    StreamSpec {
        index,
        port,
        peer,
        remote: None,
        codec: None,
        telephone_event: None,
        comfort_noise: false,
        passed: Vec::new(),
        to_phone: false,
        from_phone: false,
        hears: Hears::Nothing,
        rtp_timeout_ms: 0,
        srtp: None,
    }
}
