//! Memory of a registration and of a call that nobody touches: resident anonymous pages of the signaling and the media
//! process, before and after there are so many of them.

use super::holdfast::{Holdfast, Keeps, MANY_CALLS, Runs, Settings};
use super::options::Options;
use super::phones::Phones;
use super::world::World;
use std::fs;
use std::thread;
use std::time::Duration;

const REGISTRATIONS_A_SECOND: u32 = 1_500;
const CALLS_A_SECOND: u32 = 200;
/// Changes of the directory are looked for once a second.
pub(super) const DIRECTORY: Duration = Duration::from_secs(4);
/// Transactions of the set-up are over (RFC 3261 §17: 32 s), and the allocator has given back what it held.
const REST: Duration = Duration::from_secs(40);

/// Users register, then as many calls as are wanted are made and left.
pub(crate) fn memory(options: &Options, world: &World) {
    let (users, calls) = (options.users(), options.relay_calls().into_iter().max().unwrap_or(1));
    let room = Settings { media: &[MANY_CALLS], ..Settings::default() };
    let holdfast = Holdfast::start_as(world, Runs::Plainly, Keeps::Postgres, users, &room);
    let mut phones = Phones::new(holdfast.sip, users);
    // A node reads its users after their import.
    thread::sleep(DIRECTORY);
    let empty = Resident::of(&holdfast);
    phones.register_all(REGISTRATIONS_A_SECOND);
    thread::sleep(Duration::from_secs(2));
    let registered = Resident::of(&holdfast);
    let established = phones.establish(calls, CALLS_A_SECOND);
    // Nothing is repeated: on a busy machine a datagram of some calls is lost.
    assert!(established * 20 >= calls * 19, "{established} of {calls} calls are established");
    thread::sleep(REST);
    let talking = Resident::of(&holdfast);
    println!("\n**memory**, {users} registrations, then {calls} calls\n");
    println!("| bytes | signaling | media |");
    println!("|---|---|---|");
    registered.print("a registration", &empty, users);
    talking.print("an idle call", &registered, established);
    phones.hang_up(CALLS_A_SECOND);
}

/// kB of both processes.
struct Resident([u64; 2]);

impl Resident {
    fn of(holdfast: &Holdfast) -> Self {
        let id = |part| holdfast.meter.0.iter().find(|(name, _)| *name == part).map(|(_, id)| *id);
        Self(["signaling", "media"].map(|part| id(part).map_or(0, resident)))
    }

    fn print(&self, what: &str, before: &Self, count: usize) {
        let bytes = |at: usize| (self.0[at].saturating_sub(before.0[at])) * 1_024 / count as u64;
        println!("| {what} | {} | {} |", bytes(0), bytes(1));
    }
}

/// Anonymous pages of a process, in kB.
pub(super) fn resident(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kb.expect("a process that lives")
}
