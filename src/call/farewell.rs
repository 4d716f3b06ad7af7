//! The end of a call that nobody can carry on, by its record or its machine: only what its addresses allow (design §4
//! "Poison").
//!
//! Invariant: of the record no more is read than parties, times and legs; whatever is behind them may be anything.

use super::cdr::{Story, cdr_leg};
use super::headers::{describe_request, describe_response};
use super::leg::{Leg, LegState};
use super::record::{CallRecord, End, Party, Phase};
use super::refresh::open_invite;
use super::send::via;
use super::{Settings, Transmit};
use crate::ids::{CallId, ClusterKey, Epoch, Flow, Locator, Rev};
use crate::sip::transaction::cancel_for;
use crate::sip::{HeaderName, Method, Request, Response, Status};
use crate::time::Timestamp;
use crate::views::{Cdr, Disposition, EndCause, EndedBy};
use bytes::Bytes;
use serde::Deserialize;

/// Numbers of ours that the phone may have seen and the record does not know of: they are passed over.
const PASSED_OVER: u32 = 100;
/// What phones are told (RFC 3326): a temporary failure.
const REASON: &str = "Q.850;cause=41;text=\"the call cannot be carried on\"";

/// What is to be done.
#[derive(Debug)]
pub struct Farewell {
    /// BYE to a phone that talks, CANCEL to one that rings, 500 to a caller that waits.
    pub transmits: Vec<Transmit>,
    /// The call's record for people.
    pub cdr: Cdr,
}

/// The beginning of every record, of whatever version.
#[derive(Deserialize)]
struct Head {
    _id: CallId,
    _key: [u8; 16],
    _epoch: Epoch,
    _rev: Rev,
    _phase: Phase,
    caller: Party,
    callee: Party,
    request_uri: String,
    _emergency: bool,
    created_at: Timestamp,
    ringing_at: Option<Timestamp>,
    answered_at: Option<Timestamp>,
    _ring_deadline: Timestamp,
    legs: Vec<Leg>,
}

impl Head {
    fn read(record: &[u8], key: &ClusterKey) -> Option<Self> {
        let fields = CallRecord::fields(record, key)?;
        postcard::take_from_bytes(&fields).ok().map(|(head, _)| head)
    }

    /// Of a record that says nothing.
    fn unknown(now: Timestamp) -> Self {
        Self {
            _id: CallId(0),
            _key: [0; 16],
            _epoch: Epoch(0),
            _rev: Rev(0),
            _phase: Phase::Ended,
            caller: Party::default(),
            callee: Party::default(),
            request_uri: String::new(),
            _emergency: false,
            created_at: now,
            ringing_at: None,
            answered_at: None,
            _ring_deadline: now,
            legs: Vec::new(),
        }
    }
}

/// Takes leave of every phone that the record names; `why` stands in the CDR. A record that cannot be read at all
/// leaves a CDR without names.
pub fn farewell(
    settings: &Settings,
    (id, epoch): (CallId, Epoch),
    record: &[u8],
    now: Timestamp,
    why: &str,
) -> Farewell {
    let mut head = Head::read(record, &settings.key).unwrap_or_else(|| Head::unknown(now));
    let legs = head.legs.iter_mut().filter(|leg| leg.is_live());
    let transmits = legs.filter_map(|leg| part_from(settings, id, leg)).collect();
    for leg in &mut head.legs {
        leg.ended_at.get_or_insert(now);
    }
    Farewell { transmits, cdr: cdr(settings, (id, epoch), &head, now, why) }
}

/// A phone rings, as this response to our INVITE says, for a call that is over: who was to cancel it died. Made of the
/// response alone; a phone finds its INVITE by our branch (RFC 3261 §9.2). `None`: it does not ring.
pub fn cancel_unknown(settings: &Settings, response: &Response, flow: &Flow) -> Option<Bytes> {
    let (cseq, to) = (response.cseq()?, response.to()?);
    let rings = response.status.is_provisional() && response.status != Status(100);
    if !rings || cseq.method != Method::Invite {
        return None;
    }
    let (locator, number) = settings.key.locate_branch(response.top_via()?.branch()?)?;
    let target = response.contact().map_or_else(|| to.uri.clone(), |contact| contact.uri);
    let mut cancel = Request::new(Method::Cancel, target);
    let fields = &mut cancel.headers;
    fields.push(HeaderName::Via, via(settings, flow, locator, number));
    fields.push(HeaderName::MaxForwards, "70");
    fields.push(HeaderName::From, response.headers.get(&HeaderName::From)?);
    fields.push(HeaderName::To, format!("<{}>", to.uri.as_str()));
    fields.push(HeaderName::CallId, response.call_id()?);
    fields.push(HeaderName::CSeq, format!("{} CANCEL", cseq.number));
    describe_request(&mut cancel, &settings.product);
    Some(cancel.to_bytes())
}

fn part_from(settings: &Settings, call: CallId, leg: &mut Leg) -> Option<Transmit> {
    let invite = open_invite(leg);
    let (flow, bytes) = match (leg.state, invite) {
        (LegState::Confirmed, _) => (leg.flow, bye(settings, call, leg)),
        (_, Some(invite)) if invite.from()?.tag()? == leg.dialog.local_tag => {
            let mut cancel = cancel_for(&invite);
            cancel.headers.push(HeaderName::Reason, REASON);
            describe_request(&mut cancel, &settings.product);
            (leg.flow, cancel.to_bytes())
        }
        (_, Some(invite)) => {
            (crate::sip::address::reply_flow(&invite, &leg.flow), refusal(settings, leg, &invite))
        }
        (_, None) => return None,
    };
    Some(Transmit { flow, bytes, leg: leg.id, behind: None, request: None })
}

fn bye(settings: &Settings, call: CallId, leg: &mut Leg) -> Bytes {
    leg.dialog.local_seq = leg.dialog.local_seq.saturating_add(PASSED_OVER);
    let mut bye = leg.dialog.request(Method::Bye);
    let locator = Locator { call, leg: leg.id, node: settings.node_number };
    let number = leg.branches.saturating_add(PASSED_OVER);
    bye.headers.push_front(HeaderName::Via, via(settings, &leg.flow, locator, number));
    bye.headers.push(HeaderName::Reason, REASON);
    describe_request(&mut bye, &settings.product);
    bye.to_bytes()
}

fn refusal(settings: &Settings, leg: &Leg, invite: &Request) -> Bytes {
    let mut response = invite.response(Status(500), Some(&leg.dialog.local_tag));
    response.headers.push(HeaderName::Reason, REASON);
    describe_response(&mut response, &settings.product);
    response.to_bytes()
}

fn cdr(
    settings: &Settings,
    (id, epoch): (CallId, Epoch),
    head: &Head,
    now: Timestamp,
    why: &str,
) -> Cdr {
    let answered = head.answered_at.is_some();
    let story = Story {
        id,
        epoch,
        caller: &head.caller,
        callee: &head.callee,
        request_uri: &head.request_uri,
        created_at: head.created_at,
        ringing_at: head.ringing_at,
        answered_at: head.answered_at,
        legs: head.legs.iter().map(cdr_leg).collect(),
        owners: core::slice::from_ref(&settings.node),
        media_nodes: &[],
        reanchors: 0,
        transfers: Vec::new(),
        flags: Vec::new(),
    };
    story.cdr(End {
        at: now,
        by: EndedBy::System,
        cause: EndCause::Quarantined,
        disposition: if answered { Disposition::Answered } else { Disposition::Failed },
        status: if answered { 200 } else { 500 },
        q850: Some(41),
        reason: Some(why.to_owned()),
    })
}
