//! Real phones against the real binary: baresip, SIPp and our own, over UDP and TCP, audio judged by its content.

#[path = "../common/mod.rs"]
mod common;

/// What must be refused or dropped, and never harms a call.
mod bad_input;
/// baresip and SIPp through the server.
mod calls;
/// A phone is asked to look for its configuration.
mod check_sync;
/// What is not as it should be.
mod flags;
/// The harness judged by itself: phones without a server between them.
mod harness;
/// How long what was said is kept.
mod kept;
/// The command line beside a process.
mod local_socket;
/// Every noun of the command line.
mod nouns;
/// Calls that an operator begins.
mod originate;
/// Two phones of our own in a call.
mod pair;
/// How calls sound, in numbers.
mod quality;
mod reload;
/// Sequences that only a phone of our own can be made to do.
mod sequences;
/// SRTP on either leg.
mod srtp;
mod steer;
/// A media process whose CPU is taken away.
mod stress;
/// The command line while calls live.
mod watching;
