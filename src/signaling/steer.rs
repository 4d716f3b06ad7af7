//! What operators do to live calls, whichever node they ask: the owner does it, and answers when it is stored.
//!
//! Invariant: who is told that it was done is told of what survives this node.

use super::media_pool::LinkNumber;
use super::originate::MIXED;
use super::worker::Worker;
use crate::control::PeerFrame;
use crate::ids::{CallId, NodeName, Rev};
use crate::operator::Refused;
use crate::time::Timestamp;
use crate::views::{CallView, Steering};
use core::time::Duration;
use tokio::sync::oneshot;

/// The first version of records that tells what operators did.
const KNOWN_SINCE: u16 = 5;
/// Who asked has gone by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who wants something done to a call.
#[derive(Debug)]
pub(super) enum Asking {
    /// An operator at this node.
    Here(oneshot::Sender<Result<CallView, Refused>>),
    /// One at a peer: its question.
    Peer(NodeName, u64),
}

/// What was done and is not stored yet.
#[derive(Debug, Default)]
pub(super) struct Steered(Vec<Done>);

#[derive(Debug)]
struct Done {
    call: CallId,
    rev: Rev,
    asking: Asking,
    until: Timestamp,
}

impl Worker {
    /// It is here, and not over.
    pub(super) fn has(&self, call: CallId) -> bool {
        self.calls.get(call).is_some_and(|slot| !slot.call.lingers())
    }

    /// Does it.
    pub(super) fn steer(&mut self, call: CallId, wish: &Steering, asking: Asking) {
        match self.begin_steering(call, wish) {
            Ok(rev) => {
                let until = self.now + PATIENCE;
                self.steered.0.push(Done { call, rev, asking, until });
                self.note_mark(call, || format!("an operator: {}", wish.in_words()));
                self.drain(call);
            }
            Err(refused) => self.answer_asking(asking, Err(refused)),
        }
    }

    fn begin_steering(&mut self, call: CallId, wish: &Steering) -> Result<Rev, Refused> {
        if self.record_version < KNOWN_SINCE {
            return Err(Refused::not_now(MIXED, 60));
        }
        let (now, mut done) = (self.now, Err(Refused::Gone));
        self.step(call, |call| done = call.steer(wish, now).map_err(Refused::conflict));
        done
    }

    /// A peer's operator wants it.
    pub(super) fn answer_steer(&mut self, link: LinkNumber, id: u64, call: CallId, wish: &str) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let asking = Asking::Peer(name, id);
        match serde_json::from_str(wish) {
            Ok(wish) if self.has(call) => self.steer(call, &wish, asking),
            // A later release may know more to do.
            Ok(_) | Err(_) => self.answer_asking(asking, Err(Refused::Gone)),
        }
    }

    /// A call is kept as it was at that rev: who waits for that is told.
    pub(super) fn tell_steering(&mut self, call: CallId, rev: Rev) {
        let is_kept = |done: &mut Done| done.call == call && done.rev <= rev;
        let kept: Vec<Done> = self.steered.0.extract_if(.., is_kept).collect();
        for Done { asking, .. } in kept {
            let view = self.calls.get(call).map(|slot| slot.call.view(self.now));
            self.answer_asking(asking, view.ok_or(Refused::Gone));
        }
    }

    fn answer_asking(&mut self, asking: Asking, told: Result<CallView, Refused>) {
        match asking {
            // Who asked may have gone.
            Asking::Here(answer) => _ = answer.send(told),
            Asking::Peer(name, id) => {
                let document = serde_json::to_vec(&told).unwrap_or_default().into();
                self.peers.send(&name, PeerFrame::Steered { id, document });
            }
        }
    }

    /// Who waited too long has gone.
    pub(super) fn forget_steering(&mut self) {
        let now = self.now;
        self.steered.0.retain(|done| done.until > now);
    }
}
