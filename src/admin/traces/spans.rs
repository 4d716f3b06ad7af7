//! A call's trace, made of its CDR: the call, its ringing, its talk, and its legs.
//!
//! Invariants: the trace's id is the call's; span ids are derived from it, so a call that is told twice is told the
//! same; parties are named only where the log may name them.

use super::otlp::{Event, Export, KeyValue, Kind, Of, Resource, ResourceSpans, Scope, ScopeSpans};
use super::otlp::{Span, Status, attribute};
use crate::ids::CallId;
use crate::time::Timestamp;
use crate::views::Rfc3339;
use crate::views::call::LegRole;
use prost::Message as _;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What is told of a CDR: the rest of it, half of all, is passed over as it stands.
#[derive(Debug, Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    caller: Party<'a>,
    #[serde(borrow)]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    direction: Cow<'a, str>,
    answered_by: Option<Cow<'a, str>>,
    created_at: Rfc3339,
    ringing_at: Option<Rfc3339>,
    answered_at: Option<Rfc3339>,
    ended_at: Rfc3339,
    billable_ms: u64,
    #[serde(borrow)]
    disposition: Cow<'a, str>,
    sip_status: u16,
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ended_by: Cow<'a, str>,
    #[serde(borrow)]
    end_cause: Cow<'a, str>,
    owners: Vec<Cow<'a, str>>,
    media_nodes: Vec<Cow<'a, str>>,
    takeovers: u32,
    reanchors: u32,
    #[serde(borrow, default)]
    transfers: Vec<ToldTransfer<'a>>,
    #[serde(borrow)]
    legs: Vec<ToldLeg<'a>>,
}

#[derive(Debug, Deserialize)]
struct Party<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct ToldTransfer<'a> {
    at: Rfc3339,
    leg: LegRole,
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    sip_status: u16,
}

#[derive(Debug, Deserialize)]
struct ToldLeg<'a> {
    role: LegRole,
    extension: Option<Cow<'a, str>>,
    #[serde(borrow)]
    call_id: Cow<'a, str>,
    user_agent: Option<Cow<'a, str>>,
    sip_status: Option<u16>,
    created_at: Rfc3339,
    ended_at: Option<Rfc3339>,
    codec: Option<Cow<'a, str>>,
    packets_sent: u64,
    packets_received: u64,
    packets_lost: u64,
    jitter_mean_ms: Option<f64>,
    rtt_mean_ms: Option<f64>,
    mos_mean: Option<f64>,
    mos_min: Option<f64>,
    silence_max_ms: u64,
}

/// Numbers of spans within a call; legs follow.
const CALL: u16 = 0;
const RINGING: u16 = 1;
const TALK: u16 = 2;
const FIRST_LEG: u16 = 16;
/// Calls that are taken apart at a time.
const CALLS_A_PART: usize = 16;

/// Bytes of most calls.
const ROOM: usize = 1_536;

/// What is sent: all spans of the calls that ended since then, encoded, and how many calls those are. Some calls at a
/// time, one part behind the other, which is the same message (Protocol Buffers, "Last One Wins"): all at once they
/// were megabytes of memory, asked for anew each second.
pub(super) fn export(
    documents: &[(i64, String)],
    since: Timestamp,
    names_parties: bool,
) -> (usize, Vec<u8>) {
    let (mut count, mut body) = (0, Vec::with_capacity(documents.len() * ROOM));
    for documents in documents.chunks(CALLS_A_PART) {
        let read = documents.iter().filter_map(|(sequence, document)| read(*sequence, document));
        let calls = Vec::from_iter(read.filter(|call| call.ended_at.0 > since));
        if !calls.is_empty() {
            count += calls.len();
            part(&calls, names_parties).encode(&mut body).expect("a vector has room");
        }
    }
    (count, body)
}

fn read(sequence: i64, document: &str) -> Option<Told<'_>> {
    let read = serde_json::from_str(document);
    read.inspect_err(|error| tracing::warn!("CDR {sequence} is not understood: {error}")).ok()
}

