//! The images and compose files on a real Docker engine: containers are killed, restarted and stopped while people talk.
//!
//! Docker must be there: a missing one is a failure. Who cannot have it sets `WITHOUT_DOCKER=1`, and the output says what
//! was left out.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../peers/pair.rs"]
mod pair;

mod engine;
mod faults;
mod first_call;
mod image;
mod stack;
