//! One connection: its reading and its writing.
//!
//! What is read stays in the kernel's buffer (MSG_PEEK) until it was handled for `KEPT`: should this process die before
//! it answered, an heir finds the message there and handles it as a repeated one.
//!
//! Invariants: bytes leave the kernel's buffer in whole messages only; what is written is written whole unless the
//! process dies.

use super::{Connection, Connections, Ending, TcpEvent};
use crate::ids::Flow;
use crate::limits::SIP_MESSAGE_BYTES;
use crate::sip::framing::{StreamFramer, StreamItem};
use bytes::{Buf, Bytes};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// A message that was handled is there for an heir for so long: its answer has left by then.
const KEPT: Duration = Duration::from_millis(250);
/// More than this is not kept.
const KEPT_BYTES: usize = 16 * 1024;
/// Looked at first; doubled until a message is whole.
const BUFFER_BYTES: usize = 4 * 1024;
/// What is kept, one message of the largest size, and the beginning of the next.
const MOST_BYTES: usize = 2 * SIP_MESSAGE_BYTES;
/// Asked of the kernel when a message is larger than what phones usually send.
const RECEIVE_BUFFER_BYTES: usize = 2 * MOST_BYTES;
/// Half a message and then nothing for so long: closed.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Nothing at all for so long: closed. Phones register anew every two minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(900);
/// The same before its first whole message: nobody is there yet.
const SILENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that takes no byte for so long: closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer to a broken message leaves before the connection closes; what waits, before another process has it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Until it ends, in one way or another.
pub(super) async fn serve(
    connections: Connections,
    connection: Connection,
    queue: mpsc::Receiver<Bytes>,
) {
    let Connection { flow, stream, backlog, end, .. } = connection;
    let mut asked = end.subscribe();
    let mut reader = Reader::new(Arc::clone(&stream), flow);
    let mut writer = Writer { stream: Arc::clone(&stream), queue, backlog, rest: Bytes::new() };
    let _ = connections.events.send(TcpEvent::Connected(flow)).await;
    let ending = tokio::select! {
        _ = reader.run(&connections) => Ending::Close,
        _ = writer.run() => Ending::Close,
        ending = asked.wait_for(Option::is_some) => {
            ending.ok().and_then(|ending| *ending).unwrap_or(Ending::Close)
        }
    };
    if let Some(id) = flow.connection {
        if ending == Ending::Release {
            let _ = timeout(LAST_WORDS, writer.finish()).await;
            // What cannot be taken out is handled twice.
            let _ = reader.consume();
        }
        connections.remove(id);
    }
    if ending == Ending::Close {
        // An heir may hold it too: without this it would stay open.
        let _ = socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Both);
        let _ = connections.events.send(TcpEvent::Closed(flow)).await;
    }
}

/// The stream cannot be read on, or its peer is gone.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

struct Reader {
    stream: Arc<TcpStream>,
    flow: Flow,
    framer: StreamFramer,
    buffer: Vec<u8>,
    /// Bytes in the kernel's buffer that went to the framer.
    seen: usize,
    /// What was handled is taken out then.
    consume_at: Option<Instant>,
    partial_since: Option<Instant>,
    has_spoken: bool,
}

impl Reader {
    fn new(stream: Arc<TcpStream>, flow: Flow) -> Self {
        Self {
            stream,
            flow,
            framer: StreamFramer::default(),
            buffer: Vec::new(),
            seen: 0,
            consume_at: None,
            partial_since: None,
            has_spoken: false,
        }
    }

    /// Gives out messages until the stream is over.
    async fn run(&mut self, connections: &Connections) -> Result<(), Over> {
        let mut reads_until = connections.shared.reads_until.subscribe();
        let mut patience = Instant::now() + SILENT_TIMEOUT;
        loop {
            let may_read = |until: &Option<Instant>| until.is_none_or(|at| Instant::now() < at);
            reads_until.wait_for(may_read).await.map_err(|_| Over)?;
            let wake = self.consume_at.map_or(patience, |at| at.min(patience));
            let ready = timeout_at(wake, self.stream.ready(Interest::READABLE)).await;
            if !may_read(&reads_until.borrow()) {
                continue;
            }
            let Ok(ready) = ready else {
                if Instant::now() >= patience {
                    return Err(Over);
                }
                self.consume()?;
                continue;
            };
            let is_last = ready?.is_read_closed();
            if self.look()? {
                self.give_out(connections).await?;
                patience = self.patience();
            } else if is_last {
                return Err(Over);
            }
        }
    }

