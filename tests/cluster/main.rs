//! Several processes that are one switch, on a real PostgreSQL, with real kills: what people on the phone notice of
//! them.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../peers/pair.rs"]
mod pair;

mod amid;
mod any_node;
mod audit;
mod baresip;
mod capture;
mod clocks;
mod connections;
mod crowd;
mod cut;
mod drain;
mod entrances;
mod events;
mod exile;
mod failover;
mod freeze;
mod gone;
mod hep;
mod kill;
mod ladder;
mod measured;
mod media;
mod metrics;
mod originate;
mod outage;
mod poison;
mod previous;
mod quality;
mod reanchor;
mod restart;
mod rude;
mod spread;
mod srtp;
mod start;
mod steer;
mod switch;
mod traces;
mod truth;
mod two_hosts;
mod upgrade;
mod versions;
mod webhooks;
