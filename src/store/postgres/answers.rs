//! What repeated requests were answered, in PostgreSQL.

use super::Session;
use crate::store::rows::signed;
use crate::store::{Asked, StoreError};
use crate::time::Timestamp;
use core::time::Duration;

impl Session {
    /// Whether this run is the one that counts, by the server's clock.
    pub async fn begin_answer(
        &mut self,
        asked: &Asked,
        _: Timestamp,
        life: Duration,
        run_life: Duration,
    ) -> Result<bool, StoreError> {
        let micros = |life: Duration| i64::try_from(life.as_micros()).unwrap_or(i64::MAX);
        let done = sqlx::query(
            "insert into answers (token, key, asked, run, at)
             values ($1, $2, $3, $4, (extract(epoch from clock_timestamp()) * 1e6)::bigint)
             on conflict (token, key) do update set asked = excluded.asked, run = excluded.run,
                 at = excluded.at, answer = null
             where answers.at < excluded.at - $5 or (answers.answer is null
                 and answers.asked = excluded.asked and answers.at < excluded.at - $6)",
        )
        .bind(&asked.token)
        .bind(&asked.key)
        .bind(asked.hash.to_vec())
        .bind(signed(asked.run))
        .bind(micros(life))
        .bind(micros(run_life))
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// What was asked under the key, and the answer.
    pub async fn answer(
        &mut self,
        asked: &Asked,
    ) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        let query =
            sqlx::query_as("select asked, answer from answers where token = $1 and key = $2");
        let query = query.bind(&asked.token).bind(&asked.key);
        Ok(query.fetch_optional(&mut *self.connection).await?)
    }

    pub async fn end_answer(
        &mut self,
        asked: &Asked,
        answer: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let done = match answer {
            Some(_) => "update answers set answer = $4 where token = $1 and key = $2 and run = $3",
            None => "delete from answers where token = $1 and key = $2 and run = $3",
        };
        let done = sqlx::query(done).bind(&asked.token).bind(&asked.key).bind(signed(asked.run));
        let done = match answer {
            Some(answer) => done.bind(answer),
            None => done,
        };
        done.execute(&mut *self.connection).await?;
        Ok(())
    }
}
