//! The network that this process sees: the host's own, a container's behind a bridge, or that of a virtual machine of
//! Docker Desktop.

use super::{Finding, Patient};

/// Each published port costs a proxy process and rules of the packet filter.
const PUBLISHED_MOST: u32 = 200;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = vec![mode(patient)];
    findings.extend(packet_size(patient));
    findings
}

fn mode(patient: &Patient<'_>) -> Finding {
    let (system, config) = (&patient.system, patient.config);
    let version = system.read("proc/version").unwrap_or_default();
    let advertised = config.sip.advertise.public.is_some() || config.media.advertise.is_some();
    let is_desktop = ["linuxkit", "microsoft"].iter().any(|name| version.contains(name));
    if is_desktop && !advertised {
        let detail = "this is the virtual machine of Docker Desktop: its host network is \
        not that of your computer";
        let fix = "use compose.desktop.yaml with HOLDFAST_ADVERTISE=<address of this \
        computer in the LAN>";
        return Finding::fail("network", detail, fix);
    }
    let in_container = system.has(".dockerenv") || system.has("run/.containerenv");
    if !(in_container && is_bridged(patient)) {
        return Finding::ok("network", "the host's own");
    }
    if !advertised {
        let detail = "this container has a network of its own: phones outside cannot reach \
        the addresses they would be told";
        let fix = "network_mode: host; or set HOLDFAST_SIP_ADVERTISE and \
        HOLDFAST_MEDIA_ADVERTISE to the host's address and publish the ports";
        return Finding::fail("network", detail, fix);
    }
    let ports = config.media.ports.size();
    if config.mode.has_media() && ports > PUBLISHED_MOST {
        let detail = format!(
            "this container has a network of its own, and {ports} media ports: publishing \
            them takes minutes and gigabytes"
        );
        let fix = "network_mode: host; or HOLDFAST_MEDIA_PORTS=20000-20099 and publish \
        those only";
        return Finding::warn("network", detail, fix);
    }
    Finding::ok("network", "a container's own, with addresses that are advertised")
}

/// The other end of a veth pair has another index than this one: the interface leads out of a namespace.
fn is_bridged(patient: &Patient<'_>) -> bool {
    let system = &patient.system;
    system.names("sys/class/net").iter().filter(|name| *name != "lo").any(|name| {
        let index = system.number(&format!("sys/class/net/{name}/ifindex"));
        let peer = system.number(&format!("sys/class/net/{name}/iflink"));
        index.is_some() && peer.is_some() && index != peer && !name.starts_with("docker")
    })
}

/// A large INVITE in fragments is what many firewalls drop.
fn packet_size(patient: &Patient<'_>) -> Option<Finding> {
    const ETHERNET: u64 = 1_500;
    let system = &patient.system;
    let route = system.read("proc/net/route")?;
    let default = route.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next()?;
        (words.next()? == "00000000").then(|| interface.to_owned())
    })?;
    let mtu = system.number(&format!("sys/class/net/{default}/mtu"))?;
    if mtu >= ETHERNET {
        return Some(Finding::ok("packet_size", format!("{mtu} bytes on {default}")));
    }
    let detail = format!(
        "{mtu} bytes on {default}, less than {ETHERNET}: large SIP messages over UDP travel \
        in fragments, which many firewalls drop"
    );
    let fix = format!(
        "ip link set {default} mtu {ETHERNET} where the network allows it, or let phones \
        register over TCP"
    );
    Some(Finding::warn("packet_size", detail, fix))
}
