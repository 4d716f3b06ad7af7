//! Users, bindings and the change feed in PostgreSQL.

use super::Session;
use crate::directory::{Binding, User};
use crate::store::rows::{bindings, change, signed, user_document};
use crate::store::{Change, StoreError};

impl Session {
    pub async fn users_after(
        &mut self,
        after: &str,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select document from users where extension > $1 order by extension limit $2",
        );
        let query = query.bind(after).bind(signed(most as u64));
        Ok(query.fetch_all(&mut *self.connection).await?)
    }

    pub async fn user(&mut self, extension: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("select document from users where extension = $1");
        Ok(query.bind(extension).fetch_optional(&mut *self.connection).await?)
    }

    /// Whoever is not inserted exists. `xmax` tells it of the row itself: a look before would miss who comes meanwhile.
    pub async fn import_users(
        &mut self,
        users: &[User],
        update: bool,
    ) -> Result<Vec<String>, StoreError> {
        let extensions: Vec<&str> = users.iter().map(|user| user.extension.as_str()).collect();
        let documents: Vec<String> = users.iter().map(user_document).collect();
        let existing = sqlx::query_scalar(
            "with input as (
                 select * from unnest($1::text[], $2::text[]) as t (extension, document)
             ), written as (
                 insert into users (extension, document)
                 select extension, document from input order by extension
                 on conflict (extension) do update set document = excluded.document where $3
                 returning extension, xmax = 0 as is_new
             ), fed as (
                 insert into changes (extension) select extension from written
                 on conflict (extension) do update set transaction_id = excluded.transaction_id
             )
             select extension from input
             where extension not in (select extension from written where is_new)",
        )
        .bind(extensions)
        .bind(documents)
        .bind(update)
        .fetch_all(&mut *self.connection)
        .await?;
        Ok(existing)
    }

    pub async fn update_user(
        &mut self,
        user: &User,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let changed: Vec<String> = sqlx::query_scalar(
            "with written as (
                 update users set document = $2
                 where extension = $1 and ($3::text is null or document = $3)
                 returning extension
             ), fed as (
                 insert into changes (extension) select extension from written
                 on conflict (extension) do update set transaction_id = excluded.transaction_id
             )
             select extension from written",
        )
        .bind(&user.extension)
        .bind(user_document(user))
        .bind(seen)
        .fetch_all(&mut *self.connection)
        .await?;
        Ok(!changed.is_empty())
    }

    pub async fn delete_user(
        &mut self,
        extension: &str,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let gone: Vec<String> = sqlx::query_scalar(
            "with gone as (
                 delete from users
                 where extension = $1 and ($2::text is null or document = $2)
                 returning extension
             ), unbound as (
                 delete from bindings where extension in (select extension from gone)
             ), fed as (
                 insert into changes (extension) select extension from gone
                 on conflict (extension) do update set transaction_id = excluded.transaction_id
             )
             select extension from gone",
        )
        .bind(extension)
        .bind(seen)
        .fetch_all(&mut *self.connection)
        .await?;
        Ok(!gone.is_empty())
    }

    pub async fn bindings_after(
        &mut self,
        after: &str,
        most: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let query = sqlx::query_as(
            "select extension, document from bindings
             where extension > $1 order by extension limit $2",
        );
        let query = query.bind(after).bind(signed(most as u64));
        Ok(query.fetch_all(&mut *self.connection).await?)
    }

    pub async fn bindings_of(&mut self, extension: &str) -> Result<Vec<Binding>, StoreError> {
        let document: Option<Vec<u8>> =
            sqlx::query_scalar("select document from bindings where extension = $1")
                .bind(extension)
                .fetch_optional(&mut *self.connection)
                .await?;
        document.map_or(Ok(Vec::new()), |document| bindings(&document))
    }

    /// A position is a transaction id: what is at or above it, and below the oldest open transaction, is new.
    pub async fn changes(&mut self, position: i64) -> Result<(Vec<Change>, i64), StoreError> {
        let below = self.change_position().await?;
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(
            "select c.extension, u.document
             from (select extension from changes
                   where transaction_id >= $1::text::xid8 and transaction_id < $2::text::xid8) c
             left join users u using (extension)",
        )
        .bind(position.to_string())
        .bind(below.to_string())
        .fetch_all(&mut *self.connection)
        .await?;
        let changes = rows.into_iter().map(|(extension, document)| change(extension, document));
        Ok((changes.collect::<Result<_, _>>()?, below))
    }

    pub async fn change_position(&mut self) -> Result<i64, StoreError> {
        let query =
            sqlx::query_scalar("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint");
        Ok(query.fetch_one(&mut *self.connection).await?)
    }
}
