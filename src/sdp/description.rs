//! A session description as read (RFC 8866), reduced to what we use; everything bounded.

use super::crypto::Crypto;
use crate::limits;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// Not a usable description: 400 (syntax) — 488 is decided by `offer_answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Not SDP.
    #[error("malformed session description")]
    Malformed,
    /// More media lines or formats than `limits` allow.
    #[error("session description too large")]
    TooLarge,
}

/// Direction attributes, from the point of view of who wrote the SDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    /// Who wrote it sends.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }
    /// Who wrote it receives.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
    /// From two flags.
    pub const fn new(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }
    /// The same stream seen from the other side.
    pub const fn reversed(self) -> Self {
        Self::new(self.receives(), self.sends())
    }
    /// An attribute's name, if it is a direction.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive];
        all.into_iter().find(|direction| direction.name() == name)
    }
    /// As attribute and in the REST API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }
}

/// A session description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// o= session id and version as written; the same o= means the same SDP (RFC 3264 §8).
    pub origin: String,
    /// Media lines in order.
    pub media: Vec<MediaDescription>,
}

/// One media line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaDescription {
    /// `audio`, `video` …
    pub kind: String,
    /// 0: refused or disabled.
    pub port: u16,
    /// `RTP/AVP` … as written.
    pub protocol: String,
    /// Where RTP goes: c= of the line or of the session and the port. `None` when c= is a name, absent, or 0.0.0.0.
    pub rtp: Option<SocketAddr>,
    /// a=rtcp (RFC 3605), else the next port.
    pub rtcp: Option<SocketAddr>,
    /// Effective: attribute of the line, else of the session, else sendrecv; c=0.0.0.0 (or ::) takes `receives` away.
    pub direction: Direction,
    /// Formats in order of preference. Static payload types without rtpmap are filled in (RFC 3551).
    pub formats: Vec<Format>,
    /// Raw format list of a line that is not RTP, for a refusal that repeats it.
    pub raw_formats: String,
    /// a=ptime.
    pub ptime_ms: Option<u16>,
    /// a=maxptime.
    pub maxptime_ms: Option<u16>,
    /// a=crypto, those that we can use, in order of preference. Records keep them apart, sealed.
    #[serde(skip)]
    pub crypto: Vec<Crypto>,
    /// There was an a=crypto, of use or not.
    #[serde(skip)]
    pub has_crypto: bool,
}

impl MediaDescription {
    /// RTP/SAVP or RTP/SAVPF: without keys there is nothing.
    pub fn is_secure(&self) -> bool {
        ["RTP/SAVP", "RTP/SAVPF"].iter().any(|name| self.protocol.eq_ignore_ascii_case(name))
    }
}

/// A payload format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// 0-127.
    pub payload_type: u8,
    /// rtpmap name as written.
    pub encoding: String,
    /// rtpmap clock.
    pub clock_rate_hz: u32,
    /// rtpmap parameters; 1 when absent.
    pub channels: u8,
    /// a=fmtp as written.
    pub fmtp: Option<String>,
}

impl Format {
    /// telephone-event (RFC 4733).
    pub fn is_telephone_event(&self) -> bool {
        self.encoding.eq_ignore_ascii_case("telephone-event")
    }
    /// Comfort noise (RFC 3389).
    pub fn is_comfort_noise(&self) -> bool {
        self.encoding.eq_ignore_ascii_case("CN")
    }
    /// The same codec: name without case, clock, channels (and what fmtp says for codecs where it matters: G.729 annex
    /// b, iLBC mode … do not; H.264 profiles are no audio).
    pub fn same_codec(&self, other: &Self) -> bool {
        self.encoding.eq_ignore_ascii_case(&other.encoding)
            && self.clock_rate_hz == other.clock_rate_hz
            && self.channels == other.channels
    }
}

