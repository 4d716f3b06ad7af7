//! How a call sounded over time: as it is kept and passed between nodes, and in the API.

use super::Rfc3339;
use super::call::LegRole;
use crate::ids::LegId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Some seconds of a call, as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sounded {
    /// When they began; they end when this is written.
    pub since: Timestamp,
    /// Of each leg.
    pub legs: Vec<LegSounded>,
}

/// Those of one leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegSounded {
    /// Which.
    pub leg: LegId,
    /// Caller or callee.
    pub role: LegRole,
    /// What its phone said, as it came to us.
    pub from_phone: Passed,
    /// What its phone heard, as it says itself.
    pub to_phone: Passed,
    /// Round trip.
    pub rtt_us: Option<u32>,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// That came, or that were sent.
    pub packets: u32,
    /// None: the phone does not tell.
    pub lost: Option<u32>,
    /// The same.
    pub jitter_us: Option<u32>,
    /// In hundredths; none: too few packets, or the phone does not tell.
    pub mos: Option<u16>,
}

/// How a call sounded over time, alive or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualityView {
    /// The CDR's id.
    pub call_id: String,
    /// In the order in which they came.
    pub legs: Vec<LegQuality>,
}

/// How a leg sounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LegQuality {
    /// Its number in the call.
    pub leg: u16,
    /// Caller or callee.
    pub role: LegRole,
    /// What its phone said, as it came to us.
    pub from_phone: Vec<QualitySample>,
    /// What its phone heard, as it says itself (RTCP).
    pub to_phone: Vec<QualitySample>,
}

/// Some seconds of it: five at first, more as the call grows older; of long series the older ones are put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualitySample {
    /// When they end.
    pub at: Rfc3339,
    /// How long they are.
    pub span_ms: u64,
    /// That came, or that were sent.
    pub packets: u64,
    /// Null: the phone does not tell.
    pub lost: Option<u64>,
    /// At the end; of those put together the worst.
    pub jitter_ms: Option<f64>,
    /// The same.
    pub rtt_ms: Option<f64>,
    /// Of this time; of those put together the worst. Null: too few packets.
    pub mos: Option<f64>,
}
