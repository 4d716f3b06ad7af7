//! SIP over TCP (RFC 3261 §18): listeners, their connections and those we open. Keep-alives are answered here (RFC 5626
//! §4.4.1); whole messages go to the worker.
//!
//! A connection may be another process's to read after this one: an heir is given its descriptor (`News`), and what
//! this process handled stays in the kernel's buffer for a moment (`connection`), so nothing is torn, nothing is lost.
//!
//! Invariants: connections, bytes waiting to be written and messages waiting to be handled are bounded; a peer that
//! reads nothing, or sends half a message and stops, is closed; nothing is read that an heir may be reading.

mod connection;

use super::dscp::Dscp;
use crate::ids::{ConnectionId, Flow, Transport};
use crate::limits;
use crate::sip::framing::StreamError;
use bytes::Bytes;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Messages that wait for the worker.
const EVENT_QUEUE: usize = 1_024;
/// Messages that wait to be written on one connection.
const WRITE_QUEUE: usize = 512;
/// A connection that is not there by then never will be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// How a connection ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// For its peer too.
    Close,
    /// What was handled is taken out of it and what waits is written; then another process reads on.
    Release,
    /// Another process reads it already.
    Abandon,
}

/// Connections that came and went, for an heir.
#[derive(Debug, Default)]
pub struct News {
    /// New ones.
    pub opened: Vec<(Flow, Arc<TcpStream>)>,
    /// Those that are no more.
    pub closed: Vec<ConnectionId>,
}

/// Listeners with all their connections.
#[derive(Debug)]
pub struct TcpEndpoint {
    connections: Connections,
    events: mpsc::Receiver<TcpEvent>,
    listeners: Vec<std::net::TcpListener>,
    local: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
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
    /// For an heir, when there is one.
    news: Mutex<Option<News>>,
    has_news: Notify,
    /// Connections that were not taken, for there are as many as there may be.
    refused: AtomicU64,
    /// Connections closed because their peer reads too slowly.
    overflowed: AtomicU64,
    /// Later than this an heir may have begun to read. `None`: there is no heir.
    reads_until: watch::Sender<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Connection {
    flow: Flow,
    stream: Arc<TcpStream>,
    writer: mpsc::Sender<Bytes>,
    backlog: Arc<AtomicUsize>,
    end: watch::Sender<Option<Ending>>,
}

impl Drop for TcpEndpoint {
    fn drop(&mut self) {
        self.stop_accepting();
        // An heir reads on; without one the kernel closes them with this process.
        for connection in self.connections.lock().values() {
            connection.end.send_replace(Some(Ending::Abandon));
        }
    }
}

impl TcpEndpoint {
    /// Without a listener yet; its connections are counted from `first`.
    pub fn new(first: ConnectionId) -> Self {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let shared = Shared {
            next: AtomicU64::new(first.0),
            open: Mutex::default(),
            news: Mutex::default(),
            has_news: Notify::new(),
            refused: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            reads_until: watch::Sender::new(None),
        };
        let connections = Connections { shared: Arc::new(shared), events: sender };
        let (listeners, local, accepting) = (Vec::new(), Vec::new(), Vec::new());
        Self { connections, events, listeners, local, accepting }
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
        let _ = Dscp::Cs3.mark(&socket, address);
        socket.bind(&address.into())?;
        socket.listen(1_024)?;
        let listener = std::net::TcpListener::from(socket);
        self.accepting.push(self.connections.accept_on(listener.try_clone()?)?);
        self.local.push(listener.local_addr()?);
        self.listeners.push(listener);
        Ok(())
    }

    /// What was bound.
    pub fn local(&self) -> &[SocketAddr] {
        &self.local
    }

    /// The listeners, for an heir.
    pub fn shared_listeners(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let share = |(address, listener): (&SocketAddr, &std::net::TcpListener)| {
            Ok((*address, OwnedFd::from(listener.try_clone()?)))
        };
        self.local.iter().zip(&self.listeners).map(share).collect()
    }

    /// Leaves new connections to an heir.
    pub fn stop_accepting(&mut self) {
        self.accepting.drain(..).for_each(|task| task.abort());
    }

    /// Takes new connections again.
    pub fn accept_again(&mut self) -> io::Result<()> {
        self.stop_accepting();
        for listener in &self.listeners {
            self.accepting.push(self.connections.accept_on(listener.try_clone()?)?);
        }
        Ok(())
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
        let Some(connection) = open.filter(|open| open.flow.remote == flow.remote) else {
            return false;
        };
        let waiting = connection.backlog.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if waiting > limits::STREAM_BACKLOG_BYTES || connection.writer.try_send(bytes).is_err() {
            self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
            connection.end.send_replace(Some(Ending::Close));
            return false;
        }
        true
    }

