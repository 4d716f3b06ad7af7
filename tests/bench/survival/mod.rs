//! What calls and phones feel when a process dies, leaves or stands still: N calls with sound both ways, a fault, and then
//! every call is used. A fresh switch for each fault.
//!
//! Invariant: what is told is what phones saw; CDRs are compared with it and not with what the switch says of itself.

/// Sound.
mod audio;
/// All phones.
pub(crate) mod crowd;
/// What is done to the switch.
mod fault;
/// Connections of phones.
mod line;
/// Calls and what came of them.
mod pair;
/// One phone.
mod phone;
/// The table.
pub(crate) mod report;

use super::clock::{self, Nanos};
use super::cluster::{Cluster, Plan};
use super::common::network;
use super::options::Options;
use super::world::{World, live_at};
use crowd::{Crowd, Habits};
use fault::{Act, Fault};
use pair::{Class, Step};
use std::net::Ipv4Addr;
use std::time::Duration;

const CALLS: usize = 500;
/// Percents.
const RINGING: usize = 20;
const HABITS: (usize, usize, usize) = (10, 10, 10);
const REGISTRATIONS_A_SECOND: u64 = 500;
const CALLS_A_SECOND: u64 = 100;
const USES_A_SECOND: u64 = 50;
/// New calls while all this goes on.
const SHORT_CALLS_A_SECOND: u32 = 2;
const SECOND: Nanos = 1_000_000_000;
/// Before the fault.
const CALM: Nanos = 3 * SECOND;
/// Packets are counted so long, and so long after a fault that lasts.
const WINDOW: Nanos = 15 * SECOND;
/// From the begin of the fault to the answers of those that ring.
const RINGS_ON: Nanos = 3 * SECOND;
/// From the end of the window to the first use.
const BREATH: Nanos = 2 * SECOND;
/// All has an end after this: a transaction's time and some.
const PATIENCE: Nanos = 45 * SECOND;
/// A process that leaves is waited for so long.
const LEAVES_WITHIN: Nanos = 40 * SECOND;
/// CDRs of a fault may come by a journal.
const LAST_CDRS: Nanos = 60 * SECOND;

/// Every fault that is wanted.
pub(crate) fn survival(options: &Options, world: &World) {
    let has_hosts = world.make_room();
    let hosts = has_hosts.then(network::lay_cables);
    let calls = options.calls(CALLS);
    println!(
        "\n**survival**, {calls} calls, {RINGING} % of them ringing; of the phones {} % on TCP, \
         {} % refuse re-INVITE; {} % of the calls are used within a second of the fault\n",
        HABITS.0, HABITS.1, HABITS.2
    );
    report::print_head();
    let is_named = options.names_a_case();
    for fault in fault::faults() {
        let is_wanted = options.wants(fault.name, fault.name.ends_with("kill -9"));
        if !is_wanted || !(fault.is_usual || is_named) {
            continue;
        }
        match hosts.filter(|_| fault.apart) {
            None if fault.apart => eprintln!("{}: not measured without hosts", fault.name),
            at => {
                live_at(at.unwrap_or(Ipv4Addr::LOCALHOST));
                measure(world, &fault, calls, options.packet_ms());
            }
        }
    }
}

fn measure(world: &World, fault: &Fault, calls: usize, packet_ms: u32) {
    let ringing = calls * RINGING / 100;
    let (on_tcp, rude, early) = HABITS;
    // What refuses to follow to another host is ended, and says nothing of silence.
    let rude = if fault.apart { 0 } else { rude };
    // A short call may take half a minute to fail.
    let calling = 40 * SHORT_CALLS_A_SECOND as usize;
    let talking = calls - ringing;
    let habits = Habits { talking, held: 0, ringing, calling, on_tcp, rude, early, packet_ms };
    let users = 2 * (calls + calling);
    let (calls_at_most, apart) = (calls + calling, fault.apart);
    let plan = Plan { signaling: 2, media: 2, users, calls: calls_at_most, apart };
    let mut cluster = Cluster::start(world, &plan);
    let mut crowd = Crowd::new(cluster.sip, &habits);
    if apart {
        cluster.tell_media(1, "drain");
    }
    set_up(&mut crowd, calls);
    if apart {
        // Phones are silent for the moment that this takes; nothing is measured yet.
        cluster.tell_media(1, "undrain");
    }
    let mut acts = fault.acts.iter().peekable();
    let mut left = None;
    let begin = live_through(&mut crowd, |since| {
        let is_due = |(at, _): &&(Duration, Act)| clock::in_nanos(*at) <= since;
        while let Some((_, act)) = acts.next_if(|act| is_due(act)) {
            match *act {
                Act::Signal(part, signal) => cluster.signal(part, signal),
                Act::Start(part) => cluster.start_again(part),
                Act::Unplug(media) => cluster.unplug(media),
            }
        }
        let leaving = fault.leaves.filter(|_| left.is_none());
        if leaving.is_some_and(|media| cluster.is_over(media)) {
            left = Some(since);
        }
        let is_left = fault.leaves.is_none() || left.is_some() || since > LEAVES_WITHIN;
        is_left && since >= clock::in_nanos(fault.lasts)
    });
    use_all(&mut crowd, calls);
    let due = crowd.book();
    let cdrs = cluster.cdrs(LAST_CDRS, |cdrs| report::are_all(&due, cdrs));
    report::print(fault, &crowd, (begin, left), &cdrs);
}

