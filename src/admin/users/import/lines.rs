//! CSV (RFC 4180) to lines of users, on a thread of its own, from pieces of a body as they come.
//!
//! Invariant: what is held is bounded: some pieces, one line, one chunk.

use crate::admin::problem::FieldError;
use axum::body::Bytes;
use core::cell::Cell;
use csv::StringRecord;
use std::io::{self, Read};
use std::rc::Rc;
use tokio::sync::mpsc::{Receiver, Sender};

/// Longest line; the reader takes in 8 kB at a time, so a little more may pass.
const LINE_BYTES: usize = 64 * 1024;

/// A user as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) extension: String,
    pub(super) password: String,
    /// `None`: the file has no such column.
    pub(super) display_name: Option<String>,
}

/// A line, or which and why not.
pub(super) type Parsed = Result<Line, (u64, FieldError)>;

/// Reads until the end, or until nobody wants more. The error is about the file as a whole.
pub(super) fn parse(
    pieces: Receiver<Result<Bytes, ()>>,
    chunks: &Sender<Vec<Parsed>>,
    chunk: usize,
) -> Result<(), (&'static str, String)> {
    let since_line = Rc::new(Cell::new(0));
    let pieces = Pieces::new(pieces, since_line.clone());
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(pieces);
    let broken = |error: csv::Error| ("line", error.to_string());
    let columns = Columns::read(reader.headers().map_err(broken)?)?;
    let mut record = csv::ByteRecord::new();
    let mut lines = Vec::with_capacity(chunk);
    loop {
        since_line.set(0);
        let more = reader.read_byte_record(&mut record);
        if let Ok(true) = more {
            // Every record ends in a line feed here, so its first line is known from its last.
            let inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count();
            let after = reader.position().line();
            let number = after.saturating_sub(1 + u64::try_from(inside).unwrap_or(0));
            lines.push(columns.line(number, record.clone()));
        }
        let at_end = !matches!(more, Ok(true));
        if at_end || lines.len() >= chunk {
            let full = core::mem::replace(&mut lines, Vec::with_capacity(chunk));
            if chunks.blocking_send(full).is_err() {
                return Ok(());
            }
        }
        if at_end {
            return more.map(|_| ()).map_err(broken);
        }
    }
}

/// Where the columns are.
struct Columns {
    count: usize,
    extension: usize,
    password: usize,
    display_name: Option<usize>,
}

impl Columns {
    fn read(header: &StringRecord) -> Result<Self, (&'static str, String)> {
        let names: Vec<&str> =
            header.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
        let known = ["extension", "password", "display_name"];
        let wrong = names.iter().find(|name| !known.contains(name));
        let place = |wanted: &str| names.iter().position(|name| *name == wanted);
        let twice =
            known.iter().any(|wanted| names.iter().filter(|name| *name == wanted).count() > 1);
        match (place("extension"), place("password"), wrong) {
            (Some(extension), Some(password), None) if !twice => Ok(Self {
                count: names.len(),
                extension,
                password,
                display_name: place("display_name"),
            }),
            _ => Err((
                "header",
                format!(
                    "the first line is extension,password[,display_name], not {}",
                    names.join(",")
                ),
            )),
        }
    }

    fn line(&self, number: u64, record: csv::ByteRecord) -> Parsed {
        let record = StringRecord::from_byte_record(record)
            .map_err(|_| (number, FieldError::new("line", "is not UTF-8")))?;
        if record.len() != self.count {
            let detail = format!("has {} fields, the header has {}", record.len(), self.count);
            return Err((number, FieldError::new("line", detail)));
        }
        let field = |place: usize| record.get(place).unwrap_or_default().to_owned();
        Ok(Line {
            number,
            extension: field(self.extension).trim().to_owned(),
            password: field(self.password),
            display_name: self.display_name.map(|place| field(place).trim().to_owned()),
        })
    }
}

/// Pieces of a body as a reader. Carriage returns are dropped and the last line is ended, so that
/// lines can be counted.
struct Pieces {
    pieces: Receiver<Result<Bytes, ()>>,
    current: Bytes,
    since_line: Rc<Cell<usize>>,
    last: u8,
}

impl Pieces {
    fn new(pieces: Receiver<Result<Bytes, ()>>, since_line: Rc<Cell<usize>>) -> Self {
        Self { pieces, current: Bytes::new(), since_line, last: b'\n' }
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => {
                    self.current = piece.iter().copied().filter(|byte| *byte != b'\r').collect();
                }
                Some(Err(())) => return Err(io::Error::other("the body broke off")),
                None if self.last == b'\n' => return Ok(()),
                None => self.current = Bytes::from_static(b"\n"),
            }
        }
        Ok(())
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let count = self.current.len().min(buffer.len());
        let piece = self.current.split_to(count);
        for (to, from) in buffer.iter_mut().zip(&piece) {
            *to = *from;
        }
        self.last = piece.last().copied().unwrap_or(self.last);
        self.since_line.set(self.since_line.get() + count);
        if self.since_line.get() > LINE_BYTES {
            return Err(io::Error::other(format!("a line is longer than {LINE_BYTES} bytes")));
        }
        Ok(count)
    }
}
