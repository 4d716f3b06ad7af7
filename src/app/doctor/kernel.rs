//! What the kernel does to packets and to time: helpers that rewrite SIP, small buffers, marks, throttling, limits.

use super::{Finding, Patient};
use crate::net::clock;
use crate::net::dscp::Dscp;
use nix::sys::resource::{Resource, getrlimit};
use std::time::Duration;

/// What the SIP sockets ask for, in each direction.
const BUFFER_BYTES: u64 = 4 << 20;
/// A call has two streams with RTP and RTCP sockets each; phones on TCP and everything else on top.
const DESCRIPTORS_A_CALL: u64 = 4;
const DESCRIPTORS_BESIDE: u64 = 1_024;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = vec![sip_helper(patient)];
    findings.extend(tracked_connections(patient));
    findings.extend(translated_ports(patient));
    findings.extend(buffers(patient, "receive_buffer", "rmem_max"));
    findings.extend(buffers(patient, "send_buffer", "wmem_max"));
    findings.extend(drops(patient));
    findings.extend(throttling(patient));
    findings.push(descriptors(patient));
    findings.extend(port_range(patient));
    findings.extend(ephemeral_ports(patient));
    findings.push(marks());
    findings
}

/// The kernel's own "ALG": rewrites Via, Contact and SDP of what it forwards.
fn sip_helper(patient: &Patient<'_>) -> Finding {
    const MODULES: [&str; 2] = ["nf_nat_sip", "nf_conntrack_sip"];
    let Some(loaded) = patient.system.read("proc/modules") else {
        return Finding::ok("sip_helper", "this kernel has no modules");
    };
    let is_loaded =
        |module: &&str| loaded.lines().any(|line| line.split_whitespace().next() == Some(module));
    let found: Vec<&str> = MODULES.iter().copied().filter(|name| is_loaded(name)).collect();
    if found.is_empty() {
        return Finding::ok("sip_helper", "no kernel module rewrites SIP");
    }
    let modules = found.join(" ");
    let detail = format!(
        "the kernel modules {modules} rewrite SIP in flight: calls without sound, calls \
        that end after 30 s"
    );
    Finding::fail("sip_helper", detail, format!("modprobe -r {modules}"))
}

fn tracked_connections(patient: &Patient<'_>) -> Option<Finding> {
    let count = patient.system.number("proc/sys/net/netfilter/nf_conntrack_count")?;
    let most = patient.system.number("proc/sys/net/netfilter/nf_conntrack_max")?;
    let detail = format!("{count} of {most} tracked connections");
    if count * 10 <= most * 8 {
        return Some(Finding::ok("conntrack", detail));
    }
    let detail = format!("{detail}: when the table is full, packets of new calls are dropped");
    let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 4);
    Some(Finding::warn("conntrack", detail, fix))
}

/// What an earlier container or rule left in the table of connections: the kernel goes on to send our port's packets to
/// where it sent them before. Only root may read that table.
fn translated_ports(patient: &Patient<'_>) -> Option<Finding> {
    let table = patient.system.read("proc/net/nf_conntrack")?;
    let sip = patient.config.sip.bind.iter().map(core::net::SocketAddr::port);
    let sip: Vec<u16> = sip.filter(|_| patient.config.mode.has_signaling()).collect();
    let mut away = table.lines().filter_map(|line| sent_away(line, &sip));
    let Some((port, to)) = away.next() else {
        return Some(Finding::ok("translated_ports", "nothing sends SIP elsewhere"));
    };
    let detail = format!(
        "{} flows to udp {port} are sent to {to} by an old translation: phones that keep talking \
        get no answer until they fall silent for minutes",
        away.count() + 1
    );
    let fix = format!("conntrack -D -p udp --orig-port-dst {port} on the host");
    Some(Finding::warn("translated_ports", detail, fix))
}

