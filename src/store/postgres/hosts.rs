//! The hosts of the URL, one of which takes writes, and sessions with it: out of a pool, and one that is kept for
//! commits.
//!
//! Invariants: a session is used again only when its last statement ended well; after any doubt (an error, a statement
//! given up) the host is asked whether it takes writes before it is used, and the others in turn when it does not
//! answer.

use crate::store::{StoreError, migrations};
use core::ops::{Deref, DerefMut};
use core::str::FromStr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Connections of a process; one commit is in flight at a time, the rest are reads.
const CONNECTIONS: u32 = 6;
/// For a connection out of the pool, and for all hosts in turn: both less than a statement's deadline.
const PATIENCE: Duration = Duration::from_millis(1_400);
/// Creating the schema, or waiting for another node that does.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);

/// The server gives up before we do, so that the fate of a commit is known when it is offered again, and a frozen
/// node holds nobody up. Plans keep to the indexes: they are made once, when a table may still be empty.
const SETTINGS: &str = "set statement_timeout = '9s'; \
    set idle_in_transaction_session_timeout = '10s'; \
    set enable_seqscan = off; set enable_mergejoin = off; set jit = off";

/// A commit is planned once: the plans for each batch's very arrays would be the same, and cost as much as the batch.
const COMMIT_SETTINGS: &str = "set plan_cache_mode = force_generic_plan";

/// A dump that was restored on another server holds transaction ids of the future: CDRs and changes that would not be
/// read, and sequences that would be given twice.
const RESTORED: &str = "
lock table settings in exclusive mode;
insert into settings (name, value)
select 'cdr_sequence_offset',
    (max(sequence) / 65536 + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint)::text
from cdrs having max(sequence) >= cdr_sequence(pg_snapshot_xmax(pg_current_snapshot()))
on conflict (name) do update set value = excluded.value;
update changes set transaction_id = pg_current_xact_id()
where transaction_id >= pg_snapshot_xmax(pg_current_snapshot())";

/// Pools on the hosts of a URL.
#[derive(Clone, Debug)]
pub(in crate::store) struct Postgres {
    hosts: Arc<Hosts>,
}

#[derive(Debug)]
struct Hosts {
    all: Vec<Host>,
    /// The session of the last commit, for the next one.
    kept: Mutex<Option<Kept>>,
    /// The one that took writes when last asked.
    current: AtomicUsize,
    in_doubt: AtomicBool,
    seen: Mutex<Seen>,
}

/// The server that took writes when last asked.
#[derive(Debug, Default)]
struct Seen {
    /// When its process started: no two have the same.
    started: String,
    /// How many there were.
    number: u64,
    /// When it took the place of another.
    since: Option<Instant>,
}

impl Seen {
    fn note(&mut self, started: String) {
        if started == self.started {
            return;
        }
        self.since = (self.number > 0).then(Instant::now);
        self.number += 1;
        self.started = started;
    }
}

#[derive(Debug)]
struct Host {
    options: PgConnectOptions,
    pool: PgPool,
}

impl Postgres {
    /// The first host that takes writes, as it is.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let all = one_host_each(url).iter().map(|url| Host::new(url)).collect::<Result<_, _>>()?;
        let hosts = Hosts {
            all,
            kept: Mutex::default(),
            current: AtomicUsize::new(0),
            in_doubt: AtomicBool::new(true),
            seen: Mutex::default(),
        };
        hosts.seek().await?;
        Ok(Self { hosts: Arc::new(hosts) })
    }

    /// The same, migrated.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let opened = Self::open(url).await?;
        let hosts = &opened.hosts;
        let host = &hosts.all[hosts.current.load(Ordering::Acquire)];
        let migration = tokio::time::timeout(MIGRATION_PATIENCE, host.migrate()).await;
        migration.unwrap_or_else(|_| {
            Err(StoreError::Unavailable("another node is migrating the database".to_owned()))
        })?;
        Ok(opened)
    }

    /// Counts servers.
    pub fn server_number(&self) -> u64 {
        self.hosts.seen().number
    }

    /// The present one took another's place less than so long ago.
    pub async fn is_new(&self, age: Duration) -> Result<bool, StoreError> {
        if self.hosts.in_doubt.load(Ordering::Acquire) {
            self.hosts.seek().await?;
        }
        Ok(self.hosts.seen().since.is_some_and(|since| since.elapsed() < age))
    }

    /// A session with the host that takes writes.
    pub async fn session(&self) -> Result<Session, StoreError> {
        if self.hosts.in_doubt.load(Ordering::Acquire) {
            self.hosts.seek().await?;
        }
        let current = self.hosts.current.load(Ordering::Acquire);
        let connection = self.hosts.all[current].pool.acquire().await.map(Connection::Pooled);
        self.begin(connection, current)
    }

    /// A session for a commit: the one before, if nothing went wrong since.
    pub async fn commit_session(&self) -> Result<Session, StoreError> {
        let kept = self.hosts.kept().take();
        if self.hosts.in_doubt.load(Ordering::Acquire) {
            self.hosts.seek().await?;
        }
        let current = self.hosts.current.load(Ordering::Acquire);
        let connection = match kept {
            Some(kept) if kept.host == current => Ok(kept.connection),
            Some(_) | None => self.hosts.all[current].connect().await,
        };
        self.begin(connection.map(|own| Connection::Own(Some(own))), current)
    }

    fn begin(
        &self,
        connection: Result<Connection, sqlx::Error>,
        host: usize,
    ) -> Result<Session, StoreError> {
        match connection {
            Ok(connection) => {
                let hosts = Arc::clone(&self.hosts);
                Ok(Session { connection, host, hosts, settled: false })
            }
            Err(error) => {
                self.hosts.doubt();
                Err(error.into())
            }
        }
    }
}

