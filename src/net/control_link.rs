//! The control channel's transport: framed TCP, encrypted with Noise NNpsk0 except on loopback, heartbeats, bounded
//! queues.
//!
//! The dialer opens with a preamble (magic, plain or Noise); then both send `Hello`; then frames flow both ways. A link
//! whose peer is silent for `HEARTBEAT_TIMEOUT`, or takes nothing for as long, is broken.
//!
//! Invariants: nothing is read in clear from an address that is not loopback; no frame above
//! `limits::CONTROL_FRAME_BYTES` is buffered; both queues are bounded; whatever the peer sends, only its link ends.

use super::clock;
use super::noise::{Cipher, FrameReader, FrameWriter, Handshake};
use crate::control::hello::Hello;
use crate::control::{Frame, VERSION};
use crate::limits;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each end says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// A peer that gave no sign for so long is gone.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A peer that gave no sign for so long may be gone.
const HEARTBEAT_MISSED: Duration = Duration::from_millis(200);
/// Connection, encryption and hellos together.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Answers to heartbeats that wait; more are not worth sending.
const PONG_QUEUE: usize = 8;
/// First bytes of a dialer; the one after them is `PLAIN` or `NOISE`.
const MAGIC: [u8; 4] = *b"HFC1";
const PLAIN: u8 = b'P';
const NOISE: u8 = b'N';

/// A live link. Dropping it closes it.
#[derive(Debug)]
pub struct ControlLink {
    /// Who is there.
    pub peer: Hello,
    /// Its address.
    pub remote: SocketAddr,
    /// Frames to send; bounded (`limits::CONTROL_QUEUE`): `try_send` fails when the peer is stuck, then drop the link.
    pub sender: mpsc::Sender<Frame>,
    /// Frames received (without hello and heartbeats); `None` when the link is broken: closed, garbage, or
    /// `HEARTBEAT_TIMEOUT` without a sign.
    pub receiver: mpsc::Receiver<Frame>,
    /// Last measured round trip in microseconds; 0 before the first.
    pub rtt_us: Arc<AtomicU32>,
    /// The peer misses heartbeats: `HEARTBEAT_MISSED` without a sign, or `true` no more once there is one.
    pub silent: watch::Receiver<bool>,
}

/// The cluster's secrets: the first encrypts what we dial (the others are tried after it), any is accepted.
#[derive(Clone)]
pub struct Secrets(pub Arc<[Vec<u8>]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// Why no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The world's.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Wrong secret or not Holdfast.
    #[error("the peer does not know the cluster secret")]
    Secret,
    /// Its version is not ours.
    #[error("the peer speaks version {0} of the control language")]
    Version(u16),
}

/// Control ports of a host.
pub const PORTS: core::ops::RangeInclusive<u16> = 7_070..=7_089;

/// Binds a control address. A port that is taken gives way to the next free one: up to the end of `PORTS`, and as
/// many as those for a port outside of them.
pub async fn listen(wanted: SocketAddr) -> io::Result<TcpListener> {
    let first = wanted.port();
    let last = match first {
        0 => 0,
        first if PORTS.contains(&first) => *PORTS.end(),
        first => first.saturating_add(PORTS.end() - PORTS.start()),
    };
    let mut result = TcpListener::bind(wanted).await;
    for port in first.saturating_add(1)..=last {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                result = TcpListener::bind(SocketAddr::new(wanted.ip(), port)).await;
            }
            Ok(_) | Err(_) => break,
        }
    }
    if let Ok(listener) = &result
        && first != 0
    {
        let port = listener.local_addr()?.port();
        if port != first {
            tracing::info!("control port {first} is taken: {port} it is");
        }
    }
    result
}

/// Dials, encrypts unless both ends are loopback, exchanges hellos.
pub async fn dial(
    to: SocketAddr,
    hello: Hello,
    secrets: &Secrets,
) -> Result<ControlLink, LinkError> {
    let attempts = async {
        let mut result = Err(LinkError::Secret);
        for secret in secrets.0.iter() {
            result = dial_with(to, hello.clone(), secret).await;
            if !matches!(result, Err(LinkError::Secret)) {
                break;
            }
        }
        result
    };
    timeout(HELLO_TIMEOUT, attempts).await.unwrap_or_else(|_| Err(timed_out()))
}

async fn dial_with(to: SocketAddr, hello: Hello, secret: &[u8]) -> Result<ControlLink, LinkError> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let cipher = if is_loopback(&stream)? {
        stream.write_all(&preamble(PLAIN)).await?;
        None
    } else {
        stream.write_all(&preamble(NOISE)).await?;
        Some(Handshake::dial(&mut stream, secret).await?)
    };
    exchange_hellos(stream, hello, cipher).await
}

/// The other end of `dial`, for an accepted connection.
pub async fn accept(
    stream: TcpStream,
    hello: Hello,
    secrets: &Secrets,
) -> Result<ControlLink, LinkError> {
    timeout(HELLO_TIMEOUT, accept_with(stream, hello, secrets))
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

async fn accept_with(
    mut stream: TcpStream,
    hello: Hello,
    secrets: &Secrets,
) -> Result<ControlLink, LinkError> {
    stream.set_nodelay(true)?;
    let mut opening = [0; MAGIC.len() + 1];
    stream.read_exact(&mut opening).await?;
    let cipher = if opening == preamble(NOISE) {
        Some(Handshake::accept(&mut stream, &secrets.0).await?)
    } else if opening == preamble(PLAIN) && is_loopback(&stream)? {
        None
    } else {
        return Err(LinkError::Secret);
    };
    exchange_hellos(stream, hello, cipher).await
}

const fn preamble(mode: u8) -> [u8; MAGIC.len() + 1] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], mode]
}

