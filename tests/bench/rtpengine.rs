//! The peer in media: rtpengine in userspace, set up over its ng protocol (a cookie, a space, a bencoded dictionary).

use super::clock;
use super::media::{Described, Media, OPUS_BITS_A_SECOND};
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

    /// A call between two ports of ours: what A is told, and what B is.
    pub(crate) fn call(&mut self, media: Media, number: usize, [a, b]: [u16; 2]) -> [Described; 2] {
        let call = text(&format!("call-{number}-{}", clock::now()));
        let common = [("call-id", call), ("from-tag", text("a"))];
        let mut offer = vec![("command", text("offer")), ("sdp", text(&media.describe(a, None)))];
        match media {
            Media::Pcmu => {}
            Media::Srtp => {
                offer.extend([("transport-protocol", text("RTP/SAVP")), ("DTLS", text("off"))]);
            }
            Media::Opus => {
                let codec = text(&format!("opus/48000/2/{OPUS_BITS_A_SECOND}"));
                offer.push(("codec", dictionary(&[("transcode", format!("l{codec}e"))])));
            }
        }
        let towards_b = self.ask(&[&offer, &common[..]].concat());
        let told = Some(&towards_b);
        let (transport, answer) = (text("RTP/AVP"), text(&media.describe(b, told)));
        let mut rest = vec![("command", text("answer")), ("sdp", answer), ("to-tag", text("b"))];
        if media == Media::Srtp {
            rest.push(("transport-protocol", transport));
        }
        let towards_a = self.ask(&[&rest, &common[..]].concat());
        [towards_a, towards_b]
    }

    /// A command; the description that comes back.
    fn ask(&mut self, fields: &[(&str, String)]) -> Described {
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
                    return described(answer).unwrap_or_else(|| panic!("rtpengine says {answer}"));
                }
            }
        }
        panic!("rtpengine says nothing")
    }
}

fn text(text: &str) -> String {
    format!("{}:{text}", text.len())
}

/// Of values that are bencoded already.
fn dictionary(fields: &[(&str, String)]) -> String {
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    let entries: String = fields.iter().map(|(name, value)| text(name) + value).collect();
    format!("d{entries}e")
}

fn described(answer: &str) -> Option<Described> {
    let (_, sdp) = answer.split_once("3:sdp")?;
    Described::read(sdp.split_once(':')?.1)
}
