//! What changes while one looks: `holdfast calls --watch`, `drain --wait`, and `holdfast trace` of calls that live.
//!
//! Invariants: it ends when nobody reads any more, or with the call that it was asked for; a node that does not answer
//! for a while is asked again.

use super::Json;
use super::client::{Client, FAILED, Failure, TRY_AGAIN, UNREACHABLE, escape};
use super::commands::{CALLS, items};
use super::table::{Column, table};
use super::trace::{Rungs, head};
use core::time::Duration;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};

/// Between two looks.
const PACE: Duration = Duration::from_millis(500);
/// Looks that may fail, one after another.
const PATIENCE: u32 = 60;

/// Whose calls are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// One call, to its end.
    Call(String),
    /// Of this user.
    User(String),
    /// Of phones at this address.
    Address(String),
}

/// Live calls, anew whenever they change: on a terminal in place, else one table (or document) below another; that time
/// passes is no change there.
pub(super) fn calls(
    client: &Client,
    query: &[(&str, Option<String>)],
    json: Json,
) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let in_place = out.is_terminal() && !json.json;
    let clear = if in_place { "\u{1b}[2J\u{1b}[H" } else { "" };
    let lasting: Vec<Column> =
        CALLS.iter().filter(|(_, at)| in_place || *at != "/duration_ms").copied().collect();
    let mut shown = None;
    look(|| {
        let items = items(client, "/calls", query)?;
        let text = match json.json {
            true => serde_json::to_string(&items).unwrap_or_default(),
            false => format!("{clear}{}\n{}", count(items.len()), table(&items, CALLS)),
        };
        let stamp = match json.json {
            true => serde_json::to_string(&lasting_of(&items)).unwrap_or_default(),
            false => table(&items, &lasting),
        };
        if shown.as_ref() == Some(&stamp) {
            return Ok(true);
        }
        shown = Some(stamp);
        Ok(writeln!(out, "{text}").and_then(|()| out.flush()).is_ok())
    })
}

/// Without what only grows as time passes.
fn lasting_of(calls: &[Value]) -> Vec<Value> {
    let mut calls = calls.to_vec();
    for call in calls.iter_mut().filter_map(Value::as_object_mut) {
        call.remove("duration_ms");
        let legs = call.get_mut("legs").and_then(Value::as_array_mut);
        for leg in legs.into_iter().flatten().filter_map(Value::as_object_mut) {
            leg.remove("streams");
        }
    }
    calls
}

fn count(calls: usize) -> String {
    format!("{calls} call{}", if calls == 1 { "" } else { "s" })
}

/// What a node that drains still has, told on the error output as it shrinks to nothing.
pub(super) fn drain(client: &Client, name: &str) -> Result<(), Failure> {
    let mut told = String::new();
    let mut looks = 0;
    look(|| {
        let node = client.get(&format!("/nodes/{}", escape(name)))?;
        if node["drain"].is_null() {
            // The order is on its way to it, or the answer; who is gone has nothing.
            looks += 1;
            return match (node["state"] == "down", told.is_empty()) {
                (true, true) => Err(Failure::new(format!("{name} is down"), FAILED)),
                (true, false) => Ok(false),
                (false, true) if looks < PATIENCE => Ok(true),
                (false, true) => {
                    Err(Failure::new(format!("{name} does not say that it drains"), FAILED))
                }
                (false, false) => Err(Failure::new(format!("{name} was taken back"), FAILED)),
            };
        }
        let left = ["calls", "sessions", "flows"].map(|what| {
            (what, node["drain"][format!("remaining_{what}")].as_u64().unwrap_or_default())
        });
        let text = left.map(|(what, count)| format!("{count} {what}")).join(", ");
        if text != told {
            eprintln!("{name} still has {text}");
            told = text;
        }
        Ok(left.iter().any(|(_, count)| *count > 0))
    })
}

