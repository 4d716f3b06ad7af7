//! A compose file brought up under a name, addresses and ports of its own; nothing of it is left at the end.

use crate::common::api::Api;
use crate::common::{SOON, eventually, ports};
use crate::engine::{self, Edition, all_of, compose, docker, ended, told};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// What a process says when it takes part, before and after its name.
const IS_UP: [&str; 2] = ["INFO node ", " is up"];

/// Running containers.
pub(crate) struct Stack {
    edition: Edition,
    project: String,
    files: Vec<PathBuf>,
    settings: Vec<(&'static str, String)>,
    pub(crate) api: Api,
}

/// What the log tells a person.
pub(crate) struct Welcome {
    pub(crate) password: String,
    /// Of 1002.
    pub(crate) other_password: String,
    token: String,
}

impl Stack {
    /// `compose up`, as far as the log tells how to register. `service` is the one that tells it.
    pub(crate) fn up(file: &str, service: &str) -> (Self, Welcome) {
        Self::up_with(Edition::Second, &[Path::new(file)], service, Vec::new())
    }

    /// The same by one or the other Compose, of several files, and with more settings.
    pub(crate) fn up_with(
        edition: Edition,
        files: &[&Path],
        service: &str,
        more: Vec<(&'static str, String)>,
    ) -> (Self, Welcome) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        engine::images();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let project = format!("holdfast-test-{}-{number}", std::process::id());
        let (sip, admin) = (local(ports::port()), local(ports::port()));
        let mut settings = settings(sip, admin);
        settings.extend(more);
        let api = Api { sip, admin, token: String::new() };
        let files = files.iter().map(|file| file.to_path_buf()).collect();
        let mut stack = Self { edition, project, files, settings, api };
        stack.compose(&["up", "-d", "--no-build"]);
        let welcome = eventually("the log tells how to register", SOON * 6, || {
            welcome(&stack.compose(&["logs", "--no-color", service]))
        });
        stack.api.token.clone_from(&welcome.token);
        (stack, welcome)
    }

    /// Compose on this project.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        told(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = compose(self.edition);
        command.current_dir(engine::root());
        self.files.iter().for_each(|file| _ = command.arg("-f").arg(file));
        command
            .args(["-p", &self.project])
            .args(arguments)
            .envs(self.settings.iter().map(|(name, text)| (name, text)));
        command
    }

    /// From now on Compose knows another tag of the image.
    pub(crate) fn another_image(&mut self) {
        docker(&["tag", engine::IMAGE, engine::NEXT_IMAGE]);
        let of_image = |(name, _): &&mut (&str, String)| *name == "HOLDFAST_IMAGE";
        let (_, image) = self.settings.iter_mut().find(of_image).expect("a setting of ours");
        engine::NEXT_IMAGE.clone_into(image);
    }

    /// Containers of a service, those that are stopped too.
    pub(crate) fn containers(&self, service: &str) -> Vec<Container> {
        let ids = self.compose(&["ps", "--all", "-q", service]);
        ids.lines().map(|id| Container(id.to_owned())).collect()
    }

    /// So many nodes are ready, and each signaling node has links with all others.
    pub(crate) fn wait_for_nodes(&self, count: usize) {
        eventually(&format!("{count} nodes know each other"), SOON * 3, || {
            let (status, body) = self.api.request("GET", "/api/v1/nodes", None)?;
            let nodes = body["items"].as_array().filter(|_| status == 200)?;
            let is_ready = |node: &&Value| node["state"] == "ready";
            let is_linked = |node: &Value| {
                let links = node["links"].as_array().cloned().unwrap_or_default();
                let up = links.iter().filter(|link| link["state"] == "up").count();
                node["mode"] != "signaling" || up + 1 == count
            };
            let good = nodes.iter().filter(is_ready).count() == count;
            (good && nodes.iter().filter(is_ready).all(is_linked)).then_some(())
        });
    }

    /// The signaling container that owns the only call.
    pub(crate) fn owner(&self) -> Container {
        let owner = eventually("a call is there", SOON, || {
            Some(self.api.list("/calls").first()?["owner"].as_str()?.to_owned())
        });
        self.container_of("signaling", &owner)
    }

    /// The container of a service in which that node runs.
    pub(crate) fn container_of(&self, service: &str, node: &str) -> Container {
        let mut containers = self.containers(service).into_iter();
        let found = containers.find(|container| container.node().as_deref() == Some(node));
        found.unwrap_or_else(|| panic!("no container is {node}"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = ended(&mut self.command(&["logs", "--no-color", "--tail", "60"]));
            eprintln!("---- {} ----\n{}", self.project, all_of(&logs));
        }
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        let down = ended(&mut self.command(&down));
        if !down.status.success() {
            eprintln!("{} is not removed: {}", self.project, all_of(&down));
        }
    }
}

/// A container by its id.
pub(crate) struct Container(pub(crate) String);

impl Container {
    /// Name of the node that runs in it.
    pub(crate) fn node(&self) -> Option<String> {
        let log = all_of(&ended(Command::new("docker").args(["logs", &self.0])));
        let (_, last) = log.rsplit_once(IS_UP[0]).filter(|(_, last)| last.contains(IS_UP[1]))?;
        last.split_whitespace().next().map(str::to_owned)
    }

