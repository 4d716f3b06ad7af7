//! Hosts of a test's own: network namespaces joined by a bridge. The test itself lives in one of them, with its phones
//! and its database. Nothing of it outlives the test's threads and processes.
//!
//! Namespaces must be permitted (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN): where they are not, the test fails. Who
//! cannot have them sets `WITHOUT_NAMESPACES=1`, and the output says what was left out.

use super::{is_left_out, own_name, set_own_ip};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

/// None of IPv6 comes by itself a second later: browsers break off what they load when an address comes.
const NO_LATE_ADDRESS: &str = "addrgenmode none";
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What a test is given.
pub(crate) struct Network(());

/// Another host of the network.
pub(crate) struct Machine {
    namespace: File,
    pub(crate) ip: Ipv4Addr,
    /// The bridge's end of its cable.
    wire: String,
}

/// Runs a test in a network of its own.
pub(crate) fn in_a_network(test: impl FnOnce(&Network) + Send) {
    if is_left_out(&own_name(), "WITHOUT_NAMESPACES") {
        return;
    }
    thread::scope(|scope| {
        let name = own_name();
        let body = move || {
            enter_new();
            ip("link set lo up");
            let own = lay_cables();
            set_own_ip(own);
            test(&Network(()));
        };
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, body);
        if let Err(panic) = thread.expect("a thread").join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A switch for hosts where this thread is, which has that address there.
pub(crate) fn lay_cables() -> Ipv4Addr {
    ip("link add switch type bridge");
    ip(&format!("addr add {OWN}/24 dev switch"));
    ip(&format!("link set switch {NO_LATE_ADDRESS} up"));
    OWN
}

impl Network {
    /// The host with that number, on the cable.
    pub(crate) fn machine(&self, number: u8) -> Machine {
        Machine::wired(Ipv4Addr::new(10, 77, 0, number))
    }
}

impl Machine {
    /// A new host, by its cable at the switch of where this thread is.
    pub(crate) fn wired(ip_address: Ipv4Addr) -> Self {
        let namespace = thread::scope(|scope| {
            let made = scope.spawn(|| {
                enter_new();
                File::open("/proc/thread-self/ns/net").expect("a namespace is a file")
            });
            made.join().expect("a namespace")
        });
        let wire = format!("to{}", ip_address.octets()[3]);
        let machine = Self { namespace, ip: ip_address, wire };
        let inside = format!("/proc/{}/fd/{}", std::process::id(), machine.namespace.as_raw_fd());
        ip(&format!("link add {} type veth peer name cable netns {inside}", machine.wire));
        ip(&format!("link set {} master switch", machine.wire));
        machine.within(|| {
            ip("link set lo up");
            ip(&format!("addr add {}/24 dev cable", machine.ip));
            ip(&format!("link set cable {NO_LATE_ADDRESS} up"));
        });
        ip(&format!("link set {} {NO_LATE_ADDRESS} up", machine.wire));
        machine
    }

    /// Does something there; processes that it starts stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let name = own_name();
        thread::scope(|scope| {
            let inside = || {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
                set_own_ip(self.ip);
                work()
            };
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside);
            match thread.expect("a thread").join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The same by this thread itself: what it starts may not outlive the thread that started it.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let home = File::open("/proc/thread-self/ns/net").expect("a namespace is a file");
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
        let done = work();
        setns(&home, CloneFlags::CLONE_NEWNET).expect("root may return");
        done
    }

    /// Pulls the cable: nothing comes, nothing leaves, nobody is told.
    pub(crate) fn unplug(&self) {
        ip(&format!("link set {} nomaster", self.wire));
    }

    /// The cable is back.
    pub(crate) fn plug_in(&self) {
        ip(&format!("link set {} master switch", self.wire));
    }

    /// Nothing passes between this host and that one; both reach everybody else.
    pub(crate) fn part_from(&self, other: &Self) {
        for (here, there) in [(self, other), (other, self)] {
            here.within(|| ip(&format!("route add blackhole {}/32", there.ip)));
        }
    }

    /// It passes again.
    pub(crate) fn rejoin(&self, other: &Self) {
        for (here, there) in [(self, other), (other, self)] {
            here.within(|| ip(&format!("route del blackhole {}/32", there.ip)));
        }
    }
}

fn enter_new() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        panic!(
            "network namespaces are not permitted ({error}): run as root, or set \
             WITHOUT_NAMESPACES=1 to leave these tests out"
        );
    }
}

/// `ip` of iproute2.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip is not installed: apt-get install -y iproute2");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {told}");
}
