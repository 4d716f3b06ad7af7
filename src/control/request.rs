//! What signaling asks of a media node.

use super::reply::{LastSent, StreamStatistics};
use crate::ids::{Epoch, LegId, Rev, SessionId};
use crate::rtp::srtp::Keying;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// A request for one session. The frame around it carries the request id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireRequest", into = "WireRequest")]
pub enum Request {
    /// Make the session so. Answered by `Reply::Applied` or `Reply::Refused`.
    Apply(Apply),
    /// End it. Answered by `Reply::Released` with the last statistics; an unknown session is released too.
    Release(Release),
    /// `Apply`, to a node that may have to begin the session anew.
    Resume(Resume),
}

impl Request {
    /// Which session it is about.
    pub const fn session(&self) -> SessionId {
        match self {
            Self::Apply(apply) | Self::Resume(Resume { apply, .. }) => apply.session,
            Self::Release(release) => release.session,
        }
    }

    /// The wish, if it is one.
    pub const fn wish(&self) -> Option<&Apply> {
        match self {
            Self::Apply(apply) | Self::Resume(Resume { apply, .. }) => Some(apply),
            Self::Release(_) => None,
        }
    }
}

/// A wish with what the session's former process told of it last: streams that are begun anew go on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The wish.
    pub apply: Apply,
    /// Of streams that have been heard.
    pub carried: Vec<Carried>,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which leg.
    pub leg: LegId,
    /// Which stream of it.
    pub index: u8,
    /// Counters, latched address and SSRC.
    pub statistics: StreamStatistics,
    /// How far the stream to the phone was.
    pub sent: Option<LastSent>,
}

/// The whole wish for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// Which session.
    pub session: SessionId,
    /// Of the owner. A smaller one than the session has seen is refused.
    pub epoch: Epoch,
    /// Within the epoch. A smaller one is refused, an equal one answered with the present state.
    pub rev: Rev,
    /// The wish.
    pub spec: SessionSpec,
}

/// Ends a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which session.
    pub session: SessionId,
    /// Of the owner.
    pub epoch: Epoch,
    /// Greater than that of the last Apply.
    pub rev: Rev,
}

/// A session as it is wished. Legs that are not named any more are taken down and their ports rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// The call was answered. An unconfirmed session without owner ends after 60 s.
    pub confirmed: bool,
    /// An emergency call: admitted above capacity.
    pub emergency: bool,
    /// Ascending by id.
    pub legs: Vec<LegSpec>,
    /// Numbered acts; each is done once. Acts not named any more are forgotten.
    pub acts: Vec<Act>,
}

/// One leg of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegSpec {
    /// Which leg.
    pub leg: LegId,
    /// In the order of the leg's audio lines.
    pub streams: Vec<StreamSpec>,
}

/// One audio stream of a leg, seen from the media node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// Position among the leg's anchored streams.
    pub index: u8,
    /// Our RTP port (RTCP is the next one) once it is known: exactly this port, or a refusal. `None`: choose.
    pub port: Option<u16>,
    /// Whom the phone speaks from, as far as signaling knows: our address is the one the kernel uses to reach it
    /// (unless `HOLDFAST_MEDIA_ADVERTISE` says otherwise). Its family is the stream's family.
    pub peer: Option<IpAddr>,
    /// Where the phone listens; `None` before its SDP is known (ports are open, nothing is sent, what comes is
    /// latched).
    pub remote: Option<RemoteStream>,
    /// What we agreed with this phone; `None` before that.
    pub codec: Option<Codec>,
    /// RFC 4733, when the phone takes it.
    pub telephone_event: Option<TelephoneEvent>,
    /// Comfort noise (RFC 3389), payload type 13 both ways.
    pub comfort_noise: bool,
    /// Other payload types the phone may send and that pass unchanged to the stream it is heard on: (received, sent
    /// there).
    pub passed: Vec<(u8, u8)>,
    /// We send media to the phone (its direction allows receiving). When false only keep-alives leave (RFC 6263).
    pub to_phone: bool,
    /// We take media from the phone. When false what comes is counted and dropped.
    pub from_phone: bool,
    /// What the phone hears.
    pub hears: Hears,
    /// Report `ReportKind::Silence` when `from_phone` and no RTP for this long since the leg was confirmed; 0: never.
    pub rtp_timeout_ms: u32,
    /// `None`: plain RTP. On the wire it stands beside the spec.
    #[serde(skip)]
    pub srtp: Option<Srtp>,
}

/// SRTP with one phone (RFC 3711, RFC 4568). A direction whose key stays the same goes on; with a new key it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Srtp {
    /// We protect with it what goes to the phone.
    pub sent: Keying,
    /// It opens what comes from the phone.
    pub received: Keying,
    /// As it was told last by a node that had the stream before.
    pub roll_over: Option<RollOver>,
}

/// How often the sequence number of a phone's SSRC wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollOver {
    /// Of the phone.
    pub ssrc: u32,
    /// RFC 3711 §3.3.1: ROC.
    pub count: u32,
}

/// Where a phone listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStream {
    /// From c= and m=.
    pub rtp: SocketAddr,
    /// From a=rtcp, or the next port.
    pub rtcp: SocketAddr,
    /// Counts the phone's descriptions: a new one reopens the latch window.
    pub generation: u32,
}

