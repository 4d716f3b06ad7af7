//! What a phone sends, opened.
//!
//! Invariants: no state is made or moved by a packet that is not authentic; sources a phone may have are bounded.

use super::cipher::Keys;
use super::index::{ROLL_OVER, Window};
use super::{Keying, header_bytes, rtcp_ssrc, sequence_and_ssrc};
use serde::{Deserialize, Serialize};

/// SSRCs of a phone that are known at a time; the one that is silent longest makes room.
const SOURCES: usize = 4;
/// A roll-over counter that was told may be so many behind (it is told lazily).
const ROLL_OVERS_TRIED: u64 = 2;
/// So many packets of a known source in a row that are not authentic: perhaps we slept through a roll-over.
const FAILURES: u32 = 16;

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No SRTP or SRTCP.
    #[error("not a protected packet")]
    Malformed,
    /// Its tag is wrong, or that of another roll-over.
    #[error("the tag is wrong")]
    Forged,
    /// It came before, or is too old to tell.
    #[error("replayed")]
    Replayed,
}

/// One SSRC of the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    ssrc: u32,
    rtp: Window,
    rtcp: Window,
    /// Roll-over counter from a time before this state.
    told_roll_over: u32,
}

impl Source {
    const fn new(ssrc: u32, told_roll_over: u32) -> Self {
        Self { ssrc, rtp: Window::NEW, rtcp: Window::NEW, told_roll_over }
    }

    /// Where to look for a packet, the likeliest first.
    fn first_candidate(&self, sequence: u16) -> u64 {
        if self.rtp.is_new() {
            return u64::from(self.told_roll_over) * ROLL_OVER + u64::from(sequence);
        }
        self.rtp.estimate(sequence)
    }
}

/// Where a receiver is: goes with its stream to another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverState {
    /// The one that spoke last comes last.
    sources: Vec<Source>,
}

impl ReceiverState {
    /// Of a process that is no more only this is known: the roll-over counter of an SSRC, as it told it last.
    pub fn told(ssrc: u32, roll_over: u32) -> Self {
        Self { sources: vec![Source::new(ssrc, roll_over)] }
    }

    /// The roll-over counter of the source that spoke last.
    pub fn roll_over(&self) -> Option<(u32, u32)> {
        let source = self.sources.iter().rfind(|source| !source.rtp.is_new())?;
        Some((source.ssrc, source.rtp.roll_over()))
    }

    #[cfg(test)]
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }
}

/// Opens the packets of one stream.
#[derive(Debug)]
pub struct Receiver {
    rtp: Keys,
    rtcp: Keys,
    state: ReceiverState,
    /// Packets in a row that were not authentic.
    failures: u32,
}

impl Receiver {
    /// Goes on from `state`; the default one begins.
    pub fn new(keying: &Keying, state: ReceiverState) -> Self {
        let (rtp, rtcp) = (Keys::for_rtp(keying), Keys::for_rtcp(keying));
        Self { rtp, rtcp, state, failures: 0 }
    }

    /// Where it is.
    pub const fn state(&self) -> &ReceiverState {
        &self.state
    }

    /// Opens an RTP packet in place; its length without tag.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, Refused> {
        let start = header_bytes(packet).ok_or(Refused::Malformed)?;
        let (sequence, ssrc) = sequence_and_ssrc(packet).ok_or(Refused::Malformed)?;
        let mut source = self.source(ssrc);
        let first = source.first_candidate(sequence);
        let uncertain = source.rtp.is_new() || self.failures >= FAILURES;
        let tried = if uncertain { ROLL_OVERS_TRIED } else { 0 };
        let mut replayed = false;
        for behind in 0..=tried {
            let index = first + behind * ROLL_OVER;
            if !source.rtp.is_fresh(index) {
                replayed = true;
                continue;
            }
            if let Some(length) = self.rtp.open_rtp((ssrc, index), start, packet) {
                source.rtp.mark(index);
                self.keep(source);
                return Ok(length);
            }
        }
        if replayed {
            return Err(Refused::Replayed);
        }
        self.failures = self.failures.saturating_add(1);
        Err(Refused::Forged)
    }

    /// Opens an RTCP compound in place; its length without index and tag.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Refused> {
        let index = self.rtcp.rtcp_index(packet).ok_or(Refused::Malformed)?;
        let ssrc = rtcp_ssrc(packet).ok_or(Refused::Malformed)?;
        let mut source = self.source(ssrc);
        if !source.rtcp.is_fresh(index.into()) {
            return Err(Refused::Replayed);
        }
        let length = self.rtcp.open_rtcp((ssrc, index), packet).ok_or(Refused::Forged)?;
        source.rtcp.mark(index.into());
        self.keep(source);
        Ok(length)
    }

    fn source(&self, ssrc: u32) -> Source {
        let known = self.state.sources.iter().find(|source| source.ssrc == ssrc);
        known.copied().unwrap_or(Source::new(ssrc, 0))
    }

    /// An authentic packet of it came.
    #[inline]
    fn keep(&mut self, source: Source) {
        self.failures = 0;
        let sources = &mut self.state.sources;
        if let Some(last) = sources.last_mut().filter(|last| last.ssrc == source.ssrc) {
            *last = source;
            return;
        }
        match sources.iter().position(|known| known.ssrc == source.ssrc) {
            Some(at) => {
                sources.remove(at);
            }
            None if sources.len() >= SOURCES => {
                sources.remove(0);
            }
            None => {}
        }
        sources.push(source);
    }
}
