//! Offer and answer across a B2BUA: what one phone said becomes what the other is told (RFC 3264, RFC 6337).
//!
//! A stream of the session is one anchored audio line on each leg, matched by `index`. Lines that are not anchored
//! (video, T.38, more than `limits::STREAMS_PER_LEG` audio lines, port 0) keep their place on the leg that offered them
//! and are answered with port 0.
//!
//! Invariants: on a leg m= lines never vanish or change places; a payload type never changes its meaning for the
//! life of the leg's dialog; the o= version rises by one exactly when our SDP differs from the last one sent.

use super::leg_description::{LegDescription, Line, OwnLine, OwnStream};
use super::payload_types;
use super::{Crypto, Description, Direction, Format, MediaDescription, StreamKeys};
use crate::control;
use crate::limits;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// Codecs a leg may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The user's list of SDP names, in order of preference; empty: all.
    pub codecs: Vec<String>,
}

/// What both phones agreed on, stream by stream. The default agrees on nothing: an answer made of it refuses every
/// line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// By stream index.
    pub streams: Vec<StreamAgreement>,
}

/// One stream as agreed on both legs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAgreement {
    /// Which.
    pub index: u8,
    /// Towards who offered.
    pub offerer: StreamSide,
    /// Towards who answered.
    pub answerer: StreamSide,
}

/// One side of an agreed stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSide {
    /// Codec with this phone's payload types; `None`: the stream is refused.
    pub codec: Option<control::Codec>,
    /// Events with this phone.
    pub telephone_event: Option<control::TelephoneEvent>,
    /// CN with this phone.
    pub comfort_noise: bool,
    /// As the *phone* said (its last description).
    pub direction: Direction,
    /// Where it listens.
    pub rtp: Option<SocketAddr>,
    /// Its RTCP.
    pub rtcp: Option<SocketAddr>,
    /// SRTP with this phone. Records keep it apart, sealed.
    #[serde(skip)]
    pub keys: Option<StreamKeys>,
}

/// Why no agreement: 488 with a Warning (RFC 3261 §20.43, 304/305).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// No audio line, or none that we can anchor.
    #[error("no audio stream offered")]
    NoAudio,
    /// No codec in common, and none that can be transcoded.
    #[error("no codec in common")]
    NoCodec,
    /// The user must have SRTP, or the line says that there is nothing else, and no way of it can be used.
    #[error("no SRTP that can be used")]
    NoSrtp,
    /// RTP/SAVP, and the user's SRTP is off.
    #[error("SRTP is off for this user")]
    SrtpOff,
}

/// Codecs that the media node can decode and encode: `PCMU PCMA opus` (`G722` when built).
pub const TRANSCODABLE: [&str; 3] = ["opus", "PCMU", "PCMA"];

/// Protocols of lines that are anchored.
const PROTOCOLS: [&str; 4] = ["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"];

/// Stream index of each media line: the audio lines that we can anchor, in order, port 0 or not, so that an index
/// stays with its line over re-offers.
pub(super) fn stream_indexes(description: &Description) -> Vec<Option<u8>> {
    let mut next = 0_u8;
    let lines = description.media.iter().map(|media| {
        let anchored = media.kind.eq_ignore_ascii_case("audio")
            && PROTOCOLS.iter().any(|name| media.protocol.eq_ignore_ascii_case(name))
            && usize::from(next) < limits::STREAMS_PER_LEG;
        anchored.then(|| {
            next += 1;
            next - 1
        })
    });
    lines.collect()
}

fn line_of(description: &Description, index: u8) -> Option<&MediaDescription> {
    let at = stream_indexes(description).iter().position(|known| *known == Some(index))?;
    description.media.get(at).filter(|media| media.port != 0)
}

/// How many audio streams an offer needs ports for (0: there is nothing to anchor).
pub fn anchored_streams(offer: &Description) -> u8 {
    let indexes = stream_indexes(offer).into_iter().zip(&offer.media);
    let used = indexes.filter(|(_, media)| media.port != 0).filter_map(|(index, _)| index);
    used.max().map_or(0, |index| index + 1)
}

