//! PostgreSQL behind the door.

#[macro_use]
mod sequence;
mod answers;
mod calls;
mod cdrs;
mod directory;
mod events;
mod hosts;
mod ownership;
mod tokens;
mod webhooks;

use super::rows::{control_text, node, signed};
use super::{NodeRow, StoreError, migrations};
pub(super) use hosts::Postgres;
use hosts::Session;

impl Session {
    pub async fn write_node(&mut self, row: &NodeRow) -> Result<(), StoreError> {
        sqlx::query(
            "insert into nodes (name, incarnation, mode, control, seen_at, view)
             values ($1, $2, $3, string_to_array($4, ' '),
                 (extract(epoch from clock_timestamp()) * 1e6)::bigint, $5)
             on conflict (name) do update set incarnation = excluded.incarnation,
                 mode = excluded.mode, control = excluded.control, seen_at = excluded.seen_at,
                 view = excluded.view
             where nodes.incarnation <= excluded.incarnation",
        )
        .bind(&*row.name.0)
        .bind(signed(row.incarnation.0))
        .bind(&row.mode)
        .bind(control_text(row))
        .bind(&row.view)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    pub async fn nodes(&mut self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query_as(
            "select name, incarnation, mode, array_to_string(control, ' '), seen_at, view
             from nodes order by name",
        );
        Ok(rows.fetch_all(&mut *self.connection).await?.into_iter().map(node).collect())
    }

    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("select value from settings where name = $1").bind(name);
        Ok(query.fetch_optional(&mut *self.connection).await?)
    }

    pub async fn setting_or_insert(
        &mut self,
        name: &str,
        value: &str,
    ) -> Result<String, StoreError> {
        sqlx::query("insert into settings (name, value) values ($1, $2) on conflict do nothing")
            .bind(name)
            .bind(value)
            .execute(&mut *self.connection)
            .await?;
        let stored = self.setting(name).await?;
        stored.ok_or_else(|| StoreError::Corrupt(format!("setting {name} vanished")))
    }

    /// Version of the schema.
    pub async fn schema(&mut self) -> Result<Option<i64>, StoreError> {
        let found = sqlx::query_scalar("select max(version) from _sqlx_migrations");
        migrations::found(found.fetch_one(&mut *self.connection).await)
    }

    pub async fn ping(&mut self) -> Result<(), StoreError> {
        self.check_writable().await
    }
}
