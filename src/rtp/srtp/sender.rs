//! What we send, protected.
//!
//! Invariants: a stream has one SSRC; an index is used once, so a packet that would repeat one is not sent: two texts
//! under one keystream tell each other.

use super::cipher::Keys;
use super::index::Window;
use super::{Keying, header_bytes, rtcp_ssrc, sequence_and_ssrc};
use serde::{Deserialize, Serialize};

/// Where a sender is: goes with its stream to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderState {
    rtp: Window,
    rtcp_next: u32,
}

impl SenderState {
    /// Nothing was sent.
    pub const NEW: Self = Self { rtp: Window::NEW, rtcp_next: 0 };
}

/// Protects the packets of one stream.
#[derive(Debug)]
pub struct Sender {
    rtp: Keys,
    rtcp: Keys,
    state: SenderState,
}

impl Sender {
    /// Goes on from `state`.
    pub fn new(keying: &Keying, state: SenderState) -> Self {
        Self { rtp: Keys::for_rtp(keying), rtcp: Keys::for_rtcp(keying), state }
    }

    /// Where it is.
    pub const fn state(&self) -> SenderState {
        self.state
    }

    /// Protects the RTP packet in the first `length` bytes of `buffer`; the new length. `None`: not RTP, no room, or
    /// an index that was used.
    pub fn protect_rtp(&mut self, buffer: &mut [u8], length: usize) -> Option<usize> {
        let packet = buffer.get(..length)?;
        let (start, (sequence, ssrc)) = (header_bytes(packet)?, sequence_and_ssrc(packet)?);
        let index = self.state.rtp.estimate(sequence);
        if !self.state.rtp.is_fresh(index) {
            return None;
        }
        let sealed = self.rtp.seal_rtp((ssrc, index), start, buffer, length)?;
        self.state.rtp.mark(index);
        Some(sealed)
    }

    /// The same for an RTCP compound.
    pub fn protect_rtcp(&mut self, buffer: &mut [u8], length: usize) -> Option<usize> {
        let ssrc = rtcp_ssrc(buffer.get(..length)?)?;
        let index = self.state.rtcp_next;
        // RFC 3711 §9.2: 2^31 packets a key, which at our pace are centuries.
        let next = index.checked_add(1).filter(|next| next >> 31 == 0)?;
        let sealed = self.rtcp.seal_rtcp((ssrc, index), buffer, length)?;
        self.state.rtcp_next = next;
        Some(sealed)
    }
}
