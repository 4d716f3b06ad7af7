//! What the branches of a fork answer, and what the caller is told of it (RFC 3261 §16.7 in spirit, as a B2BUA).
//!
//! Invariants: the caller sees one To tag; with more than one live branch it sees 180 without SDP; an SDP once given
//! to it is repeated byte for byte; 6xx ends all; a phone's quarrel with us (401, 407, 415, 488, 5xx) never beats
//! another's answer.

use super::headers;
use super::io::Query;
use super::leg::LegState;
use super::media::Then;
use super::offer::Body;
use super::record::{Bridge, Phase};
use super::send::set_sdp;
use super::setup::Question;
use super::{Call, LAZY_SAVE};
use crate::event::Event;
use crate::ids::LegId;
use crate::limits;
use crate::routing::Decision;
use crate::sdp::offer_answer::Disagreement;
use crate::sip::uri::Scheme;
use crate::sip::{HeaderName, NameAddr, Response, Status};
use crate::views::EndCause;
use crate::views::call::LegRole;
use core::time::Duration;

/// Told to phones that lose a fork (RFC 3326).
pub(super) const COMPLETED_ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
/// 180 is repeated so often, that no proxy on the caller's side gives up (RFC 3261 §13.3.1.1).
pub(super) const RINGING_REPEAT: Duration = Duration::from_secs(60);

/// The best failure so far.
#[derive(Clone, Debug)]
pub(super) struct Best {
    rank: u8,
    status: Status,
    passed: Vec<(String, String)>,
    whose: Whose,
}

/// Whose word a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The phone's.
    Phone,
    /// Ours: it was not asked, for nothing could be offered to it.
    Unoffered(Disagreement),
    /// Ours: it said nothing, or there is no way to it.
    Unreached,
}

impl Call {
    /// 1xx of a branch.
    pub(super) fn branch_provisional(&mut self, id: LegId, response: &Response) {
        self.send_wanted_cancels(id);
        let has_tag = response.to().and_then(|to| to.tag()).is_some();
        if self.is_to_come(id) && has_tag && response.status != Status(100) {
            return self.transfer_rings(id, response);
        }
        if self.record.phase != Phase::Ringing || response.status == Status(100) || !has_tag {
            return;
        }
        let rings_caller = self.rings_caller();
        let live = self.record.legs.iter().filter(|leg| leg.is_ringing()).count();
        let has_offer = self.record.offer.is_some();
        let Some(leg) = self.record.leg_mut(id) else { return };
        if !leg.is_ringing() {
            return;
        }
        leg.dialog.establish(response);
        leg.state = LegState::Early;
        leg.last_status = Some(response.status.0);
        if leg.user_agent.is_none() {
            leg.user_agent = response.headers.get(&HeaderName::Server).map(str::to_owned);
        }
        if rings_caller {
            return self.save_within(LAZY_SAVE);
        }
        if self.record.ringing_at.is_none() {
            self.record.ringing_at = Some(self.now);
            self.ringing_repeat_at = Some(self.now + RINGING_REPEAT);
            self.emit(Event::CallRinging { call: self.record.id });
        }
        self.save_within(LAZY_SAVE);
        let answer = Body::of_response(response).description();
        if let Some(answer) = answer.filter(|_| live == 1 && has_offer) {
            let already = self.record.bridge == Bridge::Leg(id);
            if !already && self.settle(id, &answer).is_ok() {
                self.record.bridge = Bridge::Leg(id);
                self.apply_media(Then::EarlyAnswer { leg: id, status: response.status.0 });
                return;
            }
        }
        let status = if live == 1 { response.status.0 } else { 180 };
        self.send_provisional(status);
    }

    /// An 18x to the caller, with the SDP it was given before, once a status.
    pub(super) fn send_provisional(&mut self, status: u16) {
        if self.record.added_2.last_provisional == Some(status) {
            return;
        }
        self.record.added_2.last_provisional = Some(status);
        let sdp = self.caller_answer.clone();
        self.respond_caller(Status(status), None, |response| {
            if let Some(sdp) = sdp {
                set_sdp(response, &sdp);
            }
        });
    }

