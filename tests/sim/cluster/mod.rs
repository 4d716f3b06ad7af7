//! A whole cluster in one thread, by seed: three signaling nodes that are the product's own workers, three media nodes,
//! phones, one store with a clock of its own, links; and what befalls them.
//!
//! `HOLDFAST_SIM_CLUSTER_CALLS=1000000 cargo test --test sim cluster -- --nocapture` runs as many calls as wanted and
//! tells how far it is (`make test` asks for 100,000; `CARGO_PROFILE_TEST_OPT_LEVEL=1` makes them several times faster);
//! `HOLDFAST_SIM_CLUSTER_FIRST=N` begins at another seed; `HOLDFAST_SIM_CLUSTER_SEED=N` replays one seed with its whole
//! trace, `HOLDFAST_SIM_CLUSTER_BROKEN=NoFence` with that rule broken; without a seed, which of the seeds notice.
//! `HOLDFAST_SIM_CLUSTER_THEME=Losses` leaves out what is about something else.

mod air;
mod digits;
mod errands;
mod faults;
mod happening;
mod hosts;
mod journal;
mod judge;
mod link;
mod losses;
mod media;
mod node;
mod sabotage;
mod streams;
mod wires;
mod world;

use crate::count::Count;
use crate::phone::{Manners, Phone};
use crate::random::Random;
use faults::Theme;
use holdfast::ids::{ClusterKey, NodeName};
use holdfast::sip::digest::{self, Algorithm, Ha1};
use holdfast::time::Timestamp;
use sabotage::Sabotage;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Happening, MS, NODES, START, World};

/// Calls that one seed makes.
const CALLS_PER_SEED: u64 = 12;
/// Calls of a run when nothing else is said, and how many it takes for everything to have come about.
const CALLS: u64 = 8_000;
const MANY: u64 = 100_000;
/// A run with so many broken seeds has told enough.
const MOST_BROKEN: usize = 200;
/// The seed that notices a broken rule is among so many.
const SEEDS_PER_RULE: usize = 4_000;
const SECRET: &str = "secret";
/// Of a thousand phones so many speak by a connection, and of the others so many register while the world is watched.
const ON_TCP: u64 = 250;
const REGISTERS: u64 = 300;
/// Without these a run proves little.
const MUST_HAPPEN: [&str; 63] = [
    "audio: heard",
    "calls: adopted Confirmed",
    "calls: adopted Early",
    "calls: answered",
    "calls: claimed though a claimer died with them",
    "calls: ended by Bye",
    "calls: ended by Cancel",
    "calls: ended by NodeLost",
    "calls: ended by Quarantined",
    "calls: ended by ReanchorFailed",
    "calls: ended by RingTimeout",
    "calls: ended by RtpTimeout",
    "calls: left",
    "calls: re-anchored",
    "faults: cut from a media node",
    "faults: cut from a node",
    "faults: link stalled",
    "faults: media died",
    "faults: media drained",
    "faults: media froze",
    "faults: media host lost",
    "faults: media left",
    "faults: node cut from the store",
    "faults: disk lost",
    "faults: node died between two outputs",
    "faults: node died with the store",
    "faults: node drained",
    "faults: node froze",
    "faults: node left",
    "faults: record kills its reader",
    "faults: store Gone",
    "faults: store ReadOnly",
    "faults: store Silent",
    "faults: store went back in time",
    "faults: node of the release before",
    "faults: store's clock set",
    "faults: store slow",
    "journal: kept by a peer and written",
    "journal: replayed",
    "journal: written",
    "links: calls handed over",
    "links: messages passed on",
    "links: silence noticed",
    "media: hand-over broke: HeirDiesFirst",
    "media: hand-over broke: HeirDiesLast",
    "media: hand-over broke: LeaverDiesFirst",
    "media: hand-over broke: LeaverDiesLast",
    "media: hand-over broke: Shut",
    "media: ports waited for",
    "media: sessions handed over",
    "media: stale",
    "network: lost",
    "phones: UPDATE answered",
    "phones: connected",
    "phones: connections broken",
    "phones: connections inherited",
    "phones: digits dialled",
    "phones: re-INVITE not answered at all",
    "phones: registered",
    "phones: retransmissions",
    "store: claim in doubt",
    "store: commit in doubt",
    "store: did what a dead node asked",
];

