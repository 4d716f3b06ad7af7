//! The highest rate of stored calls that is clean, and what a call costs at shares of it: servers and their database on one
//! core.
//!
//! Invariant: clean is that every call was set up and ended, nothing was sent twice, and 99 of 100 set-ups were fast.

use super::holdfast::{Holdfast, Keeps, MANY_CALLS, Runs, Settings};
use super::options::Options;
use super::phones::{Kind, Phones, Plan};
use super::report::{Figures, print_head, print_row};
use super::signaling::measured;
use super::world::World;
use std::time::Duration;

/// Set-up of 99 calls in a hundred.
const FAST_MS: f64 = 20.0;
const FIRST: u32 = 400;
/// Of a rate: what strangers do to one run says nothing of the rate.
const TRIES: usize = 3;
/// The search ends when what is clean and what is not are so close.
const CLOSE: f64 = 1.05;
/// Where a step begins: caches are warm, tables are as large as they get.
const WARMUP: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(2_500);
const SHARES: [u32; 5] = [10, 20, 40, 80, 100];
/// In a network of our own: pairs of ports rest after a call.
const PORTS: (&str, &str) = ("HOLDFAST_MEDIA_PORTS", "8000-64999");

pub(crate) fn peak(options: &Options, world: &World) {
    let media: &[_] = if world.make_ports() { &[PORTS, MANY_CALLS] } else { &[MANY_CALLS] };
    let room = Settings { media, ..Settings::default() };
    let users = options.users();
    let holdfast = Holdfast::start_as(world, Runs::Plainly, Keeps::Postgres, users, &room);
    let mut phones = Phones::new(holdfast.sip, users);
    let mut run = |rate, warmup, window| {
        let plan = Plan { kind: Kind::Call, rate, warmup, window, hold: options.hold() };
        measured(&mut phones, &plan, &holdfast.meter)
    };
    println!(
        "\n**peak**: stored calls; clean: nothing failed or repeated, p99 below {FAST_MS} ms\n"
    );
    print_head("calls a second");
    let mut step = |rate: u32| {
        (0..TRIES).any(|_| {
            let figures: Figures = run(rate, WARMUP, STEP);
            let clean = figures.is_clean(FAST_MS);
            print_row(&format!("{rate}{}", if clean { "" } else { ", not clean" }), &[&figures]);
            clean
        })
    };
    let highest = search(options.rate(FIRST), &mut step);
    println!("\nhighest clean rate: {highest}/s; at shares of it:\n");
    print_head("share");
    for share in SHARES {
        let rate = (highest * share / 100).max(1);
        let runs = (0..options.runs()).map(|_| run(rate, options.warmup(), options.window()));
        let runs: Vec<Figures> = runs.collect();
        print_row(&format!("{share} %, {rate}/s"), &runs.iter().collect::<Vec<_>>());
    }
}

/// Up by halves until it is not clean, then between.
fn search(first: u32, is_clean: &mut impl FnMut(u32) -> bool) -> u32 {
    let (mut clean, mut unclean) = (0, None);
    let mut rate = first;
    while unclean.is_none_or(|unclean| f64::from(unclean) > f64::from(clean) * CLOSE) {
        if is_clean(rate) {
            clean = rate;
        } else {
            unclean = Some(rate);
        }
        rate = unclean.map_or(rate * 3 / 2, |unclean| u32::midpoint(clean, unclean));
        if rate <= 1 {
            break;
        }
    }
    clean
}
