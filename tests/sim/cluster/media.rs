//! A media node of the cluster: the product's own sessions, and what a packet worker does around them: ports of a host,
//! wishes that wait, sessions that leave for another process of the host. Packets are few and take no time.

use core::time::Duration;
use holdfast::control::{Apply, Frame, Refusal, Release, Reply, Report, Request, Resume};
use holdfast::ids::{LegId, SessionId};
use holdfast::relay::{Channel, Endpoint, Output, Released, Session};
use holdfast::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Ports of a node begin at a multiple of this.
const SLICE: u16 = 10_000;
/// A port that is taken is waited for so long, in microseconds.
pub const PORTS_WAIT: u64 = 1_000_000;
const MTU: usize = 256;
/// A session that was never confirmed and has no owner.
const UNCONFIRMED_LIFE: Duration = Duration::from_secs(60);

/// Ports of a host: which of its processes has each.
pub type Ports = BTreeMap<u16, usize>;

/// One start of a media node, or several with a pause between.
#[derive(Debug, Default)]
pub struct MediaNode {
    pub number: usize,
    sessions: BTreeMap<SessionId, Entry>,
    /// Given out, and not yet taken by anybody.
    away: BTreeMap<SessionId, Away>,
    /// Taken by another process.
    gone: BTreeSet<SessionId>,
    /// Taken down lately.
    released: Released,
    by_port: BTreeMap<u16, Endpoint2>,
    next_port: u16,
    pub is_draining: bool,
    /// Former owners are refused.
    pub fences: bool,
}

type Endpoint2 = (SessionId, LegId, u8);

#[derive(Debug)]
struct Entry {
    session: Session,
    ports: BTreeMap<(LegId, u8), u16>,
    taken_at: Option<Timestamp>,
    /// The link by which it was asked for last, and since when that is gone.
    owner: Option<u64>,
    ownerless_since: Option<Timestamp>,
}

impl Entry {
    fn new(
        session: Session,
        ports: BTreeMap<(LegId, u8), u16>,
        taken_at: Option<Timestamp>,
    ) -> Self {
        Self { session, ports, taken_at, owner: None, ownerless_since: None }
    }
}

#[derive(Debug)]
struct Away {
    entry: Entry,
    asked: Option<Asked>,
}

/// What came by a link.
#[derive(Clone, Debug)]
pub struct Asked {
    pub link: u64,
    pub id: u64,
    pub request: Request,
}

/// A session on its way to another process.
#[derive(Debug)]
pub struct Parcel {
    pub id: SessionId,
    state: Vec<u8>,
    ports: BTreeMap<(LegId, u8), u16>,
}

/// What comes of a request.
pub enum Answer {
    Now(Reply),
    /// It asks for ports that another process may give up yet.
    PortsTaken(Asked),
    /// The session is on its way to another process: nobody answers.
    Never,
}

impl MediaNode {
    pub fn new(number: usize) -> Self {
        Self { number, fences: true, ..Self::default() }
    }

    /// Its process died: the sessions with it. Its ports, which the kernel closes a little later.
    pub fn die(&mut self) -> Vec<u16> {
        let away = core::mem::take(&mut self.away).into_values().map(|away| away.entry);
        let entries = core::mem::take(&mut self.sessions).into_values().chain(away);
        let ports = entries.flat_map(|entry| entry.ports.into_values()).collect();
        *self = Self { next_port: self.next_port, fences: self.fences, ..Self::new(self.number) };
        ports
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().chain(self.away.keys()).copied()
    }

    /// Those whose owner has a link.
    pub fn owned_sessions(&self, has: impl Fn(&u64) -> bool) -> Vec<SessionId> {
        let owned = |entry: &Entry| entry.owner.as_ref().is_some_and(&has);
        let owned = self.sessions.iter().filter(|(_, entry)| owned(entry));
        owned.map(|(id, _)| *id).chain(self.away.keys().copied()).collect()
    }

    /// Ends what nobody owns and was never confirmed; the rest would take an hour.
    pub fn sweep(&mut self, has: impl Fn(&u64) -> bool, ports: &mut Ports, now: Timestamp) {
        let mut orphans = Vec::new();
        for (id, entry) in &mut self.sessions {
            if entry.owner.as_ref().is_some_and(&has) {
                entry.ownerless_since = None;
                continue;
            }
            let since = *entry.ownerless_since.get_or_insert(now);
            let silent = now.saturating_since(since);
            if !entry.session.is_confirmed() && silent > UNCONFIRMED_LIFE {
                orphans.push(*id);
            }
        }
        orphans.into_iter().for_each(|id| self.close(id, ports));
    }

