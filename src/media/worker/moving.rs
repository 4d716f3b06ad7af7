//! Sessions that leave for another process of the host, and those that come from one (see `handover`).
//!
//! Invariants: while a session is away nothing of it runs: its sockets are out of epoll, its timers find nothing, what
//! signaling asks waits; what came to its sockets waits in the kernel.

use super::offload::Offloading;
use super::{Asked, Bundle, Entry, OpenSocket, Worker};
use crate::control::Frame;
use crate::ids::SessionId;
use crate::media::handover::{Heir, Parcel};
use crate::net::clock;
use crate::net::rtp_socket::RtpSocket;
use crate::net::socket_memory::SocketMemory;
use crate::relay::{Endpoint, Session};
use crate::time::Timestamp;
use core::net::SocketAddr;
use core::time::Duration;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Sessions remembered that went: what signaling still asks of them here is not refused, for it asks the heir as soon
/// as it hears of it.
const GONE: usize = 100_000;

/// A port that is taken is tried so often, and so long.
const PORTS_AGAIN: Duration = Duration::from_millis(10);
pub(super) const PORTS_WAIT: Duration = Duration::from_secs(1);
/// Wishes that wait for ports.
const WAITING: usize = 8_192;

/// A session whose state was given out and whose heir has not spoken yet.
pub(super) struct Away {
    entry: Entry,
    sockets: Vec<(Endpoint, RtpSocket)>,
    /// The last thing that was asked of it: wishes are whole, so one is enough.
    asked: Option<Asked>,
    /// Since when.
    at: Timestamp,
}

/// Who took a session, and when it was here last.
pub(super) struct Gone {
    heir: Arc<Heir>,
    at: Timestamp,
}

/// A wish for a port that is not free.
pub(super) struct Waiting {
    pub again_at: Timestamp,
    until: Timestamp,
    asked: Asked,
}

/// A session that came.
#[derive(Debug)]
pub(in crate::media) struct Adopted {
    pub id: SessionId,
    pub session: Session,
    pub created_at: Timestamp,
    /// See `Parcel`.
    pub clock: i64,
    pub pairs: Vec<(Endpoint, SocketAddr, u16)>,
    pub sockets: Vec<(Endpoint, RtpSocket)>,
}

impl Worker {
    /// Stops reading; what another process needs to carry it on. `None`: it is not here, or its sockets cannot be
    /// copied.
    pub(super) fn export(&mut self, id: SessionId) -> Option<(Parcel, Vec<OwnedFd>)> {
        let away = self.detach(id)?;
        let copies: std::io::Result<Vec<OwnedFd>> =
            away.sockets.iter().map(|(_, socket)| socket.as_fd().try_clone_to_owned()).collect();
        let entry = &away.entry;
        let parcel = Parcel {
            id,
            state: entry.session.snapshot(),
            created_at: entry.created_at,
            clock: clock::ahead_of_monotonic() + entry.ahead_us,
            pairs: entry.pairs.iter().map(|(of, (at, port))| (*of, *at, *port)).collect(),
            sockets: away.sockets.iter().map(|(endpoint, _)| *endpoint).collect(),
        };
        self.away.insert(id, away);
        match copies {
            Ok(copies) => Some((parcel, copies)),
            Err(error) => {
                tracing::warn!("media session {id} stays: {error}");
                self.resume(id);
                None
            }
        }
    }

    fn detach(&mut self, id: SessionId) -> Option<Away> {
        self.tell_exchanged(id);
        self.end_flows(id);
        let mut entry = self.sessions.remove(&id)?;
        entry.due = None;
        let mut sockets = Vec::new();
        for slot in core::mem::take(&mut entry.slots).into_values() {
            self.count_drops(slot);
            if let Some(open) = self.sockets.get_mut(slot).and_then(Option::take) {
                let _ = self.epoll.delete(&open.socket);
                self.free.push(slot);
                sockets.push((open.endpoint, open.socket));
            }
        }
        Some(Away { entry, sockets, asked: None, at: clock::now() })
    }

    /// Nobody took it: it goes on here, and what was asked meanwhile is answered.
    pub(super) fn resume(&mut self, id: SessionId) {
        let Some(Away { entry, sockets, asked, .. }) = self.away.remove(&id) else { return };
        self.attach(id, entry, sockets);
        if let Some(asked) = asked {
            self.serve(asked, clock::now() + PORTS_WAIT);
        }
    }

    /// The heir has it.
    pub(super) fn forget(&mut self, id: SessionId, heir: Arc<Heir>) {
        let Some(Away { entry, at, .. }) = self.away.remove(&id) else { return };
        let now = clock::now();
        for (_, port) in entry.pairs.into_values() {
            self.lock_ports().close(port, now);
        }
        self.shared.count_out();
        if self.gone.len() >= GONE {
            self.gone.clear();
        }
        self.gone.insert(id, Gone { heir, at });
    }

