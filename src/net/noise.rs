//! Frames on a stream: length-delimited records, in clear or encrypted (Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s).
//!
//! A Noise message holds less than 64 KiB, so an encrypted frame is split into records; the first plain byte of each
//! says whether more follow.
//!
//! Invariant: a frame is at most `limits::CONTROL_FRAME_BYTES`, however many records it is split into.

use super::control_link::LinkError;
use crate::control::{Frame, OLDEST};
use crate::limits::CONTROL_FRAME_BYTES;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use snow::StatelessTransportState;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"holdfast control channel";
/// Most of a Noise message, its tag included.
const RECORD_BYTES: usize = 65_535;
const TAG_BYTES: usize = 16;
/// Plain bytes a record, less the byte that says whether more follow.
const CHUNK_BYTES: usize = RECORD_BYTES - TAG_BYTES - 1;
const LAST: u8 = 0;
const MORE: u8 = 1;
/// An ephemeral key and a tag; larger handshake messages are not ours.
const HANDSHAKE_BYTES: usize = 128;

/// Keys of both directions.
pub(super) type Cipher = Arc<StatelessTransportState>;

/// The two messages of NNpsk0.
pub(super) struct Handshake;

impl Handshake {
    /// Initiator. A peer that hangs up here did not know the secret.
    pub(super) async fn dial(stream: &mut TcpStream, secret: &[u8]) -> Result<Cipher, LinkError> {
        let psk = pre_shared_key(secret);
        let mut state = builder(&psk)?.build_initiator().map_err(broken)?;
        let mut message = [0; HANDSHAKE_BYTES];
        let length = state.write_message(&[], &mut message).map_err(broken)?;
        write_record(stream, message.get(..length).unwrap_or_default()).await?;
        let answer = read_record(stream).await.map_err(|_| LinkError::Secret)?;
        state.read_message(&answer, &mut message).map_err(|_| LinkError::Secret)?;
        Ok(Arc::new(state.into_stateless_transport_mode().map_err(broken)?))
    }

    /// Responder: whichever secret opens the first message.
    pub(super) async fn accept(
        stream: &mut TcpStream,
        secrets: &[Vec<u8>],
    ) -> Result<Cipher, LinkError> {
        let opening = read_record(stream).await?;
        let mut message = [0; HANDSHAKE_BYTES];
        for secret in secrets {
            let psk = pre_shared_key(secret);
            let mut state = builder(&psk)?.build_responder().map_err(broken)?;
            if state.read_message(&opening, &mut message).is_err() {
                continue;
            }
            let length = state.write_message(&[], &mut message).map_err(broken)?;
            write_record(stream, message.get(..length).unwrap_or_default()).await?;
            return Ok(Arc::new(state.into_stateless_transport_mode().map_err(broken)?));
        }
        Err(LinkError::Secret)
    }
}

fn pre_shared_key(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn builder(psk: &[u8; 32]) -> Result<snow::Builder<'_>, LinkError> {
    let parameters = PATTERN.parse().map_err(broken)?;
    snow::Builder::new(parameters).prologue(PROLOGUE).and_then(|b| b.psk(0, psk)).map_err(broken)
}

fn broken(error: snow::Error) -> LinkError {
    LinkError::Io(io::Error::other(error))
}

async fn write_record(stream: &mut TcpStream, record: &[u8]) -> io::Result<()> {
    let length = u8::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_u8(length).await?;
    stream.write_all(record).await
}

async fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u8().await?);
    if length > HANDSHAKE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut record = vec![0; length];
    stream.read_exact(&mut record).await?;
    Ok(record)
}

fn codec(cipher: Option<&Cipher>) -> LengthDelimitedCodec {
    let longest = if cipher.is_some() { RECORD_BYTES } else { CONTROL_FRAME_BYTES };
    LengthDelimitedCodec::builder().max_frame_length(longest).new_codec()
}

/// Reads frames.
pub(super) struct FrameReader {
    records: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    cipher: Option<Cipher>,
    nonce: u64,
    plain: Vec<u8>,
    /// Of a frame whose last record is not there yet.
    partial: BytesMut,
}

impl FrameReader {
    pub(super) fn new(half: OwnedReadHalf, cipher: Option<Cipher>) -> Self {
        let codec = codec(cipher.as_ref());
        let plain = vec![0; if cipher.is_some() { RECORD_BYTES } else { 0 }];
        let records = FramedRead::new(half, codec);
        Self { records, cipher, nonce: 0, plain, partial: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the stream. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let Some(record) = self.records.next().await.transpose()? else { return Ok(None) };
            if self.cipher.is_none() {
                return decode(&record).map(Some);
            }
            if self.open(&record)? {
                let bytes = self.partial.split();
                return decode(&bytes).map(Some);
            }
        }
    }

    /// Decrypts one record; true when the frame is whole.
    fn open(&mut self, record: &[u8]) -> io::Result<bool> {
        let cipher = self.cipher.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let length = cipher
            .read_message(self.nonce, record, &mut self.plain)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        self.nonce = self.nonce.saturating_add(1);
        let plain = self.plain.get(..length).unwrap_or_default();
        let (more, chunk) = plain.split_first().ok_or(io::ErrorKind::InvalidData)?;
        if self.partial.len().saturating_add(chunk.len()) > CONTROL_FRAME_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.partial.extend_from_slice(chunk);
        Ok(*more == LAST)
    }
}

fn decode(bytes: &[u8]) -> io::Result<Frame> {
    Frame::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes frames.
pub(super) struct FrameWriter {
    records: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
    cipher: Option<Cipher>,
    nonce: u64,
    /// What the peer reads.
    pub(super) version: u16,
}

impl FrameWriter {
    pub(super) fn new(half: OwnedWriteHalf, cipher: Option<Cipher>) -> Self {
        let codec = codec(cipher.as_ref());
        Self { records: FramedWrite::new(half, codec), cipher, nonce: 0, version: OLDEST }
    }

    /// Queues a frame, unless the peer is too old for it; `flush` sends what is queued.
    pub(super) async fn feed(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.since() > self.version {
            return Ok(());
        }
        let bytes = frame.encode(self.version);
        if bytes.len() > CONTROL_FRAME_BYTES {
            tracing::error!(bytes = bytes.len(), "a control frame is too large and was not sent");
            return Ok(());
        }
        let Some(cipher) = self.cipher.clone() else {
            return self.records.feed(Bytes::from(bytes)).await;
        };
        let mut chunks = bytes.chunks(CHUNK_BYTES).peekable();
        while let Some(chunk) = chunks.next() {
            let mut plain = Vec::with_capacity(chunk.len() + 1);
            plain.push(if chunks.peek().is_some() { MORE } else { LAST });
            plain.extend_from_slice(chunk);
            let mut record = vec![0; plain.len() + TAG_BYTES];
            let length = cipher
                .write_message(self.nonce, &plain, &mut record)
                .map_err(|error| io::Error::other(error.to_string()))?;
            self.nonce = self.nonce.saturating_add(1);
            record.truncate(length);
            self.records.feed(Bytes::from(record)).await?;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        SinkExt::<Bytes>::flush(&mut self.records).await
    }
}
