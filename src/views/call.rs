//! Live calls in the API.

use super::Rfc3339;
use super::steer::{ToneName, TransferView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// State of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum CallState {
    Trying,
    Early,
    Confirmed,
    Terminating,
}

/// Direction of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum CallDirection {
    #[default]
    Internal,
    Inbound,
    Outbound,
}

/// Who holds whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum HoldState {
    None,
    Caller,
    Callee,
    Both,
}

/// Caller or callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LegRole {
    Caller,
    Callee,
}

/// What is not as it should be in a call. Records hold it: a new one stands last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallFlag {
    /// A 2xx to an INVITE was repeated and is not acknowledged.
    AckMissing,
    /// The phones have no codec in common: the media node decodes and encodes.
    CodecMismatch,
    /// 491 more than once: both sides change the session again and again.
    GlareLoop,
    /// 488 or 606, or a stream refused with port 0.
    MediaRejected,
    /// One phone is not heard, though it should send, while the other is.
    OneWayAudio,
    /// A phone at a public address names a private one for its sound.
    PrivateAddressInSdp,
    /// One message was said four times or more: a way loses what is sent on it. An INVITE to a phone that has said
    /// nothing does not count, for that phone is off.
    RetransmissionStorm,
    /// Neither phone is heard, though both should send.
    Silence,
}

impl CallFlag {
    /// Who had it has it for good: nothing that is said later mends it.
    pub const fn lasts(self) -> bool {
        match self {
            Self::GlareLoop
            | Self::MediaRejected
            | Self::PrivateAddressInSdp
            | Self::RetransmissionStorm => true,
            Self::AckMissing | Self::CodecMismatch | Self::OneWayAudio | Self::Silence => false,
        }
    }
}

/// One side of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartyView {
    /// User, when local.
    pub extension: Option<String>,
    /// From or To URI.
    pub uri: String,
    /// Name.
    pub display_name: Option<String>,
}

/// A live call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallView {
    /// The CDR's id.
    pub id: String,
    /// State.
    pub state: CallState,
    /// Direction.
    pub direction: CallDirection,
    /// Who calls.
    pub caller: PartyView,
    /// Who is called.
    pub callee: PartyView,
    /// As dialled.
    pub request_uri: String,
    /// INVITE accepted.
    pub created_at: Rfc3339,
    /// First 18x.
    pub ringing_at: Option<Rfc3339>,
    /// First 200 to the caller.
    pub answered_at: Option<Rfc3339>,
    /// Since created.
    pub duration_ms: u64,
    /// Owning node.
    pub owner: String,
    /// Of the owner.
    pub epoch: u64,
    /// Changes of owner.
    pub takeovers: u32,
    /// Who holds.
    pub hold: HoldState,
    /// Whose phone an operator holds.
    #[serde(default = "nobody")]
    pub parked: HoldState,
    /// A transfer that an operator began.
    #[serde(default)]
    pub transfer: Option<TransferView>,
    /// Whose phone is not heard, though it should send, while the other is.
    #[serde(default)]
    pub one_way: Option<LegRole>,
    /// Neither phone is heard, though both should send.
    #[serde(default)]
    pub silent: bool,
    /// What is not as it should be, as its owner saw it.
    #[serde(default)]
    pub flags: Vec<CallFlag>,
    /// Its media session.
    pub media: MediaView,
    /// Its legs.
    pub legs: Vec<LegView>,
}

/// What a node of an older release does not tell.
const fn nobody() -> HoldState {
    HoldState::None
}

/// A live call in few words: what a list of many needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallSummary {
    /// The CDR's id.
    pub id: String,
    /// State.
    pub state: CallState,
    /// Who calls.
    pub caller: PartyView,
    /// Who is called.
    pub callee: PartyView,
    /// INVITE accepted.
    pub created_at: Rfc3339,
    /// First 18x.
    pub ringing_at: Option<Rfc3339>,
    /// First 200 to the caller.
    pub answered_at: Option<Rfc3339>,
    /// Owning node.
    pub owner: String,
    /// Its media node.
    pub media_node: Option<String>,
    /// Changes of owner.
    pub takeovers: u32,
    /// Who holds.
    pub hold: HoldState,
    /// Whose phone an operator holds.
    pub parked: HoldState,
    /// Whose phone is not heard, though it should send, while the other is.
    pub one_way: Option<LegRole>,
    /// Neither phone is heard, though both should send.
    pub silent: bool,
}

