//! What phones say and hear: PCMU, a packet each 20 ms (or more) by each phone that talks. It says whose it is, its number, and
//! how late it was sent, so that what the generator itself did late is no silence of the switch.
//!
//! Invariants: a silence is the time between two arrivals by the kernel's stamps, less that lateness; packets count by the
//! window in which they were sent; nothing counts once a call's account is closed.

use super::super::clock::{self, Nanos};
use super::super::wire::{Reader, Wire};
use std::collections::VecDeque;
use std::net::SocketAddrV4;

/// Sockets of each side, which its phones share.
const WIRES: usize = 8;
const HEADER_BYTES: usize = 12;
const PACKET_BYTES: usize = HEADER_BYTES + 160;
/// An ear that heard nothing for so long hears nothing.
const DEAF: Nanos = 1_000_000_000;

/// All that is said and heard.
pub(super) struct Audio {
    wires: Vec<Wire>,
    reader: Reader,
    mouths: Vec<Mouth>,
    ears: Vec<Ear>,
    turns: VecDeque<(Nanos, usize)>,
    /// Between two packets of a mouth.
    interval: Nanos,
    /// Packets sent in it count as sent or lost.
    window: (Nanos, Nanos),
    /// How late a packet was sent at worst since the window began.
    pub(super) late: Nanos,
}

#[derive(Clone, Debug, Default)]
struct Mouth {
    to: Option<SocketAddrV4>,
    is_held: bool,
    sequence: u32,
}

/// What one phone heard of the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Ear {
    last: Nanos,
    highest: u32,
    /// Which of the last 64 came: a packet that comes twice counts once.
    seen: u64,
    /// Sent to it within the window.
    pub(super) sent: u64,
    /// Of them, those that came.
    pub(super) came: u64,
    /// Since the window began.
    pub(super) longest: Nanos,
    /// It heard the other when its account was closed.
    pub(super) was_hearing: bool,
    is_closed: bool,
}

impl Audio {
    pub(super) fn new(phones: usize, packet_ms: u32) -> Self {
        let interval = Nanos::from(packet_ms) * 1_000_000;
        let begin = clock::now();
        let count = phones.max(1) as Nanos;
        // Spread over the interval, as calls of strangers are.
        let turns = (0..phones).map(|phone| (begin + interval * phone as Nanos / count, phone));
        Self {
            wires: (0..WIRES * 2).map(|_| Wire::new()).collect(),
            reader: Reader::new(),
            mouths: vec![Mouth::default(); phones],
            ears: vec![Ear::default(); phones],
            turns: turns.collect(),
            interval,
            window: (Nanos::MAX, Nanos::MAX),
            late: 0,
        }
    }

    /// Where a phone wants its packets; one that does not talk has a port that nobody reads.
    pub(super) fn port(&self, phone: usize) -> u16 {
        self.wires[wire(phone)].port
    }

    /// A phone talks to there from now on.
    pub(super) fn talk(&mut self, phone: usize, to: SocketAddrV4) {
        if let Some(mouth) = self.mouths.get_mut(phone) {
            mouth.to = Some(to);
        }
    }

    pub(super) fn hold(&mut self, phone: usize, is_held: bool) {
        if let Some(mouth) = self.mouths.get_mut(phone) {
            mouth.is_held = is_held;
        }
    }

    pub(super) fn hush(&mut self, phone: usize) {
        if let Some(mouth) = self.mouths.get_mut(phone) {
            mouth.to = None;
        }
    }

    /// Silences and losses are those from now on.
    pub(super) fn open_window(&mut self, from: Nanos) {
        (self.window, self.late) = ((from, Nanos::MAX), 0);
        for ear in &mut self.ears {
            (ear.sent, ear.came, ear.longest) = (0, 0, 0);
        }
    }

    /// What is sent from then on does not count.
    pub(super) fn close_window(&mut self, to: Nanos) {
        self.window.1 = to;
    }

    pub(super) fn ear(&self, phone: usize) -> &Ear {
        &self.ears[phone]
    }