/// Told to who looks, and not by a start: the image's user cannot read that table, and need not.
pub(super) fn unread(patient: &Patient<'_>) -> Option<Finding> {
    let system = &patient.system;
    let is_kept = system.has("proc/sys/net/netfilter/nf_conntrack_count");
    let is_read = system.read("proc/net/nf_conntrack").is_some();
    let sip = patient.config.sip.bind.first().filter(|_| patient.config.mode.has_signaling())?;
    if is_read || !is_kept {
        return None;
    }
    let detail = "this user cannot read the kernel's table of connections: whether an old \
        translation sends what phones say elsewhere is not known";
    let port = sip.port();
    let fix = format!(
        "as root on the host: holdfast doctor, or conntrack -L -p udp --orig-port-dst {port} \
        (wrong are lines whose second src= is no address of this host)"
    );
    Some(Finding::warn("translated_ports", detail, fix))
}

/// A flow of the table that was for one of the ports and is answered by another address than it was sent to.
fn sent_away(line: &str, ports: &[u16]) -> Option<(u16, String)> {
    let of = |key: &str| {
        let words = line.split_whitespace();
        words.filter_map(|word| word.strip_prefix(key).map(str::to_owned)).collect::<Vec<_>>()
    };
    let port = of("dport=").first()?.parse().ok().filter(|port| ports.contains(port))?;
    // The first is what the phone said, the second what comes back.
    let (asked, answers) = (of("dst="), of("src="));
    let (asked, answers) = (asked.first()?, answers.get(1)?);
    (line.contains("udp") && asked != answers).then(|| (port, answers.clone()))
}

fn buffers(patient: &Patient<'_>, check: &'static str, key: &str) -> Option<Finding> {
    let most = patient.system.number(&format!("proc/sys/net/core/{key}"))?;
    if most >= BUFFER_BYTES {
        return Some(Finding::ok(check, format!("up to {most} bytes")));
    }
    let detail = format!(
        "the kernel allows {most} bytes, SIP asks for {BUFFER_BYTES}: bursts of many phones \
        are dropped"
    );
    let fix = format!("sysctl -w net.core.{key}={BUFFER_BYTES} on the host");
    Some(Finding::warn(check, detail, fix))
}

fn drops(patient: &Patient<'_>) -> Option<Finding> {
    let dropped = patient.system.counter("Udp", "RcvbufErrors")?;
    let received = patient.system.counter("Udp", "InDatagrams")?;
    let detail = format!(
        "{dropped} of {received} datagrams dropped for want of room since \
    boot"
    );
    // One in ten thousand is heard.
    if dropped * 10_000 <= received {
        return Some(Finding::ok("udp_drops", detail));
    }
    let fix = "raise net.core.rmem_max, and look whether this machine has cores to spare";
    Some(Finding::warn("udp_drops", detail, fix))
}

