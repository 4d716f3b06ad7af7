//! Webhooks in PostgreSQL.

use super::Session;
use crate::ids::Incarnation;
use crate::store::rows::{DeliveryColumns, WebhookColumns, delivery, signed, unsigned, webhook};
use crate::store::{Delivery, Settlement, StoreError, StoredWebhook};
use crate::time::Timestamp;
use core::time::Duration;

impl Session {
    pub async fn webhooks(&mut self) -> Result<Vec<StoredWebhook>, StoreError> {
        let rows: Vec<WebhookColumns> = sqlx::query_as(
            "select id, document, secret, cursor,
                 (select count(*) from deliveries where webhook = id and due_at is not null),
                 (select count(*) from deliveries where webhook = id and due_at is null)
             from webhooks order by id",
        )
        .fetch_all(&mut *self.connection)
        .await?;
        Ok(rows.into_iter().map(webhook).collect())
    }

    pub async fn add_webhook(&mut self, webhook: &StoredWebhook) -> Result<(), StoreError> {
        sqlx::query("insert into webhooks (id, document, secret, cursor) values ($1, $2, $3, $4)")
            .bind(&webhook.id)
            .bind(&webhook.document)
            .bind(&webhook.secret)
            .bind(signed(webhook.cursor))
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    pub async fn change_webhook(
        &mut self,
        id: &str,
        document: &str,
        cursor: Option<u64>,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "update webhooks set document = $2, cursor = coalesce($3, cursor)
             where id = $1 and ($4::text is null or document = $4)",
        )
        .bind(id)
        .bind(document)
        .bind(cursor.map(signed))
        .bind(seen)
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    pub async fn remove_webhook(
        &mut self,
        id: &str,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "delete from webhooks where id = $1 and ($2::text is null or document = $2)",
        )
        .bind(id)
        .bind(seen);
        Ok(done.execute(&mut *self.connection).await?.rows_affected() > 0)
    }

    pub async fn deliveries(
        &mut self,
        webhook: &str,
        dead: bool,
        after: u64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows: Vec<DeliveryColumns> = sqlx::query_as(
            "select event, document, due_at from deliveries
             where webhook = $1 and (due_at is null) = $2 and event > $3 order by event limit $4",
        )
        .bind(webhook)
        .bind(dead)
        .bind(signed(after))
        .bind(i64::from(most))
        .fetch_all(&mut *self.connection)
        .await?;
        Ok(rows.into_iter().map(delivery).collect())
    }

    pub async fn resend_deliveries(
        &mut self,
        webhook: &str,
        event: Option<u64>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "update deliveries set due_at = $3
             where webhook = $1 and due_at is null and ($2::bigint is null or event = $2)",
        )
        .bind(webhook)
        .bind(event.map(signed))
        .bind(signed(now.as_micros()))
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected())
    }

    pub async fn settle_deliveries(
        &mut self,
        duty: &str,
        holder: Incarnation,
        webhook: &str,
        settlement: &Settlement,
        most_dead: u32,
    ) -> Result<bool, StoreError> {
        let taken: Vec<i64> = settlement.taken.iter().map(|event| signed(*event)).collect();
        let kept = &settlement.kept;
        let events: Vec<i64> = kept.iter().map(|kept| signed(kept.event)).collect();
        let documents: Vec<&str> = kept.iter().map(|kept| kept.document.as_str()).collect();
        let micros = |at: Timestamp| signed(at.as_micros());
        let due: Vec<Option<i64>> = kept.iter().map(|kept| kept.due_at.map(micros)).collect();
        // The lock keeps the duty from changing hands before this is written.
        let moved: i64 = sqlx::query_scalar(
            "with held as (
                 select name from duties where name = $1 and holder = $2
                     and until > (extract(epoch from clock_timestamp()) * 1e6)::bigint
                 for share
             ), moved as (
                 update webhooks set cursor = greatest(cursor, $4)
                 where id = $3 and exists (select from held) returning id
             ), taken as (
                 delete from deliveries using moved
                 where webhook = moved.id and event = any($5)
             ), kept as (
                 insert into deliveries (webhook, event, document, due_at)
                 select moved.id, new.event, new.document, new.due_at
                 from moved, unnest($6::bigint[], $7::text[], $8::bigint[])
                     as new (event, document, due_at)
                 on conflict (webhook, event) do update
                     set document = excluded.document, due_at = excluded.due_at
             )
             select count(*) from moved",
        )
        .bind(duty)
        .bind(signed(holder.0))
        .bind(webhook)
        .bind(signed(settlement.cursor))
        .bind(taken)
        .bind(events)
        .bind(documents)
        .bind(due)
        .fetch_one(&mut *self.connection)
        .await?;
        if kept.iter().any(|kept| kept.due_at.is_none()) {
            self.forget_deliveries(webhook, most_dead).await?;
        }
        Ok(moved > 0)
    }

    async fn forget_deliveries(&mut self, webhook: &str, most_dead: u32) -> Result<(), StoreError> {
        sqlx::query(
            "delete from deliveries where webhook = $1 and due_at is null and event <= (
                 select event from deliveries where webhook = $1 and due_at is null
                 order by event desc offset $2 limit 1)",
        )
        .bind(webhook)
        .bind(i64::from(most_dead))
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    pub async fn take_duty(
        &mut self,
        name: &str,
        holder: Incarnation,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let taken: Option<i64> = sqlx::query_scalar(
            "with clock as (select (extract(epoch from clock_timestamp()) * 1e6)::bigint as now)
             insert into duties (name, holder, until)
             select $1, $2, now + $3 from clock
             on conflict (name) do update set holder = excluded.holder, until = excluded.until
             where duties.holder = excluded.holder or duties.until < excluded.until - $3
                 or duties.until > excluded.until
             returning holder",
        )
        .bind(name)
        .bind(signed(holder.0))
        .bind(signed(u64::try_from(life.as_micros()).unwrap_or(u64::MAX)))
        .fetch_optional(&mut *self.connection)
        .await?;
        Ok(taken.is_some())
    }

    pub async fn duty_position(&mut self, name: &str) -> Result<Option<u64>, StoreError> {
        let query = sqlx::query_scalar("select position from duties where name = $1").bind(name);
        let position: Option<Option<i64>> = query.fetch_optional(&mut *self.connection).await?;
        Ok(position.flatten().map(unsigned))
    }

    pub async fn move_duty(
        &mut self,
        name: &str,
        holder: Incarnation,
        position: u64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "update duties set position = $3 where name = $1 and holder = $2
                 and until > (extract(epoch from clock_timestamp()) * 1e6)::bigint",
        )
        .bind(name)
        .bind(signed(holder.0))
        .bind(signed(position))
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    pub async fn leave_duty(&mut self, name: &str, holder: Incarnation) -> Result<(), StoreError> {
        sqlx::query("update duties set until = 0 where name = $1 and holder = $2")
            .bind(name)
            .bind(signed(holder.0))
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}
