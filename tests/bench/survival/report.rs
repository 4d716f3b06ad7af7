//! What came of a fault, as a row of a table.

use super::super::clock::Nanos;
use super::crowd::Crowd;
use super::fault::Fault;
use super::pair::{Class, Entry, Pair, Use};
use serde_json::Value;
use std::collections::HashMap;

/// A CDR may differ by so much from what phones saw: a lost datagram is sent again after half a second, a lost answer a
/// second later.
const TOLERANCE_MS: i64 = 2_000;
/// A silence that a person may hear, and one that everybody does.
const AUDIBLE: Nanos = 60_000_000;
const LONG: Nanos = 1_000_000_000;
/// What is asked later has other reasons.
const RINGS: Nanos = 10_000_000_000;

pub(super) fn print_head() {
    println!(
        "| fault | sound at the end | packets lost | silence p50 / p95 / p99 / max ms | directions \
         > 60 ms / > 1 s | ringing: answered, heard | about the fault: 2xx, took p95 / max ms, \
         after the fault p95 / max ms | BYE 200 | hold, resume 200, heard again | refused by rude \
         | new calls failed | REGISTER failed | TCP broken | unexpected BYE | CDRs due, lost, \
         double, wrong | process over after ms | re-INVITE came after p50 / p95 / max ms \
         | generator late ms |"
    );
    println!("|{}", "---|".repeat(18));
}

/// One row. When the fault began, and when the process that was told to leave was over.
pub(super) fn print(
    fault: &Fault,
    crowd: &Crowd,
    (begin, left): (Nanos, Option<Nanos>),
    cdrs: &[Value],
) {
    let cells = [
        fault.name.to_owned(),
        sound(crowd),
        lost(crowd),
        silence(crowd),
        ringing(crowd),
        early(crowd, begin),
        uses(crowd).join(" | "),
        others(crowd),
        book(&crowd.book(), cdrs),
        left.map_or_else(|| "-".to_owned(), |left| format!("{:.0}", ms(left))),
        asked(crowd, begin),
        format!("{:.1}", ms(crowd.audio.late)),
    ];
    println!("| {} |", cells.join(" | "));
}

/// The row of a fault of containers, whose act took so long.
pub(crate) fn row(name: &str, took: Nanos, crowd: &Crowd, cdrs: &[Value]) -> String {
    let [used, holds, _] = uses(crowd);
    let cells = [
        name.to_owned(),
        format!("{:.1}", ms(took) / 1e3),
        sound(crowd),
        lost(crowd),
        silences(crowd),
        held(crowd),
        ringing(crowd),
        used,
        holds,
        format!("{} of {}", crowd.short_failures, crowd.short_calls),
        crowd.register_failures.to_string(),
        book(&crowd.book(), cdrs),
        format!("{:.0}", ms(crowd.audio.late)),
    ];
    format!("| {} |", cells.join(" | "))
}

/// Of `row`.
pub(crate) const HEAD: &str = "| fault | it took s | confirmed: sound at the end | packets lost | longest silence ms: \
    callers p50 / max, callees p50 / max | held: resumed, heard | ringing: answered, heard | BYE 200 | hold, resume 200, \
    heard again | new calls failed | REGISTER failed | CDRs due, lost, double, wrong | generator late ms |";

fn ms(time: Nanos) -> f64 {
    time as f64 / 1e6
}

fn talking(crowd: &Crowd) -> impl Iterator<Item = (usize, &Pair)> {
    crowd.pairs.iter().enumerate().filter(|(_, pair)| pair.class == Class::Talking)
}

fn sound(crowd: &Crowd) -> String {
    let heard = talking(crowd).filter(|(_, pair)| pair.heard).count();
    format!("{heard}/{}", talking(crowd).count())
}

/// Of calls that were there all the time; and what was on its way when a call was ended or held in the meantime, which is
/// nobody's loss.
fn lost(crowd: &Crowd) -> String {
    let of = |is_early| {
        let pairs = talking(crowd).filter(move |(_, pair)| pair.is_early == is_early);
        let ears = pairs.flat_map(|(pair, _)| [2 * pair, 2 * pair + 1]);
        ears.fold((0, 0), |(sent, lost), phone| {
            let ear = crowd.audio.ear(phone);
            (sent + ear.sent, lost + ear.sent.saturating_sub(ear.came))
        })
    };
    let ((sent, lost), (_, overtaken)) = (of(false), of(true));
    match overtaken {
        0 => format!("{lost} of {sent}"),
        _ => format!("{lost} of {sent}, {overtaken} overtaken"),
    }
}

/// Of calls that were there to the end of the window: who hangs up hears nothing any more.
fn silence(crowd: &Crowd) -> String {
    let pairs = talking(crowd).filter(|(_, pair)| !pair.is_early);
    let ears = pairs.flat_map(|(pair, _)| [2 * pair, 2 * pair + 1]);
    let mut longest: Vec<Nanos> = ears.map(|phone| crowd.audio.ear(phone).longest).collect();
    let above = |bound| longest.iter().filter(|silence| **silence > bound).count();
    let (audible, long) = (above(AUDIBLE), above(LONG));
    format!("{} | {audible} / {long}", quantiles(&mut longest, &[50, 95, 99, 100]))
}

/// What callers did not hear, and what callees did not.
fn silences(crowd: &Crowd) -> String {
    let of_side = |side: usize| {
        let longest = talking(crowd).map(|(pair, _)| crowd.audio.ear(2 * pair + side).longest);
        quantiles(&mut longest.collect::<Vec<_>>(), &[50, 100])
    };
    format!("{}, {}", of_side(0), of_side(1))
}

