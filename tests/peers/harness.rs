//! The tools of these tests against each other, so that a green test says something about the server.

use super::common::baresip::{self, Baresip};
use super::common::rtp::Talk;
use super::common::sipp::{self, Sipp};
use super::common::speech;
use super::common::tone::{Audio, RATE_HZ, tone};
use std::net::{Ipv4Addr, SocketAddr};

#[test]
fn a_tone_is_told_from_silence_noise_and_other_tones() {
    let silence = Audio { rate_hz: RATE_HZ, samples: vec![0; 8_000] };
    // A fixed sequence that has no period of note.
    let mut state = 1_u32;
    let noise = (0..8_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 17) as i16 - 16_384
    });
    let noise = Audio { rate_hz: RATE_HZ, samples: noise.collect() };
    let quiet = tone(700, 1).samples.iter().map(|sample| sample / 100).collect();
    let quiet = Audio { rate_hz: RATE_HZ, samples: quiet };
    for (audio, name, expect) in [
        (tone(700, 1), "the tone", true),
        (tone(900, 1), "another", false),
        (tone(710, 1), "one beside it", false),
        (silence, "silence", false),
        (noise, "noise", false),
        (quiet, "a whisper", false),
        (Audio::default(), "nothing", false),
    ] {
        assert_eq!(audio.is_tone(700), expect, "{name}");
    }
    speech::check_ulaw();
}

#[test]
fn our_phones_hear_each_other() {
    let (one, other) = (Talk::new(500), Talk::new(900));
    one.to((Ipv4Addr::LOCALHOST, other.port).into());
    other.hears(500);
    assert!(one.heard().last().is_none(), "nobody sends there");
    other.to((Ipv4Addr::LOCALHOST, one.port).into());
    one.hears(900);
}

fn pair(codecs: &str) -> (Baresip, Baresip) {
    let start = |user, tone_hz| {
        let settings = baresip::Settings { user, tone_hz, codecs, ..Default::default() };
        Baresip::start(&settings)
    };
    (start("alice", 500), start("bob", 900))
}

#[test]
fn baresip_calls_baresip_and_each_hears_the_other() {
    for codecs in ["PCMU/8000/1", "opus/48000/2", "G722/16000/1"] {
        let (mut alice, mut bob) = pair(codecs);
        alice.dial(&format!("sip:bob@{}", bob.sip));
        alice.event("CALL_ESTABLISHED");
        bob.event("CALL_ESTABLISHED");
        alice.hears(900);
        bob.hears(500);
        alice.hang_up();
        bob.event("CALL_CLOSED");
    }
}

#[test]
fn sipp_calls_sipp() {
    for transport in ["u1", "t1"] {
        let settings = |scenario, remote| sipp::Settings {
            scenario,
            remote,
            port: None,
            transport,
            user: "alice",
            password: "none",
            callee: "bob",
        };
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let callee = Sipp::start(&settings("callee", nobody));
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, callee.port));
        Sipp::run(&settings("caller_unchallenged", remote));
        callee.succeeds();
    }
}
