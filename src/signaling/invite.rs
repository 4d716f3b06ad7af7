//! INVITE and CANCEL outside a dialog: repeated, merged, refused, or a new call (RFC 3261 §8.2.2.2, §9.2, §13.3).
//!
//! Invariant: nobody is called for a sender that did not prove to be the user in From.

use super::calls::Known;
use super::outputs::catch_bug;
use super::pass_on::Stray;
use super::worker::Worker;
use crate::call::{Call, Input, Invitation};
use crate::directory::User;
use crate::event::Event;
use crate::ids::{Epoch, Flow, LegId};
use crate::limits;
use crate::sip::digest::{self, Credentials, Verdict};
use crate::sip::{HeaderName, Request};
use crate::views::Happening;
use bytes::Bytes;
use std::sync::Arc;

/// Phones that are told to come again come so many seconds later.
const SOON_SECONDS: u64 = 2;
const LATER_SECONDS: u64 = 5;

impl Worker {
    pub(super) fn handle_cancel(&mut self, request: Request, flow: Flow, bytes: &Bytes, hops: u8) {
        let (key, known) = self.known_call(&request);
        match known {
            Known::Repeated(call) => {
                self.note_received(call, LegId::CALLER, flow);
                self.input(call, Input::Request { leg: LegId::CALLER, request, flow });
            }
            Known::New if self.cancel_asked(&key, &request, flow, bytes) => {}
            // Another node may have the INVITE.
            Known::New if self.look_for_key(key, flow, bytes.clone(), hops) => {}
            Known::Merged | Known::New => self.refuse(&request, &flow, 481),
        }
    }

    pub(super) fn handle_invite(&mut self, request: Request, flow: Flow) {
        let (key, known) = self.known_call(&request);
        match known {
            Known::Repeated(call) => {
                self.note_received(call, LegId::CALLER, flow);
                self.input(call, Input::Request { leg: LegId::CALLER, request, flow });
            }
            Known::Merged => self.refuse(&request, &flow, 482),
            // Its call is on its way here: the phone asks again.
            Known::New if self.entrusted.knows_invite(&key, self.now) => {}
            Known::New if self.repeats.asked.has(&key) => {}
            Known::New => match self.repeats.other_of(&key, self.now) {
                Some(call) => {
                    let (bytes, hint) = (self.arrived.clone(), 0);
                    self.pass_on(Stray { call, hint, flow, bytes, hops: 0, tries: 0 });
                }
                None => self.handle_new_invite(key, request, flow),
            },
        }
    }

    fn handle_new_invite(&mut self, key: [u8; 16], request: Request, flow: Flow) {
        let Some(caller) = self.authenticate(&request, &flow) else { return };
        let from = request.from().and_then(|from| from.uri.user());
        if from.as_deref() != Some(caller.extension.as_str()) {
            return self.refuse_saying(&request, &flow, 403, "From Is Not The Digest User");
        }
        if !self.ask_for_invite(key, &caller, &request, flow) {
            self.admit_invite(key, caller, request, flow);
        }
    }

    /// Nobody is known to have a call of it.
    pub(super) fn admit_invite(
        &mut self,
        key: [u8; 16],
        caller: Arc<User>,
        request: Request,
        flow: Flow,
    ) {
        let refusal = self.takes_no_calls().filter(|_| !self.is_emergency(&request));
        if let Some((reason, seconds)) = refusal {
            return self.refuse_for_now(&request, &flow, reason, seconds);
        }
        if let Some(most) = caller.max_calls
            && self.calls.begun_by(&caller.extension) >= usize::try_from(most).unwrap_or(usize::MAX)
        {
            return self.refuse_saying(&request, &flow, 403, "Too Many Calls");
        }
        if request.contact().is_none() {
            return self.refuse_saying(&request, &flow, 400, "Missing Contact");
        }
        self.begin_call(key, caller, request, flow);
    }

    fn begin_call(&mut self, key: [u8; 16], caller: Arc<User>, request: Request, flow: Flow) {
        let id = (self.draw_call_id)(self.now);
        let origin = origin_of(&request);
        let (epoch, entropy) = (Epoch(1), rand::random());
        let invitation = Invitation { id, key, epoch, entropy, caller, request, flow };
        let (settings, now) = (Arc::clone(&self.settings), self.now);
        let call = catch_bug(|| Call::new(settings, invitation, now));
        match call {
            Ok(Some(call)) => {
                self.note_received(id, LegId::CALLER, flow);
                self.calls.insert(call, key, origin);
                self.drain(id);
            }
            // The phone gives up after its Timer B.
            Ok(None) => {
                self.emit(&Event::Misbehaved { call: None, what: "an INVITE without dialog" })
            }
            Err(what) => self.emit(&Event::Bug { call: Some(id), what }),
        }
    }

    /// Never shed: what cannot be served fails in the call itself.
    pub(super) fn is_emergency(&self, request: &Request) -> bool {
        let dialled = request.uri.user();
        dialled.is_some_and(|dialled| self.settings.emergency_numbers.contains(&dialled))
            || request.uri.as_str().to_ascii_lowercase().starts_with("urn:service:sos")
    }

