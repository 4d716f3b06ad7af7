//! Call detail records: exactly one a call, written in the transaction of its end.

use super::Rfc3339;
use super::call::{BurstsView, CallDirection, CallFlag, LegRole, PartyView};
use super::steer::TransferRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Disposition {
    Answered,
    Busy,
    NoAnswer,
    Cancelled,
    Rejected,
    Failed,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum EndedBy {
    Caller,
    Callee,
    Admin,
    System,
}

/// What ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum EndCause {
    Bye,
    Cancel,
    Rejected,
    RingTimeout,
    AckTimeout,
    RtpTimeout,
    SessionExpired,
    ReanchorFailed,
    Drain,
    NodeLost,
    Quarantined,
    Admin,
}

/// A call detail record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cdr {
    /// The call's id.
    pub id: String,
    /// Rises; given by the store. 0 until stored.
    pub sequence: u64,
    /// Who called.
    pub caller: PartyView,
    /// Who was called.
    pub callee: PartyView,
    /// As dialled.
    pub request_uri: String,
    /// Direction.
    pub direction: CallDirection,
    /// Extension that answered.
    pub answered_by: Option<String>,
    /// INVITE accepted.
    pub created_at: Rfc3339,
    /// First 18x.
    pub ringing_at: Option<Rfc3339>,
    /// Our first 200 to the caller.
    pub answered_at: Option<Rfc3339>,
    /// First BYE or decision.
    pub ended_at: Rfc3339,
    /// Ringing until answered or ended.
    pub ring_ms: u64,
    /// Ended less created.
    pub duration_ms: u64,
    /// Ended less answered, else 0.
    pub billable_ms: u64,
    /// What became of it.
    pub disposition: Disposition,
    /// Final status to the caller.
    pub sip_status: u16,
    /// ITU-T Q.850.
    pub q850_cause: Option<u16>,
    /// In words.
    pub reason: Option<String>,
    /// Who ended it.
    pub ended_by: EndedBy,
    /// What ended it.
    pub end_cause: EndCause,
    /// Owners in turn.
    pub owners: Vec<String>,
    /// Media nodes in turn.
    pub media_nodes: Vec<String>,
    /// Changes of owner.
    pub takeovers: u32,
    /// Moves to another media host.
    pub reanchors: u32,
    /// What operators transferred, or tried to.
    #[serde(default)]
    pub transfers: Vec<TransferRecord>,
    /// What was not as it should be, at any time of the call.
    #[serde(default)]
    pub flags: Vec<CallFlag>,
    /// Its legs.
    pub legs: Vec<CdrLeg>,
}

/// A leg in a CDR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct CdrLeg {
    pub role: LegRole,
    pub extension: Option<String>,
    pub call_id: String,
    pub contact: Option<String>,
    pub user_agent: Option<String>,
    pub sip_status: Option<u16>,
    pub created_at: Rfc3339,
    pub answered_at: Option<Rfc3339>,
    pub ended_at: Option<Rfc3339>,
    pub codec: Option<String>,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub packets_lost: u64,
    pub jitter_mean_ms: Option<f64>,
    pub rtt_mean_ms: Option<f64>,
    pub mos_mean: Option<f64>,
    pub mos_min: Option<f64>,
    #[serde(default)]
    pub bursts: Option<BurstsView>,
    pub silence_max_ms: u64,
}
