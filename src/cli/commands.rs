//! Each command: what it asks, and what it prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]

use super::call;
use super::cdrs;
use super::client::{Client, Failure, escape};
use super::events;
use super::health;
use super::quality;
use super::reload::reload;
use super::table::{Column, fields, table};
use super::tokens;
use super::trace;
use super::users;
use super::watch::{self, Whose};
use super::webhooks;
use super::{
    Command, ConfigCommand, Connection, Json, Known, RouteCommand, TokensCommand, UsersCommand,
    WebhooksCommand,
};
use serde_json::{Value, json};

const REGISTRATIONS: &[Column] = &[
    ("ID", "/id"),
    ("EXTENSION", "/extension"),
    ("SOURCE", "/source"),
    ("VIA", "/transport"),
    ("FLOW", "/flow"),
    ("EXPIRES_MS", "/expires_in_ms"),
    ("RTT_MS", "/ping_rtt_ms"),
    ("PHONE", "/user_agent"),
];
pub(super) const CALLS: &[Column] = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("CALLER", "/caller/extension"),
    ("CALLEE", "/callee/extension"),
    ("DURATION_MS", "/duration_ms"),
    ("HOLD", "/hold"),
    ("OWNER", "/owner"),
    ("MEDIA", "/media/node"),
    ("FLAGS", "/flags"),
];
const NODES: &[Column] = &[
    ("NAME", "/name"),
    ("MODE", "/mode"),
    ("STATE", "/state"),
    ("VERSION", "/version"),
    ("CALLS", "/calls"),
    ("SESSIONS", "/sessions"),
    ("CONTROL", "/control"),
];
/// The most that a node gives at a time.
const PAGE: usize = 1_000;

/// Runs a command that talks to a node; the exit code.
pub fn run(connection: &Connection, known: &Known, command: Command) -> u8 {
    let done = match command {
        Command::Health { json } => return health::health(connection, known, json),
        Command::Reload { check, json } => reload(known, check, json),
        Command::Config(ConfigCommand::Credentials { json }) => credentials(known, json),
        command => ask(&Client::new(connection, known), command),
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.text);
            failure.exit
        }
    }
}

fn ask(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Users { command, json } => {
            users::run(client, command.unwrap_or(UsersCommand::List), json)
        }
        command @ (Command::Registrations { .. }
        | Command::Calls { .. }
        | Command::Call { .. }
        | Command::Hangup { .. }
        | Command::Trace { .. }
        | Command::Quality { .. }
        | Command::Route { .. }) => ask_of_phones(client, command),
        Command::Tokens { command, json } => {
            tokens::run(client, command.unwrap_or(TokensCommand::List), json)
        }
        Command::Audit { limit, json } => {
            let page = client.get(&format!("/audit?limit={limit}"))?;
            match (json.json, page.get("items").and_then(Value::as_array)) {
                (false, Some(items)) => println!("{}", table(items, tokens::AUDIT)),
                _ => print_json(&page),
            }
            Ok(())
        }
        Command::Pcap { id, output, .. } => trace::capture(client, &id, output.as_deref()),
        Command::Nodes { name: None, json } => list(client, "/nodes", &[], NODES, json),
        Command::Nodes { name: Some(name), json } => {
            show(&client.get(&format!("/nodes/{}", escape(&name)))?, json)
        }
        Command::Drain { name, end_calls, undo, wait, json } => {
            let act = if undo { "undrain" } else { "drain" };
            let path = format!("/nodes/{}/{act}", escape(&name));
            let done = client.post(&path, &json!({"end_calls": end_calls}))?;
            print_done(&done, json, if undo { "takes calls again" } else { "draining" });
            if wait { watch::drain(client, &name) } else { Ok(()) }
        }
        Command::Cdrs(wanted) => cdrs::run(client, wanted),
        Command::Events { types, call, extension, after, json } => {
            let after = after.map(|id| id.to_string());
            let query = [
                ("types", types),
                ("call_id", call),
                ("extension", extension),
                ("last_event_id", after),
            ];
            events::follow(client, &query_text(&query), json)
        }
        Command::Webhooks { command, json } => {
            webhooks::run(client, command.unwrap_or(WebhooksCommand::List), json)
        }
        Command::Serve(_)
        | Command::Completions { .. }
        | Command::Health { .. }
        | Command::Reload { .. }
        | Command::Doctor { .. }
        | Command::Backup { .. }
        | Command::Restore { .. }
        | Command::Config(_) => Err(Failure::usage("that command asks no node")),
    }
}

