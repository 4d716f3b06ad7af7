//! SRTP on one leg or both: what a phone with the right keys hears, and what anybody else can do.

use super::*;
use crate::control::{RollOver, Srtp};
use crate::rtp::srtp::{Keying, Receiver, ReceiverState, Sender, SenderState, Suite};

fn keying(byte: u8) -> Keying {
    Keying::new(Suite::AeadAes128Gcm, &[byte; 44]).expect("enough")
}

/// A leg's keys: of what we send, of what the phone sends.
fn keys(sent: u8, received: u8) -> Option<Srtp> {
    Some(Srtp { sent: keying(sent), received: keying(received), roll_over: None })
}

/// A phone's ends of SRTP.
fn ends(sends: u8, receives: u8) -> (Sender, Receiver) {
    let receiver = Receiver::new(&keying(receives), ReceiverState::default());
    (Sender::new(&keying(sends), SenderState::NEW), receiver)
}

/// The caller has SRTP, the callee has not.
fn one_side() -> World {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    spec.legs[0].streams[0].srtp = keys(1, 2);
    World::new(spec)
}

fn sealed(sender: &mut Sender, header: Header, payload: &[u8]) -> Vec<u8> {
    let mut packet = header.with_payload(payload);
    let length = packet.len();
    packet.resize(length + 20, 0);
    let length = sender.protect_rtp(&mut packet, length).expect("a fresh index");
    packet.truncate(length);
    packet
}

fn opened(receiver: &mut Receiver, packet: &[u8]) -> Option<(Header, Vec<u8>)> {
    let mut packet = packet.to_vec();
    let length = receiver.unprotect_rtp(&mut packet).ok()?;
    let header = Header::parse(&packet[..length])?;
    Some((header, packet[header.payload()].to_vec()))
}

impl World {
    fn receive_bytes(&mut self, leg: u16, packet: &[u8]) -> Option<Vec<u8>> {
        self.receive_bytes_from(phone(leg), leg, packet)
    }

