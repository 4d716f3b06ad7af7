//! This node as others see it: its view each second, in the table of nodes by a task of its own.
//!
//! Invariant: a store that does not answer delays the row, never the worker.

use super::worker::Worker;
use crate::call::RECORD_VERSION;
use crate::control;
use crate::event::{Event, Measure};
use crate::ids::{Incarnation, NodeName};
use crate::net::clock;
use crate::operator::Readiness;
use crate::store::{NodeRow, Store};
use crate::views::node::{DrainView, LinkView, MediaListener, SipListener};
use crate::views::{EventView, Happening, NodeState, NodeView, Rfc3339};
use core::net::SocketAddr;
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Writes every new view as the node's row.
pub(super) async fn publish(
    store: Store,
    (name, incarnation, mode): (NodeName, Incarnation, &'static str),
    control: Vec<SocketAddr>,
    mut rows: watch::Receiver<Option<NodeView>>,
) {
    let mut was_written = true;
    while rows.changed().await.is_ok() {
        let Some(view) = rows.borrow_and_update().clone() else { continue };
        let Ok(view) = serde_json::to_string(&view) else { continue };
        let row = NodeRow {
            name: name.clone(),
            incarnation,
            mode: mode.to_owned(),
            control: control.clone(),
            seen_at: clock::now(),
            view,
        };
        let result = store.write_node(&row).await;
        if let Err(error) = &result
            && was_written
        {
            tracing::warn!("the row of this node cannot be written: {error}");
        }
        was_written = result.is_ok();
    }
}

impl Worker {
    /// The first time that it takes calls is told.
    pub(super) fn note_ready(&mut self) {
        if !self.was_ready && self.loaded && self.media.has_room() {
            self.was_ready = true;
            self.tell(Happening::NodeStarted);
        }
    }

    /// For those who watch the cluster: what is no call's.
    pub(super) fn tell(&mut self, what: Happening) {
        let node = self.settings.node.to_string();
        self.committer.tell(&EventView { at: Rfc3339(self.now), node, what });
    }

    /// How much waits, and where.
    pub(super) fn measure_queues(&self) {
        for (queue, depth) in [
            ("store", self.committer.owed()),
            ("answers", self.committer.held()),
            ("ending", self.ending.len()),
            ("reapply", self.reapply.len()),
        ] {
            self.emit(&Event::Measured(Measure::Depth { queue, depth }));
        }
    }

    /// Whether this node takes calls, and what is wrong.
    pub(super) fn readiness(&self) -> Readiness {
        if self.draining.is_some() {
            return Readiness::Draining;
        }
        let mut reasons = Vec::new();
        if !self.loaded {
            reasons.push("users and registrations are not read yet".to_owned());
        } else if !self.store_readable {
            reasons.push("the store cannot be read".to_owned());
        }
        reasons.extend(self.storing_faults());
        if !self.media.has_room() {
            reasons.push("no media node with room: new calls get 503".to_owned());
        }
        match (reasons.is_empty(), self.was_ready) {
            (true, _) => Readiness::Ready,
            (false, true) => Readiness::Degraded(reasons),
            (false, false) => Readiness::Starting(reasons),
        }
    }

    /// This node in the API.
    pub(super) fn node_view(&self) -> NodeView {
        let settings = &self.settings;
        let clustered = !self.store.is_embedded();
        let count = |count: usize| Some(u64::try_from(count).unwrap_or(u64::MAX));
        let advertise = settings.advertise.public.as_ref().map(|(host, port)| match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        });
        let sip = self.sockets.listeners().into_iter().map(|(transport, bound)| SipListener {
            transport: transport.name().to_owned(),
            bind: bound.to_string(),
            advertise: advertise.clone(),
        });
        NodeView {
            name: settings.node.to_string(),
            mode: self.mode.to_owned(),
            state: match self.readiness() {
                Readiness::Ready => NodeState::Ready,
                Readiness::Degraded(_) => NodeState::Degraded,
                Readiness::Starting(_) => NodeState::Starting,
                Readiness::Draining => NodeState::Draining,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            record_version: Some(RECORD_VERSION),
            control_version: control::VERSION,
            started_at: Some(Rfc3339(self.started_at)),
            last_seen_at: Some(Rfc3339(self.now)),
            lease_expires_at: clustered.then(|| Rfc3339(self.now + self.lease)),
            sip: sip.collect(),
            media: None,
            control: Some(self.control.to_string()),
            labels: BTreeMap::new(),
            calls: count(self.calls.iter().filter(|(_, slot)| !slot.call.lingers()).count()),
            registrations: count(self.directory.all_bindings().count()),
            sessions: None,
            transcoded_sessions: None,
            max_sessions: None,
            cpu_percent: Some(self.cpu_percent()),
            tick_late_p99_ms: None,
            journal: Some(self.journal_view()),
            drain: self.draining.map(|drain| DrainView {
                started_at: Rfc3339(drain.started_at),
                deadline_at: drain.deadline_at.map(Rfc3339),
                remaining_calls: count(self.remaining_calls()).unwrap_or_default(),
                remaining_sessions: 0,
                remaining_flows: count(self.remaining_flows()).unwrap_or_default(),
            }),
            links: self.links(),
        }
    }

    fn links(&self) -> Vec<LinkView> {
        let link = |(name, node): (&NodeName, &super::media_pool::MediaNode)| LinkView {
            peer: name.to_string(),
            state: if node.is_up() { "up" } else { "down" }.to_owned(),
            since: Some(Rfc3339(node.since)),
            rtt_ms: node.rtt_us().map(|rtt| f64::from(rtt) / 1_000.0),
        };
        let peer = |(name, peer): (&NodeName, &super::peers::Peer)| LinkView {
            peer: name.to_string(),
            state: "up".to_owned(),
            since: Some(Rfc3339(peer.since)),
            rtt_ms: peer.rtt_us().map(|rtt| f64::from(rtt) / 1_000.0),
        };
        self.media.iter().map(link).chain(self.peers.iter().map(peer)).collect()
    }

    /// Media nodes as they told us.
    pub(super) fn media_views(&self) -> Vec<NodeView> {
        self.media.iter().map(|(name, node)| self.media_view(name, node)).collect()
    }

    fn media_view(&self, name: &NodeName, node: &super::media_pool::MediaNode) -> NodeView {
        let capacity = &node.capacity;
        let state = match (node.is_up(), node.is_drained()) {
            (false, _) => NodeState::Suspect,
            (true, true) => NodeState::Draining,
            (true, false) => NodeState::Ready,
        };
        NodeView {
            name: name.to_string(),
            mode: "media".to_owned(),
            state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            record_version: None,
            control_version: node.hello.version,
            started_at: None,
            last_seen_at: Some(Rfc3339(if node.is_up() { self.now } else { node.since })),
            lease_expires_at: None,
            sip: Vec::new(),
            media: Some(MediaListener {
                bind: capacity.bind.clone(),
                advertise: capacity.advertise.clone(),
                port_first: capacity.ports.0,
                port_last: capacity.ports.1,
                ports_in_use: capacity.ports_in_use,
            }),
            control: node.hello.control.first().map(ToString::to_string),
            labels: BTreeMap::new(),
            calls: None,
            registrations: None,
            sessions: Some(u64::from(capacity.sessions)),
            transcoded_sessions: Some(u64::from(capacity.transcoded_sessions)),
            max_sessions: Some(u64::from(capacity.max_sessions)),
            cpu_percent: Some(f64::from(capacity.cpu_percent)),
            tick_late_p99_ms: Some(f64::from(capacity.tick_late_p99_us) / 1_000.0),
            journal: None,
            drain: node.is_drained().then(|| DrainView {
                started_at: Rfc3339(node.draining_since.unwrap_or(self.now)),
                deadline_at: None,
                remaining_calls: 0,
                remaining_sessions: u64::from(node.sessions()),
                remaining_flows: 0,
            }),
            links: Vec::new(),
        }
    }

    /// Of one core, since the process started.
    fn cpu_percent(&self) -> f64 {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
        let seconds = |time: nix::sys::time::TimeVal| {
            time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0
        };
        let used = seconds(usage.user_time()) + seconds(usage.system_time());
        let lived = self.now.saturating_since(self.started_at).as_secs_f64().max(1.0);
        (used / lived * 1_000.0).round() / 10.0
    }
}
