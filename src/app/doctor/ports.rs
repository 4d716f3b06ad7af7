//! Ports that are to be bound: free, Holdfast's own already, or somebody else's.

use super::system::Owner;
use super::{Finding, Patient};
use crate::net::trial;
use core::net::SocketAddr;
use std::io;

/// Media nodes and signaling nodes move on to the next free control port by themselves.
pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let owners = patient.system.owners();
    let config = patient.config;
    let mut findings = Vec::new();
    if config.mode.has_signaling() {
        for address in &config.sip.bind {
            findings.push(bindable(patient, &owners, "sip_bind", ("udp", *address)));
            findings.push(bindable(patient, &owners, "sip_bind", ("tcp", *address)));
        }
        findings.push(bindable(patient, &owners, "admin_bind", ("tcp", config.admin.bind)));
    }
    if config.mode.has_media() {
        findings.push(media_ports(patient, &owners));
    }
    findings
}

fn bindable(
    patient: &Patient<'_>,
    owners: &[Owner],
    key: &'static str,
    (protocol, address): (&'static str, SocketAddr),
) -> Finding {
    let shown = format!("{protocol} {address}");
    // SIP of both families has two sockets; HTTP at [::] has one.
    let only_v6 = key == "sip_bind";
    let bound = match protocol {
        "udp" => trial::udp(address, only_v6),
        _ => trial::tcp(address, only_v6),
    };
    let Err(error) = bound else {
        return Finding::ok(key, format!("{shown} is free"));
    };
    let owner = owners.iter().find(|one| one.protocol == protocol && one.port == address.port());
    if let Some(holder) = patient.holders.iter().find(|holder| holder.mode != "media")
        && owner.is_none_or(|one| one.process.as_ref().is_none_or(|(_, name)| name == "holdfast"))
    {
        return Finding::ok(key, format!("{shown} is served by {} (Holdfast itself)", holder.name));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        let detail = format!("{shown} cannot be bound: {error}");
        let fix =
            format!("set {key} to a port above 1023, or give the process CAP_NET_BIND_SERVICE");
        return Finding::fail(key, detail, fix);
    }
    let who = owner.map_or_else(|| "somebody who cannot be seen".to_owned(), Owner::name);
    let detail = format!("{shown} cannot be bound: {error}; {who} has it");
    Finding::fail(key, detail, format!("stop that program, or set {key} to another port"))
}

/// Ports in the range that somebody else has: calls pass over them, unless there are many.
fn media_ports(patient: &Patient<'_>, owners: &[Owner]) -> Finding {
    let range = &patient.config.media.ports;
    let is_ours =
        |owner: &&Owner| owner.process.as_ref().is_some_and(|(_, name)| name == "holdfast");
    let inside = |owner: &&Owner| {
        owner.protocol == "udp" && (range.first..=range.last).contains(&owner.port)
    };
    let (ours, others): (Vec<&Owner>, Vec<&Owner>) =
        owners.iter().filter(inside).partition(is_ours);
    let all = u32::from(range.last) - u32::from(range.first) + 1;
    let detail =
        format!("{} of {all} ports in use by calls, {} by others", ours.len(), others.len());
    let Some(first) = others.first().filter(|_| others.len() * 10 > all as usize) else {
        return Finding::ok("media_ports", detail);
    };
    let detail = format!("{detail}, the first is {} on {}", first.name(), first.port);
    Finding::warn("media_ports", detail, "set media_ports to a range that nobody else uses")
}
