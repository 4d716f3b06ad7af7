//! Messages out of a byte stream (RFC 3261 §18.3, keep-alives RFC 5626 §3.5.1).
//!
//! Invariant: after `Broken` nothing more comes out, and no more is kept than one message of the largest size plus what
//! was pushed last.

use super::HeaderName;
use super::lexer;
use super::message::{Lines, text_of};
use crate::limits::SIP_MESSAGE_BYTES;
use bytes::{Buf, Bytes, BytesMut};

/// So much of a first line is looked at before its end is there.
const FIRST_LINE_BYTES: usize = 4_096;

/// What a stream held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// One whole message.
    Message(Bytes),
    /// CRLFCRLF: answer CRLF (RFC 5626 §4.4.1).
    Ping,
    /// The stream cannot be read on; answer what can be answered (`Some`: the head of the message), then close.
    Broken(StreamError, Option<Bytes>),
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// No Content-Length, or none that can be read (400).
    NoContentLength,
    /// Larger than `limits::SIP_MESSAGE_BYTES` (513).
    TooLarge,
    /// Not SIP.
    NotSip,
}

/// Splits a stream. Keeps no more than one message of the largest size.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: BytesMut,
    /// The empty line does not begin before this: each byte is looked at once.
    scanned: usize,
    /// Length of the whole message, once its head is there.
    expected: Option<usize>,
    broken: bool,
}

impl StreamFramer {
    /// Bytes as read.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Bytes that are here and have not come out.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Everything came out.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Part of a message is here and the rest is not. What may be half a keep-alive is none.
    pub fn has_partial(&self) -> bool {
        self.buffer.iter().any(|byte| !matches!(byte, b'\r' | b'\n' | b'\0'))
    }

    /// The next item, `None` when more bytes are needed. Single CRLFs (pongs) and NULs between messages are skipped.
    pub fn next_item(&mut self) -> Option<StreamItem> {
        if self.broken {
            return None;
        }
        if self.expected.is_none() {
            if self.skip_keep_alive() {
                return Some(StreamItem::Ping);
            }
            if let Err(error) = self.find_head() {
                return Some(self.give_up(error));
            }
        }
        let length = self.expected?;
        if self.buffer.len() < length {
            return None;
        }
        self.expected = None;
        self.scanned = 0;
        Some(StreamItem::Message(self.buffer.split_to(length).freeze()))
    }

    /// Drops what may stand between messages; true at a CRLFCRLF. A CRLF at the end is kept: it may be half a ping.
    fn skip_keep_alive(&mut self) -> bool {
        if self.scanned > 0 {
            return false;
        }
        loop {
            let skipped = match &self.buffer[..] {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    self.buffer.advance(4);
                    return true;
                }
                [b'\r', b'\n', b'\r'] | [b'\r', b'\n'] | [b'\r'] | [] => return false,
                [b'\r', b'\n', ..] => 2,
                [b'\0' | b'\n', ..] => 1,
                _ => return false,
            };
            self.buffer.advance(skipped);
        }
    }

    /// Looks for the empty line; then tells how long the message is.
    fn find_head(&mut self) -> Result<(), StreamError> {
        if matches!(self.buffer.first(), None | Some(b'\r')) && self.buffer.len() < 4 {
            return Ok(());
        }
        if !self.may_be_sip() {
            return Err(StreamError::NotSip);
        }
        let Some(head_length) = self.head_length() else {
            // The empty line may begin in the last three bytes.
            self.scanned = self.buffer.len().saturating_sub(3);
            let too_large = self.buffer.len() > SIP_MESSAGE_BYTES;
            return if too_large { Err(StreamError::TooLarge) } else { Ok(()) };
        };
        self.scanned = head_length;
        let content_length = content_length(self.buffer.get(..head_length).unwrap_or_default());
        let length =
            head_length.saturating_add(content_length.ok_or(StreamError::NoContentLength)?);
        if length > SIP_MESSAGE_BYTES {
            return Err(StreamError::TooLarge);
        }
        self.expected = Some(length);
        Ok(())
    }

    /// The first line, as far as it is there, could begin a message.
    fn may_be_sip(&self) -> bool {
        let start = self.buffer.get(..FIRST_LINE_BYTES).unwrap_or(&self.buffer);
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_whole = line.len() < start.len();
        let starts_well = self.buffer.first().copied().is_some_and(lexer::is_token_byte);
        starts_well && (!is_whole || line.windows(4).any(|word| word.eq_ignore_ascii_case(b"SIP/")))
    }

    /// Length of the head with its empty line.
    fn head_length(&self) -> Option<usize> {
        let unseen = self.buffer.get(self.scanned..)?;
        let breaks = unseen.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        breaks.map(|(position, _)| self.scanned + position + 1).find(|end| {
            let head = self.buffer.get(..*end).unwrap_or_default();
            head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")
        })
    }

    fn give_up(&mut self, error: StreamError) -> StreamItem {
        self.broken = true;
        let head = match error {
            StreamError::NotSip => None,
            StreamError::NoContentLength | StreamError::TooLarge => {
                let whole = self.head_length_seen();
                (whole > 0).then(|| self.buffer.split_to(whole).freeze())
            }
        };
        self.buffer = BytesMut::new();
        StreamItem::Broken(error, head)
    }

    /// The head, or as many whole lines of it as the largest message may hold.
    fn head_length_seen(&self) -> usize {
        if self.scanned <= SIP_MESSAGE_BYTES && self.buffer.get(..self.scanned).is_some_and(is_head)
        {
            return self.scanned;
        }
        let seen = self.buffer.get(..SIP_MESSAGE_BYTES).unwrap_or(&self.buffer);
        seen.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1)
    }
}

