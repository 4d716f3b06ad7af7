//! Composition root: settings, first start, halves, shutdown.
//!
//! Invariant: `holdfast serve` either runs or says in one message all that is wrong and what helps.

mod backup;
pub mod config;
pub mod data_dir;
pub mod doctor;
pub mod first_start;
pub mod host;
pub mod mode;
mod reload;
mod replace;
mod serve;
pub mod settings;

pub use backup::{Counts, backup, restore};
pub use serve::serve;

use config::{ClientSettings, Config};
use data_dir::{DataDir, DataDirError};
use first_start::Credentials;
use host::Host;
use std::path::{Path, PathBuf};

/// Exit codes that scripts and supervisors rely on (`sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Failed.
    Failed = 1,
    /// Wrong use or configuration.
    Usage = 64,
    /// The node cannot be reached.
    Unreachable = 69,
    /// Try again later.
    TryAgain = 75,
}

impl core::fmt::Display for Exit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "exit code {}", *self as u8)
    }
}

impl core::error::Error for Exit {}

impl Exit {
    /// What a supervisor or script is to make of an error.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<DataDirError>() {
            Some(DataDirError::Busy { .. }) => Self::TryAgain,
            Some(DataDirError::Unusable { .. }) => Self::Usage,
            None if error.is::<config::Mistakes>() => Self::Usage,
            None => error.downcast_ref::<Self>().copied().unwrap_or(Self::Failed),
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What `holdfast serve` was told.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--mode`.
    pub mode: Option<String>,
    /// `--replace`.
    pub replace: bool,
}

impl ServeOptions {
    fn load(&self) -> Result<(Config, Host), config::Mistakes> {
        let flags = self.mode.iter().map(|mode| ("mode", mode.clone())).collect();
        let host = Host::of_this_process();
        let sources = config::sources(self.config.as_deref(), flags)?;
        Ok((Config::load(&sources, &host)?, host))
    }
}

/// `holdfast config show`: effective values and their origins.
pub fn config_show(options: &ServeOptions, json: bool) -> Result<String, config::Mistakes> {
    let (config, _) = options.load()?;
    if json {
        return Ok(serde_json::to_string_pretty(&config.effective).unwrap_or_default());
    }
    let line = |one: &config::Effective| format!("{:20} {:32} {}", one.key, one.value, one.origin);
    Ok(config.effective.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// `holdfast doctor`: the report as text or JSON, and the exit code.
pub fn doctor(
    options: &ServeOptions,
    echo: &[String],
    json: bool,
) -> Result<(String, Exit), config::Mistakes> {
    let (config, host) = options.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| config::Mistakes(vec![error.to_string()]))?;
    let report = runtime.block_on(doctor::examine(&config, &host, echo));
    let exit = if report.status == doctor::Status::Fail { Exit::Failed } else { Exit::Success };
    let text = match json {
        true => serde_json::to_string_pretty(&report).unwrap_or_default(),
        false => report.text(),
    };
    Ok((text, exit))
}

/// What a command that talks to a node knows before it asks.
#[derive(Clone, Debug)]
pub struct ClientContext {
    /// From the environment and the settings file.
    pub settings: ClientSettings,
    /// From the data directory.
    pub credentials: Option<Credentials>,
    /// Where the live processes of this container, or of this machine, tell their health: a socket of that process
    /// alone (not in older releases), and an address that others may share.
    pub health: Vec<(Option<PathBuf>, String)>,
    /// Sockets of those of them that answer for the cluster.
    pub sockets: Vec<PathBuf>,
}

/// Reads settings and data directory for a client.
pub fn client_context(file: Option<&Path>) -> anyhow::Result<ClientContext> {
    let sources = config::sources(file, Vec::new())?;
    let settings = config::client_settings(&sources);
    let mut holders = DataDir::holders_here(&settings.data_dir);
    holders.retain(|holder| settings.node.as_ref().is_none_or(|node| *node == holder.name));
    let answer = holders.iter().filter(|holder| holder.mode != "media");
    let sockets =
        answer.filter_map(|holder| DataDir::own_socket(&settings.data_dir, holder)).collect();
    let health = holders
        .into_iter()
        .map(|holder| (DataDir::own_socket(&settings.data_dir, &holder), holder.admin_url))
        .collect();
    let credentials = Credentials::read(&settings.data_dir)?;
    Ok(ClientContext { settings, credentials, health, sockets })
}
