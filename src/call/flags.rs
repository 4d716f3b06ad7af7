//! What is not as it should be in a call: now, for who looks at it, and ever, for its CDR.
//!
//! Invariant: what a call had is in its record from its next save on, so the next owner knows it too.

use super::leg::Leg;
use super::record::Phase;
use super::{Call, LAZIEST_SAVE};
use crate::sip::Status;
use crate::views::CallFlag;
use std::collections::BTreeSet;

impl Call {
    /// What is so now, and what cannot be mended.
    pub fn flags(&self) -> BTreeSet<CallFlag> {
        let had = self.record.added_5.flags.iter().copied();
        self.present_flags().chain(had.filter(|flag| flag.lasts())).collect()
    }

    /// It has these, which is remembered.
    pub(super) fn flag(&mut self, flags: impl IntoIterator<Item = CallFlag>) {
        let had = &mut self.record.added_5.flags;
        let before = had.len();
        had.extend(flags);
        // Until it is answered it is saved soon anyway: half of all phones name a private address.
        if had.len() > before && self.record.phase == Phase::Confirmed {
            self.save_within(LAZIEST_SAVE);
        }
    }

    /// The sound was judged anew.
    pub(super) fn note_flags(&mut self) {
        let present: BTreeSet<_> = self.present_flags().collect();
        self.flag(present);
    }

    /// Whatever it had.
    pub(super) fn flags_ever(&self) -> Vec<CallFlag> {
        let had = self.record.added_5.flags.iter().copied();
        had.chain(self.present_flags()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// As far as the machine knows: the rest is seen by who keeps its messages, a moment after they came.
    fn present_flags(&self) -> impl Iterator<Item = CallFlag> {
        let status = self.record.end.as_ref().map(|end| end.status);
        let mut statuses = self.record.legs.iter().filter_map(|leg: &Leg| leg.last_status);
        let refuses = |status| Status(status).refuses_media();
        let known = [
            (CallFlag::CodecMismatch, self.is_transcoding),
            (CallFlag::MediaRejected, status.is_some_and(refuses) || statuses.any(refuses)),
            (CallFlag::OneWayAudio, self.silent_role().is_some()),
            (CallFlag::Silence, self.is_silent()),
        ];
        known.into_iter().filter(|(_, is_so)| *is_so).map(|(flag, _)| flag)
    }
}
