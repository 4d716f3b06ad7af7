//! A collector of traces is told each call once, in OTLP's protobuf, also when it or the switch was away.

use crate::common::phone::Phone;
use crate::common::receiver::{Post, Receiver};
use crate::common::server::Server;
use crate::common::{SOON, eventually, ports};
use crate::crowd::Crowd;
use crate::pair::{Pair, Side, phone};
use crate::switch::Switch;
use holdfast::sip::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// A field of a protobuf message, as the wire has it (protobuf.dev, "Encoding").
#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message with their numbers.
#[derive(Clone, Debug)]
struct Fields(Vec<(u64, Field)>);

impl Fields {
    fn read(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => {
                    let (number, rest) = bytes.split_first_chunk::<8>().expect("eight bytes");
                    bytes = rest;
                    Field::Number(u64::from_le_bytes(*number))
                }
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).expect("a length");
                    let (content, rest) = bytes.split_at(length);
                    bytes = rest;
                    Field::Bytes(content.to_vec())
                }
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, field));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> Vec<Vec<u8>> {
        let of_number = self.0.iter().filter(|(known, _)| *known == number);
        let bytes = of_number.filter_map(|(_, field)| match field {
            Field::Bytes(bytes) => Some(bytes.clone()),
            Field::Number(_) => None,
        });
        bytes.collect()
    }

    fn messages(&self, number: u64) -> Vec<Self> {
        self.all(number).iter().map(|bytes| Self::read(bytes)).collect()
    }

    fn text(&self, number: u64) -> String {
        let bytes = self.all(number).pop().unwrap_or_default();
        String::from_utf8(bytes).expect("text")
    }

    fn number(&self, number: u64) -> u64 {
        let found = self.0.iter().find_map(|(known, field)| match field {
            Field::Number(value) if *known == number => Some(*value),
            Field::Number(_) | Field::Bytes(_) => None,
        });
        found.unwrap_or(0)
    }

    /// Of a span: an attribute's value, a text or a number as text.
    fn attribute(&self, key: &str) -> Option<String> {
        let found = self.messages(9).into_iter().find(|pair| pair.text(1) == key)?;
        let value = found.messages(2).pop()?;
        let is_there = |number| value.0.iter().any(|(known, _)| *known == number);
        match (is_there(1), is_there(4)) {
            (true, _) => Some(value.text(1)),
            (_, true) => Some(f64::from_bits(value.number(4)).to_string()),
            _ => Some(value.number(3).to_string()),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().expect("a byte");
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
        shift += 7;
    }
}

/// All spans of what the collector took.
fn spans(came: &[Post]) -> Vec<Fields> {
    let taken = came.iter().filter(|post| post.status == 200);
    let resources = taken.flat_map(|post| Fields::read(&post.body).messages(1));
    let scopes = resources.flat_map(|resource| resource.messages(2));
    scopes.flat_map(|scope| scope.messages(2)).collect()
}

fn nanos(time: &Value) -> u64 {
    let time: holdfast::views::Rfc3339 = serde_json::from_value(time.clone()).expect("a time");
    time.0.as_micros() * 1_000
}

#[test]
fn a_collector_is_told_each_call_once() {
    let collector = Receiver::start();
    let endpoint = format!("http://{}/v1/traces", collector.address);
    let mut server = Server::start_with(&[
        ("HOLDFAST_OTLP_ENDPOINT", &endpoint),
        ("HOLDFAST_OTLP_HEADERS", "x-key=secret 1,x-other=2"),
    ]);
    let crowd = Crowd::talking(&server, 2, 0);
    crowd.hang_up();
    let cdrs = server.cdrs(2);
    let told = |calls: usize| {
        eventually("the calls are told", SOON * 4, || {
            let spans = spans(&collector.came());
            let roots = spans.iter().filter(|span| span.text(5) == "call").count();
            (roots >= calls).then_some(spans)
        })
    };
    let spans_of = told(2);
    for cdr in &cdrs {
        let id = cdr["id"].as_str().expect("an id");
        let trace = id.parse::<holdfast::ids::CallId>().expect("an id").0.to_be_bytes();
        let of_call: Vec<&Fields> =
            spans_of.iter().filter(|span| span.all(1) == [trace.to_vec()]).collect();
        let mut names: Vec<String> = of_call.iter().map(|span| span.text(5)).collect();
        names.sort();
        assert_eq!(names, ["call", "leg callee", "leg caller", "talk"], "{cdr:#}");
        let span = |name: &str| {
            let found = of_call.iter().find(|span| span.text(5) == name);
            *found.unwrap_or_else(|| panic!("no {name}"))
        };
        let (root, talk) = (span("call"), span("talk"));
        assert_eq!(
            (root.number(7), root.number(8)),
            (nanos(&cdr["created_at"]), nanos(&cdr["ended_at"]))
        );
        assert_eq!(
            (talk.number(7), talk.number(8)),
            (nanos(&cdr["answered_at"]), nanos(&cdr["ended_at"]))
        );
        assert_eq!(root.all(4), Vec::<Vec<u8>>::new(), "it has no parent");
        for child in ["talk", "leg caller", "leg callee"] {
            assert_eq!(span(child).all(4), root.all(2), "{child}");
        }
        assert_eq!((root.number(6), span("leg callee").number(6)), (2, 3), "server, client");
        assert_eq!(root.attribute("call.id").as_deref(), Some(id));
        assert_eq!(root.attribute("call.disposition").as_deref(), Some("answered"));
        assert_eq!(root.attribute("sip.status").as_deref(), Some("200"));
        let codec = span("leg caller").attribute("media.codec");
        assert_eq!(codec.as_deref(), cdr["legs"][0]["codec"].as_str());
    }
    let posts = collector.came();
    assert!(posts.iter().all(|post| post.path == "/v1/traces"));
    assert!(posts.iter().all(|post| post.header("content-type") == "application/x-protobuf"));
    assert!(posts.iter().all(|post| post.header("x-key") == "secret 1"));
    // The collector is away, and then the switch: what was not taken is told afterwards, once.
    collector.behaves(|_| (503, Duration::ZERO));
    let crowd = Crowd::talking(&server, 1, 0);
    crowd.hang_up();
    server.cdrs(3);
    eventually("it was refused", SOON, || {
        collector.came().iter().any(|post| post.status == 503).then_some(())
    });
    server.signaling.kill();
    collector.behaves(|_| (200, Duration::ZERO));
    server.start_again();
    let all = told(3);
    let mut roots: Vec<Vec<u8>> =
        all.iter().filter(|span| span.text(5) == "call").flat_map(|span| span.all(1)).collect();
    assert_eq!(roots.len(), 3, "each once");
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 3, "and no other twice");
}

