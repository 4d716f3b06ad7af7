//! Settings as types: parsed once, all mistakes together, and shown with their origins.
//!
//! Invariant: the only reader of the environment (`contract.md` names every setting). A value that
//! parses is a value that works: ranges, names and addresses are checked here and nowhere else.

use super::host::Host;
use super::mode::Mode;
use super::settings::{self, Origin, SETTINGS, Sources, Values, is_secret};
use crate::capture::HepConfig;
use crate::operator::Tuning;
use crate::sip::address::{Advertise, Network};
use crate::telemetry::{LogConfig, LogFormat, Personal};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod parse;

/// What a process is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which halves.
    pub mode: Mode,
    /// `HOLDFAST_NODE`; without it host name and slot.
    pub node_name: Option<String>,
    /// Slots, journal, SQLite, credentials; shared by the processes of a host.
    pub data_dir: PathBuf,
    /// Where calls are kept.
    pub database_url: Secret,
    /// Current first; empty: the one in the data directory.
    pub cluster_secrets: Vec<Secret>,
    /// Signaling.
    pub sip: SipConfig,
    /// Media.
    pub media: MediaConfig,
    /// Where control connections are taken; when taken, the next free port up to 7089.
    pub control_bind: SocketAddr,
    /// Where a media node announces itself: names or addresses, port optional.
    pub join: Vec<String>,
    /// REST API and health.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
    /// A drain without a peer to hand over to.
    pub drain_timeout: Duration,
    /// Ownership without renewal.
    pub lease: Duration,
    /// How long the signaling of a call is kept.
    pub ladder_life: Duration,
    /// How much of it at most, by the processes of a host together; 0: none.
    pub ladder_bytes: u64,
    /// Unanswered re-INVITEs at a time.
    pub reanchor_window: u32,
    /// The HEP collector that is told of signaling and media.
    pub hep: Option<HepConfig>,
    /// Where traces of calls are posted to.
    pub otlp_endpoint: Option<String>,
    /// Sent with them.
    pub otlp_headers: Vec<(String, Secret)>,
    /// Where no webhook leads.
    pub webhook_denied_nets: Arc<[Network]>,
    /// Settings in the file that this mode does not serve: worth a line at start.
    pub notes: Vec<String>,
    /// Effective values with their origins, secrets masked.
    pub effective: Vec<Effective>,
}

/// Of a signaling node.
#[derive(Clone, Debug)]
pub struct SipConfig {
    /// UDP and TCP.
    pub bind: Vec<SocketAddr>,
    /// What we say of ourselves.
    pub advertise: Advertise,
    /// Digest realm of the cluster.
    pub realm: String,
    /// The realm was chosen by the operator.
    pub realm_given: bool,
    /// Unanswered INVITE.
    pub ring_timeout: Duration,
    /// A sending leg without RTP.
    pub rtp_timeout: Duration,
    /// Longest registration.
    pub registration_max: Duration,
    /// Bindings a user.
    pub max_contacts: usize,
    /// Never shed, first to be moved.
    pub emergency_numbers: Vec<String>,
}

/// Of a media node.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// Address of the sockets.
    pub bind: IpAddr,
    /// Name or address for the SDP towards peers that are not local.
    pub advertise: Option<Arc<str>>,
    /// Peers there never get the public address.
    pub local_nets: Arc<[Network]>,
    /// RTP and RTCP ports.
    pub ports: PortRange,
    /// Most sessions; without it from ports and cores.
    pub max_calls: Option<u32>,
    /// Real-time priority of packet workers; 0: none.
    pub priority: u8,
    /// The kernel passes on packets by itself, where it is let.
    pub offload: bool,
}

/// `first-last` or `first-last/size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// The range is cut into slices of so many ports, one a process.
    pub slice: Option<u16>,
}

impl PortRange {
    /// Ports that one process has at most.
    pub fn size(&self) -> u32 {
        let all = u32::from(self.last) - u32::from(self.first) + 1;
        self.slice.map_or(all, u32::from)
    }
}

