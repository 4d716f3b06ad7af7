//! The RTP header (RFC 3550 §5.1), read from and written to bytes in place.
//!
//! Invariants: `parse` accepts only packets whose CSRC list, extension (§5.3.1) and padding lie
//! inside them; `rewrite` touches the first twelve bytes and nothing else.

use core::ops::Range;

/// Bytes of the fixed header.
pub const FIXED_BYTES: usize = 12;

const VERSION: u8 = 2;
const PADDING: u8 = 0x20;
const EXTENSION: u8 = 0x10;
const MARKER: u8 = 0x80;

/// What the relay needs of a header, and where the payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Marker bit.
    pub marker: bool,
    /// 0-127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// First byte of the payload.
    pub payload_start: usize,
    /// Byte after the payload: padding, or the end.
    pub payload_end: usize,
}

impl Header {
    /// `None`: not an RTP packet.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (fixed, _) = packet.split_first_chunk::<FIXED_BYTES>()?;
        let [flags, kind, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if flags >> 6 != VERSION {
            return None;
        }
        let mut payload_start = FIXED_BYTES + usize::from(flags & 0x0f) * 4;
        if flags & EXTENSION != 0 {
            let words = packet.get(payload_start + 2..payload_start + 4)?;
            let words = u16::from_be_bytes(words.try_into().ok()?);
            payload_start += 4 + usize::from(words) * 4;
        }
        let mut payload_end = packet.len();
        if flags & PADDING != 0 {
            // RFC 3550 appendix A.1: the last octet counts itself.
            let padding = usize::from(*packet.last()?);
            payload_end = payload_end.checked_sub(padding).filter(|_| padding > 0)?;
        }
        (payload_start <= payload_end).then_some(Self {
            marker: kind & MARKER != 0,
            payload_type: kind & !MARKER,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload_start,
            payload_end,
        })
    }

    /// A header of our own: no CSRC, extension or padding; `payload_bytes` follow.
    pub const fn new(payload_type: u8, payload_bytes: usize) -> Self {
        Self {
            marker: false,
            payload_type,
            sequence: 0,
            timestamp: 0,
            ssrc: 0,
            payload_start: FIXED_BYTES,
            payload_end: FIXED_BYTES + payload_bytes,
        }
    }

    /// Where the payload lies, without padding.
    pub const fn payload(&self) -> Range<usize> {
        self.payload_start..self.payload_end
    }

    /// Bytes of the payload.
    pub const fn payload_bytes(&self) -> usize {
        self.payload_end.saturating_sub(self.payload_start)
    }

    /// Writes marker, payload type, sequence, timestamp and SSRC over those of `packet`.
    #[inline]
    pub fn rewrite(&self, packet: &mut [u8]) {
        let Some((fixed, _)) = packet.split_first_chunk_mut::<FIXED_BYTES>() else { return };
        let flags = fixed[0];
        let kind = self.payload_type & !MARKER | if self.marker { MARKER } else { 0 };
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        *fixed = [flags, kind, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3];
    }

    /// A whole packet with this header.
    pub fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(FIXED_BYTES + payload.len());
        packet.resize(FIXED_BYTES, 0);
        packet.extend_from_slice(payload);
        if let Some(flags) = packet.first_mut() {
            *flags = VERSION << 6;
        }
        self.rewrite(&mut packet);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use webrtc_util::marshal::{Marshal, Unmarshal};

    #[test]
    fn packets_with_everything_and_packets_cut_short() {
        let packet = rtp::packet::Packet {
            header: rtp::header::Header {
                version: 2,
                padding: true,
                extension: true,
                extension_profile: 0xbede,
                extensions: vec![rtp::header::Extension {
                    id: 1,
                    payload: bytes::Bytes::from_static(&[7]),
                }],
                csrc: vec![1, 2],
                marker: true,
                payload_type: 96,
                sequence_number: 65_535,
                timestamp: 0xdead_beef,
                ssrc: 0xcafe,
                ..Default::default()
            },
            payload: bytes::Bytes::from_static(b"abc"),
        };
        let bytes = packet.marshal().expect("the oracle writes it").to_vec();
        let header = Header::parse(&bytes).expect("an RTP packet");
        assert!(header.marker);
        assert_eq!(
            (header.payload_type, header.sequence, header.timestamp, header.ssrc),
            (96, 65_535, 0xdead_beef, 0xcafe)
        );
        assert_eq!(&bytes[header.payload()], b"abc");
        for end in 0..FIXED_BYTES + 8 + 4 + 4 {
            assert_eq!(Header::parse(&bytes[..end]), None, "{end}");
        }
        for (flags, what) in [(0x00, "STUN"), (0x40, "version 1"), (0xc0, "version 3")] {
            let mut other = bytes.clone();
            other[0] = flags;
            assert_eq!(Header::parse(&other), None, "{what}");
        }
        let mut padded = [0x80 | PADDING, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (count, accepted) in [(0, false), (1, true), (2, false), (255, false)] {
            padded[12] = count;
            assert_eq!(Header::parse(&padded).is_some(), accepted, "{count} bytes of padding");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not_and_rewriting_keeps_the_payload(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            sequence: u16, timestamp: u32, ssrc: u32, marker: bool, payload_type in 0_u8..128,
        ) {
            if let Some(first) = bytes.first_mut() { *first = *first & 0x3f | 0x80; }
            let Some(before) = Header::parse(&bytes) else { return Ok(()) };
            let payload = bytes[before.payload()].to_vec();
            let wish = Header { marker, payload_type, sequence, timestamp, ssrc, ..before };
            wish.rewrite(&mut bytes);
            prop_assert_eq!(Header::parse(&bytes), Some(wish));
            prop_assert_eq!(&bytes[wish.payload()], &payload[..]);
        }

        #[test]
        fn what_we_make_the_oracle_reads(payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let header = Header { sequence: 9, ssrc: 5, ..Header::new(8, payload.len()) };
            let mut bytes = bytes::Bytes::from(header.with_payload(&payload));
            let read = rtp::packet::Packet::unmarshal(&mut bytes).expect("an RTP packet");
            prop_assert_eq!(read.header.payload_type, 8);
            prop_assert_eq!(read.header.sequence_number, 9);
            prop_assert_eq!(read.header.ssrc, 5);
            prop_assert_eq!(&read.payload[..], &payload[..]);
        }
    }
}
