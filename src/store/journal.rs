//! The journal: an SQLite store in the host's data directory, for what the database did not take in time (design §7).
//!
//! Invariants: a journal has one process at a time, told by a lock that ends with it; a row leaves the journal when the
//! store has it, or has something later; replaying twice changes nothing, for each write is fenced; nobody claims calls
//! of the dead of this host while their journals are being replayed.

use super::batch::Part;
use super::sqlite::Sqlite;
use super::{
    Batch, BindingsWrite, COMMIT_DEADLINE, CallOutcome, Store, StoreError, tell_rejected, within,
};
use crate::directory::Binding;
use crate::ids::CallId;
use crate::time::Timestamp;
use core::time::Duration;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A journal that cannot be read is given up after so many.
const TRIES: u32 = 3;
/// Rows read at once.
const PAGE: usize = 500;
/// Another process of this host is replaying: that is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Journals of this host's processes, and which of them is ours.
#[derive(Clone, Debug)]
pub struct JournalFolder {
    path: PathBuf,
    name: String,
}

/// A journal that nobody else has.
#[derive(Debug)]
pub struct Journal {
    backend: Sqlite,
    name: String,
    path: PathBuf,
    /// When it was written last before it was opened.
    left_at: Timestamp,
    _lock: File,
}

/// Journals of this host are being replayed by whoever has it.
#[derive(Debug)]
pub struct ReplayLock {
    _lock: File,
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Calls that the store took.
    pub calls: usize,
    /// Users whose bindings it took.
    pub bindings: usize,
    /// It had something later, or another owner has the call.
    pub outdated: usize,
    /// It refused them, or they could not be read; they are in the log.
    pub refused: usize,
}

impl Replayed {
    /// There was nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.bindings += other.bindings;
        self.outdated += other.outdated;
        self.refused += other.refused;
    }
}

impl JournalFolder {
    /// `name` is the node's.
    pub fn new(path: PathBuf, name: &str) -> Self {
        Self { path, name: name.to_owned() }
    }

    /// This node's own journal, with what an earlier start left in it. Others wait with their claims until the lock is
    /// dropped: replay before that.
    pub async fn open(&self) -> Result<(Journal, ReplayLock), StoreError> {
        std::fs::create_dir_all(&self.path).map_err(|error| explain(&self.path, &error))?;
        let replaying = self.replay_lock().await?;
        match self.take(&self.name).await? {
            Some(journal) => Ok((journal, replaying)),
            None => {
                let why = format!("another process has the journal of {}", self.name);
                Err(StoreError::Unavailable(why))
            }
        }
    }

    /// Replays journals of processes of this host that are gone, and removes them. One that cannot be read holds
    /// nobody up.
    pub async fn replay_dead(&self, store: &Store) -> Result<Replayed, StoreError> {
        let mut total = Replayed::default();
        if self.others().is_empty() {
            return Ok(total);
        }
        let _replaying = self.replay_lock().await?;
        // Once more: another process may have been at it meanwhile.
        for name in self.others() {
            let journal = match self.take(&name).await {
                Ok(Some(journal)) => journal,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!("the journal that {name} left cannot be read: {error}");
                    continue;
                }
            };
            if let Some(replayed) = journal.replay_or_set_aside(store).await? {
                journal.remove_file().await;
                total.add(replayed);
            }
        }
        Ok(total)
    }

    fn others(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let name = entry.file_name();
            Some(name.to_str()?.strip_suffix(".db")?.to_owned())
        });
        names.filter(|name| *name != self.name).collect()
    }

    /// The journal of that name, unless its process lives.
    async fn take(&self, name: &str) -> Result<Option<Journal>, StoreError> {
        let Some(lock) = try_lock(&self.path.join(format!("{name}.lock")))? else {
            return Ok(None);
        };
        let path = self.path.join(format!("{name}.db"));
        let Some(text) = path.to_str() else {
            let why = format!("{}: not a name in UTF-8", path.display());
            return Err(StoreError::Unavailable(why));
        };
        let left_at = files(&path).iter().filter_map(|file| modified_at(file)).max();
        let backend = within(COMMIT_DEADLINE, Sqlite::connect(text)).await?;
        let left_at = left_at.unwrap_or(Timestamp::EPOCH);
        Ok(Some(Journal { backend, name: name.to_owned(), path, left_at, _lock: lock }))
    }

    async fn replay_lock(&self) -> Result<ReplayLock, StoreError> {
        let path = self.path.join("replay.lock");
        let polls = PATIENCE.as_millis() / POLL.as_millis();
        for _ in 0..polls {
            if let Some(lock) = try_lock(&path)? {
                return Ok(ReplayLock { _lock: lock });
            }
            tokio::time::sleep(POLL).await;
        }
        let why = "another process of this host is replaying a journal".to_owned();
        Err(StoreError::Unavailable(why))
    }
}

impl Journal {
    /// Keeps a batch. Outcomes in the order of its calls, as the store gives them.
    pub async fn write(&self, batch: &Batch) -> Result<Vec<CallOutcome>, StoreError> {
        let Some(part) = Part::of(batch) else { return Ok(Vec::new()) };
        within(COMMIT_DEADLINE, self.backend.commit(part)).await
    }