/// An offer of a phone as its user may make it: audio lines that SRTP speaks against are refused (port 0).
pub fn screened(mut offer: Description, leg: &LegDescription) -> Result<Description, Disagreement> {
    let indexes = stream_indexes(&offer);
    let mut refusal = Disagreement::NoAudio;
    for (media, index) in offer.media.iter_mut().zip(indexes) {
        if index.is_some()
            && media.port != 0
            && let Err(why) = leg.security.offered(media)
        {
            media.port = 0;
            refusal = why;
        }
    }
    if anchored_streams(&offer) == 0 { Err(refusal) } else { Ok(offer) }
}

impl Policy {
    fn allows(&self, format: &Format) -> bool {
        self.codecs.is_empty()
            || self.codecs.iter().any(|name| name.eq_ignore_ascii_case(&format.encoding))
    }
}

fn is_voice(format: &Format) -> bool {
    !format.is_telephone_event() && !format.is_comfort_noise()
}

/// The media node can decode and encode it.
pub fn is_transcodable(encoding: &str) -> bool {
    TRANSCODABLE.iter().any(|name| encoding.eq_ignore_ascii_case(name))
}

/// The formats of an offer of ours made from one of theirs, payload types still theirs.
fn relayed_formats(media: &MediaDescription, theirs: &Policy, policy: &Policy) -> Vec<Format> {
    let voice = |format: &&Format| is_voice(format) && theirs.allows(format);
    let offered: Vec<&Format> = media.formats.iter().filter(voice).collect();
    let mut formats: Vec<Format> =
        offered.iter().filter(|format| policy.allows(format)).map(|f| (*f).clone()).collect();
    if offered.iter().any(|format| is_transcodable(&format.encoding)) {
        for format in payload_types::own_codecs().into_iter().filter(|f| policy.allows(f)) {
            if !formats.iter().any(|known| known.same_codec(&format)) {
                formats.push(format);
            }
        }
    }
    if formats.is_empty() {
        return formats;
    }
    if let Some(event) = media.formats.iter().find(|format| format.is_telephone_event()) {
        let wide = formats.iter().any(|format| format.clock_rate_hz == 48_000);
        let narrow = formats.iter().any(|format| format.clock_rate_hz != 48_000);
        for (wanted, clock) in [(narrow, 8_000), (wide, 48_000)] {
            let known = media
                .formats
                .iter()
                .find(|format| format.is_telephone_event() && format.clock_rate_hz == clock);
            let format = known.unwrap_or(event);
            if wanted {
                formats.push(Format { clock_rate_hz: clock, ..format.clone() });
            }
        }
    }
    formats.extend(media.formats.iter().find(|format| format.is_comfort_noise()).cloned());
    formats
}

/// The offer for `to`, made from the other phone's `offer`: its codecs in its order with rtpmap and fmtp kept, as far
/// as
/// both users' lists allow, then those we can transcode to; telephone-event in the clocks needed; CN. `local`: our
/// address per stream. `to` remembers what was sent.
pub fn relay_offer(
    offer: &Description,
    offerer_policy: &Policy,
    to: &mut LegDescription,
    policy: &Policy,
    local: &[SocketAddr],
) -> Result<String, Disagreement> {
    let streams = anchored_streams(offer);
    if streams == 0 {
        return Err(Disagreement::NoAudio);
    }
    let mut ours = to.ours.clone();
    let mut lines = to.lines.clone();
    for index in 0..streams {
        if !lines.iter().any(|line| line.stream == Some(index)) {
            lines.push(Line {
                stream: Some(index),
                kind: "audio".to_owned(),
                protocol: to.security.protocol().to_owned(),
                raw_formats: "0".to_owned(),
            });
        }
    }
    let mut own = Vec::new();
    for line in &lines {
        let media = line.stream.and_then(|index| line_of(offer, index));
        let active = media.map(|media| {
            let mut formats = relayed_formats(media, offerer_policy, policy);
            for format in &mut formats {
                format.payload_type = payload_types::assign(&mut ours, format);
            }
            OwnStream {
                formats,
                direction: media.direction,
                ptime_ms: media.ptime_ms,
                maxptime_ms: media.maxptime_ms,
                crypto: own_keys(to, line),
            }
        });
        own.push(OwnLine {
            line: line.clone(),
            active: active.filter(|stream| !stream.formats.is_empty()),
        });
    }
    if own.iter().all(|line| line.active.is_none()) {
        return Err(Disagreement::NoCodec);
    }
    (to.ours, to.lines) = (ours, lines);
    Ok(to.settle(&own, local))
}

