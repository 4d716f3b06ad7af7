//! The session: streams of all legs, and the way of a packet between them.
//!
//! Invariant: positions of streams change only in `apply`, which makes all that refers to them
//! anew.

use super::apply::Order;
use super::outbound::Origin;
use super::outbox::Outbox;
use super::random::Random;
use super::stream::{Heard, Pinned, Received, Stream};
use super::{Channel, Endpoint, Forward, Output, Refusal};
use crate::control::{self, LegState, Release, ReportKind, SessionState};
use crate::ids::{Epoch, LegId, Rev, SessionId};
use crate::rtp::srtp::MOST_OVERHEAD;
use crate::time::Timestamp;
use core::net::SocketAddr;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// How often a changed state is told.
const STATE_INTERVAL: Duration = Duration::from_secs(5);

/// One media session. All four words of a machine: `apply`/`handle_packet` are its inputs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    pub(super) id: SessionId,
    /// Of the last applied request.
    pub(super) order: Option<Order>,
    pub(super) released: bool,
    pub(super) confirmed: bool,
    pub(super) streams: Vec<Stream>,
    /// Legs in the order of the spec, those without streams too.
    pub(super) legs: Vec<crate::ids::LegId>,
    pub(super) acts_done: Vec<u32>,
    pub(super) outbox: Outbox,
    pub(super) random: Random,
    pub(super) cname: String,
    pub(super) changed: bool,
    pub(super) state_at: Timestamp,
    /// Why the last packet was not taken.
    #[serde(skip)]
    refusal: Option<Refusal>,
    #[serde(skip)]
    pub(super) next: Option<(Timestamp, &'static str)>,
}

impl Session {
    /// `seed`: entropy for SSRCs, sequence numbers and timestamps.
    pub fn new(id: SessionId, seed: u64, now: Timestamp) -> Self {
        let mut random = Random::new(seed);
        // RFC 7022 §4.2: a short-term persistent name.
        let cname = format!("{:016x}{:08x}", random.next(), random.next() as u32);
        Self {
            id,
            order: None,
            released: false,
            confirmed: false,
            streams: Vec::new(),
            legs: Vec::new(),
            acts_done: Vec::new(),
            outbox: Outbox::new(id, now.as_micros()),
            random,
            cname,
            changed: false,
            state_at: now + STATE_INTERVAL,
            refusal: None,
            next: None,
        }
    }

    /// The last statistics; nothing but BYE leaves afterwards.
    pub fn release(
        &mut self,
        release: &Release,
        now: Timestamp,
    ) -> Result<SessionState, control::Refusal> {
        let order = Order(release.epoch, release.rev);
        if self.order.is_some_and(|seen| order < seen) {
            return Err(control::Refusal::Stale);
        }
        self.order = Some(order);
        if !self.released {
            self.close(now);
        }
        Ok(self.state(now))
    }

    /// The node ends the session by itself: the owner is told, BYE leaves and nothing after it.
    pub fn end(&mut self, now: Timestamp) {
        if !self.released {
            self.close(now);
            let state = self.state(now);
            self.outbox.report(ReportKind::Ended(state));
        }
    }

    fn close(&mut self, now: Timestamp) {
        self.released = true;
        self.next = None;
        for stream in &mut self.streams {
            stream.report_by_rtcp(&self.cname, true, &mut self.outbox, now);
            stream.expect_nothing(now);
        }
    }

    /// The call was answered, as far as this session was told.
    pub const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// When RTP last came from any phone.
    pub fn last_packet_at(&self) -> Option<Timestamp> {
        self.streams.iter().filter_map(|stream| stream.reception.last_packet_at).max()
    }

    /// Of the wish that counts; zeros before the first.
    pub fn order(&self) -> (Epoch, Rev) {
        let Order(epoch, rev) = self.order.unwrap_or_default();
        (epoch, rev)
    }

    /// State at that time.
    pub fn state(&self, now: Timestamp) -> SessionState {
        let (epoch, rev) = self.order();
        let legs = self.legs.iter().map(|leg| LegState {
            leg: *leg,
            streams: self
                .streams
                .iter()
                .filter(|stream| stream.endpoint.leg == *leg)
                .map(|stream| stream.state(now))
                .collect(),
        });
        SessionState { session: self.id, epoch, rev, legs: legs.collect() }
    }

