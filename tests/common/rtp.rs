//! RTP of our own phone: sends a tone in PCMU from its own socket and keeps what it hears; PCMA, Opus and SRTP when it
//! is told so.
//!
//! Invariant: independent of the code under test: packets are made and read here, byte by byte (RFC 3550 §5.1, G.711).

use super::phone::{audio_address, sdp_at};
use super::rtcp::Reporter;
use super::speech::{Law, Speech};
use super::srtp::Secured;
use super::tone::{Audio, RATE_HZ, tone_sample};
use super::{SOON, eventually, own_ip};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PACKET: Duration = Duration::from_millis(20);
const PACKET_SAMPLES: usize = 160;
/// Of the rough way: each packet with such a number is lost …
const LOST_OF: u32 = 10;
/// … and each with an odd one leaves so late.
const LATE: Duration = Duration::from_millis(15);
const EVENT_PACKETS: u8 = 7;
/// Samples at the begin of a numbered packet: their signs are the low bits of its number.
const NUMBERED: usize = 8;
/// Louder than the tone.
const NUMBER_AMPLITUDE: i16 = 16_000;
const LOUD: i16 = 14_000;

/// What thread and phone share.
#[derive(Default)]
struct Shared {
    remote: Option<SocketAddr>,
    heard: Vec<i16>,
    /// Sequence numbers of all that came, SSRC and when.
    came: Vec<Arrival>,
    sent: u64,
    /// Packets that are lost on purpose.
    skipped: u64,
    /// Digits to dial.
    dials: VecDeque<u8>,
    /// The one under way: digit, number of its first packet, packets so far.
    pressed: Option<(u8, u32, u8)>,
    muted: bool,
    /// Of the last packet sent; its low half is the sequence number.
    number: u32,
    secured: Option<Secured>,
    mischief: Option<Mischief>,
    /// Packets bear their numbers in their sound.
    numbered: bool,
    /// Of our codec, as the far side named it.
    payload_type: Option<u8>,
    /// Digits that came (RFC 4733), and the timestamp of the last.
    digits: Vec<u8>,
    last_digit: Option<u32>,
    /// It takes no telephone events.
    plain: bool,
}

/// What is done to protected packets besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// A bit of each tag is wrong.
    WrongTag,
    /// Each is sent twice.
    Twice,
    /// Of 64 three in a row are lost.
    Loses,
    /// Each tenth is lost, and each other one leaves 15 ms late.
    Rough,
}

/// A packet as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) sequence: u16,
    pub(crate) ssrc: u32,
    /// Low bits of the number that it was sent under, heard in its sound.
    pub(crate) number: Option<u8>,
}

