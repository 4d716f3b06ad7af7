//! Instructions a registration and a call, counted by callgrind: the same on a busy machine, so a change of the code
//! shows where times would drown.
//!
//! User space alone: neither the kernel nor a cache miss counts. Valgrind knows no SHA instructions: a SHA-256 weighs here
//! many times what it costs.

use super::holdfast::{Holdfast, Keeps, Runs, Settings};
use super::options::Options;
use super::phones::{Kind, Phones, Plan};
use super::world::{World, printed};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A processor that is simulated takes its time: units a second. Who is late repeats itself, which is counted too.
const RATE: u32 = 10;
const WINDOW: Duration = Duration::from_secs(20);
/// From ACK to BYE.
const HOLD: Duration = Duration::from_millis(500);

/// Registrations, then calls, stored in PostgreSQL.
pub(crate) fn instructions(options: &Options, world: &World) {
    println!("\n**instructions**, {}/s\n", options.rate(RATE));
    println!("| unit | units | failed | repeated | signaling | media |");
    println!("|---|---|---|---|---|---|");
    for (name, kind) in [("register", Kind::Register), ("call", Kind::Call)] {
        if options.wants(name, true) {
            count(options, world, name, kind);
        }
    }
}

fn count(options: &Options, world: &World, name: &str, kind: Kind) {
    let users = options.users().min(200);
    let holdfast =
        Holdfast::start_as(world, Runs::Counted, Keeps::Postgres, users, &Settings::default());
    let mut phones = Phones::new(holdfast.sip, users);
    phones.register_all(RATE * 5);
    let plan =
        Plan { kind, rate: options.rate(RATE), warmup: Duration::ZERO, window: WINDOW, hold: HOLD };
    let groups = &holdfast.meter.0;
    let processes = groups.iter().filter(|(part, _)| *part != "database");
    processes.clone().for_each(|(_, id)| control(&["-z"], *id));
    processes.clone().for_each(|(_, id)| control(&["-i", "on"], *id));
    let seen = phones.run(&plan, &holdfast.meter);
    processes.clone().for_each(|(_, id)| control(&["-i", "off"], *id));
    let units = seen.latencies.len();
    let counts: Vec<String> = processes
        .map(|(part, id)| {
            control(&["--dump"], *id);
            let profile = holdfast.folder.join(format!("callgrind.{id}.1"));
            if let Some(folder) = options.profiles() {
                let copy = folder.join(format!("callgrind.{name}.{part}"));
                fs::copy(&profile, copy).expect("the folder of --profiles");
            }
            (total(&profile) / units.max(1) as u64).to_string()
        })
        .collect();
    let (failed, repeated) = (seen.failed, seen.repeated);
    println!("| {name} | {units} | {failed} | {repeated} | {} |", counts.join(" | "));
}

fn control(arguments: &[&str], id: u32) {
    let id = id.to_string();
    printed("callgrind_control", &[arguments, &[id.as_str()]].concat());
}

/// Of a profile: the line `totals:`, or `summary:` where it was written by a dump.
fn total(profile: &Path) -> u64 {
    let text = fs::read_to_string(profile).expect("callgrind writes what it counted");
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let number = line("totals:").or(line("summary:")).expect("a total");
    number.trim().parse().expect("one event is counted")
}
