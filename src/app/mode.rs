//! What a process is: signaling, media or both.
//!
//! Invariant: the only place that matches on the mode; everything else asks a question about
//! halves.

use super::config::{Config, Secret};
use super::data_dir::{DataDir, Holder};
use super::serve::is_loopback;
use crate::admin::webhooks::Courier;
use crate::capture::CaptureConfig;
use crate::event::Event;
use crate::ids::{ClusterKey, Incarnation, NodeName};
use crate::media::{self, Collector, MediaNode, PortRange};
use crate::net::clock;
use crate::net::control_link::Secrets;
use crate::net::trial;
use crate::operator::Command;
use crate::signaling::{self, SignalingNode};
use crate::store::Store;
use crate::telemetry::Telemetry;
use anyhow::{Context, bail};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Links break within, once the other end is closed.
const LINKS_BREAK: Duration = Duration::from_millis(100);

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
    /// Number of the slot.
    pub slot: u16,
    /// This start of it.
    pub incarnation: Incarnation,
    /// The slice of the media ports that is ours.
    pub media_ports: PortRange,
    /// The host, as its processes know it.
    pub host: String,
    /// Our socket for media processes of this host that leave.
    pub handover: PathBuf,
    /// Where journals are kept.
    pub journals: PathBuf,
    /// Where this host keeps what is said in calls.
    pub capture: PathBuf,
    /// Where signaling processes of this host find each other.
    pub siblings: PathBuf,
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
    signaling: Option<SignalingNode>,
    media: Option<MediaNode>,
    courier: Option<Courier>,
    exporter: Option<crate::admin::traces::Exporter>,
}

impl Halves {
    /// Starts what the mode has: signaling first, so that media knows where to announce itself.
    pub async fn start(
        parts: &Parts<'_>,
        signaling: Option<SignalingPart>,
    ) -> anyhow::Result<Self> {
        let signaling = match signaling {
            Some(part) => {
                let node = parts.start_signaling(part).await?;
                parts.telemetry.watch(node.figures());
                Some(node)
            }
            None => None,
        };
        let media = if parts.config.mode.has_media() {
            let config = parts.media_config(signaling.as_ref().map(|node| node.control)).await;
            let node = media::start(config, parts.events()).await?;
            parts.telemetry.watch(node.figures());
            Some(node)
        } else {
            None
        };
        tracing::info!("node {} is up (slot {})", parts.node, parts.slot);
        Ok(Self { signaling, media, courier: None, exporter: None })
    }

    /// Events go to webhooks as long as signaling runs.
    pub fn with_courier(self, courier: Courier) -> Self {
        Self { courier: Some(courier), ..self }
    }

    /// So do traces to a collector.
    pub fn with_exporter(self, exporter: crate::admin::traces::Exporter) -> Self {
        Self { exporter: Some(exporter), ..self }
    }

    /// Signaling can tell the media half what it wishes; true without one.
    pub fn media_is_linked(&self) -> bool {
        self.media.as_ref().is_none_or(MediaNode::is_linked)
    }

    /// Of a media half: sessions at most.
    pub fn set_max_calls(&self, wished: Option<u32>) {
        if let Some(media) = &self.media {
            media.set_max_calls(wished);
        }
    }

    /// Stops with manners. Signaling gives its calls to others, or parks: they stay in the store. Media gives its
    /// sessions to another process of the host; without one it waits for them to end or for somebody to come, at most
    /// the time given, and as long as there is signaling that could end them: for a process of both halves, that of
    /// another host.
    pub async fn stop(self, drain_timeout: Duration) {
        let parks = self.signaling.is_some();
        if let Some(courier) = self.courier {
            let _ = tokio::task::spawn_blocking(move || courier.stop()).await;
        }
        if let Some(exporter) = self.exporter {
            let _ = tokio::task::spawn_blocking(move || exporter.stop()).await;
        }
        if let Some(node) = self.signaling {
            node.stop();
            // Its thread ends within the deadline of its last commit.
            let _ = tokio::task::spawn_blocking(move || node.join()).await;
        }
        let Some(node) = self.media else { return };
        node.drain(true);
        if parks {
            node.hand_over().await;
        }
        if !parks || is_minded(&node).await {
            let _ = tokio::time::timeout(drain_timeout, node.empty()).await;
        }
        node.stop().await;
    }
}

/// Signaling elsewhere minds its sessions: the link of our own half, which has ended, breaks in a moment.
async fn is_minded(node: &MediaNode) -> bool {
    tokio::time::sleep(LINKS_BREAK).await;
    node.is_linked()
}

