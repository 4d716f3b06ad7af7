//! The product as an operator runs it who wants it to outlive processes: signaling and media processes of one host on one
//! PostgreSQL, each of which can be killed, frozen, drained and started.
//!
//! Invariant: nothing here waits while phones speak, unless its name says so.

use super::clock::{Nanos, eventually, now};
use super::common::network::Machine;
use super::holdfast::{TOKEN, agent, command, get};
use super::phones::{extension, password};
use super::postgres::Postgres;
use super::world::{Daemon, World, own_ip, port};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Where the media processes listen: shares of this.
const MEDIA_PORTS: (u16, u16) = (10_000, 65_000);
/// Sessions that one address has ports for; beyond it each media process has an address of its own.
const SESSIONS_AN_ADDRESS: usize = 12_000;
/// Number of the next host: none is used twice.
static HOSTS: AtomicU8 = AtomicU8::new(11);
/// CDRs a page.
const PAGE: usize = 1_000;
/// Of the database.
const NAME: &str = "holdfast";

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) signaling: usize,
    pub(crate) media: usize,
    pub(crate) users: usize,
    /// At a time.
    pub(crate) calls: usize,
    /// Each media process has a host of its own, beside that of signaling and phones.
    pub(crate) apart: bool,
}

/// A process, and how it is started again.
struct Member {
    daemon: Option<Daemon>,
    command: Command,
    name: String,
    admin: SocketAddrV4,
    folder: PathBuf,
    /// Its host, where that is not ours.
    machine: Option<Machine>,
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) sip: SocketAddrV4,
    signaling: Vec<Member>,
    media: Vec<Member>,
    postgres: Postgres,
    database: String,
    control: Vec<SocketAddrV4>,
    folder: PathBuf,
    calls: usize,
}

impl Cluster {
    /// Ready, linked, with its users.
    pub(crate) fn start(world: &World, plan: &Plan) -> Self {
        let postgres = Postgres::start(world, &[]);
        let database = postgres.fresh(NAME);
        let mut cluster = Self {
            sip: local(),
            signaling: Vec::new(),
            media: Vec::new(),
            postgres,
            database,
            control: (0..2).map(|_| local()).collect(),
            folder: world.folder("cluster"),
            calls: plan.calls,
        };
        for _ in 0..plan.signaling {
            cluster.add_signaling();
        }
        for number in 0..plan.media {
            if plan.apart {
                cluster.add_media_host(number);
            } else {
                cluster.add_media(number, plan.media);
            }
        }
        cluster.wait_for_links();
        cluster.import(plan.users);
        cluster
    }

    /// One more signaling process, ready.
    pub(crate) fn add_signaling(&mut self) {
        let admin = local();
        let mut command = command(&self.folder, "signaling");
        command
            .env("HOLDFAST_SIP_BIND", self.sip.to_string())
            .env("HOLDFAST_CONTROL_BIND", self.control[self.signaling.len()].to_string())
            .env("HOLDFAST_ADMIN_BIND", admin.to_string())
            .env("HOLDFAST_ADMIN_TOKEN", TOKEN)
            .env("HOLDFAST_DATABASE_URL", &self.database)
            // Calls that are measured without sound are not to end for want of it.
            .env("HOLDFAST_RTP_TIMEOUT_MS", "86400000");
        let name = format!("signaling-{}", self.signaling.len());
        let mut member = self.member(command, name, admin);
        member.start();
        let daemon = member.daemon.as_mut().expect("just started");
        daemon.until("serves health", || get(admin, "/live").is_some());
        self.signaling.push(member);
    }

    fn add_media(&mut self, number: usize, of: usize) {
        let (first, last) = MEDIA_PORTS;
        let (ip, ports) = if self.calls > SESSIONS_AN_ADDRESS {
            (format!("127.0.0.{}", number + 2), (first, last))
        } else {
            let share = (last - first) / u16::try_from(of).expect("few");
            let first = first + share * u16::try_from(number).expect("few");
            (own_ip().to_string(), (first, first + share - 1))
        };
        let (folder, admin) = (self.folder.clone(), local());
        let command = self.media_command(&folder, [local(), admin], &ip, ports);
        let mut member = self.member(command, format!("media-{number}"), admin);
        member.start();
        self.media.push(member);
    }

