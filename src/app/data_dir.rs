//! The data directory: slots and names of the processes of a host, secrets, the lock on an embedded
//! database.
//!
//! Invariants: locks are `flock`s, so they go with the process however it ends; secrets are
//! readable by their owner only and appear whole or not at all.

use super::config::{PortRange, Secret};
use super::mode::Mode;
use crate::media;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Processes of a host.
const SLOTS: u16 = 64;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made or written.
    #[error("{text}")]
    Unusable {
        /// What, why, and what helps.
        text: String,
    },
    /// Another process has it.
    #[error("{text}")]
    Busy {
        /// What, and who.
        text: String,
    },
}

/// A usable data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// What a slot tells others of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id in its own namespace.
    pub pid: u32,
    /// Inode of that namespace.
    pub pid_namespace: u64,
    /// Inode of its namespace of mounts: each container has one of its own, whatever else it shares.
    #[serde(default)]
    pub mount_namespace: u64,
    /// Name of the node.
    pub name: String,
    /// signaling, media or both.
    pub mode: String,
    /// Where its health is served; other processes may serve theirs there too.
    pub admin_url: String,
    /// Name, beside its slot, of the socket at which this very process is asked; `None` of a release that serves its
    /// API nowhere else than at its ports.
    #[serde(default)]
    pub own_socket: Option<String>,
}

/// A place among the processes of a host; given up when dropped.
#[derive(Debug)]
pub struct Slot {
    /// From 1.
    pub number: u16,
    /// Name of the node.
    pub name: String,
    path: PathBuf,
    file: File,
    _name: File,
}

/// Media ports of one process; given up when dropped.
#[derive(Debug)]
pub struct PortSlice {
    /// Which.
    pub range: media::PortRange,
    _lock: Option<File>,
}

impl DataDir {
    /// Makes it and its folders, and checks that they can be written.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |error: &io::Error| DataDirError::Unusable { text: advice(path, error) };
        std::fs::create_dir_all(path.join("slots")).map_err(|error| unusable(&error))?;
        let probe = scratch_file(path, "probe");
        File::create(&probe).map_err(|error| unusable(&error))?;
        std::fs::remove_file(&probe).map_err(|error| unusable(&error))?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lowest free slot. A name that was chosen is refused when a live process of this host has
    /// it.
    pub fn take_slot(&self, host: &str, chosen: Option<&str>) -> Result<Slot, DataDirError> {
        for number in 1..=SLOTS {
            let Some(file) = self.try_lock_twice(&self.slot_path(number))? else { continue };
            let name = chosen.map_or_else(|| format!("{host}-{number}"), str::to_owned);
            let Some(lock) =
                self.try_lock(&self.path.join("slots").join(format!("name-{name}")))?
            else {
                let text = format!("the name {name} is held by another live process of this host");
                return Err(DataDirError::Busy { text });
            };
            let path = self.slot_path(number);
            return Ok(Slot { number, name, path, file, _name: lock });
        }
        let text = format!("all {SLOTS} slots in {} are taken", self.path.display());
        Err(DataDirError::Busy { text })
    }

    /// The first slice of the media ports that no live process of this host has. A range that is not cut is nobody's
    /// own: ports that are taken are passed over.
    pub fn take_ports(&self, all: &PortRange, wanted: bool) -> Result<PortSlice, DataDirError> {
        let whole = media::PortRange { first: all.first, last: all.last };
        let Some(size) = all.slice.filter(|_| wanted) else {
            return Ok(PortSlice { range: whole, _lock: None });
        };
        let mut first = all.first;
        while let Some(last) = first.checked_add(size - 1).filter(|last| *last <= all.last) {
            let path = self.path.join("slots").join(format!("ports-{first}-{last}"));
            if let Some(lock) = self.try_lock(&path)? {
                let range = media::PortRange { first, last };
                return Ok(PortSlice { range, _lock: Some(lock) });
            }
            let Some(next) = last.checked_add(1) else { break };
            first = next;
        }
        let text = format!(
            "all slices of media_ports {}-{}/{size} are taken by processes of this host: \
             widen the range or make the slices smaller",
            all.first, all.last
        );
        Err(DataDirError::Busy { text })
    }

