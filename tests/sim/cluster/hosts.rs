//! Media processes in the world: what they hear and say, how they come, die, stand still, and leave their sessions to
//! another process of their host, which may break off at any step.

use super::air::ports_of;
use super::link::Place;
use super::media::{Answer, Asked, PORTS_WAIT, Parcel};
use super::sabotage::Sabotage;
use super::world::{Happening, MEDIAS, MS, NODES, S, World, host_of};
use holdfast::control::hello::Capacity;
use holdfast::control::{Frame, Reply, Request};
use holdfast::ids::SessionId;
use holdfast::time::Timestamp;

/// A link that misses heartbeats so long is told of.
const MISSED: u64 = 250 * MS;
/// A hand-over that found nobody, or broke off, begins again after this.
const HEIR_SOUGHT: u64 = 500 * MS;
/// A node that leaves waits so long for its sessions to go.
const LONGEST_LEAVE: u64 = 20 * S;

/// Where a hand-over breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The leaving process dies when it has stopped reading.
    LeaverDiesFirst,
    /// The heir dies before its word.
    HeirDiesFirst,
    /// The link between them is shut before the heir's word.
    Shut,
    /// The leaving process dies before it read the heir's word.
    LeaverDiesLast,
    /// The heir dies after its word.
    HeirDiesLast,
}

impl Break {
    pub const ALL: [Self; 5] = [
        Self::LeaverDiesFirst,
        Self::HeirDiesFirst,
        Self::Shut,
        Self::LeaverDiesLast,
        Self::HeirDiesLast,
    ];
}

impl World {
    pub fn media_hears(&mut self, media: usize, link: u64, frame: Frame) {
        match frame {
            Frame::Request { id, request } => {
                if self.sabotage == Some(Sabotage::KeepMedia)
                    && matches!(request, Request::Release(_))
                {
                    return;
                }
                self.serve(media, Asked { link, id, request }, self.now + PORTS_WAIT);
            }
            Frame::ReportAck { session, number } => {
                self.medias[media].node.acknowledge(session, number);
            }
            _ => {}
        }
    }

    fn serve(&mut self, media: usize, asked: Asked, until: u64) {
        let now = Timestamp::from_micros(self.now);
        let ports = ports_of(&mut self.hosts, media);
        let (link, id, request) = (asked.link, asked.id, asked.request.clone());
        let reply = match self.medias[media].node.serve(asked, ports, now) {
            Answer::Now(reply) => reply,
            Answer::PortsTaken(asked) if self.now < until => {
                self.count.add("media: ports waited for");
                let life = self.medias[media].life;
                let again = Happening::PortsAgain { media, life, asked, until };
                return self.schedule(10 * MS, again);
            }
            Answer::PortsTaken(asked) => {
                self.count.add("media: ports taken");
                let (epoch, rev) = order(&asked.request);
                let reason = holdfast::control::Refusal::PortTaken;
                Reply::Refused { session: asked.request.session(), epoch, rev, reason }
            }
            Answer::Never => {
                return self.note(|| format!("   media {media}: {} waits", told(&request, None)));
            }
        };
        if matches!(reply, Reply::Refused { reason: holdfast::control::Refusal::Stale, .. }) {
            self.count.add("media: stale");
        }
        self.note(|| format!("   media {media}: {}", told(&request, Some(&reply))));
        self.send_frame(link, 1, Frame::Reply { id, reply });
        self.tell_reports(media);
    }

    pub fn try_ports(&mut self, media: usize, life: u64, asked: Asked, until: u64) {
        if self.medias[media].life == life && self.medias[media].is_up {
            self.serve(media, asked, until);
        }
    }

    fn tell_reports(&mut self, media: usize) {
        for report in self.medias[media].node.reports() {
            self.tell_links(media, &Frame::Report(report));
        }
    }

    /// To every signaling node.
    pub fn tell_links(&mut self, media: usize, frame: &Frame) {
        if let Frame::Report(report) = frame {
            if !matches!(report.kind, holdfast::control::ReportKind::State(_)) {
                let (session, kind) = (report.session.0, &report.kind);
                self.note(|| format!("   media {media}: of session {session}: {kind:?}"));
            }
            if matches!(report.kind, holdfast::control::ReportKind::Silence { .. }) {
                self.count.add("media: silence reported");
            }
            if self.sabotage == Some(Sabotage::ForgottenReports) {
                self.medias[media].node.acknowledge(report.session, report.number);
            }
        }
        for link in self.touching(Place::Media(media)) {
            self.send_frame(link, 1, frame.clone());
        }
    }

    /// A link is new.
    pub fn greet(&mut self, media: usize, link: u64) {
        self.send_frame(link, 1, Frame::Host(format!("host-{}", host_of(media))));
        self.send_frame(link, 1, Frame::Capacity(self.capacity(media)));
        let now = Timestamp::from_micros(self.now);
        for frame in self.medias[media].node.replay(now) {
            self.send_frame(link, 1, frame);
        }
    }

    fn capacity(&self, media: usize) -> Capacity {
        let draining = self.medias[media].node.is_draining;
        Capacity { max_sessions: 1_000, draining, ..Capacity::default() }
    }

