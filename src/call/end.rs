//! Every way a call ends. Any ending reaches every leg: BYE, CANCEL or a final response; then media is released, and
//! one save carries the CDR.

use super::leg::LegState;
use super::record::{End, Phase};
use super::send::pass;
use super::{Call, headers};
use crate::event::Event;
use crate::ids::{LegId, Rev};
use crate::sdp::offer_answer::Disagreement;
use crate::sip::{HeaderName, Status};
use crate::views::{Disposition, EndCause, EndedBy};

/// The reason of a call whose end another node decided.
const ENDED_ELSEWHERE: &str = "its former owner ended it";

impl Call {
    /// No answer was reached, and no phone said so: the caller is told this status.
    pub(super) fn fail(&mut self, status: Status, cause: EndCause, reason: Option<&str>) {
        self.fail_by(EndedBy::System, status, cause, reason, &[]);
    }

    /// The phones that were asked said no; what passes are header fields of the response that decided it.
    pub(super) fn refused_by_phone(&mut self, status: Status, passed: &[(String, String)]) {
        self.fail_by(self.who_rejects(), status, EndCause::Rejected, None, passed);
    }

    /// What a phone answered is no use.
    pub(super) fn fail_by_phone(&mut self, status: Status, cause: EndCause, reason: &str) {
        self.fail_by(self.who_rejects(), status, cause, Some(reason), &[]);
    }

    /// Nothing can be agreed on: 488 with a Warning that says why.
    pub(super) fn disagree(&mut self, why: Disagreement) {
        self.disagree_by(self.who_rejects(), why);
    }

    /// The same, before any phone had a word in it.
    pub(super) fn disagree_ourselves(&mut self, why: Disagreement) {
        self.disagree_by(EndedBy::System, why);
    }

    fn disagree_by(&mut self, by: EndedBy, why: Disagreement) {
        let warning = [super::headers::warning(why)];
        self.fail_by(by, Status(488), EndCause::Rejected, Some(&why.to_string()), &warning);
    }

    /// Whose no ends a call that was not answered, when a phone said it.
    fn who_rejects(&self) -> EndedBy {
        let legs = self.record.legs.len();
        match self.rings_caller() {
            true if legs > 0 => EndedBy::Caller,
            _ if legs > 1 => EndedBy::Callee,
            _ => EndedBy::System,
        }
    }

    fn fail_by(
        &mut self,
        by: EndedBy,
        status: Status,
        cause: EndCause,
        reason: Option<&str>,
        passed: &[(String, String)],
    ) {
        let end = End {
            at: self.now,
            by,
            cause,
            disposition: disposition(status, self.record.ringing_at.is_some()),
            status: status.0,
            q850: q850(status),
            reason: reason.map(str::to_owned),
        };
        let told = self.is_called().then(|| format!("SIP;cause={}", status.0));
        self.finish(end, told.as_deref(), passed);
    }

    /// The caller gave up.
    pub(super) fn cancelled(&mut self) {
        let end = End {
            at: self.now,
            by: EndedBy::Caller,
            cause: EndCause::Cancel,
            disposition: Disposition::Cancelled,
            status: 487,
            q850: Some(16),
            reason: None,
        };
        let reason = self.record.passed.iter().find(|(name, _)| name == "Reason").cloned();
        self.finish(end, reason.as_ref().map(|(_, value)| value.as_str()), &[]);
    }

    /// Nobody answered in time.
    pub(super) fn ring_timed_out(&mut self) {
        let end = End {
            at: self.now,
            by: EndedBy::System,
            cause: EndCause::RingTimeout,
            disposition: Disposition::NoAnswer,
            status: 480,
            q850: Some(19),
            reason: Some("no answer".to_owned()),
        };
        self.finish(end, Some("Q.850;cause=19;text=\"No answer from the user\""), &[]);
    }

    /// A phone said BYE.
    pub(super) fn end_by_phone(&mut self, by: EndedBy) {
        let end = self.answered_end(by, EndCause::Bye, 16, None);
        let told_at = self.told_at.filter(|at| Some(*at) >= self.record.answered_at);
        self.finish(End { at: told_at.unwrap_or(end.at), ..end }, None, &[]);
    }

    /// We end an answered call.
    pub(super) fn end_by_system(&mut self, cause: EndCause, reason: &str) {
        if self.record.phase != Phase::Confirmed {
            return self.fail(Status(480), cause, Some(reason));
        }
        let end = self.answered_end(EndedBy::System, cause, 41, Some(reason));
        self.finish(end, Some(&format!("Q.850;cause=41;text=\"{reason}\"")), &[]);
    }

