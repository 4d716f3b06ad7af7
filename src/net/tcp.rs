//! SIP over TCP (RFC 3261 §18): listeners, their connections and those we open. Keep-alives are answered here (RFC 5626
//! §4.4.1); whole messages go to the worker.
//!
//! Invariants: connections, bytes waiting to be written and messages waiting to be handled are bounded; a peer that
//! reads nothing, or sends half a message and stops, is closed.

use crate::ids::{ConnectionId, Flow, Transport};
use crate::limits;
use crate::sip::framing::{StreamError, StreamFramer, StreamItem};
use bytes::Bytes;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// Messages that wait for the worker.
const EVENT_QUEUE: usize = 1_024;
/// Messages that wait to be written on one connection.
const WRITE_QUEUE: usize = 512;
/// Half a message and then nothing for so long: closed.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Nothing at all for so long: closed. Phones register anew every two minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(900);
/// The same before its first whole message: nobody is there yet.
const SILENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that takes no byte for so long: closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer to a broken message leaves before the connection closes.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A connection that is not there by then never will be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// CS3 (RFC 4594 §3).
const DSCP_CS3: u32 = 24 << 2;

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    /// It is there.
    Connected(Flow),
    /// A whole message came.
    Message {
        /// By this flow.
        flow: Flow,
        /// The message.
        bytes: Bytes,
    },
    /// The stream cannot be read on: answer (`head`: what came of the message), it closes by itself.
    Broken {
        /// By this flow.
        flow: Flow,
        /// Why.
        error: StreamError,
        /// First line and header fields, as far as they came.
        head: Option<Bytes>,
    },
    /// It is gone.
    Closed(Flow),
}

/// Listeners with all their connections.
#[derive(Debug)]
pub struct TcpEndpoint {
    connections: Connections,
    events: mpsc::Receiver<TcpEvent>,
    local: Vec<SocketAddr>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
}

/// The connections of an endpoint; cheap to clone, for tasks that open more.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
    events: mpsc::Sender<TcpEvent>,
}

#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    open: Mutex<HashMap<ConnectionId, Connection>>,
}

#[derive(Clone, Debug)]
struct Connection {
    remote: SocketAddr,
    writer: mpsc::Sender<Bytes>,
    backlog: Arc<AtomicUsize>,
    close: Arc<Notify>,
}

impl Drop for TcpEndpoint {
    fn drop(&mut self) {
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
        for connection in self.connections.lock().values() {
            connection.close.notify_one();
        }
    }
}

impl TcpEndpoint {
    /// Without a listener yet; its connections are counted from `first`.
    pub fn new(first: ConnectionId) -> Self {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let shared = Shared { next: AtomicU64::new(first.0), open: Mutex::default() };
        let connections = Connections { shared: Arc::new(shared), events: sender };
        Self { connections, events, local: Vec::new(), accepting: Vec::new() }
    }

    /// Listens there too, within a tokio runtime.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1_024)?;
        let listener = TcpListener::from_std(socket.into())?;
        self.local.push(listener.local_addr()?);
        self.accepting.push(tokio::spawn(accept(listener, self.connections.clone())));
        Ok(())
    }

    /// What was bound.
    pub fn local(&self) -> &[SocketAddr] {
        &self.local
    }

    /// The next event.
    pub async fn event(&mut self) -> Option<TcpEvent> {
        self.events.recv().await
    }

    /// Waits for events and appends what came, at most `most`. Cancelling loses nothing.
    pub async fn events(&mut self, out: &mut Vec<TcpEvent>, most: usize) -> usize {
        self.events.recv_many(out, most).await
    }

    /// Appends what came already, until there are `most`.
    pub fn ready_events(&mut self, out: &mut Vec<TcpEvent>, most: usize) {
        while out.len() < most
            && let Ok(event) = self.events.try_recv()
        {
            out.push(event);
        }
    }

    /// For tasks that open connections, and for sending.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

impl Connections {
    /// Queues a message on a flow's connection; false when it is gone or its peer reads too slowly (it is closed then).
    pub fn send(&self, flow: &Flow, bytes: Bytes) -> bool {
        let open = flow.connection.and_then(|id| self.lock().get(&id).cloned());
        // An earlier start counted its connections too: its flows must not end at another phone.
        let Some(connection) = open.filter(|open| open.remote == flow.remote) else { return false };
        let waiting = connection.backlog.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if waiting > limits::STREAM_BACKLOG_BYTES || connection.writer.try_send(bytes).is_err() {
            connection.close.notify_one();
            return false;
        }
        true
    }

    /// Opens a connection; its flow once it is there. The flow names the port on which we listen, not the passing one
    /// of this connection: that is what a peer is told in Via and Contact.
    pub async fn connect(&self, remote: SocketAddr, listening_port: u16) -> io::Result<Flow> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(remote)).await??;
        let mut local = stream.local_addr()?;
        local.set_port(listening_port);
        self.adopt(stream, local)
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn adopt(&self, stream: TcpStream, local: SocketAddr) -> io::Result<Flow> {
        stream.set_nodelay(true)?;
        // Not every kernel and address family takes the mark; a call is worth more than its priority.
        let _ = socket2::SockRef::from(&stream).set_tos_v4(DSCP_CS3);
        let id = ConnectionId(self.shared.next.fetch_add(1, Ordering::Relaxed) + 1);
        let remote = stream.peer_addr()?;
        let flow = Flow { transport: Transport::Tcp, local, remote, connection: Some(id) };
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let (backlog, close) = (Arc::default(), Arc::new(Notify::new()));
        let connection = Connection { remote, writer, backlog, close };
        self.lock().insert(id, connection.clone());
        tokio::spawn(serve(stream, flow, self.clone(), connection, queue));
        Ok(flow)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ConnectionId, Connection>> {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, connections: Connections) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if connections.count() < limits::SIP_CONNECTIONS => {
                // A peer that is gone already needs no answer.
                let _ = stream.local_addr().and_then(|local| connections.adopt(stream, local));
            }
            Ok(_) => {}
            // Out of descriptors: those that close make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(
    stream: TcpStream,
    flow: Flow,
    connections: Connections,
    connection: Connection,
    queue: mpsc::Receiver<Bytes>,
) {
    let (reader, writer) = stream.into_split();
    let _ = connections.events.send(TcpEvent::Connected(flow)).await;
    tokio::select! {
        () = read(reader, flow, &connections) => {}
        () = write(writer, queue, &connection.backlog) => {}
        () = connection.close.notified() => {}
    }
    if let Some(id) = flow.connection {
        connections.lock().remove(&id);
    }
    let _ = connections.events.send(TcpEvent::Closed(flow)).await;
}