/// Of the REST API.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Listener.
    pub bind: SocketAddr,
    /// A listener of each process's own for health and metrics: this, or the next free port.
    pub metrics_bind: Option<SocketAddr>,
    /// Bearer token; without it the one in the data directory.
    pub token: Option<Secret>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("***")
    }
}

/// A value as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    /// Key in the file.
    pub key: &'static str,
    /// Shown value.
    pub value: String,
    /// Where it came from.
    pub origin: String,
    /// As given, to be compared.
    #[serde(skip)]
    given: Option<Secret>,
}

/// A setting that was read again and is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Key in the file.
    pub key: &'static str,
    /// Shown value in force.
    pub before: String,
    /// The other.
    pub after: String,
    /// It takes effect while the process runs; else at the next start.
    pub is_now: bool,
}

/// Every mistake, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// What a client of the admin API needs.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `HOLDFAST_DATA_DIR`.
    pub data_dir: PathBuf,
    /// `HOLDFAST_ADMIN_URL`.
    pub admin_url: Option<String>,
    /// `HOLDFAST_ADMIN_TOKEN`.
    pub admin_token: Option<String>,
    /// `HOLDFAST_NODE`.
    pub node: Option<String>,
}

/// Reads the environment and the settings file. `file` is `--config`; flags win over everything.
#[allow(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn sources(
    file: Option<&Path>,
    flags: Vec<(&'static str, String)>,
) -> Result<Sources, Mistakes> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, text)| {
            Some((name.into_string().ok()?, text.to_string_lossy().into_owned()))
        })
        .collect();
    let named = file.map(Path::to_path_buf).or_else(|| {
        let (_, path) = environment.iter().find(|(name, _)| name == "HOLDFAST_CONFIG")?;
        (!path.is_empty()).then(|| PathBuf::from(path))
    });
    let path = named.clone().unwrap_or_else(|| PathBuf::from("holdfast.toml"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(Mistakes(vec![format!("{}: cannot be read: {error}", path.display())]));
        }
    };
    Ok(Sources { file: text, environment, flags })
}

/// The few settings that a client uses; the others are not judged here.
pub fn client_settings(sources: &Sources) -> ClientSettings {
    let values = Values::resolve(sources);
    let text = |key: &str| values.given(key).map(|value| value.text.clone());
    ClientSettings {
        data_dir: text("data_dir").unwrap_or_else(|| "./data".to_owned()).into(),
        admin_url: text("admin_url"),
        admin_token: text("admin_token"),
        node: text("node"),
    }
}

