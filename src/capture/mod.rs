//! What was said in SIP, call by call: written by each signaling process into segment files of its host's data
//! directory, read by any of them, a dead one's too.
//!
//! Invariants: nothing here holds a call up: what the writer cannot take at once is lost, and counted; files are
//! bounded in number, size and age; secrets are masked before anything is written; a torn end of a file, left by a
//! process that was killed, costs its last entry.

mod mask;
mod pcap;
mod segment;

pub use pcap::pcap;
pub use segment::read;

use crate::ids::{CallId, Flow, LegId};
use crate::time::Timestamp;
use crate::views::ladder::{Entry, What};
use bytes::Bytes;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use segment::Segments;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Messages that wait for the writer.
const QUEUE: usize = 16_384;
/// Entries of one call that are read; more are left out.
pub const ENTRIES: usize = 5_000;

/// How much is kept, and where.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Shared by the processes of a host.
    pub folder: PathBuf,
    /// No longer than this.
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

/// On its way to the writer.
#[derive(Debug)]
enum Note {
    Message(Heard),
    Mark { call: CallId, at: Timestamp, text: String },
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct Recorder {
    notes: SyncSender<Note>,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the writer. `name` tells this start of the node from others.
    pub fn start(config: CaptureConfig, node: &str, name: &str) -> Self {
        let (notes, inlet) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            segments: Segments::new(config, name),
            node: node.to_owned(),
            number: 0,
            lost: Arc::clone(&lost),
        };
        let thread = std::thread::Builder::new().name("capture".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&inlet)) {
            tracing::warn!("no signaling is kept: {error}");
        }
        Self { notes, lost }
    }

    /// A message of a call.
    pub fn message(&self, heard: Heard) {
        self.note(Note::Message(heard));
    }

    /// Something that explains what follows.
    pub fn mark(&self, call: CallId, at: Timestamp, text: String) {
        self.note(Note::Mark { call, at, text });
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    segments: Segments,
    node: String,
    number: u64,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// Until nobody writes any more. What is written is seen by readers as soon as nothing waits.
    fn run(mut self, inlet: &Receiver<Note>) {
        loop {
            let note = match inlet.try_recv() {
                Ok(note) => note,
                Err(TryRecvError::Empty) => {
                    self.segments.flush();
                    self.tell_lost();
                    let Ok(note) = inlet.recv() else { return };
                    note
                }
                Err(TryRecvError::Disconnected) => return self.segments.flush(),
            };
            self.write(note);
        }
    }

    fn tell_lost(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!("{lost} SIP messages are missing in the ladders of their calls");
        }
    }

    fn write(&mut self, note: Note) {
        self.number += 1;
        let (call, at, what) = match note {
            Note::Mark { call, at, text } => (call, at, What::Mark(text)),
            Note::Message(Heard { call, leg, at, received, flow, bytes }) => {
                let Flow { transport, local, remote, .. } = flow;
                let text = mask::masked(&bytes).into();
                (call, at, What::Message { leg, received, transport, local, remote, text })
            }
        };
        let entry = Entry { at, node: self.node.clone(), number: self.number, what };
        self.segments.write(call, at, &entry);
    }
}