impl Description {
    /// Reads an SDP body. Tolerant of bare LF or CR, missing t=, unknown lines.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        let text = String::from_utf8_lossy(body);
        // Some phones take a lone CR as a line's end: what stands behind it must not go through unread.
        let lines = text.split(['\r', '\n']).map(str::trim_end);
        let mut lines = lines.filter(|line| !line.is_empty());
        if lines.next().is_none_or(|line| line.trim() != "v=0") {
            return Err(SdpError::Malformed);
        }
        let mut reader = Reader::default();
        for line in lines {
            let (kind, value) = line.split_once('=').ok_or(SdpError::Malformed)?;
            reader.read(kind, value)?;
        }
        Ok(reader.finish())
    }
}

/// What was read so far; session-level values hold for lines that have none of their own.
#[derive(Debug, Default)]
struct Reader {
    origin: String,
    connection: Option<Connection>,
    direction: Option<Direction>,
    ptime_ms: Option<u16>,
    media: Vec<MediaReader>,
}

#[derive(Debug)]
struct MediaReader {
    description: MediaDescription,
    payload_types: Vec<u8>,
    connection: Option<Connection>,
    direction: Option<Direction>,
    rtcp: Option<(u16, Option<Connection>)>,
}

/// c= as far as it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Address(IpAddr),
    /// 0.0.0.0 or ::, the old way to hold (RFC 3264 §8.4).
    Hold,
    /// A name: media is latched.
    Name,
}

impl Connection {
    fn parse(value: &str) -> Result<Self, SdpError> {
        let mut words = value.split_ascii_whitespace();
        let (net, kind, address) = (words.next(), words.next(), words.next());
        if net != Some("IN") || !matches!(kind, Some("IP4" | "IP6")) {
            return Err(SdpError::Malformed);
        }
        // A multicast address may carry a TTL after a slash.
        let address = address.and_then(|text| text.split('/').next());
        let address = address.ok_or(SdpError::Malformed)?;
        Ok(match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Self::Hold,
            Ok(ip) => Self::Address(ip),
            Err(_) => Self::Name,
        })
    }
}

impl Reader {
    fn read(&mut self, kind: &str, value: &str) -> Result<(), SdpError> {
        match kind {
            "o" => value.clone_into(&mut self.origin),
            "c" => {
                let connection = Connection::parse(value)?;
                match self.media.last_mut() {
                    Some(media) => media.connection = Some(connection),
                    None => self.connection = Some(connection),
                }
            }
            "m" => {
                if self.media.len() >= limits::SDP_MEDIA_LINES {
                    return Err(SdpError::TooLarge);
                }
                self.media.push(MediaReader::parse(value)?);
            }
            "a" => self.read_attribute(value),
            _ => {}
        }
        Ok(())
    }

    fn read_attribute(&mut self, value: &str) {
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        let direction = Direction::named(name);
        match self.media.last_mut() {
            None if direction.is_some() => self.direction = direction,
            None if name == "ptime" => self.ptime_ms = value.trim().parse().ok(),
            None => {}
            Some(media) if direction.is_some() => media.direction = direction,
            Some(media) => media.read_attribute(name, value),
        }
    }

    fn finish(self) -> Description {
        let (connection, direction, ptime_ms) = (self.connection, self.direction, self.ptime_ms);
        let described = self.media.into_iter().map(|media| {
            let mut description = media.finish(connection, direction);
            description.ptime_ms = description.ptime_ms.or(ptime_ms);
            description
        });
        // Collected, it would keep the room of what was read, for as long as the call is there.
        let mut media = Vec::with_capacity(described.len());
        media.extend(described);
        Description { origin: self.origin, media }
    }
}