    /// Shows the framer what is new. False: nothing is.
    fn look(&mut self) -> io::Result<bool> {
        let (stream, buffer, seen) = (&self.stream, &mut self.buffer, self.seen);
        buffer.resize(buffer.len().max(BUFFER_BYTES), 0);
        let found = loop {
            let peek = || {
                let (_, length) = recv(stream.as_ref(), &mut buffer[..], RecvFlags::PEEK)?;
                // Only then does the runtime wait for more.
                let has_more = length > seen || length == 0;
                if has_more { Ok(length) } else { Err(io::ErrorKind::WouldBlock.into()) }
            };
            match stream.try_io(Interest::READABLE, peek) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) if length == buffer.len() && length < MOST_BYTES => {
                    buffer.resize((length * 2).min(MOST_BYTES), 0);
                    if length >= KEPT_BYTES {
                        let socket = socket2::SockRef::from(stream.as_ref());
                        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
                    }
                }
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        };
        self.framer.push(buffer.get(seen..found).unwrap_or_default());
        self.seen = found;
        Ok(true)
    }

    async fn give_out(&mut self, connections: &Connections) -> Result<(), Over> {
        let flow = self.flow;
        while let Some(item) = self.framer.next_item() {
            self.partial_since = None;
            match item {
                StreamItem::Ping => {
                    connections.send(&flow, Bytes::from_static(b"\r\n"));
                }
                StreamItem::Message(bytes) => {
                    self.has_spoken = true;
                    let event = TcpEvent::Message { flow, bytes };
                    connections.events.send(event).await.map_err(|_| Over)?;
                }
                StreamItem::Broken(error, head) => {
                    let _ = connections.events.send(TcpEvent::Broken { flow, error, head }).await;
                    tokio::time::sleep(LAST_WORDS).await;
                    return Err(Over);
                }
            }
        }
        if self.framer.has_partial() {
            self.partial_since.get_or_insert_with(Instant::now);
        }
        match self.handled() {
            0 => {}
            1..=KEPT_BYTES => {
                self.consume_at.get_or_insert_with(|| Instant::now() + KEPT);
            }
            _ => self.consume()?,
        }
        Ok(())
    }

    fn patience(&self) -> Instant {
        match self.partial_since {
            Some(since) => since + PARTIAL_TIMEOUT,
            None if self.has_spoken => Instant::now() + IDLE_TIMEOUT,
            None => Instant::now() + SILENT_TIMEOUT,
        }
    }

    /// Bytes in the kernel's buffer that nobody needs to see again.
    fn handled(&self) -> usize {
        self.seen.saturating_sub(self.framer.len())
    }

    /// Takes out of the kernel's buffer what was handled.
    fn consume(&mut self) -> io::Result<()> {
        self.consume_at = None;
        let mut rest = self.handled();
        while rest > 0 {
            let room = rest.min(self.buffer.len());
            let into = self.buffer.get_mut(..room).unwrap_or_default();
            let (_, length) = recv(self.stream.as_ref(), into, RecvFlags::empty())?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest -= length.min(rest);
            self.seen = self.seen.saturating_sub(length);
        }
        if self.seen == 0 {
            // Most connections are silent most of the time.
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

struct Writer {
    stream: Arc<TcpStream>,
    queue: mpsc::Receiver<Bytes>,
    backlog: Arc<AtomicUsize>,
    /// Of the message that is being written.
    rest: Bytes,
}

impl Writer {
    /// Writes what is queued. Cancelling loses nothing.
    async fn run(&mut self) -> Result<(), Over> {
        loop {
            self.write_rest().await?;
            self.rest = self.queue.recv().await.ok_or(Over)?;
        }
    }

    /// What is queued and nothing more.
    async fn finish(&mut self) -> Result<(), Over> {
        loop {
            self.write_rest().await?;
            match self.queue.try_recv() {
                Ok(next) => self.rest = next,
                Err(_) => return Ok(()),
            }
        }
    }

    async fn write_rest(&mut self) -> Result<(), Over> {
        while !self.rest.is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.writable()).await.map_err(|_| Over)??;
            match self.stream.try_write(&self.rest) {
                Ok(length) => {
                    self.rest.advance(length);
                    self.backlog.fetch_sub(length, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }
}