    fn receive_bytes_from(
        &mut self,
        source: SocketAddr,
        leg: u16,
        packet: &[u8],
    ) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        buffer[..packet.len()].copy_from_slice(packet);
        let (endpoint, now) = (rtp_of(leg), self.now);
        let forward = self.session.handle_packet(endpoint, source, &mut buffer, packet.len(), now);
        self.drain();
        Some(buffer[..forward?.length].to_vec())
    }

    fn sent_from(&self, endpoint: Endpoint) -> Vec<Vec<u8>> {
        let sent = self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Send { from, packet, .. } if *from == endpoint => Some(packet.clone()),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn one_leg_is_secured_and_the_other_is_not() {
    let mut world = one_side();
    let (mut sender, mut receiver) = ends(2, 1);
    for number in 0..3 {
        let packet = sealed(&mut sender, audio(0, 5, number), &[7; 160]);
        let plain = world.receive_bytes(0, &packet).expect("relayed");
        let header = Header::parse(&plain).expect("plain RTP");
        assert_eq!((plain.len(), &plain[header.payload()]), (172, &[7; 160][..]));
        let secured = world.receive_bytes(1, &audio(0, 6, number).with_payload(&[9; 160]));
        let secured = secured.expect("relayed");
        assert_eq!(secured.len(), 172 + 16);
        let (header, payload) = opened(&mut receiver, &secured).expect("under our key");
        assert_eq!((payload, Some(header.ssrc)), (vec![9; 160], world.statistics(0).sent_ssrc));
    }
    assert_eq!(world.statistics(0).packets_rejected, 0);
    assert_eq!(world.statistics(0).bytes_sent, 480, "payload as it is heard");
}

#[test]
fn each_leg_has_keys_of_its_own() {
    let mut world = one_side();
    world.stream(1).srtp = keys(3, 4);
    world.apply().expect("a wish");
    let (mut sender, _) = ends(2, 1);
    let (_, mut receiver) = ends(4, 3);
    let packet = sealed(&mut sender, audio(0, 5, 0), &[7; 160]);
    let relayed = world.receive_bytes(0, &packet).expect("relayed");
    assert_eq!(opened(&mut receiver, &relayed).expect("the callee's key").1, [7; 160]);
}

#[test]
fn what_is_plain_forged_or_replayed_is_refused_and_counted() {
    let mut world = one_side();
    let (mut sender, _) = ends(2, 1);
    let packet = sealed(&mut sender, audio(0, 5, 0), &[7; 160]);
    let mut forged = packet.clone();
    forged[20] ^= 1;
    let (mut foreign, _) = ends(8, 1);
    let foreign = sealed(&mut foreign, audio(0, 5, 0), &[7; 160]);
    for (count, refused) in
        [forged, foreign, audio(0, 5, 0).with_payload(&[1; 160])].iter().enumerate()
    {
        assert_eq!(world.receive_bytes(0, refused), None);
        assert_eq!(world.statistics(0).packets_rejected, count as u64 + 1);
    }
    assert_eq!(world.statistics(0).latched, None, "nobody is believed without the key");
    assert!(world.receive_bytes(0, &packet).is_some());
    assert_eq!(world.receive_bytes(0, &packet), None, "a replay");
    let statistics = world.statistics(0);
    assert_eq!((statistics.packets_rejected, statistics.packets_received), (4, 1));
}

/// A phone that comes from another address proves itself by its key, whatever its SSRC and sequence number are.
#[test]
fn who_has_the_key_is_followed_to_another_address_after_silence() {
    use crate::relay::Refusal;
    let mut world = one_side();
    let (mut sender, _) = ends(2, 1);
    let (mut other, _) = ends(8, 1);
    let moved: SocketAddr = "203.0.113.9:61001".parse().expect("an address");
    let first = sealed(&mut sender, audio(0, 5, 0), &[7; 160]);
    assert!(world.receive_bytes(0, &first).is_some());
    let refused = |world: &mut World, packet: &[u8], why| {
        assert_eq!(world.receive_bytes_from(moved, 0, packet), None);
        assert_eq!(world.session.refusal(), Some(why));
    };
    world.pass(Duration::from_millis(499));
    let early = sealed(&mut sender, audio(0, 50, 900), &[7; 160]);
    refused(&mut world, &early, Refusal::Source);
    world.pass(Duration::from_millis(1));
    refused(&mut world, &audio(0, 5, 1).with_payload(&[1; 160]), Refusal::Srtp);
    refused(&mut world, &sealed(&mut other, audio(0, 5, 1), &[7; 160]), Refusal::Srtp);
    assert_eq!(world.statistics(0).latched, Some(phone(0)));
    let authentic = sealed(&mut sender, audio(0, 50, 901), &[7; 160]);
    assert!(world.receive_bytes_from(moved, 0, &authentic).is_some());
    assert_eq!(world.statistics(0).latched, Some(moved));
    assert_eq!(world.statistics(0).packets_rejected, 3);
}

#[test]
fn a_repeat_in_plain_is_not_protected_twice() {
    let mut world = one_side();
    let first = world.receive_bytes(1, &audio(0, 6, 0).with_payload(&[1; 160]));
    assert!(first.is_some());
    assert_eq!(world.receive_bytes(1, &audio(0, 6, 0).with_payload(&[2; 160])), None);
}

#[test]
fn made_audio_digits_keep_alives_and_rtcp_are_protected_too() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMA", 8, 8));
    spec.legs[0].streams[0].telephone_event = events(101, 101, 8_000);
    spec.legs[0].streams[0].srtp = keys(1, 2);
    spec.acts = vec![Act::SendDigits { number: 1, leg: LegId(0), digits: "5".to_owned() }];
    let mut world = World::new(spec);
    let (mut sender, mut receiver) = ends(2, 1);
    for number in 0..100 {
        let packet = sealed(&mut sender, audio(0, 5, number), &[0x55; 160]);
        assert_eq!(world.receive_bytes(0, &packet), None, "transcoded");
        world.receive_bytes(1, &audio(8, 6, number).with_payload(&[0xd5; 160]));
        world.pass(Duration::from_millis(20));
    }
    world.pass(Duration::from_secs(40));
    let mut kinds = std::collections::BTreeSet::new();
    for packet in world.sent_from(rtp_of(0)) {
        let (header, _) = opened(&mut receiver, &packet).expect("under our key");
        kinds.insert(header.payload_type);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 101, 127], "audio, digit, keep-alive");
    assert!(world.made_for(1).len() > 90, "the callee hears it transcoded, in clear");
    let rtcp = Endpoint { channel: Channel::Rtcp, ..rtp_of(0) };
    let reports = world.sent_from(rtcp);
    assert!(reports.len() > 2);
    for mut report in reports {
        assert_eq!(read_reports(&report).filter(|read| read.len() > 1), None);
        let length = receiver.unprotect_rtcp(&mut report).expect("under our key");
        assert!(read_reports(&report[..length]).is_some());
    }
    // The phone's own reports are read once opened, and only then.
    let ours = world.statistics(0).sent_ssrc.expect("chosen");
    let reception = ReceptionReport { ssrc: ours, total_lost: 3, ..ReceptionReport::default() };
    let compound = Compound {
        ssrc: 5,
        cname: "p",
        ntp: ntp_from_unix_micros(world.now.as_micros()),
        sender: None,
        reception: Some(reception),
        goodbye: false,
    };
    let mut packet = compound.emit();
    let length = packet.len();
    let mut source = phone(0);
    source.set_port(4_001);
    world.session.handle_packet(rtcp, source, &mut packet.clone(), length, world.now);
    assert_eq!(world.statistics(0).reported_lost, None, "in clear");
    packet.resize(length + 20, 0);
    let length = sender.protect_rtcp(&mut packet, length).expect("protected");
    world.session.handle_packet(rtcp, source, &mut packet, length, world.now);
    assert_eq!(world.statistics(0).reported_lost, Some(3));
    world.drain();
    let exchanged = world.exchanged();
    let of_it = exchanged.iter().filter(|packet| packet.leg == LegId(0));
    let of_it: Vec<_> = of_it.collect();
    assert!(of_it.iter().all(|packet| read_reports(&packet.bytes).is_some()), "what is inside");
    assert_eq!(of_it.last().map(|last| last.bytes.to_vec()), Some(compound.emit()));
}

