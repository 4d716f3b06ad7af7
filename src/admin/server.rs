//! The listener of the API on a thread and runtime of its own: no operator slows a call, no slow
//! client an operator.
//!
//! Invariants: headers come within a deadline, connections are counted, and processes of one host
//! share the port; what each of them says of itself it says at a unix socket of its own too.

use super::authorize::Caller;
use axum::Router;
use core::net::SocketAddr;
use core::time::Duration;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

/// For the header of a request, and between two requests of a connection.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Connections at a time; more wait in the kernel.
const CONNECTIONS: usize = 512;
/// Bytes of a header.
const HEADER_BYTES: usize = 64 * 1024;
/// For what is sent to be taken.
const SEND_DEADLINE: Duration = Duration::from_secs(20);
/// For open requests when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A listener that other processes of this host and user may share.
pub fn bind_shared(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_port(true)?;
    listen(&socket, address)
}

/// A listener of this process alone, on the next port that is free.
pub fn bind_next_free(address: SocketAddr, tries: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for step in 0..tries {
        let Some(port) = address.port().checked_add(step) else { break };
        let address = SocketAddr::new(address.ip(), port);
        match new_socket(address).and_then(|socket| listen(&socket, address)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// A unix socket of this process alone. What an earlier process left there is taken away.
pub fn bind_own(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn listen(socket: &Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    socket.try_clone().map(Into::into)
}

impl Server {
    /// Serves until stopped.
    pub fn start(listener: TcpListener, router: Router) -> io::Result<Self> {
        Self::launch(listener, router, None)
    }

    /// The same, and at a socket of its own what belongs to this process alone.
    pub fn start_with_own(
        listener: TcpListener,
        router: Router,
        own: (UnixListener, Router),
    ) -> io::Result<Self> {
        Self::launch(listener, router, Some(own))
    }

    fn launch(
        listener: TcpListener,
        router: Router,
        own: Option<(UnixListener, Router)>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let run = move || runtime.block_on(serve(listener, router, own, stopped));
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(error) = run() {
                tracing::error!("the admin API stopped: {error}");
            }
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Takes no more connections and waits a little for open requests.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    own: Option<(UnixListener, Router)>,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let from_all = async || {
        let (stream, from) = listener.accept().await?;
        cut_off_when_stuck(&stream);
        Ok((stream, Caller::of(from.ip())))
    };
    let all = accept_all(from_all, router, stopped.clone());
    let Some((own, own_router)) = own else {
        all.await;
        return Ok(());
    };
    let own = tokio::net::UnixListener::from_std(own)?;
    let from_here = async || {
        let (stream, _) = own.accept().await?;
        let caller = local_caller(&stream);
        Ok((stream, caller))
    };
    // Counted apart: who fills the port does not hide how this process is.
    tokio::join!(all, accept_all(from_here, own_router, stopped));
    Ok(())
}

async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    accept: impl AsyncFn() -> io::Result<(S, Caller)>,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            () = told(&mut stopped) => break,
        };
        let (stream, caller) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a peer that is gone already: neither is a reason to end or
                // to spin.
                tracing::warn!("the admin listener cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = serve_connection(stream, caller, router.clone(), stopped.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(STOP_DEADLINE, places.acquire_many(all)).await;
}

/// A client that takes nothing for so long is gone, or as good as gone: it holds up an answer without end.
fn cut_off_when_stuck(stream: &tokio::net::TcpStream) {
    let patience = Some(SEND_DEADLINE);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(patience) {
        tracing::debug!("a connection of the admin API may get stuck: {error}");
    }
}

/// Who runs this process has all that is in its data directory, and root has everything.
fn local_caller(stream: &tokio::net::UnixStream) -> Caller {
    let own = nix::unistd::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => Caller::Owner,
        Ok(_) | Err(_) => Caller::Unknown,
    }
}

/// The guard of the value must not live across an await.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    caller: Caller,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_BYTES);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.call(request)
    });
    let mut connection = core::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection of the admin API broke: {error}");
    }
}
