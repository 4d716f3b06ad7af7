//! A call carried on by another process: from its record, with what it owes.
//!
//! Open INVITEs are said again, from T1: the phone repeats its last answer. A 200 without ACK is sent again; an ACK is
//! made again when the phone repeats its 200. A deadline that passed meanwhile is due no earlier than `GRACE` from now.
//! At another address phones do not hear from us by themselves: what is open there begins anew (`refresh`).

use super::fork::COMPLETED_ELSEWHERE;
use super::leg::{Cancel, Client, LegState, Purpose, Server};
use super::media::Then;
use super::modify::{Exchange, Stage};
use super::offer::Body;
use super::record::{CallRecord, Phase};
use super::refresh::{Place, open_invite};
use super::send::{Reply, set_sdp};
use super::{Call, LAZY_SAVE, Output, Settings, Transmit, fork};
use crate::event::Event;
use crate::ids::{Epoch, LegId, Rev};
use crate::limits;
use crate::sip::transaction::{ClientTransaction, ServerTransaction};
use crate::sip::{Method, Status};
use crate::time::Timestamp;
use core::time::Duration;
use std::sync::Arc;

/// Phones that repeat a message within their transaction's time still find the call.
const GRACE: Duration = limits::TRANSACTION_TIMEOUT;
/// A phone that answered a re-INVITE to who died, and heard our ACK, says nothing when it comes again.
const PATIENCE: Duration = Duration::from_secs(4);

impl Call {
    /// From a stored record, by a node that claimed it with `epoch`. What is owed leaves through `poll_output`.
    /// `None`: the record cannot be read.
    pub fn restore(
        settings: Arc<Settings>,
        record: &[u8],
        epoch: Epoch,
        now: Timestamp,
        place: &Place<'_>,
    ) -> Option<Self> {
        let mut record = CallRecord::decode(record, &settings.key)?;
        let claims = epoch.0.saturating_sub(record.epoch.0);
        record.epoch = epoch;
        for leg in &mut record.legs {
            leg.settle_in(place);
            leg.pass_over_unsaved(u32::try_from(claims).unwrap_or(u32::MAX));
        }
        if record.owners.last() != Some(&settings.node) {
            record.owners.push(settings.node.clone());
        }
        if record.ring_deadline < now {
            record.ring_deadline = now + GRACE;
        }
        if let Some(transfer) = &mut record.added_5.transfer {
            transfer.deadline = transfer.deadline.max(now + GRACE);
        }
        let mut call = Self::with_record(settings, record, now);
        let (id, state) = (call.record.id, call.state());
        call.emit(Event::CallAdopted { call: id, state });
        call.forget_half_answer();
        call.end_left_behind();
        call.abandon_reinvites();
        call.reopen_transactions();
        call.name_refreshes();
        call.resume_move(place.refresh_at.max(now));
        call.resume_steering(place.refresh_at.max(now));
        call.resume();
        Some(call)
    }

    /// A 200 of a branch that was not passed on yet: the phone repeats it, and it is handled anew. It does not repeat
    /// it to another address: there it is passed on.
    fn forget_half_answer(&mut self) {
        let Phase::Answering(id) = self.record.phase else { return };
        let Some(leg) = self.record.leg_mut(id).filter(|leg| leg.stale.is_none()) else { return };
        leg.state = LegState::Early;
        leg.answered_at = None;
        leg.owed_ack = None;
        self.record.phase = Phase::Ringing;
    }

    /// A re-INVITE of ours that no phone asked for only told our address.
    fn name_refreshes(&mut self) {
        let asked: Vec<LegId> = self
            .record
            .legs
            .iter()
            .filter(|leg| leg.servers.iter().any(|server| server.method == Method::Invite))
            .filter_map(|leg| self.record.peer_of(leg.id))
            .collect();
        for leg in self.record.legs.iter_mut().filter(|leg| !asked.contains(&leg.id)) {
            for client in leg.clients.iter_mut().filter(|client| client.purpose == Purpose::Modify)
            {
                client.purpose = Purpose::Refresh;
            }
        }
    }

