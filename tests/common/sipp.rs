//! SIPp with our own scenarios (`tests/peers/scenarios`): the second make of peer, and the strictest about sequences.

use super::process::{Folder, Process};
use super::{SOON, eventually, ports};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Patience with one run.
const PATIENCE_S: u64 = 25;

/// What a run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    /// File name without `.xml`.
    pub(crate) scenario: &'a str,
    pub(crate) remote: SocketAddr,
    /// Its own; none: a free one.
    pub(crate) port: Option<u16>,
    /// `u1` UDP, `t1` TCP.
    pub(crate) transport: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// Whom it calls.
    pub(crate) callee: &'a str,
}

/// A running SIPp.
pub(crate) struct Sipp {
    process: Process,
    folder: Folder,
    pub(crate) port: u16,
}

impl Sipp {
    pub(crate) fn start(settings: &Settings<'_>) -> Self {
        let folder = Folder::new(settings.scenario);
        let port = settings.port.unwrap_or_else(ports::port);
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers/scenarios")
            .join(settings.scenario)
            .with_extension("xml");
        let mut command = Command::new("sipp");
        command
            .arg(settings.remote.to_string())
            .arg("-sf")
            .arg(scenario)
            .args(["-i", "127.0.0.1", "-p", &port.to_string(), "-t", settings.transport])
            .args(["-s", settings.callee, "-au", settings.user, "-ap", settings.password])
            .args(["-key", "user", settings.user, "-m", "1", "-l", "1", "-nostdin", "-rtp_echo"])
            .args(["-mp", &ports::port().to_string()])
            .args(["-timeout", &format!("{PATIENCE_S}s"), "-timeout_error"])
            .args(["-trace_err", "-error_file", "errors"])
            .args(["-trace_msg", "-message_file", "messages"])
            .current_dir(folder.path());
        let name = format!("sipp {}", settings.scenario);
        let mut process = Process::start(&name, &mut command, folder.file("log"), "sip-tester");
        let protocol = if settings.transport.starts_with('t') { "tcp" } else { "udp" };
        eventually("sipp opens its port", SOON, || {
            (ports::is_taken(port, protocol) || !process.is_running()).then_some(())
        });
        Self { process, folder, port }
    }

    /// Runs it to its end, which must be a good one.
    pub(crate) fn run(settings: &Settings<'_>) {
        Self::start(settings).succeeds();
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn succeeds(mut self) {
        let status = self.process.finish(Duration::from_secs(PATIENCE_S + 5));
        let told = |name| std::fs::read_to_string(self.folder.file(name)).unwrap_or_default();
        assert!(status.success(), "{status}\n{}\n{}", told("errors"), told("messages"));
    }
}