impl Config {
    /// Parses everything before failing, so that one start shows all mistakes.
    pub fn load(sources: &Sources, host: &Host) -> Result<Self, Mistakes> {
        let mut values = Values::resolve(sources);
        let mode = values.read("mode", str::parse::<Mode>);
        let notes = values.check_halves(mode);
        let data_dir: PathBuf = values.read("data_dir", parse::path);
        let local_nets: Arc<[Network]> = values.read("local_nets", parse::networks).into();
        let sip = SipConfig::read(&mut values, &local_nets);
        let media = MediaConfig::read(&mut values, local_nets);
        let cluster_secrets = values.read_given("cluster_secret", parse::secrets);
        let join: Vec<String> = values.read("join", parse::hosts);
        let admin_bind = values
            .read_given("admin_bind", |text| parse::socket(text, 8080))
            .unwrap_or_else(|| parse::default_admin(mode));
        let config = Self {
            mode,
            node_name: values.read_given("node", parse::node_name),
            database_url: values
                .read_given("database_url", parse::database_url)
                .unwrap_or_else(|| default_database(&data_dir)),
            data_dir,
            cluster_secrets: cluster_secrets.unwrap_or_default(),
            sip,
            media,
            control_bind: values.read("control_bind", |text| parse::socket(text, 7070)),
            join,
            admin: AdminConfig {
                bind: admin_bind,
                metrics_bind: values.read_given("metrics_bind", |text| parse::socket(text, 9464)),
                token: values.read_given("admin_token", parse::token),
            },
            log: read_log(&mut values),
            drain_timeout: values.read("drain_timeout_ms", |t| parse::millis(t, 0, 604_800_000)),
            lease: values.read("lease_ms", |text| parse::millis(text, 500, 60_000)),
            ladder_life: values.read("ladder_ms", |t| parse::millis(t, 60_000, 2_592_000_000)),
            ladder_bytes: values.read("ladder_bytes", |t| parse::number(t, 0, u64::MAX >> 1)),
            reanchor_window: values.read("reanchor_window", |t| parse::number(t, 1, 100_000)),
            hep: read_hep(&mut values),
            otlp_endpoint: values.read_given("otlp_endpoint", parse::endpoint),
            otlp_headers: values.read_given("otlp_headers", parse::headers).unwrap_or_default(),
            webhook_denied_nets: values.read("webhook_denied_nets", parse::networks).into(),
            notes: Vec::new(),
            effective: Vec::new(),
        };
        values.read_given("admin_url", parse::url);
        config.check(&mut values, host);
        if !values.mistakes.is_empty() {
            return Err(Mistakes(values.mistakes));
        }
        let effective = config.effective(&values);
        Ok(Self { notes, effective, ..config })
    }

    /// What signaling takes while it runs.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            ring_timeout: self.sip.ring_timeout,
            rtp_timeout: self.sip.rtp_timeout,
            registration_max: self.sip.registration_max,
            max_contacts: self.sip.max_contacts,
            emergency_numbers: self.sip.emergency_numbers.clone(),
            reanchor_window: self.reanchor_window,
        }
    }

    /// What is other in settings that were read later.
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let pairs = self.effective.iter().zip(&next.effective).zip(SETTINGS);
        let other = pairs.filter(|((old, new), setting)| {
            let is_other = old.given != new.given || old.value != new.value;
            is_other && setting.half.is_of(self.mode)
        });
        let change =
            |((old, new), setting): ((&Effective, &Effective), &settings::Setting)| Change {
                key: old.key,
                before: old.value.clone(),
                after: new.value.clone(),
                is_now: setting.is_tunable,
            };
        other.map(change).collect()
    }

    /// With everything of later settings that a running process can take.
    pub fn tuned(self, next: Self) -> Self {
        let pairs = self.effective.into_iter().zip(next.effective).zip(SETTINGS);
        let taken = pairs.map(|((old, new), setting)| if setting.is_tunable { new } else { old });
        Self {
            effective: taken.collect(),
            log: LogConfig { filter: next.log.filter, ..self.log },
            drain_timeout: next.drain_timeout,
            reanchor_window: next.reanchor_window,
            media: MediaConfig { max_calls: next.media.max_calls, ..self.media },
            sip: SipConfig {
                ring_timeout: next.sip.ring_timeout,
                rtp_timeout: next.sip.rtp_timeout,
                registration_max: next.sip.registration_max,
                max_contacts: next.sip.max_contacts,
                emergency_numbers: next.sip.emergency_numbers,
                ..self.sip
            },
            ..self
        }
    }

    /// What can only be judged on this host.
    fn check(&self, values: &mut Values, host: &Host) {
        let mut binds: Vec<(&str, &str, IpAddr)> = vec![
            ("control_bind", "control_bind", self.control_bind.ip()),
            ("admin_bind", "admin_bind", self.admin.bind.ip()),
        ];
        let metrics = self.admin.metrics_bind;
        binds.extend(metrics.map(|at| ("metrics_bind", "metrics_bind", at.ip())));
        if self.mode.has_signaling() {
            binds.extend(self.sip.bind.iter().map(|at| ("sip_bind", "sip_advertise", at.ip())));
        }
        if self.mode.has_media() {
            binds.push(("media_bind", "media_advertise", self.media.bind));
        }
        for (key, advertise, ip) in binds {
            if !(host.can_bind)(ip) {
                values.mistakes.push(host.not_here(key, advertise, ip));
            }
        }
    }

    fn effective(&self, values: &Values) -> Vec<Effective> {
        let given = |key| values.given(key).map(|value| Secret::new(&value.text));
        let shown = |key: &'static str, default: Option<&'static str>| {
            let Some(value) = values.given(key) else {
                let text = match (key, default) {
                    ("database_url", _) if self.mode.has_signaling() => {
                        self.database_url.expose().to_owned()
                    }
                    ("admin_bind", _) => self.admin.bind.to_string(),
                    (_, Some(text)) => text.to_owned(),
                    (_, None) => "-".to_owned(),
                };
                return (text, Origin::Default);
            };
            let text = match key {
                "database_url" => parse::mask_url(&value.text),
                key if is_secret(key) => "***".to_owned(),
                _ => value.text.clone(),
            };
            (text, value.origin.clone())
        };
        let all = SETTINGS.iter().map(|setting: &settings::Setting| {
            let (value, origin) = shown(setting.key, setting.default);
            let (key, origin) = (setting.key, origin.to_string());
            Effective { key, value, origin, given: given(key) }
        });
        all.collect()
    }
}

