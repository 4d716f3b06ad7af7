//! SQLite behind the door: alone on one machine, no server needed.
//!
//! One write connection, `synchronous=full`: an acknowledged write survives a power cut. Statements are multi-row,
//! never row by row: what costs is the hop to the connection's thread.

mod answers;
mod calls;
mod cdrs;
mod directory;
mod events;
mod journal;
mod ownership;
mod tokens;
mod webhooks;

use super::rows::{control_text, node, signed};
use super::{NodeRow, StoreError, migrations};
use core::time::Duration;
use sqlx::SqliteConnection;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::path::Path;

/// Somebody else holds the lock: a backup, a shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// For a connection out of the pool.
const PATIENCE: Duration = Duration::from_secs(2);

/// One writer, several readers.
#[derive(Clone, Debug)]
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .test_before_acquire(false)
}

impl Sqlite {
    /// As it is; none when there is no such file.
    pub async fn open(path: &str) -> Result<Option<Self>, StoreError> {
        if !Path::new(path).exists() {
            return Ok(None);
        }
        let (writer, options) = Self::writer(path, false).await?;
        let readers = pool(2).connect_with(options.read_only(true)).await?;
        Ok(Some(Self { writer, readers }))
    }

    /// Made when it is not there, and migrated.
    pub async fn connect(path: &str) -> Result<Self, StoreError> {
        make_private(Path::new(path))?;
        let (writer, options) = Self::writer(path, true).await?;
        migrate(&writer).await?;
        let readers = pool(2).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    async fn writer(
        path: &str,
        make: bool,
    ) -> Result<(SqlitePool, SqliteConnectOptions), StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(make)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // Below the deadline of a statement: the connection's thread must not go on for one that nobody awaits.
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(256);
        Ok((pool(1).connect_with(options.clone()).await?, options))
    }

    /// Version of the schema.
    pub async fn schema(&self) -> Result<Option<i64>, StoreError> {
        let found = sqlx::query_scalar("select max(version) from _sqlx_migrations");
        migrations::found(found.fetch_one(&self.readers).await)
    }

    pub async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        sqlx::query(
            "insert into nodes (name, incarnation, mode, control, seen_at, view)
             values (?1, ?2, ?3, ?4, ?5, ?6)
             on conflict (name) do update set incarnation = excluded.incarnation,
                 mode = excluded.mode, control = excluded.control, seen_at = excluded.seen_at,
                 view = excluded.view
             where nodes.incarnation <= excluded.incarnation",
        )
        .bind(&*row.name.0)
        .bind(signed(row.incarnation.0))
        .bind(&row.mode)
        .bind(control_text(row))
        .bind(signed(row.seen_at.as_micros()))
        .bind(&row.view)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query_as(
            "select name, incarnation, mode, control, seen_at, view from nodes order by name",
        );
        Ok(rows.fetch_all(&self.readers).await?.into_iter().map(node).collect())
    }

    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("select value from settings where name = ?1").bind(name);
        Ok(query.fetch_optional(&self.readers).await?)
    }

    pub async fn setting_or_insert(&self, name: &str, value: &str) -> Result<String, StoreError> {
        sqlx::query("insert into settings (name, value) values (?1, ?2) on conflict do nothing")
            .bind(name)
            .bind(value)
            .execute(&self.writer)
            .await?;
        let stored = self.setting(name).await?;
        stored.ok_or_else(|| StoreError::Corrupt(format!("setting {name} vanished")))
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        let writer = self.begin().await?;
        Ok(writer.commit().await?)
    }

    /// Takes the lock at once: a transaction that reads first and then writes fails when another came between.
    async fn begin(&self) -> Result<Writer, sqlx::Error> {
        let mut writer = Writer { connection: Some(self.writer.acquire().await?) };
        sqlx::raw_sql("begin immediate").execute(writer.connection()).await?;
        Ok(writer)
    }
}

/// A write transaction. Unless it is committed, its connection is not used again: an error (a full disk, a failing one)
/// may have ended SQLite's transaction already, and a call that was given up may be in the midst of one.
#[derive(Debug)]
struct Writer {
    connection: Option<PoolConnection<sqlx::Sqlite>>,
}

impl Writer {
    /// For statements.
    fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_deref_mut().expect("it is taken by the commit only")
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("commit").execute(self.connection()).await?;
        self.connection = None;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

/// The file holds what digest needs of passwords: nobody else reads it.
fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(|error| explain(folder, &error))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(path).map(drop).map_err(|error| explain(path, &error))
}

fn explain(path: &Path, error: &std::io::Error) -> StoreError {
    let path = path.display();
    StoreError::Unavailable(format!(
        "{path} cannot be written ({error}): make it writable for this user, as with chown"
    ))
}

async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let migrator = migrations::sqlite();
    let found = sqlx::query_scalar("select max(version) from _sqlx_migrations");
    let found = migrations::found(found.fetch_one(pool).await)?;
    let needs = match found {
        Some(_) => sqlx::query_scalar(migrations::NEEDS).fetch_optional(pool).await?,
        None => None,
    };
    migrations::check(found, needs, &migrator)?;
    migrator.run(pool).await.map_err(|error| StoreError::Unavailable(error.to_string()))
}