    /// The caller can hear the branch: 18x with our answer, behind its commit.
    pub(super) fn send_early_answer(&mut self, leg: LegId, status: u16) {
        let ringing = self.record.leg(leg).is_some_and(super::leg::Leg::is_ringing);
        if self.record.phase != Phase::Ringing || !ringing {
            return;
        }
        let sdp = self.answer_for_caller(leg);
        self.record.added_2.last_provisional = Some(status);
        let rev = self.save();
        self.respond_caller(Status(status), Some(rev), |response| set_sdp(response, &sdp));
    }

    /// A final failure of a branch's INVITE.
    pub(super) fn branch_refused(&mut self, id: LegId, response: &Response) {
        let passed = headers::passed(&response.headers);
        let follows = self.record.phase == Phase::Ringing && !self.rings_caller();
        if follows && response.status.is_redirection() {
            self.redirect(id, response);
        } else {
            self.branch_failed(id, response.status, passed);
        }
    }

    /// A branch is over without an answer, by its phone's word.
    pub(super) fn branch_failed(
        &mut self,
        id: LegId,
        status: Status,
        passed: Vec<(String, String)>,
    ) {
        self.branch_ended_with(id, status);
        self.branch_over(id, Best { rank: rank(status), status, passed, whose: Whose::Phone });
    }

    /// Its phone did not say a word to the INVITE, or cannot be reached.
    pub(super) fn branch_unreached(&mut self, id: LegId, status: Status) {
        // A phone's word tells more.
        let (rank, passed) = (UNREACHED, Vec::new());
        self.branch_ended_with(id, status);
        self.branch_over(id, Best { rank, status, passed, whose: Whose::Unreached });
    }

    fn branch_ended_with(&mut self, id: LegId, status: Status) {
        if let Some(leg) = self.record.leg_mut(id) {
            leg.last_status = Some(status.0);
        }
    }

    /// A branch to which nothing can be offered, so that its phone is not asked.
    pub(super) fn branch_unoffered(&mut self, id: LegId, why: Disagreement) {
        let status = Status(488);
        let (rank, passed) = (rank(status), Vec::new());
        self.branch_over(id, Best { rank, status, passed, whose: Whose::Unoffered(why) });
    }

    fn branch_over(&mut self, id: LegId, failure: Best) {
        let now = self.now;
        let Some(leg) = self.record.leg_mut(id) else { return };
        leg.ended_at.get_or_insert(now);
        let was_ringing = leg.is_ringing();
        leg.state = LegState::Ended;
        leg.open_invite = None;
        let is_open = matches!(self.record.phase, Phase::Routing | Phase::Ringing);
        if !was_ringing || !(is_open || self.is_transferring()) {
            return;
        }
        let status = failure.status;
        if self.best.as_ref().is_none_or(|best| failure.rank < best.rank) {
            self.best = Some(failure);
        }
        if status.0 >= 600 {
            let reason = format!("SIP;cause={}", status.0);
            self.end_branches(None, Some(&reason));
        }
        if self.record.bridge == Bridge::Leg(id) {
            self.record.bridge = Bridge::Ringback;
            if self.record.legs.iter().any(super::leg::Leg::is_ringing) {
                self.apply_media(Then::Nothing);
            }
        }
        self.settle_branches();
    }

    /// When no branch is left that could answer, the caller gets the best failure.
    pub(super) fn settle_branches(&mut self) {
        let asked =
            self.questions.iter().any(|question| matches!(question, Question::Redirect { .. }));
        let ringing = self.record.legs.iter().any(super::leg::Leg::is_ringing);
        let open = matches!(self.record.phase, Phase::Routing | Phase::Ringing);
        let transfers = self.is_transferring();
        if !(open || transfers) || asked || ringing {
            return;
        }
        let best = self.best.take();
        if transfers {
            return self.fail_transfer(best.map_or(Status(480), |best| to_caller(best.status)));
        }
        let Some(Best { status, passed, whose, .. }) = best else {
            return self.fail(Status(480), EndCause::Rejected, Some("no phone to ring"));
        };
        match whose {
            Whose::Phone => self.refused_by_phone(to_caller(status), &passed),
            Whose::Unoffered(why) => self.disagree_ourselves(why),
            Whose::Unreached if self.record.ringing_at.is_some() => {
                self.fail(to_caller(status), EndCause::Rejected, Some("a phone fell silent"));
            }
            Whose::Unreached => {
                self.fail(to_caller(status), EndCause::Rejected, Some("no phone was reached"));
            }
        }
    }

