//! Every bound by name. At a bound we answer (503 and Retry-After, 413, 513 …) and count; nothing grows without one.

use core::time::Duration;

/// Largest SIP message accepted, in bytes; above it 513 (RFC 3261 §21.5.7) and, over a stream, close.
pub const SIP_MESSAGE_BYTES: usize = 65_535;
/// Header fields a message.
pub const SIP_HEADERS: usize = 256;
/// TCP connections of phones a process.
pub const SIP_CONNECTIONS: usize = 20_000;
/// Bytes that wait to be written to one stream peer; above it the connection is closed.
pub const STREAM_BACKLOG_BYTES: usize = 512 * 1024;
/// Legs a call: the caller and every fork branch that ever was, redirections included.
pub const LEGS_PER_CALL: usize = 32;
/// Server and client transactions open at a time of one leg.
pub const TRANSACTIONS_PER_LEG: usize = 128;
/// Media lines read of an SDP.
pub const SDP_MEDIA_LINES: usize = 16;
/// Formats read of a media line.
pub const SDP_FORMATS: usize = 64;
/// Ways to protect a stream that are read of a media line.
pub const SDP_CRYPTO_LINES: usize = 8;
/// Audio streams that are anchored a leg.
pub const STREAMS_PER_LEG: usize = 2;
/// Redirections (302) followed one after another.
pub const REDIRECTIONS: u8 = 5;
/// Bindings a user may have when nothing else is said (`HOLDFAST_MAX_CONTACTS`).
pub const CONTACTS_PER_USER: usize = 10;
/// Calls alive in one signaling process.
pub const CALLS_PER_NODE: usize = 100_000;
/// Outputs of all machines that wait for a commit; above it new calls get 503.
pub const HELD_OUTPUTS: usize = 200_000;
/// Calls and users whose rows the store is owed; above it new calls get 503.
pub const OWED_WRITES: usize = 200_000;
/// INVITEs that wait until peers have said whether they know them; those above it do not wait.
pub const ASKED_INVITES: usize = 4_096;
/// Rows a commit.
pub const COMMIT_BATCH: usize = 500;
/// Events of no call that wait for the store; above it the oldest are lost.
pub const UNTOLD_EVENTS: usize = 2_000;
/// Commands of operators that wait for the worker.
pub const COMMAND_QUEUE: usize = 256;
/// Bytes of a control frame.
pub const CONTROL_FRAME_BYTES: usize = 256 * 1024;
/// Frames that wait on one control link.
pub const CONTROL_QUEUE: usize = 4_096;
/// Frames kept free on a link for what is new, while a node that is back is told what it missed.
pub const LINK_RESERVE: usize = 512;
/// Body of a REST request other than an import.
pub const REST_BODY_BYTES: usize = 1024 * 1024;
/// Lines of an import.
pub const IMPORT_LINES: usize = 1_000_000;

/// RFC 3261 §17: round-trip time estimate.
pub const T1: Duration = Duration::from_millis(500);
/// RFC 3261 §17: longest interval between retransmissions.
pub const T2: Duration = Duration::from_secs(4);
/// RFC 3261 §17: longest life of a message in the network.
pub const T4: Duration = Duration::from_secs(5);
/// Deadline of a transaction: Timers B, F, H (64 × T1).
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(32);
