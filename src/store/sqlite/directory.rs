//! Users, bindings and the change feed in SQLite.

use super::Sqlite;
use crate::directory::{Binding, User};
use crate::store::rows::{bindings, change, signed, user_document};
use crate::store::{Change, StoreError};
use sqlx::{QueryBuilder, SqliteConnection};

impl Sqlite {
    pub async fn users_after(&self, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select document from users where extension > ?1 order by extension limit ?2",
        );
        Ok(query.bind(after).bind(signed(most as u64)).fetch_all(&self.readers).await?)
    }

    pub async fn user(&self, extension: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("select document from users where extension = ?1");
        Ok(query.bind(extension).fetch_optional(&self.readers).await?)
    }

    pub async fn import_users(
        &self,
        users: &[User],
        update: bool,
    ) -> Result<Vec<String>, StoreError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.begin().await?;
        let mut query = QueryBuilder::new("select extension from users where extension in (");
        let mut names = query.separated(", ");
        for user in users {
            names.push_bind(user.extension.clone());
        }
        query.push(")");
        let existing: Vec<String> =
            query.build_query_scalar().fetch_all(writer.connection()).await?;
        let mut query = QueryBuilder::new("insert into users (extension, document) ");
        query.push_values(users, |mut row, user| {
            row.push_bind(user.extension.clone()).push_bind(user_document(user));
        });
        query.push(if update {
            " on conflict (extension) do update set document = excluded.document"
        } else {
            " on conflict do nothing"
        });
        query.push(" returning extension");
        let written: Vec<String> =
            query.build_query_scalar().fetch_all(writer.connection()).await?;
        feed(writer.connection(), &written).await?;
        writer.commit().await?;
        Ok(existing)
    }

    pub async fn update_user(&self, user: &User, seen: Option<&str>) -> Result<bool, StoreError> {
        let mut writer = self.begin().await?;
        let done = sqlx::query(
            "update users set document = ?2
             where extension = ?1 and (?3 is null or document = ?3)",
        )
        .bind(&user.extension)
        .bind(user_document(user))
        .bind(seen)
        .execute(writer.connection())
        .await?;
        let changed = done.rows_affected() > 0;
        if changed {
            feed(writer.connection(), core::slice::from_ref(&user.extension)).await?;
        }
        writer.commit().await?;
        Ok(changed)
    }

    pub async fn delete_user(
        &self,
        extension: &str,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let mut writer = self.begin().await?;
        let done =
            sqlx::query("delete from users where extension = ?1 and (?2 is null or document = ?2)")
                .bind(extension)
                .bind(seen)
                .execute(writer.connection())
                .await?;
        let gone = done.rows_affected() > 0;
        if gone {
            sqlx::query("delete from bindings where extension = ?1")
                .bind(extension)
                .execute(writer.connection())
                .await?;
            feed(writer.connection(), &[extension.to_owned()]).await?;
        }
        writer.commit().await?;
        Ok(gone)
    }

    pub async fn bindings_after(
        &self,
        after: &str,
        most: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let query = sqlx::query_as(
            "select extension, document from bindings
             where extension > ?1 order by extension limit ?2",
        );
        Ok(query.bind(after).bind(signed(most as u64)).fetch_all(&self.readers).await?)
    }

    pub async fn bindings_of(&self, extension: &str) -> Result<Vec<Binding>, StoreError> {
        let document: Option<Vec<u8>> =
            sqlx::query_scalar("select document from bindings where extension = ?1")
                .bind(extension)
                .fetch_optional(&self.readers)
                .await?;
        document.map_or(Ok(Vec::new()), |document| bindings(&document))
    }

    pub async fn changes(&self, position: i64) -> Result<(Vec<Change>, i64), StoreError> {
        let rows: Vec<(i64, String, Option<String>)> = sqlx::query_as(
            "select c.position, c.extension, u.document
             from changes c left join users u using (extension)
             where c.position > ?1",
        )
        .bind(position)
        .fetch_all(&self.readers)
        .await?;
        let newest = rows.iter().map(|(position, ..)| *position).max().unwrap_or(position);
        let changes = rows.into_iter().map(|(_, extension, document)| change(extension, document));
        Ok((changes.collect::<Result<_, _>>()?, newest))
    }

    pub async fn change_position(&self) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar("select coalesce(max(position), 0) from changes");
        Ok(query.fetch_one(&self.readers).await?)
    }
}

async fn feed(connection: &mut SqliteConnection, extensions: &[String]) -> Result<(), sqlx::Error> {
    if extensions.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::new("insert or replace into changes (extension) ");
    query.push_values(extensions, |mut row, extension| {
        row.push_bind(extension.clone());
    });
    query.build().execute(connection).await?;
    Ok(())
}