    /// A packet of `length` bytes in `buffer` came from `source`. Relayed packets are rewritten in
    /// place; what is transcoded, echoed by timer or RTCP is consumed (`None`).
    pub fn handle_packet(
        &mut self,
        endpoint: Endpoint,
        source: SocketAddr,
        buffer: &mut [u8],
        length: usize,
        now: Timestamp,
    ) -> Option<Forward> {
        self.refusal = None;
        if self.released {
            return None;
        }
        let position = self.position(endpoint)?;
        self.changed = true;
        match endpoint.channel {
            Channel::Rtp => self.handle_rtp(position, source, (buffer, length), now),
            Channel::Rtcp => {
                let packet = buffer.get_mut(..length)?;
                let stream = self.streams.get_mut(position)?;
                self.refusal = stream.accept_rtcp(source, packet, &mut self.outbox, now).err();
                None
            }
        }
    }

    /// Why the packet that was handled last was not taken, if it was not.
    pub const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    fn position(&self, endpoint: Endpoint) -> Option<usize> {
        self.streams.iter().position(|stream| {
            stream.endpoint.leg == endpoint.leg && stream.endpoint.stream == endpoint.stream
        })
    }

    #[inline]
    fn handle_rtp(
        &mut self,
        position: usize,
        source: SocketAddr,
        (buffer, length): (&mut [u8], usize),
        now: Timestamp,
    ) -> Option<Forward> {
        let stream = self.streams.get_mut(position)?;
        let accepted = match stream.accept(source, buffer.get_mut(..length)?, now) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.refusal = Some(refusal);
                return None;
            }
        };
        let length = accepted.length;
        let (takes, endpoint) = (stream.spec.from_phone, stream.endpoint);
        let heard_again = core::mem::take(&mut stream.quiet_told);
        let rearmed = core::mem::take(&mut stream.silence_told) | heard_again;
        let heard = Heard {
            origin: Origin { leg: endpoint.leg, ssrc: accepted.header.ssrc },
            received: accepted.received,
            header: accepted.header,
            event_clock_hz: stream.event_clock_hz(),
        };
        if accepted.pinned.is_some() || rearmed {
            self.note_source(position, source, accepted.pinned, now);
            // What is pinned is told by that.
            if heard_again && accepted.pinned.is_none() {
                self.report_state(now);
            }
        }
        if !takes {
            return None;
        }
        if accepted.received == Received::Event {
            self.watch_digits(position, &heard, buffer.get(..length)?, now);
        }
        self.pass_on(position, heard, (buffer, length), now)
    }

    /// To all who hear it: copies to all but the first, then the packet itself to the first.
    #[inline]
    fn pass_on(
        &mut self,
        position: usize,
        heard: Heard,
        (buffer, length): (&mut [u8], usize),
        now: Timestamp,
    ) -> Option<Forward> {
        let listeners = self.streams.get(position)?.listeners.len();
        for nth in 1..listeners {
            let mut copy = buffer.get(..length)?.to_vec();
            copy.resize(length + MOST_OVERHEAD, 0);
            if let Some(forward) = self.pass_to(position, nth, heard, (&mut copy, length), now) {
                let Forward { from, to, length } = forward;
                copy.truncate(length);
                self.outbox.push(Output::Send { from, to, packet: copy });
            }
        }
        self.pass_to(position, 0, heard, (buffer, length), now)
    }

    #[inline]
    fn pass_to(
        &mut self,
        position: usize,
        nth: usize,
        heard: Heard,
        (buffer, length): (&mut [u8], usize),
        now: Timestamp,
    ) -> Option<Forward> {
        let listener = *self.streams.get(position)?.listeners.get(nth)?;
        let listener = self.streams.get_mut(listener)?;
        let forward = listener.hear(heard, buffer, length, now);
        let tick = listener.tick_at();
        self.wake(tick, "audio frame");
        forward
    }

    /// A deadline came nearer.
    fn wake(&mut self, at: Option<Timestamp>, why: &'static str) {
        if let Some(at) = at
            && self.next.is_none_or(|(next, _)| at < next)
        {
            self.next = Some((at, why));
        }
    }

    fn note_source(
        &mut self,
        position: usize,
        source: SocketAddr,
        pinned: Option<Pinned>,
        now: Timestamp,
    ) {
        let Some(stream) = self.streams.get(position) else { return };
        let (endpoint, silence, quiet) = (stream.endpoint, stream.silence_at(), stream.quiet_at());
        let stream_deadline = stream.deadline();
        self.wake(silence, "silence");
        self.wake(quiet, "quiet");
        if let Some(Pinned { rebound }) = pinned {
            if let Some((at, why)) = stream_deadline {
                self.wake(Some(at), why);
            }
            self.outbox.push(Output::Pin { endpoint, source: Some(source), rebound });
            self.report_state(now);
        }
    }

    fn watch_digits(&mut self, position: usize, heard: &Heard, packet: &[u8], now: Timestamp) {
        let Some(stream) = self.streams.get_mut(position) else { return };
        let Some(payload) = packet.get(heard.header.payload()) else { return };
        let told = stream.digits.watch(&heard.header, payload, heard.event_clock_hz, now);
        let (leg, deadline) = (stream.endpoint.leg, stream.digits.deadline());
        for dialled in told.into_iter().flatten() {
            let (digit, duration_ms) = (dialled.digit, dialled.duration_ms);
            self.outbox.report(ReportKind::Digit { leg, digit, duration_ms });
        }
        self.wake(deadline, "end of digit lost");
    }

    pub(super) fn report_state(&mut self, now: Timestamp) {
        self.changed = false;
        let state = self.state(now);
        self.outbox.report(ReportKind::State(state));
        for stream in &mut self.streams {
            let Endpoint { leg, stream: index, .. } = stream.endpoint;
            if let Some(roll_over) = stream.guard.as_mut().and_then(|guard| guard.news()) {
                let kind = ReportKind::RolledOver { leg, stream: index, roll_over };
                self.outbox.report(kind);
            }
        }
        let sent = |stream: &Stream| {
            let Endpoint { leg, stream: index, .. } = stream.endpoint;
            (leg, index, stream.outbound.last_sent(stream.keep_alive_since))
        };
        let sent = self.streams.iter().map(sent).collect();
        self.outbox.report(ReportKind::Sent(sent));
        let missed: Vec<_> = self.streams.iter().filter_map(|stream| stream.missed(now)).collect();
        if !missed.is_empty() {
            self.outbox.report(ReportKind::Missed(missed));
        }
    }

    /// Signaling has all reports up to `number`.
    pub fn acknowledge(&mut self, number: u64) {
        self.outbox.acknowledge(number);
    }

    /// The link to the owner is new: kept reports and the present state are sent again.
    pub fn replay_reports(&mut self, now: Timestamp) {
        self.replay_kept();
        for guard in self.streams.iter_mut().filter_map(|stream| stream.guard.as_mut()) {
            guard.forget_told();
        }
        self.report_state(now);
    }

    /// What nobody took is told again: the former owner may not have lived to. A silence that is over is none.
    pub(super) fn replay_kept(&mut self) {
        let silent = self.streams.iter().filter(|stream| stream.silence_told);
        let silent: Vec<LegId> = silent.map(|stream| stream.endpoint.leg).collect();
        self.outbox.replay(|leg| silent.contains(&leg));
    }

    /// Timer work.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.released {
            return;
        }
        let mut is_quiet = false;
        for stream in &mut self.streams {
            is_quiet |= stream.handle_timeout(&self.cname, &mut self.random, &mut self.outbox, now);
        }
        if is_quiet {
            self.report_state(now);
        }
        if self.state_at <= now {
            self.state_at = now + STATE_INTERVAL;
            if self.changed {
                self.report_state(now);
            }
        }
        self.plan();
    }

    /// Finds the next deadline anew.
    pub(super) fn plan(&mut self) {
        let state = (!self.streams.is_empty()).then_some((self.state_at, "state report"));
        let streams = self.streams.iter().filter_map(Stream::deadline);
        self.next = streams.chain(state).min_by_key(|(at, _)| *at);
    }

    /// When, and why.
    pub fn next_timeout(&self) -> Option<(Timestamp, &'static str)> {
        self.next
    }

    /// Drain to `None` after every mutation.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }

    /// Some stream is decoded and encoded again.
    pub fn is_transcoding(&self) -> bool {
        self.streams.iter().any(Stream::is_transcoding)
    }
}
