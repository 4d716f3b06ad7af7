//! Segment files: entries one after the other, each behind its length and its call; a file is closed when it is full or
//! old, and removed when all of it is too old or there is too much.

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
/// A segment is not removed before its youngest entry may be: the shorter, the less is kept for nothing.
const SEGMENT_LIFE: Duration = Duration::from_secs(600);
/// Written at once.
const BUFFER: usize = 64 * 1024;
/// Bytes of most entries.
const ROOM: usize = 2_048;
/// An entry larger than this is none.
const ENTRY_BYTES: usize = 128 * 1024;
/// A file that was last written so long before a call began holds nothing of it, clocks aside.
const SKEW: Duration = Duration::from_secs(60);

/// Where a process writes.
pub(super) struct Segments {
    config: CaptureConfig,
    name: String,
    open: Option<Open>,
    count: u64,
}

struct Open {
    file: BufWriter<File>,
    began: Timestamp,
    bytes: u64,
}

impl Segments {
    /// `name` is that of no other process.
    pub(super) fn new(config: CaptureConfig, name: &str) -> Self {
        Self { config, name: name.to_owned(), open: None, count: 0 }
    }

    pub(super) fn write(&mut self, call: CallId, at: Timestamp, entry: &Entry) {
        let is_done = |open: &Open| {
            open.bytes >= SEGMENT_BYTES || at.saturating_since(open.began) > SEGMENT_LIFE
        };
        if self.open.as_ref().is_some_and(is_done) {
            self.flush();
            self.open = None;
        }
        if self.open.is_none() {
            self.sweep(at);
            match self.begin(at) {
                Ok(open) => self.open = Some(open),
                // A full disk costs ladders, not calls.
                Err(error) => return tracing::debug!("no signaling is kept: {error}"),
            }
        }
        let Some(open) = &mut self.open else { return };
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.extend([0; HEAD]);
        bytes.push(VERSION);
        let mut bytes = append(bytes, entry).expect("entries are plain data");
        let length = u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX).to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        bytes[4..HEAD].copy_from_slice(&call.0.to_be_bytes());
        open.bytes += bytes.len() as u64;
        if let Err(error) = open.file.write_all(&bytes) {
            tracing::debug!("signaling is not kept: {error}");
            // What was written in part ends this file; the next entry begins another.
            self.open = None;
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(open) = &mut self.open
            && open.file.flush().is_err()
        {
            self.open = None;
        }
    }

    fn begin(&mut self, at: Timestamp) -> io::Result<Open> {
        fs::create_dir_all(&self.config.folder)?;
        self.count += 1;
        let name = format!("{}-{:06}.seg", self.name, self.count);
        let path = self.config.folder.join(name);
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        Ok(Open { file: BufWriter::with_capacity(BUFFER, file), began: at, bytes: 0 })
    }

    /// Also what processes left that are gone.
    fn sweep(&self, now: Timestamp) {
        let mut all = segments(&self.config.folder);
        all.sort_by_key(|(_, written, _)| core::cmp::Reverse(*written));
        let mut bytes = 0;
        for (path, written, size) in all {
            bytes += size;
            let now = SystemTime::UNIX_EPOCH + Duration::from_micros(now.as_micros());
            let age = now.duration_since(written).unwrap_or_default();
            if bytes > self.config.bytes || age > self.config.life {
                // Another process may have done so.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// (path, when it was last written, bytes)
fn segments(folder: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
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
    found
}

/// Entries of a call in a file; ends where the file is torn.
fn entries(bytes: &[u8], call: CallId) -> impl Iterator<Item = Entry> {
    let wanted = call.0.to_be_bytes();
    let mut rest = bytes;
    let records = core::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<HEAD>()?;
        let [a, b, c, d, id @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
        let (record, next) = behind.split_at_checked(length).filter(|_| length <= ENTRY_BYTES)?;
        rest = next;
        Some((*id == wanted).then_some(record))
    });
    records.flatten().filter_map(|record| match record.split_first() {
        Some((&VERSION, entry)) => postcard::from_bytes(entry).ok(),
        Some(_) | None => None,
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

    fn segments_in(folder: &Path, name: &str, bytes: u64) -> Segments {
        let config =
            CaptureConfig { folder: folder.to_owned(), life: Duration::from_secs(60), bytes };
        Segments::new(config, name)
    }

    fn mark(number: u64, size: usize) -> Entry {
        let what = What::Mark("x".repeat(size));
        Entry { at: Timestamp::from_millis(number), node: "one".to_owned(), number, what }
    }

    #[test]
    fn a_calls_entries_are_found_in_all_files_and_behind_a_torn_end() {
        let folder = folder("segments");
        let mut one = segments_in(&folder, "one", u64::MAX);
        let mut two = segments_in(&folder, "two", u64::MAX);
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

    #[test]
    fn the_oldest_make_room() {
        let folder = folder("segments-full");
        let mut segments = segments_in(&folder, "one", 6 * 1024 * 1024);
        for number in 1..=400 {
            segments.write(CallId(7), Timestamp::from_millis(number), &mark(number, 100_000));
        }
        segments.flush();
        let kept: u64 = super::segments(&folder).iter().map(|(.., size)| size).sum();
        assert!(kept < 16 * 1024 * 1024, "{kept}");
        let found = read(&folder, CallId(7), Scope::Signaling);
        assert_eq!(found.last().map(|entry| entry.number), Some(400));
        let _ = fs::remove_dir_all(folder);
    }
}
