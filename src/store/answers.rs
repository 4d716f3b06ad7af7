//! What a request with an `Idempotency-Key` was answered, for those that repeat it.
//!
//! Invariants: of one token and key one run is under way at a time, in the whole cluster; a run that was overtaken
//! writes nothing; a run of which nothing was heard for `RUN_LIFE` died with its node.

use super::{Backend, DEADLINE, Store, StoreError, within};
use crate::time::Timestamp;
use core::time::Duration;

/// How long an answer is kept.
pub(super) const ANSWER_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Answers at most, however young.
pub(super) const ANSWER_ROWS: u32 = 100_000;
/// Longer than a request takes.
const RUN_LIFE: Duration = Duration::from_secs(60);

/// A request that may be a repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// By which token.
    pub token: String,
    /// What its maker calls it.
    pub key: String,
    /// Keyed hash of it: another request under the same key has another.
    pub hash: [u8; 32],
    /// This try of it.
    pub run: u64,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Nothing: this try is the one that counts.
    Begun,
    /// Another try is under way.
    Running,
    /// The key was another request's.
    Other,
    /// This, sealed.
    Before(Vec<u8>),
}

impl Store {
    /// Begins, unless it is under way or was answered.
    pub async fn begin_answer(
        &self,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Answered, StoreError> {
        if ask!(self, DEADLINE, begin_answer(asked, now, ANSWER_LIFE, RUN_LIFE))? {
            return Ok(Answered::Begun);
        }
        let kept: Option<(Vec<u8>, Option<Vec<u8>>)> = ask!(self, DEADLINE, answer(asked))?;
        Ok(match kept {
            Some((hash, _)) if hash != asked.hash => Answered::Other,
            Some((_, Some(answer))) => Answered::Before(answer),
            // It was given up between the two questions: whoever asks again begins.
            Some((_, None)) | None => Answered::Running,
        })
    }

    /// The answer of a run, or none: then who repeats it begins anew.
    pub async fn end_answer(
        &self,
        asked: &Asked,
        answer: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        ask!(self, DEADLINE, end_answer(asked, answer.as_deref()))
    }
}
