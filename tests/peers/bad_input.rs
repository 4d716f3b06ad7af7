//! Bad input: the right status or a silent drop, memory bounded, and a valid call after each.

use super::common::phone::{Phone, sdp};
use super::common::server::Server;
use super::common::{SOON, eventually, own_ip};
use super::pair::{Pair, phone};
use holdfast::sip::{Message, Method, Status};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Time for an answer that should not come.
const QUIET: Duration = Duration::from_millis(300);

/// A whole request but for what `change` does to its text.
fn text(phone: &Phone, method: &str, uri: &str) -> String {
    let request = phone.request(Method::from(method), "sip:1002@127.0.0.1");
    let bytes = request.to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("ASCII");
    text.replacen("sip:1002@127.0.0.1", uri, 1)
}

/// A call to the echo test, from INVITE to BYE.
fn a_valid_call_works(caller: &mut Phone, server: &Server, after: &str) {
    let invite = caller.invite(&server.uri("*43"), Some(&sdp(40_000, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200), "after {after}");
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, None);
    caller.hang_up(&mut dialog);
}

fn status_of(message: &Message) -> Option<u16> {
    match message {
        Message::Response(response) => Some(response.status.0),
        Message::Request(_) => None,
    }
}

/// The status of what comes back for a datagram. Read from the first line alone: an answer to a message that lacks
/// header fields lacks them too. It comes to the source, as rport asks.
fn status_of_answer(server: SocketAddr, bytes: &[u8], quiet: bool) -> Option<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let patience = if quiet { QUIET } else { super::common::SOON };
    socket.set_read_timeout(Some(patience)).expect("a time");
    socket.send_to(bytes, server).expect("sent");
    let mut buffer = [0; 65_535];
    let length = socket.recv(&mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}

#[test]
fn datagrams() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    let password = server.user("1001");
    let sample = Phone::udp(server.sip, "1001", password);
    let plain = || text(&sample, "OPTIONS", "sip:1002@127.0.0.1");
    let invite = |uri: &str| text(&sample, "INVITE", uri);
    let many_headers = (0..2_000).map(|n| format!("X-{n}: x\r\n")).collect::<String>();
    let all_bytes: Vec<u8> = (0..4_096).map(|n: u32| (n * 7 % 256) as u8).collect();
    // What is sent, and the statuses that are right; none: silence.
    let cases: [(&str, Vec<u8>, &[u16]); 18] = [
        ("an empty datagram", Vec::new(), &[]),
        ("binary", all_bytes, &[]),
        ("NULs", vec![0; 1_200], &[]),
        ("a first line only", b"INVITE sip:1002@127.0.0.1 SIP/2.0".to_vec(), &[]),
        ("no SIP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &[]),
        ("cut in its headers", plain().as_bytes()[..150].to_vec(), &[400]),
        (
            "cut in its body",
            plain().replace("Content-Length: 0", "Content-Length: 99").into_bytes(),
            &[400],
        ),
        (
            "a negative length",
            plain().replace("Content-Length: 0", "Content-Length: -1").into_bytes(),
            &[400],
        ),
        ("another version", plain().replace("SIP/2.0\r\n", "SIP/3.0\r\n").into_bytes(), &[505]),
        ("no Call-ID", plain().replace("Call-ID:", "X-ID:").into_bytes(), &[400]),
        ("another method in CSeq", plain().replace("1 OPTIONS", "1 INVITE").into_bytes(), &[400]),
        ("a huge CSeq", plain().replace("CSeq: 1", "CSeq: 99999999999").into_bytes(), &[400]),
        ("an unknown method", text(&sample, "FROB", "sip:1002@h").into_bytes(), &[401, 405, 501]),
        ("no host", invite("sip:").into_bytes(), &[400]),
        ("a bad escape", invite("sip:a%zz@h").into_bytes(), &[400]),
        ("an unknown scheme", invite("nonsense:1002").into_bytes(), &[401, 416]),
        (
            "more headers than anybody needs",
            plain().replace("Max-Forwards", &format!("{many_headers}Max-Forwards")).into_bytes(),
            &[400, 431, 513],
        ),
        (
            "a header as long as a datagram can be",
            plain()
                .replace("Max-Forwards", &format!("X: {}\r\nMax-Forwards", "x".repeat(64_000)))
                .into_bytes(),
            &[200, 400, 513],
        ),
    ];
    for (name, bytes, statuses) in cases {
        let answered = status_of_answer(server.sip, &bytes, statuses.is_empty());
        assert_eq!(answered.is_some(), !statuses.is_empty(), "{name}: {answered:?}");
        assert!(answered.is_none_or(|status| statuses.contains(&status)), "{name}: {answered:?}");
        a_valid_call_works(&mut caller, &server, name);
    }
    server.cdrs(18);
}

