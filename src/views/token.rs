//! Tokens of the API, and who changed what by it.

use super::Rfc3339;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// See everything but tokens, webhooks and the audit log; begin and end calls, remove registrations, drain nodes.
    Operator,
    /// See everything but tokens, webhooks and the audit log.
    Readonly,
    /// Read call detail records.
    Cdr,
}

impl Role {
    /// As in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Readonly => "readonly",
            Self::Cdr => "cdr",
        }
    }
}

/// A token, without itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Rfc3339,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Rfc3339>,
    /// The token itself: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<String>,
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for: 1-64 characters.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its place in the log.
    #[serde(default)]
    pub sequence: u64,
    /// When.
    pub at: Rfc3339,
    /// By which token: its id, or `admin` for the admin token; `local`: by who runs the switch, without one.
    pub token: String,
    /// The token's name.
    pub name: String,
    /// Which node took it.
    pub node: String,
    /// HTTP method; of what was done without a request its name: `SIGHUP`, `restore`.
    pub method: String,
    /// What it was asked of, with its query.
    pub path: String,
    /// HTTP status of the answer. 0: there is none yet; or there never was one, because the process ended amid it, and
    /// nobody knows whether it was done.
    pub status: u16,
    /// The address that it came from; none by the socket in the data directory.
    #[serde(default)]
    pub source: Option<String>,
    /// What was made by it: its path.
    #[serde(default)]
    pub made: Option<String>,
    /// The request's JSON body without secrets, whatever it was; of one that is longer than 4096 bytes the names of its
    /// fields.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub asked: Option<Value>,
}

impl AuditView {
    /// What who runs the switch did without a request, told in the words of one.
    pub fn local(at: Timestamp, node: &str, (method, path): (&str, &str), status: u16) -> Self {
        Self {
            sequence: 0,
            at: Rfc3339(at),
            token: "local".to_owned(),
            name: "without a request".to_owned(),
            node: node.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            source: None,
            made: None,
            asked: None,
        }
    }
}