    /// A session of a process that leaves is ours, and counted: it is read from now on, and signaling hears of it.
    pub(super) fn adopt(&mut self, adopted: Adopted) {
        let Adopted { id, session, created_at, clock, pairs, sockets } = adopted;
        if self.sessions.contains_key(&id) {
            // Signaling wished for it here already, in vain: its ports were the other's.
            self.close_session(id, clock::now());
        }
        self.gone.remove(&id);
        for (_, _, port) in &pairs {
            self.lock_ports().adopt(*port);
        }
        let entry = Entry {
            session,
            slots: BTreeMap::new(),
            pairs: pairs.into_iter().map(|(of, at, port)| (of, (at, port))).collect(),
            created_at,
            ahead_us: clock - clock::ahead_of_monotonic(),
            taken_at: Some(clock::now()),
            owner: None,
            ownerless_since: None,
            due: None,
            exchanged: Bundle::default(),
            offloaded: 0,
        };
        self.attach(id, entry, sockets);
        self.tell_taken(id);
    }

    fn attach(&mut self, id: SessionId, mut entry: Entry, sockets: Vec<(Endpoint, RtpSocket)>) {
        for (endpoint, socket) in sockets {
            // What was dropped while another process had it, that one counted.
            let drops = SocketMemory::of(&socket).map_or(0, |memory| memory.drops);
            let open =
                OpenSocket { socket, session: id, endpoint, drops, offloading: Offloading::Idle };
            if let Some(slot) = self.open_slot(open) {
                entry.slots.insert(endpoint, slot);
            } else {
                tracing::error!("media session {id}: the kernel watches no more sockets");
            }
        }
        self.sessions.insert(id, entry);
        self.schedule(id);
    }

    /// A socket that epoll watches; its slot.
    pub(super) fn open_slot(&mut self, open: OpenSocket) -> Option<usize> {
        let slot = self.free.pop().unwrap_or(self.sockets.len());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        if self.epoll.add(&open.socket, event).is_err() {
            self.free.push(slot);
            return None;
        }
        match self.sockets.get_mut(slot) {
            Some(place) => *place = Some(open),
            None => self.sockets.push(Some(open)),
        }
        Some(slot)
    }

    /// Signaling learns where the session lives, at once and by each new link.
    pub(super) fn tell_taken(&self, id: SessionId) {
        let Some(at) = self.sessions.get(&id).and_then(|entry| entry.taken_at) else { return };
        self.shared.broadcast(&Frame::Taken { session: id, at });
    }

    /// Gives the request back unless its session is on its way, or is the heir's: that one is to be asked.
    pub(super) fn keep_for_heir(&mut self, asked: Asked) -> Option<Asked> {
        let session = asked.request.session();
        if let Some(away) = self.away.get_mut(&session) {
            away.asked = Some(asked);
            return None;
        }
        let Some(Gone { heir, at }) = self.gone.get(&session) else { return Some(asked) };
        if heir.is_dead() {
            self.gone.remove(&session);
            return Some(asked);
        }
        // A link that is stuck is broken: signaling asks again by the next one.
        let _ = asked.reply.try_send(Frame::Passed { session, to: heir.name.clone(), at: *at });
        None
    }
}

impl Worker {
    /// The ports of a process that died are free a little after its links broke: their heir tries again. Gives the
    /// request back when it waited long enough.
    pub(super) fn wait_for_ports(&mut self, asked: Asked, until: Timestamp) -> Option<Asked> {
        let now = clock::now();
        if self.waiting.len() >= WAITING {
            self.shared.shed("wish for ports of another process");
            return Some(asked);
        }
        if until <= now {
            return Some(asked);
        }
        self.waiting.push_back(Waiting { again_at: now + PORTS_AGAIN, until, asked });
        None
    }

    pub(super) fn try_ports_again(&mut self, now: Timestamp) {
        while self.waiting.front().is_some_and(|waiting| waiting.again_at <= now) {
            let Some(Waiting { until, asked, .. }) = self.waiting.pop_front() else { return };
            self.serve(asked, until);
        }
    }
}

impl Entry {
    /// The session's own time: that of the process where it began.
    pub(super) fn time(&self, now: Timestamp) -> Timestamp {
        shifted(now, self.ahead_us)
    }

    /// When it wants to be woken, by our clock.
    pub(super) fn wants(&self) -> Option<Timestamp> {
        let (at, _) = self.session.next_timeout()?;
        Some(shifted(at, -self.ahead_us))
    }
}

pub(super) fn shifted(at: Timestamp, us: i64) -> Timestamp {
    let by = Duration::from_micros(us.unsigned_abs());
    if us < 0 { at - by } else { at + by }
}
