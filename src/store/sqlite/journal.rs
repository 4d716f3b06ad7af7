//! A journal's rows: read to be replayed, removed when the store has them.

use super::Sqlite;
use crate::call::Save;
use crate::ids::{CallId, Epoch, Incarnation, Rev};
use crate::store::rows::{bindings, call_id, call_key, cdr, signed, unsigned};
use crate::store::{BindingsWrite, StoreError};
use crate::views::Cdr;
use sqlx::{QueryBuilder, SqliteConnection};
use std::collections::HashMap;

/// (id, key, owner, epoch, rev, ended_at, record)
type KeptRow = (Vec<u8>, Vec<u8>, i64, i64, i64, Option<i64>, Vec<u8>);

/// A row, or why it cannot be read: one must not hold the others up.
pub(in crate::store) type Kept<T> = Result<T, StoreError>;

impl Sqlite {
    /// Calls as they were saved, from the lowest id.
    pub async fn kept_calls(&self, most: usize) -> Result<Vec<(CallId, Kept<Save>)>, StoreError> {
        let rows: Vec<KeptRow> = sqlx::query_as(
            "select id, key, owner, epoch, rev, ended_at, record from calls order by id limit ?1",
        )
        .bind(signed(most as u64))
        .fetch_all(&self.readers)
        .await?;
        let ended = rows.iter().filter(|row| row.5.is_some());
        let ended: Vec<CallId> =
            ended.map(|row| call_id(&row.0)).collect::<Result<_, StoreError>>()?;
        let mut cdrs = self.kept_cdrs(&ended).await?;
        let mut told = self.kept_told().await?;
        let kept = rows.into_iter().map(|row| {
            let id = call_id(&row.0)?;
            let save = saved(id, row, cdrs.remove(&id.to_string()));
            let told = told.remove(&id).unwrap_or_default();
            Ok((id, save.map(|save| Save { told, ..save })))
        });
        kept.collect()
    }

    async fn kept_cdrs(&self, of: &[CallId]) -> Result<HashMap<String, String>, StoreError> {
        if of.is_empty() {
            return Ok(HashMap::new());
        }
        let mut query = QueryBuilder::new("select id, document from cdrs where id in (");
        let mut ids = query.separated(", ");
        for id in of {
            ids.push_bind(id.to_string());
        }
        query.push(")");
        let rows: Vec<(String, String)> = query.build_query_as().fetch_all(&self.readers).await?;
        Ok(rows.into_iter().collect())
    }

    /// Bindings as they were to be.
    pub async fn kept_bindings(
        &self,
        most: usize,
    ) -> Result<Vec<(String, Kept<BindingsWrite>)>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("select extension, document from bindings order by extension limit ?1")
                .bind(signed(most as u64))
                .fetch_all(&self.readers)
                .await?;
        let kept = rows.into_iter().map(|(extension, document)| {
            let write = bindings(&document)
                .map(|bindings| BindingsWrite { extension: extension.clone(), bindings });
            (extension, write)
        });
        Ok(kept.collect())
    }

    /// Calls with their CDRs, and bindings: all or nothing.
    pub async fn remove_kept(
        &self,
        calls: &[CallId],
        extensions: &[String],
    ) -> Result<(), StoreError> {
        let mut writer = self.begin().await?;
        let ids = calls.iter().map(|id| id.0.to_be_bytes().to_vec());
        delete(writer.connection(), "delete from calls where id in (", ids).await?;
        let ids = calls.iter().map(|id| id.0.to_be_bytes().to_vec());
        delete(writer.connection(), "delete from events where call is null or call in (", ids)
            .await?;
        let ids = calls.iter().map(ToString::to_string);
        delete(writer.connection(), "delete from cdrs where id in (", ids).await?;
        let names = extensions.iter().cloned();
        delete(writer.connection(), "delete from bindings where extension in (", names).await?;
        Ok(writer.commit().await?)
    }

    /// Lets the file go.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn delete<T>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    keys: impl ExactSizeIterator<Item = T>,
) -> Result<(), sqlx::Error>
where
    T: for<'q> sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + 'static,
{
    if keys.len() == 0 {
        return Ok(());
    }
    let mut query = QueryBuilder::new(statement);
    let mut list = query.separated(", ");
    for key in keys {
        list.push_bind(key);
    }
    query.push(")");
    query.build().execute(connection).await.map(drop)
}

fn saved(id: CallId, row: KeptRow, document: Option<String>) -> Kept<Save> {
    let (_, key, owner, epoch, rev, ended_at, record) = row;
    let cdr: Option<Box<Cdr>> = match (ended_at, document) {
        (None, _) => None,
        (Some(_), Some(document)) => Some(Box::new(cdr(0, &document)?)),
        (Some(_), None) => return Err(StoreError::Corrupt("an ended call without a CDR".into())),
    };
    Ok(Save {
        id,
        key: call_key(key)?,
        owner: Incarnation(unsigned(owner)),
        epoch: Epoch(unsigned(epoch)),
        rev: Rev(unsigned(rev)),
        ended: cdr.is_some(),
        record,
        cdr,
        told: Vec::new(),
    })
}
