//! Users, bindings and the change feed in PostgreSQL.

use super::Postgres;
use crate::directory::{Binding, User};
use crate::store::rows::{bindings, change, live_bindings, user, user_document};
use crate::store::{Change, StoreError};
use crate::time::Timestamp;

impl Postgres {
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let documents: Vec<String> =
            sqlx::query_scalar("select document from users").fetch_all(&self.pool).await?;
        documents.iter().map(|document| user(document)).collect()
    }

    pub async fn user(&self, extension: &str) -> Result<Option<User>, StoreError> {
        let document: Option<String> =
            sqlx::query_scalar("select document from users where extension = $1")
                .bind(extension)
                .fetch_optional(&self.pool)
                .await?;
        document.map(|document| user(&document)).transpose()
    }

    pub async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let existing = self.import_users(core::slice::from_ref(user), false).await?;
        match existing.into_iter().next() {
            Some(extension) => Err(StoreError::Exists(extension)),
            None => Ok(()),
        }
    }

    pub async fn import_users(
        &self,
        users: &[User],
        update: bool,
    ) -> Result<Vec<String>, StoreError> {
        let extensions: Vec<&str> = users.iter().map(|user| user.extension.as_str()).collect();
        let documents: Vec<String> = users.iter().map(user_document).collect();
        let existing = sqlx::query_scalar(
            "with input as (
                 select * from unnest($1::text[], $2::text[]) as t (extension, document)
             ), existing as (
                 select extension from users join input using (extension)
             ), written as (
                 insert into users (extension, document) select extension, document from input
                 on conflict (extension) do update set document = excluded.document where $3
                 returning extension
             ), fed as (
                 insert into changes (extension) select extension from written
             )
             select extension from existing",
        )
        .bind(extensions)
        .bind(documents)
        .bind(update)
        .fetch_all(&self.pool)
        .await?;
        Ok(existing)
    }

    pub async fn update_user(&self, user: &User) -> Result<bool, StoreError> {
        let changed: Vec<String> = sqlx::query_scalar(
            "with written as (
                 update users set document = $2 where extension = $1 returning extension
             ), fed as (
                 insert into changes (extension) select extension from written
             )
             select extension from written",
        )
        .bind(&user.extension)
        .bind(user_document(user))
        .fetch_all(&self.pool)
        .await?;
        Ok(!changed.is_empty())
    }

    pub async fn delete_user(&self, extension: &str) -> Result<bool, StoreError> {
        let gone: Vec<String> = sqlx::query_scalar(
            "with gone as (
                 delete from users where extension = $1 returning extension
             ), unbound as (
                 delete from bindings where extension = $1
             ), fed as (
                 insert into changes (extension) select extension from gone
             )
             select extension from gone",
        )
        .bind(extension)
        .fetch_all(&self.pool)
        .await?;
        Ok(!gone.is_empty())
    }

    pub async fn bindings(&self, now: Timestamp) -> Result<Vec<Binding>, StoreError> {
        let documents: Vec<Vec<u8>> =
            sqlx::query_scalar("select document from bindings").fetch_all(&self.pool).await?;
        live_bindings(documents.into_iter(), now)
    }

    pub async fn bindings_of(&self, extension: &str) -> Result<Vec<Binding>, StoreError> {
        let document: Option<Vec<u8>> =
            sqlx::query_scalar("select document from bindings where extension = $1")
                .bind(extension)
                .fetch_optional(&self.pool)
                .await?;
        document.map_or(Ok(Vec::new()), |document| bindings(&document))
    }

    /// A position is a transaction id: what is at or above it, and below the oldest open transaction, is new.
    pub async fn changes(&self, position: i64) -> Result<(Vec<Change>, i64), StoreError> {
        let below = self.change_position().await?;
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(
            "select c.extension, u.document
             from (select distinct extension from changes
                   where transaction_id >= $1::text::xid8 and transaction_id < $2::text::xid8) c
             left join users u using (extension)",
        )
        .bind(position.to_string())
        .bind(below.to_string())
        .fetch_all(&self.pool)
        .await?;
        let changes = rows.into_iter().map(|(extension, document)| change(extension, document));
        Ok((changes.collect::<Result<_, _>>()?, below))
    }

    pub async fn change_position(&self) -> Result<i64, StoreError> {
        let query =
            sqlx::query_scalar("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint");
        Ok(query.fetch_one(&self.pool).await?)
    }
}
