//! Media nodes of the cluster: sessions by (epoch, rev), ports, reports; no packets.

use crate::phone::Voice;
use holdfast::control::{
    Apply, Hears, LegState, Refusal, Release, Reply, Request, Resume, SessionState, StreamState,
    StreamStatistics,
};
use holdfast::ids::{Epoch, LegId, Rev, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Ports of a node begin at a multiple of this.
const SLICE: u16 = 10_000;

/// One start of a media node, or several with a pause between.
#[derive(Debug, Default)]
pub struct MediaNode {
    pub number: usize,
    pub sessions: BTreeMap<SessionId, Session>,
    released: BTreeMap<SessionId, (Epoch, Rev)>,
    busy: BTreeSet<u16>,
    next_port: u16,
    /// Sessions of an earlier start, which died with it.
    pub lost: BTreeSet<SessionId>,
    pub complaints: Vec<String>,
}

#[derive(Debug)]
pub struct Session {
    pub apply: Apply,
    pub ports: BTreeMap<(LegId, u8), u16>,
}

impl MediaNode {
    pub fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    /// Its process died: the sessions with it.
    pub fn die(&mut self) {
        self.lost.extend(core::mem::take(&mut self.sessions).into_keys());
        self.busy.clear();
        self.released.clear();
    }

    pub fn handle(&mut self, request: &Request) -> Reply {
        match request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => self.apply(apply),
            Request::Release(release) => self.release(release),
        }
    }

    fn is_stale(&self, session: SessionId, order: (Epoch, Rev)) -> bool {
        let present = self.sessions.get(&session);
        let seen = present.map(|session| (session.apply.epoch, session.apply.rev));
        let released = self.released.contains_key(&session);
        released || seen.is_some_and(|seen| order < seen)
    }

    fn release(&mut self, release: &Release) -> Reply {
        let Release { session, epoch, rev } = *release;
        let is_known = self.sessions.contains_key(&session);
        if is_known && self.is_stale(session, (epoch, rev)) {
            return Reply::Refused { session, epoch, rev, reason: Refusal::Stale };
        }
        if let Some(gone) = self.sessions.remove(&session) {
            for port in gone.ports.values() {
                if !self.busy.remove(port) {
                    self.complaints.push(format!("port {port} was released twice"));
                }
            }
        }
        self.released.insert(session, (epoch, rev));
        Reply::Released(SessionState { session, epoch, rev, legs: Vec::new() })
    }

    fn apply(&mut self, apply: &Apply) -> Reply {
        let Apply { session, epoch, rev, .. } = *apply;
        if self.is_stale(session, (epoch, rev)) {
            return Reply::Refused { session, epoch, rev, reason: Refusal::Stale };
        }
        let mut ports = self.sessions.remove(&session).map(|known| known.ports).unwrap_or_default();
        let mut legs = Vec::new();
        for leg in &apply.spec.legs {
            let mut streams = Vec::new();
            for stream in &leg.streams {
                let key = (leg.leg, stream.index);
                let port = match (ports.get(&key), stream.port) {
                    (Some(port), _) => *port,
                    // An earlier start had it: the same again.
                    (None, Some(named)) => named,
                    (None, None) => self.free_port(),
                };
                if stream.port.is_some_and(|named| named != port) {
                    self.complaints.push(format!("port {port} was named {:?}", stream.port));
                }
                if ports.insert(key, port).is_none() && !self.busy.insert(port) {
                    self.complaints.push(format!("port {port} has two sessions"));
                }
                streams.push(StreamState {
                    index: stream.index,
                    local: ([10, 0, 1, self.number as u8], port).into(),
                    port,
                    statistics: StreamStatistics::default(),
                });
            }
            legs.push(LegState { leg: leg.leg, streams });
        }
        ports.retain(|(id, _), port| {
            let stays = apply.spec.legs.iter().any(|leg| leg.leg == *id);
            if !stays {
                self.busy.remove(port);
            }
            stays
        });
        self.sessions.insert(session, Session { apply: apply.clone(), ports });
        Reply::Applied(SessionState { session, epoch, rev, legs })
    }

    fn free_port(&mut self) -> u16 {
        loop {
            self.next_port = (self.next_port + 2) % SLICE;
            let port = SLICE * (self.number as u16 + 1) + self.next_port;
            if !self.busy.contains(&port) {
                return port;
            }
        }
    }

    /// Whose port it is.
    pub fn find(&self, port: u16) -> Option<(SessionId, LegId)> {
        self.sessions.iter().find_map(|(id, session)| {
            let (leg, _) = session.ports.iter().find(|(_, known)| **known == port)?.0;
            Some((*id, *leg))
        })
    }

    /// RTP of that leg's phone is missed when it stays away.
    pub fn expects_rtp(&self, session: SessionId, leg: LegId) -> bool {
        let legs = self.sessions.get(&session).map(|session| &session.apply.spec.legs);
        let spec = legs.and_then(|legs| legs.iter().find(|spec| spec.leg == leg));
        spec.and_then(|spec| spec.streams.first())
            .is_some_and(|stream| stream.from_phone && stream.rtp_timeout_ms > 0)
    }

    /// What a phone says reaches the other at the port that it was told, and the other way round.
    pub fn check(&self, port: u16, phone: Voice) -> Result<(SessionId, LegId), String> {
        let Some((id, leg)) = self.find(port) else {
            return Err(format!("nobody listens at port {port}"));
        };
        let session = &self.sessions[&id];
        let spec = session.apply.spec.legs.iter().find(|spec| spec.leg == leg);
        let stream = spec.and_then(|spec| spec.streams.first()).ok_or("no stream")?;
        let remote = stream.remote.as_ref().map(|remote| remote.rtp.port());
        if remote.is_some() && remote != Some(phone.port) {
            return Err(format!("media goes to {remote:?}, the phone listens at {}", phone.port));
        }
        if !matches!(stream.hears, Hears::Leg(_)) && stream.to_phone {
            return Err(format!("the phone hears {:?}", stream.hears));
        }
        if (stream.to_phone, stream.from_phone) != (phone.receives, phone.sends) {
            let wish = (stream.to_phone, stream.from_phone);
            return Err(format!("the wish is {wish:?} (to, from), the phone is {phone:?}"));
        }
        Ok((id, leg))
    }
}