#[test]
fn what_a_collector_refuses_for_good_is_lost_and_holds_up_nothing() {
    let collector = Receiver::start();
    let endpoint = format!("http://{}/v1/traces", collector.address);
    let server = Server::start_with(&[("HOLDFAST_OTLP_ENDPOINT", &endpoint)]);
    collector.behaves(|_| (400, Duration::ZERO));
    let crowd = Crowd::talking(&server, 1, 0);
    crowd.hang_up();
    server.cdrs(1);
    let lost = "holdfast_queue_lost_total{queue=\"traces\"}";
    eventually("it is lost", SOON * 4, || {
        let (_, metrics) = server.request("GET", "/metrics", None)?;
        let metrics = metrics.as_str()?.to_owned();
        metrics.lines().any(|line| line == format!("{lost} 1")).then_some(())
    });
    collector.behaves(|_| (200, Duration::ZERO));
    let crowd = Crowd::talking(&server, 1, 0);
    crowd.hang_up();
    let told = eventually("the next one is told", SOON * 4, || {
        let spans = spans(&collector.came());
        (!spans.is_empty()).then_some(spans)
    });
    assert_eq!(told.iter().filter(|span| span.text(5) == "call").count(), 1);
    let refused = collector.came().iter().filter(|post| post.status == 400).count();
    assert_eq!(refused, 1, "it was not asked again");
}

/// Signaling and media are named, how it sounded is told, and so is what befell it.
#[test]
fn a_trace_tells_of_both_halves_and_of_what_befell_the_call() {
    let collector = Receiver::start();
    let endpoint: &'static str = format!("http://{}/v1/traces", collector.address).leak();
    let settings = [("HOLDFAST_OTLP_ENDPOINT", endpoint)];
    let mut switch = Switch::with_settings(ports::media_ports(), &settings);
    let coming = phone(switch.survivor(), "1003", "udp");
    let pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    eventually("each phone has a score", SOON * 2, || {
        let calls = switch.survivor().list("/calls");
        let legs = calls[0]["legs"].as_array()?;
        legs.iter().all(|leg| leg["streams"][0]["mos"].is_number()).then_some(())
    });
    let media = switch.survivor().list("/calls")[0]["media"]["node"].clone();
    let mut owner = switch.take_owner();
    let former = owner.node();
    owner.signaling.kill();
    pair.hear_each_other();
    is_transferred(switch.survivor(), pair, coming);
    let cdr = switch.survivor().cdrs(1).remove(0);
    let all = eventually("the call is told", SOON * 4, || {
        let spans = spans(&collector.came());
        spans.iter().any(|span| span.text(5) == "call").then_some(spans)
    });
    let root = all.iter().find(|span| span.text(5) == "call").expect("it is there");
    let owners = format!("{former} {}", switch.survivor().node());
    assert_eq!(root.attribute("call.owners"), Some(owners));
    assert_eq!(root.attribute("call.takeovers").as_deref(), Some("1"));
    assert_eq!(root.attribute("call.media_nodes").as_deref(), media.as_str());
    let told = root.messages(11);
    let [transfer] = &told[..] else { panic!("one event: {told:?}") };
    let at = nanos(&cdr["transfers"][0]["at"]);
    assert_eq!((transfer.text(2).as_str(), transfer.number(1)), ("transfer", at));
    let legs = all.iter().filter(|span| span.text(5).starts_with("leg "));
    let heard = legs.filter(|leg| leg.attribute("media.mos_mean").is_some());
    let heard: Vec<&Fields> = heard.collect();
    assert!(heard.len() >= 2, "{cdr:#}");
    for leg in heard {
        assert_eq!(leg.attribute("media.node").as_deref(), media.as_str());
        let score: f64 = leg.attribute("media.mos_mean").expect("known").parse().expect("a number");
        assert!((3.5..5.0).contains(&score), "{score}");
    }
}

/// The callee's place is another's, who hangs up.
fn is_transferred(server: &Server, pair: Pair, mut coming: Phone) {
    let Pair { mut caller, mut callee } = pair;
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let wish = json!({"leg": "callee", "to": "1003"});
    let (status, told) = server.api("POST", &format!("/calls/{call}/transfer"), Some(&wish));
    assert_eq!(status, 202, "{told}");
    let invite = coming.request_of(&Method::Invite);
    let mut coming = Side::taking(coming, &invite, 700);
    let bye = callee.phone.request_of(&Method::Bye);
    callee.phone.respond(&bye, 200, "unused", None);
    coming.hangs_up_on(&mut caller);
}
