//! How media fares, for a HEP collector: what the node tells signaling of its sessions, as JSON in the fields of RTCP
//! reports (RFC 3550 §6.4).
//!
//! Invariant: a worker never waits for it: what does not fit the queue is lost and counted.

use crate::capture::{HepConfig, HepKind, HepPacket, HepSender, Observer};
use crate::control::SessionState;
use crate::control::reply::StreamStatistics;
use crate::event::{Event, Measure};
use crate::ids::Transport;
use crate::net::clock;
use core::net::SocketAddr;
use serde_json::json;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// States that wait for the sender.
const QUEUE: usize = 4_096;
/// Jitter is told in units of the timestamp; the clock of audio in RTCP readers' minds is this one's.
const CLOCK_KHZ: u32 = 8;

/// The way to the sender.
#[derive(Clone)]
pub struct Collector {
    states: SyncSender<SessionState>,
    events: Observer,
}

impl core::fmt::Debug for Collector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Collector")
    }
}

impl Collector {
    /// Starts the sender.
    pub fn start(config: HepConfig, events: Observer) -> Self {
        let (states, inlet) = sync_channel(QUEUE);
        let sender_events = Observer::clone(&events);
        let thread = std::thread::Builder::new().name("hep".to_owned());
        let run = move || send_all(HepSender::new(config), &inlet, &sender_events);
        if let Err(error) = thread.spawn(run) {
            tracing::warn!("the HEP collector is told nothing of media: {error}");
        }
        Self { states, events }
    }

    /// A session as it is.
    pub(super) fn tell(&self, state: &SessionState) {
        if self.states.try_send(state.clone()).is_err() {
            lost(&self.events, 1);
        }
    }
}

fn lost(events: &Observer, count: u64) {
    if count > 0 {
        events(&Event::Measured(Measure::Lost { queue: "hep", count }));
    }
}

/// Until nobody tells any more.
fn send_all(mut hep: HepSender, inlet: &Receiver<SessionState>, events: &Observer) {
    while let Ok(state) = inlet.recv() {
        // A call's first session has its id.
        let correlation = state.session.to_string();
        for stream in state.legs.iter().flat_map(|leg| &leg.streams) {
            let Some(latched) = stream.statistics.latched else { continue };
            let payload = report(&stream.statistics).to_string();
            let packet = HepPacket {
                at: clock::now(),
                source: control_port(latched),
                target: control_port(stream.local),
                transport: Transport::Udp,
                kind: HepKind::Rtcp,
                correlation: &correlation,
                payload: payload.as_bytes(),
            };
            lost(events, hep.send(&packet));
        }
        lost(events, hep.flush());
    }
}

/// RTCP is the next port.
fn control_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().saturating_add(1))
}

/// What we hear of the phone as a report block, and what we send it.
fn report(statistics: &StreamStatistics) -> serde_json::Value {
    let now = clock::now().as_micros();
    json!({
        "type": 200,
        "ssrc": statistics.sent_ssrc.unwrap_or(0),
        "sender_information": {
            "ntp_timestamp_sec": now / 1_000_000,
            "ntp_timestamp_usec": now % 1_000_000,
            "rtp_timestamp": 0,
            "packets": statistics.packets_sent,
            "octets": statistics.bytes_sent,
        },
        "report_count": 1,
        "report_blocks": [{
            "source_ssrc": statistics.received_ssrc.unwrap_or(0),
            "fraction_lost": 0,
            "packets_lost": statistics.packets_lost,
            "highest_seq_no": 0,
            "ia_jitter": statistics.jitter_us.saturating_mul(CLOCK_KHZ) / 1_000,
            "lsr": 0,
            "dlsr": 0,
        }],
        "packets_received": statistics.packets_received,
        "silence_max_ms": statistics.silence_max_ms,
        "rtt_us": statistics.rtt_us,
    })
}
