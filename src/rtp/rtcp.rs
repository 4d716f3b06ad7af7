//! RTCP (RFC 3550 §6): compound packets that we make, and what matters of those that phones send.
//!
//! Invariant: a phone's compound is walked by its length fields, and only sender and receiver
//! reports are read further: what phones put beside them cannot hurt.

use bytes::Bytes;
use rtcp::packet::Packet;
use rtcp::receiver_report::ReceiverReport;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{
    SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem,
};
use webrtc_util::marshal::Unmarshal;

pub use rtcp::reception_report::ReceptionReport;

/// RFC 3550 §6.4.1.
pub const TYPE_SENDER_REPORT: u8 = 200;
/// RFC 3550 §6.4.2.
pub const TYPE_RECEIVER_REPORT: u8 = 201;
const TYPE_GOODBYE: u8 = 203;
/// Seconds between 1900 and 1970.
const NTP_OFFSET_S: u64 = 2_208_988_800;

/// What we have sent, for a sender report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// RTP timestamp of now.
    pub rtp_timestamp: u32,
    /// Packets so far.
    pub packets: u64,
    /// Payload bytes so far.
    pub bytes: u64,
}

/// A compound to be made.
#[derive(Clone, Debug)]
pub struct Compound<'a> {
    /// Ours.
    pub ssrc: u32,
    /// RFC 7022.
    pub cname: &'a str,
    /// NTP time of now.
    pub ntp: u64,
    /// `None`: a receiver report.
    pub sender: Option<SenderInfo>,
    /// About the phone's stream.
    pub reception: Option<ReceptionReport>,
    /// Ends with BYE.
    pub goodbye: bool,
}

impl Compound<'_> {
    /// SR or RR, SDES, and BYE at the end of a stream.
    pub fn emit(&self) -> Vec<u8> {
        let reports: Vec<_> = self.reception.iter().cloned().collect();
        let report: Box<dyn Packet + Send + Sync> = match self.sender {
            Some(sender) => Box::new(SenderReport {
                ssrc: self.ssrc,
                ntp_time: self.ntp,
                rtp_time: sender.rtp_timestamp,
                // The fields wrap (RFC 3550 §6.4.1).
                packet_count: sender.packets as u32,
                octet_count: sender.bytes as u32,
                reports,
                profile_extensions: Bytes::new(),
            }),
            None => Box::new(ReceiverReport {
                ssrc: self.ssrc,
                reports,
                profile_extensions: Bytes::new(),
            }),
        };
        let packets: [Box<dyn Packet + Send + Sync>; 2] =
            [report, Box::new(self.source_description())];
        let bytes = rtcp::packet::marshal(&packets).map(|bytes| bytes.to_vec());
        let mut bytes = bytes.unwrap_or_default();
        if self.goodbye {
            bytes.extend(goodbye(self.ssrc));
        }
        bytes
    }

    fn source_description(&self) -> SourceDescription {
        SourceDescription {
            chunks: vec![SourceDescriptionChunk {
                source: self.ssrc,
                items: vec![SourceDescriptionItem {
                    sdes_type: SdesType::SdesCname,
                    text: Bytes::copy_from_slice(self.cname.as_bytes()),
                }],
            }],
        }
    }
}

/// BYE of one source (RFC 3550 §6.6). The library writes an empty reason, and padding behind it, where there is none:
/// some readers take that for malformed.
fn goodbye(ssrc: u32) -> [u8; 8] {
    let [a, b, c, d] = ssrc.to_be_bytes();
    [0x81, TYPE_GOODBYE, 0, 1, a, b, c, d]
}

/// A phone's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// Who sent it.
    pub ssrc: u32,
    /// NTP time of a sender report, and what was sent until then.
    pub sender: Option<(u64, SenderInfo)>,
    /// What it received.
    pub receptions: Vec<ReceptionReport>,
}

