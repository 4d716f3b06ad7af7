//! A live call as the REST API shows it.

use super::Call;
use super::cdr::{millis, party, uri_of};
use super::leg::{Leg, Stream};
use super::quality::{Passage, milliseconds};
use super::record::Bridge;
use crate::control::StreamStatistics;
use crate::sdp::Direction;
use crate::time::Timestamp;
use crate::views::Rfc3339;
use crate::views::call::{
    BurstsView, CallDirection, CallView, HoldState, LegView, MediaView, ReceivedView, ReportedView,
    SentView, StreamView,
};

impl Call {
    /// For the REST API.
    pub fn view(&self, now: Timestamp) -> CallView {
        let legs = self.record.legs.iter().map(|leg| self.leg_view(leg)).collect();
        CallView { legs, ..self.brief_view(now) }
    }

    /// Without its legs.
    pub fn brief_view(&self, now: Timestamp) -> CallView {
        let record = &self.record;
        CallView {
            id: record.id.to_string(),
            state: record.phase.view(),
            direction: CallDirection::Internal,
            caller: party(&record.caller),
            callee: party(&record.callee),
            request_uri: record.request_uri.clone(),
            created_at: Rfc3339(record.created_at),
            ringing_at: record.ringing_at.map(Rfc3339),
            answered_at: record.answered_at.map(Rfc3339),
            duration_ms: millis(now, record.created_at),
            owner: self.settings.node.to_string(),
            epoch: record.epoch.0,
            takeovers: u32::try_from(record.epoch.0.saturating_sub(1)).unwrap_or(u32::MAX),
            hold: self.hold_state(|leg| leg.holds),
            parked: self.hold_state(|leg| leg.description.parked),
            transfer: self.transfer_view(),
            one_way: self.silent_role(),
            silent: self.is_silent(),
            flags: self.flags().into_iter().collect(),
            media: MediaView {
                node: record.media.nodes.last().map(ToString::to_string),
                session_id: record.media.open.then(|| self.session().to_string()),
                transcoding: self.is_transcoding,
                reanchors: record.added_3.reanchors,
                resumed_at: record.added_3.resumed_at.map(Rfc3339),
            },
            legs: Vec::new(),
        }
    }

    fn hold_state(&self, holds: impl Fn(&Leg) -> bool) -> HoldState {
        let holds = |id| self.record.leg(id).is_some_and(&holds);
        let callee = match self.record.bridge {
            Bridge::Leg(callee) => holds(callee),
            Bridge::Nothing | Bridge::Echo | Bridge::Ringback => false,
        };
        match (holds(self.record.caller_leg()), callee) {
            (false, false) => HoldState::None,
            (true, false) => HoldState::Caller,
            (false, true) => HoldState::Callee,
            (true, true) => HoldState::Both,
        }
    }

    fn leg_view(&self, leg: &Leg) -> LegView {
        let none = StreamStatistics::default();
        let streams = leg.streams.iter().enumerate().map(|(at, stream)| {
            let statistics = leg.statistics.get(at).unwrap_or(&none);
            let missed = match at {
                0 => (self.loss_runs(leg.id), self.bursts_view(leg)),
                _ => (0, None),
            };
            stream_view(at, stream, statistics, missed)
        });
        let dialog = &leg.dialog;
        LegView {
            id: leg.id.0,
            role: leg.role,
            state: leg.state.name().to_owned(),
            extension: leg.extension.clone(),
            call_id: dialog.call_id.clone(),
            local_tag: dialog.local_tag.clone(),
            remote_tag: Some(dialog.remote_tag.clone()).filter(|tag| !tag.is_empty()),
            local_uri: uri_of(&dialog.local_party),
            remote_uri: uri_of(&dialog.remote_party),
            remote_target: dialog.remote_target.as_str().to_owned(),
            route_set: dialog.route_set.clone(),
            local_seq: dialog.local_seq,
            remote_seq: dialog.remote_seq,
            transport: leg.flow.transport.name().to_owned(),
            local: leg.flow.local.to_string(),
            remote: leg.flow.remote.to_string(),
            node: self.settings.node.to_string(),
            user_agent: leg.user_agent.clone(),
            last_status: leg.last_status,
            held: leg.holds,
            playing: self.tone_of(leg.id),
            streams: streams.collect(),
        }
    }
}

fn stream_view(
    at: usize,
    stream: &Stream,
    statistics: &StreamStatistics,
    (runs, bursts): (u32, Option<BurstsView>),
) -> StreamView {
    let side = stream.side.as_ref();
    let codec = side.and_then(|side| side.codec.as_ref());
    let heard = statistics.packets_received > 0;
    StreamView {
        index: u8::try_from(at).unwrap_or(u8::MAX),
        kind: "audio".to_owned(),
        codec: codec.map(|codec| codec.encoding.clone()),
        clock_rate_hz: codec.map(|codec| codec.clock_rate_hz),
        payload_type_sent: codec.map(|codec| codec.payload_type_sent),
        payload_type_received: codec.map(|codec| codec.payload_type_received),
        telephone_event_payload_type: side
            .and_then(|side| side.telephone_event)
            .map(|event| event.payload_type_sent),
        ptime_ms: codec.map(|codec| codec.ptime_ms),
        direction: side.map(|side| Direction::reversed(side.direction).name().to_owned()),
        srtp: if side.is_some_and(|side| side.keys.is_some()) { "sdes" } else { "none" }.to_owned(),
        local: Some(stream.local.to_string()),
        remote_signalled: side.and_then(|side| side.rtp).map(|address| address.to_string()),
        remote_latched: statistics.latched.map(|address| address.to_string()),
        received: ReceivedView {
            packets: statistics.packets_received,
            bytes: statistics.bytes_received,
            lost: statistics.packets_lost,
            jitter_ms: if heard { milliseconds(statistics.jitter_us) } else { 0.0 },
            ssrc: statistics.received_ssrc,
            last_packet_at: statistics.last_packet_at.map(Rfc3339),
            rejected: statistics.packets_rejected,
            bursts,
        },
        sent: SentView {
            packets: statistics.packets_sent,
            bytes: statistics.bytes_sent,
            ssrc: statistics.sent_ssrc,
        },
        reported: ReportedView {
            lost: statistics.reported_lost,
            jitter_ms: statistics.reported_jitter_us.map(milliseconds),
            rtt_ms: statistics.rtt_us.map(milliseconds),
        },
        mos: Passage::of(codec.map(|codec| codec.encoding.as_str()), statistics, runs).mos(),
    }
}
