//! Tokens of the API and the audit log in SQLite.

use super::Sqlite;
use crate::store::rows::{TokenColumns, signed, token, unsigned};
use crate::store::{StoreError, StoredToken};
use crate::time::Timestamp;

impl Sqlite {
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let rows: Vec<TokenColumns> = sqlx::query_as(
            "select id, name, role, hash, created_at, last_used_at from tokens order by id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(token).collect()
    }

    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<StoredToken>, StoreError> {
        let row: Option<TokenColumns> = sqlx::query_as(
            "select id, name, role, hash, created_at, last_used_at from tokens where hash = ?1",
        )
        .bind(hash.to_vec())
        .fetch_optional(&self.readers)
        .await?;
        row.map(token).transpose()
    }

    pub async fn add_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        sqlx::query(
            "insert into tokens (id, name, role, hash, created_at) values (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(token.id.clone())
        .bind(token.name.clone())
        .bind(token.role.clone())
        .bind(token.hash.to_vec())
        .bind(signed(token.created_at.as_micros()))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub async fn use_token(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("update tokens set last_used_at = ?2 where id = ?1")
            .bind(id)
            .bind(signed(at.as_micros()))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub async fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("delete from tokens where id = ?1");
        Ok(done.bind(id).execute(&self.writer).await?.rows_affected() > 0)
    }

    pub async fn add_audit(&self, at: Timestamp, document: &str) -> Result<u64, StoreError> {
        let done = sqlx::query("insert into audit (at, document) values (?1, ?2)");
        let done = done.bind(signed(at.as_micros())).bind(document);
        Ok(unsigned(done.execute(&self.writer).await?.last_insert_rowid()))
    }

    /// True too when it was done before.
    pub async fn end_audit(
        &self,
        sequence: u64,
        before: &str,
        document: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "update audit set document = ?3 where sequence = ?1 and document in (?2, ?3)",
        );
        let done = done.bind(signed(sequence)).bind(before).bind(document);
        Ok(done.execute(&self.writer).await?.rows_affected() > 0)
    }

    pub async fn audit(
        &self,
        before: Option<u64>,
        most: u32,
    ) -> Result<Vec<(u64, String)>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select sequence, document from audit where sequence < ?1
             order by sequence desc limit ?2",
        )
        .bind(before.map_or(i64::MAX, signed))
        .bind(i64::from(most))
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(|(sequence, document)| (unsigned(sequence), document)).collect())
    }

    pub async fn sweep_audit(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "delete from audit where sequence in (
                 select sequence from audit where at < ?1 order by sequence limit ?2)",
        );
        let done = done.bind(signed(before.as_micros())).bind(i64::from(most));
        Ok(done.execute(&self.writer).await?.rows_affected())
    }
}