fn is_loopback(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.local_addr()?.ip().is_loopback() && stream.peer_addr()?.ip().is_loopback())
}

fn timed_out() -> LinkError {
    LinkError::Io(io::ErrorKind::TimedOut.into())
}

async fn exchange_hellos(
    stream: TcpStream,
    hello: Hello,
    cipher: Option<Cipher>,
) -> Result<ControlLink, LinkError> {
    let remote = stream.peer_addr()?;
    let (read_half, write_half) = stream.into_split();
    let mut reader = FrameReader::new(read_half, cipher.clone());
    let mut writer = FrameWriter::new(write_half, cipher);
    // Of the oldest version: nothing is known of the peer yet.
    writer.feed(&Frame::Hello(hello)).await?;
    writer.flush().await?;
    let peer = match reader.next().await? {
        Some(Frame::Hello(peer)) => peer,
        Some(_) => return Err(LinkError::Io(io::ErrorKind::InvalidData.into())),
        None => return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into())),
    };
    if peer.version == 0 || peer.version.abs_diff(VERSION) > 1 {
        return Err(LinkError::Version(peer.version));
    }
    writer.version = peer.version.min(VERSION);
    let (sender, outgoing) = mpsc::channel(limits::CONTROL_QUEUE);
    let (incoming, receiver) = mpsc::channel(limits::CONTROL_QUEUE);
    let rtt_us = Arc::new(AtomicU32::new(0));
    let (is_silent, silent) = watch::channel(false);
    let rtt = Arc::clone(&rtt_us);
    tokio::spawn(run(
        reader,
        writer,
        outgoing,
        Incoming { frames: incoming, rtt_us: rtt, is_silent },
    ));
    Ok(ControlLink { peer, remote, sender, receiver, rtt_us, silent })
}

/// What the owner of a link learns by it.
struct Incoming {
    frames: mpsc::Sender<Frame>,
    rtt_us: Arc<AtomicU32>,
    is_silent: watch::Sender<bool>,
}

/// Lives as long as both directions and the owner of the link do.
async fn run(
    reader: FrameReader,
    writer: FrameWriter,
    outgoing: mpsc::Receiver<Frame>,
    incoming: Incoming,
) {
    let (pong_sender, pongs) = mpsc::channel(PONG_QUEUE);
    let owner = incoming.frames.clone();
    tokio::select! {
        () = owner.closed() => {}
        () = read(reader, incoming, pong_sender) => {}
        () = write(writer, outgoing, pongs) => {}
    }
}

/// The next frame; `None`: the link is broken.
async fn next(reader: &mut FrameReader, is_silent: &watch::Sender<bool>) -> Option<Frame> {
    let next = reader.next();
    tokio::pin!(next);
    let frame = match timeout(HEARTBEAT_MISSED, &mut next).await {
        Ok(frame) => frame,
        Err(_) => {
            is_silent.send_replace(true);
            let frame = timeout(HEARTBEAT_TIMEOUT - HEARTBEAT_MISSED, next).await.ok()?;
            is_silent.send_replace(false);
            frame
        }
    };
    frame.ok().flatten()
}

async fn read(mut reader: FrameReader, incoming: Incoming, pongs: mpsc::Sender<u64>) {
    let Incoming { frames: incoming, rtt_us, is_silent } = incoming;
    while let Some(frame) = next(&mut reader, &is_silent).await {
        match frame {
            // A full queue means that answers are on their way already.
            Frame::Ping(number) => drop(pongs.try_send(number)),
            // Our number was the time in microseconds.
            Frame::Pong(number) => {
                let rtt = clock::now().as_micros().saturating_sub(number);
                rtt_us.store(u32::try_from(rtt).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
            }
            Frame::Hello(_) => return,
            frame @ (Frame::Request { .. }
            | Frame::Reply { .. }
            | Frame::Report(_)
            | Frame::ReportAck { .. }
            | Frame::Capacity(_)
            | Frame::Peer(_)
            | Frame::Taken { .. }
            | Frame::Passed { .. }
            | Frame::Drain(_)
            | Frame::Give { .. }
            | Frame::Rtcp { .. }
            | Frame::Host(_)) => {
                if incoming.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn write(
    mut writer: FrameWriter,
    mut outgoing: mpsc::Receiver<Frame>,
    mut pongs: mpsc::Receiver<u64>,
) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            biased;
            Some(number) = pongs.recv() => Frame::Pong(number),
            _ = heartbeat.tick() => Frame::Ping(clock::now().as_micros()),
            frame = outgoing.recv() => match frame {
                Some(frame) => frame,
                None => return,
            },
        };
        let batch = async {
            writer.feed(&frame).await?;
            // What waits already leaves in the same write; bounded, so heartbeats are not late.
            for _ in 0..64 {
                let Ok(frame) = outgoing.try_recv() else { break };
                writer.feed(&frame).await?;
            }
            writer.flush().await
        };
        if !matches!(timeout(HEARTBEAT_TIMEOUT, batch).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
