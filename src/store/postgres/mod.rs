//! PostgreSQL behind the door.

mod calls;
mod cdrs;
mod directory;
mod ownership;

use super::rows::{control_text, node, signed};
use super::{NodeRow, StoreError, migrations};
use core::str::FromStr;
use core::time::Duration;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// Connections of a process; one commit is in flight at a time, the rest are reads.
const CONNECTIONS: u32 = 6;

/// A pool on the host that takes writes.
#[derive(Clone, Debug)]
pub(super) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Tries each host of the URL in turn for one that takes writes, and migrates it.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let mut last = StoreError::Unavailable("the database URL names no host".into());
        for url in one_host_each(url) {
            match Self::connect_one(&url).await {
                Ok(store) => return Ok(store),
                Err(newer @ StoreError::NewerSchema { .. }) => return Err(newer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_one(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::Unavailable(format!("database URL: {error}")))?
            .application_name("holdfast");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(3))
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        let read_only: String =
            sqlx::query_scalar("show transaction_read_only").fetch_one(&pool).await?;
        if read_only == "on" {
            return Err(StoreError::Unavailable(
                "the database takes no writes (a replica?)".into(),
            ));
        }
        migrate(&pool).await?;
        Ok(Self { pool })
    }

    pub async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        sqlx::query(
            "insert into nodes (name, incarnation, mode, control, seen_at, view)
             values ($1, $2, $3, array[$4], (extract(epoch from clock_timestamp()) * 1e6)::bigint, $5)
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
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query_as(
            "select name, incarnation, mode, array_to_string(control, ' '), seen_at, view
             from nodes order by name",
        );
        Ok(rows.fetch_all(&self.pool).await?.into_iter().map(node).collect())
    }

    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("select value from settings where name = $1").bind(name);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    pub async fn setting_or_insert(&self, name: &str, value: &str) -> Result<String, StoreError> {
        sqlx::query("insert into settings (name, value) values ($1, $2) on conflict do nothing")
            .bind(name)
            .bind(value)
            .execute(&self.pool)
            .await?;
        let stored = self.setting(name).await?;
        stored.ok_or_else(|| StoreError::Corrupt(format!("setting {name} vanished")))
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        let read_only: String =
            sqlx::query_scalar("show transaction_read_only").fetch_one(&self.pool).await?;
        if read_only == "on" {
            return Err(StoreError::Unavailable("the database takes no writes".into()));
        }
        Ok(())
    }
}

async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let migrator = migrations::postgres();
    migrations::check(
        sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(pool).await,
        &migrator,
    )?;
    migrator.run(pool).await.map_err(|error| StoreError::Unavailable(error.to_string()))
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
