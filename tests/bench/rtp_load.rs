//! RTP streams by the hundred in one thread: PCMU, a packet each 20 ms, each carrying the time of its sending.
//!
//! Invariant: a packet counts by its own mark, so what was sent before or after the window is nobody's loss.

use super::clock::{self, Nanos};
use super::usage::{Meter, Used};
use super::wire::{Reader, Wire};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Sockets of each side.
const WIRES: usize = 16;
const TICK: Nanos = 200_000;
const INTERVAL: Nanos = 20_000_000;
/// Packets may be under way for so long.
const LAST_ONES: Nanos = 300_000_000;
const SAMPLES: u32 = 160;
const HEADER_BYTES: usize = 12;
const PACKET_BYTES: usize = HEADER_BYTES + SAMPLES as usize;

/// What came of a window.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) sent: usize,
    /// From the sending to the kernel's stamp, of each packet that came.
    pub(crate) latencies: Vec<Nanos>,
    /// How late packets were sent, at worst but for one in a hundred.
    pub(crate) late: Nanos,
    pub(crate) used: Used,
}

/// Both sides of all calls.
pub(crate) struct RtpLoad {
    wires: Vec<Wire>,
    reader: Reader,
    streams: VecDeque<Stream>,
    /// Number of the run, as its packets are marked; the mark 0 counts for none.
    run: u8,
}

struct Stream {
    wire: usize,
    to: SocketAddrV4,
    next: Nanos,
    sequence: u16,
    timestamp: u32,
    source: u32,
}

impl RtpLoad {
    pub(crate) fn new() -> Self {
        let wires = (0..WIRES * 2).map(|_| Wire::new()).collect();
        Self { wires, reader: Reader::new(), streams: VecDeque::new(), run: 0 }
    }

    /// Where side A and side B of a call want their packets.
    pub(crate) fn ports(&self, call: usize) -> [u16; 2] {
        [self.wires[call % WIRES].port, self.wires[WIRES + call % WIRES].port]
    }

    /// Calls, by where A and B are to send.
    pub(crate) fn set_calls(&mut self, calls: &[[SocketAddrV4; 2]]) {
        let pairs = calls.iter().enumerate();
        let ends =
            pairs.flat_map(|(call, [a, b])| [(call % WIRES, *a), (WIRES + call % WIRES, *b)]);
        let streams = ends.enumerate().map(|(number, (wire, to))| {
            let source = u32::try_from(number).expect("few streams") + 1;
            Stream { wire, to, next: 0, sequence: 0, timestamp: 0, source }
        });
        self.streams = streams.collect();
    }

    /// Sends and listens.
    pub(crate) fn run(&mut self, warmup: Duration, window: Duration, meter: &Meter) -> Heard {
        let begin = clock::now() + TICK;
        let from = begin + clock::in_nanos(warmup);
        let to = from + clock::in_nanos(window);
        let count = self.streams.len().max(1) as Nanos;
        self.run = self.run % 255 + 1;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            // Spread over the interval, as calls of strangers are.
            stream.next = begin + INTERVAL * number as Nanos / count;
        }
        let mut heard = Vec::with_capacity(1 << 20);
        let (mut lates, mut first) = (Vec::new(), None);
        loop {
            let now = clock::now();
            if now >= from && first.is_none() {
                first = Some(meter.read());
            }
            if now >= to {
                break;
            }
            while let Some(late) = self.send_next(from, to) {
                lates.extend(late);
            }
            self.listen(&mut heard);
            clock::sleep_until(now + TICK);
        }
        let last = meter.read();
        let used = first.unwrap_or_else(|| last.clone()).until(&last);
        while clock::now() < to + LAST_ONES {
            self.listen(&mut heard);
            clock::sleep_until(clock::now() + TICK);
        }
        lates.sort_unstable();
        let late = lates.get(lates.len() * 99 / 100).copied().unwrap_or(0);
        Heard { sent: lates.len(), latencies: heard, late, used }
    }

    /// Sends what is most due; `None` when nothing is. Tells how late, of packets that count.
    fn send_next(&mut self, from: Nanos, to: Nanos) -> Option<Option<Nanos>> {
        let now = clock::now();
        let mut stream = self.streams.pop_front_if(|stream| stream.next <= now.min(to))?;
        let counts = stream.next >= from;
        let mut packet = [0xff; PACKET_BYTES];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&stream.sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&stream.timestamp.to_be_bytes());
        packet[8..12].copy_from_slice(&stream.source.to_be_bytes());
        packet[12] = if counts { self.run } else { 0 };
        packet[13..21].copy_from_slice(&now.to_be_bytes());
        self.wires[stream.wire].send(&packet, stream.to);
        let late = now - stream.next;
        stream.next += INTERVAL;
        stream.sequence = stream.sequence.wrapping_add(1);
        stream.timestamp = stream.timestamp.wrapping_add(SAMPLES);
        self.streams.push_back(stream);
        Some(counts.then_some(late))
    }

    fn listen(&mut self, heard: &mut Vec<Nanos>) {
        let run = self.run;
        for wire in &self.wires {
            self.reader.read(wire, |bytes, _, at| {
                // RTCP is of other lengths.
                if bytes.len() != PACKET_BYTES || bytes[12] != run {
                    return;
                }
                let time = bytes[13..21].try_into().map(Nanos::from_be_bytes);
                heard.push(at.saturating_sub(time.expect("eight bytes")));
            });
        }
    }
}