/// Our ways to protect the stream of a line that we offer.
fn own_keys(to: &LegDescription, line: &Line) -> Vec<Crypto> {
    line.stream.map(|index| to.security.offer(index, to.generation)).unwrap_or_default()
}

/// The media node has a codec that this user may have.
pub fn can_offer(policy: &Policy) -> bool {
    payload_types::own_codecs().iter().any(|format| policy.allows(format))
}

/// An offer of our own: all that this leg may use, one stream.
pub fn own_offer(
    to: &mut LegDescription,
    policy: &Policy,
    direction: Direction,
    local: &[SocketAddr],
) -> String {
    let mut formats: Vec<Format> = payload_types::own_codecs();
    formats.retain(|format| policy.allows(format));
    formats.extend(payload_types::own_events());
    for format in &mut formats {
        format.payload_type = payload_types::assign(&mut to.ours, format);
    }
    if to.lines.is_empty() {
        to.lines.push(Line {
            stream: Some(0),
            kind: "audio".to_owned(),
            protocol: to.security.protocol().to_owned(),
            raw_formats: "0".to_owned(),
        });
    }
    let stream = |line: &Line| OwnStream {
        formats: formats.clone(),
        direction,
        ptime_ms: None,
        maxptime_ms: None,
        crypto: own_keys(to, line),
    };
    let own: Vec<OwnLine> = to
        .lines
        .iter()
        .map(|line| OwnLine {
            line: line.clone(),
            active: (line.stream == Some(0)).then(|| stream(line)),
        })
        .collect();
    to.settle(&own, local)
}

/// One phone's side of a stream, once its format is chosen.
fn side(
    media: &MediaDescription,
    format: &Format,
    leg: &LegDescription,
    keys: Option<StreamKeys>,
    (with_events, with_noise): (bool, bool),
) -> StreamSide {
    let received = |format: &Format| payload_types::choose(&leg.ours, format);
    let clock = if format.clock_rate_hz == 48_000 { 48_000 } else { 8_000 };
    let mut events = media.formats.iter().filter(|format| format.is_telephone_event());
    let event = events
        .clone()
        .find(|event| event.clock_rate_hz == clock)
        .or_else(|| events.next())
        .filter(|_| with_events);
    StreamSide {
        codec: Some(control::Codec {
            encoding: format.encoding.clone(),
            clock_rate_hz: format.clock_rate_hz,
            channels: format.channels,
            fmtp: format.fmtp.clone(),
            payload_type_sent: format.payload_type,
            payload_type_received: received(format),
            ptime_ms: packet_time(media),
        }),
        telephone_event: event.map(|event| control::TelephoneEvent {
            payload_type_sent: event.payload_type,
            payload_type_received: received(event),
            clock_rate_hz: event.clock_rate_hz,
        }),
        comfort_noise: with_noise,
        direction: media.direction,
        rtp: media.rtp,
        rtcp: media.rtcp,
        keys,
    }
}

/// Keys of a stream that the phone offered.
fn keys_offered(
    leg: &LegDescription,
    index: u8,
    media: &MediaDescription,
) -> Result<Option<StreamKeys>, Disagreement> {
    let theirs = leg.security.offered(media)?;
    Ok(theirs.map(|theirs| leg.security.answer(index, theirs, leg.generation)))
}

/// Keys of a stream that we offered, by the phone's answer.
fn keys_answered(
    leg: &LegDescription,
    index: u8,
    media: &MediaDescription,
) -> Result<Option<StreamKeys>, Disagreement> {
    let theirs = leg.security.answered(media)?;
    theirs.map(|theirs| leg.security.agree(index, theirs, leg.generation)).transpose()
}