    /// The store has these.
    pub async fn remove(&self, calls: &[CallId], extensions: &[String]) -> Result<(), StoreError> {
        within(COMMIT_DEADLINE, self.backend.remove_kept(calls, extensions)).await
    }

    /// Of its files.
    pub fn bytes(&self) -> u64 {
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |data| data.len());
        files(&self.path)[..2].iter().map(size).sum()
    }

    /// Offers everything to the store and empties the journal.
    pub async fn replay(&self, store: &Store) -> Result<Replayed, StoreError> {
        let mut total = Replayed::default();
        loop {
            let calls = self.replay_calls(store).await?;
            let bindings = self.replay_bindings(store).await?;
            if calls.is_empty() && bindings.is_empty() {
                break;
            }
            total.add(calls);
            total.add(bindings);
        }
        if !total.is_empty() {
            let Replayed { calls, bindings, outdated, refused } = total;
            tracing::warn!(
                "the journal of {} was replayed: {calls} calls and the registrations of {bindings} \
                 users; {outdated} were out of date, {refused} refused",
                self.name
            );
        }
        Ok(total)
    }

    /// A journal that cannot be read although the store works must hold nobody up: it is set aside, where people find
    /// it, and the caller is to open a new one. An error tells of the store only.
    pub async fn replay_or_set_aside(&self, store: &Store) -> Result<Option<Replayed>, StoreError> {
        let mut tries = TRIES;
        let error = loop {
            tries -= 1;
            match self.replay(store).await {
                Ok(replayed) => return Ok(Some(replayed)),
                // It may have come back between the two.
                Err(error) if tries == 0 => break error,
                Err(_) => store.ping().await?,
            }
        };
        store.ping().await?;
        self.backend.close().await;
        let name = &self.name;
        tracing::error!(
            "the journal of {name} cannot be replayed: {error}; it is kept as {}.damaged",
            self.path.display()
        );
        for path in files(&self.path) {
            let mut aside = path.clone().into_os_string();
            aside.push(".damaged");
            // There may be no file of that kind.
            let _ = std::fs::rename(&path, &aside);
        }
        Ok(None)
    }

    async fn replay_calls(&self, store: &Store) -> Result<Replayed, StoreError> {
        let kept = within(COMMIT_DEADLINE, self.backend.kept_calls(PAGE)).await?;
        let mut done = Replayed::default();
        let (mut ids, mut batch) = (Vec::new(), Batch::default());
        for (id, save) in kept {
            ids.push(id);
            match save {
                Ok(save) => batch.calls.push(save),
                Err(error) => {
                    tracing::error!(call.id = %id, "call {id} in the journal is lost: {error}");
                    done.refused += 1;
                }
            }
        }
        let outcomes = store.commit(&batch).await?;
        for (save, outcome) in batch.calls.iter().zip(outcomes) {
            match outcome {
                CallOutcome::Done => done.calls += 1,
                CallOutcome::Fenced | CallOutcome::Duplicate(_) => done.outdated += 1,
                CallOutcome::Rejected(why) => {
                    tell_rejected(save, &why);
                    done.refused += 1;
                }
            }
        }
        self.remove(&ids, &[]).await?;
        Ok(done)
    }

    /// Bindings have no rev: their times tell.
    async fn replay_bindings(&self, store: &Store) -> Result<Replayed, StoreError> {
        let kept = within(COMMIT_DEADLINE, self.backend.kept_bindings(PAGE)).await?;
        let mut done = Replayed::default();
        let (mut names, mut batch) = (Vec::new(), Batch::default());
        for (extension, write) in kept {
            match write {
                Ok(write) => {
                    let stored = store.bindings_of(&extension).await?;
                    if is_later(&write, &stored, self.left_at) {
                        batch.bindings.push(write);
                        done.bindings += 1;
                    } else {
                        done.outdated += 1;
                    }
                }
                Err(error) => {
                    tracing::error!("registrations in the journal are lost: {error}");
                    done.refused += 1;
                }
            }
            names.push(extension);
        }
        store.commit(&batch).await?;
        self.remove(&[], &names).await?;
        Ok(done)
    }

    async fn remove_file(self) {
        self.backend.close().await;
        for path in files(&self.path) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("{} is left: {error}", path.display());
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// The database and what SQLite puts beside it.
fn files(database: &Path) -> [PathBuf; 3] {
    let beside = |suffix: &str| {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    [database.to_owned(), beside("-wal"), beside("-shm")]
}

fn modified_at(path: &Path) -> Option<Timestamp> {
    let time = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(u64::try_from(since.as_micros()).ok()?))
}

/// What the phone said last counts. No bindings at all tell that it left, at the latest when the journal was written:
/// that stands unless somebody came after.
fn is_later(kept: &BindingsWrite, stored: &[Binding], left_at: Timestamp) -> bool {
    let last = |bindings: &[Binding]| bindings.iter().map(|one| one.refreshed_at).max();
    last(&kept.bindings).or(Some(left_at)) >= last(stored)
}

fn try_lock(path: &Path) -> Result<Option<File>, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(|error| explain(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(explain(path, &error)),
    }
}

fn explain(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{} cannot be written: {error}", path.display()))
}
