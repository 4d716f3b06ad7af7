//! Responses to REGISTER (RFC 3261 §10.3 step 8, RFC 3327 §5.3, RFC 5626 §6).
//!
//! Invariant: a 200 lists every binding, each Contact byte for byte as its phone wrote it.

use super::request::{Contacts, Registration};
use crate::directory::Binding;
use crate::sip::{HeaderName, Request, Response, Status};
use crate::time::Timestamp;
use core::time::Duration;
use sha2::{Digest, Sha256};

/// Why nothing is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400, with the reason in words.
    Malformed(&'static str),
    /// 403: another user's address of record, or a disabled user.
    NotTheirs,
    /// 403: more contacts in one request than the user may have.
    TooManyContacts,
    /// 420 with these.
    Unsupported(Vec<String>),
    /// 423 with Min-Expires.
    TooBrief(Duration),
    /// 500: §10.3 step 7, the update is aborted.
    OutOfOrder,
}

pub(super) fn refuse(request: &Request, refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Malformed(_) => Status(400),
        Refusal::NotTheirs | Refusal::TooManyContacts => Status(403),
        Refusal::Unsupported(_) => Status(420),
        Refusal::TooBrief(_) => Status(423),
        Refusal::OutOfOrder => Status(500),
    };
    let mut response = request.response(status, Some(&to_tag(request)));
    match refusal {
        Refusal::Malformed(reason) => response.reason = (*reason).to_owned(),
        Refusal::TooManyContacts => response.reason = "Too Many Contacts".to_owned(),
        Refusal::OutOfOrder => response.reason = "CSeq Out Of Order".to_owned(),
        Refusal::Unsupported(options) => {
            response.headers.push(HeaderName::Unsupported, options.join(", "));
        }
        Refusal::TooBrief(least) => {
            response.headers.push(HeaderName::MinExpires, seconds(*least).to_string());
        }
        Refusal::NotTheirs => {}
    }
    response
}

pub(super) fn accept(
    request: &Request,
    registration: &Registration<'_>,
    bindings: &[Binding],
    outbound: bool,
    now: Timestamp,
) -> Response {
    let mut response = request.response(Status(200), Some(&to_tag(request)));
    let own = |binding: &&Binding| binding.call_id == registration.call_id;
    // Its own first: some phones read no further than the first Contact.
    let ordered = bindings.iter().filter(own).chain(bindings.iter().filter(|b| !own(b)));
    for binding in ordered {
        response.headers.push(HeaderName::Contact, contact(binding, now));
    }
    let granted = bindings.iter().filter(own).map(|binding| remaining(binding, now)).min();
    if let (Contacts::Listed(_), Some(granted)) = (&registration.contacts, granted) {
        response.headers.push(HeaderName::Expires, granted.to_string());
    }
    if registration.supports_path {
        for hop in &registration.path {
            response.headers.push(HeaderName::Path, hop.to_string());
        }
    }
    if outbound {
        response.headers.push(HeaderName::Require, "outbound");
    }
    response
}

fn contact(binding: &Binding, now: Timestamp) -> String {
    let mut text = format!("<{}>", binding.contact);
    if let Some(instance) = &binding.instance_id {
        let escaped = instance.replace('\\', "\\\\").replace('"', "\\\"");
        text.push_str(&format!(";+sip.instance=\"{escaped}\""));
    }
    if let Some(reg_id) = binding.reg_id {
        text.push_str(&format!(";reg-id={reg_id}"));
    }
    if binding.q_given {
        text.push_str(&format!(";q={}.{:03}", binding.q_milli / 1_000, binding.q_milli % 1_000));
    }
    text.push_str(&format!(";expires={}", remaining(binding, now)));
    text
}

fn remaining(binding: &Binding, now: Timestamp) -> u64 {
    seconds(binding.expires_at.saturating_since(now))
}

/// Rounded up: a binding that is alive never shows 0.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// No dialog comes of a REGISTER: the tag need only be the same for a retransmission (§8.2.7).
fn to_tag(request: &Request) -> String {
    let cseq = request.cseq().map_or_else(String::new, |cseq| cseq.number.to_string());
    let mut hash = Sha256::new();
    hash.update(request.call_id().unwrap_or_default());
    hash.update(cseq);
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