/// All sender and receiver reports of a datagram; `None` when it is not RTCP.
pub fn read_reports(datagram: &[u8]) -> Option<Vec<PeerReport>> {
    let mut reports = Vec::new();
    let mut rest = datagram;
    while let Some((&[flags, kind, l0, l1], _)) = rest.split_first_chunk::<4>() {
        let length = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        if flags >> 6 != 2 || !(192..=223).contains(&kind) {
            return None;
        }
        let (mut packet, after) = rest.split_at_checked(length)?;
        match kind {
            TYPE_SENDER_REPORT => {
                let report = SenderReport::unmarshal(&mut packet).ok()?;
                reports.push(PeerReport {
                    ssrc: report.ssrc,
                    sender: Some((
                        report.ntp_time,
                        SenderInfo {
                            rtp_timestamp: report.rtp_time,
                            packets: report.packet_count.into(),
                            bytes: report.octet_count.into(),
                        },
                    )),
                    receptions: report.reports,
                });
            }
            TYPE_RECEIVER_REPORT => {
                let report = ReceiverReport::unmarshal(&mut packet).ok()?;
                reports.push(PeerReport {
                    ssrc: report.ssrc,
                    sender: None,
                    receptions: report.reports,
                });
            }
            _ => {}
        }
        rest = after;
    }
    (rest.is_empty() && !datagram.is_empty()).then_some(reports)
}

/// NTP time (RFC 3550 §4) of microseconds since the Unix epoch.
pub const fn ntp_from_unix_micros(micros: u64) -> u64 {
    let seconds = (micros / 1_000_000).wrapping_add(NTP_OFFSET_S);
    let fraction = ((micros % 1_000_000) << 32) / 1_000_000;
    (seconds << 32) | fraction
}

/// The middle 32 bits, as in LSR.
pub const fn ntp_middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// Round trip in microseconds (RFC 3550 §6.4.1): arrival - LSR - DLSR, in units of 1/65536 s.
/// `None` when the phone saw no sender report, or its figures make no sense.
pub fn round_trip_us(arrival_ntp: u64, last_sender_report: u32, delay: u32) -> Option<u32> {
    if last_sender_report == 0 {
        return None;
    }
    let units = ntp_middle(arrival_ntp).wrapping_sub(last_sender_report).wrapping_sub(delay);
    // Above half the range it is negative: clocks that were stepped, or a lie.
    if units > u32::MAX / 2 {
        return None;
    }
    u32::try_from((u64::from(units) * 1_000_000) >> 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_we_make_can_be_read() {
        let reception = ReceptionReport {
            ssrc: 7,
            fraction_lost: 3,
            total_lost: 4,
            last_sequence_number: 5,
            jitter: 6,
            last_sender_report: 8,
            delay: 9,
        };
        let sent = SenderInfo { rtp_timestamp: 160, packets: 1, bytes: 160 };
        let mut compound = Compound {
            ssrc: 1,
            cname: "c",
            ntp: 1 << 40,
            sender: Some(sent),
            reception: Some(reception.clone()),
            goodbye: true,
        };
        let bytes = compound.emit();
        let all = rtcp::packet::unmarshal(&mut &bytes[..]).expect("a compound");
        assert_eq!(all.len(), 3, "SR, SDES, BYE");
        assert!(bytes.ends_with(&[0x81, 203, 0, 1, 0, 0, 0, 1]), "no reason, no padding");
        let sender = Some((1 << 40, sent));
        let expect = PeerReport { ssrc: 1, sender, receptions: vec![reception] };
        assert_eq!(read_reports(&bytes), Some(vec![expect]));
        compound.sender = None;
        compound.reception = None;
        let expect = PeerReport { ssrc: 1, sender: None, receptions: vec![] };
        assert_eq!(read_reports(&compound.emit()), Some(vec![expect]));
        assert_eq!(read_reports(&bytes[..bytes.len() - 1]), None);
        assert_eq!(read_reports(&[]), None);
    }

    #[test]
    fn round_trips() {
        let sent = ntp_from_unix_micros(1_700_000_000_000_000);
        let received = ntp_from_unix_micros(1_700_000_000_150_000);
        let delay = 65_536 / 10; // 100 ms
        let round_trip = round_trip_us(received, ntp_middle(sent), delay).expect("a figure");
        assert!((49_900..50_100).contains(&round_trip), "{round_trip}");
        assert_eq!(round_trip_us(received, 0, 0), None);
        assert_eq!(round_trip_us(sent, ntp_middle(received), 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_reports_or_not(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            kind in 198_u8..208, count in 0_u8..32, words: u8,
        ) {
            if let [flags, packet_type, l0, l1, ..] = &mut bytes[..] {
                (*flags, *packet_type, *l0, *l1) = (0x80 | count, kind, 0, words % 75);
            }
            let _ = read_reports(&bytes);
        }
    }
}
