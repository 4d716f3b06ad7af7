//! The RFCs' vectors, which are about session keys, and what happens at the edges of counters.

use super::cipher::Keys;
use super::derivation::{Label, derive};
use super::index::Window;
use super::*;
use aws_lc_rs::aead;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let text = core::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("two digits")
    };
    digits.chunks(2).map(byte).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().expect("so many bytes")
}

#[test]
fn key_derivation_of_rfc_3711_b_3() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
    let keying = Keying::new(Suite::AesCm128HmacSha1_80, &master).expect("30 bytes");
    let key: [u8; 16] = derive(&keying, Label::RtpEncryption);
    assert_eq!(key, array("C61E7A93744F39EE10734AFE3FF7A087"));
    let salt: [u8; 14] = derive(&keying, Label::RtpSalt);
    assert_eq!(salt, array("30CBBC08863D8C85D49DB34A9AE1"));
    let authentication: [u8; 94] = derive(&keying, Label::RtpAuthentication);
    assert_eq!(
        authentication,
        array(
            "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF7227098
             6371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2"
        )
    );
}

#[test]
fn keystream_of_rfc_3711_b_2() {
    // SSRC and index are 0, so the keystream begins at the salt; a packet of zeros shows it.
    let keys = Keys::counter(
        array("2B7E151628AED2A6ABF7158809CF4F3C"),
        &[0; 20],
        array("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"),
        10,
    );
    let mut packet = [0; 12 + 48 + 10];
    assert_eq!(keys.seal_rtp((0, 0), 12, &mut packet, 60), Some(70));
    let expect = hex("E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB
         41E95B3BB0A2E8DD477901E4FCA894C0");
    assert_eq!(packet[12..60], expect);
}

/// RFC 7714 §16 and §17: name, key, packet, protected packet.
#[rustfmt::skip]
const GCM: [(&str, &str, &str); 4] = [
    ("rtp 000102030405060708090a0b0c0d0e0f",
     "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465
      73207472 6573",
     "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b
      36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce"),
    ("rtp 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
     "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465
      73207472 6573",
     "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f
      1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13"),
    ("rtcp 000102030405060708090a0b0c0d0e0f",
     "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef
      deadbeef deadbeef",
     "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46
      86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4"),
    ("rtcp 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
     "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef
      deadbeef deadbeef",
     "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50 a2eaa5c1 110555be 8415f658
      c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4"),
];

#[test]
fn gcm_of_rfc_7714() {
    for (what, plain, protected) in GCM {
        let (kind, key) = what.split_once(' ').expect("a kind and a key");
        let key = hex(key);
        let algorithm = if key.len() == 16 { &aead::AES_128_GCM } else { &aead::AES_256_GCM };
        let keys = Keys::gcm(algorithm, &key, array("517569642070726f2071756f"));
        let (plain, protected) = (hex(plain), hex(protected));
        let mut buffer = [0; 200];
        buffer[..plain.len()].copy_from_slice(&plain);
        let length = if kind == "rtp" {
            keys.seal_rtp((0x5501_a0b2, 0xf17b), 12, &mut buffer, plain.len())
        } else {
            keys.seal_rtcp((0x4d61_7273, 0x5d4), &mut buffer, plain.len())
        };
        assert_eq!(buffer[..length.expect("sealed")], protected, "{what}");
        let sealed = &mut buffer[..protected.len()];
        let length = if kind == "rtp" {
            keys.open_rtp((0x5501_a0b2, 0xf17b), 12, sealed)
        } else {
            assert_eq!(keys.rtcp_index(sealed), Some(0x5d4));
            keys.open_rtcp((0x4d61_7273, 0x5d4), sealed)
        };
        assert_eq!(length, Some(plain.len()), "{what}");
        assert_eq!(buffer[..plain.len()], plain, "{what}");
    }
}

#[test]
fn an_index_is_estimated_near_the_greatest_and_seen_once() {
    let mut window = Window::NEW;
    let check = |window: &Window, sequence: u16, expect: u64| {
        assert_eq!(window.estimate(sequence), expect, "{sequence}");
    };
    check(&window, 65_000, 65_000);
    window.mark(3);
    // Before the first roll-over there is none to go back to.
    check(&window, 65_530, 65_530);
    window.mark(40_000);
    check(&window, 5, 65_536 + 5);
    window.mark(65_536 + 5);
    check(&window, 65_535, 65_535);
    assert!(window.is_fresh(65_535) && !window.is_fresh(65_536 + 5));
    window.mark(65_535);
    assert!(!window.is_fresh(65_535) && window.is_fresh(65_536));
    assert!(!window.is_fresh(65_536 + 5 - 128), "too old to tell");
    assert!(window.is_fresh(65_536 + 5 - 127));
    window.mark(200_000);
    assert!(!window.is_fresh(200_000) && window.is_fresh(199_999));
    assert_eq!(window.roll_over(), 3);
}

const SUITE: Suite = Suite::AesCm128HmacSha1_80;

fn keying() -> Keying {
    Keying::new(SUITE, &[7; 30]).expect("30 bytes")
}

fn packet(sequence: u16) -> ([u8; 64], usize) {
    let mut buffer = [0; 64];
    buffer[0] = 0x80;
    buffer[2..4].copy_from_slice(&sequence.to_be_bytes());
    buffer[8..12].copy_from_slice(&9_u32.to_be_bytes());
    (buffer, 32)
}

fn protected(sender: &mut Sender, sequence: u16) -> Vec<u8> {
    let (mut buffer, length) = packet(sequence);
    let length = sender.protect_rtp(&mut buffer, length).expect("a fresh index");
    buffer[..length].to_vec()
}

#[test]
fn a_receiver_that_slept_through_roll_overs_finds_its_place() {
    let mut sender = Sender::new(&keying(), SenderState::NEW);
    for sequence in (0..=3 * 65_536_u32).step_by(1_000) {
        protected(&mut sender, sequence as u16);
    }
    // The sender is in its third roll-over now.
    for (told, expect) in [(0, false), (1, true), (2, true), (3, true)] {
        let mut receiver = Receiver::new(&keying(), ReceiverState::told(9, told));
        let mut sealed = protected(&mut sender, 1_000 + told as u16);
        assert_eq!(receiver.unprotect_rtp(&mut sealed).is_ok(), expect, "told {told}");
        assert_eq!(receiver.state().roll_over(), expect.then_some((9, 3)));
    }
}

#[test]
fn a_known_source_is_searched_only_after_many_failures() {
    let mut sender = Sender::new(&keying(), SenderState::NEW);
    let mut receiver = Receiver::new(&keying(), ReceiverState::default());
    let mut first = protected(&mut sender, 1);
    assert_eq!(receiver.unprotect_rtp(&mut first), Ok(32));
    for sequence in [30_000, 60_000] {
        protected(&mut sender, sequence);
    }
    let missed = |sender: &mut Sender, sequence| protected(sender, sequence);
    for failed in 0..16 {
        let mut sealed = missed(&mut sender, 20 + failed);
        assert_eq!(receiver.unprotect_rtp(&mut sealed), Err(Refused::Forged), "{failed}");
    }
    let mut sealed = missed(&mut sender, 40);
    assert_eq!(receiver.unprotect_rtp(&mut sealed), Ok(32));
    assert_eq!(receiver.state().roll_over(), Some((9, 1)));
}

#[test]
fn nothing_is_sent_twice_under_one_index() {
    let mut sender = Sender::new(&keying(), SenderState::NEW);
    protected(&mut sender, 10);
    let (mut again, length) = packet(10);
    again[20] = 1;
    assert_eq!(sender.protect_rtp(&mut again, length), None);
    // Not after the stream moved to another process either.
    let mut heir = Sender::new(&keying(), sender.state());
    assert_eq!(heir.protect_rtp(&mut again, length), None);
    protected(&mut heir, 9);
    protected(&mut heir, 11);
}

#[test]
fn state_goes_to_another_process() {
    let mut sender = Sender::new(&keying(), SenderState::NEW);
    let mut receiver = Receiver::new(&keying(), ReceiverState::default());
    for sequence in [65_000, 2_000] {
        let mut sealed = protected(&mut sender, sequence);
        assert_eq!(receiver.unprotect_rtp(&mut sealed), Ok(32));
    }
    let bytes = postcard::to_allocvec(&(sender.state(), receiver.state())).expect("bytes");
    let (sender_state, receiver_state) = postcard::from_bytes(&bytes).expect("the same");
    let mut sender = Sender::new(&keying(), sender_state);
    let mut receiver = Receiver::new(&keying(), receiver_state);
    let mut sealed = protected(&mut sender, 2_001);
    let mut again = sealed.clone();
    assert_eq!(receiver.unprotect_rtp(&mut sealed), Ok(32));
    assert_eq!(receiver.unprotect_rtp(&mut again), Err(Refused::Replayed));
    assert_eq!(receiver.state().roll_over(), Some((9, 1)));
}

#[test]
fn a_forger_makes_no_state_and_a_phone_no_more_than_four() {
    let mut receiver = Receiver::new(&keying(), ReceiverState::default());
    let (forged, _) = packet(5);
    assert_eq!(receiver.unprotect_rtp(&mut forged.clone()), Err(Refused::Forged));
    assert_eq!(receiver.state(), &ReceiverState::default());
    for ssrc in 0..9_u32 {
        let (mut buffer, length) = packet(5);
        buffer[8..12].copy_from_slice(&ssrc.to_be_bytes());
        let mut sender = Sender::new(&keying(), SenderState::NEW);
        let length = sender.protect_rtp(&mut buffer, length).expect("fresh");
        assert_eq!(receiver.unprotect_rtp(&mut buffer[..length]), Ok(32));
    }
    assert_eq!(receiver.state().sources(), 4);
}

#[test]
fn keys_are_not_shown() {
    let keying = keying();
    let shown = format!("{keying:?} {:?}", Receiver::new(&keying, ReceiverState::default()));
    assert!(shown.starts_with("Keying(AES_CM_128_HMAC_SHA1_80, ..)"), "{shown}");
    assert!(!shown.contains("7, 7"), "{shown}");
}
