//! Tones that an operator plays to phones, in place of what they would hear: made by the media node, in the phone's
//! codec.

use super::leg::Leg;
use super::media::Then;
use super::record::Playing;
use super::{Call, LAZY_SAVE};
use crate::control::Tone;
use crate::ids::LegId;
use crate::sdp::offer_answer;
use crate::time::Timestamp;
use crate::views::call::LegRole;
use crate::views::steer::ToneName;
use core::time::Duration;

impl Call {
    pub(super) fn play(
        &mut self,
        role: Option<LegRole>,
        tone: ToneName,
        duration_ms: Option<u32>,
    ) -> Result<(), &'static str> {
        let legs = self.connected(role)?;
        let can = |id: &LegId| self.record.leg(*id).is_some_and(Leg::can_be_played_to);
        if !legs.iter().all(can) {
            return Err("nothing can be played in that phone's codec");
        }
        let until = duration_ms.map(|ms| self.now + Duration::from_millis(ms.into()));
        self.silence(&legs);
        let playing = legs.into_iter().map(|leg| Playing { leg, tone, until });
        self.record.added_5.playing.extend(playing);
        self.apply_media(Then::Nothing);
        Ok(())
    }

    /// False: nothing was played.
    pub(super) fn stop_playing(&mut self, role: Option<LegRole>) -> Result<bool, &'static str> {
        let legs = self.connected(role)?;
        if legs.iter().all(|id| self.tone_of(*id).is_none()) {
            return Ok(false);
        }
        self.silence(&legs);
        self.apply_media(Then::Nothing);
        Ok(true)
    }

    fn silence(&mut self, legs: &[LegId]) {
        self.record.added_5.playing.retain(|one| !legs.contains(&one.leg));
    }

    pub(super) fn tone_of(&self, leg: LegId) -> Option<ToneName> {
        let playing = self.record.added_5.playing.iter().find(|one| one.leg == leg);
        playing.map(|one| one.tone)
    }

    /// When a tone has been played long enough.
    pub(super) fn play_timeout(&self) -> Option<Timestamp> {
        self.record.added_5.playing.iter().filter_map(|one| one.until).min()
    }

    pub(super) fn time_playing(&mut self) {
        let now = self.now;
        if self.play_timeout().is_some_and(|at| at <= now) {
            let is_over = |one: &Playing| one.until.is_some_and(|at| at <= now);
            self.record.added_5.playing.retain(|one| !is_over(one));
            self.apply_media(Then::Nothing);
            self.save_within(LAZY_SAVE);
        }
    }
}

impl Leg {
    fn can_be_played_to(&self) -> bool {
        let side = self.streams.first().and_then(|stream| stream.side.as_ref());
        let codec = side.and_then(|side| side.codec.as_ref());
        codec.is_some_and(|codec| offer_answer::is_transcodable(&codec.encoding))
    }
}

/// As the media node knows it.
pub(super) const fn tone_named(name: ToneName) -> Tone {
    match name {
        ToneName::Ringback => Tone::Ringback,
        ToneName::Busy => Tone::Busy,
        ToneName::Congestion => Tone::Congestion,
        ToneName::Dial => Tone::Dial,
        ToneName::Beep => Tone::Beep,
    }
}
