//! Who owns a call, and taking calls of the dead over (design §4 "Ownership").
//!
//! Invariant: a claim raises the epoch in the statement that reads the record, so two claimers never have the same call
//! and a former owner's next write changes nothing.

use super::Session;
use crate::ids::{CallId, Incarnation};
use crate::store::rows::{ClaimRow, call_id, claimed_call, signed, unsigned};
use crate::store::{ClaimedCall, StoreError};
use crate::time::Timestamp;

/// What is claimed is chosen once: a plan that looked again for each row would find more than the limit. An owner that
/// was silent is not claimed from when it has renewed its lease since: the lock keeps it from renewing, and looking
/// what is its own, amid that.
const CLAIM: &str = "
with lease as materialized (
    select seen_at from nodes where incarnation = $1 for share
), dead as materialized (
    select id from calls where owner = $1 and ended_at is null and (claims > 0) = $4
        and ($5::bigint is null or not exists (select from lease where seen_at <> $5))
    limit $3 for update skip locked
)
update calls c set owner = $2, epoch = c.epoch + 1,
    claims = least(c.claims + (c.owner <> $2)::int, 1000) from dead
where c.id = dead.id
returning c.id, c.key, c.epoch, c.rev, c.record, c.claims";

/// What a node claims from itself, because it did not hear the answer, it has not died with.
const CLAIM_ONE: &str = "
with lease as materialized (
    select seen_at from nodes where incarnation = $1 for share
)
update calls set owner = $2, epoch = epoch + 1,
    claims = least(claims + (owner <> $2)::int, 1000)
where id = $3 and owner = $1 and ended_at is null
    and ($4::bigint is null or not exists (select from lease where seen_at <> $4))
returning id, key, epoch, rev, record, claims";

impl Session {
    pub async fn claim(
        &mut self,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
        limit: u32,
        suspects: bool,
    ) -> Result<Vec<ClaimedCall>, StoreError> {
        let rows: Vec<ClaimRow> = sqlx::query_as(CLAIM)
            .bind(signed(from.0))
            .bind(signed(to.0))
            .bind(i64::from(limit))
            .bind(suspects)
            .bind(seen_at.map(|at| signed(at.as_micros())))
            .fetch_all(&mut *self.connection)
            .await?;
        rows.into_iter().map(claimed_call).collect()
    }

    pub async fn claim_call(
        &mut self,
        id: CallId,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Result<Option<ClaimedCall>, StoreError> {
        let row: Option<ClaimRow> = sqlx::query_as(CLAIM_ONE)
            .bind(signed(from.0))
            .bind(signed(to.0))
            .bind(id.0.to_be_bytes().to_vec())
            .bind(seen_at.map(|at| signed(at.as_micros())))
            .fetch_optional(&mut *self.connection)
            .await?;
        row.map(claimed_call).transpose()
    }

    pub async fn owner(&mut self, id: CallId) -> Result<Option<Incarnation>, StoreError> {
        let owner: Option<i64> =
            sqlx::query_scalar("select owner from calls where id = $1 and ended_at is null")
                .bind(id.0.to_be_bytes().to_vec())
                .fetch_optional(&mut *self.connection)
                .await?;
        Ok(owner.map(|owner| Incarnation(unsigned(owner))))
    }

    pub async fn has_ended(&mut self, id: CallId) -> Result<bool, StoreError> {
        let ended: Option<i64> =
            sqlx::query_scalar("select ended_at from calls where id = $1 and ended_at is not null")
                .bind(id.0.to_be_bytes().to_vec())
                .fetch_optional(&mut *self.connection)
                .await?;
        Ok(ended.is_some())
    }

    pub async fn renew(&mut self, node: Incarnation) -> Result<(), StoreError> {
        sqlx::query(
            "update nodes set seen_at = (extract(epoch from clock_timestamp()) * 1e6)::bigint
             where incarnation = $1",
        )
        .bind(signed(node.0))
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    pub async fn owned(&mut self, owner: Incarnation) -> Result<Vec<CallId>, StoreError> {
        let ids: Vec<Vec<u8>> =
            sqlx::query_scalar("select id from calls where owner = $1 and ended_at is null")
                .bind(signed(owner.0))
                .fetch_all(&mut *self.connection)
                .await?;
        ids.iter().map(|id| call_id(id)).collect()
    }

    pub async fn live_of(&mut self, calls: &[CallId]) -> Result<Vec<CallId>, StoreError> {
        let ids: Vec<Vec<u8>> =
            sqlx::query_scalar("select id from calls where id = any($1) and ended_at is null")
                .bind(calls.iter().map(|id| id.0.to_be_bytes().to_vec()).collect::<Vec<_>>())
                .fetch_all(&mut *self.connection)
                .await?;
        ids.iter().map(|id| call_id(id)).collect()
    }

    pub async fn call_of_key(&mut self, key: &[u8; 16]) -> Result<Option<CallId>, StoreError> {
        let id: Option<Vec<u8>> =
            sqlx::query_scalar("select id from calls where key = $1 and ended_at is null")
                .bind(key.to_vec())
                .fetch_optional(&mut *self.connection)
                .await?;
        id.map(|id| call_id(&id)).transpose()
    }

    pub async fn clock(&mut self) -> Result<Timestamp, StoreError> {
        let micros: i64 =
            sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1e6)::bigint")
                .fetch_one(&mut *self.connection)
                .await?;
        Ok(Timestamp::from_micros(unsigned(micros)))
    }
}
