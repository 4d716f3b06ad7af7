//! Who is at the other end of a control link: the first frame each way.

use crate::ids::{Incarnation, NodeName};
use serde::{Deserialize, Serialize};

/// Version and identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Greatest version the sender reads.
    pub version: u16,
    /// Its name.
    pub name: NodeName,
    /// Its start.
    pub incarnation: Incarnation,
    /// What it is.
    pub role: Role,
    /// Where it takes control connections; of a media node: where signaling dials it.
    pub control: Vec<core::net::SocketAddr>,
}

/// Which half of the switch speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Owns calls.
    Signaling,
    /// Anchors media.
    Media,
}

/// What a media node can take, sent at start and when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Sessions now.
    pub sessions: u32,
    /// Of them transcoded.
    pub transcoded_sessions: u32,
    /// Most sessions.
    pub max_sessions: u32,
    /// First and last port.
    pub ports: (u16, u16),
    /// Ports in use.
    pub ports_in_use: u32,
    /// Takes no new sessions.
    pub draining: bool,
    /// Used up of the CPU that the process may have; `ALL_USED_UP`: it takes no new sessions.
    pub cpu_percent: u32,
    /// 99th percentile of how late timer work ran.
    pub tick_late_p99_us: u32,
    /// `HOLDFAST_MEDIA_BIND`.
    pub bind: String,
    /// `HOLDFAST_MEDIA_ADVERTISE`.
    pub advertise: Option<String>,
}

impl Capacity {
    /// Percent that a node tells when new calls would spoil those that it has: it has no CPU left, or does not get it
    /// in time. Nodes of release 0.1.0 told percent of one core, which may be more.
    pub const ALL_USED_UP: u32 = 100;
}