    /// Its former owner had told its phones already.
    pub(super) fn ended_elsewhere(&mut self, by: EndedBy, cause: EndCause) {
        match by {
            EndedBy::Caller if self.record.phase != Phase::Confirmed => self.cancelled(),
            EndedBy::Caller | EndedBy::Callee if self.record.phase == Phase::Confirmed => {
                self.end_by_phone(by);
            }
            EndedBy::Admin => self.end_by_admin(cause, Some(ENDED_ELSEWHERE.to_owned())),
            EndedBy::Caller | EndedBy::Callee | EndedBy::System => {
                self.end_by_system(cause, ENDED_ELSEWHERE);
            }
        }
    }

    /// An operator ends the call.
    pub(super) fn end_by_admin(&mut self, cause: EndCause, reason: Option<String>) {
        let text = reason.as_deref().map_or("administrative", |reason| reason);
        let text: String =
            text.chars().filter(|c| !matches!(c, '"' | '\\' | '\r' | '\n')).collect();
        let told = format!("Q.850;cause=16;text=\"{text}\"");
        if self.record.phase == Phase::Confirmed {
            let end = self.answered_end(EndedBy::Admin, cause, 16, reason.as_deref());
            return self.finish(end, Some(&told), &[]);
        }
        let end = End {
            at: self.now,
            by: EndedBy::Admin,
            cause,
            disposition: Disposition::Failed,
            status: 480,
            q850: Some(16),
            reason,
        };
        self.finish(end, Some(&told), &[]);
    }

    /// A phone is not there any more (408 or 481 within the dialog): the call is over. It gets its BYE too (RFC 3261
    /// §12.2.1.2): perhaps only our requests were lost.
    pub(super) fn leg_is_gone(&mut self) {
        if self.record.phase != Phase::Confirmed {
            return;
        }
        self.end_by_system(EndCause::RtpTimeout, "a phone does not answer any more");
    }

    fn answered_end(&self, by: EndedBy, cause: EndCause, q850: u16, reason: Option<&str>) -> End {
        End {
            at: self.now,
            by,
            cause,
            disposition: Disposition::Answered,
            status: 200,
            q850: Some(q850),
            reason: reason.map(str::to_owned),
        }
    }

    /// Tells every leg, once.
    fn finish(&mut self, end: End, told: Option<&str>, passed: &[(String, String)]) {
        if self.record.phase == Phase::Ended {
            return;
        }
        let answered = self.record.phase == Phase::Confirmed;
        self.record.phase = Phase::Ended;
        let status = Status(end.status);
        self.record.end = Some(end.clone());
        (self.exchange, self.dirty_until, self.ringing_repeat_at) = (None, None, None);
        self.queued.clear();
        self.questions.clear();
        self.note_transfer(487);
        self.record.added_5.playing.clear();
        if answered || self.is_called() {
            self.refuse_open_reinvites();
        } else {
            let told = told.filter(|_| end.by == EndedBy::Admin);
            self.respond_failure(status, &end, told, passed);
        }
        let ids: Vec<LegId> = self.record.legs.iter().map(|leg| leg.id).collect();
        for id in ids {
            self.end_leg(id, told);
        }
        self.announce_end(&end);
        self.release_media();
        if !self.is_told() {
            self.save_unfinished();
        }
    }

    /// Every phone knows of the end, or has nothing to know.
    pub(super) fn is_told(&self) -> bool {
        self.record.legs.iter().all(|leg| leg.bye_after_ack.is_none())
    }

    /// The former owner ended the call and did not live to tell all phones: all of them are told, perhaps again.
    pub(super) fn resume_ending(&mut self) {
        let dialogs = self.record.legs.iter().filter(|leg| leg.answered_at.is_some());
        for id in dialogs.map(|leg| leg.id).collect::<Vec<_>>() {
            self.send_bye(id, None);
        }
        self.record.media.open = true;
        self.release_media();
    }

    fn respond_failure(
        &mut self,
        status: Status,
        end: &End,
        told: Option<&str>,
        passed: &[(String, String)],
    ) {
        let has_reason = passed.iter().any(|(name, _)| name == HeaderName::Reason.as_str());
        let q850 = end.q850.filter(|_| !has_reason && end.cause == EndCause::RingTimeout);
        let retry = (status == Status(503)).then(|| self.retry_after());
        self.respond_caller(status, None, |response| {
            pass(response, passed);
            if let Some(reason) = told {
                response.headers.push(HeaderName::Reason, reason);
            }
            if let Some(cause) = q850 {
                response.headers.push(HeaderName::Reason, format!("Q.850;cause={cause}"));
            }
            if let Some(seconds) = retry {
                response.headers.set(HeaderName::RetryAfter, seconds.to_string());
            }
            if status == Status(415) {
                response.headers.push(HeaderName::Accept, headers::ACCEPT);
            }
            if status == Status(488) && passed.is_empty() {
                let warning = "304 holdfast \"no media format in common\"";
                response.headers.push(HeaderName::Warning, warning);
            }
        });
    }