/// The ladders of calls as they grow; or a document a line, for each message, mark and flag.
pub(super) fn ladders(
    client: &Client,
    whose: &Whose,
    full: bool,
    json: Json,
) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    // Nobody reads any more: `holdfast trace | head`.
    if !json.json && write!(out, "{}", head()).is_err() {
        return Ok(());
    }
    let mut followed: BTreeMap<String, Rungs> = BTreeMap::new();
    let mut is_known = false;
    look(|| {
        let live = live_calls(client, whose)?;
        let is_one = matches!(whose, Whose::Call(_));
        if let Whose::Call(call) = whose
            && !is_known
        {
            // Of a call that is over all is said that is kept of it.
            followed.entry(call.clone()).or_default();
        }
        for id in &live {
            followed.entry(id.clone()).or_default();
        }
        let mut over = Vec::new();
        for (id, rungs) in &mut followed {
            let text = match client.get(&format!("/calls/{}/ladder", escape(id))) {
                Ok(ladder) if json.json => rungs.documents(&ladder, id),
                Ok(ladder) => rungs.more(&ladder, full, if is_one { None } else { Some(id) }),
                // Nothing is kept of it yet; or there is no such call.
                Err(failure) if failure.is_not_found() && (live.contains(id) || is_known) => {
                    String::new()
                }
                Err(failure) => return Err(failure),
            };
            is_known = true;
            if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
                return Ok(false);
            }
            // Its last words came after it left the list.
            if !live.contains(id) && text.is_empty() {
                over.push(id.clone());
            }
        }
        for id in over {
            followed.remove(&id);
        }
        Ok(!(is_one && followed.is_empty()))
    })
}

/// Ids of the calls that are up and are meant.
fn live_calls(client: &Client, whose: &Whose) -> Result<Vec<String>, Failure> {
    let id = |call: &Value| call.get("id").and_then(Value::as_str).map(str::to_owned);
    let found = match whose {
        Whose::Call(call) => match client.get(&format!("/calls/{}", escape(call))) {
            Ok(view) => vec![view],
            Err(failure) if failure.is_not_found() => Vec::new(),
            Err(failure) => return Err(failure),
        },
        Whose::User(user) => items(client, "/calls", &[("extension", Some(user.clone()))])?,
        Whose::Address(address) => {
            let mut all = items(client, "/calls", &[])?;
            all.retain(|call| is_at(call, address));
            all
        }
    };
    Ok(found.iter().filter_map(id).collect())
}

/// One of its phones is there: the address is given with or without the port.
fn is_at(call: &Value, address: &str) -> bool {
    let legs = call.get("legs").and_then(Value::as_array).into_iter().flatten();
    let mut remotes = legs.filter_map(|leg| leg.get("remote").and_then(Value::as_str));
    remotes.any(|remote| {
        let ip = remote.rsplit_once(':').map_or(remote, |(ip, _)| ip);
        remote == address || ip.trim_matches(['[', ']']) == address
    })
}

/// Again and again, until it says false.
fn look(mut once: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut failed = 0;
    loop {
        match once() {
            Ok(true) => failed = 0,
            Ok(false) => return Ok(()),
            Err(failure)
                if failed < PATIENCE && [TRY_AGAIN, UNREACHABLE].contains(&failure.exit) =>
            {
                failed += 1;
            }
            Err(failure) => return Err(failure),
        }
        std::thread::sleep(PACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_phone_is_found_by_its_address() {
        let call =
            json!({"legs": [{"remote": "192.0.2.7:5060"}, {"remote": "[2001:db8::1]:5062"}]});
        for (address, expect) in [
            ("192.0.2.7", true),
            ("192.0.2.7:5060", true),
            ("192.0.2.7:5061", false),
            ("192.0.2", false),
            ("2001:db8::1", true),
            ("[2001:db8::1]:5062", true),
        ] {
            assert_eq!(is_at(&call, address), expect, "{address}");
        }
    }

    #[test]
    fn a_node_that_is_away_is_asked_again_but_not_for_ever() {
        let away = |exit| Failure::new(String::new(), exit);
        let mut answers = vec![Ok(false), Ok(true), Err(away(UNREACHABLE)), Ok(true)];
        assert_eq!(look(|| answers.pop().expect("asked no more")), Ok(()));
        assert_eq!(look(|| Err(away(64))), Err(away(64)), "wrong use stays wrong");
    }
}
