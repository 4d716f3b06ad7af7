//! Settings that change while the node runs: for what comes from now on.

use super::worker::Worker;
use crate::ids::NodeName;
use crate::operator::Tuning;
use crate::registrar::Policy;
use core::time::Duration;
use std::sync::Arc;

/// Granted to TCP and NATed flows at most (RFC 5626 §4.4: the flow must be refreshed).
const MAX_EXPIRES_NAT: Duration = Duration::from_secs(120);
/// Less is answered with 423.
const MIN_EXPIRES: Duration = Duration::from_secs(30);

/// What the registrar grants.
pub(super) fn policy(node: &NodeName, tuning: &Tuning) -> Policy {
    Policy {
        max_expires: tuning.registration_max,
        max_expires_nat: MAX_EXPIRES_NAT.min(tuning.registration_max),
        min_expires: MIN_EXPIRES.min(tuning.registration_max),
        max_contacts: tuning.max_contacts,
        stun: true,
        node: node.clone(),
    }
}

impl Worker {
    /// Calls have a share in the settings that they began with, and keep it.
    pub(super) fn tune(&mut self, tuning: Tuning) {
        self.policy = policy(&self.settings.node, &tuning);
        let settings = Arc::make_mut(&mut self.settings);
        settings.ring_timeout = tuning.ring_timeout;
        settings.rtp_timeout = tuning.rtp_timeout;
        settings.emergency_numbers = tuning.emergency_numbers;
        self.moves.set_window(tuning.reanchor_window);
    }
}
