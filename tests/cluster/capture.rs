//! The capture of a call as Wireshark's own dissectors read it: SIP over UDP and TCP, IPv4 and IPv6, and the RTCP of its
//! media, with the addresses and times that the packets had.

use crate::common::api::Api;
use crate::common::hep::Collector;
use crate::common::phone::Phone;
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::speech::Law;
use crate::common::{SOON, eventually, ports};
use crate::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair};
use crate::srtp;
use crate::switch::Switch;
use holdfast::sip::Status;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is asked of every packet.
const FIELDS: [&str; 17] = [
    "frame.time_epoch",
    "ip.src",
    "ipv6.src",
    "udp.srcport",
    "tcp.srcport",
    "ip.dst",
    "ipv6.dst",
    "udp.dstport",
    "tcp.dstport",
    "udp.checksum.status",
    "tcp.checksum.status",
    "sip.Method",
    "sip.Status-Code",
    "rtcp.pt",
    "rtcp.senderssrc",
    "rtcp.sender.packetcount",
    "_ws.malformed",
];

/// A packet as it was dissected.
#[derive(Debug)]
pub(crate) struct Dissected {
    at: f64,
    from: SocketAddr,
    to: SocketAddr,
    is_tcp: bool,
    /// Method, or status.
    pub(crate) sip: String,
    /// Packet types of a compound (RFC 3550 §12.1).
    rtcp: Vec<u8>,
    ssrc: Option<u32>,
    /// Packets, as a sender report has them.
    sent: Option<u32>,
}

impl Dissected {
    fn of(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), FIELDS.len(), "{line}");
        // Of those that name the same of several protocols.
        let one = |names: &[&str]| {
            let is_one = |(name, _): &(&&str, &&str)| names.contains(name);
            FIELDS.iter().zip(&fields).filter(is_one).map(|(_, value)| *value).collect::<String>()
        };
        let address = |ips: [&str; 2], ports: [&str; 2]| {
            let ip: IpAddr = one(&ips).parse().expect("an address");
            SocketAddr::new(ip, one(&ports).parse().expect("a port"))
        };
        assert_eq!(one(&["_ws.malformed"]), "", "{line}");
        assert_eq!(one(&["udp.checksum.status", "tcp.checksum.status"]), "1", "is good: {line}");
        let types = one(&["rtcp.pt"]);
        let ssrc = one(&["rtcp.senderssrc"]);
        let ssrc = ssrc.split(',').next().and_then(|text| text.strip_prefix("0x"));
        Self {
            at: one(&["frame.time_epoch"]).parse().expect("seconds"),
            from: address(["ip.src", "ipv6.src"], ["udp.srcport", "tcp.srcport"]),
            to: address(["ip.dst", "ipv6.dst"], ["udp.dstport", "tcp.dstport"]),
            is_tcp: !one(&["tcp.srcport"]).is_empty(),
            sip: one(&["sip.Method", "sip.Status-Code"]),
            rtcp: types.split(',').filter_map(|text| text.parse().ok()).collect(),
            ssrc: ssrc.and_then(|digits| u32::from_str_radix(digits, 16).ok()),
            sent: one(&["rtcp.sender.packetcount"]).parse().ok(),
        }
    }
}