    /// Opens a connection; its flow once it is there. The flow names the port on which we listen, not the passing one
    /// of this connection: that is what a peer is told in Via and Contact.
    pub async fn connect(&self, remote: SocketAddr, listening_port: u16) -> io::Result<Flow> {
        let socket = match remote {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // From the first SYN.
        let _ = Dscp::Cs3.mark(&SockRef::from(&socket), remote);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(remote)).await??;
        let mut local = stream.local_addr()?;
        local.set_port(listening_port);
        self.begin(stream, local)
    }

    /// Connections that were not taken, and those closed because their peer reads too slowly.
    pub fn shed(&self) -> [u64; 2] {
        [&self.shared.refused, &self.shared.overflowed].map(|count| count.load(Ordering::Relaxed))
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// This process has it.
    pub fn holds(&self, id: ConnectionId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Reads on, from the first byte that its former holder had not handled for sure.
    pub fn adopt(&self, flow: Flow, descriptor: OwnedFd) -> io::Result<()> {
        let stream = std::net::TcpStream::from(descriptor);
        stream.set_nonblocking(true)?;
        self.serve(TcpStream::from_std(stream)?, flow);
        Ok(())
    }

    /// Ends these in that way.
    pub fn end(&self, ids: &[ConnectionId], ending: Ending) {
        let open = self.lock();
        for connection in ids.iter().filter_map(|id| open.get(id)) {
            connection.end.send_replace(Some(ending));
        }
    }

    /// Accepts connections until the task is aborted, within a tokio runtime.
    pub fn accept_on(&self, listener: std::net::TcpListener) -> io::Result<JoinHandle<()>> {
        listener.set_nonblocking(true)?;
        Ok(tokio::spawn(accept(TcpListener::from_std(listener)?, self.clone())))
    }

    /// From now on news are kept; those that are open are the first.
    pub fn begin_news(&self) {
        let opened = self.lock().values().map(|one| (one.flow, Arc::clone(&one.stream))).collect();
        *self.lock_news() = Some(News { opened, closed: Vec::new() });
        self.shared.has_news.notify_one();
    }

    /// There is nobody to tell.
    pub fn end_news(&self) {
        *self.lock_news() = None;
    }

    /// News since the last time; waits for some.
    pub async fn news(&self) -> News {
        loop {
            if let Some(news) = self.take_news() {
                return news;
            }
            self.shared.has_news.notified().await;
        }
    }

    /// News since the last time, if there are any.
    pub fn take_news(&self) -> Option<News> {
        let mut news = self.lock_news();
        let some = news.as_mut().filter(|news| !news.opened.is_empty() || !news.closed.is_empty());
        some.map(core::mem::take)
    }

    /// Nothing is read after this time: an heir may do it. `None`: there is no heir.
    pub fn read_until(&self, until: Option<Instant>) {
        self.shared.reads_until.send_replace(until);
    }

    fn begin(&self, stream: TcpStream, local: SocketAddr) -> io::Result<Flow> {
        stream.set_nodelay(true)?;
        // Not every kernel and address family takes the mark; a call is worth more than its priority.
        let _ = Dscp::Cs3.mark(&SockRef::from(&stream), local);
        let id = ConnectionId(self.shared.next.fetch_add(1, Ordering::Relaxed) + 1);
        let flow = Flow {
            transport: Transport::Tcp,
            local,
            remote: stream.peer_addr()?,
            connection: Some(id),
        };
        self.serve(stream, flow);
        Ok(flow)
    }

    fn serve(&self, stream: TcpStream, flow: Flow) {
        let Some(id) = flow.connection else { return };
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let (stream, backlog) = (Arc::new(stream), Arc::default());
        let connection =
            Connection { flow, stream, writer, backlog, end: watch::Sender::new(None) };
        if let Some(news) = &mut *self.lock_news() {
            news.opened.push((flow, Arc::clone(&connection.stream)));
            self.shared.has_news.notify_one();
        }
        self.lock().insert(id, connection.clone());
        tokio::spawn(connection::serve(self.clone(), connection, queue));
    }

    fn remove(&self, id: ConnectionId) {
        self.lock().remove(&id);
        if let Some(news) = &mut *self.lock_news() {
            news.opened.retain(|(flow, _)| flow.connection != Some(id));
            news.closed.push(id);
            self.shared.has_news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Connection>> {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_news(&self) -> MutexGuard<'_, Option<News>> {
        self.shared.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, connections: Connections) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if connections.count() < limits::SIP_CONNECTIONS => {
                // A peer that is gone already needs no answer.
                let _ = stream.local_addr().and_then(|local| connections.begin(stream, local));
            }
            Ok(_) => {
                connections.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            // Out of descriptors: those that close make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        assert_eq!(endpoint.connections().shed(), [0, 1]);
    }
}
