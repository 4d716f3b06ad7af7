//! Which phone a binding belongs to, and how one is made (RFC 3261 §10.3, RFC 5626 §6, §19.1.4 for equal URIs).
//!
//! Invariant: a phone that comes back, from whatever port and under whatever Call-ID, replaces its own binding; two
//! phones that name different instances never replace each other.

use super::Policy;
use super::request::{Contact, Registration};
use crate::directory::Binding;
use crate::ids::Flow;
use crate::sip::uri::Host;
use crate::sip::{HeaderName, Request, Uri};
use crate::time::Timestamp;
use core::fmt::Write;
use core::time::Duration;
use sha2::{Digest, Sha256};

/// Preference of a contact that names none (§20.10: the highest).
const Q_DEFAULT: u16 = 1_000;

/// What all bindings of one REGISTER share.
pub(super) struct Source<'a> {
    registration: &'a Registration<'a>,
    flow: &'a Flow,
    user_agent: Option<&'a str>,
    /// The top Via names another address than the source.
    via_differs: bool,
    /// It wishes outbound, and nobody on its way stands against it (RFC 5626 §6).
    outbound: bool,
}

impl<'a> Source<'a> {
    pub(super) fn of(
        request: &'a Request,
        flow: &'a Flow,
        registration: &'a Registration<'a>,
    ) -> Self {
        let via_differs =
            request.top_via().is_some_and(|via| differs(Some(&via.host), via.port, flow));
        let edge = registration.path.last().map(|edge| edge.uri.param("ob").is_some());
        let outbound = registration.supports_outbound && edge.unwrap_or(registration.hops < 2);
        let user_agent = request.headers.get(&HeaderName::UserAgent);
        Self { registration, flow, user_agent, via_differs, outbound }
    }

    /// Behind a NAT or a hop that rewrote the source.
    fn is_nat(&self, contact: &Uri) -> bool {
        let contact_differs = self.registration.path.is_empty()
            && differs(contact.host().as_ref(), contact.port(), self.flow);
        self.via_differs || contact_differs
    }

    /// A flow that needs no upkeep: datagrams without a NAT.
    pub(super) fn is_lasting(&self, contact: &Contact) -> bool {
        !self.flow.transport.is_reliable() && !self.is_nat(&contact.uri)
    }

    /// `Require: outbound` can be said: over UDP only when we answer STUN there.
    pub(super) fn outbound(&self, policy: &Policy) -> bool {
        let flow_kept = self.flow.transport.is_reliable() || policy.stun;
        let asked = match &self.registration.contacts {
            super::Contacts::Listed(contacts) => contacts.iter().any(|contact| {
                contact.reg_id.is_some()
                    && contact.instance_id.is_some()
                    && contact.expires != Some(0)
            }),
            super::Contacts::None | super::Contacts::All => false,
        };
        self.outbound && flow_kept && asked
    }

    pub(super) fn binding(
        &self,
        contact: &Contact,
        expires: Duration,
        policy: &Policy,
        now: Timestamp,
    ) -> Binding {
        let registration = self.registration;
        Binding {
            id: id(registration, contact),
            extension: registration.extension.clone(),
            aor: registration.aor.clone(),
            contact: contact.uri.as_str().to_owned(),
            instance_id: contact.instance_id.clone(),
            reg_id: contact.reg_id,
            q_milli: contact.q_milli.unwrap_or(Q_DEFAULT),
            q_given: contact.q_milli.is_some(),
            path: registration.path.iter().map(ToString::to_string).collect(),
            call_id: registration.call_id.clone(),
            cseq: registration.cseq,
            user_agent: self.user_agent.map(str::to_owned),
            flow: *self.flow,
            nat: self.is_nat(&contact.uri),
            node: policy.node.clone(),
            registered_at: now,
            refreshed_at: now,
            expires_at: now + expires,
            flow_lost: false,
            ping_rtt_us: None,
        }
    }
}

/// A literal address that is not the flow's source. Ports tell only for datagrams: a connection leaves from any.
fn differs(host: Option<&Host>, port: Option<u16>, flow: &Flow) -> bool {
    let Some(Host::Ip(address)) = host else { return false };
    let default_port = 5060;
    address.to_canonical() != flow.remote.ip().to_canonical()
        || (!flow.transport.is_reliable() && port.unwrap_or(default_port) != flow.remote.port())
}

/// Derived, so that a repeated step makes the same id; kept over refreshes by `Table::put`.
fn id(registration: &Registration<'_>, contact: &Contact) -> String {
    let mut hash = Sha256::new();
    let reg_id = contact.reg_id.unwrap_or(0).to_string();
    for part in [
        registration.extension.as_str(),
        &registration.call_id,
        contact.uri.as_str(),
        contact.instance_id.as_deref().unwrap_or_default(),
        &reg_id,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(12).fold(String::with_capacity(24), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `fresh` takes the place of `old`.
pub(super) fn is_same_phone(old: &Binding, fresh: &Binding) -> bool {
    let same_request = old.call_id == fresh.call_id && old.cseq == fresh.cseq;
    let flows_agree = match (old.reg_id, fresh.reg_id) {
        (Some(old), Some(fresh)) => old == fresh,
        _ => true,
    };
    match (&old.instance_id, &fresh.instance_id) {
        (Some(old_instance), Some(instance)) if old_instance != instance || !flows_agree => {
            return false;
        }
        // Two contacts of one instance in one request are both meant.
        (Some(_), Some(_)) if !same_request => return true,
        _ => {}
    }
    let Ok(contact) = Uri::parse(&fresh.contact) else { return false };
    let Ok(old_contact) = Uri::parse(&old.contact) else { return true };
    if old_contact.equivalent(&contact) {
        return true;
    }
    // A restart: nothing but the port and the Call-ID is new.
    old.call_id != fresh.call_id
        && old.user_agent.is_some()
        && old.user_agent == fresh.user_agent
        && old.flow.remote.ip() == fresh.flow.remote.ip()
        && old_contact.user() == contact.user()
}

/// `contact` with expires 0 means this binding: its flow when it names one, else its URI.
pub(super) fn is_named_by(binding: &Binding, contact: &Contact) -> bool {
    if contact.reg_id.is_some() && contact.instance_id.is_some() && binding.reg_id.is_some() {
        return binding.instance_id == contact.instance_id && binding.reg_id == contact.reg_id;
    }
    Uri::parse(&binding.contact).is_ok_and(|uri| uri.equivalent(&contact.uri))
}
