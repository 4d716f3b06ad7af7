//! What of a call is stored: everything a node needs to carry it on. Fields, not messages; timers are stored times.
//!
//! Invariants: nothing outside this file's types survives the process. A record begins with its version. Fields are
//! never changed nor removed: those that a version adds stand behind those of the version before, in a struct of
//! their own (`Added2`). So a release writes any version up to its own, whichever the oldest live node reads, and
//! reads all of them; of a record of the next release it reads what it knows.

use super::anchor::Anchor;
use super::leg::{Leg, LegState};
use super::sealed::unseal;
use super::sound::Summary;
use crate::control::StreamStatistics;
use crate::encoding::append;
use crate::ids::{CallId, ClusterKey, Epoch, LegId, NodeName, Rev};
use crate::rtp::srtp::{Keying, Seed};
use crate::sdp::Description;
use crate::time::Timestamp;
use crate::views::call::LegRole;
use crate::views::steer::ToneName;
use crate::views::{CallFlag, CallState, Disposition, EndCause, EndedBy};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Greatest version of records that this release writes.
pub const VERSION: u16 = 6;
/// The first one.
const FIRST: u16 = 1;
/// Flag of a version: what follows is sealed (`super::sealed`). Since version 2.
const SEALED: u16 = 1 << 15;

/// One call, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CallRecord {
    pub id: CallId,
    pub key: [u8; 16],
    pub epoch: Epoch,
    pub rev: Rev,
    pub phase: Phase,
    pub caller: Party,
    pub callee: Party,
    pub request_uri: String,
    pub emergency: bool,
    pub created_at: Timestamp,
    pub ringing_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
    pub ring_deadline: Timestamp,
    pub legs: Vec<Leg>,
    pub bridge: Bridge,
    /// The caller's first offer, until the call is answered; `None` when it offered nothing (late offer).
    pub offer: Option<Description>,
    /// Header fields of the first INVITE that pass to callees (name, value).
    pub passed: Vec<(String, String)>,
    pub max_forwards: u8,
    /// The caller asked for `Privacy: id` (RFC 3325 §7).
    pub private: bool,
    pub media: MediaRecord,
    pub owners: Vec<NodeName>,
    pub end: Option<End>,
    #[serde(skip)]
    pub added_2: Added2,
    #[serde(skip)]
    pub added_3: Added3,
    #[serde(skip)]
    pub added_4: Added4,
    #[serde(skip)]
    pub added_5: Added5,
    /// Keys of legs are derived from it. Sealed records have it.
    #[serde(skip)]
    pub seed: Seed,
}

/// Fields since version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added2 {
    /// Last 18x sent to the caller.
    pub last_provisional: Option<u16>,
}

/// Fields since version 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added3 {
    /// A move of the media session to another host that not all phones know of yet.
    pub anchor: Option<Anchor>,
    /// How often it moved so.
    pub reanchors: u32,
    /// When the last move was done.
    pub resumed_at: Option<Timestamp>,
}

/// Fields since version 4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added4 {
    /// An operator began the call: its caller is called too.
    pub origin: Option<Origin>,
}

/// Fields since version 5: what operators did to the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added5 {
    /// Legs that are held.
    pub parked: Vec<LegId>,
    /// Legs whose phones are to be told of a hold, or of its end.
    pub untold: Vec<LegId>,
    /// Digits on their way to phones.
    pub dialling: Vec<Dialling>,
    /// Acts of the media node that were asked for.
    pub acts: u32,
    /// Where the media session is to go.
    pub wanted_media: Option<NodeName>,
    pub transfer: Option<Transfer>,
    /// Those that are over.
    pub transfers: Vec<Transferred>,
    /// The leg that has the caller's place since it was transferred.
    pub caller: Option<LegId>,
    /// What phones hear in place of each other.
    pub playing: Vec<Playing>,
    /// Our keys at the media node that `Added3::anchor` names, stream by stream.
    pub former_keys: Vec<(LegId, Vec<Option<Keying>>)>,
    /// What was not as it should be, at any time.
    pub flags: BTreeSet<CallFlag>,
    /// How each phone was heard.
    pub sound: Vec<(LegId, Summary)>,
}

/// What is kept since version 6 of each leg that was heard: the last words of the media node, stream by stream, as they
/// were when something else was to be saved. Legs have them in memory.
type Statistics<S> = Vec<(LegId, S)>;

/// A tone that an operator plays to a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Playing {
    pub leg: LegId,
    pub tone: ToneName,
    pub until: Option<Timestamp>,
}