    /// Why no new call begins here now, and when to come again.
    pub(super) fn takes_no_calls(&self) -> Option<(&'static str, u64)> {
        if self.draining.is_some() {
            return Some(("Draining", SOON_SECONDS));
        }
        if self.calls.len() >= limits::CALLS_PER_NODE
            || self.calls.held() >= limits::HELD_OUTPUTS
            || self.committer.owed() >= limits::OWED_WRITES
        {
            return Some(("Overloaded", LATER_SECONDS));
        }
        if self.committer.cannot_keep() {
            return Some(("Store Unavailable", LATER_SECONDS));
        }
        if !self.media.has_room() {
            return Some(("No Media Node", LATER_SECONDS));
        }
        None
    }

    fn known_call(&self, request: &Request) -> ([u8; 16], Known) {
        let call_id = request.call_id().unwrap_or_default();
        let from_tag = request.from().and_then(|from| from.tag()).unwrap_or_default();
        let sequence = request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes();
        let parts = [call_id.as_bytes(), from_tag.as_bytes(), &sequence];
        let mut keys = self.settings.key.macs("invite-key", &parts).map(|mac| {
            let mut key = [0; 16];
            key.copy_from_slice(&mac[..16]);
            key
        });
        let key = keys.next().unwrap_or_default();
        let origin = origin_of(request);
        let of_former = |key| Some(self.calls.find(&key, &origin)).filter(|it| *it != Known::New);
        match self.calls.find(&key, &origin) {
            Known::New => (key, keys.find_map(of_former).unwrap_or(Known::New)),
            known => (key, known),
        }
    }

    /// The user that the sender proved to be. `None`: it was answered (challenged, refused).
    pub(super) fn authenticate(&mut self, request: &Request, flow: &Flow) -> Option<Arc<User>> {
        if !self.loaded {
            // Who says it again finds us ready; and another node may have a call of it.
            let is_repeated = !flow.transport.is_reliable() && self.is_newcomer();
            if !is_repeated {
                self.refuse_for_now(request, flow, "Starting", SOON_SECONDS);
            }
            return None;
        }
        let directory = &self.directory;
        let ha1_of = |username: &str| directory.user(username).map(|user| user.ha1);
        let key = &self.settings.key;
        match digest::verify(request, &self.realm, key, ha1_of, self.now) {
            Verdict::Authentic(username) => match self.directory.user(&username).cloned() {
                Some(user) if user.enabled => return Some(user),
                Some(_) | None if self.reads_again_for(request, flow) => {}
                Some(_) | None => self.refuse_saying(request, flow, 403, "User Disabled"),
            },
            Verdict::Challenge if given(request).is_none() => self.challenge(request, flow, false),
            Verdict::Challenge if self.reads_again_for(request, flow) => {}
            Verdict::Challenge => {
                self.note_wrong_credentials(request, flow);
                self.challenge(request, flow, false);
            }
            Verdict::Stale => self.challenge(request, flow, true),
            Verdict::Malformed => {
                self.refuse_saying(request, flow, 400, "Bad Credentials");
            }
        }
        None
    }

    fn note_wrong_credentials(&mut self, request: &Request, flow: &Flow) {
        let credentials = given(request).and_then(Credentials::parse);
        let username = credentials.map(|credentials| credentials.username.to_owned());
        if let Some(username) = username.clone() {
            let source = flow.remote.to_string();
            self.tell(Happening::AuthenticationFailed { username, source });
        }
        self.emit(&Event::AuthenticationFailed { source: flow.remote, username });
    }
}

/// Credentials as they were sent.
fn given(request: &Request) -> Option<&str> {
    let headers = &request.headers;
    headers.get(&HeaderName::Authorization).or_else(|| headers.get(&HeaderName::ProxyAuthorization))
}

/// Branch and sent-by of the top Via: the same for a request and its CANCEL (§9.1), another by another way.
fn origin_of(request: &Request) -> String {
    request.top_via().map_or_else(String::new, |via| {
        let branch = via.branch().unwrap_or_default();
        format!("{branch} {}:{}", via.host, via.port.unwrap_or(5060))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CallId;
    use crate::signaling::errand::Errand;
    use crate::signaling::samples;

    /// Whoever claimed that call may not have heard of it yet, and may be this node.
    #[tokio::test]
    async fn a_repeat_of_an_invite_that_made_another_call_is_for_that_one() {
        let mut worker = samples::worker();
        let (request, flow) = samples::invite();
        let (key, _) = worker.known_call(&request);
        worker.repeats.note_other(key, CallId(3), worker.now);
        let looks_for = |worker: &mut Worker| {
            worker.handle_invite(request.clone(), flow);
            samples::errands(worker).into_iter().find_map(|errand| match errand {
                Errand::FindOwner(stray) => Some(stray.call),
                _ => None,
            })
        };
        assert_eq!(looks_for(&mut worker), Some(CallId(3)));
        worker.now = worker.now + limits::TRANSACTION_TIMEOUT;
        assert_eq!(looks_for(&mut worker), None, "no phone repeats it any more");
    }
}
