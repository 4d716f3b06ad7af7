//! Holdfast: a softswitch for containers. Calls outlive the processes that carry them.
//!
//! The guided tour, floor by floor. A module imports only from lower floors; modules of one floor are strangers.
//! Floors 0 to 3 are sans-io: no tokio, sockets, clock, randomness, environment, locks or channels in them.

// Floor 0: what everything stands on.
/// Plain data as bytes.
pub mod encoding;
/// Identities, and tokens derived from them.
pub mod ids;
/// Every bound by name.
pub mod limits;
/// Points in time that can be stored.
pub mod time;

// Floor 1: protocols, byte by byte.
/// G.711, Opus, resampling, tones.
pub mod codec;
/// RTP and RTCP packets.
pub mod rtp;
/// SIP: messages, transactions, dialogs, digest.
pub mod sip;

// Floor 2: the languages between parts.
/// The only language signaling and media share.
pub mod control;
/// Users and bindings in memory.
pub mod directory;
/// What happened, once, for all readers.
pub mod event;
/// What the REST API shows.
pub mod views;

// Floor 2½: they speak in the languages of floor 2.
/// The dial plan as a pure function.
pub mod routing;
/// SDP, and offer/answer across a B2BUA.
pub mod sdp;

// Floor 3: machines.
/// One B2BUA call.
pub mod call;
/// Binding rules of REGISTER.
pub mod registrar;
/// One media session.
pub mod relay;

// Floor 4: doors to the world.
/// What was said in calls, in files.
pub mod capture;
/// Sockets and the clock.
pub mod net;
/// What an operator may ask of a node: commands and their channel.
pub mod operator;
/// The only SQL.
pub mod store;
/// Logs and metrics, derived from events.
pub mod telemetry;

// Floor 5: shells.
/// The REST API.
pub mod admin;
/// A media node.
pub mod media;
/// A signaling node.
pub mod signaling;

// Floor 6: composition.
/// Settings, modes, shutdown.
pub mod app;
/// The command line.
pub mod cli;
