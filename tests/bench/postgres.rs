//! A PostgreSQL server of our own on a loopback port: durable, as an operator runs it (`fsync`, `synchronous_commit`).

use super::world::{Daemon, World, port, printed};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's name of the account; the server refuses to run as root.
const ACCOUNT: &str = "postgres";
/// Owner of all databases.
const ROLE: &str = "bench";

/// A running server.
pub(crate) struct Postgres {
    daemon: Option<Daemon>,
    server: Command,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// With these settings besides.
    pub(crate) fn start(world: &World, settings: &[&str]) -> Self {
        let folder = world.folder("postgres");
        let data = folder.join("data");
        fs::create_dir_all(&data).expect("a folder");
        let owner = owner();
        if let Some(owner) = &owner {
            let (uid, gid) = (owner.uid.as_raw(), owner.gid.as_raw());
            chown(&data, Some(uid), Some(gid)).expect("root may give folders away");
        }
        let mut initdb = as_owner(owner.as_ref(), &program("initdb"));
        initdb.args(["-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        // Its working directory must be one that the account may enter.
        let output = initdb.current_dir("/").output().expect("initdb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let port = port();
        let mut server = as_owner(owner.as_ref(), &program("postgres"));
        server.arg("-D").arg(&data).current_dir("/");
        let usual = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=256MB",
            "max_wal_size=4GB",
            "checkpoint_timeout=15min",
            "max_connections=100",
            &format!("port={port}"),
        ];
        for setting in usual.iter().chain(settings) {
            server.args(["-c", setting]);
        }
        let mut postgres = Self { daemon: None, server, folder, port };
        postgres.start_again();
        let arguments = ["-h", "127.0.0.1", "-p", &port.to_string()];
        let probe = || printed(program("pg_isready"), &arguments).contains("accepting");
        postgres.daemon.as_mut().expect("just started").until("is ready", probe);
        postgres
    }

    /// After its end, or while it is on its way there; waits for nothing else.
    pub(crate) fn start_again(&mut self) {
        self.daemon = None;
        let daemon = Daemon::start("postgres", Signal::SIGINT, &self.folder, &self.server);
        self.daemon = Some(daemon);
    }

    /// SIGINT ends it as an operator would: its connections break.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(signal);
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Daemon::id)
    }

    /// An empty database; its URL.
    pub(crate) fn fresh(&self, name: &str) -> String {
        self.run("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE);"));
        self.run("postgres", &format!("CREATE DATABASE {name};"));
        format!("postgres://{ROLE}@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs statements.
    pub(crate) fn run(&self, database: &str, sql: &str) {
        self.asked(database, sql);
    }

    /// Runs statements; what the last one gave, as text.
    pub(crate) fn asked(&self, database: &str, sql: &str) -> String {
        let mut client = Command::new("psql");
        client.args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", ROLE]);
        client.args(["-d", database, "-p", &self.port.to_string()]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = client.spawn().expect("psql runs: apt-get install -y postgresql");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(sql.as_bytes()).expect("psql reads");
        drop(input);
        let output = child.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// The newest that is installed.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name));
    let newest = found.filter(|path| path.exists()).max();
    newest.unwrap_or_else(|| panic!("no {name}: apt-get install -y postgresql"))
}

fn owner() -> Option<User> {
    let is_root = Uid::effective().is_root();
    is_root.then(|| User::from_name(ACCOUNT).ok().flatten().expect("Debian's package makes it"))
}

fn as_owner(owner: Option<&User>, program: &Path) -> Command {
    let Some(owner) = owner else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={}", owner.uid),
        &format!("--regid={}", owner.gid),
        "--clear-groups",
        // A change of user clears what the outer guard had asked of the kernel.
        "--pdeathsig=INT",
        "--",
    ]);
    command.arg(program);
    command
}
