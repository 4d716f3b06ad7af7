//! What operators ask of the store: events, pages of users, tokens of the API, the audit log.

use super::rows::{self, is_storable};
use super::{Backend, DEADLINE, Store, StoreError, StoredEvent, StoredToken, within};
use crate::directory::{Binding, User};
use crate::time::Timestamp;

impl Store {
    /// Events after an id, in their order, of at most so many commits. Never misses a late one.
    pub async fn events(&self, after: u64, most: u32) -> Result<Vec<StoredEvent>, StoreError> {
        ask!(self, DEADLINE, events(after, most))
    }

    /// Id of the last event; 0 when there is none.
    pub async fn last_event(&self) -> Result<u64, StoreError> {
        ask!(self, DEADLINE, last_event())
    }

    /// Whether an event is there still, and so all that came after it.
    pub async fn has_event(&self, id: u64) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, has_event(id))
    }

    /// All tokens of the API.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        ask!(self, DEADLINE, tokens())
    }

    /// The token with this hash.
    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<StoredToken>, StoreError> {
        ask!(self, DEADLINE, token(hash))
    }

    /// A new one.
    pub async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        ask!(self, DEADLINE, add_token(token))
    }

    /// It was used.
    pub async fn use_token(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        ask!(self, DEADLINE, use_token(id, at))
    }

    /// False when there is none.
    pub async fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, remove_token(id))
    }

    /// A line of the audit log; its sequence.
    pub async fn add_audit(&self, at: Timestamp, document: &str) -> Result<u64, StoreError> {
        ask!(self, DEADLINE, add_audit(at, document))
    }

    /// What a line says with its outcome, in the place of what it said before; where that is not in its place, which
    /// another server may have given away, a line more.
    pub async fn end_audit(
        &self,
        at: Timestamp,
        document: &str,
        before: Option<(u64, &str)>,
    ) -> Result<(), StoreError> {
        if let Some((sequence, before)) = before
            && ask!(self, DEADLINE, end_audit(sequence, before, document))?
        {
            return Ok(());
        }
        self.add_audit(at, document).await.map(drop)
    }

    /// Lines of the audit log before a sequence, the greatest first.
    pub async fn audit(
        &self,
        before: Option<u64>,
        most: u32,
    ) -> Result<Vec<(u64, String)>, StoreError> {
        ask!(self, DEADLINE, audit(before, most))
    }

    /// The first users after an extension, in the order that the database has for them.
    pub async fn users_after(&self, after: &str, most: usize) -> Result<Vec<User>, StoreError> {
        if !is_storable(after) {
            return Ok(Vec::new());
        }
        let page = ask!(self, DEADLINE, users_after(after, most))?;
        page.iter().map(|document| rows::user(document)).collect()
    }

    /// Bindings of the first users after an extension that have any, in the same order.
    pub async fn bindings_after(
        &self,
        after: &str,
        most: usize,
    ) -> Result<Vec<Binding>, StoreError> {
        if !is_storable(after) {
            return Ok(Vec::new());
        }
        let mut bindings = Vec::new();
        for (_, document) in ask!(self, DEADLINE, bindings_after(after, most))? {
            bindings.extend(rows::bindings(&document)?);
        }
        Ok(bindings)
    }
}
