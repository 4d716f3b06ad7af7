//! The wish of signaling made true: streams come, change and go; who hears whom; acts.
//!
//! Invariants: a refused wish changes nothing; a repeated one changes nothing either; what goes on
//! unchanged is not interrupted.

use super::playout::Playout;
use super::session::Session;
use super::stream::{Hearing, Stream, is_same_codec};
use super::{Channel, Endpoint, Output};
use crate::control::{
    Act, Apply, Codec, Hears, LegSpec, Refusal, Resume, SessionSpec, SessionState, StreamSpec,
};
use crate::ids::{Epoch, LegId, Rev};
use crate::limits::{LEGS_PER_CALL, STREAMS_PER_LEG};
use crate::time::Timestamp;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Of a request: later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Order(pub(super) Epoch, pub(super) Rev);

/// Of a stream of the spec: its advertised RTP address and its bound port.
type Address = (Endpoint, SocketAddr, u16);

/// What decides whether a listener's timeline is interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    hears: Hears,
    to_phone: bool,
    codec: Option<Codec>,
    heard: Option<(bool, Option<Codec>)>,
}

impl Session {
    /// Makes the session as wished. The shell has opened the ports already (`addresses`: for each
    /// stream of the spec its advertised RTP address and its bound port). Legs that are gone from
    /// the spec are forgotten.
    pub fn apply(
        &mut self,
        apply: &Apply,
        addresses: &[Address],
        now: Timestamp,
    ) -> Result<SessionState, Refusal> {
        let order = Order(apply.epoch, apply.rev);
        if self.released || self.order.is_some_and(|seen| order < seen) {
            return Err(Refusal::Stale);
        }
        if self.order == Some(order) {
            return Ok(self.state(now));
        }
        if !is_sensible(&apply.spec, addresses) {
            return Err(Refusal::Invalid);
        }
        let is_new_owner = self.order.is_some_and(|seen| seen.0 < order.0);
        self.order = Some(order);
        self.confirmed = apply.spec.confirmed;
        let before = self.lines();
        self.take_streams(&apply.spec.legs, addresses, now);
        self.connect(&before, now);
        self.act(&apply.spec.acts, now);
        if is_new_owner {
            self.replay_kept();
        }
        self.changed = true;
        self.plan();
        Ok(self.state(now))
    }

    /// The same, by a process that may know nothing of the session: its new streams go on from what the former one
    /// told.
    pub fn resume(
        &mut self,
        resume: &Resume,
        addresses: &[Address],
        now: Timestamp,
    ) -> Result<SessionState, Refusal> {
        let known: Vec<Endpoint> = self.streams.iter().map(|stream| stream.endpoint).collect();
        self.apply(&resume.apply, addresses, now)?;
        for carried in &resume.carried {
            let (leg, stream) = (carried.leg, carried.index);
            let endpoint = Endpoint { leg, stream, channel: Channel::Rtp };
            let stream = self.streams.iter_mut().find(|stream| stream.endpoint == endpoint);
            if let Some(stream) = stream.filter(|_| !known.contains(&endpoint)) {
                stream.carry_on(carried, now);
            }
        }
        self.plan();
        Ok(self.state(now))
    }

    /// Streams as in the spec: those that were here keep all they know.
    fn take_streams(&mut self, legs: &[LegSpec], addresses: &[Address], now: Timestamp) {
        let mut former = core::mem::take(&mut self.streams);
        self.legs = legs.iter().map(|leg| leg.leg).collect();
        for leg in legs {
            for spec in &leg.streams {
                let endpoint = rtp_endpoint(leg.leg, spec);
                let Some(local) = address_of(addresses, endpoint) else { continue };
                let held = former.iter().position(|stream| stream.endpoint == endpoint);
                let mut stream = held.map_or_else(
                    || Stream::new(endpoint, spec.clone(), local, &mut self.random, now),
                    |position| former.swap_remove(position),
                );
                let described = |spec: &StreamSpec| spec.remote.as_ref().map(|r| r.generation);
                if described(&stream.spec) != described(spec) {
                    stream.keep_alive_since = now;
                }
                stream.spec = spec.clone();
                (stream.local, stream.port) = local;
                self.describe(&mut stream, now);
                self.streams.push(stream);
            }
        }
        for mut gone in former {
            gone.report_by_rtcp(&self.cname, true, &mut self.outbox, now);
        }
    }

