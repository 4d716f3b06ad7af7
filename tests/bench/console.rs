//! The console in a browser while thousands of calls are up and hundreds of things happen a second: how long frames
//! take, what blocks the page for longer than 50 ms (long tasks), and what it holds.
//!
//! Invariant: what the page shows is right at the end, by the API; frames are counted by the page itself.

use super::cluster::{Cluster, Plan};
use super::common::chromium::Chromium;
use super::holdfast::TOKEN;
use super::options::Options;
use super::phones::{Kind, Phones, Plan as Load};
use super::usage::Meter;
use super::world::World;
use serde_json::Value;
use std::thread;
use std::time::Duration;

const CALLS: usize = 5_000;
/// Callers and callees have many calls each.
const USERS: usize = 2_000;
const REGISTRATIONS_A_SECOND: u32 = 1_000;
const ESTABLISHED_A_SECOND: u32 = 200;
/// Calls that come and go meanwhile.
const CALLS_A_SECOND: u32 = 100;
/// It begins, rings, is answered, ends.
const EVENTS_A_CALL: u32 = 4;
const HOLD: Duration = Duration::from_secs(2);
/// Views, and whether the width is a desktop's.
const VIEWS: [(&str, u32); 4] = [("calls", 1280), ("", 1280), ("events", 1280), ("calls", 390)];

/// Counts frames and long tasks from now on.
const WATCH: &str = "(() => {
    const seen = { frames: [], tasks: [], last: performance.now(), on: true };
    window.seen = seen;
    seen.observer = new PerformanceObserver((list) => {
        for (const task of list.getEntries()) seen.tasks.push(task.duration);
    });
    seen.observer.observe({ entryTypes: ['longtask'] });
    const frame = (now) => {
        seen.frames.push(now - seen.last);
        seen.last = now;
        if (seen.on) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
})()";
/// What was counted since.
const TELL: &str = "(() => {
    const seen = window.seen;
    seen.on = false;
    seen.observer.disconnect();
    const frames = seen.frames.slice(1).sort((one, other) => one - other);
    const at = (share) => frames[Math.min(frames.length - 1, Math.floor(frames.length * share))];
    return { frames: frames.length, middle: at(0.5), late: at(0.99), most: at(1),
        tasks: seen.tasks.length, longest: Math.max(0, ...seen.tasks),
        nodes: document.querySelectorAll('*').length };
})()";

/// Each view in turn.
pub(crate) fn console(options: &Options, world: &World) {
    world.make_room();
    let calls = options.calls(CALLS);
    let plan = Plan { signaling: 2, media: 2, users: USERS, calls, apart: false };
    let cluster = Cluster::start(world, &plan);
    let mut phones = Phones::new(cluster.sip, USERS);
    phones.register_all(REGISTRATIONS_A_SECOND);
    let established = phones.establish(calls, ESTABLISHED_A_SECOND);
    assert_eq!(established, calls, "calls that are established");
    let mut browser = Chromium::start(1280, 900);
    let admin = cluster.admin(0);
    browser.open(&format!("http://{admin}/"));
    browser.fill("input[name=token]", TOKEN);
    browser.click("button", "Sign in");
    let rate = options.rate(CALLS_A_SECOND);
    println!(
        "\n**console** with {calls} calls up, {rate} more that come and go a second: {} events\n",
        rate * EVENTS_A_CALL
    );
    println!(
        "| view | frames a second | frame ms p50 / p99 / most | long tasks, \
         longest ms | nodes of the page | heap MiB before, after |"
    );
    println!("|---|---|---|---|---|---|");
    for (view, width) in VIEWS {
        browser.resize(width, 900);
        browser.value(&format!("location.hash = '#/{view}'"));
        let shown = if view == "calls" { "tr.open" } else { ".card" };
        browser.wait(&format!("document.querySelector('{shown}')"));
        let window = options.window().max(Duration::from_secs(2));
        let load = Load { kind: Kind::Call, rate, warmup: options.warmup(), window, hold: HOLD };
        let before = browser.heap();
        browser.value(WATCH);
        let seen = phones.run(&load, &Meter::default());
        let told = browser.value(TELL);
        // Until the last of them are over.
        thread::sleep(Duration::from_secs(1));
        if let Some(folder) = options.profiles() {
            browser.picture(&folder.join(format!("console-{view}-{width}.png")));
        }
        let took = (load.warmup + load.window + HOLD).as_secs_f64();
        print(&format!("{view} {width}"), took, &told, [before, browser.heap()]);
        assert_eq!(seen.failed, 0, "calls that failed");
        if view == "calls" {
            check(&mut browser, calls);
        }
    }
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

/// All calls are counted, and no more than a page of them is in the document.
fn check(browser: &mut Chromium, calls: usize) {
    let told = format!("{},{:03} of", calls / 1_000, calls % 1_000);
    if calls >= 1_000 {
        browser.wait_for(&told);
    }
    let rows = browser.value("document.querySelectorAll('tr.open').length");
    assert_eq!(rows.as_u64(), u64::try_from(calls.min(200)).ok(), "rows");
}

fn print(view: &str, took: f64, told: &Value, heap: [f64; 2]) {
    let number = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
    println!(
        "| {view} | {:.0} | {:.1} / {:.1} / {:.1} | {}, {:.0} | {} | {:.1}, {:.1} |",
        number("frames") / took,
        number("middle"),
        number("late"),
        number("most"),
        told["tasks"],
        number("longest"),
        told["nodes"],
        heap[0],
        heap[1],
    );
}
