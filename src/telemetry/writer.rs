//! A bounded queue before standard output: a stuck log reader must not stop the loop that tells a
//! story.
//!
//! Invariant: a full queue drops lines and counts them; the count is written when there is room
//! again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that wait to be written.
const QUEUE: usize = 8_192;

/// Owns the thread that writes.
#[derive(Debug)]
pub(super) struct QueueWriter {
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Line(Vec<u8>),
    Stop,
}

/// One end of the queue; each line is one `write`.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl QueueWriter {
    pub(super) fn start() -> (Self, Queued) {
        let (sender, receiver) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let write = move || write_lines(&receiver, &counter, &mut io::stdout());
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(write).ok();
        (Self { sender: Some(sender.clone()), thread }, Queued { sender, dropped })
    }
}

impl Drop for QueueWriter {
    fn drop(&mut self) {
        // The subscriber keeps its sender for ever, so the end is a message, not a hang-up.
        let stopped =
            self.sender.take().is_some_and(|sender| sender.try_send(Message::Stop).is_ok());
        if let Some(thread) = self.thread.take().filter(|_| stopped) {
            let _ = thread.join();
        }
    }
}

fn write_lines(receiver: &Receiver<Message>, dropped: &AtomicU64, to: &mut impl Write) {
    while let Ok(Message::Line(line)) = receiver.recv() {
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(to, "{lost} log lines were dropped: their reader is too slow");
        }
        let _ = to.write_all(&line);
    }
}

impl Write for Queued {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_says_so() {
        let (sender, receiver) = sync_channel(2);
        let mut queued = Queued { sender, dropped: Arc::default() };
        for number in 0..5 {
            queued.write_all(format!("line {number}\n").as_bytes()).expect("never fails");
        }
        let dropped = queued.dropped.clone();
        drop(queued);
        let mut written = Vec::new();
        write_lines(&receiver, &dropped, &mut written);
        let text = String::from_utf8(written).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "3 log lines were dropped: their reader is too slow");
        assert_eq!(lines.len(), 3, "{text}");
    }
}
