//! Two phones that talk, and what came of all that they tried.

use super::super::clock::Nanos;

/// How a call is used once its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    CallerEnds,
    CalleeEnds,
    /// Hold, resume, and then the caller ends it.
    CallerHolds,
}

/// Who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// In a call when the fault comes.
    Talking,
    /// On hold by the caller when the fault comes.
    Held,
    /// The callee rings when the fault comes.
    Ringing,
    /// One short call after the other, all the time.
    Calling,
}

/// How far the use of a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Idle,
    Holding,
    HeldUntil(Nanos),
    Resuming,
    /// Both are listened for then.
    Resumed(Nanos),
    Ending,
    Done,
}

/// What a request about the time of the fault met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    pub(super) asked: Nanos,
    pub(super) answered: Nanos,
    /// 0: nobody answered.
    pub(super) status: u16,
}

/// A call for the book: it must have one CDR.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Of the caller's leg.
    pub(super) call_id: String,
    pub(super) answered: Nanos,
    pub(super) ended: Nanos,
}

/// Two phones: the caller's number is even, the callee's the next.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) class: Class,
    pub(super) usage: Use,
    pub(super) step: Step,
    /// Of the call that is there or was there last.
    pub(super) call_id: String,
    /// When the caller had its 200.
    pub(super) answered: Option<Nanos>,
    /// When the first BYE was sent or came.
    pub(super) ended: Option<Nanos>,
    /// Why there was no call.
    pub(super) refused: Option<u16>,
    /// When the callee is to answer what rings.
    pub(super) answers_at: Option<Nanos>,
    /// The next step of a pair that calls all the time.
    pub(super) next: Nanos,
    pub(super) is_early: bool,
    pub(super) early: Option<Early>,
    pub(super) hold: Option<u16>,
    pub(super) resume: Option<u16>,
    pub(super) bye: Option<u16>,
    /// Both heard the other after the resume.
    pub(super) heard_again: bool,
    /// Both heard the other when the call was used.
    pub(super) heard: bool,
    /// One of them refuses to be asked within the dialog.
    pub(super) is_rude: bool,
    /// A BYE that nobody had sent.
    pub(super) unexpected: usize,
}

impl Pair {
    pub(super) fn new(class: Class, usage: Use, is_rude: bool) -> Self {
        Self {
            class,
            usage,
            step: Step::Idle,
            call_id: String::new(),
            answered: None,
            ended: None,
            refused: None,
            answers_at: None,
            next: Nanos::MAX,
            is_early: false,
            early: None,
            hold: None,
            resume: None,
            bye: None,
            heard_again: false,
            heard: false,
            is_rude,
            unexpected: 0,
        }
    }

    /// In a call.
    pub(super) fn is_up(&self) -> bool {
        self.answered.is_some() && self.ended.is_none()
    }

    /// The call that was, once it was answered.
    pub(super) fn entry(&self, now: Nanos) -> Option<Entry> {
        let (call_id, answered) = (self.call_id.clone(), self.answered?);
        Some(Entry { call_id, answered, ended: self.ended.unwrap_or(now) })
    }
}