fn part(calls: &[Told<'_>], names_parties: bool) -> Export {
    let spans = calls.iter().flat_map(|call| spans(call, names_parties)).collect();
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
            events: Vec::new(),
            status: None,
        }
    }
}

fn spans(cdr: &Told<'_>, names_parties: bool) -> Vec<Span> {
    let Ok(call) = cdr.id.parse() else { return Vec::new() };
    let trace = Trace { call };
    let mut root = trace.span(CALL, "call", Kind::Server, (cdr.created_at, cdr.ended_at));
    root.attributes = attributes(cdr, names_parties);
    root.events = cdr.transfers.iter().map(|one| transfer(one, names_parties)).collect();
    if cdr.disposition == "failed" {
        let message = cdr.reason.as_deref().unwrap_or(&cdr.end_cause).to_owned();
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
        // Who had its sound at last.
        span.attributes.extend(known("media.node", cdr.media_nodes.last().map(|name| &**name)));
        spans.push(span);
    }
    spans
}

fn transfer(one: &ToldTransfer<'_>, names_parties: bool) -> Event {
    let role = match one.leg {
        LegRole::Caller => "caller",
        LegRole::Callee => "callee",
    };
    let mut attributes =
        vec![attribute("transfer.leg", role), attribute("sip.status", u64::from(one.sip_status))];
    if names_parties {
        attributes.extend(known("transfer.from", one.from.as_deref()));
        attributes.push(attribute("transfer.to", &*one.to));
    }
    Event { time_unix_nano: nanos(one.at), name: "transfer".to_owned(), attributes }
}

fn known<V: Into<Of>>(key: &str, value: Option<V>) -> Option<KeyValue> {
    value.map(|value| attribute(key, value))
}

fn attributes(cdr: &Told<'_>, names_parties: bool) -> Vec<KeyValue> {
    let mut all = vec![
        attribute("call.id", &*cdr.id),
        attribute("call.disposition", &*cdr.disposition),
        attribute("call.end_cause", &*cdr.end_cause),
        attribute("call.ended_by", &*cdr.ended_by),
        attribute("call.direction", &*cdr.direction),
        attribute("sip.status", u64::from(cdr.sip_status)),
        attribute("call.owners", cdr.owners.join(" ").as_str()),
        attribute("call.media_nodes", cdr.media_nodes.join(" ").as_str()),
        attribute("call.takeovers", u64::from(cdr.takeovers)),
        attribute("call.reanchors", u64::from(cdr.reanchors)),
        attribute("call.billable_ms", cdr.billable_ms),
    ];
    if names_parties {
        all.push(attribute("call.caller", &*cdr.caller.uri));
        all.push(attribute("call.callee", &*cdr.request_uri));
        all.extend(known("call.answered_by", cdr.answered_by.as_deref()));
    }
    all
}

