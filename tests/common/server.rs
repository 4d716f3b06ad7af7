//! The binary under test as its users start it: settings in the environment, a data directory of its own, the REST API.

use super::process::{Folder, Process};
use super::{SOON, eventually, ports};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const TOKEN: &str = "token-of-the-tests-0123456789";
const SECRET: &str = "secret-of-the-tests-0123456789";
const PASSWORD: &str = "correct-horse-battery";

/// One or two processes that are one switch.
pub(crate) struct Server {
    pub(crate) sip: SocketAddr,
    admin: SocketAddr,
    pub(crate) signaling: Process,
    /// Of its own, when started so.
    pub(crate) media: Option<Process>,
    folder: Arc<Folder>,
    settings: Vec<(String, String)>,
}

/// What the processes of one host and one database share.
#[derive(Clone)]
pub(crate) struct Host {
    folder: Arc<Folder>,
    sip: SocketAddr,
    /// Two control ports, one for each signaling process.
    control: u16,
    database: String,
    number: Arc<AtomicU32>,
}

impl Host {
    /// With a data directory and a SIP address of its own.
    pub(crate) fn new(database: &str) -> Self {
        Self {
            folder: Arc::new(Folder::new("host")),
            sip: local(ports::port()),
            control: ports::port(),
            database: database.to_owned(),
            number: Arc::default(),
        }
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

    /// One more signaling process, whatever it may wait for.
    pub(crate) fn begin_signaling(&self) -> Server {
        let admin = local(ports::port());
        let (sip, control) = (self.sip.to_string(), local(self.control).to_string());
        let admin_text = admin.to_string();
        let settings = [
            ("HOLDFAST_SIP_BIND", sip.as_str()),
            ("HOLDFAST_CONTROL_BIND", &control),
            ("HOLDFAST_ADMIN_BIND", &admin_text),
            ("HOLDFAST_ADMIN_TOKEN", TOKEN),
            ("HOLDFAST_DATABASE_URL", &self.database),
        ];
        let signaling = self.process("signaling", &settings);
        let folder = Arc::clone(&self.folder);
        let settings = Vec::new();
        Server { sip: self.sip, admin, signaling, media: None, folder, settings }
    }

    /// A media process.
    pub(crate) fn media(&self) -> Process {
        let media_ports = ports::media_ports();
        let range = format!("{}-{}", media_ports.start(), media_ports.end());
        let joins: Vec<String> =
            (self.control..self.control + 4).map(|port| local(port).to_string()).collect();
        let joins = joins.join(",");
        let (admin, control) = (local(ports::port()).to_string(), local(ports::port()).to_string());
        let settings = [
            ("HOLDFAST_MEDIA_BIND", "127.0.0.1"),
            ("HOLDFAST_MEDIA_PORTS", &range),
            ("HOLDFAST_JOIN", &joins),
            ("HOLDFAST_CONTROL_BIND", &control),
            ("HOLDFAST_ADMIN_BIND", &admin),
        ];
        self.process("media", &settings)
    }

    fn process(&self, mode: &str, settings: &[(&str, &str)]) -> Process {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        start(&self.folder, mode, &format!("{mode}-{number}"), settings)
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The binary with these settings and no others of this environment.
fn start(folder: &Folder, mode: &str, name: &str, settings: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command
        .args(["serve", "--mode", mode])
        .current_dir(folder.path())
        .env("HOLDFAST_DATA_DIR", folder.file("data"))
        .env("HOLDFAST_CLUSTER_SECRET", SECRET)
        .env("HOLDFAST_LOG", "info,holdfast=debug")
        .envs(settings.iter().copied());
    let log = folder.file(&format!("{name}.log"));
    Process::start(&format!("holdfast {name}"), &mut command, log, "the binary itself")
}

impl Server {
    /// Mode `both`, ready for calls.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Mode `both` with settings of one's own.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::launch(settings, false)
    }

    /// A signaling and a media process.
    pub(crate) fn start_apart() -> Self {
        Self::launch(&[], true)
    }

    fn launch(settings: &[(&str, &str)], apart: bool) -> Self {
        let folder = Arc::new(Folder::new("server"));
        let (sip, admin) = (local(ports::port()), local(ports::port()));
        let control = local(ports::port());
        let media_ports = ports::media_ports();
        let process = |mode: &str, extra: &[(&str, &str)]| start(&folder, mode, mode, extra);
        let (sip_text, admin_text) = (sip.to_string(), admin.to_string());
        let control_text = control.to_string();
        let ports_text = format!("{}-{}", media_ports.start(), media_ports.end());
        let of_signaling = [
            ("HOLDFAST_SIP_BIND", sip_text.as_str()),
            ("HOLDFAST_CONTROL_BIND", &control_text),
            ("HOLDFAST_ADMIN_BIND", &admin_text),
            ("HOLDFAST_ADMIN_TOKEN", TOKEN),
        ];
        let of_media =
            [("HOLDFAST_MEDIA_BIND", "127.0.0.1"), ("HOLDFAST_MEDIA_PORTS", &ports_text)];
        let (signaling, media) = if apart {
            let media_admin = local(ports::port()).to_string();
            let media_control = local(ports::port()).to_string();
            let signaling = process("signaling", &[&of_signaling, settings].concat());
            let joins = [
                ("HOLDFAST_JOIN", control_text.as_str()),
                ("HOLDFAST_CONTROL_BIND", &media_control),
                ("HOLDFAST_ADMIN_BIND", &media_admin),
            ];
            (signaling, Some(process("media", &[&of_media[..], &joins].concat())))
        } else {
            (process("both", &[&of_signaling, &of_media[..], settings].concat()), None)
        };
        let settings = [&of_signaling, &of_media[..], settings].concat();
        let settings = settings.into_iter().map(|(name, value)| (name.into(), value.into()));
        let settings = settings.collect();
        let mut server = Self { sip, admin, signaling, media, folder, settings };
        server.wait_until_ready();
        server
    }

    /// The only process once more, after its end, with what it left in its data directory.
    pub(crate) fn start_again(&mut self) {
        let settings: Vec<(&str, &str)> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.signaling = start(&self.folder, "both", "both-again", &settings);
        self.wait_until_ready();
    }

    /// Name of the node that answers.
    pub(crate) fn node(&self) -> String {
        let (_, health) = self.request("GET", "/health", None).expect("the node answers");
        health["node"].as_str().expect("a name").to_owned()
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

    /// Makes a user and gives its password.
    pub(crate) fn user(&self, extension: &str) -> &'static str {
        let user = json!({"extension": extension, "password": PASSWORD});
        let (status, told) = self.api("POST", "/users", Some(&user));
        if status == 409 {
            // One of the first start.
            let (status, told) = self.api(
                "PATCH",
                &format!("/users/{extension}"),
                Some(&json!({"password": PASSWORD})),
            );
            assert_eq!(status, 200, "{told}");
        } else {
            assert_eq!(status, 201, "{told}");
        }
        PASSWORD
    }

    /// A request to the API; there must be an answer.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.request(method, &format!("/api/v1{path}"), body).expect("the API answers")
    }

    /// Items of a list.
    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let (status, body) = self.api("GET", path, None);
        assert_eq!(status, 200, "{body}");
        body["items"].as_array().expect("items").clone()
    }

    /// Waits until all calls are over and gives the CDRs.
    pub(crate) fn cdrs(&self, count: usize) -> Vec<Value> {
        eventually("no call is left", SOON * 4, || self.list("/calls").is_empty().then_some(()));
        eventually(&format!("{count} CDRs"), SOON, || {
            let cdrs = self.list("/cdrs");
            assert!(cdrs.len() <= count, "more CDRs than calls: {cdrs:#?}");
            (cdrs.len() == count).then_some(cdrs)
        })
    }

    /// Waits for so many registrations of an extension.
    pub(crate) fn registrations(&self, extension: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} registrations of {extension}"), SOON, || {
            let found = self.list(&format!("/registrations?extension={extension}"));
            (found.len() == count).then_some(found)
        })
    }

    /// As a person dials it.
    pub(crate) fn uri(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.sip)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(10)))
                .build(),
        );
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.admin))
            .header("Authorization", format!("Bearer {TOKEN}"));
        let answer = match body {
            Some(body) => agent.run(
                request
                    .header("Content-Type", "application/json")
                    .body(body.to_string())
                    .expect("a request"),
            ),
            None => agent.run(request.body(()).expect("a request")),
        };
        let mut answer = answer.ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some((answer.status().as_u16(), body))
    }
}
