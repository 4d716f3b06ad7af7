//! Users in the API.

use super::Rfc3339;
use super::change::{never_null, nullable};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// SRTP towards a user's phones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SrtpPolicy {
    /// Plain RTP.
    #[default]
    Off,
    /// Offered in RTP/AVP; a phone may do without (RFC 8643).
    Optional,
    /// RTP/SAVP; calls without are refused with 488.
    Mandatory,
}

/// A user as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// 1-64 of `A-Z a-z 0-9 . _ + -`.
    pub extension: String,
    /// Shown to the called phone.
    pub display_name: String,
    /// A disabled user can neither register nor call.
    pub enabled: bool,
    /// Bindings; null: `HOLDFAST_MAX_CONTACTS`.
    pub max_contacts: Option<u32>,
    /// Calls at a time; null: no limit.
    pub max_calls: Option<u32>,
    /// Unanswered INVITE; null: `HOLDFAST_RING_TIMEOUT_MS`.
    pub ring_timeout_ms: Option<u64>,
    /// SDP names in order of preference; empty: all.
    pub codecs: Vec<String>,
    /// SRTP policy.
    pub srtp: SrtpPolicy,
    /// Has a binding now.
    pub registered: bool,
    /// Bindings now.
    pub contact_count: u32,
    /// Only in the answer that set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Created.
    pub created_at: Rfc3339,
    /// Last changed.
    pub updated_at: Rfc3339,
}

/// A user to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1-64 of `A-Z a-z 0-9 . _ + -`.
    #[schema(pattern = "^[A-Za-z0-9._+-]{1,64}$")]
    pub extension: String,
    /// 8-128 characters; generated when absent.
    #[schema(min_length = 8, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub password: Option<String>,
    /// Empty when absent.
    #[serde(default)]
    #[schema(max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub display_name: String,
    /// True when absent.
    pub enabled: Option<bool>,
    /// See `UserView`.
    #[schema(minimum = 1, maximum = 100)]
    pub max_contacts: Option<u32>,
    /// See `UserView`.
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_calls: Option<u32>,
    /// See `UserView`.
    #[schema(minimum = 1_000, maximum = 3_600_000)]
    pub ring_timeout_ms: Option<u64>,
    /// See `UserView`.
    #[serde(default)]
    pub codecs: Vec<String>,
    /// See `UserView`.
    #[serde(default)]
    pub srtp: SrtpPolicy,
}

/// What is to be changed of a user; absent fields stay, and null is no name, no limit, all codecs, no SRTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// A new password.
    #[serde(default, deserialize_with = "never_null")]
    #[schema(value_type = String, min_length = 8, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub password: Option<String>,
    /// See `UserView`; null is no name.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub display_name: Option<Option<String>>,
    /// See `UserView`.
    #[serde(default, deserialize_with = "never_null")]
    #[schema(value_type = bool)]
    pub enabled: Option<bool>,
    /// See `UserView`.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub max_contacts: Option<Option<u32>>,
    /// See `UserView`.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    pub max_calls: Option<Option<u32>>,
    /// See `UserView`.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u64>, minimum = 1_000, maximum = 3_600_000)]
    pub ring_timeout_ms: Option<Option<u64>>,
    /// See `UserView`; null is all.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Vec<String>>)]
    pub codecs: Option<Option<Vec<String>>>,
    /// See `UserView`; null is off.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<SrtpPolicy>)]
    pub srtp: Option<Option<SrtpPolicy>>,
}
