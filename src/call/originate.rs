//! A call that an operator begins (click to call, RFC 3725 in spirit): the caller's phones ring first, with an offer of
//! ours, and the one that answers is the caller. From then on it hears ringback, its own description is the offer to
//! the callee's phones, and the call is as any other.
//!
//! No flow of RFC 3725 is used as it stands: our media session answers the caller, so its 200 is acknowledged at once
//! and no phone is sent a second offer.
//!
//! Invariant: as long as `Origin::caller` is none, every leg is a phone of the caller; afterwards that leg is confirmed
//! until the call ends.

use super::Call;
use super::io::{Origination, Query, Settings};
use super::leg::{Leg, LegState};
use super::media::Then;
use super::offer::Body;
use super::record::{
    Added2, Added3, Added4, Added5, Bridge, CallRecord, MediaRecord, Origin, Party, Phase,
};
use super::setup::{Question, named};
use crate::directory::{Binding, User};
use crate::event::Event;
use crate::ids::{Epoch, LegId, Rev};
use crate::limits;
use crate::routing::{self, Decision, Service};
use crate::rtp::srtp::Seed;
use crate::sdp::offer_answer::{self, Disagreement, Spoken};
use crate::sip::{Response, Status, Uri};
use crate::time::Timestamp;
use crate::views::EndCause;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

/// Asks a phone to answer by itself, in the words of most of them.
const AUTO_ANSWER: [(&str, &str); 2] = [
    ("Call-Info", "<sip:127.0.0.1>;answer-after=0"),
    ("Alert-Info", "<http://127.0.0.1>;info=alert-autoanswer;delay=0"),
];
/// Of the legs of a call so many are left for who is called.
const CALLER_PHONES: usize = limits::LEGS_PER_CALL / 2;

impl Call {
    /// A new call whose caller is to be called. Whom it is for is asked first: nobody's phone rings for nothing.
    pub fn originate(settings: Arc<Settings>, wish: Origination, now: Timestamp) -> Self {
        let Origination { id, entropy, caller, phones, target, auto_answer } = wish;
        let dialled = target.user().unwrap_or_default();
        let ring_timeout = caller.ring_timeout_ms.map(Duration::from_millis);
        let record = CallRecord {
            id,
            // No INVITE has it.
            key: id.0.to_be_bytes(),
            epoch: Epoch(1),
            rev: Rev(0),
            phase: Phase::Routing,
            caller: Party {
                extension: Some(caller.extension.clone()),
                display_name: caller.display_name.clone(),
                uri: phones.first().map(|phone| format!("<{}>", phone.aor)).unwrap_or_default(),
            },
            callee: Party { uri: target.as_str().to_owned(), ..Party::default() },
            request_uri: target.as_str().to_owned(),
            emergency: settings.emergency_numbers.contains(&dialled),
            created_at: now,
            ringing_at: None,
            answered_at: None,
            ring_deadline: now + ring_timeout.unwrap_or(settings.ring_timeout),
            legs: Vec::new(),
            bridge: Bridge::Nothing,
            offer: None,
            passed: Vec::new(),
            max_forwards: 70,
            private: false,
            media: MediaRecord::default(),
            owners: vec![settings.node.clone()],
            end: None,
            added_2: Added2::default(),
            added_3: Added3::default(),
            added_4: Added4 {
                origin: Some(Origin {
                    target: target.as_str().to_owned(),
                    caller: None,
                    auto_answer,
                }),
            },
            added_5: Added5::default(),
            seed: Seed::new(entropy),
        };
        let mut call = Self::with_record(settings, record, now);
        let from = caller.extension.clone();
        call.emit(Event::CallCreated { call: id, caller: from, callee: dialled });
        let number = call.ask(|number| Query::Route { number, uri: target });
        call.questions.push(Question::Origin { number, user: caller, phones });
        call
    }

    /// An operator began it: the caller was, or is being, called.
    pub(super) const fn is_called(&self) -> bool {
        self.record.added_4.origin.is_some()
    }

    /// The caller's phones ring.
    pub(super) fn rings_caller(&self) -> bool {
        self.record.added_4.origin.as_ref().is_some_and(|origin| origin.caller.is_none())
    }

