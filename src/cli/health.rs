//! `holdfast health`: how each process of this container, or of this machine, is by its own word.
//!
//! Invariant: what shares a port may answer for another, and a process that stands still answers nobody; so each is
//! asked by the unix socket that is its own.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]

use super::client::{Client, Failure, TRY_AGAIN, UNREACHABLE};
use super::table::fields;
use super::{Connection, Json, Known};
use core::time::Duration;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Less than what the image's health check waits for the command.
const PATIENCE: Duration = Duration::from_secs(4);
/// Of an answer.
const MOST_BYTES: u64 = 64 * 1024;

/// Of every process here; the worst decides.
pub(super) fn health(connection: &Connection, known: &Known, json: Json) -> u8 {
    let named = connection.url.is_some() || known.url.is_some() || known.health.is_empty();
    let answers: Vec<_> = if named {
        vec![Client::new(connection, known).health()]
    } else {
        known.health.iter().map(|(socket, url)| own_word(socket.as_deref(), url)).collect()
    };
    let mut worst = 0;
    for answer in answers {
        match answer {
            Ok((document, is_ready)) => {
                let text = if json.json { document.to_string() } else { fields(&document) };
                println!("{text}");
                worst = worst.max(if is_ready { 0 } else { TRY_AGAIN });
            }
            Err(failure) => {
                eprintln!("{}", failure.text);
                worst = if worst == TRY_AGAIN { worst } else { failure.exit };
            }
        }
    }
    worst
}

fn own_word(socket: Option<&Path>, url: &str) -> Result<(Value, bool), Failure> {
    let Some(socket) = socket else { return Client::at(url, None).health() };
    ask(socket).map_err(|error| {
        let text = format!("{} cannot be reached: {error}", socket.display());
        Failure::new(text, UNREACHABLE)
    })
}

/// `GET /health` (RFC 9112): the document, and whether the status is a good one.
fn ask(socket: &Path) -> io::Result<(Value, bool)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: holdfast\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    let malformed = || io::Error::other("that is no answer of Holdfast");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).ok_or_else(malformed)?;
    let document = serde_json::from_str(body).map_err(|_| malformed())?;
    Ok((document, status == "200"))
}
