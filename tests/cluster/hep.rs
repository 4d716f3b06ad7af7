//! A HEP collector is told every SIP message of a call, as it was, and how its media fares.

use crate::common::hep::{Collector, Hep};
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::crowd::Crowd;
use crate::pair::phone;

#[test]
fn a_collector_is_told_what_was_said() {
    let collector = Collector::start();
    check_what_is_told(&collector, &collector.address.to_string());
}

#[test]
fn a_collector_is_told_the_same_by_a_connection() {
    let collector = Collector::of_streams();
    check_what_is_told(&collector, &format!("tcp:{}", collector.address));
}

fn check_what_is_told(collector: &Collector, target: &str) {
    let server = Server::start_with(&[
        ("HOLDFAST_HEP_TARGET", target),
        ("HOLDFAST_HEP_AGENT", "77"),
        ("HOLDFAST_HEP_PASSWORD", "collector-key"),
    ]);
    // What is said while the connection is made is lost.
    let mut first = phone(&server, "1009", "udp");
    eventually("the collector is connected", SOON, || {
        first.register(&[]);
        (!collector.came().is_empty()).then_some(())
    });
    let crowd = Crowd::talking(&server, 1, 0);
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    check_quality(collector, &call);
    crowd.hang_up();
    server.cdrs(1);
    let ladder = eventually("the ladder has the last word", SOON, || {
        let (_, ladder) = server.api("GET", &format!("/calls/{call}/ladder"), None);
        let messages = ladder["messages"].as_array()?.clone();
        let byes = messages.iter().filter(|message| message["method"] == "BYE");
        (byes.count() == 4).then_some(messages)
    });
    let is_of_call = |packet: &&Hep| packet.is_of(1) && packet.text(0x0011) == call;
    let sip = |came: &Vec<Hep>| came.iter().filter(is_of_call).cloned().collect::<Vec<Hep>>();
    let packets = eventually("the collector has as much", SOON, || {
        Some(sip(&collector.came())).filter(|packets| packets.len() == ladder.len())
    });
    for message in &ladder {
        let text = message["text"].as_str().expect("text");
        let (local, remote) = (message["local"].as_str(), message["remote"].as_str());
        let is_received = message["direction"] == "received";
        let found = packets.iter().find(|packet| {
            let (source, target) = (packet.source().to_string(), packet.target().to_string());
            let (ours, theirs) = match is_received {
                true => (target, source),
                false => (source, target),
            };
            packet.text(0x000f) == text
                && (Some(ours.as_str()), Some(theirs.as_str())) == (local, remote)
        });
        let packet = found.unwrap_or_else(|| panic!("not told: {message:#}"));
        let at = packet.micros() / 1_000;
        let at = holdfast::views::Rfc3339(holdfast::time::Timestamp::from_millis(at)).to_string();
        assert_eq!(message["at"], at.as_str());
        assert_eq!((packet.number(0x0001), packet.number(0x0002)), (2, 17), "IPv4, UDP");
        assert_eq!(packet.number(0x000c), 77);
        assert_eq!(
            (packet.text(0x000e).as_str(), packet.text(0x0011)),
            ("collector-key", call.clone())
        );
        assert!(!text.contains("response=\"") || text.contains("response=\"*"), "{text}");
    }
}

/// Signaling and media are processes of their own, and tell it each their part.
#[test]
fn a_media_process_of_its_own_tells_how_its_sound_fares() {
    let collector = Collector::start();
    let target = collector.address.to_string();
    let told = |agent| [("HOLDFAST_HEP_TARGET", target.as_str()), ("HOLDFAST_HEP_AGENT", agent)];
    let server = Server::start_apart_told(&told("77"), &told("78"));
    let crowd = Crowd::talking(&server, 1, 0);
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    check_quality(&collector, &call);
    crowd.hang_up();
    server.cdrs(1);
    let came = collector.came();
    for (kind, agent) in [(1, 77), (5, 78)] {
        let mut of_kind = came.iter().filter(|packet| packet.is_of(kind)).peekable();
        assert!(of_kind.peek().is_some(), "{kind}");
        assert!(of_kind.all(|packet| packet.number(0x000c) == agent), "{kind} of {agent}");
    }
}

