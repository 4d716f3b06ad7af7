//! Child processes and folders that end with the test that made them.
//!
//! Invariant: when a test fails, the end of every process's log is shown.

use super::{SOON, eventually};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// A folder of its own, removed at the end unless the test failed.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = format!("holdfast-test-{}-{number}-{name}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir_all(&path).expect("a folder for temporary files");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A running program; killed when dropped.
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    /// Where it lives: removed after its end, never under its feet.
    folder: Option<Arc<Folder>>,
}

impl Process {
    /// Starts it with both outputs in `log`. `package` is what to install when it is not there.
    pub(crate) fn start(name: &str, command: &mut Command, log: PathBuf, package: &str) -> Self {
        let output = File::create(&log).expect("a log");
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{name} is not installed: apt-get install -y {package}")
            }
            Err(error) => panic!("{name} does not start: {error}"),
        };
        Self { name: name.to_owned(), log, child, folder: None }
    }

    /// The folder stays as long as the process.
    pub(crate) fn living_in(mut self, folder: &Arc<Folder>) -> Self {
        self.folder = Some(Arc::clone(folder));
        self
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: it can say nothing to anybody.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: it does nothing until it is thawed, and its sockets fill.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal);
    }

    /// Waits for its end.
    pub(crate) fn finish(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(&what, within, || self.child.try_wait().expect("a child of ours"))
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until its log says so.
    pub(crate) fn says(&self, text: &str) {
        eventually(&format!("{} says {text}", self.name), SOON, || {
            self.log().contains(text).then_some(())
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.len().saturating_sub(60);
            eprintln!("---- {} ----\n{}", self.name, lines[shown..].join("\n"));
        }
    }
}
