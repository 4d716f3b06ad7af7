//! What operators do to live calls.

use super::call::LegRole;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is to be done to a call, as nodes pass it on to its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steering {
    /// Hold a phone, or both: it hears nothing, and is not heard.
    Hold {
        /// Whose; none: both.
        leg: Option<LegRole>,
    },
    /// The end of that.
    Unhold {
        /// Whose; none: both.
        leg: Option<LegRole>,
    },
}

/// What was done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of the API's paths")]
pub enum SteeringAct {
    Hold,
    Unhold,
}

impl Steering {
    /// For the ladder.
    pub fn in_words(&self) -> String {
        let whom = |leg: &Option<LegRole>| match leg {
            None => "both",
            Some(LegRole::Caller) => "caller",
            Some(LegRole::Callee) => "callee",
        };
        match self {
            Self::Hold { leg } => format!("hold {}", whom(leg)),
            Self::Unhold { leg } => format!("unhold {}", whom(leg)),
        }
    }
}
