//! A signaling node's calls against phones, network, store and media that are as unkind as the world, by seed.
//!
//! `HOLDFAST_SIM_CALLS=100000 cargo test --test sim -- --nocapture` runs as many calls as wanted and tells how often
//! what
//! happened; `HOLDFAST_SIM_FIRST=N` begins at another seed; `HOLDFAST_SIM_SEED=N` replays one seed with its whole
//! trace.

#[path = "../common/store_model.rs"]
mod store_model;

mod cluster;
mod count;
mod media;
mod phone;
mod random;
mod scheduled;
mod world;

use core::net::SocketAddr;
use count::Count;
use holdfast::directory::{Binding, User};
use holdfast::ids::{Flow, NodeName, Transport};
use holdfast::sip::digest::Ha1;
use holdfast::time::Timestamp;
use holdfast::views::user::SrtpPolicy;
use phone::{Act, Manners, Phone};
use random::Random;
use world::{SERVER, Sabotage, Weather, World};

/// Without these a run proves little.
const MUST_HAPPEN: [&str; 24] = [
    "network: lost",
    "network: doubled",
    "network: overtaken",
    "phones: retransmissions",
    "phones: cancelled",
    "phones: re-INVITE cancelled",
    "phones: re-INVITE Hold(0)",
    "phones: re-INVITE Hold(1)",
    "phones: re-INVITE Hold(2)",
    "phones: re-INVITE LateReinvite",
    "phones: re-INVITE MovePort",
    "phones: re-INVITE answered 200",
    "phones: re-INVITE answered 491",
    "phones: re-INVITE answered 488",
    "phones: vanished",
    "media: silence reported",
    "media: refused",
    "media: silent",
    "calls: held",
    "calls: ended by Bye",
    "calls: ended by RingTimeout",
    "calls: ended by AckTimeout",
    "calls: ended by RtpTimeout",
    "audit: calls at rest",
];
/// Calls that one seed makes.
const CALLS_PER_SEED: u64 = 4;