impl Host {
    fn new(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::Unavailable(format!("database URL: {error}")))?
            .application_name("holdfast");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SETTINGS).await.map(drop) })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { options, pool })
    }

    /// A connection for commits.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            connection.execute(SETTINGS).await?;
            connection.execute(COMMIT_SETTINGS).await?;
            Ok(connection)
        };
        let silent = |_| Err(sqlx::Error::PoolTimedOut);
        tokio::time::timeout(PATIENCE, connecting).await.unwrap_or_else(silent)
    }

    /// By a connection of its own: the pool would repeat what is refused until its time is over, and not say why.
    /// When the server started.
    async fn probe(&self, patience: Duration) -> Result<String, StoreError> {
        let probe = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            check_writable(&mut connection).await?;
            let started = sqlx::query_scalar("select pg_postmaster_start_time()::text");
            let started = started.fetch_one(&mut connection).await?;
            let _ = connection.close().await;
            Ok(started)
        };
        let probed = tokio::time::timeout(patience, probe).await;
        let silent = || StoreError::Unavailable(format!("{} is silent", self.options.get_host()));
        probed.unwrap_or_else(|_| Err(silent()))
    }

    /// On a connection without the deadlines of ours: a step may have much to do.
    async fn migrate(&self) -> Result<(), StoreError> {
        let migrator = migrations::postgres();
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let found = sqlx::query_scalar("select max(version) from _sqlx_migrations");
        let found = migrations::found(found.fetch_one(&mut connection).await)?;
        let needs = sqlx::query_scalar(migrations::NEEDS);
        let needs = match found {
            Some(_) => needs.fetch_optional(&mut connection).await?,
            None => None,
        };
        migrations::check(found, needs, &migrator)?;
        let done = migrator.run(&mut connection).await;
        done.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        connection.execute(RESTORED).await?;
        let _ = connection.close().await;
        Ok(())
    }
}

impl Hosts {
    /// Finds the host that takes writes, beginning with the one that did.
    async fn seek(&self) -> Result<(), StoreError> {
        let first = self.current.load(Ordering::Acquire);
        let count = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let mut why = StoreError::Unavailable("the database URL names no host".into());
        for step in 0..self.all.len() {
            let index = (first + step) % self.all.len();
            let host = &self.all[index];
            match host.probe(PATIENCE / count).await {
                Ok(started) => {
                    self.seen().note(started);
                    self.current.store(index, Ordering::Release);
                    self.in_doubt.store(false, Ordering::Release);
                    if step > 0 {
                        tracing::warn!("the database is at {} now", host.options.get_host());
                    }
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in it is ever half-written.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong: no idle connection is trusted any more.
    fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Release);
        *self.kept() = None;
        for host in &self.all {
            while let Some(mut idle) = host.pool.try_acquire() {
                idle.close_on_drop();
            }
        }
    }
}

/// A connection between two commits, and with whom.
#[derive(Debug)]
struct Kept {
    connection: PgConnection,
    host: usize,
}

/// Whose a connection is when the work is done.
pub(super) enum Connection {
    Pooled(PoolConnection<sqlx::Postgres>),
    /// Given away when the session is dropped, and not before.
    Own(Option<PgConnection>),
}

const GIVEN: &str = "a session that is used has its connection";

impl Deref for Connection {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection.as_ref().expect(GIVEN),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection.as_mut().expect(GIVEN),
        }
    }
}

/// A connection for one piece of work.
pub(in crate::store) struct Session {
    pub(super) connection: Connection,
    host: usize,
    hosts: Arc<Hosts>,
    settled: bool,
}

impl Session {
    /// What came of it. Not told at all when the work was given up: then a statement may still be under way.
    pub fn settle<T>(&mut self, result: &Result<T, StoreError>) {
        self.settled = !matches!(result, Err(StoreError::Unavailable(_)));
    }

    pub(super) async fn check_writable(&mut self) -> Result<(), StoreError> {
        check_writable(&mut self.connection).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match &mut self.connection {
            Connection::Own(own) if self.settled => {
                let host = self.host;
                *self.hosts.kept() = own.take().map(|connection| Kept { connection, host });
            }
            Connection::Pooled(pooled) if !self.settled => pooled.close_on_drop(),
            Connection::Own(_) | Connection::Pooled(_) => {}
        }
        if !self.settled {
            self.hosts.doubt();
        }
    }
}

async fn check_writable(connection: &mut PgConnection) -> Result<(), StoreError> {
    let read_only: String =
        sqlx::query_scalar("show transaction_read_only").fetch_one(connection).await?;
    if read_only == "on" {
        let why = "the database takes no writes (a replica?)";
        return Err(StoreError::Unavailable(why.to_owned()));
    }
    Ok(())
}

/// `postgres://u:p@h1:1,h2:2/db` as one URL a host.
fn one_host_each(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

#[cfg(test)]
mod tests {
    use super::one_host_each;

    #[test]
    fn several_hosts() {
        for (url, expect) in [
            (
                "postgres://u:p@h1:1,h2/db?x=1",
                vec!["postgres://u:p@h1:1/db?x=1", "postgres://u:p@h2/db?x=1"],
            ),
            ("postgres://h/db", vec!["postgres://h/db"]),
            ("postgres:///db?host=/tmp", vec!["postgres:///db?host=/tmp"]),
        ] {
            assert_eq!(one_host_each(url), expect);
        }
    }
}