/// A quota stops all threads for the rest of each period: sound that comes every 20 ms comes in heaps.
fn throttling(patient: &Patient<'_>) -> Option<Finding> {
    let system = &patient.system;
    let (folder, quota) = if system.has("sys/fs/cgroup/cpu.max") {
        ("sys/fs/cgroup", system.number("sys/fs/cgroup/cpu.max"))
    } else {
        // Minus one, no limit, is not a number here.
        ("sys/fs/cgroup/cpu", system.number("sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    };
    let stopped = system.named(&format!("{folder}/cpu.stat"), "nr_throttled").unwrap_or(0);
    let quota = quota.filter(|_| patient.config.mode.has_media());
    let Some(quota) = quota else {
        return Some(Finding::ok("cpu_quota", "none"));
    };
    let detail = format!(
        "this process may use {quota} us of CPU a period and was stopped {stopped} times: \
        sound comes in heaps"
    );
    let fix = "no CPU limit (`cpus:`, `--cpus`, `limits.cpu`) on media processes; weights \
    (`cpu_shares`) do no harm";
    Some(Finding::warn("cpu_quota", detail, fix))
}

fn descriptors(patient: &Patient<'_>) -> Finding {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::warn("descriptors", "the limit cannot be read", "ulimit -Hn tells it");
    };
    let calls = u64::from(wanted_calls(patient));
    let needed = calls * DESCRIPTORS_A_CALL + DESCRIPTORS_BESIDE;
    if hard >= needed {
        return Finding::ok("descriptors", format!("{hard}, {needed} needed for {calls} calls"));
    }
    let detail =
        format!("{hard} at most, {needed} needed for {calls} calls: calls will be refused");
    let fix = format!(
        "ulimit -Hn {needed}; in Compose `ulimits: nofile: {needed}`; or a smaller max_calls"
    );
    Finding::warn("descriptors", detail, fix)
}

fn wanted_calls(patient: &Patient<'_>) -> u32 {
    let media = &patient.config.media;
    if !patient.config.mode.has_media() {
        return 0;
    }
    media.max_calls.unwrap_or(media.ports.size() / 4)
}

fn port_range(patient: &Patient<'_>) -> Option<Finding> {
    let media = &patient.config.media;
    let most = media.max_calls.filter(|_| patient.config.mode.has_media())?;
    let (ports, needed) = (media.ports.size(), most.saturating_mul(4));
    if ports >= needed {
        return Some(Finding::ok("media_ports", format!("{ports} ports for {most} calls")));
    }
    let detail =
        format!("{ports} ports, {most} calls (max_calls) need {needed}: calls will be refused");
    let last = u32::from(media.ports.first) + needed - 1;
    let fix = format!("media_ports = {}-{last}, or max_calls = {}", media.ports.first, ports / 4);
    Some(Finding::warn("media_ports", detail, fix))
}

/// Other programs' sockets are given ports out of this range: they could sit on a call's.
fn ephemeral_ports(patient: &Patient<'_>) -> Option<Finding> {
    let range = patient.system.read("proc/sys/net/ipv4/ip_local_port_range")?;
    let mut bounds = range.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let (first, last) = (bounds.next()?, bounds.next()?);
    let ports = &patient.config.media.ports;
    let overlaps = ports.first <= last && first <= ports.last;
    let reserved = patient.system.read("proc/sys/net/ipv4/ip_local_reserved_ports");
    let is_reserved = reserved.is_some_and(|text| !text.is_empty());
    if !patient.config.mode.has_media() || !overlaps || is_reserved {
        return Some(Finding::ok("ephemeral_ports", format!("{first}-{last}, not media's")));
    }
    let own = format!("{}-{}", ports.first, ports.last);
    let detail = format!(
        "the kernel gives ports {first}-{last} to any program, and media_ports {own} are \
        among them"
    );
    let fix = format!("sysctl -w net.ipv4.ip_local_reserved_ports={own}, or other media_ports");
    Some(Finding::warn("ephemeral_ports", detail, fix))
}

/// Sets the mark of sound on a socket, and reads it back.
fn marks() -> Finding {
    let marked = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        let address = socket.local_addr()?;
        let socket = socket2::SockRef::from(&socket);
        Dscp::Ef.mark(&socket, address)?;
        Dscp::of(&socket, address)
    });
    mark_of_sound(marked)
}

pub(super) fn mark_of_sound(marked: std::io::Result<u32>) -> Finding {
    const FIX: &str = "let the container set IP_TOS (no seccomp rule against setsockopt)";
    let seen = match marked {
        Ok(mark) if mark == Dscp::Ef as u32 => {
            return Finding::ok("dscp", "EF on sound, CS3 on SIP");
        }
        Ok(other) => format!("EF was set and {other:#x} read back"),
        Err(error) => format!("packets cannot be marked ({error})"),
    };
    Finding::warn("dscp", format!("{seen}: sound has no precedence"), FIX)
}

/// Sleeps as the packet workers do, and looks how late it wakes.
pub(super) fn timer(patient: &Patient<'_>) -> Finding {
    const TURNS: usize = 50;
    const TURN: Duration = Duration::from_millis(10);
    let late = (0..TURNS)
        .map(|_| {
            let begun = clock::now();
            std::thread::sleep(TURN);
            clock::now().saturating_since(begun).saturating_sub(TURN)
        })
        .collect();
    woken(late, patient.config.mode.has_media())
}

/// Of how late it woke each time.
pub(super) fn woken(mut late: Vec<Duration>, minds: bool) -> Finding {
    const LATE: Duration = Duration::from_millis(10);
    late.sort_unstable();
    let at = |index: usize| late.get(index).copied().unwrap_or_default();
    let (p90, worst) = (at(late.len() * 9 / 10), at(late.len().saturating_sub(1)));
    let detail = format!("wakes {:.1} ms late at p90, {:.1} at most", ms(p90), ms(worst));
    if p90 < LATE || !minds {
        return Finding::ok("timer", detail);
    }
    let fix =
        "take load off this machine, or give it more cores: sound needs a wake-up every 20 ms";
    Finding::warn("timer", detail, fix)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
