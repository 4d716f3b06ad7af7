//! What the dial plan makes of a number, in the API.

use super::RegistrationView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What becomes of a call to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteDecision {
    /// Phones of a user ring.
    Ring,
    /// The switch answers itself.
    Service,
    /// The user is known, no phone of it is registered.
    NotRegistered,
    /// It is refused.
    Refuse,
}

/// What the dial plan makes of a number now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteView {
    /// As it is understood.
    pub uri: String,
    /// What becomes of a call to it.
    pub decision: RouteDecision,
    /// Whose phones ring, or would.
    pub extension: Option<String>,
    /// `echo`: the caller hears itself.
    pub service: Option<String>,
    /// What a caller is told who is refused.
    pub sip_status: Option<u16>,
    /// Phones that ring, all at once, in the order of their preference.
    pub phones: Vec<RegistrationView>,
}
