//! Which segment files are to go, and what of them is not: what was said in calls that live, or that ended a short time
//! ago, moves on to another file.
//!
//! Invariants: one process of the host is at it at a time, by a lock on the file that is to go, which goes with the
//! process; what moves stands in its new file before the old one is removed; what was moved is at most half of what
//! may be kept, and files that make room leave no more than that.

use super::CaptureConfig;
use super::segment::{KEPT, Segments, records, segments};
use crate::ids::CallId;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What moved is looked at again after this part of the time for which it is kept: its call may have ended since.
const KEPT_AGAIN: u32 = 8;

/// Removes what processes of this host wrote, also those that are gone.
#[derive(Debug)]
pub struct Sweeper {
    config: CaptureConfig,
    kept: Segments,
}

/// A file that is to go. No other process has it.
#[derive(Debug)]
pub struct Due {
    path: PathBuf,
    /// Locked.
    file: File,
    bytes: Vec<u8>,
    /// There is too much; else it is old.
    makes_room: bool,
    /// So many bytes of it may move.
    most: u64,
}

impl Due {
    /// Whose entries it holds.
    pub fn calls(&self) -> BTreeSet<CallId> {
        records(&self.bytes).map(|(call, _)| call).collect()
    }

    /// It is not left, whatever is known of its calls.
    pub const fn makes_room(&self) -> bool {
        self.makes_room
    }
}

impl Sweeper {
    /// `name` is that of no other process.
    pub fn new(config: CaptureConfig, name: &str) -> Self {
        let kept = Segments::kept(&config, name);
        Self { config, kept }
    }

    /// How long a call's signaling is kept after its end.
    pub const fn life(&self) -> Duration {
        self.config.life
    }

    /// The oldest file, if it is to go and nobody is at it. Blocks.
    pub fn claim(&self, now: Timestamp) -> Option<Due> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(now.as_micros());
        let mut all = segments(&self.config.folder);
        all.sort_by(|(path, at, _), (other, since, _)| (at, path).cmp(&(since, other)));
        let mut bytes: u64 = all.iter().map(|(.., size)| size).sum();
        let mut moved: u64 = all.iter().filter(|one| is_kept(&one.0)).map(|(.., size)| size).sum();
        for (path, written, size) in all {
            let makes_room = bytes > self.config.bytes;
            let age = now.duration_since(written).unwrap_or_default();
            let is_moved = is_kept(&path);
            let life = if is_moved { self.config.life / KEPT_AGAIN } else { self.config.life };
            if !makes_room && age <= life {
                continue;
            }
            bytes -= size;
            moved -= if is_moved { size } else { 0 };
            let Ok(mut file) = File::open(&path) else { continue };
            file.try_lock().ok()?;
            if file.metadata().is_ok_and(|data| data.nlink() == 0) {
                // Who had it before has removed it.
                continue;
            }
            let most = (self.config.bytes / 2).saturating_sub(moved);
            let mut bytes = Vec::new();
            if let Err(error) = file.read_to_end(&mut bytes) {
                tracing::debug!("signaling is kept no longer: {error}");
            }
            return Some(Due { path, file, bytes, makes_room, most });
        }
        None
    }

    /// What was said in calls that stay moves on, and the file is removed. False: it is still there. Blocks.
    pub fn remove(&mut self, due: &Due, now: Timestamp, stays: impl Fn(CallId) -> bool) -> bool {
        let size = due.file.metadata().map_or(0, |data| data.len());
        if !due.makes_room && size > due.bytes.len() as u64 {
            // Its writer went on: it is not old any more.
            return false;
        }
        self.kept.leave(&due.path);
        let mut room = due.most;
        for (_, record) in records(&due.bytes).filter(|(call, _)| stays(*call)) {
            let Some(left) = room.checked_sub(record.len() as u64) else { break };
            room = left;
            self.kept.append(now, record);
        }
        self.kept.flush();
        fs::remove_file(&due.path).is_ok()
    }
}

