//! `holdfast doctor`: what of this machine or of the settings would spoil calls, each with its cause and the exact fix.
//!
//! Where to read: `system` (what is asked of the kernel), then a file for each kind of question. A start tells what is
//! not well too: before it binds what the kernel and the settings say, and once calls can be made what takes a moment.
//!
//! Invariants: a check changes nothing but for the folders that a start makes too; what cannot be looked at is told as
//! such, never as "ok"; whatever is not ok comes with what to do; every check ends within seconds.

mod addresses;
mod database;
mod echo;
mod kernel;
mod network;
mod ports;
mod reach;
mod security;
mod storage;
mod system;

use super::config::Config;
use super::data_dir::{DataDir, Holder};
use super::host::Host;
use serde::Serialize;
use system::System;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Calls may suffer.
    Warn,
    /// Calls will fail.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How bad.
    pub status: Status,
    /// What was seen, and what it leads to.
    pub detail: String,
    /// What to do; null when all is well.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), fix: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// All findings; the worst decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of the worst finding.
    pub status: Status,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.status).max();
        Self { status: worst.unwrap_or(Status::Ok), findings }
    }

    /// A line a finding, the fix below it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let word = match finding.status {
                Status::Ok => "OK  ",
                Status::Warn => "WARN",
                Status::Fail => "FAIL",
            };
            text += &format!("{word}  {:16} {}\n", finding.check, finding.detail);
            if let Some(fix) = &finding.fix {
                text += &format!("{:23}fix: {fix}\n", "");
            }
        }
        let count = |status| self.findings.iter().filter(|one| one.status == status).count();
        let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
        text + &format!("{ok} ok, {warn} warnings, {fail} failures")
    }
}

/// What is examined.
struct Patient<'a> {
    config: &'a Config,
    host: &'a Host,
    system: System,
    /// Holdfast's own live processes on this data directory.
    holders: Vec<Holder>,
    /// By a start, which looks at nothing that grows with the number of users.
    by_start: bool,
}

/// All checks. `echo`: where other hosts take SIP, beside those that are known.
pub async fn examine(config: &Config, host: &Host, echo: &[String]) -> Report {
    let patient = Patient {
        config,
        host,
        system: System::default(),
        holders: DataDir::holders(&config.data_dir),
        by_start: false,
    };
    let mut findings = before_start(&patient);
    findings.extend(ports::check(&patient));
    findings.extend(storage::check(&patient));
    findings.extend(kernel::unread(&patient));
    findings.push(security::user());
    findings.push(kernel::timer(&patient));
    findings.extend(reach::check(&patient).await);
    let mut peers = Vec::new();
    if config.mode.has_signaling() {
        let (found, nodes) = database::check(&patient).await;
        findings.extend(found);
        peers = nodes;
    }
    findings.extend(echo::check(&patient, &peers, echo).await);
    Report::of(findings)
}

/// For the log of a start: which addresses phones are told and why, and what the start does not find out by itself and
/// is not well.
pub fn at_start(config: &Config, host: &Host) {
    let (system, holders) = (System::default(), Vec::new());
    let patient = Patient { config, host, system, holders, by_start: true };
    for finding in addresses::check(&patient).iter().filter(|one| one.status == Status::Ok) {
        tracing::info!("{}: {}", finding.check, finding.detail);
    }
    tell(&before_start(&patient));
}

/// Once calls can be made: names, the SIP port, room on the disk, the database. On a thread of its own, which ends with
/// the process: nobody waits for it.
pub fn after_start(config: &Config, host: &Host) {
    let (config, host) = (config.clone(), host.clone());
    let looks = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => tell(&runtime.block_on(of_a_node_that_runs(&config, &host))),
            Err(error) => tracing::warn!("what this start is like cannot be looked at: {error}"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".to_owned()).spawn(looks) {
        tracing::warn!("what this start is like cannot be looked at: {error}");
    }
}

async fn of_a_node_that_runs(config: &Config, host: &Host) -> Vec<Finding> {
    let holders = DataDir::holders(&config.data_dir);
    let patient = Patient { config, host, system: System::default(), holders, by_start: true };
    let mut findings = vec![storage::room(&patient)];
    findings.extend(reach::check(&patient).await);
    if config.mode.has_signaling() {
        findings.extend(database::check(&patient).await.0);
    }
    findings
}

fn tell(findings: &[Finding]) {
    for finding in findings.iter().filter(|finding| finding.status != Status::Ok) {
        let fix = finding.fix.as_deref().unwrap_or_default();
        tracing::warn!("{}: {}; fix: {fix}", finding.check, finding.detail);
    }
}

fn before_start(patient: &Patient<'_>) -> Vec<Finding> {
    let mut findings = addresses::check(patient);
    findings.extend(network::check(patient));
    findings.extend(kernel::check(patient));
    findings.extend(security::check(patient));
    findings
}

#[cfg(test)]
mod tests;
