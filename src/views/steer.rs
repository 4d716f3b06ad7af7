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
    /// A tone in place of what a phone hears, or both.
    Play {
        /// Whose; none: both.
        leg: Option<LegRole>,
        /// Which.
        tone: ToneName,
        /// So long; none: until it is stopped.
        duration_ms: Option<u32>,
    },
    /// The end of that.
    Stop {
        /// Whose; none: both.
        leg: Option<LegRole>,
    },
    /// The media session moves to another node.
    Move {
        /// Which; none: the freest of another host.
        node: Option<String>,
    },
}

/// Tones that can be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToneName {
    /// 425 Hz, 1 s on, 4 s off.
    Ringback,
    /// 425 Hz, 500 ms on and off.
    Busy,
    /// 425 Hz, 250 ms on and off.
    Congestion,
    /// 425 Hz without end.
    Dial,
    /// 1,000 Hz, 200 ms every five seconds.
    Beep,
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
    Play,
    Stop,
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
            Self::Play { leg, tone, .. } => {
                format!("play the {} tone to {}", word(*tone), whom(leg))
            }
            Self::Stop { leg } => format!("stop playing to {}", whom(leg)),
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

const fn word(tone: ToneName) -> &'static str {
    match tone {
        ToneName::Ringback => "ringback",
        ToneName::Busy => "busy",
        ToneName::Congestion => "congestion",
        ToneName::Dial => "dial",
        ToneName::Beep => "beep",
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