#[test]
fn a_new_key_begins_and_the_former_is_heard_until_then() {
    let mut world = one_side();
    let (mut sender, mut receiver) = ends(2, 1);
    let packet = sealed(&mut sender, audio(0, 5, 0), &[7; 160]);
    assert!(world.receive_bytes(0, &packet).is_some());
    // Repeating the wish interrupts nothing: the same index is refused still.
    world.apply().expect("the same");
    assert_eq!(world.receive_bytes(0, &packet), None);
    world.stream(0).srtp = keys(3, 4);
    world.apply().expect("new keys");
    let late = sealed(&mut sender, audio(0, 5, 1), &[7; 160]);
    assert!(world.receive_bytes(0, &late).is_some(), "it was on its way");
    let (mut sender_4, mut receiver_3) = ends(4, 3);
    let new = sealed(&mut sender_4, audio(0, 5, 2), &[7; 160]);
    assert!(world.receive_bytes(0, &new).is_some());
    let late = sealed(&mut sender, audio(0, 5, 3), &[7; 160]);
    assert_eq!(world.receive_bytes(0, &late), None, "the former key is over");
    let sent = world.receive_bytes(1, &audio(0, 6, 0).with_payload(&[9; 160])).expect("relayed");
    assert!(opened(&mut receiver, &sent).is_none());
    assert!(opened(&mut receiver_3, &sent).is_some());
}

#[test]
fn a_roll_over_is_told_and_a_new_process_goes_on_from_it() {
    let mut world = one_side();
    let (mut sender, _) = ends(2, 1);
    let at = |number: u32| Header { sequence: number as u16, ..audio(0, 5, 0) };
    for number in [65_000, 65_535, 65_537, 65_600] {
        let packet = sealed(&mut sender, at(number), &[7; 160]);
        assert!(world.receive_bytes(0, &packet).is_some(), "{number}");
    }
    world.pass(Duration::from_secs(11));
    let told: Vec<_> = world
        .reports()
        .iter()
        .filter_map(|report| match report.kind {
            ReportKind::RolledOver { leg, stream, roll_over } => Some((leg, stream, roll_over)),
            _ => None,
        })
        .collect();
    let roll_over = RollOver { ssrc: 5, count: 1 };
    assert_eq!(told, [(LegId(0), 0, roll_over)], "told once");
    // Killed: the heir knows what was told. Meanwhile the phone rolled over once more.
    for number in [90_000, 120_000, 140_000] {
        sealed(&mut sender, at(number), &[7; 160]);
    }
    let packet = sealed(&mut sender, at(140_001), &[7; 160]);
    for (told, expect) in [(Some(roll_over), true), (None, true)] {
        let mut heir = one_side();
        heir.stream(0).srtp = keys(1, 2).map(|keys| Srtp { roll_over: told, ..keys });
        heir.session = Session::new(SessionId(9), 78, heir.now);
        heir.apply().expect("applied");
        assert_eq!(heir.receive_bytes(0, &packet).is_some(), expect, "{told:?}");
    }
    for number in [170_000, 200_000, 230_000, 262_144 + 9] {
        sealed(&mut sender, at(number), &[7; 160]);
    }
    let packet = sealed(&mut sender, at(262_144 + 10), &[7; 160]);
    for (count, expect) in [(1, false), (2, true), (4, true)] {
        let mut heir = one_side();
        let told = Some(RollOver { ssrc: 5, count });
        heir.stream(0).srtp = keys(1, 2).map(|keys| Srtp { roll_over: told, ..keys });
        heir.session = Session::new(SessionId(9), 78, heir.now);
        heir.apply().expect("applied");
        assert_eq!(heir.receive_bytes(0, &packet).is_some(), expect, "told {count}");
    }
}

#[test]
fn a_session_that_moves_goes_on_under_the_same_counters() {
    let mut world = one_side();
    let (mut sender, mut receiver) = ends(2, 1);
    let packet = sealed(&mut sender, audio(0, 5, 0), &[7; 160]);
    assert!(world.receive_bytes(0, &packet).is_some());
    let sent = world.receive_bytes(1, &audio(0, 6, 0).with_payload(&[9; 160])).expect("relayed");
    assert!(opened(&mut receiver, &sent).is_some());
    let bytes = world.session.snapshot();
    world.session = Session::restored(&bytes).expect("of our own version");
    assert_eq!(world.receive_bytes(0, &packet), None, "a replay still");
    assert_eq!(world.receive_bytes(1, &audio(0, 6, 0).with_payload(&[8; 160])), None, "used");
    let next = sealed(&mut sender, audio(0, 5, 1), &[7; 160]);
    assert!(world.receive_bytes(0, &next).is_some());
    let sent = world.receive_bytes(1, &audio(0, 6, 1).with_payload(&[9; 160])).expect("relayed");
    assert!(opened(&mut receiver, &sent).is_some());
}