async fn read(mut reader: OwnedReadHalf, flow: Flow, connections: &Connections) {
    let mut framer = StreamFramer::default();
    let mut buffer = vec![0; 16 * 1024];
    let (mut partial_since, mut has_spoken) = (None, false);
    loop {
        let patience = match partial_since {
            Some(since) => PARTIAL_TIMEOUT.saturating_sub(tokio::time::Instant::now() - since),
            None if has_spoken => IDLE_TIMEOUT,
            None => SILENT_TIMEOUT,
        };
        let read = tokio::time::timeout(patience, reader.read(&mut buffer)).await;
        let Ok(Ok(length @ 1..)) = read else { return };
        let Some(bytes) = buffer.get(..length) else { return };
        framer.push(bytes);
        while let Some(item) = framer.next_item() {
            partial_since = None;
            match item {
                StreamItem::Ping => {
                    connections.send(&flow, Bytes::from_static(b"\r\n"));
                }
                StreamItem::Message(bytes) => {
                    has_spoken = true;
                    if connections.events.send(TcpEvent::Message { flow, bytes }).await.is_err() {
                        return;
                    }
                }
                StreamItem::Broken(error, head) => {
                    let _ = connections.events.send(TcpEvent::Broken { flow, error, head }).await;
                    tokio::time::sleep(LAST_WORDS).await;
                    return;
                }
            }
        }
        if framer.has_partial() {
            partial_since.get_or_insert_with(tokio::time::Instant::now);
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    backlog: &AtomicUsize,
) {
    while let Some(bytes) = queue.recv().await {
        let written = tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&bytes)).await;
        backlog.fetch_sub(bytes.len(), Ordering::Relaxed);
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &str = "OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n";

    async fn pair() -> (TcpEndpoint, TcpStream, Flow) {
        let mut endpoint = TcpEndpoint::new(ConnectionId(0));
        endpoint.listen(([127, 0, 0, 1], 0).into()).expect("listen");
        let stream = TcpStream::connect(endpoint.local()[0]).await.expect("connect");
        let Some(TcpEvent::Connected(flow)) = endpoint.event().await else { panic!("connected") };
        (endpoint, stream, flow)
    }

    #[tokio::test]
    async fn messages_come_whole_and_pings_are_answered() {
        let (mut endpoint, mut stream, flow) = pair().await;
        let (left, right) = OPTIONS.split_at(20);
        stream.write_all(b"\r\n\r\n").await.expect("write");
        stream.write_all(left.as_bytes()).await.expect("write");
        stream.write_all(right.as_bytes()).await.expect("write");
        let expect = TcpEvent::Message { flow, bytes: Bytes::from_static(OPTIONS.as_bytes()) };
        assert_eq!(endpoint.event().await, Some(expect));
        let mut pong = [0; 2];
        stream.read_exact(&mut pong).await.expect("pong");
        assert_eq!(&pong, b"\r\n");
        assert!(endpoint.connections().send(&flow, Bytes::from_static(b"SIP/2.0 200 OK\r\n\r\n")));
        let mut answer = [0; 18];
        stream.read_exact(&mut answer).await.expect("answer");
        drop(stream);
        assert_eq!(endpoint.event().await, Some(TcpEvent::Closed(flow)));
        assert!(!endpoint.connections().send(&flow, Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn a_connection_of_ours_names_the_port_we_listen_on() {
        let (mut endpoint, _stream, _) = pair().await;
        let listening = endpoint.local()[0];
        let peer = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let remote = peer.local_addr().expect("bound");
        let flow = endpoint.connections().connect(remote, listening.port()).await.expect("there");
        assert_eq!((flow.local, flow.remote), (listening, remote));
        assert_eq!(endpoint.event().await, Some(TcpEvent::Connected(flow)));
    }

    #[tokio::test]
    async fn a_stream_that_cannot_be_read_closes() {
        let (mut endpoint, mut stream, flow) = pair().await;
        stream.write_all(b"OPTIONS sip:x SIP/2.0\r\nVia: x\r\n\r\n").await.expect("write");
        let Some(TcpEvent::Broken { error, .. }) = endpoint.event().await else { panic!("broken") };
        assert_eq!(error, StreamError::NoContentLength);
        assert_eq!(endpoint.event().await, Some(TcpEvent::Closed(flow)));
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_is_closed() {
        let (mut endpoint, _stream, flow) = pair().await;
        let chunk = Bytes::from(vec![b'x'; 60_000]);
        let refused = (0..1_000).any(|_| !endpoint.connections().send(&flow, chunk.clone()));
        assert!(refused, "the backlog is bounded");
        assert_eq!(endpoint.event().await, Some(TcpEvent::Closed(flow)));
    }
}