fn packet_time(media: &MediaDescription) -> u16 {
    let ptime = media.ptime_ms.unwrap_or(20).clamp(10, 120);
    media.maxptime_ms.map_or(ptime, |most| ptime.min(most.max(10)))
}

fn refused(media: Option<&MediaDescription>) -> StreamSide {
    StreamSide {
        codec: None,
        telephone_event: None,
        comfort_noise: false,
        direction: media.map_or(Direction::Inactive, |media| media.direction),
        rtp: None,
        rtcp: None,
        keys: None,
    }
}

/// Reads the answer to `relay_offer`. The codec the answerer named first is used for both when the offerer offered it;
/// else the first the offerer offered that can be transcoded. Events and noise only when both have them; the events'
/// clock follows each leg's codec.
pub fn agree(
    offer: &Description,
    offerer: &LegDescription,
    offerer_policy: &Policy,
    answer: &Description,
    answerer: &LegDescription,
) -> Result<Agreement, Disagreement> {
    let mut streams = Vec::new();
    for index in 0..anchored_streams(offer) {
        let at = answerer.lines.iter().position(|line| line.stream == Some(index));
        let answered = at.and_then(|at| answer.media.get(at)).filter(|media| media.port != 0);
        let offered = line_of(offer, index);
        let Some((offered, answered)) = offered.zip(answered) else {
            let (offerer, answerer) = (refused(offered), refused(answered));
            streams.push(StreamAgreement { index, offerer, answerer });
            continue;
        };
        let chosen = answered.formats.iter().find(|format| is_voice(format));
        let chosen = chosen.ok_or(Disagreement::NoCodec)?;
        let allowed = |format: &&Format| is_voice(format) && offerer_policy.allows(format);
        let same = offered.formats.iter().filter(allowed).find(|f| f.same_codec(chosen));
        let transcoded = || {
            let mut formats = offered.formats.iter().filter(allowed);
            formats.find(|format| is_transcodable(&format.encoding))
        };
        let back = same
            .or_else(|| is_transcodable(&chosen.encoding).then(transcoded).flatten())
            .ok_or(Disagreement::NoCodec)?;
        let both = |of: fn(&Format) -> bool| {
            offered.formats.iter().any(of) && answered.formats.iter().any(of)
        };
        let events = both(Format::is_telephone_event);
        let noise = both(Format::is_comfort_noise);
        streams.push(StreamAgreement {
            index,
            offerer: side(
                offered,
                back,
                offerer,
                keys_offered(offerer, index, offered)?,
                (events, noise),
            ),
            answerer: side(
                answered,
                chosen,
                answerer,
                keys_answered(answerer, index, answered)?,
                (events, noise),
            ),
        });
    }
    if streams.iter().all(|stream| stream.answerer.codec.is_none()) {
        return Err(Disagreement::NoAudio);
    }
    Ok(Agreement { streams })
}

/// The answer to the offerer: number and order of its m= lines kept, one codec plus telephone-event (and CN) a stream,
/// directions as the answerer said and never more than the offer allows. `to` remembers it.
pub fn answer(
    offer: &Description,
    to: &mut LegDescription,
    agreement: &Agreement,
    local: &[SocketAddr],
) -> String {
    let indexes = stream_indexes(offer);
    let mut own = Vec::new();
    for (media, stream) in offer.media.iter().zip(indexes) {
        let line = Line {
            stream,
            kind: media.kind.clone(),
            protocol: media.protocol.clone(),
            raw_formats: media.raw_formats.clone(),
        };
        let agreed = agreement.streams.iter().find(|agreed| Some(agreed.index) == stream);
        let active = agreed
            .filter(|_| media.port != 0)
            .and_then(|agreed| answer_stream(media, agreed, &mut to.ours));
        own.push(OwnLine { line, active });
    }
    to.lines = own.iter().map(|own| own.line.clone()).collect();
    to.settle(&own, local)
}

