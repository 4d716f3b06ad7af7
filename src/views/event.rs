//! Events in the API: what happened, in one order for the cluster.
//!
//! Invariants: an event of a call is written with the state that it tells of; `call.ended` is made of the CDR, exactly
//! once a call. What was dialled in a call (digits) is in none.

use super::call::LegRole;
use super::steer::SteeringAct;
use super::{CallState, Cdr, Disposition, EndCause, EndedBy, PartyView, Rfc3339};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// When.
    pub at: Rfc3339,
    /// The node that tells it.
    pub node: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// Which call an event is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallName {
    /// The CDR's id.
    pub call_id: String,
    /// User, else the From URI's user part.
    pub caller: String,
    /// User, else what was dialled.
    pub callee: String,
}

/// What happened. Consumers ignore types and fields that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
pub enum Happening {
    /// An INVITE was accepted.
    #[serde(rename = "call.created")]
    CallCreated(CallName),
    /// First 18x to the caller.
    #[serde(rename = "call.ringing")]
    CallRinging(CallName),
    /// First 200 to the caller.
    #[serde(rename = "call.answered")]
    CallAnswered {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Extension.
        answered_by: String,
        /// Since the INVITE.
        setup_ms: u64,
        /// Where its media is anchored.
        media_node: Option<String>,
    },
    /// A phone put the other on hold.
    #[serde(rename = "call.held")]
    CallHeld {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone.
        leg: u16,
        /// Caller or callee.
        role: LegRole,
    },
    /// It took the other back.
    #[serde(rename = "call.resumed")]
    CallResumed {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone.
        leg: u16,
        /// Caller or callee.
        role: LegRole,
    },
    /// An operator did something to it.
    #[serde(rename = "call.steered")]
    CallSteered {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// What.
        act: SteeringAct,
        /// To whose phone; null: both, or the call.
        role: Option<LegRole>,
    },
    /// A phone of it has left, and another came, as an operator wished.
    #[serde(rename = "call.transferred")]
    CallTransferred {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone left.
        role: LegRole,
        /// Who came.
        to: String,
    },
    /// A transfer came to nothing: the call goes on as it was.
    #[serde(rename = "call.transfer_failed")]
    CallTransferFailed {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone was to leave.
        role: LegRole,
        /// Who was called.
        to: String,
        /// What that came to.
        sip_status: u16,
    },
    /// Another node carries it on.
    #[serde(rename = "call.adopted")]
    CallAdopted {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// As it was saved.
        state: CallState,
        /// Of the new owner.
        epoch: u64,
    },
    /// Its media is at another host: its phones are told.
    #[serde(rename = "call.reanchored")]
    CallReanchored {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Where it is now.
        media_node: String,
    },
    /// One phone is not heard while the other is, though it should send.
    #[serde(rename = "call.one_way")]
    CallOneWay {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone.
        leg: u16,
        /// Caller or callee.
        role: LegRole,
    },
    /// It is heard again.
    #[serde(rename = "call.two_way")]
    CallTwoWay {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose phone.
        leg: u16,
        /// Caller or callee.
        role: LegRole,
    },
    /// Neither phone is heard, though both should send.
    #[serde(rename = "call.silent")]
    CallSilent(CallName),
    /// One is heard again, or both need not be.
    #[serde(rename = "call.heard")]
    CallHeard(CallName),
    /// A 2xx was never acknowledged: usually the Contact we sent cannot be reached.
    #[serde(rename = "call.ack_missing")]
    CallAckMissing {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// Whose ACK.
        leg: u16,
        /// The Contact that we sent.
        contact: String,
    },
    /// The call is over.
    #[serde(rename = "call.ended")]
    CallEnded {
        /// Which.
        #[serde(flatten)]
        call: CallName,
        /// What became of it.
        disposition: Disposition,
        /// What ended it.
        end_cause: EndCause,
        /// Who ended it.
        ended_by: EndedBy,
        /// Final status to the caller.
        sip_status: u16,
        /// In words.
        reason: Option<String>,
        /// Since the INVITE.
        duration_ms: u64,
        /// Since the answer.
        billable_ms: u64,
    },
    /// A phone registered that was not.
    #[serde(rename = "registration.added")]
    RegistrationAdded {
        /// Whose.
        extension: String,
        /// Phones now.
        contacts: usize,
    },
    /// The last phone of a user is gone.
    #[serde(rename = "registration.removed")]
    RegistrationRemoved {
        /// Whose.
        extension: String,
    },
    /// Wrong credentials.
    #[serde(rename = "authentication.failed")]
    AuthenticationFailed {
        /// Digest user.
        username: String,
        /// From where.
        source: String,
    },
    /// A signaling node takes calls.
    #[serde(rename = "node.started")]
    NodeStarted,
    /// It takes no new ones.
    #[serde(rename = "node.draining")]
    NodeDraining,
    /// It takes calls again.
    #[serde(rename = "node.undrained")]
    NodeUndrained,
    /// A media node is linked to the node that tells it.
    #[serde(rename = "media.joined")]
    MediaJoined {
        /// Which.
        media_node: String,
    },
    /// It is not any more.
    #[serde(rename = "media.left")]
    MediaLeft {
        /// Which.
        media_node: String,
    },
}

impl CallName {
    /// Users go by their extension, others by the user part of their URI.
    pub fn new(call_id: String, caller: &PartyView, callee: &PartyView) -> Self {
        let name = |party: &PartyView| {
            let user = || party.uri.split_once(':')?.1.rsplit_once('@').map(|(user, _)| user);
            party.extension.as_deref().or_else(user).unwrap_or(&party.uri).to_owned()
        };
        Self { call_id, caller: name(caller), callee: name(callee) }
    }
}

impl EventView {
    /// The end of a call as its CDR tells it.
    pub fn call_ended(cdr: &Cdr) -> Self {
        let call = CallName::new(cdr.id.clone(), &cdr.caller, &cdr.callee);
        let what = Happening::CallEnded {
            call,
            disposition: cdr.disposition,
            end_cause: cdr.end_cause,
            ended_by: cdr.ended_by,
            sip_status: cdr.sip_status,
            reason: cdr.reason.clone(),
            duration_ms: cdr.duration_ms,
            billable_ms: cdr.billable_ms,
        };
        let node = cdr.owners.last().cloned().unwrap_or_default();
        Self { at: cdr.ended_at, node, what }
    }

    /// As it is written: JSON.
    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("events are plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn an_event_is_one_flat_object() {
        let call = CallName {
            call_id: "1".to_owned(),
            caller: "1001".to_owned(),
            callee: "1002".to_owned(),
        };
        let what = Happening::CallHeld { call, leg: 1, role: LegRole::Callee };
        let at = Rfc3339(Timestamp::from_millis(1_700_000_000_000));
        let event = EventView { at, node: "host-1".to_owned(), what };
        let expect = r#"{"at":"2023-11-14T22:13:20.000Z","node":"host-1","type":"call.held","call_id":"1","caller":"1001","callee":"1002","leg":1,"role":"callee"}"#;
        assert_eq!(event.document(), expect);
        assert_eq!(serde_json::from_str::<EventView>(expect).ok(), Some(event));
    }
}
