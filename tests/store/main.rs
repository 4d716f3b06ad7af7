//! One conformance suite for the store, run against SQLite and against a PostgreSQL of our own; then what only one of
//! them can do wrong: hosts in turn, outages, what a statement costs.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;

/// Makes two tests of each function: one a back end, each with a database of its own.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&crate::database::Database::sqlite()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&crate::database::Database::postgres().await).await;
                }
            )+
        }
    };
}

/// What repeated requests were answered.
mod answers;
/// The audit log.
mod audit;
/// A row that the database refuses harms no other.
mod bad_rows;
/// Saves of calls: fences, keys, ends, tombstones.
mod calls;
/// Call detail records by filter and by cursor.
mod cdrs;
/// Nodes, settings, the schema's version.
mod cluster;
/// What statements cost PostgreSQL.
mod cost;
/// A fresh database of either kind.
mod database;
/// Events with what they tell of.
mod events;
/// The change feed.
mod feed;
/// Several hosts in one URL.
mod hosts;
/// What a journal kept, replayed.
mod journal;
/// The simulator's store beside the real one.
mod model;
/// The store away and back.
mod outage;
/// Claims of a dead owner's calls.
mod ownership;
/// Two nodes at once.
mod races;
/// Calls, users, bindings as they look.
mod samples;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "../common/store_model.rs"]
mod store_model;
/// Users and bindings.
mod users;
/// Webhooks, what they are owed, and whose duty that is.
mod webhooks;
