//! The control channel between signaling and media is cut while both live: people on the phone notice nothing, and what
//! was told meanwhile is heard afterwards, once.

use crate::common::postgres::Postgres;
use crate::common::server::Host;
use crate::common::{SOON, eventually, ports};
use crate::pair::Pair;
use crate::switch::check_record;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A wire that can be cut.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports::port())).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (is_cut, open) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let wire = Self { address, is_cut: Arc::clone(&is_cut), open: Arc::clone(&open) };
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(far) else { continue };
                let pairs = [(copy(&near), copy(&far)), (copy(&far), copy(&near))];
                open.lock().expect("no panic").extend([near, far]);
                for (from, to) in pairs {
                    thread::spawn(move || carry(from, to));
                }
            }
        });
        wire
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a descriptor")
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4_096];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Longer than signaling waits for a media node that gives no sign of life.
#[test]
fn a_cut_control_channel_is_not_noticed_on_the_phone() {
    is_not_noticed(Duration::from_secs(13));
}

/// `cargo test --test cluster -- --ignored cut_for_a_minute`
#[test]
#[ignore = "takes more than a minute"]
fn a_control_channel_cut_for_a_minute_is_not_noticed() {
    is_not_noticed(Duration::from_secs(60));
}

/// `cargo test --test cluster -- --ignored cut_for_ten_minutes`
#[test]
#[ignore = "takes more than ten minutes"]
fn a_control_channel_cut_for_ten_minutes_is_not_noticed() {
    is_not_noticed(Duration::from_secs(600));
}

/// One that is cut for so long.
fn is_not_noticed(cut: Duration) {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let wire = Wire::to(host.control());
    let _media = host.media_joining(&ports::media_ports(), &[wire.address]);
    let server = host.signaling();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let media_state = |wanted: &str| {
        eventually(&format!("media is {wanted}"), SOON, || {
            let nodes = server.list("/nodes");
            nodes
                .iter()
                .any(|node| node["mode"] == "media" && node["state"] == wanted)
                .then_some(())
        });
    };
    wire.cut();
    let since = Instant::now();
    media_state("suspect");
    pair.caller.talk.dial(5);
    while since.elapsed() < cut {
        pair.hear_each_other();
        assert_eq!(server.list("/calls").len(), 1, "the call goes on");
    }
    assert!(!server.signaling.log().contains("dials 5"), "nobody can have told");
    wire.mend();
    media_state("ready");
    server.signaling.says("dials 5");
    // Told again with every link, and heard no more.
    wire.cut();
    media_state("suspect");
    wire.mend();
    media_state("ready");
    pair.hear_each_other();
    assert_eq!(server.signaling.log().matches("dials 5").count(), 1);
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&server.cdrs(1), 0);
    eventually("no session and no port is left", SOON, || {
        let nodes = server.list("/nodes");
        let media = nodes.iter().find(|node| node["mode"] == "media")?;
        (media["sessions"] == 0 && media["media"]["ports_in_use"] == 0).then_some(())
    });
}
