//! `holdfast reload`: every process of this container, or of this machine, reads its settings again.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]

use super::client::{Client, Failure, UNREACHABLE};
use super::table::{Column, table};
use super::{Json, Known};
use serde_json::{Value, json};

const CHANGES: &[Column] = &[
    ("NODE", "/node"),
    ("SETTING", "/key"),
    ("WAS", "/before"),
    ("IS", "/after"),
    ("TAKES EFFECT", "/effect"),
];

/// Each is asked, though another refuses; the first refusal decides.
pub(super) fn reload(known: &Known, check: bool, json: Json) -> Result<(), Failure> {
    let mut sockets = known.health.iter().filter_map(|(socket, _)| socket.as_deref()).peekable();
    if sockets.peek().is_none() {
        let text = "no process of this data directory runs here".to_owned();
        return Err(Failure::new(text, UNREACHABLE));
    }
    let path = if check { "/reload?check=true" } else { "/reload" };
    let (mut changes, mut failed) = (Vec::new(), None);
    for socket in sockets {
        let asked = match Client::local(socket) {
            Some(client) => client.post(path, &json!({})),
            None => {
                let text = format!("{} cannot be reached", socket.display());
                Err(Failure::new(text, UNREACHABLE))
            }
        };
        match asked {
            Ok(mut told) => changes.extend(told["items"].as_array_mut().map(core::mem::take)),
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    let changes: Vec<Value> = changes.into_iter().flatten().collect();
    match json.json {
        true => println!("{}", json!({ "items": changes })),
        false if changes.is_empty() && failed.is_none() => println!("nothing has changed"),
        false if changes.is_empty() => {}
        false => println!("{}", table(&changes, CHANGES)),
    }
    failed.map_or(Ok(()), Err)
}
