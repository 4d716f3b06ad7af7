//! SRTP between a stream and its phone: what comes is opened before anything else looks at it, what goes is protected
//! after everything else.
//!
//! Invariants: a context goes on while its key stays the same, however often the wish is repeated; with a new key it
//! begins anew; the phone's former key opens packets only until the new one has opened one.

use crate::control::{RollOver, Srtp};
use crate::rtp::srtp::{MOST_OVERHEAD, Receiver, ReceiverState, Refused, Sender, SenderState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the module.
#[derive(Debug)]
pub(super) struct Guard {
    keys: Srtp,
    sender: Sender,
    receiver: Receiver,
    /// Of the phone's key before: what was on its way when the phone changed it.
    former: Option<Receiver>,
    /// What signaling knows.
    told: Option<RollOver>,
}

/// A guard on its way to another process.
#[derive(Serialize, Deserialize)]
struct GuardState {
    keys: Srtp,
    sender: SenderState,
    receiver: ReceiverState,
    told: Option<RollOver>,
}

impl Guard {
    pub(super) fn new(keys: &Srtp) -> Self {
        let told = keys.roll_over;
        let state = told.map(|told| ReceiverState::told(told.ssrc, told.count));
        Self {
            keys: keys.clone(),
            sender: Sender::new(&keys.sent, SenderState::NEW),
            receiver: Receiver::new(&keys.received, state.unwrap_or_default()),
            former: None,
            told,
        }
    }

    /// The wish once more: what is new in it begins.
    pub(super) fn rekey(&mut self, keys: &Srtp) {
        if self.keys.sent != keys.sent {
            self.sender = Sender::new(&keys.sent, SenderState::NEW);
        }
        if self.keys.received != keys.received {
            let receiver = Receiver::new(&keys.received, ReceiverState::default());
            self.former = Some(core::mem::replace(&mut self.receiver, receiver));
            self.told = None;
        }
        self.keys = keys.clone();
    }

    /// Opens RTP in place; its length then. `None`: refused.
    #[inline]
    pub(super) fn open_rtp(&mut self, packet: &mut [u8]) -> Option<usize> {
        match (self.receiver.unprotect_rtp(packet), &mut self.former) {
            (Ok(length), former) => {
                *former = None;
                Some(length)
            }
            (Err(Refused::Forged), Some(former)) => former.unprotect_rtp(packet).ok(),
            (Err(_), _) => None,
        }
    }

    /// The same for RTCP.
    pub(super) fn open_rtcp(&mut self, packet: &mut [u8]) -> Option<usize> {
        match (self.receiver.unprotect_rtcp(packet), &mut self.former) {
            (Ok(length), _) => Some(length),
            (Err(Refused::Forged), Some(former)) => former.unprotect_rtcp(packet).ok(),
            (Err(_), _) => None,
        }
    }

    /// Protects the RTP packet in the first `length` bytes; its length then. `None`: it must not be sent.
    #[inline]
    pub(super) fn protect_rtp(&mut self, buffer: &mut [u8], length: usize) -> Option<usize> {
        self.sender.protect_rtp(buffer, length)
    }

    /// Protects RTP that we made.
    pub(super) fn seal_rtp(&mut self, packet: Vec<u8>) -> Option<Vec<u8>> {
        sealed(packet, |buffer, length| self.sender.protect_rtp(buffer, length))
    }

    /// Protects RTCP that we made.
    pub(super) fn seal_rtcp(&mut self, packet: Vec<u8>) -> Option<Vec<u8>> {
        sealed(packet, |buffer, length| self.sender.protect_rtcp(buffer, length))
    }

    /// The phone's roll-over counter, when signaling knows another one and it is not the first.
    pub(super) fn news(&mut self) -> Option<RollOver> {
        let (ssrc, count) = self.receiver.state().roll_over()?;
        let now = RollOver { ssrc, count };
        if count == 0 || self.told == Some(now) {
            return None;
        }
        self.told = Some(now);
        Some(now)
    }

    /// A new owner knows nothing yet.
    pub(super) const fn forget_told(&mut self) {
        self.told = None;
    }
}

fn sealed(
    mut packet: Vec<u8>,
    protect: impl FnOnce(&mut [u8], usize) -> Option<usize>,
) -> Option<Vec<u8>> {
    let length = packet.len();
    packet.resize(length + MOST_OVERHEAD, 0);
    let length = protect(&mut packet, length)?;
    packet.truncate(length);
    Some(packet)
}

impl Serialize for Guard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        GuardState {
            keys: self.keys.clone(),
            sender: self.sender.state(),
            receiver: self.receiver.state().clone(),
            told: self.told,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Guard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let GuardState { keys, sender, receiver, told } = GuardState::deserialize(deserializer)?;
        Ok(Self {
            sender: Sender::new(&keys.sent, sender),
            receiver: Receiver::new(&keys.received, receiver),
            former: None,
            told,
            keys,
        })
    }
}
