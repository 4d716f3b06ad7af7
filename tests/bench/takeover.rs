//! How long it takes until another signaling process has all calls of one: handed over by a drain, or taken from a process
//! that was killed. The calls have no sound; afterwards each is ended by its caller.
//!
//! Invariant: that no call was lost is judged by phones (each BYE is answered by 200) and by CDRs (one a call).

use super::clock::{self, Nanos};
use super::cluster::{Cluster, Part, Plan};
use super::options::Options;
use super::phones::Phones;
use super::world::World;
use nix::sys::signal::Signal;
use std::thread;
use std::time::Duration;

const CALLS: usize = 10_000;
/// Callers and callees have many calls each.
const USERS: usize = 2_000;
const REGISTRATIONS_A_SECOND: u32 = 1_000;
const CALLS_A_SECOND: u32 = 250;
/// A media process: four descriptors each, of 20,000 that a process may have on many systems.
const CALLS_A_MEDIA_PROCESS: usize = 4_500;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// A look takes longer when the node has no time.
const PATIENCE: Nanos = 120_000_000_000;
const LAST_CDRS: Nanos = 60_000_000_000;

/// Both ways.
pub(crate) fn takeover(options: &Options, world: &World) {
    world.make_room();
    let calls = options.calls(CALLS);
    println!("\n**takeover** of {calls} calls\n");
    println!(
        "| | calls | first taken ms | all taken ms | answered meanwhile p50 / max ms | BYE 200 \
         | CDRs, distinct calls |"
    );
    println!("|---|---|---|---|---|---|---|");
    for way in [Way::Drain, Way::Kill] {
        if options.wants(way.name(), true) {
            measure(options, world, way, calls);
        }
    }
}

/// How the calls' owner goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Drain,
    Kill,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Kill => "kill -9",
        }
    }
}

fn measure(options: &Options, world: &World, way: Way, calls: usize) {
    let media = calls.div_ceil(CALLS_A_MEDIA_PROCESS).max(2);
    let plan = Plan { signaling: 1, media, users: USERS, calls, apart: false };
    let mut cluster = Cluster::start(world, &plan);
    let mut phones = Phones::new(cluster.sip, USERS);
    phones.register_all(REGISTRATIONS_A_SECOND);
    let rate = options.rate(CALLS_A_SECOND);
    let established = phones.establish(calls, rate);
    assert_eq!(established, calls, "calls that are established");
    // The second comes when all calls are the first one's.
    cluster.add_signaling();
    cluster.wait_for_links();
    thread::sleep(Duration::from_secs(2));
    let begin = clock::now();
    match way {
        Way::Drain => cluster.drain(0),
        Way::Kill => cluster.signal(Part::Signaling(0), Signal::SIGKILL),
    }
    let (first, all, mut looks) = watch(&cluster, calls, begin);
    looks.sort_unstable();
    let ms = |time: Nanos| time / 1_000_000;
    let (middle, longest) = (looks[looks.len() / 2], looks[looks.len() - 1]);
    let ended = phones.hang_up(rate);
    let cdrs = cluster.cdrs(LAST_CDRS, |cdrs| cdrs.len() >= calls).len();
    let distinct = cluster.number("select count(distinct id) from cdrs");
    println!(
        "| {} | {calls} | {} | {} | {} / {} | {ended} | {cdrs}, {distinct} |",
        way.name(),
        ms(first),
        ms(all),
        ms(middle),
        ms(longest),
    );
}

/// Until the second process has them all: when it had the first, when all, and how long each look took.
fn watch(cluster: &Cluster, calls: usize, begin: Nanos) -> (Nanos, Nanos, Vec<Nanos>) {
    let (mut first, mut looks) = (None, Vec::new());
    loop {
        let asked = clock::now();
        let count = cluster.node(1).and_then(|(_, node)| node["calls"].as_u64());
        let now = clock::now();
        looks.push(now - asked);
        let count = usize::try_from(count.unwrap_or(0)).unwrap_or(0);
        if count > 0 {
            first.get_or_insert(now - begin);
        }
        if count >= calls {
            return (first.unwrap_or(0), now - begin, looks);
        }
        assert!(now - begin < PATIENCE, "{count} of {calls} calls were taken over");
        thread::sleep(LOOK);
    }
}
