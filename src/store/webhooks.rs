//! Webhooks, what they are owed, and which node delivers.
//!
//! Invariants: a duty is held by one node at a time, for as long as it renews it by the store's clock; what came of a
//! round of deliveries is written by who has the duty, whole or not at all.

use super::{Backend, DEADLINE, Store, StoreError, within};
use crate::ids::Incarnation;
use crate::time::Timestamp;
use core::time::Duration;

/// A receiver of events, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWebhook {
    /// Its id.
    pub id: String,
    /// JSON: what its owner says of it.
    pub document: String,
    /// Sealed.
    pub secret: Vec<u8>,
    /// Events after this one are not told yet.
    pub cursor: u64,
    /// Deliveries that are to be tried again.
    pub owed: u64,
    /// Deliveries that were given up.
    pub dead: u64,
}

/// An event that a receiver did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Id of the event.
    pub event: u64,
    /// JSON: the event, and what became of it.
    pub document: String,
    /// When it is tried again; none: given up.
    pub due_at: Option<Timestamp>,
}

/// What came of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Events up to this one are told, owed or not wanted.
    pub cursor: u64,
    /// Owed ones that were taken.
    pub taken: Vec<u64>,
    /// To be tried again, or given up.
    pub kept: Vec<Delivery>,
}

impl Store {
    /// All webhooks.
    pub async fn webhooks(&self) -> Result<Vec<StoredWebhook>, StoreError> {
        ask!(self, DEADLINE, webhooks())
    }

    /// A new one.
    pub async fn add_webhook(&self, webhook: &StoredWebhook) -> Result<(), StoreError> {
        ask!(self, DEADLINE, add_webhook(webhook))
    }

    /// Another document, in place of the one that was seen, if that is said, and, if given, another cursor. False when
    /// there is none, or another was seen.
    pub async fn change_webhook(
        &self,
        id: &str,
        document: &str,
        cursor: Option<u64>,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, change_webhook(id, document, cursor, seen))
    }

    /// With all that it is owed. False when there is none, or another was seen.
    pub async fn remove_webhook(&self, id: &str, seen: Option<&str>) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, remove_webhook(id, seen))
    }

    /// What is to be tried again, or what was given up, of events after an id, in their order.
    pub async fn deliveries(
        &self,
        webhook: &str,
        dead: bool,
        after: u64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        ask!(self, DEADLINE, deliveries(webhook, dead, after, most))
    }

    /// What was given up is due again: one event's, or all. How many there were.
    pub async fn resend_deliveries(
        &self,
        webhook: &str,
        event: Option<u64>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        ask!(self, DEADLINE, resend_deliveries(webhook, event, now))
    }

    /// Of a round; at most so many that were given up are kept. False: the duty is another's, or the webhook is gone.
    pub async fn settle_deliveries(
        &self,
        (duty, holder): (&str, Incarnation),
        webhook: &str,
        settlement: &Settlement,
        most_dead: u32,
    ) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, settle_deliveries(duty, holder, webhook, settlement, most_dead))
    }

    /// Takes or renews a duty for so long. False: another has it. One that would last longer is of before the store's
    /// clock was set back, and may be taken.
    pub async fn take_duty(
        &self,
        name: &str,
        holder: Incarnation,
        life: Duration,
    ) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, take_duty(name, holder, life))
    }

    /// How far a duty is, whoever has it; none: nobody said yet.
    pub async fn duty_position(&self, name: &str) -> Result<Option<u64>, StoreError> {
        ask!(self, DEADLINE, duty_position(name))
    }

    /// It is so far. False: the duty is another's.
    pub async fn move_duty(
        &self,
        name: &str,
        holder: Incarnation,
        position: u64,
    ) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, move_duty(name, holder, position))
    }

    /// Leaves it to who comes first.
    pub async fn leave_duty(&self, name: &str, holder: Incarnation) -> Result<(), StoreError> {
        ask!(self, DEADLINE, leave_duty(name, holder))
    }
}
