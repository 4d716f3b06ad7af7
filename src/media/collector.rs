//! How media fares, for a HEP collector: the reports that phones and we exchanged by RTCP, as JSON in their fields
//! (RFC 3550 §6.4), with the addresses and times that they had.
//!
//! Invariant: a worker never waits for it: what does not fit the queue is lost and counted.

use crate::capture::{HepConfig, HepKind, HepPacket, HepSender, Observer, PACE};
use crate::control::RtcpPacket;
use crate::event::{Event, Measure};
use crate::ids::{SessionId, Transport};
use crate::net::clock;
use crate::rtp::rtcp::{PeerReport, TYPE_RECEIVER_REPORT, TYPE_SENDER_REPORT, read_reports};
use serde_json::json;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

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

/// Until nobody tells any more. It rests before it looks again, for to be woken by each packet would cost a worker as
/// much as the packet does; what has come by then leaves together.
fn send_all(mut hep: HepSender, inlet: &Receiver<Told>, events: &Observer) {
    loop {
        let told = match inlet.try_recv() {
            Ok(told) => told,
            Err(TryRecvError::Disconnected) => return lost(events, hep.flush(clock::now())),
            Err(TryRecvError::Empty) => {
                lost(events, hep.flush(clock::now()));
                let Ok(next) = hep.next_of(inlet) else { return };
                let Some(told) = next else { continue };
                std::thread::sleep(PACE);
                told
            }
        };
        send(&mut hep, &told, events);
    }
}

fn send(hep: &mut HepSender, (session, exchanged): &Told, events: &Observer) {
    let RtcpPacket { at, received, local, remote, bytes, .. } = exchanged;
    let (source, target) = if *received { (*remote, *local) } else { (*local, *remote) };
    // A session has the id of its call.
    let correlation = session.to_string();
    for report in read_reports(bytes).into_iter().flatten() {
        let payload = serde_json::to_vec(&document(&report)).expect("plain data");
        let packet = HepPacket {
            at: *at,
            source,
            target,
            transport: Transport::Udp,
            kind: HepKind::Rtcp,
            correlation: &correlation,
            payload: &payload,
        };
        lost(events, hep.send(&packet));
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
