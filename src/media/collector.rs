//! How media fares, for a HEP collector: the reports that phones and we exchanged by RTCP, as JSON in their fields
//! (RFC 3550 §6.4), with the addresses and times that they had.
//!
//! Invariant: a worker never waits for it: what does not fit the queue is lost and counted.

use crate::capture::{HepConfig, HepKind, HepPacket, HepSender, Observer};
use crate::control::RtcpPacket;
use crate::event::{Event, Measure};
use crate::ids::{SessionId, Transport};
use crate::net::clock;
use crate::rtp::rtcp::{PeerReport, TYPE_RECEIVER_REPORT, TYPE_SENDER_REPORT, read_reports};
use serde_json::json;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Packets that wait for the sender.
const QUEUE: usize = 4_096;

/// A packet, and whose.
type Told = (SessionId, RtcpPacket);

/// The way to the sender.
#[derive(Clone)]
pub struct Collector {
    packets: SyncSender<Told>,
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
        let (packets, inlet) = sync_channel(QUEUE);
        let sender_events = Observer::clone(&events);
        let thread = std::thread::Builder::new().name("hep".to_owned());
        let run = move || send_all(HepSender::new(config), &inlet, &sender_events);
        if let Err(error) = thread.spawn(run) {
            tracing::warn!("the HEP collector is told nothing of media: {error}");
        }
        Self { packets, events }
    }

    /// RTCP of a session.
    pub(super) fn tell(&self, session: SessionId, packet: RtcpPacket) {
        if self.packets.try_send((session, packet)).is_err() {
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
fn send_all(mut hep: HepSender, inlet: &Receiver<Told>, events: &Observer) {
    while let Ok(told) = hep.next_of(inlet) {
        let Some((session, exchanged)) = told else {
            lost(events, hep.flush(clock::now()));
            continue;
        };
        let RtcpPacket { at, received, local, remote, bytes, .. } = exchanged;
        let (source, target) = if received { (remote, local) } else { (local, remote) };
        // A session has the id of its call.
        let correlation = session.to_string();
        for report in read_reports(&bytes).into_iter().flatten() {
            let payload = document(&report).to_string();
            let packet = HepPacket {
                at,
                source,
                target,
                transport: Transport::Udp,
                kind: HepKind::Rtcp,
                correlation: &correlation,
                payload: payload.as_bytes(),
            };
            lost(events, hep.send(&packet));
        }
        lost(events, hep.flush(at));
    }
}

/// A sender or receiver report as Homer reads it: fields as they are on the wire.
fn document(report: &PeerReport) -> serde_json::Value {
    let blocks = report.receptions.iter().map(|block| {
        json!({
            "source_ssrc": block.ssrc,
            "fraction_lost": block.fraction_lost,
            "packets_lost": block.total_lost,
            "highest_seq_no": block.last_sequence_number,
            "ia_jitter": block.jitter,
            "lsr": block.last_sender_report,
            "dlsr": block.delay,
        })
    });
    let mut document = json!({
        "type": if report.sender.is_some() { TYPE_SENDER_REPORT } else { TYPE_RECEIVER_REPORT },
        "ssrc": report.ssrc,
        "report_count": report.receptions.len(),
        "report_blocks": blocks.collect::<Vec<_>>(),
    });
    if let Some((ntp, sent)) = report.sender {
        document["sender_information"] = json!({
            "ntp_timestamp_sec": ntp >> 32,
            "ntp_timestamp_usec": ntp & 0xffff_ffff,
            "rtp_timestamp": sent.rtp_timestamp,
            "packets": sent.packets,
            "octets": sent.bytes,
        });
    }
    document
}
