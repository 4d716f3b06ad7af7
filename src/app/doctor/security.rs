//! Doors that stand open.

use super::{Finding, Patient};
use crate::app::config::Secret;

/// Not told by a start: who starts it by hand as root knows.
pub(super) fn user() -> Finding {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Finding::ok("user", format!("runs as user {user}"));
    }
    let detail = "runs as root: whoever finds a hole in it has the machine";
    let fix = "a user of its own, as the image has (10001:10001); no port below 1024 is needed";
    Finding::warn("user", detail, fix)
}

/// Below this a secret is found by trying.
const SECRET_CHARACTERS: usize = 16;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let config = patient.config;
    let mut findings = Vec::new();
    if config.mode.has_signaling() {
        findings.push(admin(patient));
        findings.push(secret("admin_token", config.admin.token.iter().collect()));
    }
    findings.push(secret("cluster_secret", config.cluster_secrets.iter().collect()));
    findings
}

fn admin(patient: &Patient<'_>) -> Finding {
    let bind = patient.config.admin.bind;
    if bind.ip().is_loopback() {
        return Finding::ok("admin_bind", format!("{bind}, this machine only"));
    }
    let detail = format!(
        "{bind}: the REST API speaks HTTP without TLS to the network; its token can be read \
        on the way"
    );
    let fix = "admin_bind = 127.0.0.1:8080, with a TLS proxy or an SSH tunnel in front of it";
    Finding::warn("admin_bind", detail, fix)
}

fn secret(key: &'static str, given: Vec<&Secret>) -> Finding {
    if given.is_empty() {
        return Finding::ok(key, "generated, in the data directory");
    }
    if given.iter().all(|one| one.expose().len() >= SECRET_CHARACTERS) {
        return Finding::ok(key, "given, long enough");
    }
    let detail = format!(
        "shorter than {SECRET_CHARACTERS} characters: it can be found by \
    trying"
    );
    Finding::warn(
        key,
        detail,
        format!("leave {key} unset, then a strong one is made; or `openssl rand -hex 32`"),
    )
}