    pub(super) fn is_hearing(&self, phone: usize) -> bool {
        clock::now().saturating_sub(self.ears[phone].last) < DEAF
    }

    /// What follows is no fault's doing: the call is used.
    pub(super) fn close(&mut self, phone: usize) {
        let now = clock::now();
        let Some(ear) = self.ears.get_mut(phone).filter(|ear| !ear.is_closed) else { return };
        let silence = now.saturating_sub(ear.last);
        ear.was_hearing = ear.last > 0 && silence < DEAF;
        if ear.last > 0 && !ear.was_hearing {
            ear.longest = ear.longest.max(silence);
        }
        ear.is_closed = true;
    }

    /// Says what is due and hears what has come.
    pub(super) fn turn(&mut self) {
        let begin = clock::now();
        while let Some((due, phone)) = self.turns.pop_front_if(|(due, _)| *due <= begin) {
            self.turns.push_back((due + self.interval, phone));
            self.say(due, phone);
        }
        self.listen();
    }

    /// Of the RTP clock, between two packets.
    fn units(&self) -> u32 {
        (self.interval / 125_000) as u32
    }

    fn say(&mut self, due: Nanos, phone: usize) {
        let units = self.units();
        let mouth = &mut self.mouths[phone];
        let Some(to) = mouth.to.filter(|_| !mouth.is_held) else { return };
        mouth.sequence += 1;
        let now = clock::now();
        let late = now.saturating_sub(due);
        let counts = (self.window.0..self.window.1).contains(&now);
        let ear = &mut self.ears[phone ^ 1];
        if counts {
            self.late = self.late.max(late);
            if !ear.is_closed {
                ear.sent += 1;
            }
        }
        let (source, sequence) = (phone as u32, mouth.sequence);
        let mut packet = [0xff; PACKET_BYTES];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&sequence.wrapping_mul(units).to_be_bytes());
        packet[8..12].copy_from_slice(&(0x4000_0000 | source).to_be_bytes());
        packet[12..16].copy_from_slice(&source.to_be_bytes());
        packet[16..20].copy_from_slice(&sequence.to_be_bytes());
        packet[20..28].copy_from_slice(&late.to_be_bytes());
        packet[28] = u8::from(counts && !ear.is_closed);
        self.wires[wire(phone)].send(&packet, to);
    }

    fn listen(&mut self) {
        let Self { wires, reader, ears, window, .. } = self;
        for (number, from) in wires.iter().enumerate() {
            reader.read(from, |bytes, _, at| {
                // RTCP is of other lengths.
                if bytes.len() != PACKET_BYTES {
                    return;
                }
                let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes);
                let late = bytes[20..28].try_into().map_or(0, Nanos::from_be_bytes);
                let phone = word(12) as usize ^ 1;
                // Another call's sound is no sound.
                let Some(ear) = ears.get_mut(phone).filter(|_| wire(phone) == number) else {
                    return;
                };
                let counts = bytes[28] == 1;
                ear.hear(word(16), counts, at, late, window.0);
            });
        }
    }
}

impl Ear {
    fn hear(&mut self, sequence: u32, counts: bool, at: Nanos, late: Nanos, since: Nanos) {
        let is_new = if sequence > self.highest {
            let step = sequence - self.highest;
            self.seen = self.seen.checked_shl(step).unwrap_or(0) | 1;
            self.highest = sequence;
            true
        } else {
            let bit = 1_u64.checked_shl(self.highest - sequence).unwrap_or(0);
            let is_new = self.seen & bit == 0;
            self.seen |= bit;
            is_new
        };
        if counts && is_new {
            self.came += 1;
        }
        let gap = at.saturating_sub(self.last).saturating_sub(late);
        if self.last > 0 && !self.is_closed && at >= since {
            self.longest = self.longest.max(gap);
        }
        self.last = self.last.max(at);
    }
}

/// Callers and callees have wires of their own: what comes on the wrong one was for somebody else.
fn wire(phone: usize) -> usize {
    phone / 2 % WIRES * 2 + phone % 2
}