impl SipConfig {
    fn read(values: &mut Values, local_nets: &Arc<[Network]>) -> Self {
        let public = values.read_given("sip_advertise", parse::advertise);
        Self {
            bind: values.read("sip_bind", parse::sockets),
            advertise: Advertise { public, local_nets: local_nets.clone() },
            realm_given: values.given("sip_realm").is_some(),
            realm: values.read("sip_realm", parse::realm),
            ring_timeout: values.read("ring_timeout_ms", |t| parse::millis(t, 1_000, 3_600_000)),
            rtp_timeout: values.read("rtp_timeout_ms", |t| parse::millis(t, 1_000, 86_400_000)),
            registration_max: values
                .read("registration_max_ms", |t| parse::millis(t, 10_000, 86_400_000)),
            max_contacts: values.read("max_contacts", |t| parse::number(t, 1, 100)),
            emergency_numbers: values.read("emergency_numbers", parse::list),
        }
    }
}

impl MediaConfig {
    fn read(values: &mut Values, local_nets: Arc<[Network]>) -> Self {
        Self {
            bind: values.read("media_bind", parse::ip),
            advertise: values.read_given("media_advertise", parse::media_advertise),
            local_nets,
            ports: values.read("media_ports", parse::ports),
            max_calls: values.read_given("max_calls", |t| parse::number(t, 1, 100_000)),
            priority: values.read("media_priority", |t| parse::number(t, 0, 99)),
            offload: values.read("media_offload", |text| match text {
                "auto" => Ok(true),
                "off" => Ok(false),
                _ => Err("is auto or off"),
            }),
        }
    }
}

fn read_hep(values: &mut Values) -> Option<HepConfig> {
    let target = values.read_given("hep_target", parse::hep_target);
    let agent = values.read("hep_agent", |text| parse::number(text, 0, u32::MAX));
    let password = values.read_given("hep_password", parse::hep_password);
    target.map(|(transport, target)| HepConfig { target, transport, agent, password })
}

fn read_log(values: &mut Values) -> LogConfig {
    LogConfig {
        filter: values.read("log", parse::log_filter),
        format: values.read("log_format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("is text or json"),
        }),
        personal: values.read("log_personal", |text| match text {
            "show" => Ok(Personal::Show),
            "mask" => Ok(Personal::Mask),
            _ => Err("is show or mask"),
        }),
    }
}

fn default_database(data_dir: &Path) -> Secret {
    Secret::new(&format!("sqlite:{}", data_dir.join("holdfast.db").display()))
}

#[cfg(test)]
mod tests;