    pub fn serve(&mut self, asked: Asked, ports: &mut Ports, now: Timestamp) -> Answer {
        let id = asked.request.session();
        if let Some(away) = self.away.get_mut(&id) {
            away.asked = Some(asked);
            return Answer::Never;
        }
        if self.gone.contains(&id) {
            return Answer::Never;
        }
        let request = self.unfenced(&asked.request);
        let (epoch, rev) = match &request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => {
                (apply.epoch, apply.rev)
            }
            Request::Release(release) => (release.epoch, release.rev),
        };
        let done = match &request {
            Request::Apply(apply) => self.apply(apply, None, ports, now),
            Request::Resume(resume) => self.apply(&resume.apply, Some(resume), ports, now),
            Request::Release(release) => self.release(release, ports, now),
        };
        match done {
            Err(Refusal::PortTaken) => Answer::PortsTaken(asked),
            Err(reason) => Answer::Now(Reply::Refused { session: id, epoch, rev, reason }),
            Ok(reply) => {
                if let Some(entry) = self.sessions.get_mut(&id) {
                    entry.owner = Some(asked.link);
                }
                Answer::Now(reply)
            }
        }
    }

    /// With the rule broken, what a former owner asks is as good as what the present one does.
    fn unfenced(&self, request: &Request) -> Request {
        let mut request = request.clone();
        let seen = self.sessions.get(&request.session()).map(|entry| entry.session.order());
        let Some(seen) = seen.filter(|_| !self.fences) else { return request };
        let (epoch, rev) = match &mut request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => {
                (&mut apply.epoch, &mut apply.rev)
            }
            Request::Release(release) => (&mut release.epoch, &mut release.rev),
        };
        if (*epoch, *rev) < seen {
            (*epoch, *rev) = seen;
            rev.0 += 1;
        }
        request
    }

    fn apply(
        &mut self,
        apply: &Apply,
        resume: Option<&Resume>,
        ports: &mut Ports,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        let id = apply.session;
        if !self.sessions.contains_key(&id) {
            if self.fences && self.released.is_over(id, (apply.epoch, apply.rev)) {
                return Err(Refusal::Stale);
            }
            if self.is_draining {
                return Err(Refusal::Draining);
            }
            let session = Session::new(id, id.0 as u64, now);
            let entry = Entry::new(session, BTreeMap::new(), None);
            self.sessions.insert(id, entry);
        }
        let applied = self.open_ports(apply, ports).and_then(|addresses| {
            let Some(entry) = self.sessions.get_mut(&id) else { return Err(Refusal::Invalid) };
            match resume {
                Some(resume) => entry.session.resume(resume, &addresses, now),
                None => entry.session.apply(apply, &addresses, now),
            }
        });
        self.close_unused(apply, applied.is_ok(), ports);
        applied.map(Reply::Applied)
    }

    fn open_ports(
        &mut self,
        apply: &Apply,
        ports: &mut Ports,
    ) -> Result<Vec<(Endpoint, SocketAddr, u16)>, Refusal> {
        let mut addresses = Vec::new();
        for leg in &apply.spec.legs {
            for stream in &leg.streams {
                let key = (leg.leg, stream.index);
                let known = self.sessions.get(&apply.session).and_then(|it| it.ports.get(&key));
                let port = match (known, stream.port) {
                    (Some(port), _) => *port,
                    (None, Some(named)) if ports.contains_key(&named) => {
                        return Err(Refusal::PortTaken);
                    }
                    (None, Some(named)) => named,
                    (None, None) => self.free_port(ports),
                };
                ports.insert(port, self.number);
                self.by_port.insert(port, (apply.session, leg.leg, stream.index));
                if let Some(entry) = self.sessions.get_mut(&apply.session) {
                    entry.ports.insert(key, port);
                }
                let endpoint = rtp(leg.leg, stream.index);
                addresses.push((endpoint, self.address(port), port));
            }
        }
        Ok(addresses)
    }

    fn address(&self, port: u16) -> SocketAddr {
        ([10, 0, 1, super::world::host_of(self.number) as u8], port).into()
    }

    fn free_port(&mut self, ports: &Ports) -> u16 {
        loop {
            self.next_port = (self.next_port + 2) % SLICE;
            let port = SLICE * (self.number as u16 + 1) + self.next_port;
            if !ports.contains_key(&port) {
                return port;
            }
        }
    }

    fn close_unused(&mut self, apply: &Apply, applied: bool, ports: &mut Ports) {
        let Some(entry) = self.sessions.get_mut(&apply.session) else { return };
        if !applied && entry.session.order().1.0 == 0 {
            return self.close(apply.session, ports);
        }
        if applied {
            let (by_port, number) = (&mut self.by_port, self.number);
            entry.ports.retain(|(leg, index), port| {
                let mut legs = apply.spec.legs.iter().filter(|spec| spec.leg == *leg);
                let stays = legs.any(|leg| leg.streams.iter().any(|it| it.index == *index));
                if !stays {
                    by_port.remove(port);
                    free(ports, *port, number);
                }
                stays
            });
        }
    }

    fn release(
        &mut self,
        release: &Release,
        ports: &mut Ports,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        let Some(entry) = self.sessions.get_mut(&release.session) else {
            self.released.note(release.session, (release.epoch, release.rev), now);
            let Release { session, epoch, rev } = *release;
            let state = holdfast::control::SessionState { session, epoch, rev, legs: Vec::new() };
            return Ok(Reply::Released(state));
        };
        let state = entry.session.release(release, now)?;
        self.released.note(release.session, (release.epoch, release.rev), now);
        self.close(release.session, ports);
        Ok(Reply::Released(state))
    }

    fn close(&mut self, id: SessionId, ports: &mut Ports) {
        let Some(entry) = self.sessions.remove(&id) else { return };
        for port in entry.ports.into_values() {
            self.by_port.remove(&port);
            free(ports, port, self.number);
        }
    }

    pub fn acknowledge(&mut self, id: SessionId, number: u64) {
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.session.acknowledge(number);
        }
    }

    /// A link is new: what its holder is told.
    pub fn replay(&mut self, now: Timestamp) -> Vec<Frame> {
        let mut frames: Vec<Frame> =
            self.sessions.keys().filter_map(|id| self.taken(*id)).collect();
        for entry in self.sessions.values_mut() {
            entry.session.replay_reports(now);
        }
        frames.extend(self.reports().into_iter().map(Frame::Report));
        frames
    }

    fn taken(&self, session: SessionId) -> Option<Frame> {
        let at = self.sessions.get(&session)?.taken_at?;
        Some(Frame::Taken { session, at })
    }

    /// Timers of sessions; what they want told.
    pub fn time(&mut self, now: Timestamp) -> Vec<Report> {
        for entry in self.sessions.values_mut() {
            if entry.session.next_timeout().is_some_and(|(at, _)| at <= now) {
                entry.session.handle_timeout(now);
            }
        }
        self.reports()
    }

    /// What sessions want told. What they send by themselves is for nobody here.
    pub fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        for entry in self.sessions.values_mut() {
            while let Some(output) = entry.session.poll_output() {
                if let Output::Report(report) = output {
                    reports.push(report);
                }
            }
        }
        reports
    }

    /// A packet comes to a port: where it goes to.
    pub fn packet(
        &mut self,
        (source, port): (SocketAddr, u16),
        packet: &[u8],
        now: Timestamp,
    ) -> Option<SocketAddr> {
        let (id, leg, stream) = *self.by_port.get(&port)?;
        let entry = self.sessions.get_mut(&id)?;
        let mut buffer = [0; MTU];
        buffer.get_mut(..packet.len())?.copy_from_slice(packet);
        let endpoint = rtp(leg, stream);
        let forward =
            entry.session.handle_packet(endpoint, source, &mut buffer, packet.len(), now)?;
        Some(forward.to)
    }

    /// Stops reading.
    pub fn export(&mut self, id: SessionId) -> Option<Parcel> {
        let entry = self.sessions.remove(&id)?;
        for port in entry.ports.values() {
            self.by_port.remove(port);
        }
        let parcel = Parcel { id, state: entry.session.snapshot(), ports: entry.ports.clone() };
        self.away.insert(id, Away { entry, asked: None });
        Some(parcel)
    }

    /// Nobody took it: it goes on here; what was asked meanwhile.
    pub fn resume(&mut self, id: SessionId) -> Option<Asked> {
        let Away { entry, asked } = self.away.remove(&id)?;
        self.attach(id, entry);
        asked
    }

    /// The heir has it.
    pub fn forget(&mut self, id: SessionId) {
        self.away.remove(&id);
        self.gone.insert(id);
    }

    /// A session of a process that leaves is ours: what signaling is told.
    pub fn adopt(&mut self, parcel: &Parcel, ports: &mut Ports, now: Timestamp) -> Option<Frame> {
        let session = Session::restored(&parcel.state)?;
        self.close(parcel.id, ports);
        self.gone.remove(&parcel.id);
        for port in parcel.ports.values() {
            ports.insert(*port, self.number);
        }
        let entry = Entry::new(session, parcel.ports.clone(), Some(now));
        self.attach(parcel.id, entry);
        self.taken(parcel.id)
    }

    fn attach(&mut self, id: SessionId, entry: Entry) {
        for ((leg, index), port) in &entry.ports {
            self.by_port.insert(*port, (id, *leg, *index));
        }
        self.sessions.insert(id, entry);
    }
}

fn rtp(leg: LegId, stream: u8) -> Endpoint {
    Endpoint { leg, stream, channel: Channel::Rtp }
}

/// A port that is another's by now stays so.
fn free(ports: &mut Ports, port: u16, number: usize) {
    if ports.get(&port) == Some(&number) {
        ports.remove(&port);
    }
}
