//! The list of live calls while thousands are up and hundreds come, change and go a second: its rows stay right and
//! few, and what the page holds does not grow.
//!
//! The calls are events in the store of a real server, as its commits would write them: no phone could make so many.

use super::kept::Kept;
use super::{Chromium, Server, go, signed_in};
use serde_json::{Value, json};

/// Up all the time.
const CALLS: usize = 5_000;
/// Calls that begin and end meanwhile, each with all that a call tells of.
const PASSING: usize = 400;
/// Rows that the list shows before it is asked for more.
const SHOWN: usize = 200;

/// Ids sort by time, as those of calls do.
fn id(number: usize) -> String {
    format!("01920000-0000-7000-8000-{number:012}")
}

fn event(number: usize, kind: &str, more: &Value) -> Value {
    let mut event = json!({
        "type": kind, "at": "2026-01-31T12:00:00.000Z", "node": "test",
        "call_id": id(number), "caller": format!("a{number}"), "callee": format!("b{number}"),
    });
    for (name, value) in more.as_object().expect("an object") {
        event[name] = value.clone();
    }
    event
}

fn created(number: usize) -> Value {
    event(number, "call.created", &json!({}))
}

/// Who stands in the rows, from the top, and how their calls are.
const ROWS: &str = "[...document.querySelectorAll('tr.open')].map((row) =>
    [row.querySelector('[data-name=Caller]').textContent, row.querySelector('.state').textContent])";

#[test]
fn a_list_of_thousands_stays_right_and_small_while_hundreds_change_a_second() {
    let server = Server::start();
    let events = Kept::of(&server);
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "calls");
    for first in (0..CALLS).step_by(500) {
        events.tell((first..first + 500).map(created).collect());
    }
    browser.wait_for("5,000 of 5,000");
    let newest = |number: usize| json!([format!("a{number}"), "Calling"]);
    let expect: Vec<Value> = (0..SHOWN).map(|row| newest(CALLS - 1 - row)).collect();
    assert_eq!(browser.value(ROWS), Value::from(expect), "the newest, in their order");
    let size = |browser: &mut Chromium| {
        let nodes = browser.value("document.querySelectorAll('*').length");
        (nodes.as_u64().expect("a number"), browser.heap())
    };
    // Twice: what is held for good, such as what is shown of the newest events, is there after the first.
    let mut sizes = Vec::new();
    for round in 0..3 {
        pass(&events, CALLS + round * PASSING);
        let last = CALLS + (round + 1) * PASSING - 1;
        browser
            .wait(&format!("document.querySelector('tr.open')?.textContent.includes('a{last}')"));
        browser.wait_for("5,001 of 5,001");
        events.tell(vec![event(last, "call.ended", &ended())]);
        browser.wait_for("5,000 of 5,000");
        sizes.push(size(&mut browser));
    }
    // Of those that stay every second one is answered by now, and some are held.
    let state = |number: usize| match number {
        number if number % 10 == 0 => "On hold",
        number if number % 2 == 0 => "Talking",
        _ => "Calling",
    };
    let row = |row: usize| {
        let number = CALLS - 1 - row;
        json!([format!("a{number}"), state(number)])
    };
    let expect = Value::from_iter((0..SHOWN).map(row));
    browser.wait(&format!("JSON.stringify({ROWS}) === {}", Value::from(expect.to_string())));
    let [(nodes, heap), .., (nodes_after, heap_after)] = sizes[..] else { panic!("three") };
    assert!(nodes < 5_000 && nodes.abs_diff(nodes_after) < 100, "{sizes:?}");
    // A round tells of half a megabyte: were its calls kept, or rows that are gone, it would be seen.
    assert!(heap_after < heap + 1.0, "MiB: {sizes:?}");
    browser.fill("input[type=search]", "a4321");
    browser.wait_for("1 of 5,000");
    assert_eq!(browser.value(ROWS).as_array().map(Vec::len), Some(1));
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

fn ended() -> Value {
    json!({"disposition": "answered", "end_cause": "bye", "ended_by": "caller", "sip_status": 200,
        "reason": null, "duration_ms": 1000, "billable_ms": 500})
}

/// Calls come and go, but for the last, which stays; those that are there are answered and held meanwhile.
fn pass(events: &Kept, first: usize) {
    let answered = json!({"answered_by": "b", "setup_ms": 5});
    for begin in (first..first + PASSING).step_by(40) {
        let passing = begin..begin + 40;
        events.tell(passing.clone().map(created).collect());
        let mut told: Vec<Value> =
            passing.clone().map(|number| event(number, "call.answered", &answered)).collect();
        let own = begin - CALLS;
        let staying = (CALLS - 1_200 + own)..(CALLS - 1_160 + own);
        for number in staying.filter(|number| number % 2 == 0) {
            told.push(event(number, "call.answered", &answered));
            if number % 10 == 0 {
                told.push(event(number, "call.held", &json!({"leg": 0, "role": "caller"})));
            }
        }
        events.tell(told);
        let over = passing.filter(|number| number % PASSING != (first + PASSING - 1) % PASSING);
        events.tell(over.map(|number| event(number, "call.ended", &ended())).collect());
    }
}
