//! What a call costs with everything on that watches calls, next to all of it off: ladders, a collector of HEP and one of
//! traces, a webhook, a reader of the stream of events, figures scraped each five seconds. Who reads all that is here, on
//! the generator's core.
//!
//! Twice: many short calls without sound, where all of a call is signaling, and fewer long ones that talk, whose sound is
//! judged and whose RTCP is captured. There the packets are most of what a call costs, in both, which makes the ratio
//! small whatever watching costs: the difference is told beside it.
//!
//! What no setting turns off is on in both: events are written, sound is judged.

use super::holdfast::{Holdfast, Keeps, Runs, Settings, TOKEN, get};
use super::options::Options;
use super::phones::{Kind, Phones, Plan};
use super::report::Case;
use super::signaling::measured;
use super::talk::Talk;
use super::usage::Meter;
use super::world::World;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const CALLS_A_SECOND: u32 = 400;
/// Of calls that talk: as many at a time as of the others.
const TALKS_A_SECOND: u32 = 40;
/// Reports of RTCP come each five seconds.
const TALK: Duration = Duration::from_secs(12);
/// Between two packets of a phone that talks: a tenth of what phones send.
const PACKETS: Duration = Duration::from_millis(200);
/// Three times as often as is usual, so that a window has some.
const SCRAPE: Duration = Duration::from_secs(5);
/// A billing system is told of ends; who wants to follow calls reads the stream.
const WEBHOOK: &str = r#""types":["call.ended"],"description":"bench""#;

pub(crate) fn observed(options: &Options, world: &World) {
    let users = options.users();
    let off = Settings { signaling: &[("HOLDFAST_LADDER_BYTES", "0")], ..Settings::default() };
    let plain = Holdfast::start_as(world, Runs::Plainly, Keeps::Beside, users, &off);
    let watchers = Watchers::start();
    let (hep, otlp) =
        (format!("tcp:{}", watchers.hep), format!("http://{}/v1/traces", watchers.http));
    let hep = ("HOLDFAST_HEP_TARGET", hep.as_str());
    let on =
        Settings { signaling: &[hep, ("HOLDFAST_OTLP_ENDPOINT", otlp.as_str())], media: &[hep] };
    let watched = Holdfast::start_as(world, Runs::Plainly, Keeps::Postgres, users, &on);
    watched.post("/webhooks", &format!("{{\"url\":\"http://{}/in\",{WEBHOOK}}}", watchers.http));
    watchers.watch(&watched);
    let mut phones = [Phones::new(plain.sip, users), Phones::new(watched.sip, users)];
    let meters = [&plain.meter, &watched.meter];
    let kind = Kind::Call;
    let (rate, window) = (options.rate(CALLS_A_SECOND), options.window());
    let name = format!("observed, {rate}/s");
    if options.wants(&name, true) {
        let plan = Plan { kind, rate, warmup: options.warmup(), window, hold: options.hold() };
        pairs(options, name, &plan, &mut phones, meters);
    }
    let rate = options.rate(TALKS_A_SECOND);
    let (wait, hold) = if options.is_quick() { (1, 1) } else { (2, TALK.as_secs()) };
    let packets = hold * 2 * 1_000 / PACKETS.as_millis() as u64;
    let name = format!("observed talking, {rate}/s, {packets} packets a call");
    if options.wants(&name, true) {
        let (warmup, hold) = (Duration::from_secs(hold + wait), Duration::from_secs(hold));
        phones.iter_mut().for_each(|phones| phones.let_talk(Talk::new(PACKETS)));
        let plan = Plan { kind, rate, warmup, window, hold };
        pairs(options, name, &plan, &mut phones, meters);
        for phones in &phones {
            let talk = phones.talk.as_ref().expect("they were let");
            println!("packets of RTP: {} sent, {} came", talk.sent, talk.came);
            assert!(talk.came > talk.sent / 10 * 9, "nobody is heard");
        }
    }
    watchers.print();
}

/// Off and on in turn.
fn pairs(
    options: &Options,
    title: String,
    plan: &Plan,
    phones: &mut [Phones; 2],
    meters: [&Meter; 2],
) {
    let mut case = Case::new(title, "call", "everything off", "everything on");
    for _ in 0..options.runs() {
        let [first, second] = phones;
        let first = measured(first, plan, meters[0]);
        case.push(first, measured(second, plan, meters[1]));
    }
    case.print();
    case.print_difference("Watching costs");
}

/// Who is told, and how often.
struct Watchers {
    hep: SocketAddr,
    http: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    posts: AtomicU64,
    events: AtomicU64,
    scrapes: AtomicU64,
}

impl Watchers {
    fn start() -> Self {
        let counts = Arc::new(Counts::default());
        let collector = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hep = collector.local_addr().expect("an address");
        let counted = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in collector.incoming().flatten() {
                let counted = Arc::clone(&counted);
                thread::spawn(move || collect(stream, &counted));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let http = listener.local_addr().expect("an address");
        let counted = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                thread::spawn(move || serve(stream, &counted));
            }
        });
        Self { hep, http, counts }
    }

    /// Reads what the switch offers to who asks.
    fn watch(&self, switch: &Holdfast) {
        let counted = Arc::clone(&self.counts);
        let figures = switch.figures;
        thread::spawn(move || {
            while figures.iter().all(|at| get(*at, "/metrics").is_some()) {
                counted.scrapes.fetch_add(1, Ordering::Relaxed);
                thread::sleep(SCRAPE);
            }
        });
        let counted = Arc::clone(&self.counts);
        let url = format!("http://{}/api/v1/events", switch.figures[0]);
        thread::spawn(move || {
            let config = ureq::Agent::config_builder().timeout_global(None).build();
            let request = ureq::Agent::new_with_config(config).get(&url);
            let answer = request.header("Authorization", format!("Bearer {TOKEN}")).call();
            let mut answer = answer.expect("the stream of events");
            for line in BufReader::new(answer.body_mut().as_reader()).lines() {
                let Ok(line) = line else { return };
                let is_event = u64::from(line.starts_with("id:"));
                counted.events.fetch_add(is_event, Ordering::Relaxed);
            }
        });
    }

    fn print(&self) {
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { packets, posts, events, scrapes } = &*self.counts;
        let all = [packets, posts, events, scrapes].map(told);
        println!("packets of HEP, posts, events, scrapes: {all:?}");
        assert!(all.iter().all(|count| *count > 0), "somebody was told nothing");
    }
}

/// One connection of HEP, packet after packet.
fn collect(stream: TcpStream, counts: &Counts) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = [0; 6];
        reader.read_exact(&mut head).ok()?;
        let length = u64::from(u16::from_be_bytes([head[4], head[5]]));
        std::io::copy(&mut reader.by_ref().take(length.checked_sub(6)?), &mut std::io::sink())
            .ok()?;
        counts.packets.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection, request after request.
fn serve(mut stream: TcpStream, counts: &Counts) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        counts.posts.fetch_add(1, Ordering::Relaxed);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}
