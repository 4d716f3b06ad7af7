//! What an operator waits for a page of the list of many live calls: over HTTP, at a signaling node that has half of
//! them and asks another for the rest.
//!
//! Invariant: the time ends when the last byte was read; an answer counts when it holds what was asked for, as many as
//! there are.

use super::clock::{self, Nanos};
use super::cluster::{Cluster, Plan};
use super::options::Options;
use super::phones::Phones;
use super::world::World;
use serde_json::Value;
use std::thread;
use std::time::Duration;

const CALLS: usize = 20_000;
/// Callers and callees have many calls each.
const USERS: usize = 2_000;
const REGISTRATIONS_A_SECOND: u32 = 1_000;
const CALLS_A_SECOND: u32 = 200;
/// A media process: four descriptors each, of 20,000 that a process may have on many systems.
const CALLS_A_MEDIA_PROCESS: usize = 4_500;
/// Times that each question is asked, at the nodes in turn.
const TIMES: usize = 40;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the calls, and asks for them.
pub(crate) fn lists(options: &Options, world: &World) {
    world.make_room();
    let calls = options.calls(CALLS);
    let media = calls.div_ceil(CALLS_A_MEDIA_PROCESS).max(2);
    let plan = Plan { signaling: 2, media, users: USERS, calls, apart: false };
    let cluster = Cluster::start(world, &plan);
    let mut phones = Phones::new(cluster.sip, USERS);
    phones.register_all(REGISTRATIONS_A_SECOND);
    let established = phones.establish(calls, options.rate(CALLS_A_SECOND));
    assert_eq!(established, calls, "calls that are established");
    let nodes = [0, 1].map(|number| cluster.node(number).expect("a node that answers"));
    let names = nodes.each_ref().map(|(name, _)| name.clone());
    let owned = nodes.map(|(_, node)| usize::try_from(node["calls"].as_u64().unwrap_or(0)));
    let owned = owned.map(|count| count.expect("a number"));
    assert_eq!(owned[0] + owned[1], calls, "every call has its owner");
    println!("\n**lists** of {calls} live calls, {} and {} of two nodes\n", owned[0], owned[1]);
    println!("| question | items | ms p50 | ms p99 | most |");
    println!("|---|---|---|---|---|");
    // A user of many is in as many calls as the others.
    let of_a_user = calls / (USERS / 2);
    let all = |limit: usize| calls.min(limit);
    for (question, items) in [
        ("limit=100".to_owned(), all(100)),
        ("limit=1000".to_owned(), all(1_000)),
        ("limit=1000&state=confirmed".to_owned(), all(1_000)),
        ("limit=1000&state=early".to_owned(), 0),
        ("extension=u0".to_owned(), of_a_user),
        ("extension=nobody".to_owned(), 0),
        (format!("limit=1000&owner={}", names[1]), owned[1].min(1_000)),
        ("owner=nobody".to_owned(), 0),
        ("media_node=nobody".to_owned(), 0),
        ("flag=one_way_audio".to_owned(), 0),
    ] {
        ask(&cluster, &question, items);
    }
    walk(&cluster, calls);
    phones.hang_up(options.rate(CALLS_A_SECOND));
}

/// One question, often.
fn ask(cluster: &Cluster, question: &str, items: usize) {
    let mut times = Vec::with_capacity(TIMES);
    for time in 0..TIMES {
        let begun = clock::now();
        let page = cluster.page(time % 2, &format!("/calls?{question}"));
        times.push(clock::now() - begun);
        let page = read(&page);
        let found = page["items"].as_array().map(Vec::len);
        assert_eq!(found, Some(items), "{question}");
        thread::sleep(PAUSE);
    }
    tell(question, items, times);
}

/// All of them, page by page: each call is there once.
fn walk(cluster: &Cluster, calls: usize) {
    let (mut times, mut ids, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let begun = clock::now();
        let page = cluster.page(0, &format!("/calls?limit=1000{cursor}"));
        times.push(clock::now() - begun);
        let page = read(&page);
        let items = page["items"].as_array().expect("a page");
        ids.extend(items.iter().filter_map(|call| call["id"].as_str().map(str::to_owned)));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.dedup();
    assert!(ids.is_sorted() && ids.len() == calls, "each once, in order: {}", ids.len());
    tell("limit=1000, all pages by cursor", calls, times);
}

fn read(page: &str) -> Value {
    serde_json::from_str(page).expect("JSON")
}

fn tell(question: &str, items: usize, mut times: Vec<Nanos>) {
    times.sort_unstable();
    let ms = |at: usize| times[at.min(times.len() - 1)] as f64 / 1e6;
    let (middle, late, most) =
        (ms(times.len() / 2), ms(times.len() * 99 / 100), ms(times.len() - 1));
    println!("| {question} | {items} | {middle:.1} | {late:.1} | {most:.1} |");
}