fn challenge() -> String {
    let key = ClusterKey::new(b"of the cluster");
    let at = Timestamp::from_micros(START);
    digest::challenges("sim", &key, &[Algorithm::Md5], false, at).remove(0)
}

fn populate(world: &mut World, random: &mut Random) {
    let challenge = challenge();
    for number in 1..=5 {
        let extension = format!("100{number}");
        let mut user = crate::user(&extension);
        user.ha1 = Ha1::new(&extension, "sim", SECRET);
        world.users.push(user);
        for contact in 0..random.between(1, 4) {
            let address = format!("10.0.{number}.{}:5060", contact + 1);
            let rtp_port = 4_000 + (number * 100 + contact * 10) as u16;
            let manners = Manners {
                keeps_address: random.chance(50),
                refuse_update: random.chance(300).then_some(501),
                mute_to_reinvite: random.chance(50),
                ..crate::manners(random)
            };
            let mut phone = Phone::new(&extension, &address, rtp_port, manners);
            phone.challenge = Some((challenge.clone(), SECRET));
            phone.by_connection = random.chance(ON_TCP);
            if phone.by_connection || random.chance(REGISTERS) {
                let due = START + random.between(50 * MS, 4_000 * MS);
                phone.register_from(due, random.between(5_000 * MS, 30_000 * MS));
            } else {
                let mut binding = crate::binding(&extension, &address);
                let node = random.between(0, NODES as u64) + 1;
                binding.node = NodeName(format!("sim-{node}").into());
                world.bindings.push(binding);
            }
            let dials = phone.by_connection.then(|| random.between(20 * MS, 2_000 * MS));
            world.add_phone(phone);
            if let Some(after) = dials {
                let phone = world.phones.len() - 1;
                world.schedule(after, Happening::Connect { phone });
            }
        }
    }
}

fn call(world: &mut World, random: &mut Random) {
    let caller = random.between(0, world.phones.len() as u64) as usize;
    let callee = format!("100{}", random.between(1, 7)); // 1006 is unknown
    let (plan, late) = (crate::plan(random), random.chance(150));
    let now = world.now;
    world.phones[caller].manners.dead = false;
    world.phones[caller].call(&callee, late, plan, now);
    world.drain_phone(caller);
    let callee_plan = crate::plan(random);
    for phone in &mut world.phones {
        if phone.user == callee {
            phone.when_answered.clone_from(&callee_plan);
        }
    }
}

/// Tasks that are no errands wait there for ever.
fn idle_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without threads")
}

fn run_seed(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_traced: bool,
) -> Result<World, Box<(World, String)>> {
    let mut random = Random::new(seed);
    let theme = Theme::of(&mut random);
    let weather = theme.weather(&mut random);
    let runtime = idle_runtime();
    let mut world = World::new(seed, theme, weather, sabotage, runtime.handle().clone());
    world.is_traced = is_traced;
    world.note(|| format!("{theme:?} {weather:?}"));
    populate(&mut world, &mut random);
    for node in 0..NODES {
        let after = random.between(0, 20 * MS);
        world.schedule(after, Happening::Start { node });
    }
    for (at, fault) in theme.plan(&mut random) {
        world.schedule(at, Happening::Fault(fault));
        world.last_fault = world.last_fault.max(START + at);
    }
    world.run_for(random.between(200 * MS, 6_000 * MS));
    for _ in 0..CALLS_PER_SEED {
        call(&mut world, &mut random);
        world.run_for(random.between(0, 5_000 * MS));
    }
    world.is_ending = true;
    world.run(900);
    match world.verdict() {
        Ok(()) => Ok(world),
        Err(wrong) => Err(Box::new((world, wrong))),
    }
}

/// The seed again, with its trace, for a person.
fn story(seed: u64, sabotage: Option<Sabotage>) -> String {
    let (world, end) = match run_seed(seed, sabotage, true) {
        Ok(world) => (world, "holds".to_owned()),
        Err(broken) => (broken.0, format!("is broken:\n{}", broken.1)),
    };
    format!("{}\nseed {seed} {end}", world.trace.join("\n"))
}

/// What came of many seeds.
#[derive(Default)]
struct Survey {
    count: Count,
    /// Seeds that broke, and how.
    broken: BTreeMap<u64, String>,
}

