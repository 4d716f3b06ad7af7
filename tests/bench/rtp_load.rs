//! RTP streams by the hundred in one thread: a packet each 20 ms; where the server passes payloads on as they are, each
//! carries the time of its sending.
//!
//! Invariant: a packet counts by its own mark, so what was sent before or after the window is nobody's loss. What was
//! decoded and encoded again bears no mark and counts by when it came, its latency from the last packet of its flow.

use super::clock::{self, Nanos};
use super::media::{Described, Media, key_of_b};
use super::usage::{Meter, Used};
use super::wire::{Reader, Wire};
use holdfast::rtp::srtp::{MOST_OVERHEAD, Receiver, ReceiverState, Sender, SenderState};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

/// Sockets of each side.
const WIRES: usize = 16;
const TICK: Nanos = 200_000;
const INTERVAL: Nanos = 20_000_000;
/// Packets may be under way for so long.
const LAST_ONES: Nanos = 300_000_000;
const HEADER_BYTES: usize = 12;
/// Of a payload: the run that it counts for, and when it was sent.
const MARK_BYTES: usize = 9;
const BUFFER_BYTES: usize = 1_500;

/// What came of a window.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) sent: usize,
    /// From the sending to the kernel's stamp, of each packet that came.
    pub(crate) latencies: Vec<Nanos>,
    /// How late packets were sent, at worst but for one in a hundred.
    pub(crate) late: Nanos,
    /// Payload bytes that came to B, and the first byte of the last of them (RFC 6716 §3.1).
    pub(crate) payload_bytes: u64,
    pub(crate) first_byte: u8,
    pub(crate) used: Used,
}

/// The sockets of both sides of all calls.
pub(crate) struct RtpLoad {
    wires: Vec<Wire>,
    reader: Reader,
    /// Number of the run, as its packets are marked; the mark 0 counts for none.
    run: u8,
}

/// The streams of a contender's calls: they go on from run to run, as SRTP wants.
pub(crate) struct Flows {
    media: Media,
    frames: [Vec<Vec<u8>>; 2],
    streams: Vec<Stream>,
    /// Streams by when they are due.
    due: VecDeque<usize>,
    /// What comes from there.
    lines: HashMap<SocketAddrV4, Line>,
}

struct Stream {
    wire: usize,
    to: SocketAddrV4,
    is_b: bool,
    payload_type: u8,
    next: Nanos,
    number: u32,
    source: u32,
    sent_at: Nanos,
    guard: Option<Sender>,
}

struct Line {
    /// The stream that is heard there.
    of: usize,
    guard: Option<Receiver>,
}

impl RtpLoad {
    pub(crate) fn new() -> Self {
        let wires = (0..WIRES * 2).map(|_| Wire::new()).collect();
        Self { wires, reader: Reader::new(), run: 0 }
    }

    /// Where side A and side B of a call want their packets.
    pub(crate) fn ports(&self, call: usize) -> [u16; 2] {
        [self.wires[call % WIRES].port, self.wires[WIRES + call % WIRES].port]
    }

    /// Sends and listens.
    pub(crate) fn run(
        &mut self,
        flows: &mut Flows,
        warmup: Duration,
        window: Duration,
        meter: &Meter,
    ) -> Heard {
        let begin = clock::now() + TICK;
        let from = begin + clock::in_nanos(warmup);
        let to = from + clock::in_nanos(window);
        self.run = self.run % 255 + 1;
        flows.spread(begin);
        let mut came = Came { window: (from, to), ..Came::default() };
        let (mut lates, mut first) = (Vec::new(), None);
        loop {
            let now = clock::now();
            if now >= from && first.is_none() {
                first = Some(meter.read());
            }
            if now >= to {
                break;
            }
            while let Some(late) = self.send_next(flows, from, to) {
                lates.extend(late);
            }
            self.listen(flows, &mut came);
            clock::sleep_until(now + TICK);
        }
        let last = meter.read();
        let used = first.unwrap_or_else(|| last.clone()).until(&last);
        while clock::now() < to + LAST_ONES {
            self.listen(flows, &mut came);
            clock::sleep_until(clock::now() + TICK);
        }
        lates.sort_unstable();
        let late = lates.get(lates.len() * 99 / 100).copied().unwrap_or(0);
        Heard {
            sent: lates.len(),
            latencies: came.latencies,
            late,
            payload_bytes: came.bytes_b.checked_div(came.packets_b).unwrap_or(0),
            first_byte: came.first_byte,
            used,
        }
    }

    /// Sends what is most due; `None` when nothing is. Tells how late, of packets that count.
    fn send_next(&mut self, flows: &mut Flows, from: Nanos, to: Nanos) -> Option<Option<Nanos>> {
        let now = clock::now();
        let streams = &flows.streams;
        let at = flows.due.pop_front_if(|at| streams[*at].next <= now.min(to))?;
        let mark = if flows.streams[at].next >= from { self.run } else { 0 };
        let mut buffer = [0; BUFFER_BYTES];
        let length = flows.packet(at, mark, now, &mut buffer);
        let stream = &mut flows.streams[at];
        self.wires[stream.wire].send(&buffer[..length], stream.to);
        let late = now - stream.next;
        stream.next += INTERVAL;
        flows.due.push_back(at);
        Some((mark != 0).then_some(late))
    }

