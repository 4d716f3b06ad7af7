//! Events as log lines: a log reads like a story of calls.

use super::Personal;
use crate::event::{Event, Registration, WebhookOutcome};
use crate::ids::NodeName;
use crate::views::call::LegRole;
use crate::views::{Disposition, EndCause, EndedBy};
use tracing::{debug, error, info, warn};

/// One line an event.
pub(super) fn tell(event: &Event, personal: Personal) {
    match event {
        Event::Measured(_) => {}
        Event::CallCreated { call, caller, callee } => {
            let (caller, callee) = (personal.wrap(caller), personal.wrap(callee));
            info!(call.id = %call, call.caller = %caller, call.callee = %callee,
                "call {call}: {caller} calls {callee}");
        }
        Event::CallAdopted { call, .. } => {
            info!(call.id = %call, "call {call}: carried on by this node");
        }
        Event::CallLeft { call } => info!(call.id = %call, "call {call}: left to another node"),
        Event::CallRinging { call } => info!(call.id = %call, "call {call}: ringing"),
        Event::CallAnswered { call, answered_by, setup_ms } => {
            let answered_by = personal.wrap(answered_by);
            info!(call.id = %call, call.answered_by = %answered_by, call.setup_ms = setup_ms,
                "call {call}: answered by {answered_by} after {}", seconds(*setup_ms));
        }
        Event::CallHold { call, leg, held } => {
            let act = if *held { "holds" } else { "resumes" };
            info!(call.id = %call, call.leg = %leg, "call {call}: leg {leg} {act}");
        }
        Event::CallSteered { .. } | Event::CallTransferred { .. } => tell_steering(event, personal),
        Event::CallReanchored { call, node } => {
            info!(call.id = %call, media.node = %node, "call {call}: its media is at {node} now");
        }
        Event::DigitDialled { call, leg, digit } => {
            debug!(call.id = %call, call.leg = %leg, "call {call}: leg {leg} dials {digit}");
        }
        Event::OneWayAudio { call, role, silent, .. } => {
            let act = if *silent { "is not heard" } else { "is heard again" };
            warn!(call.id = %call, "call {call}: the {} {act}", side_of(*role));
        }
        Event::NoAudio { call, silent } => {
            let act = if *silent { "neither phone is heard" } else { "no more silence" };
            warn!(call.id = %call, "call {call}: {act}");
        }
        Event::CallEnded { .. } => tell_end(event),
        Event::AckMissing { call, leg, contact } => {
            let contact = personal.wrap(contact);
            warn!(call.id = %call, call.leg = %leg,
                "call {call}: leg {leg} never acknowledged our 200; it was told Contact {contact}: \
                 can the phone reach it?");
        }
        Event::Misbehaved { call: Some(call), what } => {
            warn!(call.id = %call, "call {call}: a peer broke a rule: {what}");
        }
        Event::Misbehaved { call: None, what } => warn!("a peer broke a rule: {what}"),
        Event::Registered { extension, contacts, change } => {
            let is_new = *change == Registration::Made;
            tell_registered(&personal.wrap(extension), *contacts, is_new)
        }
        Event::Shed { what } => debug!("at a bound: {what}"),
        Event::AuthenticationFailed { source, username } => {
            let source = personal.wrap(source);
            let name = username.as_ref().map_or_else(String::new, |name| personal.wrap(name));
            // Every first REGISTER is challenged; only one with credentials is worth a line.
            if username.is_some() {
                info!(auth.source = %source, auth.user = %name,
                    "wrong credentials for {name} from {source}");
            } else {
                debug!(auth.source = %source, "challenged {source}");
            }
        }
        Event::Malformed { what } => debug!("dropped a message: {what}"),
        Event::MediaNode { node, up } => tell_media_node(node, *up),
        Event::Webhook { webhook, outcome } => tell_webhook(webhook, *outcome),
        Event::Bug { call: Some(call), what } => {
            error!(call.id = %call, "call {call}: ended by a bug in Holdfast: {what}");
        }
        Event::Bug { call: None, what } => error!("a bug in Holdfast: {what}"),
    }
}

const fn side_of(role: LegRole) -> &'static str {
    match role {
        LegRole::Caller => "caller",
        LegRole::Callee => "callee",
    }
}

