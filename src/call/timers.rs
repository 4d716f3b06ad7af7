//! What time does to a call: retransmissions, time-outs, ringing, probes, lazy saves.

use super::leg::{Client, Leg, LegState, Probe, Purpose};
use super::modify::Stage;
use super::record::{Bridge, Phase};
use super::sound::Sound;
use super::{Call, Output, Transmit, fork};
use crate::event::Event;
use crate::ids::LegId;
use crate::sdp::{LegDescription, Security};
use crate::sip::transaction::TimerAction;
use crate::sip::{Method, Status};
use crate::time::Timestamp;
use crate::views::EndCause;
use crate::views::call::LegRole;
use core::time::Duration;
use std::collections::VecDeque;

/// A silent phone is asked so often whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// The same after a takeover: its former owner may have told it the end, and died before it told anybody else.
const ADOPTED_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// A caller that waits, and whose CANCEL would go to an address that is no more, is asked so often.
const WAITING_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// So many unanswered probes end the call.
const PROBES_UNANSWERED: u8 = 2;

impl Call {
    /// Timers.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        let ids: Vec<LegId> = self.record.legs.iter().map(|leg| leg.id).collect();
        for id in ids {
            self.time_servers(id);
            self.time_clients(id);
            self.time_probe(id);
        }
        self.time_moves();
        self.time_call();
        self.refresh_targets();
        self.give_room_back();
    }

    /// A call that talks needs no room for the transactions that set it up: they end by their timers.
    fn give_room_back(&mut self) {
        let now = self.now;
        for leg in &mut self.record.legs {
            if leg.servers.is_empty() {
                leg.servers = Vec::new();
            }
            if leg.clients.is_empty() && leg.repeats_until.is_none_or(|until| until <= now) {
                leg.give_room_back();
            }
        }
        if self.outputs.is_empty() {
            self.outputs = VecDeque::new();
        }
        self.sound.give_room_back();
    }

    /// An ended call lingers for half a minute, and on a busy node most are such: what only a live one's sound, record
    /// and CDR need goes.
    pub(super) fn forget_sound(&mut self) {
        if !self.lingers() || self.record.legs.iter().any(Leg::awaits_ack) {
            return;
        }
        for leg in &mut self.record.legs {
            // Its 2xx may bring an offer yet, whose refusal goes on where our SDP was.
            if leg.open_client_invite().is_some() {
                continue;
            }
            leg.description = LegDescription::new(leg.description.session_id, Security::default());
            (leg.streams, leg.statistics) = (Vec::new(), Vec::new());
            (leg.open_invite, leg.owed_answer) = (None, None);
        }
        (self.record.offer, self.caller_answer) = (None, None);
        (self.record.passed, self.sent) = (Vec::new(), Vec::new());
        self.sound = Sound::default();
        self.record.added_5.sound = Vec::new();
    }

    /// When, and why.
    pub fn next_timeout(&self) -> Option<(Timestamp, &'static str)> {
        let transactions = self.record.legs.iter().flat_map(|leg| {
            let servers = leg.servers.iter().filter_map(|server| server.transaction.next_timeout());
            let clients = leg.clients.iter().filter_map(|client| {
                let pending = client.deadline.filter(|_| client.transaction.is_pending());
                let deadline = pending.map(|at| (at, "cancelled INVITE"));
                earliest(client.transaction.next_timeout(), deadline)
            });
            let probe = leg.probe.next_at.map(|at| (at, "probe"));
            let moves = leg.move_timeout().map(|at| (at, "media move"));
            servers.chain(clients).chain(probe).chain(moves)
        });
        let retry = self.exchange.as_ref().and_then(|exchange| match exchange.stage {
            Stage::Retry(at) => Some((at, "glare")),
            Stage::Offered | Stage::Applying | Stage::AwaitingAck => None,
        });
        let rings = matches!(self.record.phase, Phase::Routing | Phase::Ringing);
        let own = [
            rings.then_some((self.record.ring_deadline, "ring timeout")),
            self.ringing_repeat_at.map(|at| (at, "180 again")),
            self.media_deadline.map(|at| (at, "media")),
            self.dirty_until.map(|at| (at, "save")),
            retry,
            self.refreshes().map(|(at, _)| (at, "target refresh")).min(),
            self.transfer_deadline().map(|at| (at, "transfer")),
            self.play_timeout().map(|at| (at, "tone")),
        ];
        transactions.chain(own.into_iter().flatten()).min_by_key(|(at, _)| *at)
    }

    fn time_servers(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let (mut again, mut unacknowledged) = (Vec::new(), false);
        for server in &mut leg.servers {
            while let Some(action) = server.transaction.handle_timeout(now) {
                match action {
                    TimerAction::Retransmit => {
                        let transmit = server.last_response.clone().map(|bytes| Transmit {
                            flow: server.flow,
                            bytes,
                            leg: id,
                            behind: server.behind,
                            request: None,
                        });
                        again.extend(transmit);
                    }
                    TimerAction::TimedOut => {
                        unacknowledged |= server.awaits_ack;
                        server.awaits_ack = false;
                    }
                    TimerAction::Terminated => break,
                }
            }
        }
        leg.servers.retain(|server| !server.transaction.is_terminated() || server.awaits_ack);
        self.outputs.extend(again.into_iter().map(Output::Send));
        if unacknowledged {
            self.ack_timed_out(id);
        }
    }

    /// Our 2xx was never acknowledged (RFC 3261 §13.3.1.4): BYE, and tell whoever runs this what to look at.
    fn ack_timed_out(&mut self, id: LegId) {
        let settings = self.settings.clone();
        let Some(leg) = self.record.leg_mut(id) else { return };
        if let Some(reason) = leg.bye_after_ack.take() {
            self.send_bye(id, reason.as_deref());
            return self.conclude();
        }
        let contact = super::send::contact(&settings, leg);
        self.emit(Event::AckMissing { call: self.record.id, leg: id, contact });
        if self.record.phase == Phase::Confirmed {
            self.end_by_system(EndCause::AckTimeout, "no ACK");
        }
    }

    fn time_clients(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        let flow = leg.flow;
        let (mut again, mut failed): (Vec<Transmit>, Vec<Client>) = (Vec::new(), Vec::new());
        let mut clients = core::mem::take(&mut leg.clients);
        clients.retain_mut(|client| {
            let mut timed_out =
                client.deadline.is_some_and(|at| at <= now) && client.transaction.is_pending();
            while let Some(action) = client.transaction.handle_timeout(now) {
                match action {
                    TimerAction::Retransmit => again.push(Transmit {
                        flow,
                        bytes: client.bytes.clone(),
                        leg: id,
                        behind: client.behind,
                        request: Some(client.number),
                    }),
                    TimerAction::TimedOut => timed_out = true,
                    TimerAction::Terminated => break,
                }
            }
            if timed_out {
                failed.push(client.clone());
            }
            !timed_out && !client.transaction.is_terminated()
        });
        leg.clients.append(&mut clients);
        self.outputs.extend(again.into_iter().map(Output::Send));
        for client in failed {
            self.client_failed(id, client, Status(408));
        }
    }

    fn time_call(&mut self) {
        let now = self.now;
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if matches!(self.record.phase, Phase::Routing | Phase::Ringing)
            && self.record.ring_deadline <= now
        {
            self.ring_timed_out();
        }
        if due(self.transfer_deadline()) {
            self.fail_transfer(Status(480));
        }
        self.time_playing();
        if due(self.ringing_repeat_at) {
            self.ringing_repeat_at = Some(now + fork::RINGING_REPEAT);
            if let Some(status) = self.record.added_2.last_provisional.take() {
                self.send_provisional(status);
            }
        }
        if due(self.media_deadline) {
            self.media_is_late();
        }
        if let Some(exchange) = &self.exchange
            && matches!(exchange.stage, Stage::Retry(at) if at <= now)
        {
            self.send_offer();
        }
        if due(self.dirty_until) {
            self.save();
        }
    }

    /// A phone that need not send RTP is asked by OPTIONS whether it is there; one that sends is judged by its RTP.
    pub(super) fn start_probes(&mut self) {
        let at = self.now + PROBE_INTERVAL;
        let echo = self.record.bridge == Bridge::Echo;
        for leg in &mut self.record.legs {
            let callee = leg.role == LegRole::Callee;
            let probed = leg.state == LegState::Confirmed
                && (!leg.phone_sends() || leg.holds)
                && (callee || !echo || !leg.phone_sends());
            leg.probe = match (probed, leg.probe.next_at) {
                (false, _) => Probe::default(),
                (true, Some(_)) => leg.probe,
                (true, None) => Probe { next_at: Some(at), unanswered: 0 },
            };
        }
    }

    /// Another owner had the call until now.
    pub(super) fn probe_soon(&mut self) {
        let soon = self.now + ADOPTED_PROBE_INTERVAL;
        for leg in &mut self.record.legs {
            leg.probe.next_at = leg.probe.next_at.map(|at| at.min(soon));
        }
    }

    /// A caller that hung up says CANCEL to the address it knows: where that is no more, nobody hears it, what rings
    /// would ring on. Its dialog is then gone, which a phone tells who asks in it (481); its silence tells nothing.
    pub(super) fn probe_waiting_caller(&mut self) {
        let at = self.now + WAITING_PROBE_INTERVAL;
        let caller = self.record.leg_mut(LegId::CALLER);
        if let Some(caller) = caller.filter(|caller| caller.stale.is_some()) {
            caller.probe = Probe { next_at: Some(at), unanswered: 0 };
        }
    }

    fn time_probe(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        if leg.probe.next_at.is_none_or(|at| at > now) {
            return;
        }
        let interval = match leg.state {
            LegState::Confirmed => PROBE_INTERVAL,
            LegState::Waiting if leg.stale.is_some() => WAITING_PROBE_INTERVAL,
            _ => {
                leg.probe = Probe::default();
                return;
            }
        };
        leg.probe.next_at = Some(now + interval);
        let open = leg.clients.iter().any(|client| client.purpose == Purpose::Probe);
        if !open {
            let options = leg.dialog.request(Method::Options);
            let rev = self.save();
            self.send_request(id, options, Purpose::Probe, Some(rev));
        }
    }

    pub(super) fn probe_answered(&mut self, id: LegId, status: Status) {
        match status.0 {
            481 if self.record.phase == Phase::Ringing && id == self.record.caller_leg() => {
                self.cancelled();
            }
            481 => self.leg_is_gone(),
            408 => self.probe_unanswered(id),
            _ => {
                if let Some(leg) = self.record.leg_mut(id) {
                    leg.probe.unanswered = 0;
                }
            }
        }
    }

    pub(super) fn probe_unanswered(&mut self, id: LegId) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        leg.probe.unanswered += 1;
        if leg.probe.unanswered >= PROBES_UNANSWERED {
            self.leg_is_gone();
        }
    }
}

type Due = Option<(Timestamp, &'static str)>;

fn earliest(one: Due, other: Due) -> Due {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.0 <= other.0 { one } else { other }),
        (some, None) | (None, some) => some,
    }
}