/// Digits that an operator sends to a phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dialling {
    /// Of the media node's act.
    pub number: u32,
    pub leg: LegId,
    pub digits: String,
}

/// A transfer under way: branches ring while the call goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    /// Who leaves.
    pub leaves: LegId,
    /// Who is called.
    pub to: String,
    pub deadline: Timestamp,
}

/// A transfer that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transferred {
    pub at: Timestamp,
    pub role: LegRole,
    pub from: Option<String>,
    pub to: String,
    pub status: u16,
}

/// A call that no phone began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// URI that the caller is connected with.
    pub target: String,
    /// The caller's phone that answered; none: they ring.
    pub caller: Option<LegId>,
    /// The caller's phones are asked to answer by themselves.
    pub auto_answer: bool,
}

/// Where a call is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// The dial plan was asked, or ports were.
    Routing,
    /// Branches were invited.
    Ringing,
    /// This leg answered; the media node is making it so, or (late offer) the caller's answer is awaited.
    Answering(LegId),
    /// A 2xx went to the caller.
    Confirmed,
    /// Decided; legs are being told.
    Ended,
}

impl Phase {
    pub fn view(self) -> CallState {
        match self {
            Self::Routing => CallState::Trying,
            Self::Ringing | Self::Answering(_) => CallState::Early,
            Self::Confirmed => CallState::Confirmed,
            Self::Ended => CallState::Terminating,
        }
    }
}

/// Who hears whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bridge {
    /// Nobody yet.
    Nothing,
    /// The caller and this leg, early or answered.
    Leg(LegId),
    /// The caller and itself.
    Echo,
    /// The branch whose early media the caller heard is gone: ringback until another answers.
    Ringback,
}

/// Caller or callee as people know them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Party {
    pub extension: Option<String>,
    pub display_name: String,
    pub uri: String,
}

/// The media session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MediaRecord {
    /// Nodes that had it, the present one last.
    pub nodes: Vec<NodeName>,
    /// Of the last request.
    pub rev: Rev,
    /// The session was asked for and not released.
    pub open: bool,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub at: Timestamp,
    pub by: EndedBy,
    pub cause: EndCause,
    pub disposition: Disposition,
    /// Final status to the caller.
    pub status: u16,
    pub q850: Option<u16>,
    pub reason: Option<String>,
}

/// Bytes of most records.
const ROOM: usize = 4_096;

const PLAIN: &str = "records hold nothing that postcard refuses";

/// The same record as an older release reads it; what cannot be read or is sealed stays as it is.
pub fn in_version(record: &[u8], version: u16) -> Vec<u8> {
    let plain = record
        .split_first_chunk::<2>()
        .and_then(|(version, body)| CallRecord::read(body, u16::from_be_bytes(*version)));
    plain.map_or_else(|| record.to_vec(), |record| record.encode_plain(version))
}

/// Numbers that phones may have seen and an old record does not know of: more than a call uses in the lag of a replica.
const PASSED_OVER: u32 = 100;

/// The same record, for a store that went back in time: the next CSeq and SDP version of ours are greater than any that
/// its phones saw. What is in flight keeps its number, and an SDP that its phone may know its version.
pub fn passing_over(record: &[u8], key: &ClusterKey) -> Vec<u8> {
    let Some(mut call) = CallRecord::decode(record, key) else { return record.to_vec() };
    for leg in &mut call.legs {
        leg.dialog.local_seq = leg.dialog.local_seq.saturating_add(PASSED_OVER);
        if leg.state == LegState::Confirmed && leg.open_invite.is_none() {
            leg.description.pass_over(PASSED_OVER.into());
        }
    }
    call.encode(VERSION, key)
}

impl CallRecord {
    /// Version (two bytes, big endian), then postcard: the fields of version 1, then what each later one added. A phone
    /// that was not told yet of our address is stored with the one it knows. Sealed when there may be keys; then no
    /// release reads it that knows no SRTP.
    pub fn encode(&self, version: u16, key: &ClusterKey) -> Vec<u8> {
        if self.is_secret() {
            let version = version.clamp(2, VERSION);
            let number = (version | SEALED).to_be_bytes();
            let body = self.seal(|secrets| self.extend(secrets, version), key, &number);
            return [&number[..], &body].concat();
        }
        self.encode_plain(version)
    }

    fn encode_plain(&self, version: u16) -> Vec<u8> {
        let version = version.clamp(FIRST, VERSION);
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.extend(version.to_be_bytes());
        self.extend(bytes, version)
    }