    fn reopen_transactions(&mut self) {
        let (now, key) = (self.now, self.settings.key.clone());
        for leg in &mut self.record.legs {
            let Some(request) = open_invite(leg) else { continue };
            let reliable = leg.flow.transport.is_reliable();
            let branch = request.top_via().and_then(|via| key.locate_branch(via.branch()?));
            let Some(sequence) = request.cseq().map(|cseq| cseq.number) else { continue };
            if leg.owed_ack == Some(sequence) && branch.is_some() {
                // Its 2xx came.
                leg.repeats_until = Some(now + limits::TRANSACTION_TIMEOUT);
                continue;
            }
            match branch {
                Some((_, number)) => {
                    let mut transaction = ClientTransaction::new(true, reliable, now);
                    let in_doubt = leg.state == LegState::Confirmed;
                    // On a connection it is not repeated: what was answered to it is to be heard here too.
                    if in_doubt || reliable {
                        let (flow, bytes) = (leg.flow, request.to_bytes());
                        let request = Some(number);
                        let again = Transmit { flow, bytes, leg: leg.id, behind: None, request };
                        self.outputs.push_back(Output::Send(again));
                    } else if leg.state != LegState::Inviting {
                        transaction.handle_response(Status(180), now);
                    }
                    // A branch that lost may have died with its CANCEL unsent.
                    let cancel = match leg.state {
                        LegState::Ended => Cancel::Wanted(Some(COMPLETED_ELSEWHERE.to_owned())),
                        _ => Cancel::No,
                    };
                    leg.clients.push(Client {
                        number,
                        method: Method::Invite,
                        purpose: match leg.state {
                            LegState::Confirmed => Purpose::Modify,
                            // It rings still, or lost: a 2xx of it is answered as that of a branch.
                            LegState::Waiting
                            | LegState::Inviting
                            | LegState::Early
                            | LegState::Ended => Purpose::Invite,
                        },
                        bytes: request.to_bytes(),
                        request,
                        behind: None,
                        transaction,
                        cancel,
                        deadline: in_doubt.then_some(now + PATIENCE),
                        in_doubt,
                    });
                }
                None => leg.servers.push(Server {
                    method: Method::Invite,
                    sequence,
                    flow: crate::sip::address::reply_flow(&request, &leg.flow),
                    request: Some(request),
                    transaction: ServerTransaction::new(true, reliable, now),
                    last_response: None,
                    awaits_ack: false,
                    behind: None,
                    inherited: true,
                }),
            }
        }
    }

    /// The media session learns its new owner; phones get what is owed to them.
    fn resume(&mut self) {
        let legs: Vec<LegId> = self.record.legs.iter().map(|leg| leg.id).collect();
        for leg in legs {
            self.send_wanted_cancels(leg);
        }
        match self.record.phase {
            Phase::Routing => {
                // Nothing was promised yet: no commit of this phase precedes the INVITEs.
                self.fail(Status(500), crate::views::EndCause::NodeLost, None);
            }
            Phase::Ringing | Phase::Answering(_) => {
                // An SDP once given to the caller binds (RFC 6337 §3.1.1): the 200 repeats it.
                self.caller_answer =
                    self.record.leg(LegId::CALLER).and_then(|leg| leg.description.sent.clone());
                self.resume_calling();
                if self.record.ringing_at.is_some() {
                    self.ringing_repeat_at = Some(self.now + fork::RINGING_REPEAT);
                    let last = self.record.added_2.last_provisional.take();
                    self.send_provisional(last.unwrap_or(180));
                }
                self.probe_waiting_caller();
                let anew = self.ring_anew();
                self.resume_media(match self.record.phase {
                    Phase::Answering(leg) => Then::Answer { leg },
                    _ if anew => Then::Invite,
                    _ => Then::Nothing,
                });
                self.save_within(LAZY_SAVE);
            }
            Phase::Confirmed => {
                self.resume_confirmed();
                self.ring_anew();
                let then = if self.is_transferring() { Then::Invite } else { Then::Nothing };
                self.resume_media(then);
                self.resume_dialling();
                self.start_probes();
                self.probe_soon();
            }
            Phase::Ended => self.resume_ending(),
        }
    }

    fn resume_confirmed(&mut self) {
        let rev = self.save();
        self.pay_acknowledgements(rev);
        let open: Vec<(LegId, u32)> = self
            .record
            .legs
            .iter_mut()
            .filter_map(|leg| Some((leg.id, leg.open_server_invite()?.sequence)))
            .collect();
        for (id, sequence) in open {
            let asked = self.record.peer_of(id).filter(|peer| {
                let leg = self.record.leg(*peer);
                leg.is_some_and(|leg| leg.clients.iter().any(Client::is_open_invite))
            });
            match (self.answer_given(id), asked) {
                (Some(sdp), _) => self
                    .answer_again(&Reply::new(id, Method::Invite, sequence, 200).behind(rev), &sdp),
                (None, Some(to)) => self.resume_exchange(id, to, sequence),
                (None, None) => self.queued.push_back(id),
            }
        }
        self.next_exchange();
    }