impl MediaReader {
    fn parse(value: &str) -> Result<Self, SdpError> {
        let mut words = value.splitn(4, ' ');
        let mut word = || words.next().map(str::trim).ok_or(SdpError::Malformed);
        let (kind, port, protocol) = (word()?, word()?, word()?);
        let raw_formats = words.next().unwrap_or_default().trim();
        let port = port.split('/').next().unwrap_or_default();
        let payload_types: Vec<u8> = raw_formats
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok().filter(|number: &u8| *number < 128))
            .collect();
        if raw_formats.split_ascii_whitespace().count() > limits::SDP_FORMATS {
            return Err(SdpError::TooLarge);
        }
        let formats = payload_types.iter().map(|number| static_format(*number)).collect();
        Ok(Self {
            description: MediaDescription {
                kind: kind.to_owned(),
                port: port.parse().map_err(|_| SdpError::Malformed)?,
                protocol: protocol.to_owned(),
                rtp: None,
                rtcp: None,
                direction: Direction::SendRecv,
                formats,
                raw_formats: raw_formats.to_owned(),
                ptime_ms: None,
                maxptime_ms: None,
                crypto: Vec::new(),
                has_crypto: false,
            },
            payload_types,
            connection: None,
            direction: None,
            rtcp: None,
        })
    }

    fn read_attribute(&mut self, name: &str, value: &str) {
        match name {
            "rtpmap" => self.read_rtpmap(value),
            "fmtp" => {
                if let Some((number, parameters)) = value.split_once(' ')
                    && let Some(format) = self.format(number)
                {
                    format.fmtp = Some(parameters.trim().to_owned());
                }
            }
            "ptime" => self.description.ptime_ms = value.trim().parse().ok(),
            "crypto" => {
                self.description.has_crypto = true;
                if self.description.crypto.len() < limits::SDP_CRYPTO_LINES {
                    self.description.crypto.extend(Crypto::parse(value));
                }
            }
            "maxptime" => self.description.maxptime_ms = value.trim().parse().ok(),
            "rtcp" => {
                let (port, rest) = value.split_once(' ').unwrap_or((value, ""));
                self.rtcp =
                    port.trim().parse().ok().map(|port| (port, Connection::parse(rest).ok()));
            }
            _ => {}
        }
    }

    fn read_rtpmap(&mut self, value: &str) {
        let Some((number, map)) = value.split_once(' ') else { return };
        let Some(format) = self.format(number) else { return };
        let mut parts = map.trim().split('/');
        let (encoding, clock) = (parts.next(), parts.next().and_then(|text| text.parse().ok()));
        if let (Some(encoding), Some(clock)) = (encoding, clock) {
            encoding.clone_into(&mut format.encoding);
            format.clock_rate_hz = clock;
            format.channels = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
        }
    }

    fn format(&mut self, number: &str) -> Option<&mut Format> {
        let number: u8 = number.trim().parse().ok()?;
        let at = self.payload_types.iter().position(|known| *known == number)?;
        self.description.formats.get_mut(at)
    }

    fn finish(
        self,
        connection: Option<Connection>,
        direction: Option<Direction>,
    ) -> MediaDescription {
        let mut media = self.description;
        let connection = self.connection.or(connection);
        media.direction = self.direction.or(direction).unwrap_or_default();
        match connection {
            Some(Connection::Address(ip)) if media.port != 0 => {
                media.rtp = Some(SocketAddr::new(ip, media.port));
                let (port, other) = self.rtcp.unwrap_or((media.port.wrapping_add(1), None));
                let ip = match other {
                    Some(Connection::Address(other)) => other,
                    Some(Connection::Hold | Connection::Name) | None => ip,
                };
                media.rtcp = Some(SocketAddr::new(ip, port));
            }
            Some(Connection::Hold) => {
                media.direction = Direction::new(media.direction.sends(), false);
            }
            Some(Connection::Address(_) | Connection::Name) | None => {}
        }
        // A dynamic payload type without rtpmap means nothing.
        media.formats.retain(|format| !format.encoding.is_empty());
        media
    }
}

