//! The product as its users start it: a signaling and a media process, so that the CPU of each is known.

use super::memory::resident;
use super::phones::{extension, password};
use super::usage::Meter;
use super::world::{Daemon, Side, World, port};
use nix::sys::signal::Signal;
use std::env;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(super) const TOKEN: &str = "token-of-the-bench-0123456789";
const SECRET: &str = "secret-of-the-bench-0123456789";
/// Pairs rest for some seconds after a call: enough for 1,000 calls a second.
const MEDIA_PORTS: &str = "10000-31999";

/// Where calls are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Sqlite,
    Postgres,
    /// In the server that is a peer's otherwise.
    Beside,
    /// In a PostgreSQL that counts what its statements take.
    Watched,
}

/// How the processes are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// As users do.
    Plainly,
    /// Under callgrind, which counts when it is told to.
    Counted,
}

/// Settings besides the usual ones: a process refuses those of the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings<'a> {
    pub(crate) signaling: &'a [(&'a str, &'a str)],
    pub(crate) media: &'a [(&'a str, &'a str)],
}

/// A core is said to be enough for 2,000 calls with sound; those of the bench have none.
pub(crate) const MANY_CALLS: (&str, &str) = ("HOLDFAST_MAX_CALLS", "50000");

/// A switch of two processes.
pub(crate) struct Holdfast {
    pub(crate) sip: SocketAddrV4,
    pub(crate) meter: Meter,
    /// Where its processes leave things.
    pub(crate) folder: PathBuf,
    /// Where each process tells its figures.
    pub(crate) figures: [SocketAddrV4; 2],
    admin: SocketAddrV4,
    _signaling: Daemon,
    _media: Daemon,
}

/// The binary under test: `HOLDFAST_BIN`, or the one that cargo has built with this.
pub(crate) fn binary() -> PathBuf {
    env::var_os("HOLDFAST_BIN").map_or(env!("CARGO_BIN_EXE_holdfast").into(), PathBuf::from)
}

impl Holdfast {
    /// Ready, with its users imported.
    pub(crate) fn start(world: &World, keeps: Keeps, users: usize) -> Self {
        Self::start_as(world, Runs::Plainly, keeps, users, &Settings::default())
    }

    /// With more settings.
    pub(crate) fn start_as(
        world: &World,
        runs: Runs,
        keeps: Keeps,
        users: usize,
        more: &Settings<'_>,
    ) -> Self {
        let folder = world.folder("holdfast");
        let local = || SocketAddrV4::new(Ipv4Addr::LOCALHOST, port());
        let (sip, admin, control) = (local(), local(), local());
        let mut signaling = command_as(&folder, runs, "signaling");
        signaling
            .env("HOLDFAST_SIP_BIND", sip.to_string())
            .env("HOLDFAST_CONTROL_BIND", control.to_string())
            .env("HOLDFAST_ADMIN_BIND", admin.to_string())
            .env("HOLDFAST_ADMIN_TOKEN", TOKEN);
        let mut groups = Vec::new();
        let side = match keeps {
            Keeps::Sqlite => None,
            Keeps::Postgres => Some(Side::Holdfast),
            Keeps::Beside => Some(Side::Peer),
            Keeps::Watched => Some(Side::Watched),
        };
        if let Some(database) = side.map(|side| world.database(side)) {
            signaling.env("HOLDFAST_DATABASE_URL", database.fresh("holdfast"));
            groups.push(("database", database.id()));
        }
        let media_admin = local();
        let mut media = command_as(&folder, runs, "media");
        media
            .env("HOLDFAST_JOIN", control.to_string())
            .env("HOLDFAST_CONTROL_BIND", local().to_string())
            .env("HOLDFAST_ADMIN_BIND", media_admin.to_string())
            .env("HOLDFAST_MEDIA_BIND", "127.0.0.1")
            .env("HOLDFAST_MEDIA_PORTS", MEDIA_PORTS);
        signaling.envs(more.signaling.iter().copied());
        media.envs(more.media.iter().copied());
        let mut signaling = Daemon::start("signaling", Signal::SIGTERM, &folder, &signaling);
        signaling.until("serves health", || get(admin, "/live").is_some());
        // Told politely it would wait for its sessions.
        let media = Daemon::start("media", Signal::SIGKILL, &folder, &media);
        groups.insert(0, ("signaling", signaling.id()));
        groups.insert(1, ("media", media.id()));
        let ready = || get(admin, "/ready").is_some_and(|text| text.contains("\"ready\""));
        signaling.until("is ready", ready);
        let switch = Self {
            sip,
            meter: Meter(groups),
            folder,
            figures: [admin, media_admin],
            admin,
            _signaling: signaling,
            _media: media,
        };
        switch.import(users);
        switch
    }

    /// kB of anonymous pages of one of its processes.
    pub(crate) fn resident(&self, part: &str) -> u64 {
        let id = self.meter.0.iter().find(|(name, _)| *name == part).map(|(_, id)| *id);
        id.map_or(0, resident)
    }

    /// The user's phone must have SRTP.
    pub(crate) fn secure(&self, user: usize) {
        let url = format!("http://{}/api/v1/users/{}", self.admin, extension(user));
        let answer = agent()
            .patch(&url)
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Type", "application/json")
            .send("{\"srtp\":\"mandatory\"}");
        answer.expect("the API answers");
    }

    /// Asks the API for something.
    pub(crate) fn post(&self, path: &str, body: &str) {
        let url = format!("http://{}/api/v1{path}", self.admin);
        let answer = agent()
            .post(&url)
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Type", "application/json")
            .send(body);
        answer.expect("the API answers");
    }

    fn import(&self, users: usize) {
        let mut csv = "extension,password\n".to_owned();
        for user in 0..users {
            writeln!(csv, "{},{}", extension(user), password(user)).expect("a String");
        }
        let url = format!("http://{}/api/v1/users/import?on_conflict=fail", self.admin);
        let answer = agent()
            .post(&url)
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Type", "text/csv")
            .send(&csv);
        let told = answer.expect("the API answers").body_mut().read_to_string().expect("text");
        assert!(told.contains(&format!("\"created\":{users},")), "{told}");
    }
}

/// Of a process with a data directory below the folder.
pub(super) fn command(folder: &Path, mode: &str) -> Command {
    command_as(folder, Runs::Plainly, mode)
}

fn command_as(folder: &Path, runs: Runs, mode: &str) -> Command {
    let mut command = match runs {
        Runs::Plainly => Command::new(binary()),
        Runs::Counted => {
            let mut valgrind = Command::new("valgrind");
            valgrind.args(["--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes"]);
            let profile = folder.join("callgrind.%p");
            valgrind.arg(format!("--callgrind-out-file={}", profile.display())).arg(binary());
            valgrind
        }
    };
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command
        .args(["serve", "--mode", mode])
        .env("HOLDFAST_DATA_DIR", folder.join("data"))
        .env("HOLDFAST_CLUSTER_SECRET", SECRET)
        .env("HOLDFAST_LOG", "warn");
    command
}

/// For questions to the API.
pub(super) fn agent() -> ureq::Agent {
    let time = Some(Duration::from_secs(60));
    ureq::Agent::new_with_config(ureq::Agent::config_builder().timeout_global(time).build())
}

/// The text of a page.
pub(super) fn get(server: SocketAddrV4, path: &str) -> Option<String> {
    agent().get(format!("http://{server}{path}")).call().ok()?.body_mut().read_to_string().ok()
}