    /// The SDP of the 200 to a phone's open INVITE, when that was decided: it was the first INVITE, its offer is in
    /// force, or ours awaits its answer.
    fn answer_given(&mut self, id: LegId) -> Option<String> {
        let leg = self.record.leg_mut(id)?;
        let server = leg.servers.iter().find(|server| server.is_open_invite())?;
        let request = server.request.as_ref()?;
        let first = request.to().is_none_or(|to| to.tag().is_none());
        let offer = Body::of_request(request).offer(&leg.description).ok().flatten();
        let in_force = offer.is_some_and(|offer| leg.description.is_repeat(&offer));
        let late = self
            .exchange
            .as_ref()
            .is_some_and(|exchange| exchange.from == id && exchange.stage == Stage::AwaitingAck);
        if first || in_force || late { leg.description.repeat() } else { None }
    }

    fn answer_again(&mut self, reply: &Reply, sdp: &str) {
        let stale = self.record.leg(reply.leg).and_then(|leg| leg.stale);
        self.respond(reply, |response| set_sdp(response, sdp));
        if let Some(leg) = self.record.leg_mut(reply.leg) {
            // A phone that had it already does not take the address from it.
            leg.stale = stale;
        }
    }

    /// A phone that asks anew was answered what it asked before, and so was the phone that we asked for it.
    pub(super) fn forget_inherited(&mut self, id: LegId) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let inherited = |server: &Server| server.inherited && server.is_open_invite();
        if !leg.servers.iter().any(inherited) {
            return;
        }
        leg.servers.retain(|server| !inherited(server));
        (leg.open_invite, leg.in_doubt) = (None, true);
        self.queued.retain(|queued| *queued != id);
        if let Some(exchange) = self.exchange.take_if(|exchange| exchange.from == id) {
            self.acknowledge_in_doubt(exchange.to);
        }
    }

    /// Nothing came of a re-INVITE that a former owner sent: who asked for it is to ask again.
    pub(super) fn give_up_inherited(&mut self, to: LegId) {
        if let Some(leg) = self.record.leg_mut(to) {
            leg.open_invite = None;
        }
        let Some(from) = self.exchange.as_ref().filter(|exchange| exchange.to == to) else {
            return;
        };
        if let Some(leg) = self.record.leg_mut(from.from) {
            leg.in_doubt = true;
        }
        self.refuse_exchange(Status(491), &[]);
    }

    /// It may have been accepted, and is forgotten.
    fn acknowledge_in_doubt(&mut self, to: LegId) {
        let Some(leg) = self.record.leg_mut(to) else { return };
        let open = leg.clients.extract_if(.., |client| client.is_open_invite()).next();
        if let Some(cseq) = open.as_ref().and_then(|client| client.request.cseq()) {
            self.acknowledge(to, cseq.number, None, None);
        }
    }

    /// A 2xx of a phone whose ACK may not have left: again does no harm. An offer in it waits for the answer that the
    /// ACK of the other phone will bring, or has it.
    fn pay_acknowledgements(&mut self, rev: Rev) {
        let owed = self.record.legs.iter().filter(|leg| leg.state == LegState::Confirmed);
        let owed: Vec<_> =
            owed.filter_map(|leg| Some((leg.id, leg.owed_ack?, leg.owed_answer.clone()))).collect();
        for (id, sequence, offer) in owed {
            let from = self.record.peer_of(id);
            let open = from.and_then(|from| self.record.leg_mut(from)?.open_server_invite());
            let asked = open.map(|server| server.sequence);
            let Some((offer, from)) = offer.zip(from) else {
                self.acknowledge(id, sequence, None, Some(rev));
                continue;
            };
            let agreed = self.record.leg(id).is_some_and(|leg| leg.description.is_repeat(&offer));
            if asked.is_none() && !agreed {
                self.acknowledge(id, sequence, None, Some(rev));
                continue;
            }
            self.exchange = Some(Exchange {
                from,
                to: id,
                sequence: asked.unwrap_or_default(),
                offer: Some(*offer),
                stage: Stage::AwaitingAck,
                attempts: 0,
                backup: None,
            });
            if asked.is_none() {
                self.finish_late_answer();
            }
        }
    }

    fn resume_exchange(&mut self, from: LegId, to: LegId, sequence: u32) {
        let request = self
            .record
            .leg_mut(from)
            .and_then(|leg| leg.open_server_invite().and_then(|server| server.request.clone()));
        let body = request.as_ref().map_or(Body::Nothing, Body::of_request);
        let leg = self.record.leg(from);
        // It was screened before it was passed on.
        let offer = leg.and_then(|leg| body.offer(&leg.description).ok().flatten());
        self.exchange = Some(Exchange {
            from,
            to,
            sequence,
            offer,
            stage: Stage::Offered,
            attempts: 1,
            backup: None,
        });
    }
}