/// RFC 3551 §6; empty encoding for dynamic and unassigned numbers.
fn static_format(payload_type: u8) -> Format {
    let (encoding, clock_rate_hz) = match payload_type {
        0 => ("PCMU", 8_000),
        3 => ("GSM", 8_000),
        4 => ("G723", 8_000),
        8 => ("PCMA", 8_000),
        9 => ("G722", 8_000),
        13 => ("CN", 8_000),
        15 => ("G728", 8_000),
        18 => ("G729", 8_000),
        _ => ("", 0),
    };
    Format { payload_type, encoding: encoding.to_owned(), clock_rate_hz, channels: 1, fmtp: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> Description {
        let text = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n{lines}");
        Description::parse(text.as_bytes()).expect("SDP")
    }

    #[test]
    fn connection_of_session_and_line() {
        let sdp = parse(
            "c=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
             m=audio 4002 RTP/AVP 8\r\nc=IN IP6 2001:db8::1\r\na=rtcp:5000\r\n\
             m=video 0 RTP/AVP 31\r\n",
        );
        assert_eq!(sdp.media[0].rtp, "192.0.2.1:4000".parse().ok());
        assert_eq!(sdp.media[0].rtcp, "192.0.2.1:4001".parse().ok());
        assert_eq!(sdp.media[1].rtp, "[2001:db8::1]:4002".parse().ok());
        assert_eq!(sdp.media[1].rtcp, "[2001:db8::1]:5000".parse().ok());
        assert_eq!((sdp.media[2].port, sdp.media[2].rtp), (0, None));
    }

    #[test]
    fn every_form_of_hold() {
        for (lines, expect) in [
            ("c=IN IP4 1.2.3.4\nm=audio 4 RTP/AVP 0\na=sendonly\n", Direction::SendOnly),
            ("c=IN IP4 1.2.3.4\na=sendonly\nm=audio 4 RTP/AVP 0\n", Direction::SendOnly),
            (
                "c=IN IP4 1.2.3.4\na=inactive\nm=audio 4 RTP/AVP 0\na=sendrecv\n",
                Direction::SendRecv,
            ),
            ("c=IN IP4 0.0.0.0\nm=audio 4 RTP/AVP 0\n", Direction::SendOnly),
            ("c=IN IP4 1.2.3.4\nm=audio 4 RTP/AVP 0\nc=IN IP4 0.0.0.0\n", Direction::SendOnly),
            ("c=IN IP4 0.0.0.0\nm=audio 4 RTP/AVP 0\na=inactive\n", Direction::Inactive),
            ("c=IN IP6 ::\nm=audio 4 RTP/AVP 0\na=recvonly\n", Direction::Inactive),
        ] {
            assert_eq!(parse(lines).media[0].direction, expect, "{lines}");
        }
    }

    #[test]
    fn formats_with_and_without_rtpmap() {
        let sdp = parse(
            "c=IN IP4 1.2.3.4\r\nm=audio 4 RTP/AVP 111 9 0 101 99\r\n\
             a=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\na=ptime:30\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n",
        );
        let formats: Vec<_> = sdp.media[0]
            .formats
            .iter()
            .map(|f| (f.payload_type, f.encoding.as_str(), f.clock_rate_hz, f.channels))
            .collect();
        assert_eq!(
            formats,
            [
                (111, "opus", 48_000, 2),
                (9, "G722", 8_000, 1),
                (0, "PCMU", 8_000, 1),
                (101, "telephone-event", 8_000, 1)
            ]
        );
        assert_eq!(sdp.media[0].formats[0].fmtp.as_deref(), Some("useinbandfec=1"));
        assert_eq!(sdp.media[0].ptime_ms, Some(30));
    }

    #[test]
    fn what_is_no_description() {
        let many = format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(17));
        for (text, expect) in [
            ("", SdpError::Malformed),
            ("hello", SdpError::Malformed),
            ("v=0\r\nm=audio x RTP/AVP 0\r\n", SdpError::Malformed),
            ("v=0\r\nc=IN\r\n", SdpError::Malformed),
            ("v=0\r\nnonsense\r\n", SdpError::Malformed),
            (many.as_str(), SdpError::TooLarge),
        ] {
            assert_eq!(Description::parse(text.as_bytes()), Err(expect), "{text}");
        }
    }
}