    /// Live holders of slots.
    pub fn holders(path: &Path) -> Vec<Holder> {
        let read = |number| {
            let mut file = File::open(path.join("slots").join(format!("{number}"))).ok()?;
            if file.try_lock_shared().is_ok() {
                return None;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            serde_json::from_str(&text).ok()
        };
        (1..=SLOTS).filter_map(read).collect()
    }

    /// Holders that a command typed here means: those of its container, or of its machine where there is none.
    pub fn holders_here(path: &Path) -> Vec<Holder> {
        let (pid, mount) = (namespace("pid"), namespace("mnt"));
        let mut all = Self::holders(path);
        all.retain(|holder| holder.pid_namespace == pid);
        if all.iter().any(|holder| holder.mount_namespace == mount) {
            all.retain(|holder| holder.mount_namespace == mount);
        }
        all
    }

    /// Where a holder itself is asked; `None` of a release that has no such place.
    pub fn own_socket(path: &Path, holder: &Holder) -> Option<PathBuf> {
        Some(path.join("slots").join(holder.own_socket.as_ref()?))
    }

    /// One process at a time on an embedded database. The lock is held until the file is dropped.
    pub fn lock_database(&self, database_url: &Secret) -> Result<Option<File>, DataDirError> {
        let Some(file) = database_url.expose().strip_prefix("sqlite:") else { return Ok(None) };
        let file = file.trim_start_matches("//").split('?').next().unwrap_or_default();
        if file.is_empty() || file.contains(":memory:") {
            return Ok(None);
        }
        let path = Path::new(file).with_extension("lock");
        if let Some(mut lock) = self.try_lock(&path)? {
            let pid = std::process::id().to_string();
            rewrite(&mut lock, &pid).map_err(|error| io_error(&path, &error))?;
            return Ok(Some(lock));
        }
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        let text = format!(
            "the database {file} is in use by process {}: SQLite serves one signaling process; \
             stop that one, or give both the same postgres:// database_url",
            pid.trim(),
        );
        Err(DataDirError::Busy { text })
    }

    /// A secret kept in a file: what is there, or a new one. Of several processes that start at
    /// once one wins.
    pub fn secret(&self, name: &str) -> Result<Secret, DataDirError> {
        if let Some(secret) = self.kept_secret(name)? {
            return Ok(secret);
        }
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.keep_secret(name, &text)
    }

    /// A secret that is kept already.
    pub fn kept_secret(&self, name: &str) -> Result<Option<Secret>, DataDirError> {
        read_secret(&self.path.join(name))
    }

    /// Keeps a secret, unless there is one; what is kept afterwards.
    pub fn keep_secret(&self, name: &str, text: &str) -> Result<Secret, DataDirError> {
        let path = self.path.join(name);
        let failed = |error: &io::Error| io_error(&path, error);
        let fresh = scratch_file(&self.path, name);
        write_private(&fresh, text).map_err(|error| failed(&error))?;
        // A link fails when the name exists: nobody's secret is ever replaced.
        let linked = std::fs::hard_link(&fresh, &path);
        std::fs::remove_file(&fresh).map_err(|error| failed(&error))?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&error));
            }
            Ok(()) | Err(_) => {}
        }
        read_secret(&path)?.ok_or_else(|| failed(&io::Error::from(io::ErrorKind::NotFound)))
    }

    /// Tells this host's processes from those of others: drawn once for all that share the directory.
    pub fn host_id(&self) -> Result<String, DataDirError> {
        Ok(self.secret("host_id")?.expose().chars().take(16).collect())
    }

    /// Waits until no other process of this host is at its first start. Held until the file is dropped.
    pub fn lock_first_start(&self) -> Result<File, DataDirError> {
        let path = self.path.join("first_start.lock");
        let file = lock_file(&path)?;
        file.lock().map_err(|error| io_error(&path, &error))?;
        Ok(file)
    }

    /// The secret is there.
    pub fn has_secret(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    fn slot_path(&self, number: u16) -> PathBuf {
        self.path.join("slots").join(number.to_string())
    }

    /// `holders` locks a slot for a moment to see whether it is free.
    fn try_lock_twice(&self, path: &Path) -> Result<Option<File>, DataDirError> {
        if let Some(file) = self.try_lock(path)? {
            return Ok(Some(file));
        }
        std::thread::sleep(core::time::Duration::from_millis(5));
        self.try_lock(path)
    }

    fn try_lock(&self, path: &Path) -> Result<Option<File>, DataDirError> {
        let file = lock_file(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io_error(path, &error)),
        }
    }
}

