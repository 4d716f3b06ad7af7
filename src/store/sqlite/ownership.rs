//! Who owns a call. The file has one process at a time, so the dead are earlier starts of it.

use super::Sqlite;
use crate::ids::{CallId, Incarnation};
use crate::store::rows::{ClaimRow, call_id, claimed_call, signed, unsigned};
use crate::store::{ClaimedCall, StoreError};
use crate::time::Timestamp;
use sqlx::QueryBuilder;

impl Sqlite {
    pub async fn claim(
        &self,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
        limit: u32,
        suspects: bool,
    ) -> Result<Vec<ClaimedCall>, StoreError> {
        let rows: Vec<ClaimRow> = sqlx::query_as(
            "update calls set owner = ?2, epoch = epoch + 1,
                 claims = min(claims + (owner <> ?2), 1000)
             where id in (select id from calls where owner = ?1 and ended_at is null
                 and (claims > 0) = ?4 and (?5 is null or not exists
                     (select 1 from nodes where incarnation = ?1 and seen_at <> ?5)) limit ?3)
             returning id, key, epoch, rev, record, claims",
        )
        .bind(signed(from.0))
        .bind(signed(to.0))
        .bind(i64::from(limit))
        .bind(suspects)
        .bind(seen_at.map(|at| signed(at.as_micros())))
        .fetch_all(&self.writer)
        .await?;
        rows.into_iter().map(claimed_call).collect()
    }

    pub async fn claim_call(
        &self,
        id: CallId,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Result<Option<ClaimedCall>, StoreError> {
        let row: Option<ClaimRow> = sqlx::query_as(
            "update calls set owner = ?2, epoch = epoch + 1,
                 claims = min(claims + (owner <> ?2), 1000)
             where id = ?3 and owner = ?1 and ended_at is null and (?4 is null or not exists
                 (select 1 from nodes where incarnation = ?1 and seen_at <> ?4))
             returning id, key, epoch, rev, record, claims",
        )
        .bind(signed(from.0))
        .bind(signed(to.0))
        .bind(id.0.to_be_bytes().to_vec())
        .bind(seen_at.map(|at| signed(at.as_micros())))
        .fetch_optional(&self.writer)
        .await?;
        row.map(claimed_call).transpose()
    }

    pub async fn owner(&self, id: CallId) -> Result<Option<Incarnation>, StoreError> {
        let owner: Option<i64> =
            sqlx::query_scalar("select owner from calls where id = ?1 and ended_at is null")
                .bind(id.0.to_be_bytes().to_vec())
                .fetch_optional(&self.readers)
                .await?;
        Ok(owner.map(|owner| Incarnation(unsigned(owner))))
    }

    pub async fn has_ended(&self, id: CallId) -> Result<bool, StoreError> {
        let ended: Option<i64> =
            sqlx::query_scalar("select ended_at from calls where id = ?1 and ended_at is not null")
                .bind(id.0.to_be_bytes().to_vec())
                .fetch_optional(&self.readers)
                .await?;
        Ok(ended.is_some())
    }

    pub async fn renew(&self, node: Incarnation) -> Result<(), StoreError> {
        sqlx::query(
            "update nodes set seen_at = max(seen_at + 1,
                 cast((julianday('now') - 2440587.5) * 86400000000 as integer))
             where incarnation = ?1",
        )
        .bind(signed(node.0))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub async fn owned(&self, owner: Incarnation) -> Result<Vec<CallId>, StoreError> {
        let ids: Vec<Vec<u8>> =
            sqlx::query_scalar("select id from calls where owner = ?1 and ended_at is null")
                .bind(signed(owner.0))
                .fetch_all(&self.readers)
                .await?;
        ids.iter().map(|id| call_id(id)).collect()
    }

    pub async fn live_of(&self, calls: &[CallId]) -> Result<Vec<CallId>, StoreError> {
        let mut query =
            QueryBuilder::new("select id from calls where ended_at is null and id in (");
        let mut ids = query.separated(", ");
        for call in calls {
            ids.push_bind(call.0.to_be_bytes().to_vec());
        }
        query.push(")");
        let ids: Vec<Vec<u8>> = query.build_query_scalar().fetch_all(&self.readers).await?;
        ids.iter().map(|id| call_id(id)).collect()
    }

    pub async fn call_of_key(&self, key: &[u8; 16]) -> Result<Option<CallId>, StoreError> {
        let id: Option<Vec<u8>> =
            sqlx::query_scalar("select id from calls where key = ?1 and ended_at is null")
                .bind(key.to_vec())
                .fetch_optional(&self.readers)
                .await?;
        id.map(|id| call_id(&id)).transpose()
    }

    pub async fn clock(&self) -> Result<Timestamp, StoreError> {
        let micros: i64 = sqlx::query_scalar(
            "select cast((julianday('now') - 2440587.5) * 86400000000 as integer)",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(Timestamp::from_micros(unsigned(micros)))
    }
}