#[test]
fn streams() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "tcp");
    let password = server.user("1001");
    let sample = Phone::tcp(server.sip, "1001", password);
    let plain = text(&sample, "OPTIONS", "sip:1002@127.0.0.1");
    let without_length = plain.replace("Content-Length: 0\r\n", "");
    let large = plain.replace("Content-Length: 0", "Content-Length: 70000") + &"x".repeat(70_000);
    let endless = format!("OPTIONS sip:h SIP/2.0\r\nX: {}", "x".repeat(200_000));
    // What is sent, the status that is right, and whether the connection is closed.
    let cases: [(&str, Vec<u8>, Option<u16>, bool); 7] = [
        ("whole", plain.clone().into_bytes(), Some(200), false),
        ("after keep-alives", format!("\r\n\r\n\r\n{plain}").into_bytes(), Some(200), false),
        ("half, and never the rest", plain.as_bytes()[..100].to_vec(), None, false),
        ("no Content-Length", without_length.into_bytes(), Some(400), true),
        ("over 64 KiB", large.into_bytes(), Some(513), true),
        ("a head without end", endless.into_bytes(), None, true),
        ("binary", (0..5_000).map(|n: u32| (n * 11 % 251) as u8).collect(), None, true),
    ];
    for (name, bytes, status, closed) in cases {
        let mut sender = Phone::tcp(server.sip, "1001", password);
        sender.send(&bytes);
        if let Some(status) = status {
            let is_right = |message: &Message| status_of(message) == Some(status);
            assert!(sender.comes(super::common::SOON, is_right), "{name}: {status}");
        }
        if closed {
            assert!(sender.is_closed(), "{name} closes");
        }
        a_valid_call_works(&mut caller, &server, name);
    }
    server.cdrs(7);
}

#[test]
fn a_flood_takes_no_memory() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    a_valid_call_works(&mut caller, &server, "nothing");
    let before = resident_kib(server.signaling.id());
    let password = server.user("1001");
    let (mut sender, mut other) =
        (Phone::udp(server.sip, "1001", password), Phone::udp(server.sip, "1001", password));
    for round in 0..20_000_u32 {
        // INVITEs without credentials, each with a Call-ID of its own, and noise between.
        let invite = text(&sender, "INVITE", "sip:1002@127.0.0.1");
        sender.send(invite.as_bytes());
        sender.send(&round.to_be_bytes());
        if round.is_multiple_of(100) {
            // The kernel's buffer is bounded: what it drops would be no test of ours.
            let options = other.request(Method::Options, "sip:1002@127.0.0.1");
            other.send_request(&options);
            other.response_to(&Method::Options);
        }
    }
    a_valid_call_works(&mut caller, &server, "a flood");
    let grown = resident_kib(server.signaling.id()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().split(' ').next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// RTP from whoever knows the port, even with the phone's own SSRC and the next sequence numbers, is not heard while the
/// phone speaks, and is counted for the call and for the node.
#[test]
fn injected_sound_is_not_heard_and_counted() {
    const INJECTED: u16 = 200;
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let stream = || server.list("/calls")[0]["legs"][0]["streams"][0].clone();
    let known = eventually("the caller's sound is counted", SOON, || {
        Some(stream()).filter(|stream| stream["received"]["ssrc"].is_u64())
    });
    let to: SocketAddr = known["local"].as_str().expect("an address").parse().expect("an address");
    let ssrc =
        u32::try_from(known["received"]["ssrc"].as_u64().expect("a number")).expect("32 bits");
    let stranger = UdpSocket::bind((own_ip(), 0)).expect("a port");
    let sequence = known["received"]["packets"].as_u64().expect("a number") as u16;
    for number in 0..INJECTED {
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&(sequence + number).to_be_bytes());
        packet.extend_from_slice(&(u32::from(sequence + number) * 160).to_be_bytes());
        packet.extend_from_slice(&ssrc.to_be_bytes());
        // Loud noise.
        packet.extend((0..160_u32).map(|n| (n * 97) as u8 & 0x8f));
        stranger.send_to(&packet, to).expect("sent");
    }
    let refused = "holdfast_media_packets_refused_total{reason=\"source\"} ";
    eventually("all of it is refused", SOON, || {
        let (_, text) = server.request("GET", "/metrics", None)?;
        let text = text.as_str()?.to_owned();
        let count = text.lines().find_map(|line| line.strip_prefix(refused))?;
        (count.trim() == INJECTED.to_string()).then_some(())
    });
    pair.hear_each_other();
    eventually("the call shows it", SOON, || {
        (stream()["received"]["rejected"] == INJECTED).then_some(())
    });
    pair.caller.hangs_up_on(&mut pair.callee);
}
