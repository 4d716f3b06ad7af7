//! Opus (RFC 6716) by libopus, as SIP uses it (RFC 7587), at 8,000 Hz mono towards G.711.
//!
//! Invariant: the library is named in this file only.

use super::{Decoder, Encoder};
use audiopus::coder::{Decoder as LibraryDecoder, Encoder as LibraryEncoder};
use audiopus::{Application, Bitrate, Channels, SampleRate, Signal};
use core::str::FromStr;

/// Enough for narrowband speech with FEC; RFC 7587 §3.1.1 names 8 to 12 kbit/s without.
const BITRATE_BPS: i32 = 24_000;
/// What the encoder protects against until the phone tells its own loss.
const EXPECTED_LOSS_PERCENT: u8 = 5;
/// RFC 6716 §2.1.9: a packet of so few bytes says only that the speaker is silent.
const DTX_BYTES: usize = 2;

/// What a phone's fmtp (RFC 7587 §6.1) says about what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `maxaveragebitrate`, bounded.
    pub bitrate_bps: i32,
    /// `useinbandfec`.
    pub forward_error_correction: bool,
    /// `usedtx`.
    pub discontinuous: bool,
    /// `cbr`.
    pub constant_bitrate: bool,
}

impl Parameters {
    /// Of 0 to 10. With bits to spare a simple search is as near to the sound as a long one, and costs less than half
    /// (`docs/performance.md`); below 2 the library makes no FEC.
    const fn complexity(self) -> u8 {
        match (self.forward_error_correction, self.bitrate_bps) {
            (false, 16_000..) => 1,
            (true, BITRATE_BPS..) => 2,
            (_, _) => 5,
        }
    }

    /// `maxplaybackrate` and `stereo` change nothing: we send 8,000 Hz mono, which every phone
    /// plays.
    pub fn of_fmtp(fmtp: &str) -> Self {
        fn value<T: FromStr>(fmtp: &str, name: &str) -> Option<T> {
            let parameter = fmtp.split(';').find_map(|parameter| {
                let (key, value) = parameter.split_once('=')?;
                key.trim().eq_ignore_ascii_case(name).then_some(value)
            });
            parameter?.trim().parse().ok()
        }
        let is_set = |name| value::<u8>(fmtp, name) == Some(1);
        let bitrate = value::<i32>(fmtp, "maxaveragebitrate").unwrap_or(BITRATE_BPS);
        Self {
            bitrate_bps: bitrate.clamp(6_000, BITRATE_BPS),
            forward_error_correction: is_set("useinbandfec"),
            discontinuous: is_set("usedtx"),
            constant_bitrate: is_set("cbr"),
        }
    }
}

/// `None`: the library refused.
pub fn decoder() -> Option<Box<dyn Decoder>> {
    let library = LibraryDecoder::new(SampleRate::Hz8000, Channels::Mono).ok()?;
    Some(Box::new(OpusDecoder(library)))
}

/// `None`: the library refused.
pub fn encoder(parameters: Parameters) -> Option<Box<dyn Encoder>> {
    let build = || -> audiopus::Result<LibraryEncoder> {
        let mut library =
            LibraryEncoder::new(SampleRate::Hz8000, Channels::Mono, Application::Voip)?;
        library.set_complexity(parameters.complexity())?;
        library.set_signal(Signal::Voice)?;
        library.set_bitrate(Bitrate::BitsPerSecond(parameters.bitrate_bps))?;
        library.set_vbr(!parameters.constant_bitrate)?;
        library.set_inband_fec(parameters.forward_error_correction)?;
        library.set_packet_loss_perc(EXPECTED_LOSS_PERCENT)?;
        library.set_dtx(parameters.discontinuous)?;
        Ok(library)
    };
    Some(Box::new(OpusEncoder(build().ok()?)))
}

#[derive(Debug)]
struct OpusDecoder(LibraryDecoder);