impl From<CallView> for CallSummary {
    fn from(call: CallView) -> Self {
        Self {
            id: call.id,
            state: call.state,
            caller: call.caller,
            callee: call.callee,
            created_at: call.created_at,
            ringing_at: call.ringing_at,
            answered_at: call.answered_at,
            owner: call.owner,
            media_node: call.media.node,
            takeovers: call.takeovers,
            hold: call.hold,
            parked: call.parked,
            one_way: call.one_way,
            silent: call.silent,
        }
    }
}

/// The media session of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MediaView {
    /// Media node.
    pub node: Option<String>,
    /// Session.
    pub session_id: Option<String>,
    /// Audio is decoded and encoded again.
    pub transcoding: bool,
    /// Moves to another host.
    pub reanchors: u32,
    /// Audio came back after the last fault.
    pub resumed_at: Option<Rfc3339>,
}

/// A leg of a call: one dialog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names are RFC 3261's")]
pub struct LegView {
    pub id: u16,
    pub role: LegRole,
    pub state: String,
    pub extension: Option<String>,
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: Option<String>,
    pub local_uri: String,
    pub remote_uri: String,
    pub remote_target: String,
    pub route_set: Vec<String>,
    pub local_seq: u32,
    pub remote_seq: Option<u32>,
    pub transport: String,
    pub local: String,
    pub remote: String,
    pub node: String,
    pub user_agent: Option<String>,
    pub last_status: Option<u16>,
    pub held: bool,
    /// What an operator plays to it.
    #[serde(default)]
    pub playing: Option<ToneName>,
    pub streams: Vec<StreamView>,
}

/// An anchored stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names are RFC 3550's and 3264's")]
pub struct StreamView {
    pub index: u8,
    pub kind: String,
    pub codec: Option<String>,
    pub clock_rate_hz: Option<u32>,
    pub payload_type_sent: Option<u8>,
    pub payload_type_received: Option<u8>,
    pub telephone_event_payload_type: Option<u8>,
    pub ptime_ms: Option<u16>,
    pub direction: Option<String>,
    pub srtp: String,
    pub local: Option<String>,
    pub remote_signalled: Option<String>,
    pub remote_latched: Option<String>,
    pub received: ReceivedView,
    pub sent: SentView,
    pub reported: ReportedView,
    pub mos: Option<f64>,
}

/// What we got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names are RFC 3550's")]
pub struct ReceivedView {
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub jitter_ms: f64,
    pub ssrc: Option<u32>,
    pub last_packet_at: Option<Rfc3339>,
    pub rejected: u64,
    #[serde(default)]
    pub bursts: Option<BurstsView>,
}

/// Lost packets as they fall into bursts and gaps (RFC 3611 §4.7.2): a burst begins and ends with a lost packet, and
/// has nowhere 16 between them that came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BurstsView {
    /// How many bursts.
    pub count: u32,
    /// Of the packets in bursts, so many were lost (burst density).
    pub burst_lost_percent: f64,
    /// Of a burst, in the mean (burst duration).
    pub burst_ms: u64,
    /// Of the packets between bursts, so many were lost (gap density).
    pub gap_lost_percent: f64,
    /// Of the time between bursts, in the mean (gap duration).
    pub gap_ms: u64,
}

/// What we sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names are RFC 3550's")]
pub struct SentView {
    pub packets: u64,
    pub bytes: u64,
    pub ssrc: Option<u32>,
}

/// What the phone says of what it got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names are RFC 3550's")]
pub struct ReportedView {
    pub lost: Option<u32>,
    pub jitter_ms: Option<f64>,
    pub rtt_ms: Option<f64>,
}
