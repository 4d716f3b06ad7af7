//! A session as bytes, for another process of the host that carries it on: latches, counters, timelines, jitter
//! buffers, digits under way, reports that nobody acknowledged.
//!
//! Invariants: a session that came back from its bytes gives the same outputs for the same inputs as the one they were
//! taken of; only what follows from the spec or belongs to a codec's library is made anew. Bytes begin with the version
//! of their form: one that this release does not read is refused, never guessed.

use super::session::Session;
use super::stream::Stream;

/// Of the form that this release writes. It reads this one.
pub const SNAPSHOT_VERSION: u16 = 1;

impl Session {
    /// The whole state; outputs have been drained.
    pub fn snapshot(&self) -> Vec<u8> {
        let bytes = SNAPSHOT_VERSION.to_be_bytes().to_vec();
        postcard::to_extend(self, bytes).expect("sessions hold nothing that postcard refuses")
    }

    /// `None`: bytes of another version, of no session, or a codec that does not open here.
    pub fn restored(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first_chunk::<2>()?;
        (u16::from_be_bytes(*version) == SNAPSHOT_VERSION).then_some(())?;
        let mut session: Self = postcard::from_bytes(body).ok()?;
        session.streams.iter_mut().all(Stream::reopen).then_some(())?;
        session.plan();
        Some(session)
    }
}

impl Stream {
    /// What a snapshot does not carry is made anew.
    fn reopen(&mut self) -> bool {
        self.learn_payload_types();
        self.playout.as_mut().is_none_or(super::playout::Playout::reopen)
    }
}
