//! `holdfast serve --replace`: this process starts beside the one that runs, and as soon as it can take over that one
//! is told to stop. What a stop with manners does is all that is needed: sessions and calls go to who is there.
//!
//! Invariant: nobody is told to stop before this process stands where the other stood: linked, and ready.

use super::config::Config;
use super::data_dir::{DataDir, Holder, pid_namespace};
use super::mode::Halves;
use crate::operator::{Command, Operator, Readiness};
use core::time::Duration;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

/// The successor is waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Who is to be replaced: the process of that mode that has the lowest slot.
pub(super) fn predecessor(config: &Config) -> Result<Option<Holder>, String> {
    let holders = DataDir::holders(&config.data_dir);
    let Some(found) = holders.into_iter().find(|holder| holder.mode == config.mode.name()) else {
        return Ok(None);
    };
    if config.mode.has_signaling() && config.database_url.expose().starts_with("sqlite:") {
        return Err(format!(
            "{} (process {}) cannot be replaced while it runs: SQLite serves one signaling \
             process; stop that one, then start this one without --replace: its calls are kept, \
             and those whose phones still send go on; with a postgres:// database_url a \
             successor starts beside it",
            found.name, found.pid
        ));
    }
    if found.pid_namespace != pid_namespace() {
        return Err(format!(
            "{} runs in another container: start a second one beside it and stop it there",
            found.name
        ));
    }
    Ok(Some(found))
}

/// Tells it to stop when we can take over, and waits for its end.
pub(super) async fn take_over(
    data_dir: &Path,
    from: Holder,
    halves: &Halves,
    operator: Option<Operator>,
) {
    let stands = async {
        while !(halves.media_is_linked() && is_ready(operator.as_ref(), &from).await) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(PATIENCE, stands).await.is_err() {
        tracing::error!("{} goes on: this process cannot take its place yet", from.name);
        return;
    }
    let pid = i32::try_from(from.pid).map(Pid::from_raw);
    if let Err(error) = pid.map(|pid| kill(pid, Signal::SIGTERM)) {
        tracing::error!("{} cannot be told to stop: {error}", from.name);
        return;
    }
    while DataDir::holders(data_dir).contains(&from) {
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!("{} is over: this process has taken its place", from.name);
}

/// Calls can be given to us: we are ready, and linked with who gives them.
async fn is_ready(operator: Option<&Operator>, from: &Holder) -> bool {
    let Some(operator) = operator else { return true };
    let ready = operator.ask(Command::Readiness).await;
    let nodes = operator.ask(Command::Nodes).await.unwrap_or_default();
    let mut links = nodes.iter().flat_map(|node| &node.links);
    matches!(ready, Ok(Readiness::Ready | Readiness::Degraded(_)))
        && links.any(|link| link.peer == from.name && link.state == "up")
}
