//! What stands between phones and the switch: NAT of every kind, in network namespaces with the kernel's own NAT.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../peers/pair.rs"]
mod pair;

mod addresses;
mod doctor;
mod nat;
mod offload;
mod router;