fn user(extension: &str) -> User {
    User {
        extension: extension.into(),
        display_name: format!("User {extension}"),
        enabled: true,
        ha1: Ha1 { md5: [0; 16], sha256: [0; 32] },
        max_contacts: None,
        max_calls: None,
        ring_timeout_ms: None,
        codecs: Vec::new(),
        srtp: SrtpPolicy::Off,
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

fn binding(extension: &str, address: &str) -> Binding {
    let remote: SocketAddr = address.parse().expect("address");
    Binding {
        id: format!("{extension}@{address}"),
        extension: extension.into(),
        aor: format!("sip:{extension}@pbx.example"),
        contact: format!("sip:{extension}@{address};line=x"),
        instance_id: None,
        reg_id: None,
        q_milli: 1000,
        q_given: false,
        path: Vec::new(),
        call_id: "register".into(),
        cseq: 1,
        user_agent: None,
        flow: Flow {
            transport: Transport::Udp,
            local: SERVER.parse().expect("address"),
            remote,
            connection: None,
        },
        nat: false,
        node: NodeName("sim-1".into()),
        registered_at: Timestamp::EPOCH,
        refreshed_at: Timestamp::EPOCH,
        expires_at: Timestamp::from_millis(u64::MAX / 2_000),
        flow_lost: false,
        ping_rtt_us: None,
    }
}

fn manners(random: &mut Random) -> Manners {
    const S: u64 = 1_000_000;
    let answer_after = random.between(50_000, 4 * S);
    let answer = match random.between(0, 20) {
        0..=11 => Some((200, answer_after)),
        12 => Some((486, answer_after)),
        13 => Some((480, answer_after)),
        14 => Some((603, answer_after)),
        15 => Some((488, answer_after)),
        16 => Some((503, answer_after)),
        17 => Some((302, answer_after)),
        _ => None,
    };
    Manners {
        ring_after: (!random.chance(100)).then(|| random.between(10_000, 40_000)),
        early_media: random.chance(250),
        answer,
        dead: random.chance(40),
        redirect_to: Some(format!("100{}", random.between(1, 6))),
        refuse_reinvite: random
            .chance(200)
            .then(|| [488, 491, 500, 405][random.between(0, 4) as usize]),
        patient: random.chance(300),
        think_about_reinvite: random.chance(400).then(|| random.between(50_000, 3 * S)),
        ..Manners::default()
    }
}

fn plan(random: &mut Random) -> Vec<(u64, Act)> {
    const S: u64 = 1_000_000;
    let mut plan = Vec::new();
    if random.chance(250) {
        plan.push((random.between(20_000, 5 * S), Act::Cancel));
    }
    let mut at = random.between(2 * S, 8 * S);
    for _ in 0..random.between(0, 5) {
        let act = match random.between(0, 9) {
            0..=2 => Act::Hold(random.between(0, 3) as u8),
            3 | 4 => Act::Resume,
            5 => Act::LateReinvite,
            6 => Act::MovePort,
            7 => Act::Refresh,
            _ => Act::Info,
        };
        let reinvite = !matches!(act, Act::Info);
        plan.push((at, act));
        if reinvite && random.chance(100) {
            plan.push((at + random.between(10_000, S), Act::CancelReinvite));
        }
        at += random.between(10_000, 6 * S);
    }
    if random.chance(30) {
        plan.push((random.between(0, 12 * S), Act::Vanish));
    }
    // In the end somebody hangs up; the phones of a call both plan it, so glare and crossing BYEs come about.
    plan.push((at + random.between(0, 10 * S), Act::Bye));
    plan.sort_by_key(|(after, _)| *after);
    plan
}

fn run_seed(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_traced: bool,
) -> Result<World, Box<(World, String)>> {
    let mut random = Random::new(seed);
    let weather = Weather {
        loss: [0, 0, 20, 80][random.between(0, 4) as usize],
        duplication: [0, 50][random.between(0, 2) as usize],
        slow_store: [0, 0, 200][random.between(0, 3) as usize],
        media_refusal: [0, 0, 0, 50][random.between(0, 4) as usize],
        media_silence: [0, 0, 0, 20][random.between(0, 4) as usize],
        spread: [20_000, 20_000, 300_000, 2_000_000][random.between(0, 4) as usize],
    };
    let mut world = World::new(seed, weather, sabotage);
    world.is_traced = is_traced;
    if random.chance(50) {
        world.plan_hangup(random.between(0, 60_000_000));
    }
    for number in 1..=5 {
        let extension = format!("100{number}");
        world.directory.set_user(user(&extension));
        let mut bindings = Vec::new();
        for contact in 0..random.between(1, 4) {
            let address = format!("10.0.{number}.{}:5060", contact + 1);
            bindings.push(binding(&extension, &address));
            let rtp_port = 4_000 + (number * 100 + contact * 10) as u16;
            world.phones.push(Phone::new(&extension, &address, rtp_port, manners(&mut random)));
        }
        world.directory.set_bindings(&extension, bindings);
    }
    for _ in 0..CALLS_PER_SEED {
        let caller = random.between(0, world.phones.len() as u64) as usize;
        let callee = format!("100{}", random.between(1, 7)); // 1006 is unknown
        let (plan, late) = (plan(&mut random), random.chance(150));
        let now = world.now;
        world.phones[caller].manners.dead = false;
        world.phones[caller].call(&callee, late, plan, now);
        world.drain_phone(caller);
        let callee_plan = self::plan(&mut random);
        for phone in &mut world.phones {
            if phone.user == callee {
                phone.when_answered.clone_from(&callee_plan);
            }
        }
        let pause = random.between(0, 30);
        world.run(pause);
    }
    world.run(600);
    match world.verdict() {
        Ok(()) => Ok(world),
        Err(wrong) => Err(Box::new((world, wrong))),
    }
}

#[allow(clippy::disallowed_methods, reason = "which seeds to run is for who starts the test")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

/// The seed again, with its trace, for a person.
fn story(seed: u64) -> String {
    let (world, end) = match run_seed(seed, None, true) {
        Ok(world) => (world, "holds".to_owned()),
        Err(broken) => (broken.0, format!("is broken:\n{}", broken.1)),
    };
    format!("{}\nseed {seed} {end}", world.trace.join("\n"))
}

#[test]
fn calls_end_rightly_whatever_happens() {
    if let Some(seed) = number("HOLDFAST_SIM_SEED") {
        let broken = run_seed(seed, None, false).is_err();
        println!("{}", story(seed));
        return assert!(!broken, "seed {seed} is broken");
    }
    let calls = number("HOLDFAST_SIM_CALLS").unwrap_or(8_000);
    let first = number("HOLDFAST_SIM_FIRST").unwrap_or(0);
    let mut count = Count::default();
    for seed in first..first + calls.div_ceil(CALLS_PER_SEED) {
        match run_seed(seed, None, false) {
            Ok(mut world) => {
                let total = world.calls.len();
                (0..total).for_each(|_| count.add("calls: begun"));
                count.merge(&mut world.count);
            }
            Err(_) => panic!(
                "{}\nreplay: HOLDFAST_SIM_SEED={seed} cargo test --test sim -- --nocapture",
                story(seed)
            ),
        }
    }
    println!("{count}every call ended in one true CDR");
    for what in MUST_HAPPEN {
        assert!(count.of(what) > 0, "{what} never happened: {count}");
    }
    let (begun, answered) = (count.of("calls: begun"), count.of("calls: answered"));
    assert!(answered * 4 > begun, "too few calls are answered for this to mean anything");
}

/// A judge that never speaks is no judge: each broken rule is noticed at some seed.
#[test]
fn broken_rules_are_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = (0..200).find_map(|seed| run_seed(seed, Some(sabotage), false).err());
        let Some(broken) = noticed else { panic!("{sabotage:?} was not noticed") };
        println!("{sabotage:?}: {}", broken.1.lines().next().unwrap_or_default());
    }
}
