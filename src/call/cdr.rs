//! The call detail record, made once, with the save that ends the call.

use super::Call;
use super::leg::Leg;
use super::quality::{Passage, milliseconds};
use super::record::{End, Party, Transferred};
use crate::ids::{CallId, Epoch, NodeName};
use crate::sip::NameAddr;
use crate::time::Timestamp;
use crate::views::call::{CallDirection, CallFlag, LegRole, PartyView};
use crate::views::steer::TransferRecord;
use crate::views::{Cdr, CdrLeg, Disposition, EndCause, EndedBy, Rfc3339};

/// What is known of a call, of whatever is left of it.
pub(super) struct Story<'a> {
    pub id: CallId,
    pub epoch: Epoch,
    pub caller: &'a Party,
    pub callee: &'a Party,
    pub request_uri: &'a str,
    pub created_at: Timestamp,
    pub ringing_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
    pub legs: Vec<CdrLeg>,
    pub owners: &'a [NodeName],
    pub media_nodes: &'a [NodeName],
    pub reanchors: u32,
    pub transfers: Vec<TransferRecord>,
    pub flags: Vec<CallFlag>,
}

impl Call {
    pub(super) fn cdr(&self) -> Cdr {
        let record = &self.record;
        let end = record.end.clone().unwrap_or(End {
            at: self.now,
            by: EndedBy::System,
            cause: EndCause::NodeLost,
            disposition: Disposition::Failed,
            status: 500,
            q850: None,
            reason: None,
        });
        let story = Story {
            id: record.id,
            epoch: record.epoch,
            caller: &record.caller,
            callee: &record.callee,
            request_uri: &record.request_uri,
            created_at: record.created_at,
            ringing_at: record.ringing_at,
            answered_at: record.answered_at,
            legs: record.legs.iter().map(|leg| self.complete(leg, cdr_leg(leg))).collect(),
            owners: &record.owners,
            media_nodes: &record.media.nodes,
            reanchors: record.added_3.reanchors,
            transfers: record.added_5.transfers.iter().map(Transferred::view).collect(),
            flags: self.flags_ever(),
        };
        story.cdr(end)
    }
}

impl Story<'_> {
    pub(super) fn cdr(self, end: End) -> Cdr {
        let answered = self.answered_at.is_some();
        let answerer =
            self.legs.iter().find(|leg| leg.role == LegRole::Callee && leg.answered_at.is_some());
        let answered_by = answerer.filter(|_| answered).and_then(|leg| leg.extension.clone());
        let ring_end = self.answered_at.unwrap_or(end.at);
        let names = |nodes: &[NodeName]| nodes.iter().map(ToString::to_string).collect();
        Cdr {
            id: self.id.to_string(),
            sequence: 0,
            caller: party(self.caller),
            callee: party(self.callee),
            request_uri: self.request_uri.to_owned(),
            direction: CallDirection::Internal,
            answered_by,
            created_at: Rfc3339(self.created_at),
            ringing_at: self.ringing_at.map(Rfc3339),
            answered_at: self.answered_at.map(Rfc3339),
            ended_at: Rfc3339(end.at),
            ring_ms: self.ringing_at.map_or(0, |from| millis(ring_end, from)),
            duration_ms: millis(end.at, self.created_at),
            billable_ms: self.answered_at.map_or(0, |from| millis(end.at, from)),
            disposition: end.disposition,
            sip_status: end.status,
            q850_cause: end.q850,
            reason: end.reason,
            ended_by: end.by,
            end_cause: end.cause,
            owners: names(self.owners),
            media_nodes: names(self.media_nodes),
            takeovers: u32::try_from(self.epoch.0.saturating_sub(1)).unwrap_or(u32::MAX),
            reanchors: self.reanchors,
            transfers: self.transfers,
            flags: self.flags,
            legs: self.legs,
        }
    }
}

pub(super) fn cdr_leg(leg: &Leg) -> CdrLeg {
    let sum =
        |of: fn(&crate::control::StreamStatistics) -> u64| leg.statistics.iter().map(of).sum();
    let first = leg.statistics.first();
    let mos = first.and_then(|statistics| Passage::of(leg.codec(), statistics, 0).mos());
    let heard = first.filter(|statistics| statistics.packets_received > 0);
    CdrLeg {
        role: leg.role,
        extension: leg.extension.clone(),
        call_id: leg.dialog.call_id.clone(),
        contact: Some(leg.dialog.remote_target.as_str().to_owned()),
        user_agent: leg.user_agent.clone(),
        sip_status: leg.last_status,
        created_at: Rfc3339(leg.created_at),
        answered_at: leg.answered_at.map(Rfc3339),
        ended_at: leg.ended_at.map(Rfc3339),
        codec: leg.codec().map(str::to_owned),
        packets_sent: sum(|statistics| statistics.packets_sent),
        packets_received: sum(|statistics| statistics.packets_received),
        packets_lost: sum(|statistics| statistics.packets_lost),
        jitter_mean_ms: heard.map(|statistics| milliseconds(statistics.jitter_us)),
        rtt_mean_ms: first.and_then(|statistics| statistics.rtt_us).map(milliseconds),
        mos_mean: mos,
        mos_min: mos,
        bursts: None,
        silence_max_ms: leg
            .statistics
            .iter()
            .map(|statistics| u64::from(statistics.silence_max_ms))
            .max()
            .unwrap_or(0),
    }
}

pub(super) fn party(party: &Party) -> PartyView {
    PartyView {
        extension: party.extension.clone(),
        uri: uri_of(&party.uri),
        display_name: (!party.display_name.is_empty()).then(|| party.display_name.clone()),
    }
}

/// The URI of a name-addr, as the API shows it.
pub(super) fn uri_of(name_addr: &str) -> String {
    let uri = NameAddr::parse(name_addr).map(|parsed| parsed.uri.as_str().to_owned());
    uri.unwrap_or_else(|_| name_addr.to_owned())
}

pub(super) fn millis(later: Timestamp, earlier: Timestamp) -> u64 {
    later.as_millis().saturating_sub(earlier.as_millis())
}
