//! What the store is told of a call beside its row: its events, each written with the state that it tells of.
//!
//! Invariants: an event waits for the next save, and there always is one; the end is told by the CDR alone.

use super::cdr::party;
use super::{Call, LAZY_SAVE, Told};
use crate::event::Event;
use crate::ids::Rev;
use crate::views::{CallName, EventView, Happening, Rfc3339};

/// Events that wait for a save; a phone that holds and resumes without end is not told of without end.
const UNTOLD: usize = 64;

impl Call {
    /// Keeps what is to be told, until the save that it belongs to.
    pub(super) fn note(&mut self, event: &Event) {
        let Some(what) = self.happening(event).filter(|_| self.untold.len() < UNTOLD) else {
            return;
        };
        let node = self.settings.node.to_string();
        let event = EventView { at: Rfc3339(self.now), node, what };
        self.untold.push(event.document());
        self.save_within(LAZY_SAVE);
    }

    pub(super) fn told_with(&mut self, rev: Rev) -> Vec<Told> {
        let documents = core::mem::take(&mut self.untold).into_iter();
        documents.map(|document| Told { rev, document }).collect()
    }

    fn happening(&self, event: &Event) -> Option<Happening> {
        Some(match event {
            Event::CallCreated { .. } => Happening::CallCreated(self.name()),
            Event::CallRinging { .. } => Happening::CallRinging(self.name()),
            Event::CallAnswered { answered_by, setup_ms, .. } => Happening::CallAnswered {
                call: self.name(),
                answered_by: answered_by.clone(),
                setup_ms: *setup_ms,
                media_node: self.record.media.nodes.last().map(ToString::to_string),
            },
            Event::CallHold { leg, held, .. } => {
                let (call, role) = (self.name(), self.record.leg(*leg)?.role);
                match held {
                    true => Happening::CallHeld { call, leg: leg.0, role },
                    false => Happening::CallResumed { call, leg: leg.0, role },
                }
            }
            Event::CallSteered { act, role, .. } => {
                Happening::CallSteered { call: self.name(), act: *act, role: *role }
            }
            Event::CallTransferred { role, to, status: 200, .. } => {
                let (role, to) = (*role, to.clone());
                Happening::CallTransferred { call: self.name(), role, to }
            }
            Event::CallTransferred { role, to, status, .. } => {
                let (role, to, sip_status) = (*role, to.clone(), *status);
                Happening::CallTransferFailed { call: self.name(), role, to, sip_status }
            }
            Event::CallAdopted { state, .. } => Happening::CallAdopted {
                call: self.name(),
                state: *state,
                epoch: self.record.epoch.0,
            },
            Event::CallReanchored { node, .. } => {
                let media_node = node.to_string();
                Happening::CallReanchored { call: self.name(), media_node }
            }
            Event::OneWayAudio { leg, role, silent, .. } => {
                let (call, leg, role) = (self.name(), leg.0, *role);
                match silent {
                    true => Happening::CallOneWay { call, leg, role },
                    false => Happening::CallTwoWay { call, leg, role },
                }
            }
            Event::NoAudio { silent: true, .. } => Happening::CallSilent(self.name()),
            Event::NoAudio { silent: false, .. } => Happening::CallHeard(self.name()),
            Event::AckMissing { leg, contact, .. } => Happening::CallAckMissing {
                call: self.name(),
                leg: leg.0,
                contact: contact.clone(),
            },
            Event::CallEnded { .. }
            | Event::CallLeft { .. }
            | Event::DigitDialled { .. }
            | Event::Misbehaved { .. }
            | Event::Registered { .. }
            | Event::AuthenticationFailed { .. }
            | Event::Malformed { .. }
            | Event::MediaNode { .. }
            | Event::Shed { .. }
            | Event::Webhook { .. }
            | Event::Measured(_)
            | Event::Bug { .. } => return None,
        })
    }

    fn name(&self) -> CallName {
        let record = &self.record;
        CallName::new(record.id.to_string(), &party(&record.caller), &party(&record.callee))
    }
}