    fn describe(&mut self, stream: &mut Stream, now: Timestamp) {
        stream.learn_payload_types();
        stream.secure();
        if let Some(codec) = &stream.spec.codec {
            stream.outbound.set_clock(codec.clock_rate_hz);
        }
        let peer = stream.spec.peer;
        let remote = stream.spec.remote.as_ref();
        let rtp = remote.map(|remote| (remote.rtp, remote.generation));
        let rtcp = remote.map(|remote| (remote.rtcp, remote.generation));
        if stream.rtp.describe(peer, rtp, now) {
            self.outbox.push(Output::Pin {
                endpoint: stream.endpoint,
                source: None,
                rebound: false,
            });
        }
        if stream.rtcp.describe(peer, rtcp, now) {
            self.outbox.push(Output::Pin {
                endpoint: stream.rtcp_endpoint(),
                source: None,
                rebound: false,
            });
        }
        let expected = self.confirmed && stream.spec.from_phone && remote.is_some();
        match (expected, stream.expected_since) {
            (true, None) => stream.expected_since = Some(now),
            (false, Some(_)) => {
                stream.expect_nothing(now);
                stream.silence_told = false;
                stream.quiet_told = false;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// What each stream hears now.
    fn lines(&self) -> Vec<(Endpoint, Line)> {
        let line = |stream: &Stream| Line {
            hears: stream.spec.hears,
            to_phone: stream.spec.to_phone,
            codec: stream.spec.codec.clone(),
            heard: self
                .heard_by(stream)
                .and_then(|position| self.streams.get(position))
                .map(|heard| (heard.spec.from_phone, heard.spec.codec.clone())),
        };
        self.streams.iter().map(|stream| (stream.endpoint, line(stream))).collect()
    }

    fn heard_by(&self, listener: &Stream) -> Option<usize> {
        let wanted = match listener.spec.hears {
            Hears::Leg(leg) => Endpoint { leg, ..listener.endpoint },
            Hears::Echo => listener.endpoint,
            Hears::Nothing | Hears::Tone(_) => return None,
        };
        self.streams.iter().position(|stream| stream.endpoint == wanted)
    }

    /// Who hears whom, and how.
    fn connect(&mut self, before: &[(Endpoint, Line)], now: Timestamp) {
        let after = self.lines();
        let heard: Vec<_> = self.streams.iter().map(|stream| self.heard_by(stream)).collect();
        let codecs: Vec<_> = self.streams.iter().map(|stream| stream.spec.codec.clone()).collect();
        for (position, stream) in self.streams.iter_mut().enumerate() {
            stream.listeners.clear();
            let hears_us = |(listener, heard): (usize, &Option<usize>)| {
                (*heard == Some(position)).then_some(listener)
            };
            stream.listeners.extend(heard.iter().enumerate().filter_map(hears_us));
            let line = after.get(position);
            if line.is_none_or(|line| !before.contains(line)) {
                stream.outbound.interrupt();
            }
            let heard = heard.get(position).copied().flatten();
            let heard = heard.and_then(|heard| codecs.get(heard)?.as_ref());
            stream.connect(heard, now);
        }
    }

    fn act(&mut self, acts: &[Act], now: Timestamp) {
        for act in acts {
            let Act::SendDigits { number, leg, digits } = act;
            if self.acts_done.contains(number) {
                continue;
            }
            let stream = self.streams.iter_mut().find(|stream| stream.endpoint.leg == *leg);
            if let Some(stream) = stream {
                stream.digit_sender.push(digits, now);
            }
        }
        self.acts_done = acts.iter().map(|Act::SendDigits { number, .. }| *number).collect();
    }
}

impl Stream {
    /// `heard`: the codec of whom the phone hears.
    fn connect(&mut self, heard: Option<&Codec>, now: Timestamp) {
        let codec = self.spec.codec.clone();
        let hears = self.spec.hears;
        self.hearing = match (hears, codec.as_ref(), heard) {
            (Hears::Nothing, ..) | (_, None, _) | (Hears::Leg(_) | Hears::Echo, _, None) => {
                Hearing::Nothing
            }
            (Hears::Echo, Some(_), Some(_)) => Hearing::Echo,
            (Hears::Leg(_), Some(own), Some(other)) if is_same_codec(own, other) => Hearing::Relay,
            (Hears::Leg(_) | Hears::Tone(_), Some(_), _) => Hearing::Made,
        };
        let Some(codec) = codec.filter(|_| self.hearing == Hearing::Made) else {
            self.playout = None;
            return;
        };
        if self.playout.as_ref().is_some_and(|playout| playout.serves(&codec, hears, heard)) {
            return;
        }
        self.playout = match (hears, heard) {
            (Hears::Tone(tone), _) => Playout::tone(&codec, tone, now),
            (_, Some(heard)) => Playout::transcoder(&codec, heard),
            (_, None) => None,
        };
    }
}

fn rtp_endpoint(leg: LegId, spec: &StreamSpec) -> Endpoint {
    Endpoint { leg, stream: spec.index, channel: Channel::Rtp }
}

fn address_of(addresses: &[Address], endpoint: Endpoint) -> Option<(SocketAddr, u16)> {
    let found = addresses.iter().find(|(named, ..)| *named == endpoint)?;
    Some((found.1, found.2))
}

/// Bounded, nothing twice, every stream with an address, every leg that is heard there.
fn is_sensible(spec: &SessionSpec, addresses: &[Address]) -> bool {
    let ascending = spec.legs.windows(2).all(|pair| match pair {
        [one, other] => one.leg < other.leg,
        _ => true,
    });
    let heard_is_there = |leg: LegId, hears: Hears| match hears {
        Hears::Leg(heard) => heard != leg && spec.legs.iter().any(|other| other.leg == heard),
        Hears::Nothing | Hears::Echo | Hears::Tone(_) => true,
    };
    ascending
        && spec.legs.len() <= LEGS_PER_CALL
        && spec.legs.iter().all(|leg| {
            let mut indices: Vec<_> = leg.streams.iter().map(|stream| stream.index).collect();
            indices.sort_unstable();
            indices.dedup();
            indices.len() == leg.streams.len()
                && indices.len() <= STREAMS_PER_LEG
                && leg.streams.iter().all(|stream| {
                    heard_is_there(leg.leg, stream.hears)
                        && address_of(addresses, rtp_endpoint(leg.leg, stream)).is_some()
                })
        })
}