/// Phones that were asked within their dialogs, though nobody used their calls: when, the first time.
fn asked(crowd: &Crowd, begin: Nanos) -> String {
    let mut first = HashMap::new();
    let is_at_rest = |phone: usize| !crowd.pairs[phone / 2].is_early;
    let asked = crowd.asked.iter().filter(|(phone, _)| is_at_rest(*phone));
    for (phone, at) in asked.filter_map(|(phone, at)| Some((phone, at.checked_sub(begin)?))) {
        first.entry(phone).or_insert(at);
    }
    let mut times: Vec<Nanos> = first.into_values().filter(|at| *at < RINGS).collect();
    format!("{}: {}", times.len(), quantiles(&mut times, &[50, 95, 100]))
}

fn held(crowd: &Crowd) -> String {
    let all = || crowd.pairs.iter().filter(|pair| pair.class == Class::Held);
    let resumed = all().filter(|pair| pair.resume == Some(200)).count();
    let heard = all().filter(|pair| pair.heard_again).count();
    format!("{resumed}, {heard} of {}", all().count())
}

fn ringing(crowd: &Crowd) -> String {
    let all = || crowd.pairs.iter().filter(|pair| pair.class == Class::Ringing);
    let answered = all().filter(|pair| pair.answered.is_some()).count();
    let heard = all().filter(|pair| pair.heard).count();
    format!("{answered}, {heard} of {}", all().count())
}

/// Requests within a second of the begin of the fault. A rude phone's refusal is an answer like another.
fn early(crowd: &Crowd, begin: Nanos) -> String {
    let tried = || crowd.pairs.iter().filter(|pair| pair.is_early);
    let well = || tried().filter_map(|pair| pair.early.filter(|early| is_well(pair, early.status)));
    let mut took: Vec<Nanos> = well().map(|early| early.answered - early.asked).collect();
    let mut after: Vec<Nanos> =
        well().filter_map(|early| early.answered.checked_sub(begin)).collect();
    format!(
        "{} of {}, {}, {}",
        well().count(),
        tried().count(),
        quantiles(&mut took, &[95, 100]),
        quantiles(&mut after, &[95, 100])
    )
}

fn is_well(pair: &Pair, status: u16) -> bool {
    let is_refused = pair.is_rude && pair.usage == Use::CallerHolds && status == 488;
    (200..300).contains(&status) || is_refused
}

fn uses(crowd: &Crowd) -> [String; 3] {
    let used = || crowd.pairs.iter().filter(|pair| pair.class != Class::Calling && !pair.is_early);
    let is_ok = |status: Option<u16>| status == Some(200);
    let byes = used().filter(|pair| is_ok(pair.bye)).count();
    let is_asked =
        |pair: &&Pair| pair.usage == Use::CallerHolds && !pair.is_rude && pair.class != Class::Held;
    let holds = || used().filter(is_asked);
    let held = holds().filter(|pair| is_ok(pair.hold)).count();
    let resumed = holds().filter(|pair| is_ok(pair.resume)).count();
    let heard = holds().filter(|pair| pair.heard_again).count();
    [
        format!("{byes}/{}", used().count()),
        format!("{held}, {resumed}, {heard} of {}", holds().count()),
        crowd.refusals.to_string(),
    ]
}

fn others(crowd: &Crowd) -> String {
    format!(
        "{} of {} | {} | {} | {}",
        crowd.short_failures,
        crowd.short_calls,
        crowd.register_failures,
        crowd.broken(),
        crowd.pairs.iter().map(|pair| pair.unexpected).sum::<usize>()
    )
}

/// Every call that was answered has its CDR; those that failed have theirs too, so to count them is not enough.
pub(super) fn are_all(due: &[Entry], cdrs: &[Value]) -> bool {
    let known = by_call(cdrs);
    due.iter().all(|entry| known.contains_key(entry.call_id.as_str()))
}

fn by_call(cdrs: &[Value]) -> HashMap<&str, Vec<&Value>> {
    let mut by_call: HashMap<&str, Vec<&Value>> = HashMap::new();
    for cdr in cdrs {
        let legs = cdr["legs"].as_array().into_iter().flatten();
        let caller = legs.clone().find(|leg| leg["role"] == "caller");
        if let Some(call) = caller.and_then(|leg| leg["call_id"].as_str()) {
            by_call.entry(call).or_default().push(cdr);
        }
    }
    by_call
}

/// Each call that was answered has one CDR, which says how long it was.
fn book(due: &[Entry], cdrs: &[Value]) -> String {
    let by_call = by_call(cdrs);
    let (mut lost, mut double, mut wrong) = (0, 0, 0);
    for entry in due {
        let found = by_call.get(entry.call_id.as_str()).map_or(&[][..], Vec::as_slice);
        if found.is_empty() {
            eprintln!("no CDR of {}", entry.call_id);
            lost += 1;
        }
        double += found.len().saturating_sub(1);
        let seen =
            i64::try_from(entry.ended.saturating_sub(entry.answered) / 1_000_000).unwrap_or(0);
        let differs = |cdr: &&&Value| {
            let told = cdr["billable_ms"].as_i64().unwrap_or(-1);
            let is_wrong = (told - seen).abs() > TOLERANCE_MS;
            if is_wrong {
                eprintln!("the phones of {} saw {seen} ms: {cdr}", entry.call_id);
            }
            is_wrong
        };
        wrong += found.first().filter(differs).map_or(0, |_| 1);
    }
    format!("{}, {lost}, {double}, {wrong}", due.len())
}

fn quantiles(values: &mut [Nanos], percents: &[usize]) -> String {
    values.sort_unstable();
    let at = |percent: &usize| {
        let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
        values.get(index).map_or_else(|| "-".to_owned(), |value| format!("{:.0}", ms(*value)))
    };
    percents.iter().map(at).collect::<Vec<_>>().join(" / ")
}
