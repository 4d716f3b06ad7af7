//! A fresh database of either kind, and a way past the store to look into it.

use crate::common::SOON;
use crate::common::postgres::Postgres;
use crate::common::process::Folder;
use holdfast::store::Store;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

pub(crate) struct Database {
    url: String,
    /// Of SQLite.
    folder: Option<Folder>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = Folder::new("store");
        let url = format!("sqlite:{}", folder.file("holdfast.db").display());
        Self { url, folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        Self::on(Postgres::shared(), &format!("test{}", next())).await
    }

    /// A database of that name on that server.
    pub(crate) async fn on(server: &Postgres, name: &str) -> Self {
        let template = Self { url: server.url("postgres"), folder: None };
        template.execute(&format!("create database {name}")).await;
        Self { url: server.url(name), folder: None }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.folder.is_none()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A node's door to it; the first one migrates.
    pub(crate) async fn open(&self) -> Store {
        Store::connect(&self.url).await.expect("the database is there")
    }

    /// Somebody else's connection.
    pub(crate) async fn postgres_session(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the server is there")
    }

    /// See `postgres_session`.
    pub(crate) async fn sqlite_session(&self) -> SqliteConnection {
        SqliteConnection::connect(&self.url).await.expect("the file is there")
    }

    /// Statements of either dialect.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        if self.is_postgres() {
            let mut session = self.postgres_session().await;
            sql.execute(&mut session).await.map(drop)
        } else {
            let mut session = self.sqlite_session().await;
            sql.execute(&mut session).await.map(drop)
        }
        .expect("SQL of a test");
    }

    /// Waits until everything written so far can be read from the feed and from CDRs: these stop below the oldest open
    /// transaction of the whole server, which other tests use too.
    pub(crate) async fn settle(&self) {
        if !self.is_postgres() {
            return;
        }
        let id = "pg_current_snapshot())::text::bigint";
        let written = self.number(&format!("select pg_snapshot_xmax({id}")).await;
        let begin = Instant::now();
        while self.number(&format!("select pg_snapshot_xmin({id}")).await < written {
            assert!(begin.elapsed() < SOON, "a transaction stays open");
        }
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let query = AssertSqlSafe(sql.to_owned());
        if self.is_postgres() {
            let mut session = self.postgres_session().await;
            sqlx::query_scalar(query).fetch_one(&mut session).await
        } else {
            let mut session = self.sqlite_session().await;
            sqlx::query_scalar(query).fetch_one(&mut session).await
        }
        .expect("SQL of a test")
    }
}

fn next() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}
