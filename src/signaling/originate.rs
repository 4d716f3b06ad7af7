//! A call that an operator begins: admitted like any other, and answered to the operator when it is stored.
//!
//! Invariant: who is told that a call begins is told of one that survives this node.

use super::outputs::catch_bug;
use super::worker::Worker;
use crate::call::{self, Call};
use crate::event::Event;
use crate::ids::CallId;
use crate::operator::{Origination, Refused};
use crate::routing::{self, Decision};
use crate::sip::Uri;
use crate::sip::uri::escape_user;
use crate::views::CallView;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The first version of records that tells who was called first.
const KNOWN_SINCE: u16 = 4;
/// What an older node would make of such a call is no good.
pub(super) const MIXED: &str = "a node of an older release is in the cluster";

type Answer = oneshot::Sender<Result<CallView, Refused>>;

/// Operators whose calls are not stored yet.
#[derive(Debug, Default)]
pub(super) struct Originated(HashMap<CallId, Answer>);

impl Worker {
    /// Rings the user's phones, if there is anything to hope for.
    pub(super) fn originate(&mut self, wish: &Origination, answer: Answer) {
        match self.begin_originated(wish) {
            // Who asked may have gone.
            Err(refused) => _ = answer.send(Err(refused)),
            Ok(id) => {
                self.originated.0.insert(id, answer);
                self.drain(id);
            }
        }
    }

    fn begin_originated(&mut self, wish: &Origination) -> Result<CallId, Refused> {
        let target = self.target(&wish.to)?;
        if target.user().as_deref() == Some(wish.from.as_str()) {
            return Err(Refused::field("to", "that is who calls"));
        }
        if !self.loaded {
            return Err(Refused::not_now("Starting", 1));
        }
        if let Some((reason, seconds)) = self.takes_no_calls() {
            self.emit(&Event::Shed { what: reason });
            return Err(Refused::not_now(reason, seconds));
        }
        if self.record_version < KNOWN_SINCE {
            return Err(Refused::not_now(MIXED, 60));
        }
        let uri = self.dialled(&wish.from).ok_or(NO_CALLER)?;
        let (caller, mut phones) = match routing::route(&self.directory, &uri, self.now) {
            Decision::Ring { user, bindings } => (user, bindings),
            Decision::Unknown { user_known: true, .. } => return Err(NO_PHONE),
            Decision::Unknown { .. } | Decision::Service(_) | Decision::Refuse(_) => {
                return Err(NO_CALLER);
            }
        };
        let begun = self.calls.begun_by(&caller.extension);
        if caller.max_calls.is_some_and(|most| begun >= usize::try_from(most).unwrap_or(begun)) {
            return Err(Refused::conflict("that user has as many calls as it may have"));
        }
        self.reach_bindings(&mut phones);
        let (id, auto_answer) = ((self.draw_call_id)(self.now), wish.auto_answer);
        let entropy = rand::random();
        let wish = call::Origination { id, entropy, caller, phones, target, auto_answer };
        let (settings, now) = (Arc::clone(&self.settings), self.now);
        let extension = wish.caller.extension.clone();
        match catch_bug(|| Call::originate(settings, wish, now)) {
            Ok(call) => {
                self.calls.insert(call, id.0.to_be_bytes(), String::new());
                self.calls.add_user(id, &extension);
                Ok(id)
            }
            Err(what) => {
                self.emit(&Event::Bug { call: Some(id), what });
                Err(Refused::Gone)
            }
        }
    }

    /// Whom an operator names.
    pub(super) fn target(&self, to: &str) -> Result<Uri, Refused> {
        let to = to.trim();
        let uri = match to.split_once(':') {
            Some(("sip" | "sips" | "tel", _)) => Uri::parse(to).ok(),
            _ => self.dialled(to),
        };
        let user = uri.as_ref().and_then(Uri::user);
        uri.filter(|_| user.is_some_and(|user| !user.is_empty()))
            .ok_or(Refused::field("to", "a number, an extension or a sip: URI is wanted"))
    }

    /// As a person dials it.
    fn dialled(&self, number: &str) -> Option<Uri> {
        Uri::parse(&format!("sip:{}@{}", escape_user(number), self.realm)).ok()
    }

    /// A call is kept: who began it is told what became of it.
    pub(super) fn tell_originator(&mut self, id: CallId) {
        let Some(answer) = self.originated.0.remove(&id) else { return };
        let told = match self.calls.get(id) {
            None => Err(Refused::Gone),
            Some(slot) => match slot.call.refusal() {
                None => Ok(self.shown(&slot.call)),
                Some(404 | 416 | 484) => {
                    Err(Refused::field("to", "there is nobody by that number"))
                }
                Some(480) => Err(Refused::conflict("no phone of whom you call is registered")),
                Some(488) => {
                    Err(Refused::conflict("no codec that the caller may have can be played"))
                }
                Some(503) => Err(Refused::not_now("No Media Node", 5)),
                Some(_) => Err(Refused::conflict("the call came to nothing")),
            },
        };
        // Who asked may have gone.
        let _ = answer.send(told);
    }

    /// Who waited too long has gone.
    pub(super) fn forget_originators(&mut self) {
        self.originated.0.retain(|_, answer| !answer.is_closed());
    }
}

const NO_CALLER: Refused = Refused::field("from", "there is no such user");
const NO_PHONE: Refused = Refused::conflict("no phone of the caller is registered");