    /// 1-5 s, so that phones that were refused together do not come back together.
    fn retry_after(&self) -> u64 {
        1 + super::send::retry_after_seconds(self.record.id.0, self.now) % 5
    }

    fn refuse_open_reinvites(&mut self) {
        let open: Vec<(LegId, u32)> = self
            .record
            .legs
            .iter_mut()
            .filter_map(|leg| {
                let id = leg.id;
                leg.open_server_invite().map(|server| (id, server.sequence))
            })
            .collect();
        for (id, sequence) in open {
            self.refuse(id, &crate::sip::Method::Invite, sequence, 487);
        }
    }

    /// Its INVITE made another call too, which the store has: this one has no row, the caller is told nothing.
    pub fn leave_caller(&mut self) {
        self.record.phase = Phase::Ended;
        (self.exchange, self.dirty_until, self.ringing_repeat_at) = (None, None, None);
        self.questions.clear();
        if let Some(caller) = self.record.leg_mut(LegId::CALLER) {
            (caller.state, caller.open_invite) = (LegState::Ended, None);
            caller.servers.clear();
        }
        let ids: Vec<LegId> = self.record.legs.iter().map(|leg| leg.id).collect();
        for id in ids {
            self.end_leg(id, None);
        }
        self.saved_end = true;
        self.release_media();
    }

    /// The same of a call whose phones talk: it goes on, under a key that no INVITE has.
    pub fn take_own_key(&mut self) {
        self.record.key = self.record.id.0.to_be_bytes();
        self.save();
    }

    /// BYE to a dialog, CANCEL to an INVITE that is open.
    pub(super) fn end_leg(&mut self, id: LegId, told: Option<&str>) {
        self.end_leg_behind(id, told, None);
    }

    /// The same, the BYE not before that rev is committed.
    pub(super) fn end_leg_behind(&mut self, id: LegId, told: Option<&str>, behind: Option<Rev>) {
        let now = self.now;
        self.cancel_invites(id, told);
        let Some(leg) = self.record.leg_mut(id) else { return };
        let state = leg.state;
        leg.state = LegState::Ended;
        leg.ended_at.get_or_insert(now);
        if state != LegState::Confirmed {
            return;
        }
        if leg.awaits_ack() {
            leg.bye_after_ack = Some(told.map(str::to_owned));
            return;
        }
        if let Some(sequence) = leg.owed_ack.take() {
            self.acknowledge(id, sequence, None, None);
        }
        self.send_bye_behind(id, told, behind);
    }

    /// Saves the end, with the CDR: when the last statistics are here, and no phone is left that has to be told first.
    /// A node that finds it in the store tells nobody.
    pub(super) fn conclude(&mut self) {
        let is_due = self.record.phase == Phase::Ended && self.media_deadline.is_none();
        if is_due && self.is_told() && !self.saved_end {
            self.save();
        }
    }

    fn announce_end(&mut self, end: &End) {
        let since = |from: Option<crate::time::Timestamp>| {
            from.map_or(0, |from| {
                u64::try_from(end.at.saturating_since(from).as_millis()).unwrap_or(u64::MAX)
            })
        };
        let event = Event::CallEnded {
            call: self.record.id,
            disposition: end.disposition,
            end_cause: end.cause,
            ended_by: end.by,
            sip_status: end.status,
            duration_ms: since(Some(self.record.created_at)),
            billable_ms: since(self.record.answered_at),
        };
        self.emit(event);
    }
}

/// What a failure means for people.
fn disposition(status: Status, rang: bool) -> Disposition {
    match status.0 {
        486 | 600 => Disposition::Busy,
        487 => Disposition::Cancelled,
        408 | 480 if rang => Disposition::NoAnswer,
        408 | 480 | 500..=599 => Disposition::Failed,
        _ => Disposition::Rejected,
    }
}

/// ITU-T Q.850 causes of our own statuses (RFC 3398 §8.2.6.1).
fn q850(status: Status) -> Option<u16> {
    Some(match status.0 {
        404 | 484 => 1,
        486 | 600 => 17,
        480 => 18,
        403 | 603 => 21,
        408 => 102,
        487 => 16,
        488 | 415 => 88,
        503 => 34,
        500..=599 => 41,
        _ => return None,
    })
}
