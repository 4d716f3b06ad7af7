//! The peer in media: rtpengine in userspace, set up over its ng protocol (a cookie, a space, a bencoded dictionary).

use super::clock;
use super::usage::Meter;
use super::world::{Daemon, World, port};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

/// A running relay.
pub(crate) struct Rtpengine {
    pub(crate) meter: Meter,
    control: UdpSocket,
    cookies: u32,
    _daemon: Daemon,
}

impl Rtpengine {
    /// One thread, as it has one core.
    pub(crate) fn start(world: &World) -> Self {
        let folder = world.folder("rtpengine");
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port());
        let mut command = Command::new("rtpengine");
        command.args(["--foreground", "--log-stderr", "--config-file=none", "--table=-1"]);
        command.args(["--interface=127.0.0.1", "--num-threads=1", "--log-level=3"]);
        command.args(["--port-min=10000", "--port-max=31999"]);
        command.arg(format!("--listen-ng={at}"));
        command.arg(format!("--pidfile={}", folder.join("pid").display()));
        let mut daemon = Daemon::start("rtpengine", Signal::SIGTERM, &folder, &command);
        let control = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        control.connect(at).expect("loopback");
        control.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
        let meter = Meter(vec![("media", daemon.id())]);
        let mut cookies = 0;
        daemon.until("answers", || {
            cookies += 1;
            control.send(format!("{cookies} d7:command4:pinge").as_bytes()).is_ok()
                && control.recv(&mut [0; 512]).is_ok()
        });
        Self { meter, control, cookies, _daemon: daemon }
    }

    /// A call between two ports of ours: where A is to send, and where B is.
    pub(crate) fn call(&mut self, number: usize, a: u16, b: u16) -> [SocketAddrV4; 2] {
        let call = format!("call-{number}-{}", clock::now());
        let (offer, answer) = (sdp(a), sdp(b));
        let common = [("call-id", call.as_str()), ("from-tag", "a")];
        let towards_b = self.ask(&[&[("command", "offer"), ("sdp", &offer)], &common[..]].concat());
        let rest = [("command", "answer"), ("sdp", answer.as_str()), ("to-tag", "b")];
        let towards_a = self.ask(&[&rest, &common[..]].concat());
        [towards_a, towards_b]
    }

    /// A command; the address in the description that comes back.
    fn ask(&mut self, fields: &[(&str, &str)]) -> SocketAddrV4 {
        self.cookies += 1;
        let cookie = self.cookies.to_string();
        let request = format!("{cookie} {}", dictionary(fields));
        let mut buffer = [0; 8_192];
        for _ in 0..5 {
            self.control.send(request.as_bytes()).expect("loopback");
            while let Ok(length) = self.control.recv(&mut buffer) {
                let answer = String::from_utf8_lossy(&buffer[..length]);
                // Answers to what was asked before may be late.
                if let Some(answer) = answer.strip_prefix(&format!("{cookie} ")) {
                    return address(answer).unwrap_or_else(|| panic!("rtpengine says {answer}"));
                }
            }
        }
        panic!("rtpengine says nothing")
    }
}

fn dictionary(fields: &[(&str, &str)]) -> String {
    let text = |text: &str| format!("{}:{text}", text.len());
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    let entries: String = fields.iter().map(|(name, value)| text(name) + &text(value)).collect();
    format!("d{entries}e")
}

fn address(answer: &str) -> Option<SocketAddrV4> {
    let after = |start: &str| answer.split_once(start).map(|(_, rest)| rest);
    let ip = after("c=IN IP4 ")?.split_whitespace().next()?.parse().ok()?;
    let port = after("m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddrV4::new(ip, port))
}

fn sdp(port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n"
    )
}
