//! Sockets, names and the clock: everything that touches the kernel for the shells.

pub mod cgroup;
pub mod clock;
pub mod control_link;
pub mod descriptor_link;
pub mod dns;
pub mod dscp;
pub mod local_address;
mod noise;
pub mod offload;
pub mod route;
pub mod rtp_socket;
pub mod sibling_link;
pub mod socket_memory;
pub mod stun;
pub mod tcp;
pub mod trial;
pub mod udp;
pub mod web;
