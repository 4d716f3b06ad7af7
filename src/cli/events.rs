//! `holdfast events`: what happens, as it happens, a line an event.
#![allow(clippy::print_stdout, reason = "this is the command line")]

use super::Json;
use super::client::{Client, Failure};
use core::time::Duration;
use serde_json::Value;
use std::io::{BufRead, Write};

/// Before the node is asked again after the stream broke.
const PAUSE: Duration = Duration::from_millis(500);

/// Until it is interrupted. A stream that breaks is taken up again where it broke.
pub(super) fn follow(client: &Client, query: &str, json: Json) -> Result<(), Failure> {
    let mut last: Option<String> = None;
    let mut out = std::io::stdout();
    loop {
        let stream = client.stream(&format!("/events{query}"), last.as_deref())?;
        for line in stream.lines() {
            // It broke: the node ends, or another takes its place.
            let Ok(line) = line else { break };
            if let Some(id) = line.strip_prefix("id: ") {
                last = Some(id.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let shown = match json.json {
                    true => Some(data.to_owned()),
                    false => serde_json::from_str(data).ok().and_then(|event| sentence(&event)),
                };
                // Nobody reads any more: `holdfast events | head`.
                if let Some(line) = shown
                    && writeln!(out, "{line}").is_err()
                {
                    return Ok(());
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// For people; nothing of the calls that are there at the beginning.
fn sentence(event: &Value) -> Option<String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = text("type");
    if kind == "snapshot" {
        return None;
    }
    if kind == "gap" {
        return Some("(some events are lost)".to_owned());
    }
    let parties = match text("caller") {
        "" => String::new(),
        caller => format!("{caller} > {}  ", text("callee")),
    };
    let known = ["at", "type", "node", "id", "call_id", "caller", "callee"];
    let fields = event.as_object()?.iter().filter(|(name, _)| !known.contains(&name.as_str()));
    let fields = fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={value}")
    });
    let rest = fields.chain([text("call_id").to_owned()]).filter(|part| !part.is_empty());
    let rest = rest.collect::<Vec<_>>().join(" ");
    Some(format!("{}  {:<12} {kind:<20} {parties}{rest}", text("at"), text("node")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_line() {
        let event = json!({"at": "2026-01-31T12:00:00.000Z", "node": "host-1", "id": 7,
            "type": "call.answered", "call_id": "c1", "caller": "1001", "callee": "1002",
            "answered_by": "1002", "setup_ms": 12});
        let expect = "2026-01-31T12:00:00.000Z  host-1       call.answered        \
            1001 > 1002  answered_by=1002 setup_ms=12 c1";
        assert_eq!(sentence(&event).as_deref(), Some(expect));
        assert_eq!(sentence(&json!({"type": "snapshot"})), None);
    }
}
