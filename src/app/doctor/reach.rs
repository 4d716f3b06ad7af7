//! Names that must resolve, and addresses that must answer.

use super::addresses::{nobody_reaches, reachable};
use super::{Finding, Patient};
use crate::net::dns::Resolver;
use crate::net::{clock, stun};
use core::net::{IpAddr, SocketAddr};
use std::net::UdpSocket;
use std::time::Duration;

/// Slower than this is heard as a delay of every call to a name.
const SLOW: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let config = patient.config;
    let resolver = Resolver::new();
    let mut findings = Vec::new();
    let sip = config.sip.advertise.public.as_ref();
    let names = [
        ("sip_advertise", sip.map(|(host, _)| host.to_string())),
        ("media_advertise", config.media.advertise.as_ref().map(ToString::to_string)),
    ];
    for (key, name) in names {
        if let Some(name) = name.filter(|name| !is_literal(name)) {
            findings.push(resolves(&resolver, key, &name).await);
        }
    }
    if !config.mode.has_signaling() {
        for name in config.join.iter().map(|one| host_of(one)) {
            if !is_literal(name) && name != "localhost" {
                findings.push(resolves(&resolver, "join", name).await);
            }
        }
    }
    let runs = patient.holders.iter().any(|holder| holder.mode != "media");
    if runs && config.mode.has_signaling() {
        let bound = config.sip.bind.first();
        let (ip, own) = bound.map_or((None, 5060), |at| (Some(at.ip()), at.port()));
        let lan = ip.filter(|ip| !ip.is_unspecified()).unwrap_or(patient.host.lan_address());
        let (host, port) = match sip {
            Some((host, port)) => (host.to_string(), port.unwrap_or(own)),
            None => (lan.to_string(), own),
        };
        let found = resolver.resolve(&host, Some(port), Some(crate::ids::Transport::Udp)).await;
        findings.extend(found.first().map(|(_, address)| answers(*address, sip.is_some())));
    }
    findings
}

/// `host:port` or `[v6]:port` without the port.
pub(super) fn host_of(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port))
            if port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => text,
    }
}

fn is_literal(text: &str) -> bool {
    text.trim_matches(['[', ']']).parse::<core::net::IpAddr>().is_ok()
}

async fn resolves(resolver: &Resolver, key: &'static str, name: &str) -> Finding {
    let begun = clock::now();
    let found = resolver.resolve(name, Some(5060), Some(crate::ids::Transport::Udp)).await;
    let took = clock::now().saturating_since(begun);
    resolved(key, name, found.first().map(|(_, address)| address.ip()), took)
}

fn resolved(key: &'static str, name: &str, found: Option<IpAddr>, took: Duration) -> Finding {
    let Some(ip) = found else {
        let detail = format!("{name} has no address: {key} leads nowhere");
        return Finding::fail(key, detail, "correct the name, or /etc/resolv.conf");
    };
    // Debian's /etc/hosts says 127.0.1.1 for the machine's own name.
    if let Some(kind) = nobody_reaches(ip).filter(|_| key != "join") {
        let fix = format!("{}; /etc/hosts may say otherwise than DNS", reachable(key));
        return Finding::fail(key, format!("{name} is {ip} here, {kind}"), fix);
    }
    let detail = format!("{name} is {ip} ({} ms)", took.as_millis());
    if took < SLOW {
        return Finding::ok(key, detail);
    }
    let fix = "a resolver that is nearer, in /etc/resolv.conf";
    Finding::warn(key, format!("{detail}: every call to a name waits as long"), fix)
}

/// A STUN Binding request to our own SIP port, by the address that phones are told: also goes through the router's
/// hairpin, when there is one.
fn answers(address: SocketAddr, is_public: bool) -> Finding {
    const TRANSACTION: [u8; 12] = *b"holdfast doc";
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asked = UdpSocket::bind(any).and_then(|socket| {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(address)?;
        let mut answer = [0_u8; 128];
        // One of three may be lost.
        for _ in 0..3 {
            socket.send(&stun::request(TRANSACTION))?;
            if let Ok(length) = socket.recv(&mut answer)
                && answer.get(..length).is_some_and(|came| stun::is_answer_to(TRANSACTION, came))
            {
                return Ok(());
            }
        }
        Err(std::io::ErrorKind::TimedOut.into())
    });
    match asked {
        Ok(()) => Finding::ok("sip_answers", format!("udp {address} answers")),
        Err(error) if is_public => {
            let detail = format!(
                "udp {address}, which phones outside are told, does not answer from here \
                ({error})"
            );
            let fix = "forward UDP and TCP of that port to this host; from inside, the \
            router may lack hairpin NAT: then try from outside";
            Finding::warn("sip_answers", detail, fix)
        }
        Err(error) => {
            let detail = format!(
                "udp {address}, which phones are told, does not answer \
            ({error})"
            );
            Finding::fail(
                "sip_answers",
                detail,
                "allow UDP and TCP of the SIP port in this host's firewall",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Status;

    #[test]
    fn the_host_of_what_is_joined_is_without_its_port() {
        for (text, host) in [
            ("10.0.0.5", "10.0.0.5"),
            ("10.0.0.5:7070", "10.0.0.5"),
            ("pbx", "pbx"),
            ("pbx:7071", "pbx"),
            ("2001:db8::5", "2001:db8::5"),
            ("[2001:db8::5]", "[2001:db8::5]"),
            ("[2001:db8::5]:7070", "[2001:db8::5]"),
        ] {
            assert_eq!(host_of(text), host, "{text}");
        }
    }

    #[test]
    fn a_name_that_is_slow_or_leads_to_this_machine_is_told() {
        let at = |ip: &str| Some(ip.parse().expect("literal"));
        let (soon, late) = (Duration::from_millis(3), Duration::from_millis(1_200));
        for (key, ip, took, status) in [
            ("sip_advertise", at("203.0.113.5"), soon, Status::Ok),
            ("sip_advertise", at("203.0.113.5"), late, Status::Warn),
            ("sip_advertise", at("127.0.1.1"), soon, Status::Fail),
            ("media_advertise", at("fe80::1"), soon, Status::Fail),
            ("media_advertise", None, soon, Status::Fail),
            ("join", at("127.0.1.1"), soon, Status::Ok),
        ] {
            let found = resolved(key, "pbx", ip, took);
            assert_eq!(found.status, status, "{found:?}");
            assert_eq!(found.fix.is_some(), status != Status::Ok, "{found:?}");
        }
    }
}