/// Seeds from `first` on, on all cores, until too many broke.
fn run_seeds(first: u64, seeds: u64, sabotage: Option<Sabotage>) -> Survey {
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let total = Mutex::new(Survey::default());
    let shows = seeds * CALLS_PER_SEED >= MANY;
    let theme = crate::text("HOLDFAST_SIM_CLUSTER_THEME");
    let is_about = |seed: u64| Some(format!("{:?}", Theme::of(&mut Random::new(seed))));
    let work = || {
        let mut count = Count::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            if theme.is_some() && theme != is_about(seed) {
                continue;
            }
            match run_seed(seed, sabotage, false) {
                Ok(mut world) => {
                    count.merge(&mut world.count);
                    (0..CALLS_PER_SEED).for_each(|_| count.add("calls: begun"));
                }
                Err(broken) => {
                    let mut total = total.lock().expect("nobody panicked");
                    total.broken.insert(seed, broken.1);
                    if total.broken.len() >= MOST_BROKEN {
                        break;
                    }
                }
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if shows && done.is_multiple_of(1_000) {
                eprintln!("{done} of {seeds} seeds, {} calls", done * CALLS_PER_SEED);
            }
        }
        total.lock().expect("nobody panicked").count.merge(&mut count);
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| _ = scope.spawn(work)));
    total.into_inner().expect("nobody panicked")
}

#[test]
fn a_cluster_keeps_its_calls_whatever_befalls_it() {
    let rule = crate::text("HOLDFAST_SIM_CLUSTER_BROKEN");
    let broken_rule = |sabotage: &Sabotage| Some(format!("{sabotage:?}")) == rule;
    let sabotage = Sabotage::ALL.into_iter().find(broken_rule);
    if let Some(seed) = crate::number("HOLDFAST_SIM_CLUSTER_SEED") {
        let broken = run_seed(seed, sabotage, false).is_err();
        println!("{}", story(seed, sabotage));
        return assert!(!broken, "seed {seed} is broken");
    }
    let calls = crate::number("HOLDFAST_SIM_CLUSTER_CALLS").unwrap_or(CALLS);
    let first = crate::number("HOLDFAST_SIM_CLUSTER_FIRST").unwrap_or(0);
    let seeds = calls.div_ceil(CALLS_PER_SEED);
    let survey = run_seeds(first, seeds, sabotage);
    let (count, broken) = (&survey.count, &survey.broken);
    for (seed, what) in broken {
        let theme = Theme::of(&mut Random::new(*seed));
        println!("seed {seed}, {theme:?}: {}", what.lines().next().unwrap_or_default());
    }
    if let Some(rule) = sabotage {
        return println!("{} of {seeds} seeds notice that {rule:?} is broken", broken.len());
    }
    if let Some(seed) = broken.keys().next() {
        println!("{count}{}", story(*seed, None));
        panic!(
            "replay: HOLDFAST_SIM_CLUSTER_SEED={seed} cargo test --test sim cluster -- --nocapture"
        );
    }
    println!("{count}none of {seeds} seeds broke");
    for what in MUST_HAPPEN {
        assert!(count.of(what) > 0 || calls < MANY, "{what} never happened: {count}");
    }
    let (begun, answered) = (count.of("calls: begun"), count.of("calls: answered"));
    assert!(answered * 4 > begun, "too few calls are answered for this to mean anything");
}

/// A seed that fails must fail again, step by step.
#[test]
fn a_seed_repeats_itself() {
    for seed in [1, 7, 20, 33] {
        let (one, other) = (story(seed, None), story(seed, None));
        let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.lines().count(), other.lines().count());
    }
}

/// Each rule is needed: without it some seed fails.
#[test]
fn a_cluster_without_a_rule_is_noticed() {
    let mut unnoticed = Vec::new();
    for sabotage in Sabotage::ALL {
        // What holds without the rule broken, and breaks with it.
        let shows = |seed: &u64| sabotage.shows_under(Theme::of(&mut Random::new(*seed)));
        let noticed =
            (sabotage.first_seed()..).filter(shows).take(SEEDS_PER_RULE).find_map(|seed| {
                let broken = run_seed(seed, Some(sabotage), false).err()?;
                run_seed(seed, None, false).is_ok().then_some((seed, broken.1))
            });
        match noticed {
            Some((seed, broken)) => {
                println!(
                    "{sabotage:?}: seed {seed}: {}",
                    broken.lines().next().unwrap_or_default()
                );
            }
            None => unnoticed.push(sabotage),
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