    fn listen(&mut self, flows: &mut Flows, came: &mut Came) {
        let (media, run) = (flows.media, self.run);
        let Flows { lines, streams, .. } = flows;
        for wire in &self.wires {
            self.reader.read(wire, |bytes, from, at| {
                let Some(line) = lines.get_mut(&from) else { return };
                let heard = &streams[line.of];
                let mut copy = [0; BUFFER_BYTES];
                let mut packet = bytes;
                if let Some(guard) = &mut line.guard {
                    copy[..bytes.len()].copy_from_slice(bytes);
                    let Ok(length) = guard.unprotect_rtp(&mut copy[..bytes.len()]) else { return };
                    packet = &copy[..length];
                }
                let Some((_, payload)) = packet.split_at_checked(HEADER_BYTES) else { return };
                // A is heard by B.
                if !heard.is_b {
                    came.note_b(payload);
                }
                came.latencies.extend(match media {
                    Media::Opus => came.unmarked(at, heard.sent_at),
                    Media::Pcmu | Media::Srtp => marked(payload, run, at),
                });
            });
        }
    }
}

/// What came until now.
#[derive(Default)]
struct Came {
    window: (Nanos, Nanos),
    latencies: Vec<Nanos>,
    packets_b: u64,
    bytes_b: u64,
    first_byte: u8,
}

impl Came {
    fn note_b(&mut self, payload: &[u8]) {
        self.packets_b += 1;
        self.bytes_b += payload.len() as u64;
        self.first_byte = payload.first().copied().unwrap_or(0);
    }

    fn unmarked(&self, at: Nanos, sent_at: Nanos) -> Option<Nanos> {
        (self.window.0..self.window.1).contains(&at).then(|| at.saturating_sub(sent_at))
    }
}

fn marked(payload: &[u8], run: u8, at: Nanos) -> Option<Nanos> {
    let (mark, _) = payload.split_first_chunk::<MARK_BYTES>()?;
    let time = mark[1..].try_into().map(Nanos::from_be_bytes).expect("eight bytes");
    (mark[0] == run).then(|| at.saturating_sub(time))
}

impl Flows {
    /// Calls, by what the server told A and B.
    pub(crate) fn new(media: Media, calls: &[[Described; 2]]) -> Self {
        let secured = media == Media::Srtp;
        let (mut streams, mut lines) = (Vec::new(), HashMap::new());
        for (call, told) in calls.iter().enumerate() {
            for (side, told) in told.iter().enumerate() {
                let (number, is_b) = (streams.len(), side == 1);
                let guard = (secured && is_b).then(|| Sender::new(&key_of_b(), SenderState::NEW));
                let key = told.crypto.as_ref().filter(|_| is_b).map(|(_, key)| key);
                let opened = key.map(|key| Receiver::new(key, ReceiverState::default()));
                // What comes from where B sends to is what A says.
                let of = if is_b { number - 1 } else { number + 1 };
                lines.insert(told.at, Line { of, guard: opened.filter(|_| secured) });
                streams.push(Stream {
                    wire: side * WIRES + call % WIRES,
                    to: told.at,
                    is_b,
                    payload_type: if is_b { media.payload_type_of_b(told) } else { 0 },
                    next: 0,
                    number: 0,
                    source: u32::try_from(number).expect("few streams") + 1,
                    sent_at: 0,
                    guard,
                });
            }
        }
        let due = (0..streams.len()).collect();
        Self { media, frames: media.frames(), streams, due, lines }
    }

    /// Over the interval, as calls of strangers are.
    fn spread(&mut self, begin: Nanos) {
        let count = self.streams.len().max(1) as Nanos;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.next = begin + INTERVAL * number as Nanos / count;
        }
        self.due = (0..self.streams.len()).collect();
    }

    /// The next one of a stream; its length.
    fn packet(&mut self, at: usize, mark: u8, now: Nanos, buffer: &mut [u8]) -> usize {
        let stream = &mut self.streams[at];
        let frames = &self.frames[usize::from(stream.is_b)];
        let payload = &frames[(stream.number as usize + at) % frames.len()];
        let ticks = if stream.payload_type == 0 { 160 } else { 960 };
        buffer[..2].copy_from_slice(&[0x80, stream.payload_type]);
        buffer[2..4].copy_from_slice(&(stream.number as u16).to_be_bytes());
        buffer[4..8].copy_from_slice(&stream.number.wrapping_mul(ticks).to_be_bytes());
        buffer[8..12].copy_from_slice(&stream.source.to_be_bytes());
        let length = HEADER_BYTES + payload.len();
        buffer[HEADER_BYTES..length].copy_from_slice(payload);
        if self.media != Media::Opus {
            buffer[12] = mark;
            buffer[13..21].copy_from_slice(&now.to_be_bytes());
        }
        stream.number = stream.number.wrapping_add(1);
        stream.sent_at = now;
        match &mut stream.guard {
            Some(guard) => guard
                .protect_rtp(&mut buffer[..length + MOST_OVERHEAD], length)
                .expect("numbers rise, and there is room"),
            None => length,
        }
    }
}
