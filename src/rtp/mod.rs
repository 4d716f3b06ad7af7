//! RTP and RTCP on bytes (RFC 3550, RFC 4733).
//!
//! Invariants: nothing here allocates on the way of a relayed packet; whatever the bytes, nothing
//! panics.

/// The fixed header, read and rewritten in place.
pub mod header;
/// Our reports, and what matters of the phones'.
pub mod rtcp;
/// Sequence numbers and timestamps that wrap.
pub mod serial;
/// Packets encrypted and authenticated.
pub mod srtp;
/// Digits as packets.
pub mod telephone_event;

pub use header::Header;
pub use telephone_event::EventPayload;