fn is_head(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")
}

/// `None` when absent, unreadable or told in two ways.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found = None;
    for line in Lines::new(head).skip(1) {
        let line = text_of(line);
        let Some((name, value)) = line.split_once(':') else { continue };
        if HeaderName::from(name.trim_end()) != HeaderName::ContentLength {
            continue;
        }
        let length = usize::try_from(lexer::number(value.trim())?).ok()?;
        if found.is_some_and(|before| before != length) {
            return None;
        }
        found = Some(length);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";
    const SECOND: &str = "SIP/2.0 200 OK\r\nl:\r\n 0\r\n\r\n";

    fn message(text: &str) -> StreamItem {
        StreamItem::Message(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn items(framer: &mut StreamFramer) -> Vec<StreamItem> {
        core::iter::from_fn(|| framer.next_item()).collect()
    }

    /// However the bytes are cut, the same items come out.
    fn check(stream: &str, expect: &[StreamItem]) {
        for size in [1, 2, 3, 7, 64, stream.len().max(1)] {
            let mut framer = StreamFramer::default();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                framer.push(piece);
                found.extend(items(&mut framer));
            }
            assert_eq!(found, expect, "pieces of {size}: {stream:?}");
        }
    }

    #[test]
    fn streams_are_split() {
        check("", &[]);
        check(FIRST, &[message(FIRST)]);
        check(
            &format!("{FIRST}{SECOND}{FIRST}"),
            &[message(FIRST), message(SECOND), message(FIRST)],
        );
        check(&format!("\r\n\r\n{FIRST}"), &[StreamItem::Ping, message(FIRST)]);
        check(&format!("\r\n{FIRST}\0\0\r\n\0{SECOND}"), &[message(FIRST), message(SECOND)]);
        check("\r\n\r\n\r\n\r\n", &[StreamItem::Ping, StreamItem::Ping]);
        check("\r\n", &[]);
        check(&FIRST[..FIRST.len() - 1], &[]);
        check(&FIRST.replace("\r\n", "\n"), &[message(&FIRST.replace("\r\n", "\n"))]);
    }

    #[test]
    fn broken_streams_end() {
        let broken = |error, head: Option<&str>| {
            StreamItem::Broken(error, head.map(|head| Bytes::copy_from_slice(head.as_bytes())))
        };
        check("\u{16}\u{3}\u{1}", &[broken(StreamError::NotSip, None)]);
        check(&format!("GET / HTTP/1.1\r\n\r\n{FIRST}"), &[broken(StreamError::NotSip, None)]);
        for head in [
            "OPTIONS sip:a SIP/2.0\r\nTo: x\r\n\r\n",
            "OPTIONS sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n",
            "OPTIONS sip:a SIP/2.0\r\nContent-Length: 1\r\nl: 2\r\n\r\n",
        ] {
            check(&format!("{head}{FIRST}"), &[broken(StreamError::NoContentLength, Some(head))]);
        }
        let head = "OPTIONS sip:a SIP/2.0\r\nContent-Length: 65536\r\n\r\n";
        check(&format!("{head}{FIRST}"), &[broken(StreamError::TooLarge, Some(head))]);
    }

    #[test]
    fn endless_heads_are_bounded() {
        let mut framer = StreamFramer::default();
        framer.push(b"OPTIONS sip:a SIP/2.0\r\nTo: x\r\nX: ");
        let mut pushed = 0;
        let item = loop {
            framer.push(&[b'x'; 1_000]);
            pushed += 1_000;
            if let Some(item) = framer.next_item() {
                break item;
            }
        };
        assert!(pushed < SIP_MESSAGE_BYTES + 1_000);
        let head = Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nTo: x\r\n");
        assert_eq!(item, StreamItem::Broken(StreamError::TooLarge, Some(head)));
        framer.push(FIRST.as_bytes());
        assert_eq!(framer.next_item(), None);
    }
}
