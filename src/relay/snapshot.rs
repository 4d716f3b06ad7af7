//! A session as bytes, for another process of the host that carries it on: latches, counters, timelines, jitter
//! buffers, digits under way, reports that nobody acknowledged.
//!
//! Invariants: a session that came back from its bytes gives the same outputs for the same inputs as the one they were
//! taken of; only what follows from the spec or belongs to a codec's library is made anew. Bytes begin with the version
//! of their form. What a version adds stands behind all of the version before, so a release reads those before it, and
//! of the next one what it knows: in an upgrade sessions pass both ways. Any other form is refused, never guessed.

use super::losses::Losses;
use super::session::Session;
use super::stream::Stream;
use crate::encoding::append;

const PLAIN: &str = "sessions hold nothing that postcard refuses";

/// Of the form that this release writes.
pub const SNAPSHOT_VERSION: u16 = 2;
/// The first one.
const FIRST: u16 = 1;

/// Whether who writes that form is at most one release ahead of who reads up to `reader`.
pub const fn snapshot_is_read(written: u16, reader: u16) -> bool {
    written >= FIRST && written <= reader + 1
}

impl Session {
    /// The whole state; outputs have been drained.
    pub fn snapshot(&self) -> Vec<u8> {
        let bytes = SNAPSHOT_VERSION.to_be_bytes().to_vec();
        let bytes = append(bytes, self).expect(PLAIN);
        let losses: Vec<_> = self.streams.iter().map(|stream| &stream.reception.losses).collect();
        append(bytes, &losses).expect(PLAIN)
    }

    /// Fields of a later version are taken from what is left of `body` when the version says that they are there, as
    /// records do; what stands behind those that are known is the next release's.
    /// `None`: bytes of a version that is not read, of no session, or a codec that does not open here.
    pub fn restored(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first_chunk::<2>()?;
        let version = u16::from_be_bytes(*version);
        snapshot_is_read(version, SNAPSHOT_VERSION).then_some(())?;
        let (mut session, rest) = postcard::take_from_bytes::<Self>(body).ok()?;
        if version >= 2 {
            let losses: Vec<Losses> = postcard::from_bytes(rest).ok()?;
            for (stream, losses) in session.streams.iter_mut().zip(losses) {
                stream.reception.losses = losses;
            }
        }
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
