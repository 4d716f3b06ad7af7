//! Audio that we make ourselves: a tone, or another leg decoded and encoded again.
//!
//! Invariants: a frame leaves every packet time of the listening phone; the timeline goes on
//! through silence; when the heard phone pauses (DTX, hold) a few frames are concealed and then
//! nothing is sent.

use super::jitter_buffer::{JitterBuffer, Pulled};
use super::outbound::{Origin, Outbound};
use crate::codec::tone::{Cadence, Ringback};
use crate::codec::{
    Decoder, Encoder, Kind, MOST_PAYLOAD_BYTES, MOST_SAMPLES, SAMPLE_RATE_HZ, SAMPLES_PER_MS,
};
use crate::control::{Codec, Hears, Tone};
use crate::rtp::Header;
use crate::time::Timestamp;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Frames concealed when nothing is here, until the heard phone is taken to pause.
const CONCEALED: u32 = 3;
/// So much later than due a tick starts its timeline anew.
const LATE: Duration = Duration::from_millis(200);
/// A pause shorter than this was no pause but lateness.
const LATENESS: Duration = Duration::from_millis(200);
/// Frames are due at multiples of this: a worker that is woken finds several, of many calls.
const GRID_US: u64 = 2_000;
/// Samples of a packet until one has been decoded.
const FIRST_PACKET_SAMPLES: usize = 20 * SAMPLES_PER_MS;

/// Where samples come from.
#[derive(Debug, Serialize, Deserialize)]
enum Source {
    Tone(Ringback),
    Heard(Box<Heard>),
    Cadence(Tone, Cadence),
}

#[derive(Debug, Serialize, Deserialize)]
struct Heard {
    kind: Kind,
    /// Absent between a snapshot and `reopen`.
    #[serde(skip)]
    decoder: Option<Box<dyn Decoder>>,
    buffer: JitterBuffer,
    origin: Option<Origin>,
    packet_samples: usize,
    concealed: u32,
    paused_at: Option<Timestamp>,
}

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Playout {
    /// Absent between a snapshot and `reopen`.
    #[serde(skip)]
    encoder: Option<Box<dyn Encoder>>,
    codec: Codec,
    frame: Duration,
    frame_samples: usize,
    /// In units of the codec's clock.
    frame_units: u32,
    source: Source,
    pending: Vec<i16>,
    next_tick: Option<Timestamp>,
    timestamp: Option<u32>,
    talkspurt: bool,
}

/// The codec, when it is one that we decode and encode.
pub(super) fn kind_of(codec: &Codec) -> Option<Kind> {
    Kind::of(&codec.encoding, codec.clock_rate_hz)
}

impl Playout {
    /// A tone in the phone's codec.
    pub(super) fn tone(codec: &Codec, tone: Tone, now: Timestamp) -> Option<Self> {
        let cadence = |hz, on, off| Source::Cadence(tone, Cadence::new(hz, on, off));
        let source = match tone {
            Tone::Ringback => Source::Tone(Ringback::default()),
            Tone::Busy => cadence(425, 500, 500),
            Tone::Congestion => cadence(425, 250, 250),
            Tone::Dial => cadence(425, 1_000, 0),
            Tone::Beep => cadence(1_000, 200, 4_800),
        };
        let mut playout = Self::new(codec, source)?;
        playout.next_tick = Some(now);
        Some(playout)
    }

    /// What another phone says in `heard`, in this phone's codec.
    pub(super) fn transcoder(codec: &Codec, heard: &Codec) -> Option<Self> {
        let kind = kind_of(heard)?;
        let heard = Heard {
            kind,
            decoder: Some(kind.decoder()?),
            buffer: JitterBuffer::default(),
            origin: None,
            packet_samples: FIRST_PACKET_SAMPLES,
            concealed: 0,
            paused_at: None,
        };
        Self::new(codec, Source::Heard(Box::new(heard)))
    }

    fn new(codec: &Codec, source: Source) -> Option<Self> {
        let kind = kind_of(codec)?;
        let frame_ms = kind.frame_ms(codec.ptime_ms);
        Some(Self {
            encoder: Some(kind.encoder(codec.fmtp.as_deref())?),
            codec: codec.clone(),
            frame: Duration::from_millis(frame_ms.into()),
            frame_samples: usize::from(frame_ms) * SAMPLES_PER_MS,
            frame_units: u32::from(frame_ms) * (codec.clock_rate_hz / 1_000),
            source,
            pending: Vec::with_capacity(2 * MOST_SAMPLES),
            next_tick: None,
            timestamp: None,
            talkspurt: true,
        })
    }

    /// Opens the codecs of a playout that came from a snapshot; false: the library refuses. What they remembered of
    /// the sound before is not carried: Opus begins anew, which is heard as no more than a few dull milliseconds.
    pub(super) fn reopen(&mut self) -> bool {
        let encoder =
            kind_of(&self.codec).and_then(|kind| kind.encoder(self.codec.fmtp.as_deref()));
        let has_encoder = encoder.is_some();
        self.encoder = encoder;
        match &mut self.source {
            Source::Tone(_) | Source::Cadence(..) => has_encoder,
            Source::Heard(heard) => {
                heard.decoder = heard.kind.decoder();
                has_encoder && heard.decoder.is_some()
            }
        }
    }

