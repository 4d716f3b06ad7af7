//! Machines described by files, each with one fault.

use super::*;
use crate::app::config::Config;
use crate::app::settings::Sources;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// A machine without faults, below a folder of its own.
struct Machine {
    root: PathBuf,
    settings: Vec<(String, String)>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Machine {
    fn new(name: &str) -> Self {
        let root =
            std::env::temp_dir().join(format!("holdfast-doctor-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let machine = Self { root, settings: Vec::new() };
        machine
            .with("proc/version", "Linux version 6.1.0")
            .with("proc/modules", "veth 45056 0 - Live 0x0")
            .with("proc/sys/net/core/rmem_max", "8388608")
            .with("proc/sys/net/core/wmem_max", "8388608")
            .with("proc/net/nf_conntrack", &flow("192.168.1.4", "10.0.0.5", "10.0.0.5"))
            .with("proc/sys/net/netfilter/nf_conntrack_count", "100")
            .with("proc/sys/net/netfilter/nf_conntrack_max", "262144")
            .with("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999")
            .with("proc/net/snmp", "Udp: InDatagrams NoPorts RcvbufErrors\nUdp: 1000000 3 5")
            .with("proc/net/route", "Iface\tDestination\neth0\t00000000\t0100000A")
            .with("sys/class/net/eth0/mtu", "1500")
            .with("sys/class/net/eth0/ifindex", "2")
            .with("sys/class/net/eth0/iflink", "2")
            .with("sys/fs/cgroup/cpu.max", "max 100000")
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
        self
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((format!("HOLDFAST_{}", key.to_uppercase()), value.to_owned()));
        self
    }

    /// What is not well, as `check status`.
    fn ills(&self) -> Vec<String> {
        let host = Host {
            name: "pbx".to_owned(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5))],
            can_bind: |_| true,
        };
        let sources = Sources { environment: self.settings.clone(), ..Sources::default() };
        let config = Config::load(&sources, &host).expect("works");
        let system = System::below(&self.root);
        let (holders, by_start) = (Vec::new(), true);
        let patient = Patient { config: &config, host: &host, system, holders, by_start };
        let mut findings = before_start(&patient);
        findings.extend(kernel::unread(&patient));
        let ill = findings.iter().filter(|one| one.status != Status::Ok);
        let told = ill.inspect(|one| assert!(one.fix.is_some(), "{one:?}"));
        told.map(|one| format!("{} {:?}", one.check, one.status)).collect()
    }
}

/// A flow of a phone to SIP, as the kernel shows it.
fn flow(phone: &str, sent_to: &str, answered_by: &str) -> String {
    format!(
        "ipv4     2 udp      17 118 src={phone} dst={sent_to} sport=5060 dport=5060 src={answered_by} \
         dst={phone} sport=5060 dport=5060 [ASSURED] mark=0 zone=0 use=2"
    )
}

#[test]
fn a_sound_machine_has_nothing_to_say() {
    assert_eq!(Machine::new("sound").ills(), Vec::<String>::new());
}

#[test]
fn each_fault_of_the_kernel_is_found() {
    let container =
        |name| Machine::new(name).with(".dockerenv", "").with("sys/class/net/eth0/iflink", "9");
    let few = ("media_ports", "20000-20099");
    for (machine, ill) in [
        (Machine::new("alg").with("proc/modules", "nf_nat_sip 20480 0\n"), "sip_helper Fail"),
        (
            Machine::new("full").with("proc/sys/net/netfilter/nf_conntrack_count", "250000"),
            "conntrack Warn",
        ),
        (Machine::new("small").with("proc/sys/net/core/rmem_max", "212992"), "receive_buffer Warn"),
        (Machine::new("smaller").with("proc/sys/net/core/wmem_max", "212992"), "send_buffer Warn"),
        (
            Machine::new("stale")
                .with("proc/net/nf_conntrack", &flow("192.168.1.4", "10.0.0.5", "172.17.0.2")),
            "translated_ports Warn",
        ),
        (
            Machine::new("drops")
                .with("proc/net/snmp", "Udp: InDatagrams RcvbufErrors\nUdp: 1000 9"),
            "udp_drops Warn",
        ),
        (Machine::new("v2").with("sys/fs/cgroup/cpu.max", "50000 100000"), "cpu_quota Warn"),
        (
            Machine::new("ephemeral").with("proc/sys/net/ipv4/ip_local_port_range", "1024\t65000"),
            "ephemeral_ports Warn",
        ),
        (Machine::new("mtu").with("sys/class/net/eth0/mtu", "1450"), "packet_size Warn"),
        (Machine::new("vm").with("proc/version", "Linux version 6.6-linuxkit"), "network Fail"),
        (container("bridge").set(few.0, few.1), "network Fail"),
        (
            container("range")
                .set("media_advertise", "192.0.2.1")
                .set("sip_advertise", "192.0.2.1"),
            "network Warn",
        ),
    ] {
        assert_eq!(machine.ills(), [ill], "{}", machine.root.display());
    }
}

#[test]
fn a_quota_of_the_first_kind_of_control_groups_is_found() {
    let machine = Machine::new("v1").with("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
    std::fs::remove_file(machine.root.join("sys/fs/cgroup/cpu.max")).expect("removed");
    assert_eq!(machine.ills(), Vec::<String>::new());
    let machine = machine.with("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000");
    assert_eq!(machine.ills(), ["cpu_quota Warn"]);
}

#[test]
fn each_fault_of_the_settings_is_found() {
    for (name, settings, ill) in [
        ("lan", &[("sip_bind", "127.0.0.1:5060")][..], "sip_advertise Warn"),
        (
            "private",
            &[("sip_advertise", "192.168.1.5"), ("media_advertise", "192.0.2.1")],
            "sip_advertise Warn",
        ),
        ("loopback", &[("sip_advertise", "127.0.0.1")], "sip_advertise Fail"),
        ("loopback6", &[("media_advertise", "::1")], "media_advertise Fail"),
        ("link", &[("sip_advertise", "169.254.7.7")], "sip_advertise Fail"),
        ("link6", &[("media_advertise", "fe80::7")], "media_advertise Fail"),
        (
            "desk",
            &[("sip_bind", "127.0.0.1:5060"), ("sip_advertise", "127.0.0.1")],
            "sip_advertise Warn",
        ),
        ("half", &[("sip_advertise", "192.0.2.1")], "advertise Warn"),
        ("open", &[("admin_bind", "0.0.0.0:8080")], "admin_bind Warn"),
        ("token", &[("admin_token", "short-token")], "admin_token Warn"),
        ("secret", &[("cluster_secret", "short-secret")], "cluster_secret Warn"),
        ("few", &[("media_ports", "20000-20099"), ("max_calls", "26")], "media_ports Warn"),
        ("many", &[("max_calls", "100000"), ("mode", "media")], "media_ports Warn"),
    ] {
        let machine = settings
            .iter()
            .fold(Machine::new(name), |machine, (key, value)| machine.set(key, value));
        let ills = machine.ills();
        assert!(ills.contains(&ill.to_owned()), "{name}: {ills:?}");
    }
    let enough = Machine::new("enough").set("media_ports", "20000-20099").set("max_calls", "25");
    assert_eq!(enough.ills(), Vec::<String>::new());
}

#[test]
fn what_this_user_cannot_read_is_told_as_such() {
    let machine = Machine::new("unread");
    let table = machine.root.join("proc/net/nf_conntrack");
    std::fs::remove_file(&table).expect("removed");
    // Nobody can read a folder as a file, root neither.
    std::fs::create_dir(&table).expect("made");
    assert_eq!(machine.ills(), ["translated_ports Warn"]);
    let media = machine.set("mode", "media");
    assert_eq!(media.ills(), Vec::<String>::new(), "it has no SIP");
    let count = media.root.join("proc/sys/net/netfilter/nf_conntrack_count");
    std::fs::remove_file(count).expect("removed");
    let without = Machine { settings: Vec::new(), root: media.root.clone() };
    assert_eq!(without.ills(), Vec::<String>::new(), "this kernel keeps no such table");
}

#[test]
fn a_socket_is_its_oldest_holders() {
    const UDP: &str = "sl local rem st queues timer retransmit uid timeout inode\n\
        0: 0100007F:13C4 00000000:0000 07 0:0 0:0 0 0 0 77 2\n";
    // A child that is about to run another program has the socket too; as text 1000 is before 999.
    for (parent, child) in [(12, 13), (999, 1000)] {
        let mut machine = Machine::new("holders").with("proc/net/udp", UDP);
        for (pid, name) in [(parent, "asterisk"), (child, "child")] {
            machine = machine.with(&format!("proc/{pid}/comm"), name);
            let folder = machine.root.join(format!("proc/{pid}/fd"));
            std::fs::create_dir(&folder).expect("made");
            std::os::unix::fs::symlink("socket:[77]", folder.join("3")).expect("made");
        }
        let owners = System::below(&machine.root).owners();
        let names: Vec<String> = owners.iter().map(system::Owner::name).collect();
        assert_eq!(names, [format!("asterisk (pid {parent})")]);
        assert_eq!((owners[0].protocol, owners[0].port), ("udp", 5060));
    }
}

#[test]
fn late_timers_and_marks_that_do_not_stay_are_told() {
    let late = |ms: u64| vec![core::time::Duration::from_millis(ms); 50];
    let refused = || Err(std::io::ErrorKind::PermissionDenied.into());
    for (finding, status) in [
        (kernel::woken(late(1), true), Status::Ok),
        (kernel::woken(late(12), true), Status::Warn),
        (kernel::woken(late(12), false), Status::Ok),
        (kernel::mark_of_sound(Ok(46)), Status::Ok),
        (kernel::mark_of_sound(Ok(0)), Status::Warn),
        (kernel::mark_of_sound(refused()), Status::Warn),
    ] {
        assert_eq!(finding.status, status, "{finding:?}");
        assert_eq!(finding.fix.is_some(), status != Status::Ok, "{finding:?}");
    }
}
