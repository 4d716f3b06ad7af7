//! SRTP against known packets and against another implementation, both ways, in all suites.

use holdfast::rtp::srtp::{Keying, Receiver, ReceiverState, Refused, Sender, SenderState, Suite};
use proptest::prelude::*;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

fn profile(suite: Suite) -> ProtectionProfile {
    match suite {
        Suite::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        Suite::AesCm128HmacSha1_32 => ProtectionProfile::Aes128CmHmacSha1_32,
        Suite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Suite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    }
}

fn oracle(keying: &Keying) -> Context {
    let suite = keying.suite();
    let (key, salt) = keying.bytes().split_at(suite.key_bytes());
    Context::new(key, salt, profile(suite), None, None).expect("a context")
}

fn ours(keying: &Keying) -> (Sender, Receiver) {
    let receiver = Receiver::new(keying, ReceiverState::default());
    (Sender::new(keying, SenderState::NEW), receiver)
}

/// A packet with CSRCs, an extension and padding, as `shape` says.
fn rtp(sequence: u16, shape: u8, payload: &[u8]) -> Vec<u8> {
    let csrcs = shape & 3;
    let (extended, padded) = (shape & 4 != 0, shape & 8 != 0);
    let mut packet = vec![0x80 | csrcs | u8::from(extended) << 4 | u8::from(padded) << 5, 0x60];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 1, 2, 0xca, 0xfe, 0xba, 0xbe]);
    packet.extend((0..csrcs * 4).map(|byte| byte + 1));
    if extended {
        packet.extend_from_slice(&[0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0]);
    }
    packet.extend_from_slice(payload);
    if padded {
        packet.extend_from_slice(&[0, 0, 3]);
    }
    packet
}

fn protect(sender: &mut Sender, packet: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    buffer[..packet.len()].copy_from_slice(packet);
    let length = sender.protect_rtp(&mut buffer, packet.len()).expect("a fresh index");
    buffer[..length].to_vec()
}

fn protect_rtcp(sender: &mut Sender, packet: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    buffer[..packet.len()].copy_from_slice(packet);
    let length = sender.protect_rtcp(&mut buffer, packet.len()).expect("a fresh index");
    buffer[..length].to_vec()
}

fn opened(receiver: &mut Receiver, packet: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut packet = packet.to_vec();
    let length = receiver.unprotect_rtp(&mut packet)?;
    Ok(packet[..length].to_vec())
}

fn opened_rtcp(receiver: &mut Receiver, packet: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut packet = packet.to_vec();
    let length = receiver.unprotect_rtcp(&mut packet)?;
    Ok(packet[..length].to_vec())
}

#[test]
fn the_reference_packets_of_counter_mode() {
    // Master key and salt of RFC 3711 B.3, the packets that libsrtp has checked itself with ever since.
    #[rustfmt::skip]
    let master = [
        0xe1, 0xf9, 0x7a, 0x0d, 0x3e, 0x01, 0x8b, 0xe0, 0xd6, 0x4f, 0xa3, 0x2c, 0x06, 0xde, 0x41, 0x39,
        0x0e, 0xc6, 0x75, 0xad, 0x49, 0x8a, 0xfe, 0xeb, 0xb6, 0x96, 0x0b, 0x3a, 0xab, 0xe6,
    ];
    let keying = Keying::new(Suite::AesCm128HmacSha1_80, &master).expect("30 bytes");
    let (mut sender, mut receiver) = ours(&keying);
    #[rustfmt::skip]
    let mut plain = vec![0x80, 0x0f, 0x12, 0x34, 0xde, 0xca, 0xfb, 0xad, 0xca, 0xfe, 0xba, 0xbe];
    plain.extend([0xab; 16]);
    #[rustfmt::skip]
    let protected = [
        0x80, 0x0f, 0x12, 0x34, 0xde, 0xca, 0xfb, 0xad, 0xca, 0xfe, 0xba, 0xbe,
        0x4e, 0x55, 0xdc, 0x4c, 0xe7, 0x99, 0x78, 0xd8, 0x8c, 0xa4, 0xd2, 0x15, 0x94, 0x9d, 0x24, 0x02,
        0xb7, 0x8d, 0x6a, 0xcc, 0x99, 0xea, 0x17, 0x9b, 0x8d, 0xbb,
    ];
    assert_eq!(protect(&mut sender, &plain), protected);
    assert_eq!(opened(&mut receiver, &protected), Ok(plain));
    let mut report = vec![0x81, 0xc8, 0x00, 0x0b, 0xca, 0xfe, 0xba, 0xbe];
    report.extend([0xab; 16]);
    #[rustfmt::skip]
    let protected = [
        0x81, 0xc8, 0x00, 0x0b, 0xca, 0xfe, 0xba, 0xbe,
        0x71, 0x28, 0x03, 0x5b, 0xe4, 0x87, 0xb9, 0xbd, 0xbe, 0xf8, 0x90, 0x41, 0xf9, 0x77, 0xa5, 0xa8,
        0x80, 0x00, 0x00, 0x01, 0x99, 0x3e, 0x08, 0xcd, 0x54, 0xd6, 0xc1, 0x23, 0x07, 0x98,
    ];
    assert_eq!(opened_rtcp(&mut receiver, &protected), Ok(report.clone()));
    // Ours begins at index 0, so that one comes second.
    protect_rtcp(&mut sender, &report);
    assert_eq!(protect_rtcp(&mut sender, &report), protected);
}