/// The capture of a call. Where RTP and RTCP are, the dissector learns of the SDP in it.
pub(crate) fn dissected(server: &Api, call: &str) -> Vec<Dissected> {
    let bytes = server.bytes(&format!("/calls/{call}/pcap"));
    let port = server.sip.port();
    let mut tshark = Command::new("tshark")
        .args(["-r", "-", "-T", "fields"])
        .args(FIELDS.iter().flat_map(|field| ["-e", field]))
        .args(["-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
        .args(["-d", &format!("udp.port=={port},sip"), "-d", &format!("tcp.port=={port},sip")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tshark: the Debian package `tshark`");
    let mut inlet = tshark.stdin.take().expect("a pipe");
    // It writes while it reads: a pipe takes only so much.
    let fed = std::thread::spawn(move || inlet.write_all(&bytes).expect("it reads"));
    let output = tshark.wait_with_output().expect("it ends");
    fed.join().expect("all of it");
    String::from_utf8_lossy(&output.stdout).lines().map(Dissected::of).collect()
}

/// A sender report without blocks, of who speaks there.
fn sender_report(ssrc: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 200, 0, 6];
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([0; 20]);
    bytes
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Where the switch has its RTCP for a leg: beside its RTP.
fn rtcp_beside(call: &Value, role: &str) -> SocketAddr {
    let legs = call["legs"].as_array().expect("legs");
    let leg = legs.iter().find(|leg| leg["role"] == role).expect("the leg");
    let local = leg["streams"][0]["local"].as_str().expect("an address");
    let local: SocketAddr = local.parse().expect("an address");
    SocketAddr::new(local.ip(), local.port() + 1)
}

/// A call of an IPv6 phone by UDP to one of IPv4 by TCP.
fn a_call_between_families() -> (Server, Pair) {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, v4.port()));
    let binds = format!("{v4},{v6}");
    let settings = [("HOLDFAST_SIP_BIND", binds.as_str()), ("HOLDFAST_MEDIA_BIND", "0.0.0.0")];
    let mut server = Server::start_with(&settings);
    server.sip_is(v4);
    let mut caller = Phone::udp_at(v6.ip(), v6, "1001", server.user("1001"));
    let mut callee = Phone::tcp(v4, "1002", server.user("1002"));
    for phone in [&mut caller, &mut callee] {
        assert_eq!(phone.register(&[]).status, Status(200));
    }
    let talks = [(v6, CALLER_HZ), (v4, CALLEE_HZ)];
    let talks = talks.map(|(at, tone_hz)| Talk::speaking_at(at.ip(), tone_hz, Law::Mu));
    let uri = format!("sip:1002@{v6}");
    let pair = Pair::answered(Attempt::with_talks(caller, callee, &uri, talks));
    (server, pair)
}

#[test]
fn a_capture_has_sip_and_rtcp_as_they_were() {
    let began = seconds();
    let (server, mut pair) = a_call_between_families();
    pair.hear_each_other();
    let call = server.list("/calls")[0].clone();
    let id = call["id"].as_str().expect("an id");
    let [ours_caller, ours_callee] = ["caller", "callee"].map(|role| rtcp_beside(&call, role));
    let reporting = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port");
    let reporting_at = reporting.local_addr().expect("bound");
    let callee_rtcp = SocketAddr::new(pair.callee.phone.local.ip(), pair.callee.talk.port + 1);
    eventually("both phones' RTCP, both ways as far as they speak it", SOON * 3, || {
        reporting.send_to(&sender_report(CALLER_HZ), ours_caller).expect("it is heard");
        let packets = dissected(&server, id);
        let has = |from, to, kind: u8| {
            let mut of = packets.iter().filter(|packet| (packet.from, packet.to) == (from, to));
            of.any(|packet| packet.rtcp.first() == Some(&kind))
        };
        (has(reporting_at, ours_caller, 200)
            && has(ours_caller, reporting_at, 200)
            && has(ours_callee, callee_rtcp, 200))
        .then_some(())
    });
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
    let packets = eventually("the last words", SOON, || {
        let packets = dissected(&server, id);
        let goodbyes = packets.iter().filter(|packet| packet.rtcp.contains(&203)).count();
        let byes = packets.iter().filter(|packet| packet.sip == "BYE").count();
        (goodbyes == 2 && byes == 2).then_some(packets)
    });
    check(&packets, [&pair.caller.phone, &pair.callee.phone], began);
    let said = packets.iter().filter(|packet| !packet.sip.is_empty()).count();
    let (_, ladder) = server.api("GET", &format!("/calls/{id}/ladder"), None);
    assert_eq!(ladder["messages"].as_array().map(Vec::len), Some(said), "the ladder has no RTCP");
    let of_caller = |packet: &&Dissected| packet.from == reporting_at;
    assert!(packets.iter().filter(of_caller).all(|packet| packet.ssrc == Some(CALLER_HZ)));
}

/// Every packet is dissected, by the way that it went, and in the order of time.
fn check(packets: &[Dissected], [caller, callee]: [&Phone; 2], began: f64) {
    let now = seconds();
    for pair in packets.windows(2) {
        assert!(pair[0].at <= pair[1].at, "{pair:#?}");
    }
    for packet in packets {
        // Clocks of one machine: a process makes its own of the monotonic one.
        assert!((began - 1.0..=now + 1.0).contains(&packet.at), "{packet:?}");
        assert_ne!(packet.sip.is_empty(), packet.rtcp.is_empty(), "{packet:?}");
        if packet.rtcp.is_empty() {
            let phone = if packet.is_tcp { callee } else { caller };
            assert!([packet.from, packet.to].contains(&phone.local), "{packet:?}");
            assert!([packet.from, packet.to].contains(&phone.server), "{packet:?}");
        }
    }
    let by = |is_tcp| packets.iter().filter(move |packet| packet.is_tcp == is_tcp);
    for expected in ["INVITE", "200", "ACK", "BYE"] {
        for is_tcp in [false, true] {
            assert!(by(is_tcp).any(|packet| packet.sip == expected), "{expected}: {packets:#?}");
        }
    }
}

/// What is kept and told of a call with SRTP has the RTCP that was inside, and none of the four keys.
#[test]
fn a_call_with_srtp_is_told_without_its_keys() {
    let collector = Collector::start();
    let target = collector.address.to_string();
    let server = Server::start_with(&[("HOLDFAST_HEP_TARGET", &target)]);
    let mut pair = srtp::talking(&server);
    pair.hear_each_other();
    let call = server.list("/calls")[0].clone();
    let id = call["id"].as_str().expect("an id").to_owned();
    let sides = [("caller", &pair.caller), ("callee", &pair.callee)];
    let ways = sides.map(|(role, side)| {
        let phone = SocketAddr::new(side.phone.local.ip(), side.talk.port + 1);
        (rtcp_beside(&call, role), phone, side)
    });
    eventually("our reports to both phones", SOON * 3, || {
        let packets = dissected(&server, &id);
        let reported = ways.iter().filter(|(ours, phone, side)| {
            let heard = side.talk.came().first().map(|packet| packet.ssrc);
            let mut way = packets.iter().filter(|one| (one.from, one.to) == (*ours, *phone));
            let sent = 1..=u32::try_from(side.talk.came().len()).expect("few");
            way.any(|one| {
                let is_report = one.rtcp.first() == Some(&200) && one.ssrc == heard;
                is_report && one.sent.is_some_and(|count| sent.contains(&count))
            })
        });
        (reported.count() == 2).then_some(())
    });
    let keys = [&pair.caller.talk, &pair.callee.talk].map(|talk| [talk.own_key(), talk.far_key()]);
    let keys: BTreeSet<String> = keys.into_iter().flatten().flatten().collect();
    assert_eq!(keys.len(), 4, "two of phones, two of ours");
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
    let told = eventually("the collector has the last word", SOON, || {
        let came = collector.came();
        let byes = came.iter().filter(|packet| packet.holds("CSeq: ") && packet.holds(" BYE\r\n"));
        (byes.count() >= 4).then_some(came)
    });
    let (_, ladder) = server.api("GET", &format!("/calls/{id}/ladder"), None);
    let (ladder, pcap) = (ladder.to_string(), server.bytes(&format!("/calls/{id}/pcap")));
    let pcap_has = |text: &str| pcap.windows(text.len()).any(|at| at == text.as_bytes());
    let collector_has = |text: &str| told.iter().any(|packet| packet.holds(text));
    for key in &keys {
        let places = [ladder.contains(key), pcap_has(key), collector_has(key)];
        assert_eq!(places, [false; 3], "ladder, capture, collector: {key}");
    }
    // Where they stood is told.
    let line = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx";
    assert_eq!([ladder.contains(line), pcap_has(line), collector_has(line)], [true; 3]);
}

/// The owner is killed: its host's files have what was until then, and media tells who carries the call on.
#[test]
fn a_capture_goes_on_with_the_next_owner() {
    let mut switch = Switch::start();
    let pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let call = switch.survivor().list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    switch.take_owner().signaling.kill();
    let killed = seconds();
    pair.hear_each_other();
    eventually("RTCP to both phones since", SOON * 3, || {
        let packets = dissected(switch.survivor(), &call);
        assert!(packets.iter().any(|packet| packet.sip == "INVITE"), "what the dead one wrote");
        let since = packets.iter().filter(|one| one.at > killed && !one.rtcp.is_empty());
        let phones: BTreeSet<SocketAddr> = since.map(|packet| packet.to).collect();
        (phones.len() == 2).then_some(())
    });
}
