//! What the two sides of a call speak: A always plain PCMU, B that, PCMU under SRTP, or Opus; and how it is described.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast::codec::Kind;
use holdfast::rtp::srtp::{Keying, Suite};
use std::net::SocketAddrV4;

/// What B speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Pcmu,
    /// Keys by SDES; the suite that every phone has.
    Srtp,
    Opus,
}

const SUITE: Suite = Suite::AesCm128HmacSha1_80;
const RATE_HZ: usize = 8_000;
/// Frames of 20 ms that are sent again and again.
const FRAMES: usize = 200;
/// What both contenders are asked to make.
pub(crate) const OPUS_BITS_A_SECOND: u32 = 24_000;
const OPUS: u8 = 111;

impl Media {
    pub(crate) const ALL: [Self; 3] = [Self::Pcmu, Self::Srtp, Self::Opus];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "relay pcmu",
            Self::Srtp => "relay srtp",
            Self::Opus => "transcode opus",
        }
    }

    /// A's description, or B's answer to what it was told.
    pub(crate) fn describe(self, port: u16, told: Option<&Described>) -> String {
        let lines = match (self, told) {
            (Self::Srtp, Some(told)) => {
                let (tag, _) = told.crypto.as_ref().expect("a key is offered to B");
                let (name, key) = (SUITE.name(), STANDARD.encode(key_of_b().bytes()));
                format!(
                    "m=audio {port} RTP/SAVP 0\r\na=rtpmap:0 PCMU/8000\r\n\
                     a=crypto:{tag} {name} inline:{key}\r\n"
                )
            }
            (Self::Opus, Some(told)) => {
                let number = told.opus.expect("Opus is offered to B");
                format!(
                    "m=audio {port} RTP/AVP {number}\r\na=rtpmap:{number} opus/48000/2\r\n\
                     a=fmtp:{number} maxplaybackrate=8000; stereo=0; useinbandfec=0; \
                     maxaveragebitrate={OPUS_BITS_A_SECOND}\r\n"
                )
            }
            _ => format!(
                "m=audio {port} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n\
                 a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
            ),
        };
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{lines}\
             a=ptime:20\r\na=sendrecv\r\n"
        )
    }

    /// What A says, and what B says: payloads of 20 ms each.
    pub(crate) fn frames(self) -> [Vec<Vec<u8>>; 2] {
        let speech = speech();
        let frames = speech.chunks_exact(RATE_HZ / 50);
        let made = |kind: Kind| {
            let mut encoder = kind.encoder(None).expect("the library is here");
            let encode = |frame: &[i16]| {
                let mut payload = vec![0; 1_275];
                let bytes = encoder.encode(frame, &mut payload);
                payload.truncate(bytes);
                payload
            };
            frames.clone().map(encode).filter(|payload| !payload.is_empty()).collect()
        };
        [made(Kind::Pcmu), made(if self == Self::Opus { Kind::Opus } else { Kind::Pcmu })]
    }

    /// B's payload type.
    pub(crate) fn payload_type_of_b(self, told: &Described) -> u8 {
        if self == Self::Opus { told.opus.unwrap_or(OPUS) } else { 0 }
    }
}

/// Every B has the same: nobody listens.
pub(crate) fn key_of_b() -> Keying {
    let bytes: Vec<u8> = (0..SUITE.keying_bytes()).map(|n| n as u8 * 7 + 1).collect();
    Keying::new(SUITE, &bytes).expect("enough")
}

/// What a server told a phone.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Where it wants RTP.
    pub(crate) at: SocketAddrV4,
    /// The tag of the key that it sends with, and the key.
    pub(crate) crypto: Option<(String, Keying)>,
    opus: Option<u8>,
}

impl Described {
    pub(crate) fn read(sdp: &str) -> Option<Self> {
        let after = |start: &str| sdp.lines().find_map(|line| line.trim().strip_prefix(start));
        let ip = after("c=IN IP4 ")?.parse().ok()?;
        let port = after("m=audio ")?.split(' ').next()?.parse().ok()?;
        let cryptos = sdp.lines().filter_map(|line| line.trim().strip_prefix("a=crypto:"));
        let crypto = cryptos.filter_map(read_crypto).next();
        let opus = sdp.lines().find_map(|line| {
            let (number, encoding) = line.trim().strip_prefix("a=rtpmap:")?.split_once(' ')?;
            encoding.starts_with("opus/").then(|| number.parse().ok())?
        });
        Some(Self { at: SocketAddrV4::new(ip, port), crypto, opus })
    }
}

/// `tag suite inline:key|…`, of our suite.
fn read_crypto(line: &str) -> Option<(String, Keying)> {
    let mut words = line.split(' ');
    let tag = words.next()?.to_owned();
    if words.next()? != SUITE.name() {
        return None;
    }
    let key = words.next()?.strip_prefix("inline:")?.split('|').next()?;
    // Some leave out the padding, some do not.
    let bytes = STANDARD.decode(key).ok()?;
    Some((tag, Keying::new(SUITE, &bytes)?))
}

/// Harmonics and noise that come and go as syllables do.
fn speech() -> Vec<i16> {
    let mut noise = 1_u32;
    let sample = |n: usize| {
        let t = n as f64 / RATE_HZ as f64;
        noise = noise.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let hiss = f64::from(noise >> 16) / 65_536.0 - 0.5;
        let pitch = 130.0 + 20.0 * (t * 2.3).sin();
        let turn = |harmonic: f64| (core::f64::consts::TAU * pitch * harmonic * t).sin() / harmonic;
        let voice: f64 = (1..18).map(|harmonic| turn(f64::from(harmonic))).sum();
        let loudness = (0.5 + 0.5 * (t * 9.0).sin()).max(0.05);
        ((voice + hiss * 0.3) * loudness * 5_000.0) as i16
    };
    (0..FRAMES * RATE_HZ / 50).map(sample).collect()
}
