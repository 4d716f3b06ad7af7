//! The database: reached, writable, of a schema this release knows, with a clock like ours; and the nodes it names.

use super::{Finding, Patient};
use crate::directory::User;
use crate::net::clock;
use crate::sip::digest::Ha1;
use crate::store::{NodeRow, Store, StoreError};
use crate::time::Timestamp;
use core::time::Duration;
use serde_json::Value;

const SLOW: Duration = Duration::from_millis(50);
/// Nonces and CDRs of two nodes must fit together.
const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// A node that wrote its row so long ago is not counted.
const RECENT: Duration = Duration::from_secs(10);

/// Findings, and the nodes that live.
pub(super) async fn check(patient: &Patient<'_>) -> (Vec<Finding>, Vec<NodeRow>) {
    match look(patient).await {
        Ok(found) => found,
        Err(error @ StoreError::NewerSchema { .. }) => {
            let fix = "start the newer release";
            (vec![Finding::fail("database", error.to_string(), fix)], Vec::new())
        }
        Err(error) => {
            let fix = "start the database; look at host, user, password and name in \
            database_url; of several hosts one must take writes";
            (vec![Finding::fail("database", error.to_string(), fix)], Vec::new())
        }
    }
}

async fn look(patient: &Patient<'_>) -> Result<(Vec<Finding>, Vec<NodeRow>), StoreError> {
    let Some(store) = Store::open(patient.config.database_url.expose()).await? else {
        let detail = "reached, without tables: the first start makes them";
        return Ok((vec![Finding::ok("database", detail)], Vec::new()));
    };
    let begun = clock::now();
    store.ping().await?;
    let round_trip = clock::now().saturating_since(begun);
    let (theirs, ours) = (store.clock().await?, clock::now());
    let realm = store.setting("sip_realm").await?;
    let realm = realm.as_deref().unwrap_or(&patient.config.sip.realm);
    let mut nodes = store.nodes().await?;
    nodes.retain(|node| theirs.saturating_since(node.seen_at) < RECENT);
    let mut findings = vec![
        reached(round_trip),
        schema(store.schema().await?, Store::known_schema(), store.is_known().await?),
        clocks(ours, theirs),
        versions(&nodes),
    ];
    if !patient.by_start {
        findings.push(passwords(&store.users().await?, realm));
    }
    Ok((findings, nodes))
}

fn reached(round_trip: Duration) -> Finding {
    let ms = round_trip.as_secs_f64() * 1_000.0;
    let detail = format!("takes writes; a question takes {ms:.1} ms");
    if round_trip < SLOW {
        return Finding::ok("database", detail);
    }
    let detail = format!("{detail}: every new call waits for it");
    Finding::warn("database", detail, "a database that is nearer, or has less to do")
}

fn schema(found: Option<i64>, known: i64, runs: bool) -> Finding {
    let found = found.unwrap_or(0);
    let detail = format!("version {found}, this release knows {known}");
    if !runs {
        return Finding::fail("schema", detail, "start the newer release");
    }
    Finding::ok("schema", detail)
}

fn clocks(ours: Timestamp, theirs: Timestamp) -> Finding {
    let apart = ours.saturating_since(theirs).max(theirs.saturating_since(ours));
    let detail = format!("{} ms from the database's", apart.as_millis());
    if apart < CLOCK_SKEW {
        return Finding::ok("clock", detail);
    }
    let detail = format!("{detail}: times of calls and nonces of passwords do not fit together");
    let fix = "run a time daemon (chrony, systemd-timesyncd) on both machines";
    Finding::warn("clock", detail, fix)
}

fn versions(nodes: &[NodeRow]) -> Finding {
    let mut versions: Vec<String> = Vec::new();
    for node in nodes {
        let view: Value = serde_json::from_str(&node.view).unwrap_or_default();
        let version = view.get("version").and_then(Value::as_str).unwrap_or("?").to_owned();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let detail = format!("{} live, release {}", nodes.len(), versions.join(" and "));
    match versions.len() {
        0 => Finding::ok("nodes", "none live"),
        1 => Finding::ok("nodes", detail),
        _ => {
            let detail = format!("{detail}: fine during an upgrade, not for long");
            Finding::warn("nodes", detail, "bring all nodes to one release")
        }
    }
}

/// What attackers try first of what the rules for passwords let through.
fn passwords(users: &[User], realm: &str) -> Finding {
    const TRIED: [&str; 8] = [
        "12345678",
        "123456789",
        "1234567890",
        "password",
        "password1",
        "passw0rd",
        "holdfast",
        "changeme",
    ];
    let is_weak = |user: &&User| {
        TRIED.iter().any(|password| Ha1::new(&user.extension, realm, password) == user.ha1)
    };
    let weak: Vec<&str> =
        users.iter().filter(is_weak).map(|user| user.extension.as_str()).take(10).collect();
    let Some(first) = weak.first() else {
        let detail = format!("none of {} users has one that attackers try first", users.len());
        return Finding::ok("passwords", detail);
    };
    let detail = format!("users with a password that attackers try first: {}", weak.join(" "));
    Finding::fail("passwords", detail, format!("holdfast users set {first} --password …"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Status;
    use crate::ids::{Incarnation, NodeName};

    fn node(version: &str) -> NodeRow {
        NodeRow {
            name: NodeName(version.into()),
            incarnation: Incarnation(1),
            mode: "signaling".to_owned(),
            control: Vec::new(),
            seen_at: Timestamp::EPOCH,
            view: format!("{{\"version\":\"{version}\"}}"),
        }
    }

    #[test]
    fn a_database_far_away_of_another_time_or_release_is_told() {
        let now = Timestamp::EPOCH + Duration::from_secs(100);
        let apart = now + Duration::from_millis(2_500);
        for (finding, status) in [
            (reached(Duration::from_millis(2)), Status::Ok),
            (reached(Duration::from_millis(80)), Status::Warn),
            (clocks(now, now), Status::Ok),
            (clocks(now, apart), Status::Warn),
            (clocks(apart, now), Status::Warn),
            (schema(Some(7), 7, true), Status::Ok),
            (schema(Some(9), 7, true), Status::Ok),
            (schema(Some(9), 7, false), Status::Fail),
            (versions(&[]), Status::Ok),
            (versions(&[node("0.1.0"), node("0.1.0")]), Status::Ok),
            (versions(&[node("0.1.0"), node("0.2.0")]), Status::Warn),
        ] {
            assert_eq!(finding.status, status, "{finding:?}");
            assert_eq!(finding.fix.is_some(), status != Status::Ok, "{finding:?}");
        }
    }
}