    fn extend(&self, bytes: Vec<u8>, version: u16) -> Vec<u8> {
        let mut bytes = match self.legs.iter().any(|leg| leg.stale.is_some()) {
            false => append(bytes, self),
            true => append(bytes, &self.as_phones_know_it()),
        }
        .expect(PLAIN);
        if version >= 2 {
            bytes = append(bytes, &self.added_2).expect(PLAIN);
        }
        if version >= 3 {
            bytes = append(bytes, &self.added_3).expect(PLAIN);
        }
        if version >= 4 {
            bytes = append(bytes, &self.added_4).expect(PLAIN);
        }
        if version >= 5 {
            bytes = append(bytes, &self.added_5).expect(PLAIN);
        }
        if version >= 6 {
            bytes = append(bytes, &self.statistics()).expect(PLAIN);
        }
        bytes
    }

    fn statistics(&self) -> Statistics<&[StreamStatistics]> {
        let heard = |stream: &StreamStatistics| stream.packets_received + stream.packets_sent > 0;
        let legs = self.legs.iter().filter(|leg| leg.statistics.iter().any(heard));
        legs.map(|leg| (leg.id, leg.statistics.as_slice())).collect()
    }

    fn as_phones_know_it(&self) -> Self {
        let mut known = self.clone();
        for leg in &mut known.legs {
            leg.flow.local = leg.stale.map_or(leg.flow.local, |stale| stale.known);
        }
        known
    }

    /// `None` for a version that this release does not read, for bytes that are no record, and for those sealed with
    /// another key.
    pub fn decode(bytes: &[u8], key: &ClusterKey) -> Option<Self> {
        let (version, body) = bytes.split_first_chunk::<2>()?;
        let number = u16::from_be_bytes(*version);
        if number & SEALED == 0 {
            return Self::read(body, number);
        }
        let (secrets, fields) = unseal(body, key, version)?;
        let mut record = Self::read(&fields, number & !SEALED)?;
        record.take_secrets(secrets);
        Some(record)
    }

    /// The bytes of the fields, for who reads no more than their beginning.
    pub fn fields<'a>(bytes: &'a [u8], key: &ClusterKey) -> Option<Cow<'a, [u8]>> {
        let (version, body) = bytes.split_first_chunk::<2>()?;
        if u16::from_be_bytes(*version) & SEALED == 0 {
            return Some(Cow::Borrowed(body));
        }
        unseal(body, key, version).map(|(_, fields)| Cow::Owned(fields))
    }

    fn read(body: &[u8], version: u16) -> Option<Self> {
        (FIRST..=VERSION + 1).contains(&version).then_some(())?;
        let (mut record, rest) = postcard::take_from_bytes::<Self>(body).ok()?;
        let mut rest = rest;
        if version >= 2 {
            (record.added_2, rest) = postcard::take_from_bytes(rest).ok()?;
        }
        if version >= 3 {
            (record.added_3, rest) = postcard::take_from_bytes(rest).ok()?;
        }
        if version >= 4 {
            (record.added_4, rest) = postcard::take_from_bytes(rest).ok()?;
        }
        if version >= 5 {
            (record.added_5, rest) = postcard::take_from_bytes(rest).ok()?;
        }
        if version >= 6 {
            let (heard, _): (Statistics<_>, _) = postcard::take_from_bytes(rest).ok()?;
            for (leg, statistics) in heard {
                record.leg_mut(leg)?.statistics = statistics;
            }
        }
        Some(record)
    }

    pub fn leg(&self, id: LegId) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.id == id)
    }

    pub fn leg_mut(&mut self, id: LegId) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.id == id)
    }

    /// The leg of who calls: it sent the first INVITE, is the phone of a called caller that answered, or has the place
    /// of either since a transfer. There is none of that id while a called caller's phones ring.
    pub fn caller_leg(&self) -> LegId {
        let called = self.added_4.origin.as_ref().and_then(|origin| origin.caller);
        self.added_5.caller.or(called).unwrap_or(LegId::CALLER)
    }

    /// The other side of a leg in an answered call.
    pub fn peer_of(&self, id: LegId) -> Option<LegId> {
        match self.bridge {
            Bridge::Leg(callee) if id == self.caller_leg() => Some(callee),
            Bridge::Leg(callee) if id == callee => Some(self.caller_leg()),
            Bridge::Leg(_) | Bridge::Nothing | Bridge::Echo | Bridge::Ringback => None,
        }
    }
}