fn answer_stream(
    media: &MediaDescription,
    agreed: &StreamAgreement,
    ours: &mut Vec<Format>,
) -> Option<OwnStream> {
    let codec = agreed.offerer.codec.as_ref()?;
    let event = agreed.offerer.telephone_event.map(|event| event.payload_type_sent);
    let mut formats: Vec<Format> = Vec::new();
    for format in &media.formats {
        let wanted = format.payload_type == codec.payload_type_sent
            || Some(format.payload_type) == event
            || (format.is_comfort_noise() && agreed.offerer.comfort_noise);
        if wanted && !formats.iter().any(|known| known.same_codec(format)) {
            let payload_type = payload_types::assign(ours, format);
            formats.push(Format { payload_type, ..format.clone() });
        }
    }
    // The codec comes first, whatever its place in the offer.
    formats.sort_by_key(|format| u8::from(!is_voice(format)));
    let other = &agreed.answerer;
    let direction = Direction::new(
        other.direction.sends() && media.direction.receives(),
        other.direction.receives() && media.direction.sends(),
    );
    let ptime_ms = other.codec.as_ref().map(|codec| codec.ptime_ms);
    let keys = agreed.offerer.keys.iter();
    let crypto = keys.map(|keys| Crypto { tag: keys.tag, keying: keys.sent.clone() }).collect();
    Some(OwnStream { formats, direction, ptime_ms, maxptime_ms: None, crypto })
}

/// What a description is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// The phone's offer.
    Offer,
    /// The phone's answer to an offer of ours.
    Answer,
}

/// Agreement of a phone with ourselves, its voice coming back: the first codec it names.
pub fn agree_alone(
    offer: &Description,
    leg: &LegDescription,
    policy: &Policy,
    spoken: Spoken,
) -> Result<Vec<StreamSide>, Disagreement> {
    let count = anchored_streams(offer);
    if count == 0 {
        return Err(Disagreement::NoAudio);
    }
    let mut sides = Vec::new();
    for index in 0..count {
        let Some(media) = line_of(offer, index) else {
            sides.push(refused(None));
            continue;
        };
        let usable = |format: &&Format| is_voice(format) && policy.allows(format);
        let format = media.formats.iter().find(usable).ok_or(Disagreement::NoCodec)?;
        let noise = media.formats.iter().any(Format::is_comfort_noise);
        let keys = match spoken {
            Spoken::Offer => keys_offered(leg, index, media)?,
            Spoken::Answer => keys_answered(leg, index, media)?,
        };
        sides.push(side(media, format, leg, keys, (true, noise)));
    }
    Ok(sides)
}

/// The answer to a phone from our own agreement, like `answer`.
pub fn answer_alone(
    offer: &Description,
    to: &mut LegDescription,
    sides: &[StreamSide],
    local: &[SocketAddr],
) -> String {
    let streams = sides.iter().enumerate().map(|(index, side)| StreamAgreement {
        index: u8::try_from(index).unwrap_or(u8::MAX),
        offerer: side.clone(),
        answerer: StreamSide { direction: Direction::SendRecv, ..side.clone() },
    });
    answer(offer, to, &Agreement { streams: streams.collect() }, local)
}

/// The wish for one stream of a leg towards the media node.
pub fn stream_spec(
    side: &StreamSide,
    index: u8,
    generation: u32,
    port: Option<u16>,
    peer: Option<IpAddr>,
    hears: control::Hears,
    rtp_timeout_ms: u32,
) -> control::StreamSpec {
    let remote = side.rtp.zip(side.rtcp);
    let agreed = side.codec.is_some();
    control::StreamSpec {
        index,
        port,
        peer,
        remote: remote.map(|(rtp, rtcp)| control::RemoteStream { rtp, rtcp, generation }),
        codec: side.codec.clone(),
        telephone_event: side.telephone_event,
        comfort_noise: side.comfort_noise,
        passed: Vec::new(),
        to_phone: agreed && side.direction.receives(),
        from_phone: agreed && side.direction.sends(),
        hears: if agreed { hears } else { control::Hears::Nothing },
        rtp_timeout_ms,
        srtp: side.keys.as_ref().map(|keys| control::Srtp {
            sent: keys.sent.clone(),
            received: keys.received.clone(),
            roll_over: None,
        }),
    }
}