/// Everybody registers, then everybody calls, at a steady pace; some hold.
pub(crate) fn set_up(crowd: &mut Crowd, calls: usize) {
    pace(crowd, crowd.phones(), REGISTRATIONS_A_SECOND, Crowd::register);
    let all = crowd.phones();
    let end = clock::now() + PATIENCE;
    turn_until(crowd, end, |crowd| crowd.registered() == all);
    assert_eq!(crowd.registered(), all, "phones that are registered");
    pace(crowd, calls, CALLS_A_SECOND, Crowd::call);
    let is_there = |crowd: &Crowd, pair: usize| match crowd.pairs[pair].class {
        Class::Ringing => crowd.is_ringing(pair),
        Class::Talking | Class::Held | Class::Calling => crowd.pairs[pair].answered.is_some(),
    };
    let end = clock::now() + PATIENCE;
    turn_until(crowd, end, |crowd| (0..calls).all(|pair| is_there(crowd, pair)));
    let missing = (0..calls).filter(|pair| !is_there(crowd, *pair)).count();
    assert_eq!(missing, 0, "calls that were not set up");
    let held: Vec<usize> =
        (0..calls).filter(|pair| crowd.pairs[*pair].class == Class::Held).collect();
    held.iter().for_each(|pair| crowd.hold(*pair));
    let end = clock::now() + PATIENCE;
    let is_held = |crowd: &Crowd, pair: &usize| crowd.pairs[*pair].hold.is_some();
    turn_until(crowd, end, |crowd| held.iter().all(|pair| is_held(crowd, pair)));
}

/// The fault, what is used about its time, and the rest of the window. `act` does what is due so long after the begin and
/// says when all is done. When it began.
pub(crate) fn live_through(crowd: &mut Crowd, mut act: impl FnMut(Nanos) -> bool) -> Nanos {
    let begin = clock::now() + CALM;
    crowd.begin_short_calls(SHORT_CALLS_A_SECOND);
    crowd.answer_at(begin + RINGS_ON);
    let early: Vec<usize> =
        (0..crowd.pairs.len()).filter(|pair| crowd.pairs[*pair].is_early).collect();
    // Evenly from a second before to a second after.
    let step = 2 * SECOND / early.len().max(1) as Nanos;
    let mut early =
        early.into_iter().zip(0_u64..).map(|(pair, number)| (begin - SECOND + step * number, pair));
    let mut next_early = early.next();
    let mut is_open = false;
    let mut end = None;
    while end.is_none_or(|end| clock::now() < end + BREATH) {
        let now = clock::now();
        if !is_open && now >= begin - SECOND {
            is_open = true;
            crowd.audio.open_window(begin - SECOND);
        }
        if end.is_none() && now >= begin && act(now - begin) {
            end = Some(now + WINDOW);
            crowd.audio.close_window(now + WINDOW);
        }
        while let Some((_, pair)) = next_early.filter(|(at, _)| *at <= now) {
            crowd.use_call(pair);
            next_early = early.next();
        }
        crowd.turn();
    }
    begin
}

/// Every call is used, and all of it ends.
pub(crate) fn use_all(crowd: &mut Crowd, calls: usize) {
    pace(crowd, calls, USES_A_SECOND, Crowd::use_call);
    crowd.end_short_calls();
    let end = clock::now() + PATIENCE;
    let is_over = |crowd: &Crowd| {
        crowd.pairs.iter().all(|pair| match pair.class {
            Class::Calling => pair.next == Nanos::MAX,
            Class::Talking | Class::Held | Class::Ringing => pair.step == Step::Done,
        })
    };
    turn_until(crowd, end, is_over);
}

fn pace(crowd: &mut Crowd, count: usize, rate: u64, mut step: impl FnMut(&mut Crowd, usize)) {
    let begin = clock::now();
    for number in 0..count {
        let due = begin + SECOND / rate * number as Nanos;
        while clock::now() < due {
            crowd.turn();
        }
        step(crowd, number);
    }
}

fn turn_until(crowd: &mut Crowd, end: Nanos, is_done: impl Fn(&Crowd) -> bool) {
    while clock::now() < end && !is_done(crowd) {
        crowd.turn();
    }
}
