//! Which addresses phones are told, where they come from, and who could not reach them.

use super::{Finding, Patient};
use core::net::IpAddr;

/// SIP and media, each by its own setting.
pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let config = patient.config;
    let mut findings = Vec::new();
    let sip = config.sip.advertise.public.as_ref().map(|(host, _)| host.to_string());
    let media = config.media.advertise.as_ref().map(ToString::to_string);
    if config.mode.has_signaling() {
        let binds = config.sip.bind.iter().map(core::net::SocketAddr::ip).collect::<Vec<_>>();
        findings.push(advertised(patient, "sip_advertise", sip.as_deref(), &binds));
    }
    if config.mode.has_media() {
        let binds = [config.media.bind];
        findings.push(advertised(patient, "media_advertise", media.as_deref(), &binds));
    }
    if config.mode.has_signaling() && config.mode.has_media() && sip.is_some() != media.is_some() {
        let (set, unset) = match sip {
            Some(_) => ("sip_advertise", "media_advertise"),
            None => ("media_advertise", "sip_advertise"),
        };
        let detail = format!(
            "{set} is set and {unset} is not: phones outside get an address for one of SIP \
            and sound only"
        );
        findings.push(Finding::warn("advertise", detail, format!("set {unset} too")));
    }
    findings
}

fn advertised(
    patient: &Patient<'_>,
    key: &'static str,
    public: Option<&str>,
    binds: &[IpAddr],
) -> Finding {
    let origin = patient.config.effective.iter().find(|one| one.key == key);
    let origin = origin.map_or("default", |one| one.origin.as_str());
    let bind = key.replace("advertise", "bind");
    let Some(public) = public else {
        if binds.iter().all(IpAddr::is_loopback) {
            let detail = format!("{bind} is on loopback: only phones on this machine reach it");
            return Finding::warn(key, detail, format!("set {bind} to 0.0.0.0"));
        }
        let lan = patient.host.lan_address();
        let detail = format!(
            "not set ({origin}): each phone is told the address by which it is reached, as \
            {lan}"
        );
        return Finding::ok(key, detail);
    };
    let Ok(ip) = public.trim_matches(['[', ']']).parse::<IpAddr>() else {
        // Where it leads is asked by `reach`.
        return Finding::ok(key, format!("{public} ({origin}), a name"));
    };
    if let Some(kind) = nobody_reaches(ip) {
        let detail = format!("{ip} ({origin}) is {kind}");
        // Who binds loopback alone means phones of this machine.
        if ip.is_loopback() && binds.iter().all(IpAddr::is_loopback) {
            return Finding::warn(key, detail, format!("set {bind} to 0.0.0.0 and unset {key}"));
        }
        return Finding::fail(key, detail, reachable(key));
    }
    let nets = &patient.config.sip.advertise.local_nets;
    if nets.iter().any(|net| net.contains(ip)) {
        let detail = format!(
            "{ip} ({origin}) is a private address, given to phones outside local_nets only: \
            they cannot reach it"
        );
        return Finding::warn(key, detail, reachable(key));
    }
    let is_here = patient.host.addresses.contains(&ip);
    let place = if is_here { "of this host" } else { "in front of this host" };
    Finding::ok(key, format!("{ip} ({origin}), {place}"))
}

/// Why no phone on another machine, or beyond the next router, gets there.
pub(super) fn nobody_reaches(ip: IpAddr) -> Option<&'static str> {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match (ip.is_loopback(), is_link_local) {
        (true, _) => Some("loopback: a phone that is told it calls itself"),
        (_, true) => Some("link-local: it means nothing to a phone on another network"),
        (false, false) => None,
    }
}

/// What to do about an address that phones are told in vain.
pub(super) fn reachable(key: &str) -> String {
    format!(
        "set {key} to the public address of this site, or leave it unset: local phones are \
        told the address by which they are reached"
    )
}
