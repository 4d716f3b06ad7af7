//! What was said in SIP, call by call, the RTCP of its media and how it sounded: written by each signaling process into
//! segment files of its host's data directory, read by any of them, a dead one's too; what was said is told a HEP
//! collector; and how long transactions took.
//!
//! Invariants: nothing here holds a call up: what the writer cannot take at once is lost, and counted; files are
//! bounded in number, size and age, and what was said in calls that live moves on before a file goes; secrets are
//! masked before anything is written; a torn end of a file, left by a process that was killed, costs its last entry.

mod flags;
mod gist;
mod hep;
mod mask;
mod pcap;
mod segment;
mod sweep;
mod transactions;

pub use flags::{Said, Watch};
pub use hep::{HepConfig, HepKind, HepPacket, HepSender};
pub use pcap::pcap;
pub use segment::read;
pub use sweep::{Due, Sweeper};

use crate::control::RtcpPacket;
use crate::event::{Event, Measure};
use crate::ids::{CallId, Flow, LegId};
use crate::time::Timestamp;
use crate::views::CallFlag;
use crate::views::ladder::{Entry, Scope, What};
use crate::views::quality::Sounded;
use bytes::Bytes;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use flags::{Flagged, Watches};
use gist::Gist;
use segment::Segments;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use transactions::Transactions;

/// Messages that wait for the writer.
const QUEUE: usize = 16_384;
/// The writer rests so long before it looks again: to wake it for each message would cost the SIP thread as much as the
/// message costs the writer.
pub const PACE: Duration = Duration::from_millis(50);
/// Messages and marks of one call that are read; more are left out.
pub const ENTRIES: usize = 5_000;
/// The same for its packets of RTCP: three hours of two phones that report every five seconds, and of our reports.
pub const RTCP_PACKETS: usize = 10_000;
/// The same for samples of its sound: days of a call.
pub const SAMPLES: usize = 5_000;

/// Entries as long as they are of the scope and not too many.
pub fn bound(scope: Scope, entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let (mut signaling, mut rtcp, mut sound) = match scope {
        Scope::Signaling => (ENTRIES, 0, 0),
        Scope::Everything => (ENTRIES, RTCP_PACKETS, 0),
        Scope::Sound => (0, 0, SAMPLES),
    };
    let fits = |entry: &Entry| {
        let room = match entry.what {
            What::Message { .. } | What::Mark(_) => &mut signaling,
            What::Rtcp { .. } => &mut rtcp,
            What::Sound(_) => &mut sound,
        };
        let fits = *room > 0;
        *room = room.saturating_sub(1);
        fits
    };
    entries.into_iter().filter(fits).collect()
}

/// How much is kept, and where.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Shared by the processes of a host.
    pub folder: PathBuf,
    /// While its call lives, and so long after its end.
    pub life: Duration,
    /// Of all processes of the host together; the oldest go first.
    pub bytes: u64,
}

/// A message of a call.
#[derive(Debug)]
pub struct Heard {
    /// Whose.
    pub call: CallId,
    /// Of this leg.
    pub leg: LegId,
    /// When it came or left.
    pub at: Timestamp,
    /// From the phone; else to it.
    pub received: bool,
    /// By which flow.
    pub flow: Flow,
    /// As it is on the wire.
    pub bytes: Bytes,
}

/// A REGISTER, or an answer to one: told to a collector, kept nowhere.
#[derive(Debug)]
pub struct Registering {
    /// What its phone's REGISTERs have in common.
    pub sip_call_id: String,
    /// When it came or left.
    pub at: Timestamp,
    /// From the phone; else to it.
    pub received: bool,
    /// By which flow.
    pub flow: Flow,
    /// As it is on the wire.
    pub bytes: Bytes,
}

/// What becomes of what is said.
#[derive(Clone, Debug, Default)]
pub struct RecorderConfig {
    /// It is kept here.
    pub files: Option<CaptureConfig>,
    /// It is told there.
    pub hep: Option<HepConfig>,
}