    /// What the caller's phones are told beside an offer of ours, when it is they who are invited.
    pub(super) fn calls_caller(&self) -> Option<Vec<(String, String)>> {
        let origin =
            self.record.added_4.origin.as_ref().filter(|origin| origin.caller.is_none())?;
        let asked = AUTO_ANSWER.iter().filter(|_| origin.auto_answer);
        Some(asked.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// From towards the caller's phones: whom it will talk to, so that redial from its call log works.
    pub(super) fn target_party(&self, domain: &str) -> String {
        named(&self.record.callee.display_name, &self.target_user(), domain)
    }

    pub(super) fn target_user(&self) -> String {
        self.target().and_then(|target| target.user()).unwrap_or_default()
    }

    fn target(&self) -> Option<Uri> {
        let origin = self.record.added_4.origin.as_ref()?;
        Uri::parse(&origin.target).ok()
    }

    /// The dial plan's word before anybody's phone rings.
    pub(super) fn ring_caller(&mut self, user: &User, phones: &[Binding], decision: Decision) {
        if self.record.phase != Phase::Routing {
            return;
        }
        match decision {
            Decision::Refuse(status) => return self.fail(status, EndCause::Rejected, None),
            Decision::Unknown { user_known, .. } => {
                return self.fail(routing::unknown(user_known), EndCause::Rejected, None);
            }
            Decision::Service(Service::Echo) => {}
            Decision::Ring { user, .. } => self.name_callee(&user),
        }
        let phones = phones.get(..CALLER_PHONES).unwrap_or(phones);
        self.add_branches(user, phones, &[]);
        self.open_ports(Then::Invite);
    }

    pub(super) fn name_callee(&mut self, user: &User) {
        self.record.callee.extension = Some(user.extension.clone());
        self.record.callee.display_name.clone_from(&user.display_name);
    }

    /// A phone of the caller took the call: it hears ringback from now on.
    pub(super) fn caller_answered(&mut self, id: LegId, response: &Response) {
        let Some(leg) = self.record.leg_mut(id) else { return };
        let Some(answer) = Body::of_response(response).description() else {
            let why = "the caller sent no SDP";
            return self.fail_by_phone(Status(488), EndCause::Rejected, why);
        };
        let spoken = Spoken::Answer;
        let sides = match offer_answer::agree_alone(&answer, &leg.description, &leg.policy, spoken)
        {
            Ok(sides) => sides,
            Err(why) => return self.disagree(why),
        };
        leg.description.take(answer.clone());
        leg.set_sides(sides.into_iter());
        let owed = leg.owed_ack;
        self.record.offer = Some(answer);
        self.record.bridge = Bridge::Ringback;
        // What the caller's other phones said is no answer of who is called.
        self.best = None;
        self.record.ring_deadline = self.now + self.settings.ring_timeout;
        if let Some(origin) = &mut self.record.added_4.origin {
            origin.caller = Some(id);
        }
        let rev = self.save();
        if let Some(sequence) = owed {
            self.acknowledge(id, sequence, None, Some(rev));
        }
        self.apply_media(Then::Nothing);
        self.ask_target();
    }

    fn ask_target(&mut self) {
        let Some(uri) = self.target() else {
            return self.fail(Status(404), EndCause::Rejected, None);
        };
        let number = self.ask(|number| Query::Route { number, uri });
        self.questions.push(Question::Target { number });
    }

    /// The dial plan's word now that the caller waits.
    pub(super) fn take_target(&mut self, decision: Decision) {
        if self.record.phase != Phase::Ringing {
            return;
        }
        match decision {
            Decision::Refuse(status) => self.fail(status, EndCause::Rejected, None),
            Decision::Unknown { user_known, .. } => {
                self.fail(routing::unknown(user_known), EndCause::Rejected, None);
            }
            Decision::Service(Service::Echo) => {
                self.record.bridge = Bridge::Echo;
                self.confirm(self.record.caller_leg());
                self.apply_media(Then::Nothing);
                self.save();
            }
            Decision::Ring { user, bindings } => {
                self.name_callee(&user);
                if let Some(timeout) = user.ring_timeout_ms {
                    self.record.ring_deadline = self.now + Duration::from_millis(timeout);
                }
                self.add_branches(&user, &bindings, &[]);
                self.apply_media(Then::Invite);
            }
        }
    }

    /// Another owner goes on with a call that rings: the caller's answer is acknowledged, and who is to be called is,
    /// if nobody was invited yet.
    pub(super) fn resume_calling(&mut self) {
        if !self.is_called() || self.rings_caller() || self.record.phase != Phase::Ringing {
            return;
        }
        let caller = self.record.caller_leg();
        let owed = self.record.leg_mut(caller).and_then(|leg| leg.owed_ack.take());
        if let Some(sequence) = owed {
            let rev = self.save();
            self.acknowledge(caller, sequence, None, Some(rev));
        }
        if !self.record.legs.iter().any(Leg::is_ringing) {
            self.ask_target();
        }
    }

    /// Why it came to nothing, if it did: the status that a phone would have been told.
    pub fn refusal(&self) -> Option<u16> {
        let end = self.record.end.as_ref().filter(|_| self.record.phase == Phase::Ended);
        end.map(|end| end.status).filter(|_| self.record.legs.iter().all(is_unasked))
    }
}

/// Its phone was never invited.
fn is_unasked(leg: &Leg) -> bool {
    leg.dialog.local_seq == 0 && leg.state == LegState::Ended
}

impl Leg {
    /// All that we can play to a phone that we call.
    pub(super) fn first_offer(&mut self, local: &[SocketAddr]) -> Result<String, Disagreement> {
        let direction = crate::sdp::Direction::SendRecv;
        match offer_answer::can_offer(&self.policy) {
            true => {
                Ok(offer_answer::own_offer(&mut self.description, &self.policy, direction, local))
            }
            false => Err(Disagreement::NoCodec),
        }
    }
}
