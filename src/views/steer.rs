//! What operators do to live calls.

use super::Rfc3339;
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
    /// Digits to a phone.
    Dial {
        /// Whose.
        leg: LegRole,
        /// `0-9*#A-D`.
        digits: String,
    },
    /// Whom the leaving phone talks to is connected with somebody else.
    Transfer {
        /// Whose phone leaves.
        leg: LegRole,
        /// Who comes, as a person dials it, or a SIP URI.
        to: String,
    },
    /// The media session moves to another node.
    Move {
        /// Which; none: the freest of another host.
        node: Option<String>,
    },
}

/// What was done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of the API's paths")]
pub enum SteeringAct {
    Hold,
    Unhold,
    Dtmf,
    Transfer,
    Move,
}

impl Steering {
    /// For the ladder; what is dialled stays out of it.
    pub fn in_words(&self) -> String {
        let whom = |leg: &Option<LegRole>| leg.as_ref().map_or("both", name);
        match self {
            Self::Hold { leg } => format!("hold {}", whom(leg)),
            Self::Unhold { leg } => format!("unhold {}", whom(leg)),
            Self::Dial { leg, .. } => format!("digits to the {}", name(leg)),
            Self::Transfer { leg, to } => format!("transfer the {}'s place to {to}", name(leg)),
            Self::Move { node: Some(node) } => format!("move to media node {node}"),
            Self::Move { node: None } => "move to another media node".to_owned(),
        }
    }
}

const fn name(leg: &LegRole) -> &'static str {
    match leg {
        LegRole::Caller => "caller",
        LegRole::Callee => "callee",
    }
}

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferView {
    /// Whose phone leaves when somebody answers.
    pub leg: LegRole,
    /// Who is called.
    pub to: String,
}

/// A transfer that is over, in the CDR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferRecord {
    /// When it was answered, or came to nothing.
    pub at: Rfc3339,
    /// Whose phone was to leave.
    pub leg: LegRole,
    /// Its user.
    pub from: Option<String>,
    /// Who was called.
    pub to: String,
    /// 200: done; else what the call with them came to, and the old one went on.
    pub sip_status: u16,
}
