//! Somebody who reads the stream of events, and comes back with the last id when the connection breaks.

use super::SOON;
use super::api::Api;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What came, in order; the documents of `data`.
pub(crate) struct Watching {
    came: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    connection: Arc<Mutex<Option<TcpStream>>>,
    /// Of nodes: when one is gone the next is asked.
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.cut();
    }
}

impl Watching {
    /// From now on; the snapshot is there when this returns, unless the query leaves it out.
    pub(crate) fn start(api: &Api, query: &str) -> Self {
        Self::at(api.admin, &api.token, query)
    }

    /// The same at an address.
    pub(crate) fn at(address: SocketAddr, token: &str, query: &str) -> Self {
        let watching = Self {
            came: Arc::default(),
            stop: Arc::default(),
            connection: Arc::default(),
            addresses: Arc::new(Mutex::new(vec![address])),
        };
        let Self { came, stop, connection, addresses } = &watching;
        let (came, stop) = (Arc::clone(came), Arc::clone(stop));
        let (connection, addresses) = (Arc::clone(connection), Arc::clone(addresses));
        let (token, path) = (token.to_owned(), format!("/api/v1/events?{query}"));
        thread::spawn(move || {
            let mut last = None;
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let known = addresses.lock().expect("no panic").clone();
                if let Ok(stream) = TcpStream::connect(known[turn % known.len()]) {
                    *connection.lock().expect("no panic") = stream.try_clone().ok();
                    let _ = read(stream, &token, &path, &mut last, &came, &stop);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let is_replay = query.contains("last_event_id") || query.contains("snapshot=false");
        if !is_replay {
            watching.wait("the snapshot", |came| {
                came.iter().any(|event| event["last"] == true).then_some(())
            });
        }
        watching
    }

    /// The same stream is at this node too, for when another is gone.
    pub(crate) fn also_at(&self, api: &Api) {
        self.addresses.lock().expect("no panic").push(api.admin);
    }

    /// Its connection breaks.
    pub(crate) fn cut(&self) {
        if let Some(connection) = &*self.connection.lock().expect("no panic") {
            // It may be broken already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// All that came.
    pub(crate) fn came(&self) -> Vec<Value> {
        self.came.lock().expect("no panic").clone()
    }

    /// Until the probe finds it among what came.
    pub(crate) fn wait<T>(&self, what: &str, probe: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let came = self.came();
            if let Some(found) = probe(&came) {
                return found;
            }
            assert!(std::time::Instant::now() < deadline, "no {what} in {came:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for so many of a type and gives all events.
    pub(crate) fn until(&self, kind: &str, count: usize) -> Vec<Value> {
        self.wait(&format!("{count} of {kind}"), |came| {
            let found = came.iter().filter(|event| event["type"] == kind).count();
            (found >= count).then(|| came.to_vec())
        })
    }
}

/// One connection, until it breaks.
fn read(
    mut stream: TcpStream,
    token: &str,
    path: &str,
    last: &mut Option<String>,
    came: &Mutex<Vec<Value>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let seen = last.as_ref().map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{seen}\r\n"
    )?;
    let (mut id, mut event) = (None, None);
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Pieces of the chunked coding stand in lines of their own.
        if let Some(text) = line.strip_prefix("id: ") {
            id = Some(text.to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            event = Some(serde_json::from_str(data).map_err(std::io::Error::other)?);
        } else if line.is_empty()
            && let Some(event) = event.take()
        {
            // One that broke off has not come.
            came.lock().map_err(|_| std::io::ErrorKind::Other)?.push(event);
            *last = id.take().or(last.take());
        }
    }
    Ok(())
}

/// Ids of events of these types rise; and each is there once.
pub(crate) fn check_order(came: &[Value]) {
    let ids: Vec<u64> = came
        .iter()
        .filter(|event| event["type"] != "snapshot")
        .map(|event| event["id"].as_u64().unwrap_or_else(|| panic!("no id: {event}")))
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise: {ids:?}");
}

/// The types of a call's events, in order.
pub(crate) fn story_of(came: &[Value], call: &Value) -> Vec<String> {
    let of_call = came.iter().filter(|event| event["call_id"] == *call);
    of_call.map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
}

/// Ids of calls, as `/calls` has them and snapshots too.
pub(crate) fn ids(calls: &[Value]) -> BTreeSet<String> {
    calls.iter().map(|call| call["id"].as_str().expect("an id").to_owned()).collect()
}

/// Calls that live for who read this: those of the last snapshot, then as events tell. Whatever is told of a call that
/// is not known, but for its end, is told of one that lives.
pub(crate) fn live_of(came: &[Value]) -> BTreeSet<String> {
    let (mut live, mut shown) = (BTreeSet::new(), BTreeSet::new());
    for event in came {
        match (event["type"].as_str().expect("a type"), event["call_id"].as_str()) {
            ("gap", _) => shown.clear(),
            ("snapshot", _) => {
                shown.extend(ids(event["calls"].as_array().expect("calls")));
                if event["last"] == true {
                    live = std::mem::take(&mut shown);
                }
            }
            ("call.ended", Some(call)) => _ = live.remove(call),
            (_, Some(call)) => _ = live.insert(call.to_owned()),
            (_, None) => {}
        }
    }
    live
}

/// None of these ended twice, and each that was told of has ended.
pub(crate) fn check_ends(came: &[Value]) {
    let ends = came.iter().filter(|event| event["type"] == "call.ended");
    let mut ended = BTreeSet::new();
    for end in ends {
        let call = end["call_id"].as_str().expect("a call");
        assert!(ended.insert(call), "it ended twice: {end}");
    }
    let told: BTreeSet<&str> = came.iter().filter_map(|event| event["call_id"].as_str()).collect();
    assert_eq!(told, ended);
    assert_eq!(live_of(came), BTreeSet::new());
}