    /// Goes on unchanged under this wish: nothing that is heard breaks off at a repeated spec.
    pub(super) fn serves(&self, codec: &Codec, hears: Hears, heard: Option<&Codec>) -> bool {
        let same_source = match &self.source {
            Source::Tone(_) => hears == Hears::Tone(Tone::Ringback),
            Source::Cadence(tone, _) => hears == Hears::Tone(*tone),
            Source::Heard(source) => heard.and_then(kind_of) == Some(source.kind),
        };
        same_source && self.codec == *codec
    }

    /// Another phone is decoded.
    pub(super) const fn is_transcoder(&self) -> bool {
        matches!(self.source, Source::Heard(_))
    }

    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        self.next_tick
    }

    /// The phone's report says how much it loses.
    pub(super) fn expect_loss(&mut self, percent: u8) {
        if let Some(encoder) = &mut self.encoder {
            encoder.expect_loss(percent);
        }
    }

    /// Audio of the heard phone.
    pub(super) fn push(&mut self, origin: Origin, header: &Header, payload: &[u8], now: Timestamp) {
        let Source::Heard(heard) = &mut self.source else { return };
        if heard.origin != Some(origin) {
            heard.origin = Some(origin);
            heard.buffer.reset();
        }
        if !heard.buffer.push(header.sequence, payload) || self.next_tick.is_some() {
            return;
        }
        if heard.paused_at.is_some_and(|paused| now.saturating_since(paused) < LATENESS) {
            heard.buffer.lengthen();
        }
        heard.concealed = 0;
        self.next_tick = Some(on_grid(now + Duration::from_millis(heard.buffer.delay_ms())));
        self.timestamp = None;
        self.talkspurt = true;
        self.pending.clear();
    }

    /// The frame that is due, as a packet. `mute`: time goes by, nothing is made (digits are being
    /// sent).
    pub(super) fn handle_timeout(
        &mut self,
        outbound: &mut Outbound,
        mute: bool,
        now: Timestamp,
    ) -> Option<Vec<u8>> {
        let due = self.next_tick.filter(|due| *due <= now)?;
        if now.saturating_since(due) > LATE {
            self.timestamp = None;
            self.next_tick = Some(on_grid(now + self.frame));
        } else {
            self.next_tick = Some(due + self.frame);
        }
        if !self.fill(now) {
            self.next_tick = None;
            return None;
        }
        let timestamp = self.timestamp.unwrap_or_else(|| outbound.timestamp_at(now));
        self.timestamp = Some(timestamp.wrapping_add(self.frame_units));
        let mut payload = [0; MOST_PAYLOAD_BYTES];
        let frame = self.pending.get(..self.frame_samples)?;
        let encoder = self.encoder.as_mut().filter(|_| !mute);
        let bytes = encoder.map_or(0, |encoder| encoder.encode(frame, &mut payload));
        self.pending.drain(..self.frame_samples);
        let payload = payload.get(..bytes).filter(|payload| !payload.is_empty());
        let Some(payload) = payload else {
            // What else is sent meanwhile (digits, keep-alives) moves the timeline.
            self.timestamp = None;
            self.talkspurt = true;
            return None;
        };
        let mut header = outbound.insert(self.codec.payload_type_sent, timestamp, now);
        header.marker = core::mem::take(&mut self.talkspurt);
        Some(header.with_payload(payload))
    }

    /// A whole frame of samples; false: the heard phone pauses.
    fn fill(&mut self, now: Timestamp) -> bool {
        let missing = self.frame_samples.saturating_sub(self.pending.len());
        match &mut self.source {
            Source::Tone(tone) => self.pending.extend(tone.take(missing)),
            Source::Cadence(_, tone) => self.pending.extend(tone.take(missing)),
            Source::Heard(heard) => {
                while self.pending.len() < self.frame_samples {
                    if !heard.pull(&mut self.pending) {
                        heard.paused_at = Some(now);
                        heard.buffer.pause();
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Not before `at`.
const fn on_grid(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros().next_multiple_of(GRID_US))
}

impl Heard {
    /// Appends a packet's samples; false: nothing came for a while.
    fn pull(&mut self, pending: &mut Vec<i16>) -> bool {
        let mut samples = [0; MOST_SAMPLES];
        let packet_ms = self.packet_samples as u64 * 1_000 / u64::from(SAMPLE_RATE_HZ);
        let expected = self.packet_samples.min(samples.len());
        let Some(decoder) = &mut self.decoder else { return false };
        let count = match self.buffer.pull(packet_ms) {
            Pulled::Packet(payload) => {
                let count = decoder.decode(payload, &mut samples);
                if count > 0 {
                    self.packet_samples = count;
                    self.concealed = 0;
                }
                count
            }
            Pulled::Lost(next) => {
                decoder.conceal(next, samples.get_mut(..expected).unwrap_or_default());
                expected
            }
            Pulled::Empty => 0,
        };
        if count > 0 {
            pending.extend(samples.iter().take(count));
            return true;
        }
        self.concealed += 1;
        if self.concealed > CONCEALED {
            return false;
        }
        decoder.conceal(None, samples.get_mut(..expected).unwrap_or_default());
        pending.extend(samples.iter().take(expected));
        true
    }
}