/// Who is told what is measured.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// On its way to the writer.
#[derive(Debug)]
enum Note {
    Message(Heard),
    Registering(Registering),
    Mark { call: CallId, at: Timestamp, text: String },
    Rtcp { call: CallId, packets: Vec<RtcpPacket> },
    Sound { call: CallId, at: Timestamp, sounded: Sounded },
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct Recorder {
    notes: SyncSender<Note>,
    lost: Arc<AtomicU64>,
    flagged: Flagged,
    has_collector: bool,
}

impl Recorder {
    /// Starts the writer. `name` tells this start of the node from others.
    pub fn start(config: RecorderConfig, node: &str, name: &str, observer: Observer) -> Self {
        let (recorder, writer, inlet) = Self::with_writer(config, node, name, observer);
        let thread = std::thread::Builder::new().name("capture".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&inlet)) {
            tracing::warn!("no signaling is kept: {error}");
        }
        recorder
    }

    /// The same; the writer is to be run.
    fn with_writer(
        config: RecorderConfig,
        node: &str,
        name: &str,
        observer: Observer,
    ) -> (Self, Writer, Receiver<Note>) {
        let (notes, inlet) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let flagged = Flagged::default();
        let has_collector = config.hep.is_some();
        let writer = Writer {
            segments: config.files.map(|files| Segments::new(&files, name)),
            hep: config.hep.map(HepSender::new),
            transactions: Transactions::default(),
            watches: Watches::new(flagged.clone()),
            observer,
            node: node.to_owned(),
            number: 0,
            now: Timestamp::EPOCH,
            lost: Arc::clone(&lost),
        };
        (Self { notes, lost, flagged, has_collector }, writer, inlet)
    }

    /// A message of a call.
    pub fn message(&self, heard: Heard) {
        self.note(Note::Message(heard));
    }

    /// A REGISTER or its answer, made where there is a collector.
    pub fn registering(&self, told: impl FnOnce() -> Registering) {
        if self.has_collector {
            self.note(Note::Registering(told()));
        }
    }

    /// Something that explains what follows.
    pub fn mark(&self, call: CallId, at: Timestamp, text: String) {
        self.note(Note::Mark { call, at, text });
    }

    /// RTCP of a call.
    pub fn rtcp(&self, call: CallId, packets: Vec<RtcpPacket>) {
        self.note(Note::Rtcp { call, packets });
    }

    /// How a call sounded until then.
    pub fn sound(&self, call: CallId, at: Timestamp, sounded: Sounded) {
        self.note(Note::Sound { call, at, sounded });
    }

    /// What is wrong in the call's signaling, as far as this process heard it.
    pub fn flags(&self, call: CallId) -> BTreeSet<CallFlag> {
        self.flagged.of(call)
    }

    /// What came to be wrong in calls since it was asked last.
    pub fn newly_flagged(&self) -> BTreeMap<CallId, BTreeSet<CallFlag>> {
        self.flagged.news()
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    segments: Option<Segments>,
    hep: Option<HepSender>,
    transactions: Transactions,
    watches: Watches,
    observer: Observer,
    node: String,
    number: u64,
    /// By what was noted last, and how long nothing was.
    now: Timestamp,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// Until nobody writes any more. What is written is seen by readers as soon as nothing waits, `PACE` later at most.
    fn run(mut self, inlet: &Receiver<Note>) {
        loop {
            let note = match inlet.try_recv() {
                Ok(note) => note,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    self.tell_lost();
                    let next = match &self.hep {
                        Some(hep) => hep.next_of(inlet),
                        None => inlet.recv().map(Some),
                    };
                    let Ok(next) = next else { return };
                    let Some(note) = next else {
                        self.now = self.now + hep::TRY_AGAIN;
                        continue;
                    };
                    std::thread::sleep(PACE);
                    note
                }
                Err(TryRecvError::Disconnected) => return self.flush(),
            };
            self.write(note);
        }
    }