/// What phones do: registrations and calls.
fn ask_of_phones(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Registrations { remove: Some(id), json, .. } => {
            let done = client.delete(&format!("/registrations/{}", escape(&id)))?;
            print_done(&done, json, "removed");
            Ok(())
        }
        Command::Registrations { check_sync: Some(id), json, .. } => {
            let path = format!("/registrations/{}/check-sync", escape(&id));
            show(&client.post(&path, &json!({}))?, json)
        }
        Command::Registrations { extension, json, .. } => {
            list(client, "/registrations", &[("extension", extension)], REGISTRATIONS, json)
        }
        Command::Calls { state, extension, owner, media_node, flag, watch, json } => {
            let query = [
                ("state", state),
                ("extension", extension),
                ("owner", owner),
                ("media_node", media_node),
                ("flag", flag),
            ];
            match watch {
                true => watch::calls(client, &query, json),
                false => list(client, "/calls", &query, CALLS, json),
            }
        }
        Command::Call { id, command, json } => call::run(client, id.as_deref(), command, json),
        Command::Hangup { id, reason, json } => {
            let path = format!("/calls/{}{}", escape(&id), query_text(&[("reason", reason)]));
            print_done(&client.delete(&path)?, json, "hanging up");
            Ok(())
        }
        Command::Trace { id: Some(id), full, json, .. } => show_ladder(client, &id, full, json),
        Command::Trace { id: None, call, user, ip, full, json } => {
            let whose = call.map(Whose::Call).or(user.map(Whose::User)).or(ip.map(Whose::Address));
            let whose = whose.ok_or_else(|| Failure::usage("whose? see holdfast trace --help"))?;
            watch::ladders(client, &whose, full, json)
        }
        Command::Quality { id, json } => quality::run(client, &id, json),
        Command::Route { command: RouteCommand::Test { to }, json } => {
            show(&client.get(&format!("/route?to={}", escape(&to)))?, json)
        }
        _ => Err(Failure::usage("that is about no phone")),
    }
}

fn show_ladder(client: &Client, id: &str, full: bool, json: Json) -> Result<(), Failure> {
    let ladder = client.get(&format!("/calls/{}/ladder", escape(id)))?;
    match json.json {
        true => print_json(&ladder),
        false => print!("{}", trace::ladder(&ladder, full)),
    }
    Ok(())
}

/// A whole list.
pub(super) fn list(
    client: &Client,
    path: &str,
    query: &[(&str, Option<String>)],
    columns: &[Column],
    json: Json,
) -> Result<(), Failure> {
    print_list(&items(client, path, query)?, columns, json);
    Ok(())
}

pub(super) fn print_list(items: &[Value], columns: &[Column], json: Json) {
    if json.json {
        print_json(&json!({"items": items, "next_cursor": null}));
    } else {
        println!("{}", table(items, columns));
    }
}

/// All of a list.
pub(super) fn items(
    client: &Client,
    path: &str,
    query: &[(&str, Option<String>)],
) -> Result<Vec<Value>, Failure> {
    first_items(client, path, query, None)
}

/// The first so many of a list, or all, by its cursors.
pub(super) fn first_items(
    client: &Client,
    path: &str,
    query: &[(&str, Option<String>)],
    most: Option<u32>,
) -> Result<Vec<Value>, Failure> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    loop {
        let mut query = query.to_vec();
        query.push(("limit", Some((most - items.len()).min(PAGE).to_string())));
        query.push(("cursor", cursor.take()));
        let mut page = client.get(&format!("{path}{}", query_text(&query)))?;
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() || items.len() >= most {
            return Ok(items);
        }
    }
}

fn query_text(query: &[(&str, Option<String>)]) -> String {
    let given = query.iter().filter_map(|(key, value)| {
        let value = value.as_ref()?;
        Some(format!("{key}={}", escape(value)))
    });
    let text = given.collect::<Vec<_>>().join("&");
    if text.is_empty() { text } else { format!("?{text}") }
}

pub(super) fn show(value: &Value, json: Json) -> Result<(), Failure> {
    if json.json {
        print_json(value);
    } else {
        println!("{}", fields(value));
    }
    Ok(())
}

pub(super) fn print_done(value: &Value, json: Json, text: &str) {
    if json.json {
        print_json(value);
    } else {
        println!("{text}");
    }
}

pub(super) fn print_json(value: &Value) {
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

fn credentials(known: &Known, json: Json) -> Result<(), Failure> {
    let none = "no credentials.json in the data directory: no signaling process has started here";
    let credentials = known.credentials.as_ref().ok_or_else(|| Failure::usage(none))?;
    show(credentials, json)
}