    /// A host, and a media process alone on it.
    fn add_media_host(&mut self, number: usize) {
        let host = HOSTS.fetch_add(1, Ordering::Relaxed);
        let machine = Machine::wired(Ipv4Addr::new(10, 77, 0, host));
        let name = format!("media-{number}");
        let folder = self.folder.join(format!("host-{number}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let at = |port| SocketAddrV4::new(machine.ip, port);
        let (ip, admin) = (machine.ip.to_string(), at(port()));
        let mut command = self.media_command(&folder, [at(port()), admin], &ip, MEDIA_PORTS);
        command.env("HOLDFAST_NODE", &name);
        let mut member = self.member(command, name, admin);
        (member.folder, member.machine) = (folder, Some(machine));
        member.start();
        self.media.push(member);
    }

    fn media_command(
        &self,
        folder: &Path,
        [control, admin]: [SocketAddrV4; 2],
        ip: &str,
        ports: (u16, u16),
    ) -> Command {
        let joins: Vec<String> = self.control.iter().map(ToString::to_string).collect();
        let mut command = command(folder, "media");
        command
            .env("HOLDFAST_JOIN", joins.join(","))
            .env("HOLDFAST_CONTROL_BIND", control.to_string())
            .env("HOLDFAST_ADMIN_BIND", admin.to_string())
            .env("HOLDFAST_MEDIA_BIND", ip)
            .env("HOLDFAST_MEDIA_PORTS", format!("{}-{}", ports.0, ports.1))
            .env("HOLDFAST_MAX_CALLS", self.calls.max(100).to_string());
        command
    }

    fn member(&self, command: Command, name: String, admin: SocketAddrV4) -> Member {
        Member { daemon: None, command, name, admin, folder: self.folder.clone(), machine: None }
    }

    /// Waits until every signaling process is ready and has links with all others.
    pub(crate) fn wait_for_links(&mut self) {
        let others = self.signaling.len() + self.media.len() - 1;
        for member in &mut self.signaling {
            let admin = member.admin;
            let is_linked = || {
                let own = own_name(admin)?;
                let node = ask(admin, "GET", &format!("/nodes/{own}"))?;
                let links = node["links"].as_array()?;
                let up = links.iter().filter(|link| link["state"] == "up").count();
                let ready = get(admin, "/ready")?.contains("\"ready\"");
                (ready && up >= others).then_some(())
            };
            let daemon = member.daemon.as_mut().expect("it runs");
            daemon.until("is linked with all others", || is_linked().is_some());
        }
    }

    fn import(&self, users: usize) {
        let mut csv = "extension,password\n".to_owned();
        for user in 0..users {
            writeln!(csv, "{},{}", extension(user), password(user)).expect("a String");
        }
        let admin = self.signaling[0].admin;
        let url = format!("http://{admin}/api/v1/users/import?on_conflict=fail");
        let request = agent().post(&url).header("Authorization", format!("Bearer {TOKEN}"));
        let answer = request.header("Content-Type", "text/csv").send(&csv);
        let told = answer.expect("the API answers").body_mut().read_to_string().expect("text");
        assert!(told.contains(&format!("\"created\":{users},")), "{told}");
        // The other process reads what has changed once a second.
        std::thread::sleep(Duration::from_secs(2));
    }

    /// Tells a process something, as `kill` does.
    pub(crate) fn signal(&self, part: Part, signal: Signal) {
        let daemon = match part {
            Part::Signaling(number) => self.signaling[number].daemon.as_ref(),
            Part::Media(number) => self.media[number].daemon.as_ref(),
            Part::Database => return self.postgres.signal(signal),
        };
        if let Some(daemon) = daemon {
            daemon.signal(signal);
        }
    }

    /// Starts a process that has ended, or is about to.
    pub(crate) fn start_again(&mut self, part: Part) {
        match part {
            Part::Signaling(number) => self.signaling[number].start(),
            Part::Media(number) => self.media[number].start(),
            Part::Database => self.postgres.start_again(),
        }
    }

    /// Pulls the cable of a media host.
    pub(crate) fn unplug(&self, media: usize) {
        let machine = self.media[media].machine.as_ref();
        machine.expect("a host of its own").unplug();
    }

    /// A media process has ended.
    pub(crate) fn is_over(&mut self, media: usize) -> bool {
        self.media[media].daemon.as_mut().is_none_or(Daemon::is_over)
    }

    /// Name and document of a signaling process.
    pub(crate) fn node(&self, number: usize) -> Option<(String, Value)> {
        let admin = self.signaling[number].admin;
        let name = own_name(admin)?;
        let node = ask(admin, "GET", &format!("/nodes/{name}"))?;
        Some((name, node))
    }

    /// Where that signaling process serves the API.
    pub(crate) fn admin(&self, number: usize) -> SocketAddrV4 {
        self.signaling[number].admin
    }

    /// A page of a list, as that signaling process gives it, not read yet.
    pub(crate) fn page(&self, number: usize, path: &str) -> String {
        ask_text(self.signaling[number].admin, "GET", path).expect("an answer")
    }

    /// Asks one signaling process to have itself drained.
    pub(crate) fn drain(&self, number: usize) {
        let admin = self.signaling[number].admin;
        let name = own_name(admin).expect("the node answers");
        ask(admin, "POST", &format!("/nodes/{name}/drain")).expect("an order that is taken");
    }

    /// New calls keep away from a media host (`drain`), or come to it again (`undrain`); waits until all know.
    pub(crate) fn tell_media(&self, media: usize, order: &str) {
        let name = &self.media[media].name;
        let wanted = if order == "drain" { "draining" } else { "ready" };
        for member in &self.signaling {
            let told = ask(member.admin, "POST", &format!("/nodes/{name}/{order}"));
            told.expect("an order that is taken");
            eventually("a media node's state is known", || {
                let nodes = ask(member.admin, "GET", "/nodes")?;
                let mut nodes = nodes["items"].as_array()?.iter();
                let is_it = |node: &&Value| node["name"] == name.as_str();
                (nodes.find(is_it)?["state"] == wanted).then_some(())
            });
        }
    }

    /// All CDRs, as soon as they are all or their time is over; asked of the process that lives.
    pub(crate) fn cdrs(&self, patience: Nanos, are_all: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = now() + patience;
        let mut cdrs = Vec::new();
        loop {
            let after = cdrs.last().map_or(0, |cdr: &Value| cdr["sequence"].as_u64().unwrap_or(0));
            let path = format!("/cdrs?limit={PAGE}&after={after}");
            let page = self.signaling.iter().rev().find_map(|of| ask(of.admin, "GET", &path));
            let items = page.and_then(|page| page["items"].as_array().cloned()).unwrap_or_default();
            let is_last = items.len() < PAGE;
            cdrs.extend(items);
            if is_last && (are_all(&cdrs) || now() > deadline) {
                return cdrs;
            }
            if is_last {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    /// The one number that a query gives.
    pub(crate) fn number(&self, query: &str) -> u64 {
        self.postgres.asked(NAME, query).parse().expect("a number")
    }
}

/// A process of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Signaling(usize),
    Media(usize),
    Database,
}

impl Member {
    fn start(&mut self) {
        // Told to end before: dropping it waits, and it may be frozen.
        if let Some(former) = &self.daemon {
            former.signal(Signal::SIGKILL);
        }
        self.daemon = None;
        let Self { name, folder, command, .. } = self;
        let start = || Daemon::start(name, Signal::SIGKILL, folder, command);
        self.daemon = Some(match &self.machine {
            Some(machine) => machine.inside(start),
            None => start(),
        });
    }
}

fn local() -> SocketAddrV4 {
    SocketAddrV4::new(own_ip(), port())
}

fn own_name(admin: SocketAddrV4) -> Option<String> {
    let health: Value = serde_json::from_str(&get(admin, "/health")?).ok()?;
    Some(health["node"].as_str()?.to_owned())
}

fn ask(admin: SocketAddrV4, method: &str, path: &str) -> Option<Value> {
    let text = ask_text(admin, method, path)?;
    Some(serde_json::from_str(&text).unwrap_or(Value::Null))
}

fn ask_text(admin: SocketAddrV4, method: &str, path: &str) -> Option<String> {
    let url = format!("http://{admin}/api/v1{path}");
    let bearer = format!("Bearer {TOKEN}");
    let answer = match method {
        "POST" => agent().post(&url).header("Authorization", bearer).send_empty(),
        _ => agent().get(&url).header("Authorization", bearer).call(),
    };
    answer.ok()?.body_mut().with_config().limit(64 << 20).read_to_string().ok()
}