    fn flush(&mut self) {
        if let Some(segments) = &mut self.segments {
            segments.flush();
        }
        let lost = self.hep.as_mut().map_or(0, |hep| hep.flush(self.now));
        self.lose_packets(lost);
    }

    fn lose_packets(&self, count: u64) {
        if count > 0 {
            self.measured(Measure::Lost { queue: "hep", count });
        }
    }

    fn measured(&self, measure: Measure) {
        (self.observer)(&Event::Measured(measure));
    }

    fn tell_lost(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.measured(Measure::Lost { queue: "capture", count: lost });
            tracing::warn!("{lost} notes are missing in the ladders and captures of their calls");
        }
    }

    fn write(&mut self, note: Note) {
        let (call, at, what) = match note {
            Note::Registering(Registering { sip_call_id, at, received, flow, bytes }) => {
                self.now = at;
                let masked = mask::masked(bytes);
                return self.tell_collector(&sip_call_id, at, received, &flow, &masked);
            }
            Note::Mark { call, at, text } => (call, at, What::Mark(text)),
            Note::Sound { call, at, sounded } => (call, at, What::Sound(sounded)),
            Note::Rtcp { call, packets } => {
                for RtcpPacket { leg, at, received, local, remote, bytes: packet } in packets {
                    self.keep(call, at, What::Rtcp { leg, received, local, remote, packet });
                }
                return;
            }
            Note::Message(Heard { call, leg, at, received, flow, bytes }) => {
                let Flow { transport, local, remote, .. } = flow;
                let text = mask::masked(bytes);
                let gist = Gist::read(&text);
                if let Some(measure) = self.transactions.see(&gist, at, received) {
                    self.measured(measure);
                }
                let said = Said { leg, received, remote, text: &text };
                self.watches.see(call, at, &said, &gist);
                self.tell_collector(&call.to_string(), at, received, &flow, &text);
                (call, at, What::Message { leg, received, transport, local, remote, text })
            }
        };
        self.keep(call, at, what);
    }

    fn keep(&mut self, call: CallId, at: Timestamp, what: What) {
        self.now = at;
        self.number += 1;
        if let Some(segments) = &mut self.segments {
            // Lent to the entry.
            let node = core::mem::take(&mut self.node);
            let entry = Entry { at, node, number: self.number, what };
            segments.write(call, at, &entry);
            self.node = entry.node;
        }
    }

    fn tell_collector(
        &mut self,
        correlation: &str,
        at: Timestamp,
        received: bool,
        flow: &Flow,
        payload: &[u8],
    ) {
        let Some(hep) = &mut self.hep else { return };
        let (source, target) = match received {
            true => (flow.remote, flow.local),
            false => (flow.local, flow.remote),
        };
        let (kind, transport) = (HepKind::Sip, flow.transport);
        let packet = HepPacket { at, source, target, transport, kind, correlation, payload };
        let lost = hep.send(&packet);
        self.lose_packets(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Whose writer does not come to it: as much as there is room for waits, the rest is lost, and nobody is held up.
    #[test]
    fn what_does_not_fit_the_queue_is_counted_once() {
        const TOO_MANY: u64 = 7;
        let (observer, observed) = mpsc::sync_channel(16);
        let observer: Observer = Arc::new(move |event: &Event| {
            if let Event::Measured(measure) = event {
                observer.send(*measure).expect("somebody listens");
            }
        });
        let config = RecorderConfig::default();
        let (recorder, writer, inlet) = Recorder::with_writer(config, "node", "start", observer);
        let mark = || recorder.mark(CallId(1), Timestamp::EPOCH, "a mark".to_owned());
        (0..QUEUE as u64 + TOO_MANY).for_each(|_| mark());
        let running = std::thread::spawn(move || writer.run(&inlet));
        let told = observed.recv_timeout(Duration::from_secs(10));
        assert_eq!(told, Ok(Measure::Lost { queue: "capture", count: TOO_MANY }));
        // There is room again, and nothing more to tell.
        mark();
        drop(recorder);
        running.join().expect("no panic");
        assert_eq!(observed.try_iter().count(), 0);
    }
}
