//! RTP of our own phone: sends a tone in PCMU from its own socket and keeps what it hears.
//!
//! Invariant: independent of the code under test: packets are made and read here, byte by byte (RFC 3550 §5.1, G.711).

use super::tone::{Audio, RATE_HZ, tone_sample};
use super::{SOON, eventually};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PACKET: Duration = Duration::from_millis(20);
const PACKET_SAMPLES: usize = 160;

/// What thread and phone share.
#[derive(Default)]
struct Shared {
    remote: Option<SocketAddr>,
    heard: Vec<i16>,
    muted: bool,
}

/// A mouth and an ear.
pub(crate) struct Talk {
    pub(crate) port: u16,
    pub(crate) tone_hz: u32,
    shared: Arc<Mutex<Shared>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    pub(crate) fn new(tone_hz: u32) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for RTP");
        let port = socket.local_addr().expect("bound").port();
        let (shared, over) = (Arc::<Mutex<Shared>>::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, end) = (Arc::clone(&shared), Arc::clone(&over));
        let thread = thread::spawn(move || run(&socket, tone_hz, &theirs, &end));
        Self { port, tone_hz, shared, over, thread: Some(thread) }
    }

    /// Begins to send there.
    pub(crate) fn to(&self, remote: SocketAddr) {
        self.lock().remote = Some(remote);
    }

    /// Stops and begins to send.
    pub(crate) fn mute(&self, muted: bool) {
        self.lock().muted = muted;
    }

    /// Waits until that tone is heard from now on.
    pub(crate) fn hears(&self, tone_hz: u32) {
        self.lock().heard.clear();
        eventually(&format!("{} Hz is heard", tone_hz), SOON, || {
            self.heard().last()?.is_tone(tone_hz).then_some(())
        });
    }

    /// For most of a second there is nothing to hear. What was on its way does not count.
    pub(crate) fn hears_nothing(&self) {
        let pass = |time: Duration| {
            let end = Instant::now() + time;
            eventually("time passes", SOON, || (Instant::now() > end).then_some(()));
        };
        pass(Duration::from_millis(300));
        self.lock().heard.clear();
        pass(Duration::from_millis(600));
        assert!(!self.heard().is_audible(), "there is something to hear");
    }

    /// Everything since the last `hears`.
    pub(crate) fn heard(&self) -> Audio {
        Audio { rate_hz: RATE_HZ, samples: self.lock().heard.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().expect("the thread does not panic")
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(socket: &UdpSocket, tone_hz: u32, shared: &Mutex<Shared>, over: &AtomicBool) {
    let mut sequence = 1_000_u16;
    let mut next = Instant::now();
    let mut buffer = [0_u8; 2_048];
    while !over.load(Ordering::Relaxed) {
        let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).expect("a positive time");
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let heard = decoded(&buffer[..length]);
            shared.lock().expect("no panic").heard.extend(heard);
        }
        if Instant::now() < next {
            continue;
        }
        next += PACKET;
        let remote = {
            let shared = shared.lock().expect("no panic");
            shared.remote.filter(|_| !shared.muted)
        };
        if let Some(remote) = remote {
            sequence = sequence.wrapping_add(1);
            let _ = socket.send_to(&packet(sequence, tone_hz), remote);
        }
    }
}

fn packet(sequence: u16, tone_hz: u32) -> Vec<u8> {
    let begin = usize::from(sequence) * PACKET_SAMPLES;
    let mut bytes = vec![0x80, 0];
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(begin).expect("small").to_be_bytes());
    bytes.extend_from_slice(&tone_hz.to_be_bytes());
    let samples = (begin..begin + PACKET_SAMPLES).map(|n| tone_sample(tone_hz, RATE_HZ, n));
    bytes.extend(samples.map(to_ulaw));
    bytes
}

/// Samples of a PCMU packet; none of any other.
fn decoded(packet: &[u8]) -> Vec<i16> {
    match packet {
        [0x80, kind, ..] if kind & 0x7f == 0 => {
            packet.get(12..).unwrap_or_default().iter().map(|byte| from_ulaw(*byte)).collect()
        }
        _ => Vec::new(),
    }
}

/// G.711 µ-law.
fn to_ulaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs() + 132).min(32_767);
    let exponent = (7 - (magnitude.leading_zeros() - 17).min(7)) as u8;
    let mantissa = (magnitude >> (exponent + 3)) as u8 & 0x0f;
    !(sign | exponent << 4 | mantissa)
}

fn from_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 132) << ((byte >> 4) & 7);
    if byte & 0x80 == 0 { magnitude - 132 } else { 132 - magnitude }
}

/// The table's ends and some between, both ways.
pub(crate) fn check_ulaw() {
    for byte in 0..=255_u8 {
        // 0x7f is negative zero: the only one that does not come back.
        if byte != 0x7f {
            assert_eq!(to_ulaw(from_ulaw(byte)), byte, "{byte:#x}");
        }
    }
    assert_eq!((from_ulaw(0), from_ulaw(0x80), from_ulaw(0xff)), (-32_124, 32_124, 0));
}