    /// What it says of its own health: exit code and document.
    pub(crate) fn health(&self) -> (Option<i32>, Value) {
        let told =
            ended(Command::new("docker").args(["exec", &self.0, "holdfast", "health", "--json"]));
        (told.status.code(), serde_json::from_slice(&told.stdout).unwrap_or_default())
    }

    /// Runs `holdfast` in it.
    pub(crate) fn holdfast(&self, arguments: &[&str]) -> String {
        docker(&[&["exec", &self.0, "holdfast"], arguments].concat())
    }

    /// A signal to its process from outside.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process();
        assert_ne!(pid, 0, "it runs");
        let kill = format!("kill -{signal} {pid}");
        let powers = ["run", "--rm", "--pid", "host", "--network", "none", "--user", "0"];
        let program = ["--entrypoint", "/bin/sh", engine::POSTGRES_IMAGE, "-c", &kill];
        docker(&[&powers[..], &program].concat());
    }

    /// The same, however it ends.
    pub(crate) fn holdfast_anyhow(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker");
        all_of(&ended(command.args(["exec", &self.0, "holdfast"]).args(arguments)))
    }

    /// The network it was put into.
    pub(crate) fn network(&self) -> String {
        let names = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
        docker(&["inspect", "-f", names, &self.0]).trim().to_owned()
    }

    /// SIGKILL, as the kernel gives it when memory runs out: `docker kill` would count as a wish.
    pub(crate) fn crash(&self) {
        let pid = self.process();
        self.signal("KILL");
        eventually("Docker starts it again", SOON, || {
            let now = self.process();
            (now != 0 && now != pid).then_some(())
        });
    }

    /// `docker restart`, `stop`, `start` …
    pub(crate) fn docker(&self, command: &str) {
        docker(&[command, &self.0]);
    }

    /// Docker's view of its health.
    pub(crate) fn wait_until_healthy(&self) {
        let state = ["inspect", "-f", "{{.State.Health.Status}}", &self.0];
        eventually("it is healthy", SOON * 3, || {
            (docker(&state).trim() == "healthy").then_some(())
        });
    }

    /// What it runs, as Compose was told.
    pub(crate) fn image(&self) -> String {
        docker(&["inspect", "-f", "{{.Config.Image}}", &self.0]).trim().to_owned()
    }

    /// How its last process ended.
    pub(crate) fn exit_code(&self) -> i32 {
        let code = docker(&["inspect", "-f", "{{.State.ExitCode}}", &self.0]);
        code.trim().parse().expect("an exit code")
    }

    fn process(&self) -> u32 {
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &self.0]);
        pid.trim().parse().expect("a process id")
    }
}

/// Everything on the loopback address, on ports that no other test has.
fn settings(sip: SocketAddr, admin: SocketAddr) -> Vec<(&'static str, String)> {
    let (control, media) = (ports::control_ports(), ports::media_ports());
    let joins = control..control + ports::CONTROL_PORTS;
    let joins: Vec<String> = joins.map(|port| local(port).to_string()).collect();
    vec![
        ("HOLDFAST_IMAGE", engine::IMAGE.to_owned()),
        ("HOLDFAST_POSTGRES_IMAGE", engine::POSTGRES_IMAGE.to_owned()),
        ("HOLDFAST_SIP_BIND", sip.to_string()),
        ("HOLDFAST_ADMIN_BIND", admin.to_string()),
        ("HOLDFAST_ADMIN_PUBLISH", admin.to_string()),
        ("HOLDFAST_MEDIA_ADMIN_BIND", local(ports::port()).to_string()),
        ("HOLDFAST_CONTROL_BIND", local(control).to_string()),
        ("HOLDFAST_JOIN", joins.join(",")),
        ("HOLDFAST_MEDIA_BIND", Ipv4Addr::LOCALHOST.to_string()),
        ("HOLDFAST_MEDIA_PORTS", format!("{}-{}", media.start(), media.end())),
    ]
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The last word of the lines that a person would copy.
fn welcome(log: &str) -> Option<Welcome> {
    let last_word = |of: &str| {
        let line = log.lines().find(|line| line.contains(of))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    Some(Welcome {
        password: last_word("User 1001 ")?,
        other_password: last_word("User 1002 ")?,
        token: last_word("Admin token ")?,
    })
}
