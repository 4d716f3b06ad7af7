//! A PostgreSQL of our own on a loopback port, in a folder of its own.
//!
//! Invariant: it ends with the process that started it, however that one ends: a shell between the two reads a pipe
//! from us and stops the server when our end is closed.

use super::{SOON, eventually, own_ip, ports};
use nix::unistd::{Uid, User};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Says nothing and waits; `keep` leaves the folder for the next start.
const GUARD: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 & server=$!
read -r word
kill -INT $server; wait $server
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// A running or stopped server.
pub(crate) struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    ip: Ipv4Addr,
    port: u16,
    guard: Option<Child>,
}

impl Postgres {
    /// One for all tests of this binary that do not stop it.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new one.
    pub(crate) fn start() -> Self {
        let mut server = Self::in_folder();
        server.initialize();
        server.run();
        server
    }

    fn in_folder() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-postgres-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder for the server");
        if let Some(user) = owner() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(&folder, Some(uid), Some(gid)).expect("root may give folders away");
        }
        Self { folder, programs: programs(), ip: own_ip(), port: ports::port(), guard: None }
    }

    /// A streaming replica, not waited for by commits: it may lack the last ones.
    pub(crate) fn replica(&self) -> Self {
        let mut server = Self::in_folder();
        let mut command = as_owner(&self.programs.join("pg_basebackup"));
        let port = self.port.to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "holdfast", "-R", "-c", "fast", "-D"]);
        let output = command.arg(server.folder.join("data")).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server.run();
        server
    }

    /// A replica that has all that this server has, and gets nothing from now on.
    pub(crate) fn cut_off(&self, replica: &Self) {
        let written = self.number("select (pg_current_wal_lsn() - '0/0')::bigint");
        let has = "select (coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0')::bigint";
        eventually("the replica has all", SOON, || (replica.number(has) >= written).then_some(()));
        replica.execute("alter system set primary_conninfo = ''");
        replica.execute("select pg_reload_conf()");
        let receivers = "select count(*) from pg_stat_wal_receiver";
        eventually("nothing is received", SOON, || (replica.number(receivers) == 0).then_some(()));
    }

    fn initialize(&self) {
        let mut command = as_owner(&self.programs.join("initdb"));
        command.args(["-A", "trust", "-U", "holdfast", "-E", "UTF8", "--locale=C", "-N", "-D"]);
        let output = command.arg(self.folder.join("data")).output().expect("initdb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Other hosts of a test's own network, if it has one.
        let access = self.folder.join("data/pg_hba.conf");
        let mut access = fs::OpenOptions::new().append(true).open(access).expect("made by initdb");
        access.write_all(b"host all all samenet trust\n").expect("a line");
    }

    /// Starts it again where it was.
    pub(crate) fn run(&mut self) {
        let log = self.folder.join("log");
        let before = ready(&log);
        let mut command = as_owner(Path::new("sh"));
        command.args(["-c", GUARD, "sh"]).arg(&self.folder);
        command.arg(self.programs.join("postgres")).arg("-D").arg(self.folder.join("data"));
        for setting in [
            &format!("listen_addresses={}", self.ip),
            "unix_socket_directories=",
            "max_connections=200",
            "fsync=off",
            "deadlock_timeout=100ms",
            &format!("port={}", self.port),
        ] {
            command.args(["-c", setting]);
        }
        let guard = command.stdin(Stdio::piped()).spawn().expect("a shell");
        self.guard = Some(guard);
        eventually("PostgreSQL is ready", SOON * 3, || (ready(&log) > before).then_some(()));
    }

    /// Starts it again when it was stopped.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn run_unless_it_runs(&mut self) {
        if self.guard.is_none() {
            self.run();
        }
    }

    /// Stops it as an operator would; its connections break.
    pub(crate) fn stop(&mut self) {
        self.end("keep\n");
    }

    fn end(&mut self, word: &str) {
        let Some(mut guard) = self.guard.take() else { return };
        if let Some(mut pipe) = guard.stdin.take() {
            let _ = pipe.write_all(word.as_bytes());
        }
        let _ = guard.wait();
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }

    /// A statement of the test's own, to the database `postgres`.
    pub(crate) fn execute(&self, statement: &str) {
        self.ask(async |session| {
            session.execute(AssertSqlSafe(statement)).await.expect("a good statement");
        });
    }

    /// The one number that a query gives.
    pub(crate) fn number(&self, query: &str) -> i64 {
        self.ask(async |session| {
            let row = session.fetch_one(AssertSqlSafe(query)).await.expect("a good query");
            let small = row.try_get::<i32, _>(0).map(i64::from);
            small.or_else(|_| row.try_get(0)).expect("a number")
        })
    }

    fn ask<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let url = self.url("postgres");
            let mut session = PgConnection::connect(&url).await.expect("connected");
            work(&mut session).await
        })
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://holdfast@{}/{database}", self.host())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end("");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// How often the log says that the server takes connections.
fn ready(log: &Path) -> usize {
    let log = fs::read_to_string(log).unwrap_or_default();
    log.matches("database system is ready to accept").count()
}

/// PostgreSQL does not run as root: then it runs as the user that its package made.
fn owner() -> Option<User> {
    Uid::effective().is_root().then(|| {
        let found = User::from_name("postgres").expect("users can be read");
        found.expect("there is no user postgres: apt-get install -y postgresql")
    })
}

fn as_owner(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = owner() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    }
    command
}

/// Debian keeps them out of the path, a folder a version: the newest.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("initdb").exists())
        .collect();
    folders.sort();
    let newest = folders.pop();
    newest.expect("PostgreSQL is not installed: apt-get install -y postgresql").1
}