#[test]
fn a_wrong_tag_and_a_repeat_are_refused_and_change_nothing() {
    for suite in Suite::ALL {
        let keying = Keying::new(suite, &[3; 44]).expect("enough");
        let (mut sender, mut receiver) = ours(&keying);
        for sequence in 1..4 {
            let plain = rtp(sequence, 0, b"voice");
            let sealed = protect(&mut sender, &plain);
            let mut forged = sealed.clone();
            for at in 0..forged.len() {
                forged[at] ^= 0x40;
                assert!(opened(&mut receiver, &forged).is_err(), "{suite:?} byte {at}");
                forged[at] ^= 0x40;
            }
            assert_eq!(opened(&mut receiver, &sealed), Ok(plain), "{suite:?}");
            assert_eq!(opened(&mut receiver, &sealed), Err(Refused::Replayed), "{suite:?}");
        }
        let report = [&[0x80, 200, 0, 6, 0xca, 0xfe, 0xba, 0xbe][..], &[5; 20]].concat();
        let sealed = protect_rtcp(&mut sender, &report);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(opened_rtcp(&mut receiver, &forged).is_err(), "{suite:?} byte {at}");
        }
        assert_eq!(opened_rtcp(&mut receiver, &sealed), Ok(report), "{suite:?}");
        assert_eq!(opened_rtcp(&mut receiver, &sealed), Err(Refused::Replayed), "{suite:?}");
    }
}

#[test]
fn another_implementation_and_ours_across_a_roll_over() {
    for suite in Suite::ALL {
        let keying = Keying::new(suite, &[9; 44]).expect("enough");
        let (mut sender, mut receiver) = ours(&keying);
        let (mut from, mut to) = (oracle(&keying), oracle(&keying));
        for sequence in (65_500..65_536).chain(0..40) {
            let plain = rtp(sequence as u16, 0, &[sequence as u8; 160]);
            let theirs = from.encrypt_rtp(&plain).expect("encrypted");
            let mine = protect(&mut sender, &plain);
            assert_eq!(&mine[..], &theirs[..], "{suite:?} {sequence}");
            assert_eq!(to.decrypt_rtp(&mine).expect("authentic")[..], plain[..], "{suite:?}");
            assert_eq!(opened(&mut receiver, &theirs), Ok(plain), "{suite:?} {sequence}");
        }
        assert_eq!(receiver.state().roll_over(), Some((0xcafe_babe, 1)), "{suite:?}");
    }
}

proptest! {
    #[test]
    fn another_implementation_reads_ours_and_we_read_its(
        suite in proptest::sample::select(Suite::ALL.to_vec()),
        entropy in proptest::collection::vec(any::<u8>(), 44),
        first in 0_u16..60_000, shape in 0_u8..16,
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..5),
    ) {
        let keying = Keying::new(suite, &entropy).expect("enough");
        let (mut sender, mut receiver) = ours(&keying);
        let (mut from, mut to) = (oracle(&keying), oracle(&keying));
        for (sequence, payload) in (first..).zip(&payloads) {
            let plain = rtp(sequence, shape, payload);
            let sealed = protect(&mut sender, &plain);
            prop_assert_eq!(&to.decrypt_rtp(&sealed).expect("authentic")[..], &plain[..]);
            let sealed = from.encrypt_rtp(&plain).expect("encrypted");
            prop_assert_eq!(opened(&mut receiver, &sealed), Ok(plain));
            // A receiver report without blocks, and a tail of whole words.
            let mut report = vec![0x80, 201, 0, 1, 0xca, 0xfe, 0xba, 0xbe];
            report.extend_from_slice(&payload[..payload.len() & !3]);
            let sealed = protect_rtcp(&mut sender, &report);
            prop_assert_eq!(&to.decrypt_rtcp(&sealed).expect("authentic")[..], &report[..]);
            let sealed = from.encrypt_rtcp(&report).expect("encrypted");
            prop_assert_eq!(opened_rtcp(&mut receiver, &sealed), Ok(report));
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), first: u8) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() { *byte = first & 0x3f | 0x80; }
        for suite in Suite::ALL {
            let (_, mut receiver) = ours(&Keying::new(suite, &[1; 44]).expect("enough"));
            prop_assert!(opened(&mut receiver, &bytes).is_err());
            prop_assert!(opened_rtcp(&mut receiver, &bytes).is_err());
        }
    }
}
