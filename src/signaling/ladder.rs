//! What is said in calls, on its way to the files of this host, and back to operators from all hosts.
//!
//! Invariant: a message is noted when it is handled or leaves, whoever owns the call afterwards.

use super::errand::Errand;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use super::{Config, EventSink, ladder_sweep};
use crate::call::{Input, Transmit};
use crate::capture::{Heard, Recorder, RecorderConfig, Registering, Sweeper};
use crate::control::{PeerFrame, RtcpPacket};
use crate::ids::{CallId, Flow, LegId, NodeName, SessionId};
use crate::sip::{Method, Request};
use crate::store::Store;
use crate::views::ladder::{Entry, Scope};
use crate::views::quality::Sounded;
use bytes::Bytes;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Entries a frame: an entry is a SIP message at most.
const BYTES_A_FRAME: usize = 64 * 1024;

/// What this host keeps of a call, for who asked.
#[derive(Debug)]
pub struct LadderRead {
    /// The peer; none: an operator here.
    pub asker: Option<NodeName>,
    /// Number of the question.
    pub id: u64,
    /// In the order of time.
    pub entries: Vec<Entry>,
}

/// Who keeps what is said, where it is kept or told, and who makes room for it.
pub(super) fn start(
    config: &Config,
    store: &Store,
    background: &Handle,
    events: &EventSink,
) -> Option<Recorder> {
    let (files, hep) = (config.capture.clone(), config.hep.clone());
    let name = format!("{}-{:016x}", config.node, config.incarnation.0);
    if let Some(files) = files.clone() {
        background.spawn(ladder_sweep::sweep(store.clone(), Sweeper::new(files, &name)));
    }
    (files.is_some() || hep.is_some()).then(|| {
        let kept = RecorderConfig { files, hep };
        Recorder::start(kept, &config.node.0, &name, Arc::clone(events))
    })
}

impl Worker {
    /// The message that is being handled is this call's.
    pub(super) fn note_received(&self, call: CallId, leg: LegId, flow: Flow) {
        if let Some(recorder) = &self.recorder {
            let bytes = self.arrived.clone();
            recorder.message(Heard { call, leg, at: self.now, received: true, flow, bytes });
        }
    }

    /// A message of this call left.
    pub(super) fn note_sent(&self, call: CallId, transmit: &Transmit) {
        if let Some(recorder) = &self.recorder {
            let (flow, bytes) = (transmit.flow, transmit.bytes.clone());
            let leg = transmit.leg;
            recorder.message(Heard { call, leg, at: self.now, received: false, flow, bytes });
        }
    }

    /// A REGISTER that came, or an answer to one that leaves.
    pub(super) fn note_registering(
        &self,
        request: &Request,
        received: bool,
        flow: Flow,
        bytes: &Bytes,
    ) {
        let Some(recorder) = self.recorder.as_ref().filter(|_| request.method == Method::Register)
        else {
            return;
        };
        recorder.registering(|| Registering {
            sip_call_id: request.call_id().unwrap_or_default().to_owned(),
            at: self.now,
            received,
            flow,
            bytes: bytes.clone(),
        });
    }

    /// Something that explains what follows.
    pub(super) fn note_mark(&self, call: CallId, text: impl FnOnce() -> String) {
        if let Some(recorder) = &self.recorder {
            recorder.mark(call, self.now, text());
        }
    }

    /// How a call sounded for some seconds.
    pub(super) fn note_sound(&self, call: CallId, sounded: Sounded) {
        if let Some(recorder) = &self.recorder {
            recorder.sound(call, self.now, sounded);
        }
    }

    /// Calls learn what was seen to be wrong in their signaling.
    pub(super) fn flag_calls(&mut self) {
        let flagged = self.recorder.as_ref().map(Recorder::newly_flagged);
        for (call, flags) in flagged.into_iter().flatten() {
            self.input(call, Input::Flagged(flags));
        }
    }

    /// What a media node exchanged by RTCP with phones of a call. Also a node that it leaves has its part.
    pub(super) fn note_rtcp(&self, session: SessionId, packets: Vec<RtcpPacket>) {
        let call = CallId(session.0);
        if let Some(recorder) = self.recorder.as_ref().filter(|_| self.calls.get(call).is_some()) {
            recorder.rtcp(call, packets);
        }
    }

    /// A peer asks what this host keeps.
    pub(super) fn answer_ladder(&mut self, link: LinkNumber, id: u64, call: CallId, scope: Scope) {
        let asker = self.peers.name_of(link).cloned();
        if asker.is_some() {
            self.errands.run(Errand::ReadLadder { asker, id, call, scope });
        }
    }

    /// It was read: for a peer, or for an operator here.
    pub(super) fn take_ladder_read(&mut self, read: LadderRead) {
        let LadderRead { asker, id, entries } = read;
        let Some(name) = asker else {
            let own = self.settings.node.clone();
            return self.take_entries(&own, id, entries, true);
        };
        let mut parts: Vec<Vec<Entry>> = vec![Vec::new()];
        let mut bytes = 0;
        for entry in entries {
            let size = entry.bytes();
            if bytes + size > BYTES_A_FRAME {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            parts.last_mut().into_iter().for_each(|part| part.push(entry.clone()));
        }
        let count = parts.len();
        for (number, part) in (1..).zip(parts) {
            let document = postcard::to_stdvec(&part).expect("entries are plain data").into();
            let last = number == count;
            self.peers.send(&name, PeerFrame::Ladder { id, document, last });
        }
    }

    /// A part of a peer's answer.
    pub(super) fn take_ladder(&mut self, link: LinkNumber, id: u64, document: &[u8], last: bool) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let entries = postcard::from_bytes(document).unwrap_or_default();
        self.take_entries(&name, id, entries, last);
    }
}
