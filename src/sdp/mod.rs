//! SDP and offer/answer (RFC 8866, RFC 3264, RFC 4568, RFC 6337): what phones say, and what we say to them from our
//! own model.
//!
//! Invariant: SDP towards a phone is built from the model, never edited text. Candidates, crypto, fingerprints,
//! rtcp-mux, ssrc and groups of one phone never reach the other.

mod crypto;
pub mod description;
mod leg_description;
pub mod offer_answer;
mod payload_types;
mod security;

pub use crypto::Crypto;
pub use description::{Description, Direction, Format, MediaDescription, SdpError};
pub use leg_description::{LegDescription, Line};
pub use offer_answer::{Agreement, Policy, StreamAgreement};
pub use security::{Security, StreamKeys};
