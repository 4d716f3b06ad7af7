//! The schema's steps, embedded from `migrations/`: two folders, the same numbers. Steps are expand/contract: a release
//! runs on whatever later ones added. One that takes away what the release before it does not use any more writes into
//! the setting `schema_needs` how many steps who runs on it must know, and older ones do not touch such a schema.

use super::StoreError;
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Steps for PostgreSQL.
pub(super) fn postgres() -> Migrator {
    migrator(&[
        (1, "first", include_str!("../../migrations/postgres/0001_first.sql")),
        (2, "claims", include_str!("../../migrations/postgres/0002_claims.sql")),
        (3, "events", include_str!("../../migrations/postgres/0003_events.sql")),
        (4, "tokens", include_str!("../../migrations/postgres/0004_tokens.sql")),
        (5, "webhooks", include_str!("../../migrations/postgres/0005_webhooks.sql")),
        (6, "positions", include_str!("../../migrations/postgres/0006_positions.sql")),
        (7, "answers", include_str!("../../migrations/postgres/0007_answers.sql")),
        (8, "flags", include_str!("../../migrations/postgres/0008_flags.sql")),
    ])
}

/// Steps for SQLite.
pub(super) fn sqlite() -> Migrator {
    migrator(&[
        (1, "first", include_str!("../../migrations/sqlite/0001_first.sql")),
        (2, "claims", include_str!("../../migrations/sqlite/0002_claims.sql")),
        (3, "events", include_str!("../../migrations/sqlite/0003_events.sql")),
        (4, "tokens", include_str!("../../migrations/sqlite/0004_tokens.sql")),
        (5, "webhooks", include_str!("../../migrations/sqlite/0005_webhooks.sql")),
        (6, "positions", include_str!("../../migrations/sqlite/0006_positions.sql")),
        (7, "answers", include_str!("../../migrations/sqlite/0007_answers.sql")),
        (8, "flags", include_str!("../../migrations/sqlite/0008_flags.sql")),
    ])
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let steps = steps.iter().map(|(version, name, sql)| {
        let (kind, sql) = (MigrationType::Simple, (*sql).into_sql_str());
        Migration::new(*version, (*name).into(), kind, sql, false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    // Steps of the next release may be there already during a rolling upgrade, and after a roll back; `check` refuses
    // what is too new.
    migrator.set_ignore_missing(true);
    migrator
}

/// How many steps who runs on the schema must know; no row: any of them.
pub(super) const NEEDS: &str = "select value from settings where name = 'schema_needs'";

/// Refuses a schema that needs a newer release than this one.
pub(super) fn check(
    found: Option<i64>,
    needs: Option<String>,
    migrator: &Migrator,
) -> Result<(), StoreError> {
    let known = known(migrator);
    // What cannot be read is a later release's.
    let needs = needs.map_or(0, |text| text.parse().unwrap_or(i64::MAX));
    match found {
        Some(found) if needs > known => Err(StoreError::NewerSchema { found, known }),
        Some(_) | None => Ok(()),
    }
}

/// Version of a schema; none when there are no tables yet.
pub(super) fn found(asked: Result<Option<i64>, sqlx::Error>) -> Result<Option<i64>, StoreError> {
    match asked {
        Ok(found) => Ok(found),
        Err(sqlx::Error::Database(error)) if is_no_table(&*error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The version that this release makes.
pub(super) fn known(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn is_no_table(error: &dyn sqlx::error::DatabaseError) -> bool {
    // SQLite has one code for all that is wrong with a statement.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}
