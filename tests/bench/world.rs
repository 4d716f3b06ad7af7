//! Processes and folders that end with the run, however it ends: by return, by panic, by signal (`PR_SET_PDEATHSIG`).
//!
//! Invariant: a process is pinned before it executes anything of its own.

use super::clock::eventually;
use super::postgres::Postgres;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

/// Of servers and databases.
pub(crate) const SERVER_CORE: usize = 0;
/// Of the generator.
pub(crate) const GENERATOR_CORE: usize = 1;
/// Patience with a process that was told to end.
const MANNERS: Duration = Duration::from_secs(5);

/// What is there for a whole run.
pub(crate) struct World {
    /// A server for each contender, so that neither pays for the other.
    databases: [OnceCell<Postgres>; 3],
    folder: PathBuf,
}

/// Whose database.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Peer,
    Holdfast,
    /// One that counts what its statements take.
    Watched,
}

impl World {
    /// With this thread on the generator's core.
    pub(crate) fn new() -> Self {
        let folder = env::temp_dir().join(format!("holdfast-bench-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        end_on_signal(folder.clone());
        pin(GENERATOR_CORE);
        Self { databases: Default::default(), folder }
    }

    /// From now on with all cores for servers, and with room.
    /// False: others' ports are there, and hosts of our own are not had.
    pub(crate) fn make_room(&self) -> bool {
        ANYWHERE.store(true, Ordering::Relaxed);
        self.make_ports()
    }

    /// As many descriptors as may be had, and a network of its own where that is permitted: nobody else's ports are in
    /// the way then.
    pub(crate) fn make_ports(&self) -> bool {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("in the network of this machine: a network of its own is not had ({error})");
            return false;
        }
        printed("ip", &["link", "set", "lo", "up"]);
        // Media nodes take the ports above.
        let range = fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 5999");
        range.expect("a network of our own");
        true
    }

    /// A folder of its own for a process.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(format!("{name}-{}", port()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    pub(crate) fn database(&self, side: Side) -> &Postgres {
        let settings: &[&str] = match side {
            Side::Peer | Side::Holdfast => &[],
            Side::Watched => &["shared_preload_libraries=pg_stat_statements"],
        };
        self.databases[side as usize].get_or_init(|| Postgres::start(self, settings))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.databases = Default::default();
        if thread::panicking() {
            eprintln!("logs are in {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Process groups that run, for the thread that waits for signals.
static GROUPS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Signals that end a run.
fn ends() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

fn end_on_signal(folder: PathBuf) {
    ends().thread_block().expect("a mask");
    thread::spawn(move || {
        let _ = ends().wait();
        for group in GROUPS.lock().expect("nobody panics with it").iter() {
            let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(folder);
        process::exit(130);
    });
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("a small number");
    if sched_setaffinity(Pid::from_raw(0), &cores).is_err() {
        eprintln!("this machine has no core {core}: figures of a shared core say little");
    }
}

/// Where phones, signaling and databases are: this machine alone, or a network with hosts beside it.
static OWN_IP: Mutex<Ipv4Addr> = Mutex::new(Ipv4Addr::LOCALHOST);

pub(crate) fn own_ip() -> Ipv4Addr {
    *OWN_IP.lock().expect("nobody panics with it")
}

/// What is started from now on is there.
pub(crate) fn live_at(ip: Ipv4Addr) {
    *OWN_IP.lock().expect("nobody panics with it") = ip;
}

/// Servers may use all cores: for times that a machine takes, where nothing is compared.
static ANYWHERE: AtomicBool = AtomicBool::new(false);

fn place_servers() {
    if !ANYWHERE.load(Ordering::Relaxed) {
        return pin(SERVER_CORE);
    }
    let mut cores = CpuSet::new();
    (0..CpuSet::count()).for_each(|core| cores.set(core).expect("below the count"));
    let _ = sched_setaffinity(Pid::from_raw(0), &cores);
}

/// A running program; told to end when dropped.
pub(crate) struct Daemon {
    child: Child,
    stop: Signal,
    log: PathBuf,
    name: String,
}

impl Daemon {
    /// Starts a program on the servers' core, with its outputs in a log below its folder. Behind `setpriv`, which has the
    /// kernel end it when we are gone, and `setsid`: where the kernel shares time by sessions, a generator in the session
    /// of busy servers would starve.
    pub(crate) fn start(name: &str, stop: Signal, folder: &Path, command: &Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("a log");
        let mut guarded = Command::new("setsid");
        guarded.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(command.get_program());
        guarded.args(command.get_args()).current_dir(command.get_current_dir().unwrap_or(folder));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(name, value),
                None => guarded.env_remove(name),
            };
        }
        let errors = output.try_clone().expect("a second handle");
        guarded.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A child inherits both the core and what is blocked.
        place_servers();
        ends().thread_unblock().expect("a mask");
        let child = guarded.spawn();
        ends().thread_block().expect("a mask");
        pin(GENERATOR_CORE);
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        GROUPS.lock().expect("nobody panics with it").push(group(&child));
        Self { child, stop, log, name: name.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// To this process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(group(&self.child)), signal);
    }

    /// It has ended.
    pub(crate) fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `probe` says so, while it lives.
    pub(crate) fn until(&mut self, what: &str, mut probe: impl FnMut() -> bool) {
        let Self { child, log, name, .. } = self;
        eventually(&format!("{name} {what}"), || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{name} ended with {status}: {}", last_lines(log));
            }
            probe().then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = group(&self.child);
        let _ = kill(Pid::from_raw(id), self.stop);
        let deadline = Instant::now() + MANNERS;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        // Also those that it left behind.
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        let _ = self.child.wait();
        GROUPS.lock().expect("nobody panics with it").retain(|group| *group != id);
        if thread::panicking() {
            eprintln!("---- {} ----\n{}", self.name, last_lines(&self.log));
        }
    }
}

fn group(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id")
}

fn last_lines(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A port that nobody uses, below those that the kernel gives away.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(process::id() % 400).expect("small");
    loop {
        let port = 6_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000;
        let at = (own_ip(), port);
        if std::net::UdpSocket::bind(at).is_ok() && std::net::TcpListener::bind(at).is_ok() {
            return port;
        }
    }
}

/// What a program prints, for versions and small errands.
pub(crate) fn printed(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            String::from_utf8_lossy(&text).trim().to_owned()
        }
        Err(error) => format!("not found ({error})"),
    }
}
