//! Webhooks: receivers of events by HTTP, and what they did not take.

use super::change::{never_null, nullable};
use super::{EventDocument, Rfc3339};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A receiver of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its id.
    pub id: String,
    /// Where events are posted to.
    pub url: String,
    /// Which; `call.*` is all of calls. Empty: all.
    pub types: Vec<String>,
    /// What it is for.
    pub description: String,
    /// It is told. While it is not, what happens is not kept for it.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Rfc3339,
    /// Events that are to be tried again.
    pub owed: u64,
    /// Events that were given up.
    pub dead: u64,
    /// What signatures are made with: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
}

/// A webhook to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// `https://` or `http://`, at most 2,048 characters, no user or password in it.
    pub url: String,
    /// Which events; `call.*` is all of calls. Empty: all. At most 32.
    #[serde(default)]
    pub types: Vec<String>,
    /// What it is for: at most 128 characters.
    #[serde(default)]
    pub description: String,
    /// Tell it from now on; true when nothing is said.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// A change of a webhook: what is absent stays, and null is all types, no description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    /// As of a new one.
    #[serde(default, deserialize_with = "never_null")]
    #[schema(value_type = String)]
    pub url: Option<String>,
    /// As of a new one.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Vec<String>>)]
    pub types: Option<Option<Vec<String>>>,
    /// As of a new one.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
    /// Taken up again, it is told what happens from then on.
    #[serde(default, deserialize_with = "never_null")]
    #[schema(value_type = bool)]
    pub enabled: Option<bool>,
}

/// What becomes of an event that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is tried again.
    Owed,
    /// It was given up.
    Dead,
}

/// An event that a receiver did not take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// Id of the event.
    pub event_id: u64,
    /// What becomes of it.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried last; null: it waits for an event of the same call before it.
    pub tried_at: Option<Rfc3339>,
    /// When it is tried again at the earliest.
    pub due_at: Option<Rfc3339>,
    /// What came of the last try.
    pub error: Option<String>,
    /// The event as it is posted.
    #[schema(value_type = Object)]
    pub event: EventDocument,
}

/// What was given up and is to be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResendRequest {
    /// Only this event; all of them when it is absent.
    #[serde(default)]
    pub event_id: Option<u64>,
}

/// What is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resent {
    /// So many events.
    pub events: u64,
}