/// A codec as agreed with one phone. Its payload types are its own for each direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    /// As in rtpmap; compared without case.
    pub encoding: String,
    /// As in rtpmap: G.722 says 8000.
    pub clock_rate_hz: u32,
    /// As in rtpmap; 1 when absent. Opus says 2.
    pub channels: u8,
    /// The phone's own parameters, for what we encode towards it.
    pub fmtp: Option<String>,
    /// What the phone expects to receive.
    pub payload_type_sent: u8,
    /// What it sends.
    pub payload_type_received: u8,
    /// Packet time towards the phone.
    pub ptime_ms: u16,
}

/// RFC 4733 events as agreed with one phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelephoneEvent {
    /// What the phone expects to receive.
    pub payload_type_sent: u8,
    /// What it sends.
    pub payload_type_received: u8,
    /// Follows the codec's clock: 8000, or 48000 beside Opus.
    pub clock_rate_hz: u32,
}

/// What a phone hears on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hears {
    /// Nothing is sent.
    Nothing,
    /// The same stream index of another leg of the session; transcoded when the codecs differ.
    Leg(LegId),
    /// Its own voice.
    Echo,
    /// A tone that the node makes.
    Tone(Tone),
}

/// Tones that the node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tone {
    /// 425 Hz, 1 s on, 4 s off.
    Ringback,
    /// 425 Hz, 500 ms on and off. Like those that follow since version 2.
    Busy,
    /// 425 Hz, 250 ms on and off.
    Congestion,
    /// 425 Hz without end.
    Dial,
    /// 1,000 Hz, 200 ms on, 4.8 s off: somebody waits.
    Beep,
}

/// Something done once in the life of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Sends telephone events to a leg.
    SendDigits {
        /// Its number in the session.
        number: u32,
        /// To whom.
        leg: LegId,
        /// `0-9*#A-D`.
        digits: String,
    },
}

/// A request as it is written. What version 1 does not know stands beside what it knows.
#[derive(Serialize, Deserialize)]
enum WireRequest {
    Apply(Apply),
    Release(Release),
    /// Since version 2: `Apply` and the SRTP of its streams.
    ApplySecured(Apply, Vec<Secured>),
    /// Since version 2: the same, and what is known of its streams.
    Resume(Apply, Vec<Secured>, Vec<Carried>),
}

type Secured = (LegId, u8, Srtp);

impl Request {
    /// The first version that has it.
    pub fn since(&self) -> u16 {
        match self {
            Self::Apply(apply) if apply.spec.is_secured() || apply.spec.has_new_tone() => 2,
            Self::Apply(_) | Self::Release(_) => 1,
            Self::Resume(_) => 2,
        }
    }
}

impl SessionSpec {
    /// Some stream has SRTP.
    fn is_secured(&self) -> bool {
        let mut streams = self.legs.iter().flat_map(|leg| &leg.streams);
        streams.any(|stream| stream.srtp.is_some())
    }

    /// Some phone hears a tone that version 1 does not know.
    fn has_new_tone(&self) -> bool {
        let mut streams = self.legs.iter().flat_map(|leg| &leg.streams);
        streams.any(|stream| match stream.hears {
            Hears::Tone(tone) => tone != Tone::Ringback,
            Hears::Nothing | Hears::Leg(_) | Hears::Echo => false,
        })
    }

    /// The SRTP of its streams.
    fn secured(&self) -> Vec<Secured> {
        let streams = self.legs.iter().flat_map(|leg| {
            leg.streams.iter().map(|stream| (leg.leg, stream.index, stream.srtp.clone()))
        });
        streams.filter_map(|(leg, index, srtp)| Some((leg, index, srtp?))).collect()
    }

    fn secure(&mut self, secured: Vec<Secured>) {
        for (leg, index, srtp) in secured {
            let mut legs = self.legs.iter_mut().filter(|spec| spec.leg == leg);
            let streams = legs.next().map(|leg| &mut leg.streams);
            let stream =
                streams.and_then(|streams| streams.iter_mut().find(|stream| stream.index == index));
            if let Some(stream) = stream {
                stream.srtp = Some(srtp);
            }
        }
    }
}

impl From<Request> for WireRequest {
    fn from(request: Request) -> Self {
        match request {
            Request::Release(release) => Self::Release(release),
            Request::Apply(apply) if apply.spec.is_secured() => {
                let secured = apply.spec.secured();
                Self::ApplySecured(apply, secured)
            }
            Request::Apply(apply) => Self::Apply(apply),
            Request::Resume(Resume { apply, carried }) => {
                let secured = apply.spec.secured();
                Self::Resume(apply, secured, carried)
            }
        }
    }
}

impl From<WireRequest> for Request {
    fn from(request: WireRequest) -> Self {
        match request {
            WireRequest::Apply(apply) => Self::Apply(apply),
            WireRequest::Release(release) => Self::Release(release),
            WireRequest::ApplySecured(mut apply, secured) => {
                apply.spec.secure(secured);
                Self::Apply(apply)
            }
            WireRequest::Resume(mut apply, secured, carried) => {
                apply.spec.secure(secured);
                Self::Resume(Resume { apply, carried })
            }
        }
    }
}