    pub fn kill_media(&mut self, media: usize) {
        if !self.medias[media].is_up {
            return;
        }
        self.count.add("faults: media died");
        self.medias[media].is_up = false;
        self.medias[media].is_frozen = false;
        self.medias[media].backlog.clear();
        let ports = self.medias[media].node.die();
        // Its links break first.
        let after = self.random.between(0, 30 * MS);
        self.schedule(after, Happening::PortsClosed { media, ports });
        self.break_links(Place::Media(media));
    }

    pub fn close_ports(&mut self, media: usize, closed: Vec<u16>) {
        let ports = ports_of(&mut self.hosts, media);
        for port in closed {
            if ports.get(&port) == Some(&media) {
                ports.remove(&port);
            }
        }
    }

    pub fn start_media(&mut self, media: usize) {
        if self.medias[media].is_up {
            return;
        }
        (self.last_fault, self.hurt_at) = (self.now, self.now);
        self.medias[media].life = self.next_life();
        self.medias[media].is_up = true;
        self.schedule(0, Happening::Relink);
    }

    pub fn freeze_media(&mut self, media: usize) {
        self.count.add("faults: media froze");
        self.medias[media].is_frozen = true;
        self.silence(Place::Media(media));
    }

    pub fn thaw_media(&mut self, media: usize, life: u64) {
        if self.medias[media].life != life || !self.medias[media].is_up {
            return;
        }
        self.medias[media].is_frozen = false;
        for (link, frame) in core::mem::take(&mut self.medias[media].backlog) {
            self.media_hears(media, link, frame);
        }
        self.schedule(0, Happening::Relink);
    }

    /// Heartbeats are missed: which link, by its number there, and who notices.
    pub fn miss_beats(&mut self, link: u64) {
        for end in 0..2 {
            self.schedule(MISSED, Happening::Silent { link, end });
        }
    }

    /// A host cannot be reached any more, by nobody.
    pub fn lose_host(&mut self, host: usize) {
        self.count.add("faults: media host lost");
        self.lost_hosts.insert(host);
        for media in (0..MEDIAS).filter(|media| host_of(*media) == host) {
            for node in 0..NODES {
                let (one, other) = (Place::Node(node), Place::Media(media));
                self.cuts.insert((one, other));
                self.silence_between(one, other);
            }
        }
    }

    pub fn find_host(&mut self, host: usize) {
        self.lost_hosts.remove(&host);
        for media in (0..MEDIAS).filter(|media| host_of(*media) == host) {
            for node in 0..NODES {
                self.cuts.remove(&(Place::Node(node), Place::Media(media)));
            }
        }
        self.schedule(0, Happening::Relink);
    }

    /// Takes no new sessions, and gives those that it has to another process of its host; or takes them again.
    pub fn drain_media(&mut self, media: usize, drains: bool) {
        self.medias[media].node.is_draining = drains;
        let capacity = Frame::Capacity(self.capacity(media));
        self.tell_links(media, &capacity);
        if drains {
            let life = self.medias[media].life;
            self.schedule(MS, Happening::Pass { media, life });
        }
    }

    /// SIGTERM.
    pub fn leave_media(&mut self, media: usize, back: u64, breaks: Option<(u32, Break)>) {
        if !self.medias[media].is_up || self.medias[media].is_frozen {
            return;
        }
        self.count.add("faults: media left");
        self.medias[media].leaves = Some((self.now + LONGEST_LEAVE, back));
        self.medias[media].breaks = breaks;
        self.drain_media(media, true);
    }

    fn heir_of(&self, media: usize) -> Option<usize> {
        (0..MEDIAS).find(|other| {
            let there = &self.medias[*other];
            *other != media
                && host_of(*other) == host_of(media)
                && there.is_up
                && !there.is_frozen
                && !there.node.is_draining
        })
    }

    /// The next session of a node that drains is on its way.
    pub fn pass_session(&mut self, media: usize, life: u64) {
        let there = &self.medias[media];
        if there.life != life || !there.is_up || !there.node.is_draining {
            return;
        }
        if there.is_frozen {
            return self.schedule(HEIR_SOUGHT, Happening::Pass { media, life });
        }
        let next = there.node.sessions().next();
        if let Some((until, back)) = there.leaves
            && (next.is_none() || until <= self.now)
        {
            self.kill_media(media);
            self.medias[media].leaves = None;
            return self.schedule(back, Happening::StartMedia { media });
        }
        let Some((id, heir)) = next.zip(self.heir_of(media)) else {
            return self.schedule(HEIR_SOUGHT, Happening::Pass { media, life });
        };
        let breaks = self.breaks_now(media);
        let Some(parcel) = self.medias[media].node.export(id) else { return };
        if breaks == Some(Break::LeaverDiesFirst) {
            return self.die_leaving(media);
        }
        let heir = (heir, self.medias[heir].life);
        self.schedule(MS, Happening::Passed { media, life, heir, parcel, breaks });
    }

