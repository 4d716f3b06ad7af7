//! Digits that an operator sends to a phone: telephone events (RFC 4733) made by the media node, or INFO, one after
//! another, where the phone takes none.
//!
//! Invariant: no digit is sent twice. The media node does a numbered act once; a digit of an INFO has left the record
//! before it leaves for the phone.

use super::leg::Purpose;
use super::record::Dialling;
use super::{Call, LAZY_SAVE};
use crate::control::Act;
use crate::ids::LegId;
use crate::sip::{HeaderName, Method};
use crate::views::call::LegRole;

/// Wishes of digits that wait for one phone.
const WAITING: usize = 8;
const TOO_MANY: &str = "digits are on their way to that phone already";

impl Call {
    pub(super) fn dial(&mut self, role: LegRole, digits: &str) -> Result<(), &'static str> {
        let legs = self.connected(Some(role))?;
        let waiting = self.record.added_5.dialling.iter().filter(|one| legs.contains(&one.leg));
        if waiting.count() >= WAITING {
            return Err(TOO_MANY);
        }
        for leg in legs {
            self.record.added_5.acts += 1;
            let (number, digits) = (self.record.added_5.acts, digits.to_owned());
            self.record.added_5.dialling.push(Dialling { number, leg, digits });
            match self.takes_events(leg) {
                true => self.apply_media(super::media::Then::Nothing),
                false => self.dial_next(leg),
            }
        }
        Ok(())
    }

    fn takes_events(&self, id: LegId) -> bool {
        let stream = self.record.leg(id).and_then(|leg| leg.streams.first());
        let side = stream.and_then(|stream| stream.side.as_ref());
        side.is_some_and(|side| side.telephone_event.is_some())
    }

    /// What the media node is to do.
    pub(super) fn acts(&self) -> Vec<Act> {
        let dialling = self.record.added_5.dialling.iter();
        let own = dialling.filter(|one| self.takes_events(one.leg));
        let act = |one: &Dialling| Act::SendDigits {
            number: one.number,
            leg: one.leg,
            digits: one.digits.clone(),
        };
        own.map(act).collect()
    }

    /// It does all that it was asked.
    pub(super) fn acts_done(&mut self) {
        let by_info: Vec<bool> = {
            let dialling = self.record.added_5.dialling.iter();
            dialling.map(|one| !self.takes_events(one.leg)).collect()
        };
        if by_info.iter().all(|stays| *stays) {
            return;
        }
        let mut stays = by_info.into_iter();
        self.record.added_5.dialling.retain(|_| stays.next().unwrap_or_default());
        self.save_within(LAZY_SAVE);
    }

    /// The next digit by INFO, when none is on its way to the phone.
    pub(super) fn dial_next(&mut self, id: LegId) {
        let Some(leg) = self.record.leg(id) else { return };
        let is_open = |client: &super::leg::Client| {
            client.purpose == Purpose::Dial && client.transaction.is_pending()
        };
        if leg.clients.iter().any(is_open) || !leg.is_live() {
            return;
        }
        let dialling = &mut self.record.added_5.dialling;
        let Some(at) = dialling.iter().position(|one| one.leg == id) else { return };
        let Some(one) = dialling.get_mut(at) else { return };
        let digit = one.digits.chars().next();
        one.digits = one.digits.chars().skip(1).collect();
        if one.digits.is_empty() {
            dialling.remove(at);
        }
        let Some((digit, leg)) = digit.zip(self.record.leg_mut(id)) else { return };
        let mut info = leg.dialog.request(Method::Info);
        info.headers.push(HeaderName::ContentType, "application/dtmf-relay");
        info.body = format!("Signal={digit}\r\nDuration=160\r\n").into();
        let rev = self.save();
        self.send_request(id, info, Purpose::Dial, Some(rev));
    }

    /// Another owner carries it on.
    pub(super) fn resume_dialling(&mut self) {
        let legs: Vec<LegId> = self.record.added_5.dialling.iter().map(|one| one.leg).collect();
        for leg in legs.into_iter().filter(|leg| !self.takes_events(*leg)).collect::<Vec<_>>() {
            self.dial_next(leg);
        }
    }
}
