//! Where it was measured, how, and with which versions: what a reader needs before any figure.

use super::options::Options;
use super::postgres;
use super::world::{GENERATOR_CORE, SERVER_CORE, printed};
use super::{clock, engine, holdfast};
use std::fs;
use std::thread;

pub(crate) fn describe(options: &Options) {
    println!("# Holdfast and its peers\n");
    println!(
        "Servers and databases on core {SERVER_CORE}, generator on core {GENERATOR_CORE}; pairs \
         in turn (peer, Holdfast); {} s warm-up, {} s window.",
        options.warmup().as_secs_f32(),
        options.window().as_secs_f32()
    );
    println!(
        "CPU: user and system time of the process trees divided by what was done in the window. \
         Latency: from the scheduled send to the kernel's stamp of arrival; the generator sleeps \
         200 us at a time. Nothing is sent twice by the generator."
    );
    println!(
        "Registration: REGISTER, 401, REGISTER, 200. Call: INVITE with digest, 180 and 200 at \
         once, ACK, {} ms, BYE; Holdfast anchors media for each. `repeated`: what the server sent \
         twice. `strangers' cores`: CPU of all other processes, the noise.\n",
        options.hold().as_millis()
    );
    println!("- machine: {}, {} cores, {}", processor(), cores(), memory());
    println!("- kernel: {}", file("/proc/sys/kernel/osrelease"));
    println!("- load before: {}", file("/proc/loadavg"));
    println!("- work of a fixed size: {}", probe());
    println!("- Holdfast: {}", first_line(printed(holdfast::binary(), &["--version"])));
    println!("- {}", first_line(printed("kamailio", &["-v"])));
    println!("- rtpengine {}", first_line(printed("rtpengine", &["--version"])));
    println!("- {}", first_line(printed(postgres::program("postgres"), &["--version"])));
}

/// The same for a table of its own.
pub(crate) fn in_a_line(calls: usize) -> String {
    let docker =
        |format: &str| printed("docker", &["version", "--format", format]).trim().to_owned();
    format!(
        "{}, {} cores, {}, Linux {}, load {}; Docker Engine {}; {}; {}; {calls} calls.",
        processor(),
        cores(),
        memory(),
        file("/proc/sys/kernel/osrelease"),
        file("/proc/loadavg"),
        docker("{{.Server.Version}}"),
        first_line(engine::told(engine::compose(engine::Edition::Second).arg("version"))),
        first_line(printed(holdfast::binary(), &["--version"])),
    )
}

fn first_line(text: String) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn processor() -> String {
    let text = file("/proc/cpuinfo");
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn cores() -> usize {
    let text = file("/proc/stat");
    text.lines().filter(|line| line.starts_with("cpu")).count().saturating_sub(1)
}

fn memory() -> String {
    let text = file("/proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split(" kB").next());
    let total = total.and_then(|kb| kb.trim().parse::<u64>().ok()).unwrap_or(0);
    format!("{} GiB", (total + (1 << 19)) >> 20)
}

/// How long the same work takes, two hundred times: a host that steals time shows here.
fn probe() -> String {
    let mut times: Vec<u64> = (0..200)
        .map(|round| {
            let begin = clock::now();
            let sum = (0..100_000_u64).fold(round, |sum: u64, n| {
                core::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n))
            });
            core::hint::black_box(sum);
            let time = clock::now() - begin;
            thread::sleep(core::time::Duration::from_millis(2));
            time / 1_000
        })
        .collect();
    times.sort_unstable();
    format!("{} us, 99th percentile {} us, at most {} us", times[100], times[198], times[199])
}