impl Slot {
    /// Our unix socket, beside those of the other processes of this host.
    pub fn socket(&self) -> PathBuf {
        self.path.with_extension("sock")
    }

    /// Our unix socket for those of this host who ask this very process.
    pub fn own_socket(&self) -> PathBuf {
        self.path.with_extension("own")
    }

    /// Tells others where this process serves its health.
    pub fn announce(&mut self, mode: Mode, admin_url: &str) -> io::Result<()> {
        let holder = Holder {
            pid: std::process::id(),
            pid_namespace: pid_namespace(),
            mount_namespace: namespace("mnt"),
            name: self.name.clone(),
            mode: mode.name().to_owned(),
            admin_url: admin_url.to_owned(),
            own_socket: self
                .own_socket()
                .file_name()
                .and_then(|name| Some(name.to_str()?.to_owned())),
        };
        let text = serde_json::to_string(&holder).map_err(io::Error::other)?;
        rewrite(&mut self.file, &text)
    }
}

/// Inode of this process's namespace of process ids: tells containers apart that share a data
/// directory.
pub fn pid_namespace() -> u64 {
    namespace("pid")
}

fn namespace(kind: &str) -> u64 {
    std::fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |data| data.ino())
}

/// A name that no other process of this host writes to: in containers every process has the id 1.
pub fn scratch_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}-{}-{}", pid_namespace(), std::process::id()))
}

/// Writes a file that only its owner reads.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn lock_file(path: &Path) -> Result<File, DataDirError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|error| io_error(path, &error))
}

fn read_secret(path: &Path) -> Result<Option<Secret>, DataDirError> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => {
            let error = io::Error::other("is empty: remove it or put a secret in it");
            Err(io_error(path, &error))
        }
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, &error)),
    }
}

fn rewrite(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

fn io_error(path: &Path, error: &io::Error) -> DataDirError {
    DataDirError::Unusable { text: advice(path, error) }
}

fn advice(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    let ids = (nix::unistd::geteuid(), nix::unistd::getegid());
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{shown} cannot be written by user {0}: \
             chown -R {0}:{1} the data directory, or set data_dir",
            ids.0, ids.1,
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{shown} is on a read-only file system: mount a volume there, or set data_dir")
        }
        _ => format!("{shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn slots_give_names_and_are_given_back() {
        let path = scratch("slots");
        let data = DataDir::open(&path).expect("usable");
        let mut first = data.take_slot("pbx", None).expect("free");
        let second = data.take_slot("pbx", None).expect("free");
        assert_eq!((first.name.as_str(), second.name.as_str()), ("pbx-1", "pbx-2"));
        first.announce(Mode::Media, "http://127.0.0.1:8090").expect("written");
        let holders = DataDir::holders(&path);
        assert_eq!(holders.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["pbx-1"]);
        assert!(matches!(data.take_slot("pbx", Some("pbx-2")), Err(DataDirError::Busy { .. })));
        drop(first);
        assert_eq!(DataDir::holders(&path), []);
        assert_eq!(data.take_slot("pbx", None).expect("free").number, 1);
        let _ = std::fs::remove_dir_all(&path);
    }

    #[test]
    fn a_secret_is_made_once_and_is_private() {
        let path = scratch("secret");
        let data = DataDir::open(&path).expect("usable");
        let secret = data.secret("admin_token").expect("made");
        assert_eq!(secret.expose().len(), 64);
        assert_eq!(data.secret("admin_token").expect("read"), secret);
        let mode = std::fs::metadata(path.join("admin_token")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _ = std::fs::remove_dir_all(&path);
    }

    #[test]
    fn the_second_process_on_a_database_is_told_of_the_first() {
        let path = scratch("lock");
        let data = DataDir::open(&path).expect("usable");
        let url = Secret::new(&format!("sqlite:{}", path.join("holdfast.db").display()));
        let lock = data.lock_database(&url).expect("free");
        assert!(lock.is_some());
        let error = data.lock_database(&url).expect_err("taken").to_string();
        assert!(error.contains(&format!("process {}:", std::process::id())), "{error}");
        let postgres = Secret::new("postgres://x/y");
        assert!(data.lock_database(&postgres).expect("no lock").is_none());
        drop(lock);
        assert!(data.lock_database(&url).is_ok());
        let _ = std::fs::remove_dir_all(&path);
    }
}
