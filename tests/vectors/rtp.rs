//! RTP, telephone events and RTCP as bytes written by hand from RFC 3550 and RFC 4733.

use holdfast::rtp::rtcp::{ntp_from_unix_micros, ntp_middle, read_reports, round_trip_us};
use holdfast::rtp::{EventPayload, Header};

#[test]
fn headers() {
    #[rustfmt::skip]
    let with_everything = [
        0xb1, 0x80 | 96, 0x12, 0x34, // V=2 P X CC=1, M, sequence
        0x01, 0x02, 0x03, 0x04, 0xaa, 0xbb, 0xcc, 0xdd, // timestamp, SSRC
        0, 0, 0, 1, // CSRC
        0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0, // one word of extension
        b'h', b'i', // payload
        0, 2, // padding
    ];
    let header = Header::parse(&with_everything).expect("RTP");
    assert_eq!((header.payload_type, header.marker, header.sequence), (96, true, 0x1234));
    assert_eq!((header.timestamp, header.ssrc), (0x0102_0304, 0xaabb_ccdd));
    assert_eq!(&with_everything[header.payload()], b"hi");
    let plain = [0x80, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 7];
    assert_eq!(Header::parse(&plain).map(|header| header.payload_bytes()), Some(0));
    for (what, bytes) in [
        ("nothing", &[][..]),
        ("a keep-alive of four zeros", &[0, 0, 0, 0]),
        ("CRLF", b"\r\n"),
        ("STUN binding request", &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("CSRCs that are not there", &[0x8f, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 7]),
        ("an extension that is not there", &[0x90, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 7]),
        ("padding beyond the packet", &[0xa0, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 77]),
    ] {
        assert_eq!(Header::parse(bytes), None, "{what}");
    }
}

#[test]
fn telephone_events() {
    // RFC 4733 §2.3: event, E R volume, duration.
    let star = EventPayload::parse(&[10, 0x80 | 10, 0x03, 0x20]).expect("an event");
    assert_eq!((star.event, star.end, star.volume, star.duration), (10, true, 10, 800));
    assert_eq!(star.emit(), [10, 0x8a, 0x03, 0x20]);
}

#[test]
fn a_compound_of_a_phone() {
    #[rustfmt::skip]
    let compound = [
        0x81, 200, 0, 12, 0, 0, 0, 6, // SR with one report, SSRC 6
        0xb7, 0x05, 0x20, 0x00, 0x25, 0x43, 0x64, 0x00, // NTP: 0xb705:2000 . 0x2543:6400
        0, 0, 0, 160, 0, 0, 0, 1, 0, 0, 0, 160, // RTP time, packets, octets
        0, 0, 0, 5, 0x40, 0, 0, 9, 0, 1, 0, 2, 0, 0, 0, 80, // SSRC, lost, sequence, jitter
        0, 0, 0, 0, 0, 0, 0, 0, // LSR, DLSR
        0x81, 202, 0, 2, 0, 0, 0, 6, 1, 1, b'p', 0, // SDES: CNAME p
        0x80, 207, 0, 1, 0, 0, 0, 6, // XR without blocks
    ];
    let reports = read_reports(&compound).expect("RTCP");
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].ssrc, 6);
    assert_eq!(reports[0].sender.map(|(ntp, _)| ntp_middle(ntp)), Some(0x2000_2543));
    let reception = &reports[0].receptions[0];
    assert_eq!((reception.ssrc, reception.fraction_lost, reception.total_lost), (5, 0x40, 9));
    assert_eq!((reception.last_sequence_number, reception.jitter), (0x1_0002, 80));
}

#[test]
fn the_round_trip_of_rfc_3550_figure_2() {
    // A = 0xb710:8000 (46864.500 s), LSR = 0xb705:2000, DLSR = 0x0005:4000: 6.125 s.
    let arrival = 0xb710_8000_u64 << 16;
    assert_eq!(round_trip_us(arrival, 0xb705_2000, 0x0005_4000), Some(6_125_000));
    // 1 January 1970 in NTP time.
    assert_eq!(ntp_from_unix_micros(0) >> 32, 2_208_988_800);
    assert_eq!(ntp_from_unix_micros(500_000) & 0xffff_ffff, 0x8000_0000);
}
