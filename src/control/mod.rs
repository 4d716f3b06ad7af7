//! The only language that nodes share: desired state down to media, what is up, reports back; and what signaling nodes
//! tell each other. No SDP; SIP only as bytes that are passed on.
//!
//! Signaling sends the whole wish for a session (`Apply`); the media node makes it so and answers with what is.
//! Ordered by (epoch, rev): an older one is refused, a repeated one answered again; reconnecting is sending it again.
//!
//! Invariants: every frame is bounded (`limits::CONTROL_FRAME_BYTES`) and versioned. Enums are append-only: what a
//! version adds says so (`Frame::since`) and is not sent to a node that would not read it. Fields are never changed nor
//! removed.

pub mod frame;
pub mod hello;
pub mod peer;
pub mod reply;
pub mod report;
pub mod request;
pub mod sibling;

pub use frame::Frame;
pub use peer::PeerFrame;
pub use reply::{LastSent, LegState, Refusal, Reply, SessionState, StreamState, StreamStatistics};
pub use report::{Bursts, Missed, Report, ReportKind, RtcpPacket};
pub use request::{
    Act, Apply, Carried, Codec, Hears, LegSpec, Release, RemoteStream, Request, Resume, RollOver,
    SessionSpec, Srtp, StreamSpec, TelephoneEvent, Tone,
};

/// Greatest version of frames that this release writes. Of two nodes the lower one's counts (`Frame::encode`).
pub const VERSION: u16 = 2;
/// The lowest that it writes and reads; every hello is of it.
pub const OLDEST: u16 = 1;
