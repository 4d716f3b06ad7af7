//! What is known of nodes at the time of a scrape: this one's links, journal and drain, and the media nodes that it is
//! linked with.

use crate::time::Timestamp;
use crate::views::NodeView;
use core::sync::atomic::AtomicU64;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Labels = [(&'static str, String); 1];
type InfoLabels = [(&'static str, String); 3];
type Fraction = Gauge<f64, AtomicU64>;

/// Gauges by node, peer, or of this node alone.
#[derive(Debug)]
pub(super) struct Nodes {
    info: Family<InfoLabels, Gauge>,
    link_up: Family<Labels, Gauge>,
    link_rtt: Family<Labels, Fraction>,
    media_up: Family<Labels, Gauge>,
    media_draining: Family<Labels, Gauge>,
    sessions: Family<Labels, Gauge>,
    sessions_transcoded: Family<Labels, Gauge>,
    sessions_most: Family<Labels, Gauge>,
    ports: Family<Labels, Gauge>,
    ports_in_use: Family<Labels, Gauge>,
    cpu: Family<Labels, Fraction>,
    journal_entries: Gauge,
    journal_bytes: Gauge,
    journal_age: Fraction,
    draining: Gauge,
    remaining_calls: Gauge,
    remaining_flows: Gauge,
}

impl Nodes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let info = Family::<InfoLabels, Gauge>::default();
        registry.register("node_info", "1, with the name of the node", info.clone());
        let mut family = |name: &str, help: &str| {
            let family = Family::<Labels, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        let link_up = family("link_up", "1: the control link with that node is up");
        let media_up = family("media_node_up", "1: that media node is linked with this node");
        let media_draining = family("media_node_draining", "1: it takes no new sessions");
        let sessions = family("media_node_sessions", "Sessions of that media node");
        let help = "Sessions of that media node with two codecs";
        let sessions_transcoded = family("media_node_sessions_transcoded", help);
        let sessions_most = family("media_node_sessions_max", "Sessions that it takes at most");
        let ports = family("media_node_ports", "RTP and RTCP ports of that media node");
        let ports_in_use = family("media_node_ports_in_use", "Those that sessions have");
        let mut fractions = |name: &str, help: &str, unit: Option<Unit>| {
            let family = Family::<Labels, Fraction>::default();
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
                None => registry.register(name, help, family.clone()),
            }
            family
        };
        let help = "Round trip of the control link with that node";
        let link_rtt = fractions("link_rtt", help, Some(Unit::Seconds));
        let cpu = fractions("media_node_cpu_percent", "CPU that it uses, of all it may have", None);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let journal_entries =
            gauge("journal_entries", "What the store is owed and the journal keeps");
        let journal_bytes =
            gauge("journal_size_bytes", "Bytes of the journal, while it keeps anything");
        let draining = gauge("draining", "1: this node takes no new calls");
        let remaining_calls = gauge("drain_remaining_calls", "Calls that a drain waits for");
        let remaining_flows = gauge("drain_remaining_flows", "Connections that a drain waits for");
        let journal_age = Fraction::default();
        let help = "Age of the oldest that the journal keeps";
        registry.register_with_unit("journal_age", help, Unit::Seconds, journal_age.clone());
        Self {
            info,
            link_up,
            link_rtt,
            media_up,
            media_draining,
            sessions,
            sessions_transcoded,
            sessions_most,
            ports,
            ports_in_use,
            cpu,
            journal_entries,
            journal_bytes,
            journal_age,
            draining,
            remaining_calls,
            remaining_flows,
        }
    }

    /// Who this is.
    pub(super) fn name(&self, own: &str, mode: &str, version: &str) {
        let labels = [("node", own), ("mode", mode), ("version", version)];
        self.info.get_or_create(&labels.map(|(name, word)| (name, word.to_owned()))).set(1);
    }

    /// Nodes that are gone leave no gauge behind.
    pub(super) fn set(&self, own: &str, nodes: &[NodeView], now: Timestamp) {
        for family in [
            &self.link_up,
            &self.media_up,
            &self.media_draining,
            &self.sessions,
            &self.sessions_transcoded,
            &self.sessions_most,
            &self.ports,
            &self.ports_in_use,
        ] {
            family.clear();
        }
        self.link_rtt.clear();
        self.cpu.clear();
        for node in nodes {
            if node.name == own {
                self.set_own(node, now);
            }
            if node.media.is_some() {
                self.set_media(node);
            }
        }
    }

    fn set_own(&self, node: &NodeView, now: Timestamp) {
        for link in &node.links {
            let peer = [("peer", link.peer.clone())];
            self.link_up.get_or_create(&peer).set(i64::from(link.state == "up"));
            if let Some(millis) = link.rtt_ms {
                self.link_rtt.get_or_create(&peer).set(millis / 1_000.0);
            }
        }
        let journal = node.journal.as_ref();
        set(&self.journal_entries, journal.map_or(0, |journal| journal.entries));
        set(&self.journal_bytes, journal.map_or(0, |journal| journal.bytes));
        let oldest = journal.and_then(|journal| journal.oldest_at);
        self.journal_age.set(oldest.map_or(0.0, |at| now.saturating_since(at.0).as_secs_f64()));
        let drain = node.drain.as_ref();
        self.draining.set(i64::from(drain.is_some()));
        set(&self.remaining_calls, drain.map_or(0, |drain| drain.remaining_calls));
        set(&self.remaining_flows, drain.map_or(0, |drain| drain.remaining_flows));
    }

    fn set_media(&self, node: &NodeView) {
        use crate::views::NodeState;
        let name = [("node", node.name.clone())];
        let is_up = !matches!(node.state, NodeState::Suspect | NodeState::Down);
        self.media_up.get_or_create(&name).set(i64::from(is_up));
        let drains = node.state == NodeState::Draining;
        self.media_draining.get_or_create(&name).set(i64::from(drains));
        for (family, value) in [
            (&self.sessions, node.sessions),
            (&self.sessions_transcoded, node.transcoded_sessions),
            (&self.sessions_most, node.max_sessions),
        ] {
            set(&family.get_or_create(&name), value.unwrap_or(0));
        }
        if let Some(percent) = node.cpu_percent {
            self.cpu.get_or_create(&name).set(percent);
        }
        if let Some(media) = &node.media {
            let all = u64::from(media.port_last.saturating_sub(media.port_first)) + 1;
            set(&self.ports.get_or_create(&name), all);
            set(&self.ports_in_use.get_or_create(&name), u64::from(media.ports_in_use));
        }
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
