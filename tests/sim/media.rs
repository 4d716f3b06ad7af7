//! A media node as the simulator sees it: ports and wishes, no packets.

use crate::phone::Voice;
use holdfast::control::{
    Apply, Hears, LegState, Refusal, Reply, Request, Resume, SessionState, StreamState,
    StreamStatistics,
};
use holdfast::ids::{LegId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Media {
    sessions: BTreeMap<SessionId, Session>,
    released: BTreeSet<SessionId>,
    next_port: u16,
    pub complaints: Vec<String>,
}

#[derive(Debug)]
struct Session {
    apply: Apply,
    ports: BTreeMap<(LegId, u8), u16>,
}

impl Media {
    pub fn handle(&mut self, request: &Request, refuse: bool) -> Option<Reply> {
        match request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. })
                if refuse && !self.sessions.contains_key(&apply.session) =>
            {
                Some(Reply::Refused {
                    session: apply.session,
                    epoch: apply.epoch,
                    rev: apply.rev,
                    reason: Refusal::Capacity,
                })
            }
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => {
                Some(self.apply(apply))
            }
            Request::Release(release) => {
                let session = self.sessions.remove(&release.session);
                if session.is_some() {
                    self.released.insert(release.session);
                }
                // A session that was refused may be released all the same: who asks did not know it yet.
                if session.is_none() && !self.released.insert(release.session) {
                    self.complaints.push(format!("session {} released twice", release.session));
                }
                Some(Reply::Released(SessionState {
                    session: release.session,
                    epoch: release.epoch,
                    rev: release.rev,
                    legs: Vec::new(),
                }))
            }
        }
    }

    fn apply(&mut self, apply: &Apply) -> Reply {
        let next_port = &mut self.next_port;
        let session = self
            .sessions
            .entry(apply.session)
            .or_insert_with(|| Session { apply: apply.clone(), ports: BTreeMap::new() });
        if (apply.epoch, apply.rev) < (session.apply.epoch, session.apply.rev) {
            self.complaints.push(format!("session {} went back", apply.session));
        }
        session.apply = apply.clone();
        let mut legs = Vec::new();
        for leg in &apply.spec.legs {
            let mut streams = Vec::new();
            for stream in &leg.streams {
                let port = *session.ports.entry((leg.leg, stream.index)).or_insert_with(|| {
                    *next_port += 2;
                    20_000 + *next_port
                });
                if stream.port.is_some_and(|named| named != port) {
                    self.complaints.push(format!("port {port} was named {:?}", stream.port));
                }
                if let Hears::Leg(other) = stream.hears
                    && !apply.spec.legs.iter().any(|leg| leg.leg == other)
                {
                    self.complaints.push(format!("leg {} hears a leg that is gone", leg.leg));
                }
                streams.push(StreamState {
                    index: stream.index,
                    local: ([10, 0, 0, 2], port).into(),
                    port,
                    statistics: StreamStatistics::default(),
                });
            }
            legs.push(LegState { leg: leg.leg, streams });
        }
        session.ports.retain(|(id, _), _| apply.spec.legs.iter().any(|leg| leg.leg == *id));
        Reply::Applied(SessionState {
            session: apply.session,
            epoch: apply.epoch,
            rev: apply.rev,
            legs,
        })
    }

    /// RTP of that leg's phone is missed when it stays away.
    pub fn expects_rtp(&self, session: SessionId, leg: LegId) -> bool {
        let legs = self.sessions.get(&session).map(|session| &session.apply.spec.legs);
        let spec = legs.and_then(|legs| legs.iter().find(|spec| spec.leg == leg));
        spec.and_then(|spec| spec.streams.first())
            .is_some_and(|stream| stream.from_phone && stream.rtp_timeout_ms > 0)
    }

    /// The leg's phone is where the wish says, was told the port of the wish, hears another leg, and hold is hold.
    pub fn check(
        &self,
        session: &str,
        leg: LegId,
        phone: Voice,
        told_port: Option<u16>,
    ) -> Result<(), String> {
        let mut sessions = self.sessions.values();
        let session = sessions
            .find(|known| known.apply.session.to_string() == session)
            .ok_or_else(|| format!("no media session {session}"))?;
        let spec = session.apply.spec.legs.iter().find(|spec| spec.leg == leg);
        let spec = spec.ok_or("the leg has no media")?;
        let stream = spec.streams.first().ok_or("no stream")?;
        let remote = stream.remote.as_ref().map(|remote| remote.rtp.port());
        if remote.is_some() && remote != Some(phone.port) {
            return Err(format!("media goes to {remote:?}, the phone listens at {}", phone.port));
        }
        if session.ports.get(&(leg, 0)).copied() != told_port {
            let ports = &session.ports;
            return Err(format!("the phone was told {told_port:?}, the port is {ports:?}"));
        }
        if !matches!(stream.hears, Hears::Leg(_)) && stream.to_phone {
            return Err(format!("the phone hears {:?}", stream.hears));
        }
        if (stream.to_phone, stream.from_phone) != (phone.receives, phone.sends) {
            let wish = (stream.to_phone, stream.from_phone);
            return Err(format!("the wish is {wish:?} (to, from), the phone is {phone:?}"));
        }
        Ok(())
    }

    pub fn leaks(&self) -> impl Iterator<Item = String> {
        self.sessions.keys().map(|id| format!("media session {id} was never released"))
    }
}