/// What an operator did, and what came of it.
fn tell_steering(event: &Event, personal: Personal) {
    if let Event::CallSteered { call, act, role } = event {
        let whom = role.map_or("both phones, or the call", side_of);
        info!(call.id = %call, "call {call}: an operator wants {act:?} for {whom}");
    }
    if let Event::CallTransferred { call, role, to, status } = event {
        let to = personal.wrap(to);
        let (whose, end) = (side_of(*role), if *status == 200 { "done" } else { "failed" });
        info!(call.id = %call, sip.status = status,
            "call {call}: transfer of the {whose}'s place to {to} {end}");
    }
}

fn tell_end(event: &Event) {
    let Event::CallEnded {
        call,
        disposition,
        end_cause,
        ended_by,
        sip_status,
        duration_ms,
        billable_ms,
    } = event
    else {
        return;
    };
    let (word, cause, side) = (word(*disposition), cause(*end_cause), side(*ended_by));
    let what = if *disposition == Disposition::Answered {
        format!("{cause} by {side}, {}", seconds(*billable_ms))
    } else {
        format!("{word} ({sip_status}), {cause} by {side}, {}", seconds(*duration_ms))
    };
    info!(call.id = %call, call.disposition = word, call.sip_status = sip_status,
        call.end_cause = cause, call.ended_by = side, call.duration_ms = duration_ms,
        call.billable_ms = billable_ms, "call {call}: ended: {what}");
}

fn tell_media_node(node: &NodeName, up: bool) {
    match up {
        true => info!(media.node = %node, "media node {node} joined"),
        false => warn!(media.node = %node, "media node {node} is gone"),
    }
}

fn tell_webhook(webhook: &str, outcome: WebhookOutcome) {
    match outcome {
        WebhookOutcome::Taken => debug!("webhook {webhook} took an event"),
        WebhookOutcome::Failed => debug!("webhook {webhook} did not take an event"),
        WebhookOutcome::GivenUp => warn!("webhook {webhook}: an event is given up"),
        WebhookOutcome::Missed => {
            warn!("webhook {webhook}: events are lost to it, which the log does not have any more");
        }
    }
}

fn tell_registered(extension: &str, contacts: usize, new: bool) {
    match (new, contacts) {
        (true, _) => info!(
            registration.extension = extension,
            registration.contacts = contacts,
            "{extension} registered, {contacts} phones now"
        ),
        (false, 0) => info!(
            registration.extension = extension,
            registration.contacts = 0,
            "{extension} is not registered any more"
        ),
        (false, _) => debug!(
            registration.extension = extension,
            registration.contacts = contacts,
            "{extension} refreshed"
        ),
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1_000, millis % 1_000 / 100)
}

/// As in the API.
pub(super) const fn word(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Answered => "answered",
        Disposition::Busy => "busy",
        Disposition::NoAnswer => "no_answer",
        Disposition::Cancelled => "cancelled",
        Disposition::Rejected => "rejected",
        Disposition::Failed => "failed",
    }
}

const fn side(ended_by: EndedBy) -> &'static str {
    match ended_by {
        EndedBy::Caller => "caller",
        EndedBy::Callee => "callee",
        EndedBy::Admin => "admin",
        EndedBy::System => "system",
    }
}

pub(super) const fn cause(end_cause: EndCause) -> &'static str {
    match end_cause {
        EndCause::Bye => "bye",
        EndCause::Cancel => "cancel",
        EndCause::Rejected => "rejected",
        EndCause::RingTimeout => "ring_timeout",
        EndCause::AckTimeout => "ack_timeout",
        EndCause::RtpTimeout => "rtp_timeout",
        EndCause::SessionExpired => "session_expired",
        EndCause::ReanchorFailed => "reanchor_failed",
        EndCause::Drain => "drain",
        EndCause::NodeLost => "node_lost",
        EndCause::Quarantined => "quarantined",
        EndCause::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_words_are_the_storys() {
        for (millis, text) in [(0, "0.0 s"), (3_249, "3.2 s"), (75_349, "75.3 s")] {
            assert_eq!(seconds(millis), text);
        }
        assert_eq!(word(Disposition::NoAnswer), "no_answer");
        assert_eq!(cause(EndCause::RtpTimeout), "rtp_timeout");
        assert_eq!(side(EndedBy::System), "system");
    }
}
