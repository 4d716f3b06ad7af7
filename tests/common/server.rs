//! The binary under test as its users start it: settings in the environment, a data directory of its own, the REST API.

use super::api::Api;
use super::process::{Folder, Process};
use super::{SOON, eventually, own_ip, ports};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, RangeInclusive};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const TOKEN: &str = "token-of-the-tests-0123456789";
const SECRET: &str = "secret-of-the-tests-0123456789";
/// Under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// One or two processes that are one switch.
pub(crate) struct Server {
    api: Api,
    pub(crate) signaling: Process,
    /// Of its own, when started so.
    pub(crate) media: Option<Process>,
    /// Where that tells its figures.
    pub(crate) media_admin: SocketAddr,
    folder: Arc<Folder>,
    settings: Vec<(String, String)>,
}

/// What the processes of one host and one database share.
#[derive(Clone)]
pub(crate) struct Host {
    folder: Arc<Folder>,
    ip: Ipv4Addr,
    sip: SocketAddr,
    /// `HOLDFAST_SIP_BIND`.
    bind: SocketAddr,
    /// `HOLDFAST_NODE`, when its processes are not to name themselves.
    name: Option<String>,
    /// Where media processes look for signaling.
    joins: Vec<SocketAddr>,
    /// Two control ports, one for each signaling process.
    control: u16,
    database: String,
    number: Arc<AtomicU32>,
    /// Where all its signaling processes serve the API, when they share that too.
    admin: Option<SocketAddr>,
    /// Of its signaling processes, beside those that all have.
    settings: Vec<(&'static str, &'static str)>,
    /// What its processes run.
    binary: PathBuf,
}

impl Host {
    /// With a data directory and a SIP address of its own.
    pub(crate) fn new(database: &str) -> Self {
        let (sip, control) = (local(ports::port()), ports::port());
        Self {
            folder: Arc::new(Folder::new("host")),
            ip: own_ip(),
            sip,
            bind: sip,
            name: None,
            joins: (control..control + 4).map(local).collect(),
            control,
            database: database.to_owned(),
            number: Arc::default(),
            admin: None,
            settings: Vec::new(),
            binary: BINARY.into(),
        }
    }

    /// The same host; its processes reach the database another way.
    pub(crate) fn through(&self, way: &super::proxy::Proxy) -> Self {
        let database = format!("postgres://holdfast@{}/postgres", way.address);
        Self { database, ..self.clone() }
    }

    /// A host with an address of its own. It is to be used from within its network.
    pub(crate) fn at(ip: Ipv4Addr, name: &str, database: &str) -> Self {
        let sip = SocketAddr::from((ip, 5_060));
        Self {
            folder: Arc::new(Folder::new(name)),
            ip,
            sip,
            bind: sip,
            name: Some(name.to_owned()),
            joins: Vec::new(),
            control: 7_070,
            database: database.to_owned(),
            number: Arc::default(),
            admin: None,
            settings: Vec::new(),
            binary: BINARY.into(),
        }
    }

