//! A media node as the simulator sees it: ports and wishes, no packets.

use holdfast::control::{
    Apply, Hears, LegState, Refusal, Reply, Request, SessionState, StreamState, StreamStatistics,
};
use holdfast::ids::{LegId, SessionId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Media {
    sessions: BTreeMap<SessionId, Session>,
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
            Request::Apply(apply) if refuse && !self.sessions.contains_key(&apply.session) => {
                Some(Reply::Refused {
                    session: apply.session,
                    epoch: apply.epoch,
                    rev: apply.rev,
                    reason: Refusal::Capacity,
                })
            }
            Request::Apply(apply) => Some(self.apply(apply)),
            Request::Release(release) => {
                let session = self.sessions.remove(&release.session);
                if session.is_none() {
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

    /// The leg's phone is where the wish says, was told the port of the wish, and hears another leg.
    pub fn check(
        &self,
        session: &str,
        leg: LegId,
        phone_port: u16,
        told_port: Option<u16>,
    ) -> Result<(), String> {
        let Some(session) =
            self.sessions.values().find(|known| known.apply.session.to_string() == session)
        else {
            return Err(format!("no media session {session}"));
        };
        let Some(spec) = session.apply.spec.legs.iter().find(|spec| spec.leg == leg) else {
            return Err("the leg has no media".into());
        };
        let Some(stream) = spec.streams.first() else { return Err("no stream".into()) };
        let remote = stream.remote.as_ref().map(|remote| remote.rtp.port());
        if remote.is_some() && remote != Some(phone_port) {
            return Err(format!("media goes to {remote:?}, the phone listens at {phone_port}"));
        }
        if session.ports.get(&(leg, 0)).copied() != told_port {
            return Err(format!(
                "the phone was told {told_port:?}, the port is {:?}",
                session.ports
            ));
        }
        if !matches!(stream.hears, Hears::Leg(_)) && stream.to_phone {
            return Err(format!("the phone hears {:?}", stream.hears));
        }
        Ok(())
    }

    pub fn leaks(&self) -> impl Iterator<Item = String> {
        self.sessions.keys().map(|id| format!("media session {id} was never released"))
    }
}
