//! What signaling is told unasked: to every link; the call's owner heeds it.

use super::Worker;
use crate::control::{Frame, Report, ReportKind, SessionState};
use crate::ids::{Epoch, Rev, SessionId};
use crate::net::clock;

impl Worker {
    /// A session that a bug ended: its call must not wait for what never comes. Numbers of reports begin with the time,
    /// so this one is greater than all before.
    pub(super) fn tell_of_bug(&self, id: SessionId) {
        let (epoch, rev) = (Epoch(0), Rev(0));
        let state = SessionState { session: id, epoch, rev, legs: Vec::new() };
        let number = clock::now().as_micros();
        let kind = ReportKind::Ended(state);
        self.shared.broadcast(&Frame::Report(Report { session: id, number, kind }));
    }
}