    /// It takes SIP at another port.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn with_sip(self, port: u16) -> Self {
        let sip = SocketAddr::from((self.ip, port));
        Self { sip, bind: sip, ..self }
    }

    /// Its signaling processes have these settings too.
    pub(crate) fn with_settings(self, settings: &[(&'static str, &'static str)]) -> Self {
        Self { settings: settings.to_vec(), ..self }
    }

    /// They share the port of the API: the kernel chooses who is asked.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn with_one_admin(self) -> Self {
        Self { admin: Some(local(ports::port())), ..self }
    }

    /// What `holdfast.toml` says to each of its processes.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn configured(self, text: &str) -> Self {
        std::fs::write(self.folder.file("holdfast.toml"), text).expect("a file");
        self
    }

    /// The same host; its processes are of another release.
    pub(crate) fn running(&self, binary: &Path) -> Self {
        Self { binary: binary.to_owned(), ..self.clone() }
    }

    /// It takes SIP at all its addresses.
    pub(crate) fn bound_to_all(self) -> Self {
        Self { bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.sip.port())), ..self }
    }

    /// Its media processes announce themselves at these hosts.
    pub(crate) fn joining(self, others: &[Ipv4Addr]) -> Self {
        let joins = others.iter().map(|ip| SocketAddr::from((*ip, 7_070))).collect();
        Self { joins, ..self }
    }

    /// A file in the data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.file("data").join(name)
    }

    /// One more signaling process, ready for calls.
    pub(crate) fn signaling(&self) -> Server {
        let mut server = self.begin_signaling();
        server.wait_until_ready();
        server
    }

    /// A signaling process that takes the place of the one that runs.
    pub(crate) fn successor_of_signaling(&self) -> Server {
        let mut server = self.signaling_told("signaling", &["--replace"], &[]);
        server.wait_until_ready();
        server
    }

    /// A process of both halves, ready for calls.
    pub(crate) fn both(&self) -> Server {
        let ports = ports::media_ports();
        let range = format!("{}-{}", ports.start(), ports.end());
        let joins: Vec<String> = self.joins.iter().map(ToString::to_string).collect();
        let (bind, joins) = (self.ip.to_string(), joins.join(","));
        let media = [
            ("HOLDFAST_MEDIA_BIND", bind.as_str()),
            ("HOLDFAST_MEDIA_PORTS", &range),
            ("HOLDFAST_JOIN", &joins),
        ];
        let mut server = self.signaling_told("both", &[], &media);
        server.wait_until_ready();
        server
    }

    /// One more signaling process, whatever it may wait for.
    pub(crate) fn begin_signaling(&self) -> Server {
        self.signaling_told("signaling", &[], &[])
    }

    fn signaling_told(&self, mode: &str, flags: &[&str], media: &[(&str, &str)]) -> Server {
        let admin = self.admin.unwrap_or_else(|| self.at_port(ports::port()));
        let (sip, control) = (self.bind.to_string(), self.at_port(self.control).to_string());
        let admin_text = admin.to_string();
        let mut settings = vec![
            ("HOLDFAST_SIP_BIND", sip.as_str()),
            ("HOLDFAST_CONTROL_BIND", &control),
            ("HOLDFAST_ADMIN_BIND", &admin_text),
            ("HOLDFAST_ADMIN_TOKEN", TOKEN),
            ("HOLDFAST_DATABASE_URL", &self.database),
        ];
        settings.extend(self.name.as_ref().map(|name| ("HOLDFAST_NODE", name.as_str())));
        settings.extend_from_slice(media);
        settings.extend_from_slice(&self.settings);
        let signaling = self.process_told(mode, flags, &settings);
        let folder = Arc::clone(&self.folder);
        let settings = Vec::new();
        let api = Api { sip: self.sip, admin, token: TOKEN.to_owned() };
        Server { api, signaling, media: None, media_admin: admin, folder, settings }
    }

    /// A media process.
    pub(crate) fn media(&self) -> Process {
        self.media_with(&ports::media_ports())
    }

    /// A media process with ports of one's choice.
    pub(crate) fn media_with(&self, media_ports: &RangeInclusive<u16>) -> Process {
        self.media_joining(media_ports, &self.joins)
    }

    /// A media process that takes the place of the one that runs.
    pub(crate) fn successor_of_media(&self, media_ports: &RangeInclusive<u16>) -> Process {
        self.media_told(media_ports, &self.joins, &["--replace"])
    }

    /// A media process that announces itself there.
    pub(crate) fn media_joining(
        &self,
        media_ports: &RangeInclusive<u16>,
        joins: &[SocketAddr],
    ) -> Process {
        self.media_told(media_ports, joins, &[])
    }

    fn media_told(
        &self,
        media_ports: &RangeInclusive<u16>,
        joins: &[SocketAddr],
        flags: &[&str],
    ) -> Process {
        let range = format!("{}-{}", media_ports.start(), media_ports.end());
        let joins: Vec<String> = joins.iter().map(ToString::to_string).collect();
        let joins = joins.join(",");
        let admin = self.at_port(ports::port()).to_string();
        let control = self.at_port(ports::port()).to_string();
        let bind = self.ip.to_string();
        let mut settings = vec![
            ("HOLDFAST_MEDIA_BIND", bind.as_str()),
            ("HOLDFAST_MEDIA_PORTS", &range),
            ("HOLDFAST_JOIN", &joins),
            ("HOLDFAST_CONTROL_BIND", &control),
            ("HOLDFAST_ADMIN_BIND", &admin),
        ];
        settings.extend(self.name.as_ref().map(|name| ("HOLDFAST_NODE", name.as_str())));
        self.process_told("media", flags, &settings)
    }

    /// Where the first signaling process takes control links.
    pub(crate) fn control(&self) -> SocketAddr {
        self.joins[0]
    }

    fn at_port(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    fn process_told(&self, mode: &str, flags: &[&str], settings: &[(&str, &str)]) -> Process {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let command = command(&self.binary, &self.folder);
        let name = format!("{mode}-{number}");
        serve(command, &self.folder, mode, &name, (flags, settings))
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((own_ip(), port))
}

/// The binary with a data directory of its own, and no settings of this environment.
pub(crate) fn holdfast(folder: &Folder) -> Command {
    command(Path::new(BINARY), folder)
}

fn command(binary: &Path, folder: &Folder) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command.current_dir(folder.path()).env("HOLDFAST_DATA_DIR", folder.file("data"));
    command
}

fn start(
    folder: &Arc<Folder>,
    mode: &str,
    name: &str,
    told: (&[&str], &[(&str, &str)]),
) -> Process {
    serve(holdfast(folder), folder, mode, name, told)
}

fn serve(
    mut command: Command,
    folder: &Arc<Folder>,
    mode: &str,
    name: &str,
    (flags, settings): (&[&str], &[(&str, &str)]),
) -> Process {
    command
        .args(["serve", "--mode", mode])
        .args(flags)
        .env("HOLDFAST_CLUSTER_SECRET", SECRET)
        .env("HOLDFAST_LOG", "info,holdfast=debug")
        .envs(settings.iter().copied());
    let log = folder.file(&format!("{name}.log"));
    Process::start(&format!("holdfast {name}"), &mut command, log, "the binary itself")
        .living_in(folder)
}

