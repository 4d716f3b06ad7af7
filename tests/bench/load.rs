//! Load on the binary and on its peers, A B A B in one run: CPU a unit, latency, loss (`docs/performance.md`).
//!
//! Invariants: only figures of one run are compared; servers and databases are pinned to one core, the generator to
//! another; the generator is an open loop that sleeps; everything it starts ends with it.
//!
//! The file is no `main.rs`, for cargo would take that for a test.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on the terminal")]
#![allow(clippy::disallowed_methods, reason = "measured in real time, started by the environment")]

/// Time as the kernel stamps packets.
mod clock;
/// Several processes of the product that are one switch.
mod cluster;
/// What tests share: the API, and waiting.
#[path = "../common/mod.rs"]
mod common;
/// The console in a browser, under load.
mod console;
/// What befalls containers.
mod containers;
/// What PostgreSQL does.
mod database;
/// Docker and Compose as programs.
#[path = "../containers/engine.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod engine;
/// The product as its users start it.
mod holdfast;
/// Instructions, counted by callgrind.
mod instructions;
/// The peer in signaling.
mod kamailio;
/// What a page of the list of live calls takes.
mod lists;
/// Where it was measured, with which versions.
mod machine;
/// What phones speak.
mod media;
/// Memory of what is idle.
mod memory;
/// Everything that watches calls, on and off.
mod observed;
/// What is to be measured.
mod options;
/// How many calls a second, and what each costs below that.
mod peak;
/// Phones by the thousand in one thread.
mod phones;
/// A database server for each contender.
mod postgres;
/// RTP relays: Holdfast and rtpengine.
mod relay;
/// Figures, tables, ratios of pairs.
mod report;
/// RTP streams by the hundred in one thread.
mod rtp_load;
/// The peer in media.
mod rtpengine;
/// Registrations and calls: Holdfast and Kamailio.
mod signaling;
/// A compose file brought up.
#[path = "../containers/stack.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod stack;
/// What calls and phones feel of a fault.
mod survival;
/// All calls of a process become another's.
mod takeover;
/// The sound of calls of an open loop.
mod talk;
/// CPU of process trees.
mod usage;
/// UDP in batches, with the kernel's time of arrival.
mod wire;
/// Processes and folders that end with the run.
mod world;

use clap::Parser;
use options::{Options, Work};
use world::World;

fn main() {
    let options = Options::parse();
    let world = World::new();
    let work = options.work();
    if work != [Work::Containers] {
        machine::describe(&options);
    }
    for work in work {
        match work {
            Work::Register => signaling::registrations(&options, &world),
            Work::Call => signaling::calls(&options, &world),
            Work::Relay => relay::relays(&options, &world),
            Work::Instructions => instructions::instructions(&options, &world),
            Work::Database => database::database(&options, &world),
            Work::Peak => peak::peak(&options, &world),
            Work::Observed => observed::observed(&options, &world),
            Work::Memory => memory::memory(&options, &world),
            Work::Survival => survival::survival(&options, &world),
            Work::Takeover => takeover::takeover(&options, &world),
            Work::Console => console::console(&options, &world),
            Work::Lists => lists::lists(&options, &world),
            Work::Containers => containers::containers(&options),
        }
    }
    drop(world);
}
