//! What sessions do when their time comes, and what is looked at once a second.

use super::{SILENT_LIFE, UNCONFIRMED_LIFE, Worker};
use crate::ids::SessionId;
use crate::media::vitals::add;
use crate::net::clock;
use crate::net::socket_memory::SocketMemory;
use crate::relay::Session;
use crate::time::Timestamp;
use core::cmp::Reverse;
use core::sync::atomic::Ordering;
use core::time::Duration;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

/// How often a worker that has sessions looks how late it is woken.
const PROBE: Duration = Duration::from_millis(20);
/// Each socket is looked at once in so many seconds.
const SECONDS_A_ROUND: usize = 5;

impl Worker {
    pub(super) fn schedule(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        let Some(at) = entry.wants() else {
            entry.due = None;
            return;
        };
        if entry.due.is_none_or(|due| at < due) {
            entry.due = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    pub(super) fn run_timers(&mut self) {
        let now = clock::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(entry) = self.sessions.get_mut(&id).filter(|entry| entry.due == Some(at))
            else {
                continue;
            };
            entry.due = None;
            self.vitals().tick_was_late(now.saturating_since(at));
            self.step(id, Session::handle_timeout);
        }
        self.try_ports_again(now);
        self.probe(now);
        if now >= self.next_sweep {
            self.next_sweep = now + Duration::from_secs(1);
            self.sweep(now);
        }
    }

    /// A worker that has sessions sees every 20 ms, as its phones speak, how late it is woken.
    fn probe(&mut self, now: Timestamp) {
        if self.sessions.is_empty() {
            self.next_probe = None;
            return;
        }
        match self.next_probe {
            Some(due) if due > now => return,
            Some(due) => self.vitals().tick_was_late(now.saturating_since(due)),
            None => {}
        }
        self.next_probe = Some(now + PROBE);
    }

    /// How the worker was in the last second.
    fn look_at_itself(&mut self, now: Timestamp) {
        let share = self.sockets.len() / SECONDS_A_ROUND + 1;
        for _ in 0..share {
            self.next_socket = (self.next_socket + 1) % self.sockets.len().max(1);
            self.count_drops(self.next_socket);
        }
        let at_work = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        let lived = now.saturating_since(self.looked_at);
        self.looked_at = now;
        let vitals = &self.shared.vitals[self.number];
        vitals.judge(&mut self.before, at_work.unwrap_or_default(), lived);
    }

    /// What the kernel dropped at a socket since that was counted last.
    pub(super) fn count_drops(&mut self, slot: usize) {
        let Some(Some(open)) = self.sockets.get_mut(slot) else { return };
        let Some(memory) = SocketMemory::of(&open.socket) else { return };
        let before = core::mem::replace(&mut open.drops, memory.drops);
        let vitals = self.vitals();
        add(&vitals.dropped, memory.drops.wrapping_sub(before).into());
        let least = vitals.receive_buffer_bytes.load(Ordering::Relaxed);
        let granted = u64::from(memory.receive_buffer_bytes);
        if least == 0 || granted < least {
            vitals.receive_buffer_bytes.store(granted, Ordering::Relaxed);
        }
    }

    /// Counts what is transcoded; ends sessions that nobody owns and nobody speaks on.
    fn sweep(&mut self, now: Timestamp) {
        self.look_at_itself(now);
        let transcoded =
            self.sessions.values().filter(|entry| entry.session.is_transcoding()).count();
        self.shared
            .transcoded
            .store(u32::try_from(transcoded).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.shared.ports_in_use.store(
            u32::try_from(self.lock_ports().in_use()).unwrap_or(u32::MAX),
            Ordering::Relaxed,
        );
        let (mut orphans, mut bundles) = (Vec::new(), Vec::new());
        for (id, entry) in &mut self.sessions {
            if entry.exchanged.is_due(now) {
                bundles.push(*id);
            }
            if entry.owner.as_ref().is_some_and(|owner| !owner.is_closed()) {
                entry.ownerless_since = None;
                continue;
            }
            let since = *entry.ownerless_since.get_or_insert(now);
            let last = entry.session.last_packet_at().unwrap_or(entry.created_at);
            let silent = entry.time(now).saturating_since(last.max(entry.time(since)));
            let life = if entry.session.is_confirmed() { SILENT_LIFE } else { UNCONFIRMED_LIFE };
            if silent > life {
                orphans.push(*id);
            }
        }
        for id in bundles {
            self.tell_exchanged(id);
        }
        for id in orphans {
            tracing::info!("media session {id}: ended, nobody owns it");
            self.step(id, Session::end);
            self.close_session(id, now);
        }
    }

    /// The timer fires for the earliest session, at least once a second for the sweep.
    pub(super) fn arm(&mut self) {
        let next = self.timers.peek().map_or(self.next_sweep, |Reverse((at, _))| *at);
        let next = next.min(self.next_sweep);
        let again = self.waiting.front().map(|waiting| waiting.again_at);
        let next = again.map_or(next, |again| next.min(again));
        let next = self.next_probe.map_or(next, |probe| next.min(probe));
        if self.armed == Some(next) {
            return;
        }
        let wait = next.saturating_since(clock::now()).max(Duration::from_micros(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        if self.timer.set(expiration, TimerSetTimeFlags::empty()).is_ok() {
            self.armed = Some(next);
        }
    }
}
