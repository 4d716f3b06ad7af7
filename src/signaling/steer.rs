//! What operators do to live calls, whichever node they ask: the owner does it, and answers when it is stored.
//!
//! Invariant: who is told that it was done is told of what survives this node.

use super::media_pool::LinkNumber;
use super::originate::MIXED;
use super::worker::Worker;
use crate::call::Call;
use crate::control::PeerFrame;
use crate::directory::{Binding, User};
use crate::ids::{CallId, NodeName, Rev};
use crate::operator::Refused;
use crate::routing::{self, Decision};
use crate::time::Timestamp;
use crate::views::{CallView, Steering};
use core::time::Duration;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The first version of records that tells what operators did.
const KNOWN_SINCE: u16 = 5;
/// Who asked has gone by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

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

    /// All nodes read records that tell of it.
    pub(super) fn may_steer(&self) -> Result<(), Refused> {
        match self.record_version < KNOWN_SINCE {
            true => Err(Refused::not_now(MIXED, 60)),
            false => Ok(()),
        }
    }

    fn begin_steering(&mut self, call: CallId, wish: &Steering) -> Result<Rev, Refused> {
        self.may_steer()?;
        let (now, mut done) = (self.now, Err(Refused::Gone));
        match wish {
            Steering::Transfer { leg, to } => {
                let (user, phones) = self.coming(to)?;
                let whom = (&*user, &*phones);
                let transfer = |call: &mut Call| call.transfer(*leg, to, whom, now);
                self.step(call, |call| done = transfer(call).map_err(Refused::conflict));
                if done.is_ok() {
                    self.calls.add_user(call, &user.extension);
                }
            }
            Steering::Move { node } => {
                let node = self.new_media_node(call, node.as_deref())?;
                let wish = Steering::Move { node: Some(node.to_string()) };
                self.step(call, |call| done = call.steer(&wish, now).map_err(Refused::conflict));
                if done.is_ok() {
                    self.move_as_wanted(call);
                }
            }
            Steering::Hold { .. }
            | Steering::Unhold { .. }
            | Steering::Dial { .. }
            | Steering::Play { .. }
            | Steering::Stop { .. } => {
                self.step(call, |call| done = call.steer(wish, now).map_err(Refused::conflict));
            }
        }
        done
    }

    /// Whose phones ring when a call is transferred there.
    fn coming(&self, to: &str) -> Result<(Arc<User>, Vec<Binding>), Refused> {
        let target = self.target(to)?;
        match routing::route(&self.directory, &target, self.now) {
            Decision::Ring { user, mut bindings } => {
                self.reach_bindings(&mut bindings);
                Ok((user, bindings))
            }
            Decision::Unknown { user_known: true, .. } => {
                Err(Refused::conflict("no phone of whom it is to be transferred to is registered"))
            }
            Decision::Unknown { .. } => Err(Refused::field("to", "there is nobody by that number")),
            Decision::Service(_) => Err(Refused::field("to", "a service takes no transfer")),
            Decision::Refuse(_) => Err(Refused::conflict("the dial plan refuses that number")),
        }
    }

    /// Where a call's media may move to: the node that is named, or the freest, of another host if there is one.
    fn new_media_node(&mut self, call: CallId, name: Option<&str>) -> Result<NodeName, Refused> {
        let session = self.calls.get(call).and_then(|slot| slot.media.as_ref());
        let present = session.map(|session| session.node.clone()).ok_or(Refused::Gone)?;
        let Some(name) = name else {
            let freest = self.media.choose_elsewhere(&present);
            let freest = freest.or_else(|| self.media.choose_beside(&present));
            return freest.ok_or(Refused::conflict("there is no other media node"));
        };
        let name = NodeName(name.into());
        if name == present {
            return Err(Refused::conflict("its media are there already"));
        }
        let Some(node) = self.media.get(&name) else {
            return Err(Refused::field("node", "there is no media node of that name"));
        };
        if !node.is_heard() || node.is_drained() {
            return Err(Refused::conflict("that media node takes no calls now"));
        }
        let is_known =
            self.media.are_apart(&name, &present) || self.media.are_siblings(&name, &present);
        match is_known {
            true => Ok(name),
            false => Err(Refused::conflict("which host that node is on is not known yet")),
        }
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