fn leg_attributes(leg: &ToldLeg<'_>, names_parties: bool) -> Vec<KeyValue> {
    let mut all = vec![
        attribute("sip.call_id", &*leg.call_id),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Cdr;
    use serde_json::{Value, json};

    /// As it is stored.
    fn document(reason: &str) -> String {
        let leg = |role: &str| {
            json!({"role": role, "extension": null, "call_id": "a@b", "contact": null,
                "user_agent": "phone \"1\"", "sip_status": 200, "created_at": "2026-01-31T12:00:00.000Z",
                "answered_at": null, "ended_at": null, "codec": "PCMU", "packets_sent": 1,
                "packets_received": 2, "packets_lost": 3, "jitter_mean_ms": 0.5, "rtt_mean_ms": null,
                "mos_mean": 4.4, "mos_min": null, "silence_max_ms": 7})
        };
        let party = json!({"extension": "1001", "uri": "sip:1001@x", "display_name": null});
        let cdr = json!({"id": "0198c4a2-0000-7000-8000-000000000001", "sequence": 0,
            "caller": party, "callee": party, "request_uri": "sip:1002@x", "direction": "internal",
            "answered_by": "1002", "created_at": "2026-01-31T12:00:00.000Z",
            "ringing_at": "2026-01-31T12:00:01.000Z", "answered_at": "2026-01-31T12:00:02.000Z",
            "ended_at": "2026-01-31T12:00:09.000Z", "ring_ms": 1000, "duration_ms": 9000,
            "billable_ms": 7000, "disposition": "failed", "sip_status": 500, "q850_cause": null,
            "reason": reason, "ended_by": "system", "end_cause": "node_lost", "owners": ["a", "b"],
            "media_nodes": ["m"], "takeovers": 1, "reanchors": 0,
            "legs": [leg("caller"), leg("callee")]});
        let cdr: Cdr = serde_json::from_value(cdr).expect("a CDR");
        serde_json::to_string(&cdr).expect("plain data")
    }

    fn told(documents: &[(i64, String)], since: &str) -> (usize, Vec<Span>) {
        let since: Rfc3339 = serde_json::from_value(json!(since)).expect("a time");
        let (count, body) = export(documents, since.0, true);
        let export = Export::decode(&*body).expect("a message");
        let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        (count, scopes.flat_map(|scope| scope.spans).collect())
    }

    fn text(span: &Span, key: &str) -> Value {
        let found = span.attributes.iter().find(|attribute| attribute.key == key);
        match found.and_then(|attribute| attribute.value.clone()?.of) {
            Some(Of::Text(text)) => json!(text),
            Some(Of::Number(number)) => json!(number),
            Some(Of::Fraction(number)) => json!(number),
            None => Value::Null,
        }
    }

    #[test]
    fn what_a_trace_tells_is_what_the_cdr_says() {
        let documents = [(1, document("it \"broke\""))];
        let (count, spans) = told(&documents, "2026-01-31T12:00:08.000Z");
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(
            (count, names),
            (1, vec!["call", "ringing", "talk", "leg caller", "leg callee"])
        );
        let [call, ringing, talk, leg, _] = &spans[..] else { panic!("five") };
        let status = call.status.clone().expect("it failed");
        assert_eq!((status.code, status.message.as_str()), (2, "it \"broke\""));
        for (key, value) in [
            ("call.disposition", json!("failed")),
            ("call.end_cause", json!("node_lost")),
            ("call.ended_by", json!("system")),
            ("call.direction", json!("internal")),
            ("call.owners", json!("a b")),
            ("call.media_nodes", json!("m")),
            ("call.takeovers", json!(1)),
            ("call.billable_ms", json!(7000)),
            ("call.caller", json!("sip:1001@x")),
            ("call.callee", json!("sip:1002@x")),
            ("call.answered_by", json!("1002")),
            ("sip.status", json!(500)),
        ] {
            assert_eq!(text(call, key), value, "{key}");
        }
        for (key, value) in [
            ("sip.call_id", json!("a@b")),
            ("sip.user_agent", json!("phone \"1\"")),
            ("media.codec", json!("PCMU")),
            ("media.packets_lost", json!(3)),
            ("media.jitter_mean_ms", json!(0.5)),
            ("media.mos_min", Value::Null),
            ("media.silence_max_ms", json!(7)),
        ] {
            assert_eq!(text(leg, key), value, "{key}");
        }
        let took = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
        assert_eq!([call, ringing, talk, leg].map(took), [9, 1, 7, 9].map(|s| s * 1_000_000_000));
        assert!(spans[1..].iter().all(|span| span.parent_span_id == call.span_id));
    }

    #[test]
    fn what_is_old_or_not_understood_is_left_out_and_parts_are_one_message() {
        let good = (0..40).map(|number| (number, document("x")));
        let mut documents = Vec::from_iter(good);
        documents[20].1 = "{}".to_owned();
        let (count, spans) = told(&documents, "2026-01-31T12:00:08.000Z");
        assert_eq!((count, spans.len()), (39, 39 * 5));
        assert_eq!(told(&documents, "2026-01-31T12:00:09.000Z").0, 0);
        assert_eq!(export(&[], Timestamp::EPOCH, true), (0, Vec::new()));
    }
}