impl Deref for Server {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Server {
    /// Mode `both`, ready for calls.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Mode `both` with settings of one's own.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::launch(settings, None)
    }

    /// A signaling and a media process.
    pub(crate) fn start_apart() -> Self {
        Self::start_apart_with(&[])
    }

    /// The same; signaling with settings of one's own.
    pub(crate) fn start_apart_with(settings: &[(&str, &str)]) -> Self {
        Self::start_apart_told(settings, &[])
    }

    /// The same; each with settings of its own.
    pub(crate) fn start_apart_told(signaling: &[(&str, &str)], media: &[(&str, &str)]) -> Self {
        Self::launch(signaling, Some(media))
    }

    /// With settings for media when that is apart.
    fn launch(settings: &[(&str, &str)], apart: Option<&[(&str, &str)]>) -> Self {
        let folder = Arc::new(Folder::new("server"));
        let (sip, admin) = (local(ports::port()), local(ports::port()));
        let (control, media_admin) = (local(ports::port()), local(ports::port()));
        let media_ports = ports::media_ports();
        let process = |mode: &str, extra: &[(&str, &str)]| start(&folder, mode, mode, (&[], extra));
        let (sip_text, admin_text) = (sip.to_string(), admin.to_string());
        let control_text = control.to_string();
        let ports_text = format!("{}-{}", media_ports.start(), media_ports.end());
        let of_signaling = [
            ("HOLDFAST_SIP_BIND", sip_text.as_str()),
            ("HOLDFAST_CONTROL_BIND", &control_text),
            ("HOLDFAST_ADMIN_BIND", &admin_text),
            ("HOLDFAST_ADMIN_TOKEN", TOKEN),
        ];
        let ip_text = own_ip().to_string();
        let of_media =
            [("HOLDFAST_MEDIA_BIND", ip_text.as_str()), ("HOLDFAST_MEDIA_PORTS", &ports_text)];
        let (signaling, media) = if let Some(media_settings) = apart {
            let media_admin = media_admin.to_string();
            let media_control = local(ports::port()).to_string();
            let signaling = process("signaling", &[&of_signaling, settings].concat());
            let joins = [
                ("HOLDFAST_JOIN", control_text.as_str()),
                ("HOLDFAST_CONTROL_BIND", &media_control),
                ("HOLDFAST_ADMIN_BIND", &media_admin),
            ];
            let media = [&of_media[..], &joins, media_settings].concat();
            (signaling, Some(process("media", &media)))
        } else {
            (process("both", &[&of_signaling, &of_media[..], settings].concat()), None)
        };
        let settings = [&of_signaling, &of_media[..], settings].concat();
        let settings = settings.into_iter().map(|(name, value)| (name.into(), value.into()));
        let settings = settings.collect();
        let api = Api { sip, admin, token: TOKEN.to_owned() };
        let mut server = Self { api, signaling, media, media_admin, folder, settings };
        server.wait_until_ready();
        server
    }

    /// Where its phones reach it, when its settings say so.
    pub(crate) fn sip_is(&mut self, sip: SocketAddr) {
        self.api.sip = sip;
    }

    /// Its settings, as environment.
    pub(crate) fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// A command of the binary with the settings of this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = holdfast(&self.folder);
        command.args(arguments);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.output().expect("the binary runs")
    }

    /// The only process once more, after its end, with what it left in its data directory.
    pub(crate) fn start_again(&mut self) {
        self.signaling = start(&self.folder, "both", "both-again", (&[], &self.settings()));
        self.wait_until_ready();
    }

    /// A successor takes the place of the only process; that one, which is told to stop.
    pub(crate) fn is_replaced(&mut self) -> Process {
        let settings: Vec<(&str, &str)> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let successor = start(&self.folder, "both", "successor", (&["--replace"], &settings));
        std::mem::replace(&mut self.signaling, successor)
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.file("data")
    }

    /// The only process once more, in another place.
    pub(crate) fn moves_to(&mut self, folder: Folder) {
        self.folder = Arc::new(folder);
        self.start_again();
    }

    /// All bytes of its data directory: databases, journals, credentials.
    pub(crate) fn stored(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.folder.file("data")).expect("a data directory");
        let paths = files.map(|file| file.expect("a file").path());
        let bytes = paths.filter_map(|path| std::fs::read(path).ok());
        bytes.flatten().collect()
    }

    pub(crate) fn wait_until_ready(&mut self) {
        eventually("the server is ready", SOON * 2, || {
            assert!(self.signaling.is_running(), "the server ended");
            let (status, body) = self.request("GET", "/ready", None)?;
            (status == 200 && body["status"] == "ready").then_some(())
        });
    }

    /// HTTP status and document of `/ready`.
    pub(crate) fn readiness(&self) -> (u16, Value) {
        eventually("the node answers", SOON, || self.request("GET", "/ready", None))
    }
}