    /// Cancels every branch that still rings, but for the winner.
    pub(super) fn end_branches(&mut self, winner: Option<LegId>, reason: Option<&str>) {
        let reason = reason.or(winner.map(|_| COMPLETED_ELSEWHERE));
        let losers: Vec<LegId> = self
            .record
            .legs
            .iter()
            .filter(|leg| leg.is_ringing() && Some(leg.id) != winner)
            .map(|leg| leg.id)
            .collect();
        for id in losers {
            self.cancel_invites(id, reason);
            let now = self.now;
            if let Some(leg) = self.record.leg_mut(id) {
                leg.state = LegState::Ended;
                leg.ended_at = Some(now);
            }
        }
    }

    /// 3xx of a phone: its Contact is asked for in the dial plan, `limits::REDIRECTIONS` times in a row.
    fn redirect(&mut self, id: LegId, response: &Response) {
        let contact = response.contact().filter(|contact| {
            matches!(contact.uri.scheme(), Scheme::Sip | Scheme::Sips | Scheme::Tel)
        });
        let hops = self.record.leg(id).map_or(0, |leg| leg.diverted_by.len());
        let Some(NameAddr { uri, .. }) =
            contact.filter(|_| hops < usize::from(limits::REDIRECTIONS))
        else {
            return self.branch_failed(id, Status(480), Vec::new());
        };
        let number = self.ask(|number| Query::Route { number, uri });
        self.questions.push(Question::Redirect { number, diverted: id });
        self.branch_failed(id, response.status, Vec::new());
    }

    /// The dial plan's word on a 302: only a local user is followed.
    pub(super) fn take_redirect(&mut self, diverted: LegId, decision: Decision) {
        if self.record.phase != Phase::Ringing {
            return;
        }
        let Decision::Ring { user, bindings } = decision else {
            return self.settle_branches();
        };
        let Some(leg) = self.record.leg(diverted) else { return };
        let who = leg.extension.clone().unwrap_or_default();
        let already = self.record.legs.iter().any(|leg| {
            leg.role == LegRole::Callee && leg.extension.as_ref() == Some(&user.extension)
        });
        if already {
            return self.settle_branches();
        }
        let mut diverted_by = leg.diverted_by.clone();
        diverted_by.push(format!(
            "<sip:{}@{}>;reason=unconditional;counter=1",
            crate::sip::uri::escape_user(&who),
            leg.domain
        ));
        self.add_branches(&user, &bindings, &diverted_by);
        self.apply_media(Then::Invite);
    }
}

/// The last of all failures, see `rank`.
const UNREACHED: u8 = 10;

/// Which failure the caller hears of: 6xx, then 486, 480, other 4xx, 5xx, 408; what a phone says of our request last.
fn rank(status: Status) -> u8 {
    match status.0 {
        600..=699 => 0,
        486 => 1,
        480 => 2,
        401 | 407 => 9,
        415 | 488 => 7,
        408 => 8,
        400..=499 => 3,
        300..=399 => 4,
        _ => 6,
    }
}

/// A branch's failure as the caller is told: nobody's challenge or redirection passes, nor a phone's 503 (§16.7).
fn to_caller(status: Status) -> Status {
    match status.0 {
        401 | 407 | 300..=399 => Status(480),
        503 => Status(500),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_failure_is_the_most_telling() {
        let order = [600, 486, 480, 404, 503, 488, 408, 401];
        for pair in order.windows(2) {
            assert!(rank(Status(pair[0])) < rank(Status(pair[1])), "{pair:?}");
        }
        assert_eq!(to_caller(Status(401)), Status(480));
        assert_eq!(to_caller(Status(503)), Status(500));
        assert_eq!(to_caller(Status(603)), Status(603));
    }
}