impl OpusDecoder {
    fn call(&mut self, payload: Option<&[u8]>, samples: &mut [i16], copy: bool) -> Option<usize> {
        let packet = payload.map(audiopus::packet::Packet::try_from).transpose().ok()?;
        let samples = audiopus::MutSignals::try_from(samples).ok()?;
        self.0.decode(packet, samples, copy).ok()
    }
}

impl Decoder for OpusDecoder {
    fn decode(&mut self, payload: &[u8], samples: &mut [i16]) -> usize {
        self.call(Some(payload), samples, false).unwrap_or(0)
    }

    fn conceal(&mut self, next: Option<&[u8]>, samples: &mut [i16]) {
        let copied = next.and_then(|next| self.call(Some(next), samples, true));
        let filled = copied.or_else(|| self.call(None, samples, false)).unwrap_or(0);
        if let Some(rest) = samples.get_mut(filled..) {
            rest.fill(0);
        }
    }
}

#[derive(Debug)]
struct OpusEncoder(LibraryEncoder);

impl Encoder for OpusEncoder {
    fn encode(&mut self, samples: &[i16], payload: &mut [u8]) -> usize {
        match self.0.encode(samples, payload) {
            Ok(bytes) if bytes > DTX_BYTES => bytes,
            Ok(_) | Err(_) => 0,
        }
    }

    fn expect_loss(&mut self, percent: u8) {
        // A figure the library does not take leaves the one before.
        let _ = self.0.set_packet_loss_perc(percent.clamp(EXPECTED_LOSS_PERCENT, 50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tone::{Sine, power_at};

    #[test]
    fn parameters_follow_the_phone() {
        for (fmtp, expect) in [
            ("", (24_000, false, false, false)),
            (
                "useinbandfec=1; usedtx=1;maxaveragebitrate=16000 ; stereo=0",
                (16_000, true, true, false),
            ),
            ("maxaveragebitrate=510000;cbr=1;maxplaybackrate=8000", (24_000, false, false, true)),
            ("maxaveragebitrate=-4;useinbandfec=yes;;=", (6_000, false, false, false)),
        ] {
            let got = Parameters::of_fmtp(fmtp);
            let got = (
                got.bitrate_bps,
                got.forward_error_correction,
                got.discontinuous,
                got.constant_bitrate,
            );
            assert_eq!(got, expect, "{fmtp}");
        }
    }

    #[test]
    fn a_tone_survives_loss_and_garbage_is_no_sound() {
        let mut encoder = encoder(Parameters::of_fmtp("useinbandfec=1")).expect("libopus is here");
        let mut decoder = decoder().expect("libopus is here");
        let mut sine = Sine::new(440, 8_000);
        let packets: Vec<Vec<u8>> = (0..50)
            .map(|_| {
                let samples: Vec<i16> = sine.by_ref().take(160).collect();
                let mut payload = [0; 1_275];
                let bytes = encoder.encode(&samples, &mut payload);
                payload[..bytes].to_vec()
            })
            .collect();
        // RFC 6716 §4.2.3: the second bit behind the first byte tells that the frame before is there once more.
        assert!(packets.iter().any(|packet| packet[1] & 0x40 != 0));
        let mut heard = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            let mut samples = [0; 960];
            let count = if index % 10 == 9 {
                decoder.conceal(packets.get(index + 1).map(|next| &next[..]), &mut samples[..160]);
                160
            } else {
                decoder.decode(packet, &mut samples)
            };
            assert_eq!(count, 160);
            heard.extend_from_slice(&samples[..count]);
        }
        assert!(power_at(440, &heard[800..]) > 0.8, "{}", power_at(440, &heard[800..]));
        assert_eq!(decoder.decode(&[0xff; 3], &mut [0; 960]), 0);
        assert_eq!(decoder.decode(&[], &mut [0; 960]), 0);
        decoder.conceal(None, &mut []);
    }
}
