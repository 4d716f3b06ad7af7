//! Binding rules of REGISTER (RFC 3261 §10.3, RFC 3327 Path, RFC 5626 outbound): a pure function of the request and the
//! user's bindings. Authentication was done before.
//!
//! Invariant: all of a REGISTER takes effect or nothing (§10.3 step 7).

mod answer;
mod binding;
mod request;

use crate::directory::{Binding, User};
use crate::ids::{Flow, NodeName};
use crate::sip::{Request, Response};
use crate::time::Timestamp;
use answer::Refusal;
use binding::Source;
use core::time::Duration;
use request::{Contacts, Registration};

/// What the registrar grants.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `HOLDFAST_REGISTRATION_MAX_MS`.
    pub max_expires: Duration,
    /// TCP and NATed flows.
    pub max_expires_nat: Duration,
    /// Below: 423 with Min-Expires.
    pub min_expires: Duration,
    /// `HOLDFAST_MAX_CONTACTS`.
    pub max_contacts: usize,
    /// STUN is answered on the SIP port, so outbound over UDP can be promised (RFC 5626 §6).
    pub stun: bool,
    /// This node.
    pub node: NodeName,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// To be sent, after the commit when `bindings` is set.
    pub response: Response,
    /// The user's bindings afterwards, when they changed.
    pub bindings: Option<Vec<Binding>>,
    /// A phone that was not there before.
    pub new_binding: bool,
}

/// Handles an authenticated REGISTER of `user` that came by `flow`.
pub fn register(
    request: &Request,
    flow: &Flow,
    user: &User,
    present: &[Binding],
    policy: &Policy,
    now: Timestamp,
) -> Outcome {
    match apply(request, flow, user, present, policy, now) {
        Ok(outcome) => outcome,
        Err(refusal) => Outcome {
            response: answer::refuse(request, &refusal),
            bindings: None,
            new_binding: false,
        },
    }
}

fn apply(
    request: &Request,
    flow: &Flow,
    user: &User,
    present: &[Binding],
    policy: &Policy,
    now: Timestamp,
) -> Result<Outcome, Refusal> {
    let registration = Registration::read(request)?;
    if !user.enabled || registration.extension != user.extension {
        return Err(Refusal::NotTheirs);
    }
    let live: Vec<Binding> =
        present.iter().filter(|binding| binding.expires_at > now).cloned().collect();
    let order = order(&registration, &live);
    let source = Source::of(request, flow, &registration);
    let unchanged = || {
        let outbound = source.outbound(policy);
        let response = answer::accept(request, &registration, &live, outbound, now);
        Ok(Outcome { response, bindings: None, new_binding: false })
    };
    let asked = match (&registration.contacts, order) {
        (Contacts::None, _) => return unchanged(),
        (_, Order::Late) | (Contacts::All, Order::Repeated) => return Err(Refusal::OutOfOrder),
        (_, Order::Repeated) => return unchanged(),
        (Contacts::All, Order::Next) => &[],
        (Contacts::Listed(asked), Order::Next) => asked.as_slice(),
    };
    let mut table = Table { bindings: live, changed: false, new_binding: false };
    if registration.contacts == Contacts::All {
        table.changed = !table.bindings.is_empty();
        table.bindings.clear();
    }
    let room = user.max_contacts.map_or(policy.max_contacts, |limit| limit as usize).max(1);
    let wanted = asked.iter().filter(|contact| contact.expires != Some(0)).count();
    if wanted > room {
        return Err(Refusal::TooManyContacts);
    }
    for contact in asked {
        let expires = granted(contact.expires, source.is_lasting(contact), policy)?;
        if expires.is_zero() {
            table.remove(contact);
        } else {
            table.put(source.binding(contact, expires, policy, now));
        }
    }
    table.make_room(room, now);
    let outbound = source.outbound(policy);
    let response = answer::accept(request, &registration, &table.bindings, outbound, now);
    let Table { bindings, changed, new_binding } = table;
    Ok(Outcome { response, bindings: changed.then_some(bindings), new_binding })
}

/// Where a REGISTER stands in the sequence of its Call-ID (§10.3 steps 6 and 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Next,
    /// Had already: a retransmission, which changes nothing and is answered alike.
    Repeated,
    /// Overtaken by a later one.
    Late,
}

fn order(registration: &Registration<'_>, live: &[Binding]) -> Order {
    let newest = live
        .iter()
        .filter(|binding| binding.call_id == registration.call_id)
        .map(|binding| binding.cseq)
        .max();
    match newest.map(|newest| registration.cseq.cmp(&newest)) {
        None | Some(core::cmp::Ordering::Greater) => Order::Next,
        Some(core::cmp::Ordering::Equal) => Order::Repeated,
        Some(core::cmp::Ordering::Less) => Order::Late,
    }
}

/// What a contact gets: what it asked within the policy; zero ends the binding. `lasting` flows need no upkeep by us.
fn granted(asked: Option<u32>, lasting: bool, policy: &Policy) -> Result<Duration, Refusal> {
    let most = if lasting { policy.max_expires } else { policy.max_expires_nat };
    let Some(asked) = asked.map(|seconds| Duration::from_secs(u64::from(seconds))) else {
        return Ok(most);
    };
    if !asked.is_zero() && asked < policy.min_expires {
        return Err(Refusal::TooBrief(policy.min_expires));
    }
    Ok(asked.min(most))
}

/// A user's bindings while a REGISTER is applied to them.
struct Table {
    bindings: Vec<Binding>,
    changed: bool,
    new_binding: bool,
}

impl Table {
    fn remove(&mut self, contact: &request::Contact) {
        let before = self.bindings.len();
        self.bindings.retain(|binding| !binding::is_named_by(binding, contact));
        self.changed |= self.bindings.len() != before;
    }

    /// Puts the binding in place of all that were the same phone's; the first of them lends id and age.
    fn put(&mut self, mut binding: Binding) {
        let mut replaced: Option<Binding> = None;
        self.bindings.retain(|old| {
            let same = binding::is_same_phone(old, &binding);
            if same && replaced.is_none() {
                replaced = Some(old.clone());
            }
            !same
        });
        match replaced {
            Some(old) => {
                binding.ping_rtt_us = old.ping_rtt_us.filter(|_| old.flow == binding.flow);
                binding.id = old.id;
                binding.registered_at = old.registered_at;
            }
            None => self.new_binding = true,
        }
        // Most users have one phone, and a Vec that grows by itself has room for four.
        self.bindings.reserve_exact(1);
        self.bindings.push(binding);
        self.bindings.sort_by_key(|binding| binding.registered_at);
        self.changed = true;
    }

    /// The one that has been silent longest goes first; what this request brought stays.
    fn make_room(&mut self, room: usize, now: Timestamp) {
        while self.bindings.len() > room {
            let oldest = (0..self.bindings.len())
                .filter(|index| self.bindings[*index].refreshed_at < now)
                .min_by_key(|index| self.bindings[*index].refreshed_at);
            // Only reached by bindings refreshed at the very same instant.
            self.bindings.remove(oldest.unwrap_or(0));
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests;
