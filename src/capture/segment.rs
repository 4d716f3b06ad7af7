//! Segment files: entries one after the other, each behind its length and its call; a file is closed when it is full or
//! old. `sweep` removes them.

use super::{CaptureConfig, bound};
use crate::encoding::append;
use crate::ids::CallId;
use crate::time::Timestamp;
use crate::views::ladder::{Entry, Scope};
use core::time::Duration;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// First byte of an entry.
const VERSION: u8 = 1;
/// Of the length and the call's id.
const HEAD: usize = 4 + 16;
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// And no more than this part of all that may be kept: what makes room is old.
const PARTS: u64 = 16;
/// A segment is not removed before its youngest entry may be: the shorter, the less is kept for nothing.
const SEGMENT_LIFE: Duration = Duration::from_secs(600);
/// Written at once.
const BUFFER: usize = 64 * 1024;
/// Bytes of most entries.
const ROOM: usize = 2_048;
/// An entry larger than this is none.
const ENTRY_BYTES: usize = 128 * 1024;
/// How the names of files end that hold what was moved.
pub(super) const KEPT: &str = ".kept.seg";
/// A file that was last written so long before a call began holds nothing of it, clocks aside.
const SKEW: Duration = Duration::from_secs(60);

/// Where a process writes.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    name: String,
    ending: &'static str,
    /// Bytes of a full file.
    full: u64,
    open: Option<Open>,
    count: u64,
    /// Where the next entry is made.
    room: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: BufWriter<File>,
    path: PathBuf,
    began: Timestamp,
    bytes: u64,
    /// Nothing was written since.
    is_flushed: bool,
}

impl Open {
    /// Another one is to be begun. It may have been swept while nothing was written.
    fn is_done(&self, at: Timestamp, full: u64) -> bool {
        self.bytes >= full
            || at.saturating_since(self.began) > SEGMENT_LIFE
            || (self.is_flushed && !self.path.exists())
    }
}

impl Segments {
    /// `name` is that of no other process.
    pub(super) fn new(config: &CaptureConfig, name: &str) -> Self {
        let full = SEGMENT_BYTES.min(config.bytes / PARTS);
        let (folder, name) = (config.folder.clone(), name.to_owned());
        Self { folder, name, ending: ".seg", full, open: None, count: 0, room: Vec::new() }
    }

    /// Of what was in other files before.
    pub(super) fn kept(config: &CaptureConfig, name: &str) -> Self {
        Self { ending: KEPT, ..Self::new(config, name) }
    }

    pub(super) fn write(&mut self, call: CallId, at: Timestamp, entry: &Entry) {
        let mut bytes = core::mem::take(&mut self.room);
        bytes.clear();
        bytes.reserve(ROOM);
        bytes.extend([0; HEAD]);
        bytes.push(VERSION);
        let mut bytes = append(bytes, entry).expect("entries are plain data");
        let length = u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX).to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        bytes[4..HEAD].copy_from_slice(&call.0.to_be_bytes());
        self.append(at, &bytes);
        self.room = bytes;
    }

    /// An entry as it stands in a file.
    pub(super) fn append(&mut self, at: Timestamp, bytes: &[u8]) {
        if self.open.as_ref().is_some_and(|open| open.is_done(at, self.full)) {
            self.flush();
            self.open = None;
        }
        if self.open.is_none() {
            match self.begin(at) {
                Ok(open) => self.open = Some(open),
                // A full disk costs ladders, not calls.
                Err(error) => return tracing::debug!("no signaling is kept: {error}"),
            }
        }
        let Some(open) = &mut self.open else { return };
        open.bytes += bytes.len() as u64;
        open.is_flushed = false;
        if let Err(error) = open.file.write_all(bytes) {
            tracing::debug!("signaling is not kept: {error}");
            // What was written in part ends this file; the next entry begins another.
            self.open = None;
        }
    }

    /// Nothing more is written to this one.
    pub(super) fn leave(&mut self, path: &Path) {
        self.open.take_if(|open| open.path == path);
    }

    pub(super) fn flush(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.is_flushed = true;
        if open.file.flush().is_err() {
            self.open = None;
        }
    }

    fn begin(&mut self, at: Timestamp) -> io::Result<Open> {
        fs::create_dir_all(&self.folder)?;
        self.count += 1;
        let path = self.folder.join(format!("{}-{:06}{}", self.name, self.count, self.ending));
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Open { file, path, began: at, bytes: 0, is_flushed: false })
    }
}

