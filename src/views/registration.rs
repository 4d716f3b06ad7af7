//! Registrations in the API: one per binding.

use super::Rfc3339;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a binding's phone can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// The flow is there.
    Live,
    /// Its connection broke.
    Lost,
    /// Not known here.
    Unknown,
}

/// A binding as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegistrationView {
    /// Id of the binding.
    pub id: String,
    /// User.
    pub extension: String,
    /// Address of record.
    pub aor: String,
    /// Contact URI, byte-exact.
    pub contact: String,
    /// `+sip.instance`.
    pub instance_id: Option<String>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
    /// Preference 0-1.
    pub q: Option<f32>,
    /// Path values.
    pub path: Vec<String>,
    /// Of the REGISTER.
    pub call_id: String,
    /// Of the REGISTER.
    pub cseq: u32,
    /// Of the REGISTER.
    pub user_agent: Option<String>,
    /// udp, tcp, tls, ws, wss.
    pub transport: String,
    /// Where it came from.
    pub source: String,
    /// Where it came to.
    pub local: String,
    /// Source and Contact differ.
    pub nat: bool,
    /// Node that holds the flow.
    pub node: String,
    /// Can it be reached.
    pub flow: FlowState,
    /// First REGISTER of the binding.
    pub registered_at: Rfc3339,
    /// Last REGISTER.
    pub refreshed_at: Rfc3339,
    /// End of the binding.
    pub expires_at: Rfc3339,
    /// Time until then.
    pub expires_in_ms: u64,
    /// Round trip of the last OPTIONS ping.
    pub ping_rtt_ms: Option<f64>,
}
