//! REGISTER: who may, what the registrar makes of it, and what follows for flows, pings and calls (RFC 3261 §10.3,
//! RFC 5626).
//!
//! Invariants: a 200 that changed bindings leaves after their commit; bindings are in the directory before, so a phone
//! that was told 200 can be called.

use super::answer::HeldAnswer;
use super::worker::Worker;
use crate::call::Input;
use crate::directory::Binding;
use crate::event::{Event, Registration};
use crate::ids::{CallId, ConnectionId, Flow, Transport};
use crate::limits;
use crate::registrar;
use crate::sip::Request;
use crate::sip::address::reply_flow;
use crate::time::Timestamp;
use crate::views::Happening;
use core::time::Duration;

/// Expired bindings of a peer are swept so much later than it would.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(30);
/// When phones come again while the store cannot be written.
const RETRY_SECONDS: u64 = 5;

impl Worker {
    pub(super) fn handle_register(&mut self, request: Request, flow: Flow) {
        if !self.strangers.has_waited() {
            self.note_registering(&request, true, flow, &self.arrived);
        }
        let Some(user) = self.authenticate(&request, &flow) else { return };
        let extension = &user.extension;
        let present = self.directory.bindings(extension);
        let mut outcome =
            registrar::register(&request, &flow, &user, present, &self.policy, self.now);
        let is_stored = outcome.bindings.is_none();
        if !is_stored && self.cannot_store() {
            return self.refuse_for_now(&request, &flow, "Store Unavailable", RETRY_SECONDS);
        }
        if let Some(bindings) = outcome.bindings.take() {
            self.set_bindings(extension, bindings, outcome.new_binding);
        }
        let server = self.settings.product.as_str();
        outcome.response.headers.set(crate::sip::HeaderName::Server, server);
        let bytes = outcome.response.to_bytes();
        let held = HeldAnswer { flow: reply_flow(&request, &flow), request, bytes };
        // A repeated REGISTER changes nothing, yet it waits for what the first one changed.
        let now = match outcome.response.status.is_success() {
            true => self.committer.hold(extension, held),
            false => Some(held),
        };
        if let Some(answer) = now {
            self.send_held(answer);
        }
    }

    fn cannot_store(&self) -> bool {
        self.committer.cannot_keep()
            || self.committer.held() >= limits::HELD_OUTPUTS
            || self.committer.owed() >= limits::OWED_WRITES
    }

    /// Puts a user's bindings in force and on their way to the store.
    pub(super) fn set_bindings(&mut self, extension: &str, bindings: Vec<Binding>, new: bool) {
        let before = self.directory.bindings(extension);
        let moved = moved_flows(before, &bindings);
        let change = change_of(new, before.len(), bindings.len());
        self.tell_peers(extension, before, &bindings);
        for binding in &bindings {
            self.watch_binding(binding);
        }
        self.committer.write_bindings(extension, bindings.clone());
        let contacts = bindings.len();
        self.directory.set_bindings(extension, bindings);
        match (new, contacts) {
            (true, _) => {
                let extension = extension.to_owned();
                self.tell(Happening::RegistrationAdded { extension, contacts });
            }
            (false, 0) => {
                self.tell(Happening::RegistrationRemoved { extension: extension.to_owned() });
            }
            (false, _) => {}
        }
        self.emit(&Event::Registered { extension: extension.to_owned(), contacts, change });
        self.move_calls(extension, &moved);
    }

    /// The same of a peer of an older release, which tells all of a user's.
    pub(super) fn take_bindings(&mut self, extension: &str, bindings: Vec<Binding>) {
        let moved = moved_flows(self.directory.bindings(extension), &bindings);
        self.committer.supersede_bindings(extension, &bindings);
        self.directory.set_bindings(extension, bindings);
        self.move_calls(extension, &moved);
    }

    /// Pings and the end of its connection concern it from now on.
    pub(super) fn watch_binding(&mut self, binding: &Binding) {
        if binding.node != self.settings.node {
            return;
        }
        if binding.nat && binding.flow.transport == Transport::Udp {
            self.pings.watch(&binding.extension, &binding.id, self.now);
        }
        if let Some(connection) = binding.flow.connection {
            let users = self.by_connection.entry(connection).or_default();
            if !users.contains(&binding.extension) {
                users.push(binding.extension.clone());
            }
        }
    }