impl Parts<'_> {
    /// What tokens and sealed things of the cluster are made with.
    pub fn key(&self) -> anyhow::Result<ClusterKey> {
        let (secret, others) = self.secrets.split_first().context("a cluster without a secret")?;
        let others = others.iter().map(|other| other.expose().as_bytes());
        Ok(ClusterKey::new(secret.expose().as_bytes()).knowing(others))
    }

    async fn start_signaling(&self, part: SignalingPart) -> anyhow::Result<SignalingNode> {
        let config = self.config;
        self.refuse_strangers()?;
        let signaling = signaling::Config {
            node: NodeName(self.node.into()),
            incarnation: self.incarnation,
            mode: config.mode.name(),
            key: self.key()?,
            secrets: self.link_secrets(),
            sip_bind: config.sip.bind.clone(),
            advertise: config.sip.advertise.clone(),
            realm: part.realm,
            product: concat!("Holdfast/", env!("CARGO_PKG_VERSION")).to_owned(),
            tuning: config.tuning(),
            control_bind: config.control_bind,
            lease: config.lease,
            journals: Some(self.journals.clone()),
            capture: Some(CaptureConfig {
                folder: self.capture.clone(),
                life: config.ladder_life,
                bytes: config.ladder_bytes,
            })
            .filter(|capture| capture.bytes > 0),
            hep: config.hep.clone(),
            siblings: Some(self.siblings.clone()),
        };
        Ok(signaling::start(signaling, part.store, part.commands, self.events()).await?)
    }

    /// Everybody who wants to know what happens.
    fn events(&self) -> Arc<dyn Fn(&Event) + Send + Sync> {
        let telemetry = self.telemetry.clone();
        Arc::new(move |event: &Event| telemetry.handle(event, clock::now()))
    }

    /// Processes of one data directory share the SIP port; a stranger on it would get its share of what our phones
    /// say.
    fn refuse_strangers(&self) -> anyhow::Result<()> {
        let is_sibling =
            |holder: &Holder| holder.name != self.node && holder.mode != Mode::Media.name();
        if DataDir::holders(&self.config.data_dir).iter().any(is_sibling) {
            return Ok(());
        }
        for address in self.config.sip.bind.iter().filter(|address| address.port() != 0) {
            // Bound without sharing, for a moment: that fails when anybody else is there.
            let taken = trial::udp(*address, true)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
            if taken {
                bail!(
                    "sip_bind {address} is taken by another program, or by a Holdfast with another \
                     data directory (`ss -lnup` names it): stop that, set HOLDFAST_SIP_BIND, or \
                     give both the same HOLDFAST_DATA_DIR"
                );
            }
        }
        Ok(())
    }

    /// `signaling` is where our own other half takes control connections.
    async fn media_config(&self, signaling: Option<SocketAddr>) -> media::Config {
        let (media, wanted) = (&self.config.media, self.config.control_bind);
        let (join, control_bind) = match signaling {
            Some(address) => {
                let next = SocketAddr::new(wanted.ip(), address.port().saturating_add(1));
                let own = within_reach(address).to_string();
                // Signaling of other hosts takes our calls when this process leaves: it is to know their media.
                let others = self.config.join.iter().filter(|name| !is_loopback(name)).cloned();
                (core::iter::once(own).chain(others).collect(), next)
            }
            None => (self.config.join.clone(), wanted),
        };
        let advertise = match &media.advertise {
            Some(name) => resolved(name).await,
            None => None,
        };
        media::Config {
            name: NodeName(self.node.into()),
            incarnation: self.incarnation,
            bind: media.bind,
            advertise,
            local_nets: media.local_nets.clone(),
            ports: self.media_ports,
            control_bind,
            join,
            secrets: self.link_secrets(),
            max_calls: media.max_calls,
            priority: media.priority,
            offload: media.offload,
            host: self.host.clone(),
            handover: Some(self.handover.clone()),
            collector: self.config.hep.clone().map(|hep| {
                let telemetry = self.telemetry.clone();
                let observer = Arc::new(move |event: &Event| telemetry.handle(event, clock::now()));
                Collector::start(hep, observer)
            }),
            workers: 0,
        }
    }

    fn link_secrets(&self) -> Secrets {
        Secrets(self.secrets.iter().map(|secret| secret.expose().as_bytes().to_vec()).collect())
    }
}

/// Where our own half reaches a listener: an unspecified address is reached by loopback.
fn within_reach(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// SDP carries addresses: a name is looked up once, at start.
async fn resolved(name: &str) -> Option<IpAddr> {
    if let Ok(ip) = name.parse() {
        return Some(ip);
    }
    let found = tokio::net::lookup_host((name, 0)).await.ok().and_then(|mut all| all.next());
    if found.is_none() {
        tracing::warn!(
            "media_advertise {name} has no address: phones are told the address the kernel uses"
        );
    }
    found.map(|address| address.ip())
}
