//! Registrations and calls: Kamailio and Holdfast in turn, at the same rate, for the same phones.

use super::holdfast::{Holdfast, Keeps};
use super::kamailio::{Dialogs, Kamailio, Settings};
use super::options::Options;
use super::phones::{Kind, Phones, Plan};
use super::report::{Case, Counted, Figures};
use super::usage::Meter;
use super::world::World;

const REGISTRATIONS_A_SECOND: u32 = 1_500;
const CALLS_A_SECOND: u32 = 400;
/// While everybody registers for the first time.
const FIRST_RATE: u32 = 2_000;

/// Whom to compare.
struct Pairing {
    name: &'static str,
    peer: &'static str,
    settings: Settings,
    keeps: Keeps,
    /// Measured in a quick run too.
    stands_for_its_kind: bool,
}

const MEMORY: Settings =
    Settings { locations_stored: false, credentials_selected: false, dialogs: Dialogs::None };
const STORED: Settings = Settings { locations_stored: true, ..MEMORY };

/// Refreshed registrations.
pub(crate) fn registrations(options: &Options, world: &World) {
    let pairings = [
        Pairing {
            name: "memory",
            peer: "Kamailio, memory only",
            settings: MEMORY,
            keeps: Keeps::Sqlite,
            stands_for_its_kind: true,
        },
        Pairing {
            name: "stored",
            peer: "Kamailio, write-through to PostgreSQL, credentials in memory",
            settings: STORED,
            keeps: Keeps::Postgres,
            stands_for_its_kind: true,
        },
        Pairing {
            name: "stored-credentials",
            peer: "Kamailio, write-through to PostgreSQL, credentials selected there",
            settings: Settings { credentials_selected: true, ..STORED },
            keeps: Keeps::Postgres,
            stands_for_its_kind: false,
        },
    ];
    let rate = options.rate(REGISTRATIONS_A_SECOND);
    run(options, world, Kind::Register, rate, &pairings);
}

/// Calls to registered users.
pub(crate) fn calls(options: &Options, world: &World) {
    let pairings = [
        Pairing {
            name: "proxy",
            peer: "Kamailio, stateful proxy, no dialogs",
            settings: MEMORY,
            keeps: Keeps::Sqlite,
            stands_for_its_kind: false,
        },
        Pairing {
            name: "memory",
            peer: "Kamailio, dialogs in memory",
            settings: Settings { dialogs: Dialogs::Memory, ..MEMORY },
            keeps: Keeps::Sqlite,
            stands_for_its_kind: true,
        },
        Pairing {
            name: "stored",
            peer: "Kamailio, dialogs stored in PostgreSQL in real time",
            settings: Settings { dialogs: Dialogs::Stored, ..MEMORY },
            keeps: Keeps::Postgres,
            stands_for_its_kind: true,
        },
    ];
    run(options, world, Kind::Call, options.rate(CALLS_A_SECOND), &pairings);
}

fn run(options: &Options, world: &World, kind: Kind, rate: u32, pairings: &[Pairing]) {
    let (what, unit) = match kind {
        Kind::Register => ("register", "registration"),
        Kind::Call => ("call", "call"),
    };
    let plan = Plan {
        kind,
        rate,
        warmup: options.warmup(),
        window: options.window(),
        hold: options.hold(),
    };
    for pairing in pairings {
        let name = format!("{what} {}", pairing.name);
        if !options.wants(&name, pairing.stands_for_its_kind) {
            continue;
        }
        let users = options.users();
        let holdfast_name = match pairing.keeps {
            Keeps::Sqlite => "Holdfast, SQLite",
            Keeps::Postgres | Keeps::Beside | Keeps::Watched => "Holdfast, PostgreSQL",
        };
        let title = format!("{name}, {rate}/s");
        let mut case = Case::new(title, unit, pairing.peer, holdfast_name);
        let peer = Kamailio::start(world, pairing.settings, users);
        let holdfast = Holdfast::start(world, pairing.keeps, users);
        let mut of_peer = Phones::new(peer.sip, users);
        let mut of_holdfast = Phones::new(holdfast.sip, users);
        for _ in 0..options.runs() {
            let first = measured(&mut of_peer, &plan, &peer.meter);
            let second = measured(&mut of_holdfast, &plan, &holdfast.meter);
            case.push(first, second);
        }
        case.print();
    }
}

pub(super) fn measured(phones: &mut Phones, plan: &Plan, meter: &Meter) -> Figures {
    // Anew before each run: what was registered before the other's run may have expired.
    phones.register_all(FIRST_RATE);
    let seen = phones.run(plan, meter);
    let offered = f64::from(plan.rate) * plan.window.as_secs_f64();
    let counted = Counted {
        units: seen.done,
        offered: offered as usize,
        failed: seen.failed,
        repeated: seen.repeated,
        latencies: seen.latencies,
        late: seen.late,
    };
    Figures::new(counted, &seen.used)
}
