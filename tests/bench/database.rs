//! What PostgreSQL does for a registration and a call: statements, rows, what they touch of tables and of the log.
//!
//! Counted by the server itself, so it shows on a busy machine too what a change of a statement or an index does. The
//! times are the server's own, with what it waits for: they are for comparing statements of one run with each other.

use super::holdfast::{Holdfast, Keeps};
use super::options::Options;
use super::phones::{Kind, Phones, Plan};
use super::postgres::Postgres;
use super::world::{Side, World};
use std::thread;
use std::time::Duration;

const RATES: [(&str, Kind, u32); 2] =
    [("register", Kind::Register, 1_500), ("call", Kind::Call, 400)];
const FIRST_RATE: u32 = 2_000;
/// Characters of a statement that are shown.
const SHOWN: usize = 60;
/// The server's processes tell what they counted a second late at most.
const LAG: Duration = Duration::from_millis(1_500);

const RESET: &str =
    "select pg_stat_statements_reset(), pg_stat_reset(), pg_stat_reset_shared('wal');";
const LOG: &str = "select wal_records, wal_fpi, wal_bytes, wal_write, wal_sync from pg_stat_wal;";
const TABLES: &str =
    "select relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, seq_scan, idx_scan
    from pg_stat_user_tables where n_tup_ins + n_tup_upd + n_tup_del + seq_scan + idx_scan > 0
    order by n_tup_ins + n_tup_upd desc;";
const STATEMENTS: &str = "select calls, rows, round(total_exec_time::numeric, 1),
    shared_blks_hit, wal_bytes, regexp_replace(query, '\\s+', ' ', 'g')
    from pg_stat_statements where calls > 10 order by total_exec_time desc limit 12;";

pub(crate) fn database(options: &Options, world: &World) {
    for (name, kind, rate) in RATES {
        if options.wants(name, true) {
            count(options, world, (name, kind, options.rate(rate)));
        }
    }
}

fn count(options: &Options, world: &World, (name, kind, rate): (&str, Kind, u32)) {
    let users = options.users();
    let holdfast = Holdfast::start(world, Keeps::Watched, users);
    let server = world.database(Side::Watched);
    server.run("holdfast", "create extension if not exists pg_stat_statements;");
    let mut phones = Phones::new(holdfast.sip, users);
    phones.register_all(FIRST_RATE);
    let (warmup, window, hold) = (Duration::ZERO, options.window(), options.hold());
    let plan = Plan { kind, rate, warmup, window, hold };
    thread::sleep(LAG);
    server.run("holdfast", RESET);
    let seen = phones.run(&plan, &holdfast.meter);
    thread::sleep(LAG);
    let units = seen.latencies.len().max(1) as f64;
    println!(
        "\n**database**, {units} x {name} at {rate}/s, {} failed; all a {name}\n",
        seen.failed
    );
    table(server, "log records|full pages|bytes|writes|syncs", LOG, units);
    table(server, "table|inserted|updated|of it HOT|deleted|scans|index scans", TABLES, units);
    table(server, "calls|rows|ms|pages|log bytes|statement", STATEMENTS, units);
}

/// What is a number is told by the unit.
fn table(server: &Postgres, head: &str, query: &str, units: f64) {
    let columns = head.split('|').count();
    println!("| {} |\n|{}", head.replace('|', " | "), "---|".repeat(columns));
    for line in server.asked("holdfast", query).lines() {
        let cells = line.splitn(columns, '|').map(|cell| match cell.parse::<f64>() {
            Ok(number) => format!("{:.3}", number / units),
            Err(_) => cell.chars().take(SHOWN).collect(),
        });
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!();
}