fn is_kept(path: &Path) -> bool {
    path.to_string_lossy().ends_with(KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::segment::read;
    use crate::net::clock;
    use crate::views::ladder::{Entry, Scope, What};

    const LIFE: Duration = Duration::from_secs(60);

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn config(&self, bytes: u64) -> CaptureConfig {
            CaptureConfig { folder: self.0.clone(), life: LIFE, bytes }
        }

        fn sweeper(&self, name: &str) -> Sweeper {
            Sweeper::new(self.config(u64::MAX), name)
        }

        fn writer(&self) -> Segments {
            Segments::new(&self.config(u64::MAX), "one")
        }

        fn numbers(&self, call: u128) -> Vec<u64> {
            let found = read(&self.0, CallId(call), Scope::Signaling);
            found.iter().map(|entry| entry.number).collect()
        }

        /// Bytes of all files, and of those that hold what was moved.
        fn bytes(&self) -> (u64, u64) {
            let all = segments(&self.0);
            let kept = all.iter().filter(|one| is_kept(&one.0)).map(|(.., size)| size).sum();
            (all.iter().map(|(.., size)| size).sum(), kept)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn write(segments: &mut Segments, call: u128, number: u64, size: usize) {
        let at = Timestamp::from_millis(number);
        let what = What::Mark("x".repeat(size));
        segments.write(CallId(call), at, &Entry { at, node: "one".to_owned(), number, what });
        segments.flush();
    }

    fn later() -> Timestamp {
        clock::now() + LIFE + Duration::from_secs(1)
    }

    #[test]
    fn what_a_live_call_said_outlives_the_file() {
        let folder = Folder::new("sweep-live");
        let mut sweeper = folder.sweeper("one");
        let mut segments = folder.writer();
        for number in 1..=3 {
            write(&mut segments, 7, number, 3);
            write(&mut segments, 8, number, 3);
        }
        assert!(sweeper.claim(clock::now()).is_none(), "not so soon");
        // Then again, and sooner: the call may have ended. That file is being written still.
        for now in [later(), clock::now() + LIFE / 4] {
            let due = sweeper.claim(now).expect("it is old");
            assert!(!due.makes_room());
            assert!(sweeper.remove(&due, clock::now(), |call| call == CallId(7)));
            assert_eq!(folder.numbers(7), [1, 2, 3]);
            assert_eq!(folder.numbers(8), [0; 0]);
        }
        // The writer does not go on in a file that is gone.
        write(&mut segments, 7, 4, 3);
        assert_eq!(folder.numbers(7), [1, 2, 3, 4]);
    }

    #[test]
    fn one_process_moves_what_another_is_at() {
        let folder = Folder::new("sweep-two");
        let mut one = folder.sweeper("one");
        let mut two = folder.sweeper("two");
        let mut segments = folder.writer();
        write(&mut segments, 7, 1, 3);
        let first = one.claim(later()).expect("it is old");
        let before = folder.bytes().0;
        assert!(two.claim(later()).is_none(), "another is at it");
        let torn = folder.0.join("three-000001.kept.seg");
        fs::copy(&first.path, &torn).expect("a copy");
        assert_eq!(folder.numbers(7), [1], "it is in two files for a moment");
        fs::remove_file(torn).expect("removed");
        assert!(one.remove(&first, clock::now(), |_| true));
        assert!(two.claim(clock::now()).is_none(), "it was moved");
        assert_eq!(folder.bytes(), (before, before), "once");
        // A process that dies amid it leaves the file to others.
        drop(one.claim(later()).expect("old again"));
        let due = two.claim(later()).expect("nobody is at it");
        assert!(two.remove(&due, clock::now(), |_| true));
        assert_eq!(folder.numbers(7), [1]);
    }

    #[test]
    fn what_is_written_amid_it_is_not_lost() {
        let folder = Folder::new("sweep-amid");
        let mut sweeper = folder.sweeper("one");
        let mut segments = folder.writer();
        write(&mut segments, 7, 1, 3);
        let due = sweeper.claim(later()).expect("it is old");
        write(&mut segments, 7, 2, 3);
        assert!(!sweeper.remove(&due, clock::now(), |_| false));
        assert_eq!(folder.numbers(7), [1, 2]);
    }

    #[test]
    fn files_stay_bounded_though_all_calls_live() {
        const MOST: u64 = 6_000_000;
        let folder = Folder::new("sweep-full");
        let mut sweeper = Sweeper::new(folder.config(MOST), "one");
        let mut segments = Segments::new(&folder.config(MOST), "one");
        for number in 1..=400 {
            write(&mut segments, if number % 50 == 0 { 7 } else { 8 }, number, 100_000);
            while let Some(due) = sweeper.claim(clock::now()) {
                assert!(due.makes_room());
                assert!(sweeper.remove(&due, clock::now(), |_| true));
            }
            let (all, kept) = folder.bytes();
            assert!(all <= MOST && kept <= MOST / 2, "{all} {kept}");
        }
        assert_eq!(folder.numbers(8).last(), Some(&399));
    }
}
