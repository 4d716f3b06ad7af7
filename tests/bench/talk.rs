//! The sound of calls that an open loop makes: packets of PCMU and reports of RTCP in both directions while a call lasts.
//! Fewer packets than phones send, so that one thread can speak for all: who compares is to be told how many.
//!
//! Invariant: what comes is counted and thrown away, so that no queue of the kernel is ever full.

use super::clock::{Nanos, in_nanos};
use super::media::Media;
use super::wire::{Reader, Wire};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Pairs of sockets of each side.
const WIRES: usize = 8;
/// Samples a second.
const RATE_HZ: u64 = 8_000;
/// From one report to the next (RFC 3550 §6.2).
const REPORTS: Nanos = 5_000_000_000;
/// The first one comes halfway.
const FIRST_REPORT: Nanos = REPORTS / 2;

/// All phones that talk.
pub(crate) struct Talk {
    /// RTP and, a port above, RTCP: those of callers, then those of callees.
    wires: Vec<[Wire; 2]>,
    reader: Reader,
    interval: Nanos,
    frames: Vec<Vec<u8>>,
    /// By when they are due: all have the same interval.
    speakers: VecDeque<Speaker>,
    sources: u32,
    /// Packets of RTP.
    pub(crate) sent: u64,
    pub(crate) came: u64,
}

struct Speaker {
    wire: usize,
    to: SocketAddrV4,
    source: u32,
    number: u32,
    next: Nanos,
    report_at: Nanos,
    until: Nanos,
}

impl Talk {
    pub(crate) fn new(interval: Duration) -> Self {
        let pair = || loop {
            let first = Wire::new();
            if let Some(second) = Wire::at(first.port.saturating_add(1)) {
                return [first, second];
            }
        };
        let [frames, _] = Media::Pcmu.frames();
        Self {
            wires: (0..WIRES * 2).map(|_| pair()).collect(),
            reader: Reader::new(),
            interval: in_nanos(interval),
            frames,
            speakers: VecDeque::new(),
            sources: 0,
            sent: 0,
            came: 0,
        }
    }

    /// Where each of these users wants RTP; the odd ones are called.
    pub(crate) fn ports(&self, users: usize) -> Vec<u16> {
        let wire = |user: usize| user / 2 % WIRES + user % 2 * WIRES;
        (0..users).map(|user| self.wires[wire(user)][0].port).collect()
    }

    /// A call of this user, and where the server wants its sound and the callee's.
    pub(crate) fn begin(&mut self, user: usize, to: [SocketAddrV4; 2], now: Nanos, until: Nanos) {
        for (side, to) in to.into_iter().enumerate() {
            self.sources += 1;
            self.speakers.push_back(Speaker {
                wire: user / 2 % WIRES + side * WIRES,
                to,
                source: self.sources,
                number: 0,
                next: now + self.interval,
                report_at: now + FIRST_REPORT,
                until,
            });
        }
    }

    /// What has come and what is due.
    pub(crate) fn turn(&mut self, now: Nanos) {
        while let Some(mut speaker) = self.speakers.pop_front_if(|first| first.next <= now) {
            if speaker.next >= speaker.until {
                continue;
            }
            self.speak(&mut speaker, now);
            self.speakers.push_back(speaker);
        }
        for [rtp, rtcp] in &self.wires {
            self.reader.read(rtp, |_, _, _| self.came += 1);
            self.reader.read(rtcp, |_, _, _| {});
        }
    }

    fn speak(&mut self, speaker: &mut Speaker, now: Nanos) {
        let [rtp, rtcp] = &self.wires[speaker.wire];
        let payload = &self.frames[speaker.number as usize % self.frames.len()];
        let ticks = u64::from(speaker.number) * (self.interval * RATE_HZ / 1_000_000_000);
        let mut packet = vec![0x80, 0];
        packet.extend((speaker.number as u16).to_be_bytes());
        packet.extend((ticks as u32).to_be_bytes());
        packet.extend(speaker.source.to_be_bytes());
        packet.extend(payload);
        rtp.send(&packet, speaker.to);
        self.sent += 1;
        speaker.number += 1;
        speaker.next += self.interval;
        if speaker.report_at <= now {
            speaker.report_at += REPORTS;
            let to = SocketAddrV4::new(*speaker.to.ip(), speaker.to.port() + 1);
            rtcp.send(&report(speaker, ticks as u32, now), to);
        }
    }
}

/// A sender report (RFC 3550 §6.4.1) without blocks, and a name (§6.5).
fn report(speaker: &Speaker, ticks: u32, now: Nanos) -> Vec<u8> {
    /// Of 1970 in 1900's count.
    const ERA: u64 = 2_208_988_800;
    let seconds = (now / 1_000_000_000 + ERA) as u32;
    let fraction = (((now % 1_000_000_000) << 32) / 1_000_000_000) as u32;
    let octets = speaker.number * 160;
    let mut bytes = vec![0x80, 200, 0, 6];
    let words = [speaker.source, seconds, fraction, ticks, speaker.number, octets];
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    bytes.extend([0x81, 202, 0, 3]);
    bytes.extend(speaker.source.to_be_bytes());
    bytes.extend(b"\x01\x04talk\0\0");
    bytes
}
