//! Next hops by name: RFC 3263 and, for streams, the connection; in tasks, never in the worker.

use super::errand::Errand;
use super::worker::Worker;
use crate::call::Answer;
use crate::ids::{CallId, Transport};
use crate::sip::Uri;
use core::time::Duration;

/// Names being resolved or dialled; above it a hop counts as unreachable.
pub(super) const LOOK_UPS: usize = 256;
/// A name, or a peer, that does not answer so long is not there.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Finds the flow to a next hop and answers the call.
    pub(super) fn resolve(&mut self, call: CallId, number: u32, uri: &Uri) {
        let transport = match uri.param("transport").flatten() {
            Some(name) if name.eq_ignore_ascii_case("tcp") => Some(Transport::Tcp),
            Some(name) if name.eq_ignore_ascii_case("udp") => Some(Transport::Udp),
            Some(_) | None => None,
        };
        let begun = uri.host().is_some_and(|host| {
            let (host, port) = (host.to_string(), uri.port());
            self.errands.run(Errand::Resolve { call, number, host, port, transport })
        });
        if !begun {
            self.answer_later(call, Answer::Resolve { number, flow: None });
        }
    }

    /// Answers a call in the next turn of the loop: it is being drained now.
    fn answer_later(&mut self, call: CallId, answer: Answer) {
        self.answers.push((call, answer));
    }
}