    /// Counts down to where the hand-over breaks.
    fn breaks_now(&mut self, media: usize) -> Option<Break> {
        let (left, breaks) = self.medias[media].breaks?;
        self.medias[media].breaks = left.checked_sub(1).map(|left| (left, breaks));
        let breaks = (left == 0).then_some(breaks)?;
        self.count.add(format!("media: hand-over broke: {breaks:?}"));
        self.note(|| format!("   media {media}: the hand-over breaks: {breaks:?}"));
        Some(breaks)
    }

    fn die_leaving(&mut self, media: usize) {
        let back = self.medias[media].leaves.take().map(|(_, back)| back);
        self.kill_media(media);
        self.schedule(back.unwrap_or(S), Happening::StartMedia { media });
    }

    /// It is at the heir.
    pub fn session_passed(
        &mut self,
        (media, life): (usize, u64),
        (heir, heir_life): (usize, u64),
        parcel: Parcel,
        breaks: Option<Break>,
    ) {
        let leaver = &self.medias[media];
        if leaver.life != life || !leaver.is_up {
            // Where the heir's word cannot be said it takes nothing.
            return;
        }
        let there = &self.medias[heir];
        let takes = there.life == heir_life && there.is_up && !there.is_frozen;
        let takes = takes && !there.node.is_draining;
        let again = Happening::Pass { media, life };
        match breaks {
            Some(Break::HeirDiesFirst) if takes => {
                self.kill_media(heir);
                self.schedule(2 * S, Happening::StartMedia { media: heir });
                self.keep(media, parcel.id);
                self.schedule(HEIR_SOUGHT, again);
            }
            Some(Break::Shut) => {
                self.keep(media, parcel.id);
                self.schedule(HEIR_SOUGHT, again);
            }
            _ if !takes => {
                self.keep(media, parcel.id);
                self.schedule(HEIR_SOUGHT, again);
            }
            _ => {
                self.take_session(heir, &parcel);
                if breaks == Some(Break::LeaverDiesLast) {
                    return self.die_leaving(media);
                }
                self.medias[media].node.forget(parcel.id);
                if breaks == Some(Break::HeirDiesLast) {
                    self.kill_media(heir);
                    self.schedule(2 * S, Happening::StartMedia { media: heir });
                }
                self.schedule(MS, again);
            }
        }
    }

    fn take_session(&mut self, heir: usize, parcel: &Parcel) {
        self.count.add("media: sessions handed over");
        let now = Timestamp::from_micros(self.now);
        let ports = ports_of(&mut self.hosts, heir);
        let taken = self.medias[heir].node.adopt(parcel, ports, now);
        self.note(|| format!("   media {heir} has session {} now", parcel.id.0));
        if let Some(taken) = taken {
            self.tell_links(heir, &taken);
        }
    }

    /// Nobody took it.
    fn keep(&mut self, media: usize, id: SessionId) {
        if let Some(asked) = self.medias[media].node.resume(id) {
            self.serve(media, asked, self.now + PORTS_WAIT);
        }
    }

    /// What a dialled, or probed, media node shows of itself.
    pub fn media_lives(&self, media: usize, node: usize) -> bool {
        let there = &self.medias[media];
        let is_cut = self.is_cut(Place::Node(node), Place::Media(media));
        there.is_up && !there.is_frozen && !is_cut
    }

    /// The media node of that name.
    pub fn media_named(&self, name: &str) -> Option<usize> {
        (0..MEDIAS).find(|at| format!("media-{at}") == name)
    }

    /// A link that was silent is heard again, before it broke.
    pub fn note_silence(&mut self, link: u64, end: usize) {
        let Some(known) = self.links.get(&link) else { return };
        let (here, there) = (known.ends[end].at, known.ends[1 - end].at);
        let (Place::Node(node), Place::Media(media)) = (here, there) else { return };
        let (life, number) = (known.ends[end].life, known.ends[end].number);
        let is_silent = !self.media_lives(media, node) && self.medias[media].is_up;
        if is_silent {
            self.count.add("links: silence noticed");
            let wakeup = holdfast::signaling::driven::Wakeup::LinkSilent(number, true);
            let incoming = holdfast::signaling::driven::Incoming::Wakeup(wakeup);
            self.turn(node, life, Some(incoming));
        }
    }
}

fn order(request: &Request) -> (holdfast::ids::Epoch, holdfast::ids::Rev) {
    match request {
        Request::Apply(apply) => (apply.epoch, apply.rev),
        Request::Resume(resume) => (resume.apply.epoch, resume.apply.rev),
        Request::Release(release) => (release.epoch, release.rev),
    }
}

fn told(request: &Request, reply: Option<&Reply>) -> String {
    let what = match request {
        Request::Apply(_) => "apply",
        Request::Resume(_) => "resume",
        Request::Release(_) => "release",
    };
    let (epoch, rev) = order(request);
    let answer = match reply {
        Some(Reply::Applied(_)) => "applied".to_owned(),
        Some(Reply::Released(_)) => "released".to_owned(),
        Some(Reply::Refused { reason, .. }) => format!("{reason:?}"),
        None => "-".to_owned(),
    };
    format!("{what} {} e{} r{}: {answer}", request.session().0, epoch.0, rev.0)
}