/// What we report to both phones is told, by the addresses of RTCP.
fn check_quality(collector: &Collector, call: &str) {
    let reports = eventually("media is told", SOON * 2, || {
        let came = collector.came();
        let rtcp = came.into_iter().filter(|packet| packet.is_of(5) && packet.text(0x0011) == call);
        let reports: Vec<(Hep, serde_json::Value)> = rtcp
            .map(|packet| {
                let report = serde_json::from_str(&packet.text(0x000f)).expect("JSON");
                (packet, report)
            })
            .collect();
        let phones: std::collections::BTreeSet<_> =
            reports.iter().map(|(packet, _)| packet.target()).collect();
        (phones.len() == 2).then_some(reports)
    });
    for (packet, report) in &reports {
        // Phones here take any port for RTP; ours is even, and the next one is that of RTCP.
        assert_eq!(packet.source().port() % 2, 1, "our RTCP port");
        assert_eq!((packet.number(0x0002), &report["type"]), (17, &serde_json::json!(200)));
        assert!(report["sender_information"]["packets"].as_u64() > Some(0), "{report:#}");
        let block = &report["report_blocks"][0];
        assert!(block["source_ssrc"].as_u64() > Some(0), "{report:#}");
        assert!(block["highest_seq_no"].as_u64() > Some(0), "{report:#}");
        assert_eq!(block["packets_lost"], 0, "{report:#}");
    }
}

/// A registration belongs to no call: it goes by its Call-ID.
#[test]
fn a_collector_is_told_of_registrations() {
    let collector = Collector::start();
    let target = collector.address.to_string();
    let server = Server::start_with(&[("HOLDFAST_HEP_TARGET", &target)]);
    for (transport, protocol) in [("udp", 17), ("tcp", 6)] {
        let mut phone = phone(&server, "1001", transport);
        phone.unregister();
        let is_its = |packet: &Hep| [packet.source(), packet.target()].contains(&phone.local);
        let packets = eventually("both REGISTERs and what they were answered", SOON, || {
            let came = collector.came().into_iter().filter(is_its).collect::<Vec<Hep>>();
            (came.len() >= 8).then_some(came)
        });
        let text = |packet: &Hep| packet.text(0x000f);
        let begins = |packet: &Hep| {
            let text = text(packet);
            let line = text.lines().next().expect("a line").to_owned();
            line.strip_prefix("SIP/2.0 ").map_or("REGISTER".to_owned(), |rest| rest[..3].to_owned())
        };
        let said: Vec<String> = packets.iter().map(begins).collect();
        assert_eq!(said, ["REGISTER", "401", "REGISTER", "200"].repeat(2), "each once, in order");
        for packet in &packets {
            let text = text(packet);
            let call_id = text.lines().find_map(|line| line.strip_prefix("Call-ID: "));
            assert_eq!(call_id, Some(packet.text(0x0011).as_str()), "{text}");
            assert!(packet.is_of(1) && packet.number(0x0002) == protocol, "{text}");
            let is_received = begins(packet) == "REGISTER";
            let from = if is_received { packet.source() } else { packet.target() };
            assert_eq!(from, phone.local, "{text}");
            assert!(!text.contains("response=\"") || text.contains("response=\"*"), "{text}");
        }
        let credentials = packets.iter().filter(|packet| text(packet).contains("response=\"*"));
        assert_eq!(credentials.count(), 2, "masked, and there");
    }
}

#[test]
fn a_collector_that_is_away_costs_no_call() {
    let server = Server::start_with(&[("HOLDFAST_HEP_TARGET", "nowhere.invalid:9060")]);
    let crowd = Crowd::talking(&server, 2, 0);
    crowd.hang_up();
    server.cdrs(2);
    eventually("what is lost is counted", SOON, || {
        let (_, metrics) = server.request("GET", "/metrics", None)?;
        let metrics = metrics.as_str()?.to_owned();
        let line = metrics.lines().find(|line| line.contains("queue_lost_total{queue=\"hep\"}"))?;
        line.rsplit(' ').next()?.parse::<u64>().ok().filter(|lost| *lost > 10)
    });
}