/// (path, when it was last written, bytes)
pub(super) fn segments(folder: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let path = entry.path();
        let data = entry.metadata().ok()?;
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        is_segment.then(|| Some((path, data.modified().ok()?, data.len())))?
    });
    found.collect()
}

/// What is kept of a call by all processes of this host, in the order of time. Blocks.
pub fn read(folder: &Path, call: CallId, scope: Scope) -> Vec<Entry> {
    // Ids are UUIDs of version 7: milliseconds stand first.
    let began = Duration::from_millis(u64::try_from(call.0 >> 80).unwrap_or(0));
    let began = SystemTime::UNIX_EPOCH + began.saturating_sub(SKEW);
    let mut found = Vec::new();
    for (path, written, _) in segments(folder) {
        if written < began {
            continue;
        }
        // It may have been swept meanwhile.
        let Ok(bytes) = fs::read(&path) else { continue };
        found = bound(scope, found.into_iter().chain(entries(&bytes, call)));
    }
    found.sort_by(|one, other| one.order().cmp(&other.order()));
    // What is being moved is in two files.
    found.dedup_by(|one, other| one.order() == other.order());
    found
}

/// Entries of a call in a file.
fn entries(bytes: &[u8], wanted: CallId) -> impl Iterator<Item = Entry> {
    let records = records(bytes).filter(move |(call, _)| *call == wanted);
    records.filter_map(|(_, record)| match record.get(HEAD..)?.split_first() {
        Some((&VERSION, entry)) => postcard::from_bytes(entry).ok(),
        Some(_) | None => None,
    })
}

/// What stands in a file, and whose it is; ends where the file is torn.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = (CallId, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEAD>()?;
        let [a, b, c, d, id @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
        let fits = length <= ENTRY_BYTES;
        let (record, next) = rest.split_at_checked(HEAD + length).filter(|_| fits)?;
        rest = next;
        Some((CallId(u128::from_be_bytes(*id)), record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::ladder::What;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn mark(number: u64, size: usize) -> Entry {
        let what = What::Mark("x".repeat(size));
        Entry { at: Timestamp::from_millis(number), node: "one".to_owned(), number, what }
    }

    #[test]
    fn a_calls_entries_are_found_in_all_files_and_behind_a_torn_end() {
        let folder = folder("segments");
        let life = Duration::from_secs(60);
        let config = CaptureConfig { folder: folder.clone(), life, bytes: u64::MAX };
        let mut one = Segments::new(&config, "one");
        let mut two = Segments::new(&config, "two");
        for number in 1..=4 {
            let segments = if number % 2 == 0 { &mut one } else { &mut two };
            segments.write(CallId(7), Timestamp::from_millis(number), &mark(number, 3));
            segments.write(CallId(8), Timestamp::from_millis(number), &mark(number, 3));
        }
        one.flush();
        two.flush();
        let numbers = |call| {
            let found = read(&folder, CallId(call), Scope::Signaling);
            found.iter().map(|entry| entry.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), [1, 2, 3, 4]);
        let path = folder.join("one-000001.seg");
        let bytes = fs::read(&path).expect("written");
        for end in (0..bytes.len()).rev() {
            fs::write(&path, &bytes[..end]).expect("torn");
            assert!(numbers(7).starts_with(&[1]), "{end}");
        }
        assert_eq!(numbers(9), [0; 0]);
        let _ = fs::remove_dir_all(folder);
    }
}
