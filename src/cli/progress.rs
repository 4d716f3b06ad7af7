//! How much of a long file the node has taken, on the error output: what is shorter is told by its answer.
#![allow(clippy::print_stderr, reason = "this is the command line")]

use std::fs::File;
use std::io::{self, Read};

/// Of a file that is worth a word: some thousand users.
const LONG: u64 = 64 * 1024;
/// Percent between two words.
const STEP: u64 = 10;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Sending {
    file: File,
    bytes: u64,
    read: u64,
    told_percent: u64,
}

impl Sending {
    pub(super) fn new(file: File) -> Self {
        // What is no file, but a pipe say, has no length.
        let bytes = file.metadata().map_or(0, |data| data.len());
        Self { file, bytes, read: 0, told_percent: 0 }
    }

    /// What there is to say after so many bytes more.
    fn count(&mut self, bytes: u64) -> Option<String> {
        self.read += bytes;
        let percent = (self.read * 100).checked_div(self.bytes)?.min(100);
        let is_due = self.bytes >= LONG && percent >= self.told_percent + STEP;
        is_due.then(|| {
            self.told_percent = percent;
            format!("{percent} % of {} bytes sent", self.bytes)
        })
    }
}

impl Read for Sending {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(told) = self.count(read as u64) {
            eprintln!("{told}");
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_told_of_in_steps_and_a_short_one_is_not() {
        let words = |bytes: u64, parts: u64| {
            let file = File::open("/dev/null").expect("it is everywhere");
            let mut sending = Sending { file, bytes, read: 0, told_percent: 0 };
            let words = (0..parts).filter_map(|_| sending.count(bytes / parts));
            words.collect::<Vec<String>>()
        };
        let long = words(LONG * 10, 1_024);
        assert_eq!(long.len(), 10, "{long:?}");
        assert_eq!(long[9], format!("100 % of {} bytes sent", LONG * 10));
        assert_eq!(words(LONG * 10, 4).len(), 4, "in large parts");
        assert_eq!(words(LONG - 24, 10), [""; 0]);
        assert_eq!(words(0, 3), [""; 0], "a pipe");
    }
}
