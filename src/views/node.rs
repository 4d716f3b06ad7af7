//! Nodes in the API.

use super::Rfc3339;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum NodeState {
    Starting,
    Ready,
    Degraded,
    Draining,
    Suspect,
    Down,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NodeView {
    pub name: String,
    /// signaling, media or both.
    pub mode: String,
    pub state: NodeState,
    pub version: String,
    pub record_version: Option<u16>,
    pub control_version: u16,
    pub started_at: Option<Rfc3339>,
    pub last_seen_at: Option<Rfc3339>,
    pub lease_expires_at: Option<Rfc3339>,
    pub sip: Vec<SipListener>,
    pub media: Option<MediaListener>,
    pub control: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub calls: Option<u64>,
    pub registrations: Option<u64>,
    pub sessions: Option<u64>,
    pub transcoded_sessions: Option<u64>,
    pub max_sessions: Option<u64>,
    pub cpu_percent: Option<f64>,
    pub tick_late_p99_ms: Option<f64>,
    pub journal: Option<JournalView>,
    pub drain: Option<DrainView>,
    pub links: Vec<LinkView>,
}

/// A SIP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct SipListener {
    pub transport: String,
    pub bind: String,
    pub advertise: Option<String>,
}

/// Media addresses of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MediaListener {
    pub bind: String,
    pub advertise: Option<String>,
    pub port_first: u16,
    pub port_last: u16,
    pub ports_in_use: u32,
}

/// What waits in a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct JournalView {
    pub entries: u64,
    pub bytes: u64,
    pub oldest_at: Option<Rfc3339>,
}

/// A drain under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DrainView {
    pub started_at: Rfc3339,
    /// When a node that stops ends at last. Null: its calls stay until others have them or they are over.
    pub deadline_at: Option<Rfc3339>,
    pub remaining_calls: u64,
    pub remaining_sessions: u64,
    pub remaining_flows: u64,
}

/// A link to another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LinkView {
    pub peer: String,
    pub state: String,
    pub since: Option<Rfc3339>,
    pub rtt_ms: Option<f64>,
}