/// A mouth and an ear.
pub(crate) struct Talk {
    /// Where the phone is.
    ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) tone_hz: u32,
    law: Law,
    /// Answers the far side's reports, if the phone does.
    reporter: Option<Reporter>,
    shared: Arc<Mutex<Shared>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    pub(crate) fn new(tone_hz: u32) -> Self {
        Self::speaking(tone_hz, Law::Mu)
    }

    /// The same, in a codec of one's choice.
    pub(crate) fn speaking(tone_hz: u32, law: Law) -> Self {
        Self::speaking_at(own_ip().into(), tone_hz, law)
    }

    /// The same at another address of this place.
    pub(crate) fn speaking_at(ip: IpAddr, tone_hz: u32, law: Law) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a port for RTP");
        let port = socket.local_addr().expect("bound").port();
        let (shared, over) = (Arc::<Mutex<Shared>>::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, end) = (Arc::clone(&shared), Arc::clone(&over));
        let thread = thread::spawn(move || run(&socket, tone_hz, law, &theirs, &end));
        let thread = Some(thread);
        Self { ip, port, tone_hz, law, reporter: None, shared, over, thread }
    }

    /// SRTP from now on.
    pub(crate) fn secured(self, secured: Secured) -> Self {
        let mut shared = self.lock();
        shared.secured = Some(secured);
        // Soon the sequence numbers wrap.
        shared.number = 65_400;
        drop(shared);
        self
    }

    /// It answers sender reports, from so far away.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn reporting(mut self, round_trip: Duration) -> Self {
        self.reporter = Some(Reporter::start(self.tone_hz, round_trip));
        self
    }

    /// What it answers sender reports with.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn reporter(&self) -> &Reporter {
        self.reporter.as_ref().expect("it reports")
    }

    /// Its packets bear their numbers in their sound, which G.711 carries and a relay must not mix up.
    pub(crate) fn numbered(self) -> Self {
        self.lock().numbered = true;
        self
    }

    /// It knows no telephone events.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn plain(self) -> Self {
        self.lock().plain = true;
        self
    }

    /// Digits that came as telephone events, each once.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn digits(&self) -> Vec<u8> {
        self.lock().digits.clone()
    }

    pub(crate) fn does(&self, mischief: Option<Mischief>) {
        self.lock().mischief = mischief;
    }

    /// Our description.
    pub(crate) fn sdp(&self, version: u32, direction: &str) -> String {
        let sdp = sdp_at(self.ip, self.port, version, direction);
        let shared = self.lock();
        let sdp = self.law.describe(&sdp, shared.payload_type);
        let sdp = if shared.plain { without_events(&sdp) } else { sdp };
        let rtcp = self.reporter.as_ref().map(|reporter| format!("a=rtcp:{}\r\n", reporter.port));
        let sdp = sdp + &rtcp.unwrap_or_default();
        match &shared.secured {
            Some(secured) => secured.describe(&sdp),
            None => sdp,
        }
    }

    /// The far side's description: begins to send there.
    pub(crate) fn told(&self, body: &[u8]) {
        let mut shared = self.lock();
        shared.remote = Some(audio_address(body));
        let body = String::from_utf8_lossy(body);
        shared.payload_type = self.law.payload_type_in(&body).or(shared.payload_type);
        if let Some(secured) = &mut shared.secured {
            secured.told(&body);
        }
    }

    /// The far side's SRTP key.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn far_key(&self) -> Option<String> {
        self.lock().secured.as_ref()?.far_key().map(str::to_owned)
    }

    /// Our SRTP key.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn own_key(&self) -> Option<String> {
        self.lock().secured.as_ref().map(Secured::own_key)
    }

    /// Begins to send there.
    pub(crate) fn to(&self, remote: SocketAddr) {
        self.lock().remote = Some(remote);
    }

    /// Stops and begins to send.
    pub(crate) fn mute(&self, muted: bool) {
        self.lock().muted = muted;
    }

    /// Dials a digit (RFC 4733) in place of the tone, for 100 ms.
    pub(crate) fn dial(&self, digit: u8) {
        self.lock().dials.push_back(digit);
    }

    /// What was heard until now is forgotten.
    pub(crate) fn listen(&self) {
        self.lock().heard.clear();
    }

    /// That tone was heard since, and nothing else lately.
    pub(crate) fn is_hearing(&self, tone_hz: u32) -> bool {
        self.heard().last().is_some_and(|audio| audio.is_tone(tone_hz))
    }

    /// Waits until that tone is heard from now on.
    pub(crate) fn hears(&self, tone_hz: u32) {
        self.listen();
        eventually(&format!("{} Hz is heard", tone_hz), SOON, || {
            self.is_hearing(tone_hz).then_some(())
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

    /// Every packet that ever came.
    pub(crate) fn came(&self) -> Vec<Arrival> {
        self.lock().came.clone()
    }

    /// Packets that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// Packets that were lost on purpose.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn skipped(&self) -> u64 {
        self.lock().skipped
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

fn run(socket: &UdpSocket, tone_hz: u32, law: Law, shared: &Mutex<Shared>, over: &AtomicBool) {
    let mut next = Instant::now();
    let mut buffer = [0_u8; 2_048];
    let mut speech = Speech::new(law);
    while !over.load(Ordering::Relaxed) {
        let due = next + shared.lock().expect("no panic").lateness();
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).expect("a positive time");
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let mut shared = shared.lock().expect("no panic");
            let packet = match &mut shared.secured {
                Some(secured) => secured.open(&buffer[..length]).unwrap_or_default(),
                None => buffer[..length].to_vec(),
            };
            let samples = speech.decoded(&packet);
            shared.came.extend(arrival(&buffer[..length], &samples));
            shared.heard.extend(samples);
            shared.note_digit(&packet);
        }
        if Instant::now() < due {
            continue;
        }
        next += PACKET;
        let mut shared = shared.lock().expect("no panic");
        if let Some(remote) = shared.remote.filter(|_| !shared.muted) {
            let packet = shared.next_packet(tone_hz, &mut speech);
            for packet in shared.packets(packet) {
                shared.sent += u64::from(socket.send_to(&packet, remote).is_ok());
            }
        }
    }
}

impl Shared {
    /// The tone, or a digit in its place.
    fn next_packet(&mut self, tone_hz: u32, speech: &mut Speech) -> Vec<u8> {
        self.number += 1;
        let number = self.number;
        if self.pressed.is_none() {
            self.pressed = self.dials.pop_front().map(|digit| (digit, number, 0));
        }
        let Some((digit, begin, count)) = self.pressed else {
            let payload_type = self.payload_type.unwrap_or(speech.payload_type());
            return packet(number, tone_hz, speech, (payload_type, self.numbered));
        };
        let nth = count + 1;
        self.pressed = (nth < EVENT_PACKETS).then_some((digit, begin, nth));
        event_packet(number, begin, tone_hz, digit, nth)
    }

    /// How long after its time the next packet leaves.
    fn lateness(&self) -> Duration {
        let is_late = self.mischief == Some(Mischief::Rough) && self.number.is_multiple_of(2);
        if is_late { LATE } else { Duration::ZERO }
    }

    /// The present packet is lost on purpose.
    fn skips(&self) -> bool {
        match self.mischief {
            Some(Mischief::Loses) => self.number % 64 < 3,
            Some(Mischief::Rough) => self.number.is_multiple_of(LOST_OF),
            None | Some(Mischief::WrongTag | Mischief::Twice) => false,
        }
    }

    fn note_digit(&mut self, packet: &[u8]) {
        let Some((header, [digit, end, _, _])) = packet.split_first_chunk::<12>() else { return };
        let timestamp = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let is_new = self.last_digit != Some(timestamp);
        if header[1] & 0x7f == 101 && end & 0x80 != 0 && is_new {
            self.digits.push(*digit);
            self.last_digit = Some(timestamp);
        }
    }

    /// A packet as it goes on the wire.
    fn packets(&mut self, packet: Vec<u8>) -> Vec<Vec<u8>> {
        if self.skips() {
            self.skipped += 1;
            return Vec::new();
        }
        let Some(secured) = &mut self.secured else { return vec![packet] };
        let mut packet = secured.protect(&packet);
        match self.mischief {
            None | Some(Mischief::Loses | Mischief::Rough) => vec![packet],
            Some(Mischief::Twice) => vec![packet.clone(), packet],
            Some(Mischief::WrongTag) => {
                *packet.last_mut().expect("a tag") ^= 1;
                vec![packet]
            }
        }
    }
}

fn without_events(sdp: &str) -> String {
    let lines = sdp.split_inclusive("\r\n").filter(|line| !line.contains(":101 "));
    lines.collect::<String>().replace(" 101\r\n", "\r\n")
}

fn packet(
    number: u32,
    tone_hz: u32,
    speech: &mut Speech,
    (payload_type, numbered): (u8, bool),
) -> Vec<u8> {
    let begin = number as usize * PACKET_SAMPLES;
    let mut bytes = vec![0x80, payload_type];
    bytes.extend_from_slice(&(number as u16).to_be_bytes());
    let timestamp = u32::try_from(begin).expect("small") * speech.clock_per_sample();
    bytes.extend_from_slice(&timestamp.to_be_bytes());
    bytes.extend_from_slice(&tone_hz.to_be_bytes());
    let samples = (begin..begin + PACKET_SAMPLES).map(|n| tone_sample(tone_hz, RATE_HZ, n));
    let mut samples: Vec<i16> = samples.collect();
    for bit in (0..NUMBERED).filter(|_| numbered) {
        let is_set = number >> bit & 1 == 1;
        samples[bit] = if is_set { NUMBER_AMPLITUDE } else { -NUMBER_AMPLITUDE };
    }
    bytes.extend(speech.encoded(&samples));
    bytes
}

/// The nth packet of a digit that began at `begin`; the last three say that it is over.
fn event_packet(number: u32, begin: u32, tone_hz: u32, digit: u8, nth: u8) -> Vec<u8> {
    let marker = if nth == 1 { 0x80 } else { 0 };
    let timestamp = begin * PACKET_SAMPLES as u32;
    let end = if nth + 3 > EVENT_PACKETS { 0x80 } else { 0 };
    let duration = u16::from(nth.min(EVENT_PACKETS - 2)) * PACKET_SAMPLES as u16;
    let mut bytes = vec![0x80, 101 | marker];
    bytes.extend_from_slice(&(number as u16).to_be_bytes());
    bytes.extend_from_slice(&timestamp.to_be_bytes());
    bytes.extend_from_slice(&tone_hz.to_be_bytes());
    bytes.extend_from_slice(&[digit, end | 10]);
    bytes.extend_from_slice(&duration.to_be_bytes());
    bytes
}

fn arrival(packet: &[u8], samples: &[i16]) -> Option<Arrival> {
    let (header, _) = packet.split_first_chunk::<12>()?;
    let [_, kind, s0, s1, _, _, _, _, c0, c1, c2, c3] = *header;
    // RTCP (RFC 5761 §4) for the port below, whose phone reads none.
    if (192..=223).contains(&kind) {
        return None;
    }
    let (sequence, ssrc) = (u16::from_be_bytes([s0, s1]), u32::from_be_bytes([c0, c1, c2, c3]));
    Some(Arrival { at: Instant::now(), sequence, ssrc, number: number_in(samples) })
}

fn number_in(samples: &[i16]) -> Option<u8> {
    let first = samples.get(..NUMBERED)?;
    let bit = |(at, sample): (usize, &i16)| u8::from(*sample > 0) << at;
    let is_numbered = first.iter().all(|sample| sample.unsigned_abs() > LOUD.unsigned_abs());
    is_numbered.then(|| first.iter().enumerate().map(bit).sum())
}
