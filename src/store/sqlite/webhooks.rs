//! Webhooks in SQLite.

use super::Sqlite;
use super::events::NOW;
use crate::ids::Incarnation;
use crate::store::rows::{DeliveryColumns, WebhookColumns, delivery, signed, unsigned, webhook};
use crate::store::{Delivery, Settlement, StoreError, StoredWebhook};
use crate::time::Timestamp;
use core::time::Duration;
use sqlx::QueryBuilder;

impl Sqlite {
    pub async fn webhooks(&self) -> Result<Vec<StoredWebhook>, StoreError> {
        let rows: Vec<WebhookColumns> = sqlx::query_as(
            "select id, document, secret, cursor,
                 (select count(*) from deliveries where webhook = id and due_at is not null),
                 (select count(*) from deliveries where webhook = id and due_at is null)
             from webhooks order by id",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(webhook).collect())
    }

    pub async fn add_webhook(&self, webhook: &StoredWebhook) -> Result<(), StoreError> {
        sqlx::query("insert into webhooks (id, document, secret, cursor) values (?1, ?2, ?3, ?4)")
            .bind(&webhook.id)
            .bind(&webhook.document)
            .bind(&webhook.secret)
            .bind(signed(webhook.cursor))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub async fn change_webhook(
        &self,
        id: &str,
        document: &str,
        cursor: Option<u64>,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "update webhooks set document = ?2, cursor = coalesce(?3, cursor)
             where id = ?1 and (?4 is null or document = ?4)",
        )
        .bind(id)
        .bind(document)
        .bind(cursor.map(signed))
        .bind(seen)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    pub async fn remove_webhook(&self, id: &str, seen: Option<&str>) -> Result<bool, StoreError> {
        let done =
            sqlx::query("delete from webhooks where id = ?1 and (?2 is null or document = ?2)")
                .bind(id)
                .bind(seen);
        Ok(done.execute(&self.writer).await?.rows_affected() > 0)
    }

    pub async fn deliveries(
        &self,
        webhook: &str,
        dead: bool,
        after: u64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows: Vec<DeliveryColumns> = sqlx::query_as(
            "select event, document, due_at from deliveries
             where webhook = ?1 and (due_at is null) = ?2 and event > ?3 order by event limit ?4",
        )
        .bind(webhook)
        .bind(dead)
        .bind(signed(after))
        .bind(i64::from(most))
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(delivery).collect())
    }

    pub async fn resend_deliveries(
        &self,
        webhook: &str,
        event: Option<u64>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "update deliveries set due_at = ?3
             where webhook = ?1 and due_at is null and (?2 is null or event = ?2)",
        )
        .bind(webhook)
        .bind(event.map(signed))
        .bind(signed(now.as_micros()))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }

    pub async fn settle_deliveries(
        &self,
        duty: &str,
        holder: Incarnation,
        webhook: &str,
        settlement: &Settlement,
        most_dead: u32,
    ) -> Result<bool, StoreError> {
        let mut writer = self.begin().await?;
        let mut query = QueryBuilder::new("update webhooks set cursor = max(cursor, ");
        query.push_bind(signed(settlement.cursor)).push(") where id = ").push_bind(webhook);
        query.push(" and exists (select 1 from duties where name = ").push_bind(duty);
        query.push(" and holder = ").push_bind(signed(holder.0));
        query.push(" and until > ").push(NOW).push(")");
        if query.build().execute(writer.connection()).await?.rows_affected() == 0 {
            writer.commit().await?;
            return Ok(false);
        }
        if !settlement.taken.is_empty() {
            let mut query = QueryBuilder::new("delete from deliveries where webhook = ");
            query.push_bind(webhook).push(" and event in (");
            let mut events = query.separated(", ");
            settlement.taken.iter().for_each(|event| _ = events.push_bind(signed(*event)));
            query.push(")");
            query.build().execute(writer.connection()).await?;
        }
        if !settlement.kept.is_empty() {
            let sql = "insert or replace into deliveries (webhook, event, document, due_at) ";
            let mut query = QueryBuilder::new(sql);
            query.push_values(&settlement.kept, |mut row, kept| {
                row.push_bind(webhook).push_bind(signed(kept.event)).push_bind(&kept.document);
                row.push_bind(kept.due_at.map(|at| signed(at.as_micros())));
            });
            query.build().execute(writer.connection()).await?;
            sqlx::query(
                "delete from deliveries where webhook = ?1 and due_at is null and event <= (
                     select event from deliveries where webhook = ?1 and due_at is null
                     order by event desc limit 1 offset ?2)",
            )
            .bind(webhook)
            .bind(i64::from(most_dead))
            .execute(writer.connection())
            .await?;
        }
        writer.commit().await?;
        Ok(true)
    }

    pub async fn take_duty(
        &self,
        name: &str,
        holder: Incarnation,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let life = signed(u64::try_from(life.as_micros()).unwrap_or(u64::MAX));
        let mut query = QueryBuilder::new("insert into duties (name, holder, until) select ");
        query.push_bind(name).push(", ").push_bind(signed(holder.0)).push(", ");
        query.push(NOW).push(" + ").push_bind(life);
        query.push(
            " where true on conflict (name) do update
                 set holder = excluded.holder, until = excluded.until
             where duties.holder = excluded.holder or duties.until < excluded.until - ",
        );
        query.push_bind(life).push(" or duties.until > excluded.until returning holder");
        let taken = query.build().fetch_optional(&self.writer).await?;
        Ok(taken.is_some())
    }

    pub async fn duty_position(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let query = sqlx::query_scalar("select position from duties where name = ?1").bind(name);
        let position: Option<Option<i64>> = query.fetch_optional(&self.readers).await?;
        Ok(position.flatten().map(unsigned))
    }

    pub async fn move_duty(
        &self,
        name: &str,
        holder: Incarnation,
        position: u64,
    ) -> Result<bool, StoreError> {
        let mut query = QueryBuilder::new("update duties set position = ");
        query.push_bind(signed(position)).push(" where name = ").push_bind(name);
        query.push(" and holder = ").push_bind(signed(holder.0)).push(" and until > ").push(NOW);
        Ok(query.build().execute(&self.writer).await?.rows_affected() > 0)
    }

    pub async fn leave_duty(&self, name: &str, holder: Incarnation) -> Result<(), StoreError> {
        sqlx::query("update duties set until = 0 where name = ?1 and holder = ?2")
            .bind(name)
            .bind(signed(holder.0))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
