//! A call's trace, made of its CDR: the call, its ringing, its talk, and its legs.
//!
//! Invariants: the trace's id is the call's; span ids are derived from it, so a call that is told twice is told the
//! same; parties are named only where the log may name them.

use super::otlp::{Export, KeyValue, Kind, Of, Resource, ResourceSpans, Scope, ScopeSpans};
use super::otlp::{Span, Status, attribute};
use crate::ids::CallId;
use crate::views::call::LegRole;
use crate::views::cdr::CdrLeg;
use crate::views::{Cdr, Disposition, Rfc3339};
use prost::Message as _;
use sha2::{Digest, Sha256};

/// Numbers of spans within a call; legs follow.
const CALL: u16 = 0;
const RINGING: u16 = 1;
const TALK: u16 = 2;
const FIRST_LEG: u16 = 16;
/// Calls that are taken apart at a time.
const CALLS_A_PART: usize = 16;

/// What is sent: all spans of these calls, encoded. Some calls at a time, one part behind the other, which is the same
/// message (Protocol Buffers, "Last One Wins"): all at once they were megabytes of memory, asked for anew each second.
pub(super) fn export(cdrs: &[Cdr], names_parties: bool) -> Vec<u8> {
    let parts = cdrs.chunks(CALLS_A_PART).map(|cdrs| part(cdrs, names_parties));
    let mut body = Vec::new();
    parts.for_each(|part| part.encode(&mut body).expect("a vector has room"));
    body
}

fn part(cdrs: &[Cdr], names_parties: bool) -> Export {
    let spans = cdrs.iter().flat_map(|cdr| spans(cdr, names_parties)).collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            attribute("service.name", "holdfast"),
            attribute("service.version", version),
        ],
    };
    let scope = Some(Scope { name: "holdfast.calls".to_owned(), version: version.to_owned() });
    let scope_spans = vec![ScopeSpans { scope, spans }];
    Export { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
}

/// A word as the API has it.
fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn nanos(at: Rfc3339) -> u64 {
    at.0.as_micros().saturating_mul(1_000)
}

fn span_id(call: CallId, number: u16) -> Vec<u8> {
    let digest =
        Sha256::new().chain_update(call.0.to_be_bytes()).chain_update(number.to_be_bytes());
    digest.finalize()[..8].to_vec()
}

struct Trace {
    call: CallId,
}

impl Trace {
    fn span(&self, number: u16, name: &str, kind: Kind, (from, to): (Rfc3339, Rfc3339)) -> Span {
        let parent = if number == CALL { Vec::new() } else { span_id(self.call, CALL) };
        Span {
            trace_id: self.call.0.to_be_bytes().to_vec(),
            span_id: span_id(self.call, number),
            parent_span_id: parent,
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: nanos(from),
            end_time_unix_nano: nanos(to).max(nanos(from)),
            attributes: Vec::new(),
            status: None,
        }
    }
}

fn spans(cdr: &Cdr, names_parties: bool) -> Vec<Span> {
    let Ok(call) = cdr.id.parse() else { return Vec::new() };
    let trace = Trace { call };
    let mut root = trace.span(CALL, "call", Kind::Server, (cdr.created_at, cdr.ended_at));
    root.attributes = attributes(cdr, names_parties);
    if cdr.disposition == Disposition::Failed {
        let message = cdr.reason.clone().unwrap_or_else(|| word(cdr.end_cause));
        root.status = Some(Status { message, code: 2 });
    }
    let mut spans = vec![root];
    if let Some(ringing) = cdr.ringing_at {
        let until = cdr.answered_at.unwrap_or(cdr.ended_at);
        spans.push(trace.span(RINGING, "ringing", Kind::Internal, (ringing, until)));
    }
    if let Some(answered) = cdr.answered_at {
        spans.push(trace.span(TALK, "talk", Kind::Internal, (answered, cdr.ended_at)));
    }
    for (number, leg) in (FIRST_LEG..).zip(&cdr.legs) {
        let (name, kind) = match leg.role {
            LegRole::Caller => ("leg caller", Kind::Server),
            LegRole::Callee => ("leg callee", Kind::Client),
        };
        let times = (leg.created_at, leg.ended_at.unwrap_or(cdr.ended_at));
        let mut span = trace.span(number, name, kind, times);
        span.attributes = leg_attributes(leg, names_parties);
        spans.push(span);
    }
    spans
}

fn known<V: Into<Of>>(key: &str, value: Option<V>) -> Option<KeyValue> {
    value.map(|value| attribute(key, value))
}

fn attributes(cdr: &Cdr, names_parties: bool) -> Vec<KeyValue> {
    let mut all = vec![
        attribute("call.id", cdr.id.as_str()),
        attribute("call.disposition", word(cdr.disposition).as_str()),
        attribute("call.end_cause", word(cdr.end_cause).as_str()),
        attribute("call.ended_by", word(cdr.ended_by).as_str()),
        attribute("call.direction", word(cdr.direction).as_str()),
        attribute("sip.status", u64::from(cdr.sip_status)),
        attribute("call.owners", cdr.owners.join(" ").as_str()),
        attribute("call.media_nodes", cdr.media_nodes.join(" ").as_str()),
        attribute("call.takeovers", u64::from(cdr.takeovers)),
        attribute("call.reanchors", u64::from(cdr.reanchors)),
        attribute("call.billable_ms", cdr.billable_ms),
    ];
    if names_parties {
        all.push(attribute("call.caller", cdr.caller.uri.as_str()));
        all.push(attribute("call.callee", cdr.request_uri.as_str()));
        all.extend(known("call.answered_by", cdr.answered_by.as_deref()));
    }
    all
}

fn leg_attributes(leg: &CdrLeg, names_parties: bool) -> Vec<KeyValue> {
    let mut all = vec![
        attribute("sip.call_id", leg.call_id.as_str()),
        attribute("media.packets_sent", leg.packets_sent),
        attribute("media.packets_received", leg.packets_received),
        attribute("media.packets_lost", leg.packets_lost),
        attribute("media.silence_max_ms", leg.silence_max_ms),
    ];
    all.extend(known("sip.status", leg.sip_status.map(u64::from)));
    all.extend(known("media.codec", leg.codec.as_deref()));
    all.extend(known("media.jitter_mean_ms", leg.jitter_mean_ms));
    all.extend(known("media.rtt_mean_ms", leg.rtt_mean_ms));
    all.extend(known("media.mos_mean", leg.mos_mean));
    all.extend(known("media.mos_min", leg.mos_min));
    if names_parties {
        all.extend(known("leg.extension", leg.extension.as_deref()));
        all.extend(known("sip.user_agent", leg.user_agent.as_deref()));
    }
    all
}