    /// Dialogs follow the phones that came by other flows.
    pub(super) fn move_calls(&mut self, extension: &str, moved: &[Moved]) {
        for id in self.calls.of_user(extension).to_vec() {
            moved.iter().for_each(|moved| self.move_call(id, moved));
        }
        self.follow_back(extension);
    }

    /// Dialogs with that remote target follow the phone; what waited for its old flow leaves by the new one.
    pub(super) fn move_call(&mut self, id: CallId, moved: &Moved) {
        let contact = moved.contact.clone();
        self.input(id, Input::FlowMoved { contact, from: moved.from, flow: moved.to });
        self.release_stranded(id, moved.to, |transmit| transmit.flow == moved.from);
    }

    /// A connection is gone: its bindings are not called until their phones register again.
    pub(super) fn lose_connection(&mut self, connection: ConnectionId) {
        for extension in self.by_connection.remove(&connection).unwrap_or_default() {
            for binding in self.directory.bindings_mut(&extension) {
                binding.flow_lost |= binding.flow.connection == Some(connection);
            }
        }
    }

    /// Removes what expired.
    pub(super) fn sweep_bindings(&mut self) {
        let now = self.now;
        let own = self.settings.node.clone();
        // A peer's are the peer's to sweep; those of a node that is gone are anybody's after a while.
        let expired = |binding: &&Binding| {
            let patience = if binding.node == own { Duration::ZERO } else { FOREIGN_PATIENCE };
            binding.expires_at + patience <= now
        };
        let mut users: Vec<String> = self
            .directory
            .all_bindings()
            .filter(expired)
            .map(|binding| binding.extension.clone())
            .collect();
        users.sort_unstable();
        users.dedup();
        for extension in users {
            let live: Vec<Binding> = live(self.directory.bindings(&extension), now);
            self.set_bindings(&extension, live, false);
        }
    }

    /// Removes one binding by its id, as an operator wishes. False: no such.
    pub(super) fn deregister(&mut self, id: &str) -> bool {
        let found = self.directory.all_bindings().find(|binding| binding.id == id);
        let Some(extension) = found.map(|binding| binding.extension.clone()) else { return false };
        let mut left = live(self.directory.bindings(&extension), self.now);
        left.retain(|binding| binding.id != id);
        self.set_bindings(&extension, left, false);
        true
    }
}

fn live(bindings: &[Binding], now: Timestamp) -> Vec<Binding> {
    bindings.iter().filter(|binding| binding.expires_at > now).cloned().collect()
}

fn change_of(new: bool, before: usize, after: usize) -> Registration {
    match after < before {
        _ if new => Registration::Made,
        true => Registration::Removed,
        false => Registration::Refreshed,
    }
}

/// A phone that came back by another flow of the same transport.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Remote target of its dialogs.
    contact: String,
    from: Flow,
    to: Flow,
}

impl Moved {
    pub(super) fn new(contact: &str, from: Flow, to: Flow) -> Self {
        Self { contact: contact.to_owned(), from, to }
    }
}

pub(super) fn moved_flows(before: &[Binding], after: &[Binding]) -> Vec<Moved> {
    let mut moved = Vec::new();
    for new in after {
        for old in before {
            let same_phone = old.id == new.id
                || old.contact == new.contact
                || (old.instance_id.is_some() && old.instance_id == new.instance_id);
            if same_phone && old.flow != new.flow && old.flow.transport == new.flow.transport {
                moved.push(Moved::new(&old.contact, old.flow, new.flow));
            }
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_that_leaves_is_no_refresh() {
        let changes = [(true, 0, 1), (true, 1, 1), (false, 1, 1), (false, 2, 1), (false, 1, 0)];
        let told = changes.map(|(new, before, after)| change_of(new, before, after));
        let [made, replaced, refreshed, removed, last] = told;
        assert_eq!([made, replaced], [Registration::Made; 2]);
        assert_eq!(refreshed, Registration::Refreshed);
        assert_eq!([removed, last], [Registration::Removed; 2]);
    }
}
