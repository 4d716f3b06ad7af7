//! What befalls containers, and how all are brought back.

use super::super::common::{SOON, eventually};
use super::super::stack::{Container, Stack};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Two signaling and two media processes.
pub(super) const NODES: usize = 4;
/// Longer than two leases.
const FROZEN: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(5);
/// Volumes of `compose.yaml` and their sizes.
pub(super) const SMALL_DISKS: [(&str, &str); 2] = [("data", "256m"), ("database", "512m")];

/// One row of the table.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) act: fn(&Stack),
    /// Also in a quick run.
    pub(super) stands_for_its_kind: bool,
}

const fn fault(name: &'static str, act: fn(&Stack)) -> Fault {
    Fault { name, act, stands_for_its_kind: false }
}

/// All of them. What is done to one container is done to the first of its service, which has about half of the calls.
pub(super) const FAULTS: [Fault; 26] = [
    Fault { stands_for_its_kind: true, ..fault("none", |_| {}) },
    Fault {
        stands_for_its_kind: true,
        ..fault("signaling: process killed", |stack| first(stack, "signaling").crash())
    },
    fault("signaling: stop", |stack| first(stack, "signaling").docker("stop")),
    fault("signaling: restart", |stack| first(stack, "signaling").docker("restart")),
    fault("signaling: pause for 10 s", |stack| freeze(stack, "signaling")),
    fault("media: process killed", |stack| first(stack, "media").crash()),
    fault("media: stop", |stack| first(stack, "media").docker("stop")),
    fault("media: restart", |stack| first(stack, "media").docker("restart")),
    fault("media: pause for 10 s", |stack| freeze(stack, "media")),
    fault("postgres: process killed", |stack| first(stack, "postgres").crash()),
    fault("postgres: stop, start after 5 s", |stack| {
        first(stack, "postgres").docker("stop");
        thread::sleep(AWAY);
        first(stack, "postgres").docker("start");
    }),
    fault("postgres: restart", |stack| first(stack, "postgres").docker("restart")),
    fault("postgres: pause for 10 s", |stack| freeze(stack, "postgres")),
    fault("all signaling: killed at once", |stack| crash_all(stack, &["signaling"])),
    fault("all media: killed at once", |stack| crash_all(stack, &["media"])),
    fault("compose restart signaling", |stack| _ = stack.compose(&["restart", "signaling"])),
    fault("compose restart media", |stack| _ = stack.compose(&["restart", "media"])),
    fault("compose restart", |stack| _ = stack.compose(&["restart"])),
    fault("compose up --force-recreate signaling", |stack| recreate(stack, &["signaling"])),
    fault("compose up --force-recreate signaling media", |stack| {
        recreate(stack, &["signaling", "media"]);
    }),
    fault("compose up --force-recreate", |stack| recreate(stack, &[])),
    fault("compose up --scale signaling=3, and back to 2", |stack| {
        scale(stack, 3, 2);
        scale(stack, 2, 2);
    }),
    fault("compose up --scale media=3, and back to 2", |stack| {
        scale(stack, 2, 3);
        scale(stack, 2, 2);
    }),
    fault("data volume full for 10 s", |stack| fill(stack, "/var/lib/holdfast")),
    fault("database volume full for 10 s", |stack| fill(stack, "/var/lib/database")),
    fault("all killed; the database comes back 10 s later (host reboot)", reboot),
];

fn first(stack: &Stack, service: &str) -> Container {
    stack.containers(service).into_iter().next().expect("a container")
}

fn freeze(stack: &Stack, service: &str) {
    let container = first(stack, service);
    container.docker("pause");
    thread::sleep(FROZEN);
    container.docker("unpause");
}

/// Docker starts them again, each as soon as it is gone.
fn crash_all(stack: &Stack, services: &[&str]) {
    let containers: Vec<_> =
        services.iter().flat_map(|service| stack.containers(service)).collect();
    thread::scope(|scope| containers.iter().for_each(|one| _ = scope.spawn(|| one.crash())));
}

fn recreate(stack: &Stack, services: &[&str]) {
    let up = ["up", "-d", "--no-build", "--force-recreate", "--no-deps"];
    stack.compose(&[&up[..], services].concat());
}

fn scale(stack: &Stack, signaling: usize, media: usize) {
    let scales = [format!("signaling={signaling}"), format!("media={media}")];
    let up = ["up", "-d", "--no-build", "--no-recreate"];
    stack.compose(&[&up[..], &["--scale", &scales[0], "--scale", &scales[1]]].concat());
    stack.wait_for_nodes(signaling + media);
}

/// To the last byte, by a file that is taken away after a while.
fn fill(stack: &Stack, folder: &str) {
    let postgres = first(stack, "postgres");
    let file = format!("{folder}/fills-the-volume");
    let shell = |line: &str| {
        let mut command = Command::new("docker");
        command.args(["exec", &postgres.0, "sh", "-c", line]);
        command.output().expect("docker runs")
    };
    // It ends with "no space left on device".
    let filled = shell(&format!("dd if=/dev/zero of={file} bs=64k"));
    assert!(!filled.status.success(), "the volume has an end");
    thread::sleep(FROZEN);
    // A database that has no room may be starting again.
    eventually("there is room again", SOON * 3, || {
        shell(&format!("rm -f {file}")).status.success().then_some(())
    });
}

/// As after a power cut: all are gone at once, and the daemon starts them in an order that nobody chose.
fn reboot(stack: &Stack) {
    let all = ["postgres", "signaling", "media"].map(|service| stack.containers(service));
    let ids: Vec<&str> = all.iter().flatten().map(|container| container.0.as_str()).collect();
    let docker = |arguments: &[&str]| _ = super::super::engine::docker(arguments);
    docker(&[&["kill"][..], &ids].concat());
    let [postgres, others @ ..] = &all;
    for container in others.iter().rev().flatten() {
        container.docker("start");
    }
    thread::sleep(FROZEN);
    postgres.iter().for_each(|container| container.docker("start"));
    stack.wait_for_nodes(NODES);
}

/// Whatever was done: two and two and one run again.
pub(super) fn mend(stack: &Stack) {
    for service in ["postgres", "signaling", "media"] {
        for container in stack.containers(service) {
            container.docker("start");
        }
    }
}
