//! Sessions as phones see them: packets in, packets out, audio judged by its content.

mod missed;
mod offload;
mod snapshot;
mod srtp;

use super::*;
use crate::codec::tone::{Sine, power_at};
use crate::codec::{Kind, MOST_PAYLOAD_BYTES, MOST_SAMPLES};
use crate::control::{
    Act, Apply, Carried, Codec, Hears, LegSpec, Refusal, Release, RemoteStream, ReportKind, Resume,
    SessionSpec, StreamSpec, StreamStatistics, TelephoneEvent, Tone,
};
use crate::ids::{Epoch, Rev, SessionId};
use crate::rtp::rtcp::{Compound, ReceptionReport, ntp_from_unix_micros, read_reports};
use crate::rtp::{EventPayload, Header};
use crate::time::Timestamp;
use core::time::Duration;
use proptest::prelude::*;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn codec(encoding: &str, received: u8, sent: u8) -> Codec {
    let opus = encoding == "opus";
    Codec {
        encoding: encoding.into(),
        clock_rate_hz: if opus { 48_000 } else { 8_000 },
        channels: if opus { 2 } else { 1 },
        fmtp: None,
        payload_type_sent: sent,
        payload_type_received: received,
        ptime_ms: 20,
    }
}

fn events(received: u8, sent: u8, clock_rate_hz: u32) -> Option<TelephoneEvent> {
    Some(TelephoneEvent { payload_type_sent: sent, payload_type_received: received, clock_rate_hz })
}

fn phone(leg: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, leg as u8 + 1], 4_000))
}

fn rtp_of(leg: u16) -> Endpoint {
    Endpoint { leg: LegId(leg), stream: 0, channel: Channel::Rtp }
}

fn leg(number: u16, codec: Codec, hears: Hears) -> LegSpec {
    let mut rtcp = phone(number);
    rtcp.set_port(4_001);
    LegSpec {
        leg: LegId(number),
        streams: vec![StreamSpec {
            index: 0,
            port: None,
            peer: None,
            remote: Some(RemoteStream { rtp: phone(number), rtcp, generation: 1 }),
            telephone_event: None,
            codec: Some(codec),
            comfort_noise: false,
            passed: vec![],
            to_phone: true,
            from_phone: true,
            hears,
            rtp_timeout_ms: 0,
            srtp: None,
        }],
    }
}

fn two_legs(caller: Codec, callee: Codec) -> SessionSpec {
    SessionSpec {
        confirmed: true,
        legs: vec![leg(0, caller, Hears::Leg(LegId(1))), leg(1, callee, Hears::Leg(LegId(0)))],
        ..SessionSpec::default()
    }
}

struct World {
    session: Session,
    now: Timestamp,
    rev: u64,
    spec: SessionSpec,
    outputs: Vec<(Timestamp, Output)>,
}

impl World {
    fn new(spec: SessionSpec) -> Self {
        let session = Session::new(SessionId(9), 77, START);
        let mut world = Self { session, now: START, rev: 0, spec, outputs: vec![] };
        world.apply().expect("a sensible spec");
        world
    }

    fn apply(&mut self) -> Result<crate::control::SessionState, Refusal> {
        self.rev += 1;
        self.apply_as(1, self.rev)
    }

    fn apply_as(&mut self, epoch: u64, rev: u64) -> Result<crate::control::SessionState, Refusal> {
        let apply = Apply {
            session: SessionId(9),
            epoch: Epoch(epoch),
            rev: Rev(rev),
            spec: self.spec.clone(),
        };
        let addresses = self.addresses();
        let state = self.session.apply(&apply, &addresses, self.now);
        self.drain();
        state
    }

    fn addresses(&self) -> Vec<(Endpoint, SocketAddr, u16)> {
        let local = SocketAddr::from(([198, 51, 100, 1], 20_000));
        let streams = self.spec.legs.iter().flat_map(|leg| {
            leg.streams.iter().map(|stream| Endpoint {
                leg: leg.leg,
                stream: stream.index,
                channel: Channel::Rtp,
            })
        });
        streams.map(|endpoint| (endpoint, local, 20_000)).collect()
    }

    /// The wish, to a process that knows nothing of the session.
    fn resume(&mut self, carried: Vec<Carried>) {
        self.rev += 1;
        let (epoch, rev) = (Epoch(2), Rev(self.rev));
        let apply = Apply { session: SessionId(9), epoch, rev, spec: self.spec.clone() };
        let addresses = self.addresses();
        let resume = Resume { apply, carried };
        self.session.resume(&resume, &addresses, self.now).expect("a sensible spec");
        self.drain();
    }

    fn stream(&mut self, leg: usize) -> &mut StreamSpec {
        &mut self.spec.legs[leg].streams[0]
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.outputs.push((self.now, output));
        }
    }

    /// Time goes by, with all its deadlines.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((due, _)) = self.session.next_timeout().filter(|(due, _)| *due <= end) {
            self.now = due.max(self.now);
            self.session.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn receive(
        &mut self,
        leg: u16,
        header: Header,
        payload: &[u8],
    ) -> Option<(Forward, Header, Vec<u8>)> {
        self.receive_from(phone(leg), leg, header, payload)
    }

    fn receive_from(
        &mut self,
        source: SocketAddr,
        leg: u16,
        header: Header,
        payload: &[u8],
    ) -> Option<(Forward, Header, Vec<u8>)> {
        let mut buffer = [0; 2_048];
        let packet = header.with_payload(payload);
        buffer[..packet.len()].copy_from_slice(&packet);
        let forward =
            self.session.handle_packet(rtp_of(leg), source, &mut buffer, packet.len(), self.now);
        self.drain();
        let forward = forward?;
        let sent = &buffer[..forward.length];
        let header = Header::parse(sent)?;
        Some((forward, header, sent[header.payload()].to_vec()))
    }

    fn statistics(&self, leg: usize) -> StreamStatistics {
        self.session.state(self.now).legs[leg].streams[0].statistics.clone()
    }

    /// RTP that the session made for a leg.
    fn made_for(&self, leg: u16) -> Vec<(Timestamp, Header, Vec<u8>)> {
        let made = self.outputs.iter().filter_map(|(at, output)| match output {
            Output::Send { from, packet, .. } if *from == rtp_of(leg) => {
                let header = Header::parse(packet).expect("what we send is RTP");
                Some((*at, header, packet[header.payload()].to_vec()))
            }
            _ => None,
        });
        made.collect()
    }

    /// All that left by itself: from where, whereto and what.
    fn sent(&self) -> Vec<(Endpoint, SocketAddr, &[u8])> {
        let sent = self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Send { from, to, packet } => Some((*from, *to, &packet[..])),
            _ => None,
        });
        sent.collect()
    }

    /// RTCP that is told of.
    fn exchanged(&self) -> Vec<&RtcpPacket> {
        let exchanged = self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Exchanged(packet) => Some(packet),
            _ => None,
        });
        exchanged.collect()
    }

    fn reports(&self) -> Vec<&Report> {
        let reports = self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Report(report) => Some(report),
            _ => None,
        });
        reports.collect()
    }

    fn digits(&self) -> String {
        let digit = |report: &&Report| match report.kind {
            ReportKind::Digit { digit, .. } => Some(digit),
            _ => None,
        };
        self.reports().iter().filter_map(digit).collect()
    }
}

fn audio(payload_type: u8, ssrc: u32, number: u16) -> Header {
    Header {
        sequence: 1_000_u16.wrapping_add(number),
        timestamp: 160 * u32::from(number),
        ssrc,
        ..Header::new(payload_type, 160)
    }
}

#[test]
fn packets_are_relayed_in_place_under_our_ssrc_and_each_phones_payload_types() {
    let mut spec = two_legs(codec("G722", 9, 9), codec("G722", 109, 110));
    spec.legs[0].streams[0].passed = vec![(97, 98)];
    spec.legs[0].streams[0].comfort_noise = true;
    let mut world = World::new(spec);
    let ours = world.statistics(1).sent_ssrc.expect("chosen at once");
    let (forward, first, payload) = world.receive(0, audio(9, 5, 0), &[7; 160]).expect("relayed");
    assert_eq!((forward.from, forward.to, forward.length), (rtp_of(1), phone(1), 172));
    assert_eq!((first.payload_type, first.ssrc, first.marker), (110, ours, true));
    assert_eq!(payload, [7; 160]);
    let (_, second, _) = world.receive(0, audio(9, 5, 1), &[7; 160]).expect("relayed");
    assert_eq!(second.sequence, first.sequence.wrapping_add(1));
    assert_eq!(second.timestamp, first.timestamp.wrapping_add(160));
    assert!(!second.marker);
    let (_, passed, _) = world.receive(0, audio(97, 5, 2), &[1]).expect("passed");
    assert_eq!(passed.payload_type, 98);
    assert_eq!(world.receive(0, audio(13, 5, 3), &[1]), None, "the callee takes no comfort noise");
    assert_eq!(world.receive(0, audio(50, 5, 4), &[1]), None);
    let (_, back, _) = world.receive(1, audio(109, 6, 0), &[1; 160]).expect("relayed");
    assert_eq!(back.payload_type, 9);
    let caller = world.statistics(0);
    assert_eq!((caller.packets_received, caller.packets_rejected), (4, 1));
    assert_eq!((caller.packets_sent, caller.bytes_sent), (1, 160));
    assert_eq!((caller.latched, caller.received_ssrc), (Some(phone(0)), Some(5)));
    let pins = world.outputs.iter().filter(|(_, output)| matches!(output, Output::Pin { .. }));
    assert_eq!(pins.count(), 2);
}

#[test]
fn a_foreign_source_is_counted_and_dropped_and_symmetric_rtp_followed() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
    let nat: SocketAddr = "203.0.113.9:61000".parse().expect("an address");
    for number in 0..20 {
        world.receive_from(nat, 1, audio(0, 6, number), &[1; 160]);
        world.pass(Duration::from_millis(20));
    }
    let pinned = |world: &World, source, rebound| {
        let pin = Output::Pin { endpoint: rtp_of(1), source: Some(source), rebound };
        world.outputs.iter().any(|(_, output)| *output == pin)
    };
    assert!(pinned(&world, nat, false));
    let stranger: SocketAddr = "198.51.100.7:9".parse().expect("an address");
    assert_eq!(world.receive_from(stranger, 1, audio(0, 9, 0), &[1; 160]), None);
    assert_eq!(world.session.refusal(), Some(crate::relay::Refusal::Source));
    let (forward, ..) = world.receive(0, audio(0, 5, 0), &[1; 160]).expect("relayed");
    assert_eq!(forward.to, nat);
    assert_eq!(world.statistics(1).packets_rejected, 1);
    // Its NAT forgets it: the same stream from another port, after half a second.
    world.pass(Duration::from_millis(600));
    let rebound: SocketAddr = "203.0.113.9:61001".parse().expect("an address");
    assert!(world.receive_from(rebound, 1, audio(0, 6, 20), &[1; 160]).is_some());
    assert_eq!(world.statistics(1).latched, Some(rebound));
    assert_eq!(world.session.refusal(), None);
    assert!(pinned(&world, rebound, true));
}

#[test]
fn nothing_leaves_before_both_phones_are_known() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    let remote = spec.legs[1].streams[0].remote.take();
    let known = spec.legs[1].streams[0].codec.take();
    let mut world = World::new(spec);
    assert_eq!(world.receive(0, audio(0, 5, 0), &[1; 160]), None);
    assert_eq!(world.receive(1, audio(0, 6, 0), &[1; 160]), None);
    assert_eq!(world.statistics(1).packets_rejected, 0, "its codec is not known yet");
    world.stream(1).remote = remote;
    world.stream(1).codec = known;
    world.apply().expect("a later wish");
    assert!(world.receive(0, audio(0, 5, 1), &[1; 160]).is_some());
    assert!(world.receive(1, audio(0, 6, 1), &[1; 160]).is_some());
}

#[test]
fn hold_and_resume_keep_one_timeline() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
    let (_, before, _) = world.receive(0, audio(0, 5, 0), &[1; 160]).expect("relayed");
    world.stream(1).to_phone = false;
    world.apply().expect("held");
    for number in 1..1_000 {
        assert_eq!(world.receive(0, audio(0, 5, number), &[1; 160]), None);
        world.pass(Duration::from_millis(20));
    }
    let keep_alives = world.made_for(1);
    assert_eq!(keep_alives.len(), 1, "20 s of hold");
    assert_eq!(keep_alives[0].1.payload_type, 127);
    assert!(keep_alives[0].2.is_empty());
    world.stream(1).to_phone = true;
    world.apply().expect("resumed");
    let (_, after, _) = world.receive(0, audio(0, 5, 1_000), &[1; 160]).expect("relayed");
    assert_eq!(after.sequence, before.sequence.wrapping_add(2), "after the keep-alive");
    let elapsed = after.timestamp.wrapping_sub(before.timestamp);
    assert!((159_000..161_000).contains(&elapsed), "{elapsed}: time went by");
    assert!(after.marker);
    world.stream(0).from_phone = false;
    world.apply().expect("muted");
    assert_eq!(world.receive(0, audio(0, 5, 1_001), &[1; 160]), None);
}

#[test]
fn echo_is_ones_own_voice() {
    let mut spec = two_legs(codec("opus", 111, 96), codec("PCMU", 0, 0));
    spec.legs.truncate(1);
    spec.legs[0].streams[0].hears = Hears::Echo;
    spec.legs[0].streams[0].telephone_event = events(101, 101, 48_000);
    let mut world = World::new(spec);
    let (forward, header, payload) = world.receive(0, audio(111, 5, 0), &[3; 50]).expect("echoed");
    assert_eq!((forward.to, forward.from), (phone(0), rtp_of(0)));
    assert_eq!((header.payload_type, &payload[..]), (96, &[3; 50][..]));
    let digit = EventPayload::new(4, true, 4_800).emit();
    assert_eq!(world.receive(0, audio(101, 5, 1), &digit), None);
    assert_eq!(world.digits(), "4");
}

#[test]
fn events_change_their_clock_and_are_told_once() {
    for (caller, callee, [from, to], [received, sent]) in [
        (codec("opus", 111, 111), codec("PCMA", 8, 8), [48_000, 8_000], [4_800, 800]),
        (codec("PCMA", 8, 8), codec("opus", 111, 111), [8_000, 48_000], [800, 4_800]),
        (codec("PCMA", 8, 8), codec("PCMA", 8, 8), [8_000, 8_000], [800, 800]),
    ] {
        let audio_type = caller.payload_type_received;
        let mut spec = two_legs(caller, callee);
        spec.legs[0].streams[0].telephone_event = events(101, 101, from);
        spec.legs[1].streams[0].telephone_event = events(100, 99, to);
        let mut world = World::new(spec);
        world.receive(0, audio(audio_type, 5, 0), &[0xf8; 20]);
        let mut sent_packets = vec![];
        for (number, end) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
            let header = Header { timestamp: 160, ..audio(101, 5, number) };
            let payload = EventPayload::new(7, end, received).emit();
            let (_, header, payload) = world.receive(0, header, &payload).expect("relayed");
            let payload = EventPayload::parse(&payload).expect("an event");
            assert_eq!((header.payload_type, payload.event, payload.end), (99, 7, end));
            assert_eq!(payload.duration, sent);
            sent_packets.push((header.sequence, header.timestamp, header.ssrc));
            world.pass(Duration::from_millis(20));
        }
        let first = sent_packets[0];
        assert!(sent_packets.iter().all(|packet| (packet.1, packet.2) == (first.1, first.2)));
        assert!(
            sent_packets
                .windows(2)
                .all(|pair| pair[0].0.wrapping_add(1) == pair[1].0 || from != to)
        );
        assert_eq!(world.digits(), "7");
        let number = world.reports().iter().map(|report| report.number).max().expect("reports");
        world.session.replay_reports(world.now);
        world.drain();
        assert_eq!(world.digits(), "77", "kept until acknowledged");
        world.session.acknowledge(number);
        world.session.replay_reports(world.now);
        world.drain();
        assert_eq!(world.digits(), "77");
    }
}

/// Speaks 440 Hz on a leg for a while; what the other phone hears, decoded.
fn hear_440(caller: &Codec, callee: &Codec, lose_every: usize) -> (World, Vec<i16>) {
    let mut world = World::new(two_legs(caller.clone(), callee.clone()));
    let kind = playout::kind_of(caller).expect("a codec of ours");
    let mut encoder = kind.encoder(caller.fmtp.as_deref()).expect("an encoder");
    let mut sine = Sine::new(440, 8_000);
    let units = caller.clock_rate_hz / 50;
    for number in 0..100_u16 {
        let samples: Vec<i16> = sine.by_ref().take(160).collect();
        let mut payload = [0; MOST_PAYLOAD_BYTES];
        let bytes = encoder.encode(&samples, &mut payload);
        let header = Header {
            timestamp: u32::from(number) * units,
            ..audio(caller.payload_type_received, 5, number)
        };
        if usize::from(number) % lose_every != lose_every - 1 {
            assert_eq!(world.receive(0, header, &payload[..bytes]), None, "consumed");
        }
        world.pass(Duration::from_millis(20));
    }
    let kind: Kind = playout::kind_of(callee).expect("a codec of ours");
    let mut decoder = kind.decoder().expect("a decoder");
    let mut heard = vec![];
    for (_, header, payload) in world.made_for(1) {
        assert_eq!(header.payload_type, callee.payload_type_sent);
        let mut samples = [0; MOST_SAMPLES];
        let count = decoder.decode(&payload, &mut samples);
        assert_eq!(count, 8 * usize::from(kind.frame_ms(callee.ptime_ms)));
        heard.extend_from_slice(&samples[..count]);
    }
    (world, heard)
}

#[test]
fn a_tone_goes_in_and_comes_out_in_another_codec() {
    let opus = Codec { fmtp: Some("useinbandfec=1".into()), ..codec("opus", 111, 96) };
    let pcmu = Codec { ptime_ms: 30, ..codec("PCMU", 0, 0) };
    let pcma = codec("PCMA", 8, 8);
    let slow_opus = Codec { ptime_ms: 60, ..opus.clone() };
    for (caller, callee, lose_every, least) in [
        (&opus, &pcmu, usize::MAX, 0.95),
        (&pcmu, &opus, usize::MAX, 0.95),
        (&opus, &pcma, 10, 0.8),
        (&pcma, &pcmu, usize::MAX, 0.95),
        (&pcma, &slow_opus, usize::MAX, 0.95),
    ] {
        let (world, heard) = hear_440(caller, callee, lose_every);
        let names = (&caller.encoding, &callee.encoding);
        // Two seconds less the delay and what is left in the buffer.
        assert!(heard.len() > 14_500, "{names:?} {}", heard.len());
        // By pieces: a concealed packet may shift the phase.
        let pieces = heard[1_600..14_400].chunks(160).map(|piece| power_at(440, piece));
        let share = pieces.sum::<f64>() / 80.0;
        assert!(share > least, "{names:?} {share}");
        assert!(power_at(1_000, &heard[1_600..14_400]) < 0.05);
        let made = world.made_for(1);
        let clock = callee.clock_rate_hz / 1_000;
        let kind = playout::kind_of(callee).expect("a codec of ours");
        let frame_ms = u32::from(kind.frame_ms(callee.ptime_ms));
        for pair in made.windows(2) {
            assert_eq!(pair[0].1.sequence.wrapping_add(1), pair[1].1.sequence);
            assert_eq!(pair[0].1.timestamp.wrapping_add(frame_ms * clock), pair[1].1.timestamp);
            assert_eq!(pair[1].0.saturating_since(pair[0].0).as_millis(), u128::from(frame_ms));
            assert!(!pair[1].1.marker);
        }
        assert!(made[0].1.marker);
        assert!(world.session.is_transcoding() && world.statistics(1).transcoding);
    }
}

#[test]
fn a_speaker_who_pauses_is_not_replaced_by_noise_and_comes_back() {
    let (mut world, _) = hear_440(&codec("opus", 111, 96), &codec("PCMU", 0, 0), usize::MAX);
    world.pass(Duration::from_millis(500));
    world.outputs.clear();
    world.pass(Duration::from_millis(1_000));
    assert!(world.made_for(1).is_empty());
    let before = world.statistics(1).packets_sent;
    for number in 200..220 {
        world.receive(0, audio(111, 5, number), &[0xf8, 0xff, 0xfe]);
        world.pass(Duration::from_millis(20));
    }
    let made = world.made_for(1);
    assert!(made.len() > 15, "{}", made.len());
    assert!(made[0].1.marker, "a new talkspurt");
    assert_eq!(world.statistics(1).packets_sent, before + made.len() as u64);
}

#[test]
fn ringback_then_a_voice_under_one_ssrc() {
    for codec in [codec("PCMU", 0, 0), codec("PCMA", 8, 8), codec("opus", 111, 111)] {
        let payload_type = codec.payload_type_sent;
        let mut spec = two_legs(codec.clone(), codec.clone());
        spec.legs[0].streams[0].hears = Hears::Tone(Tone::Ringback);
        let mut world = World::new(spec);
        world.pass(Duration::from_millis(990));
        let kind = playout::kind_of(&codec).expect("a codec of ours");
        let mut decoder = kind.decoder().expect("a decoder");
        let mut heard = vec![];
        for (_, header, payload) in world.made_for(0) {
            assert_eq!(header.payload_type, payload_type);
            let mut samples = [0; MOST_SAMPLES];
            let count = decoder.decode(&payload, &mut samples);
            heard.extend_from_slice(&samples[..count]);
        }
        assert!(heard.len() >= 7_840, "{}", heard.len());
        assert!(power_at(425, &heard[800..]) > 0.9, "{}", codec.encoding);
        let last = world.made_for(0).last().expect("tone").1;
        world.stream(0).hears = Hears::Leg(LegId(1));
        world.apply().expect("answered");
        world.pass(Duration::from_millis(5));
        let (_, voice, _) = world.receive(1, audio(payload_type, 6, 0), &[1; 20]).expect("relayed");
        assert_eq!((voice.ssrc, voice.sequence), (last.ssrc, last.sequence.wrapping_add(1)));
        let step = voice.timestamp.wrapping_sub(last.timestamp);
        assert!((1..=codec.clock_rate_hz / 20).contains(&step), "{step}");
        assert!(voice.marker);
        assert!(!world.session.is_transcoding());
    }
}

fn silences(world: &World) -> usize {
    let silence = |report: &&&Report| matches!(report.kind, ReportKind::Silence { .. });
    world.reports().iter().filter(silence).count()
}

#[test]
fn silence_is_told_once_and_again_after_a_voice() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    spec.confirmed = false;
    spec.legs[0].streams[0].rtp_timeout_ms = 2_000;
    let mut world = World::new(spec);
    world.pass(Duration::from_secs(60));
    assert_eq!(silences(&world), 0, "ringing");
    world.spec.confirmed = true;
    world.apply().expect("answered");
    world.pass(Duration::from_millis(1_999));
    assert_eq!(silences(&world), 0);
    world.pass(Duration::from_secs(60));
    assert_eq!(silences(&world), 1);
    world.receive(0, audio(0, 5, 0), &[1; 160]);
    world.pass(Duration::from_secs(60));
    assert_eq!(silences(&world), 2);
    assert!(world.statistics(0).silence_max_ms >= 60_000);
    world.stream(0).from_phone = false;
    world.apply().expect("held");
    world.receive(0, audio(0, 5, 1), &[1; 160]);
    world.pass(Duration::from_secs(60));
    assert_eq!(silences(&world), 2, "a held phone may be silent");
}

/// The owner died before it took what it was told.
#[test]
fn another_owner_hears_what_nobody_took() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    spec.legs[0].streams[0].rtp_timeout_ms = 2_000;
    let mut world = World::new(spec);
    world.pass(Duration::from_secs(60));
    assert_eq!(silences(&world), 1);
    world.apply().expect("by the same owner");
    assert_eq!(silences(&world), 1);
    world.apply_as(2, 1).expect("by another one");
    assert_eq!(silences(&world), 2);
    world.receive(0, audio(0, 5, 0), &[1; 160]);
    world.apply_as(3, 1).expect("by a third one");
    assert_eq!(silences(&world), 2, "it is silent no more");
}

#[test]
fn reports_go_both_ways_and_goodbye_ends_them() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
    for number in 0..500 {
        world.receive(0, audio(0, 5, number), &[1; 160]);
        world.pass(Duration::from_millis(20));
    }
    let rtcp_endpoint = Endpoint { channel: Channel::Rtcp, ..rtp_of(1) };
    let rtcp: Vec<_> = world
        .outputs
        .iter()
        .filter_map(|(at, output)| match output {
            Output::Send { from, to, packet } if *from == rtcp_endpoint => {
                assert_eq!(to.port(), 4_001);
                Some((*at, read_reports(packet).expect("RTCP")))
            }
            _ => None,
        })
        .collect();
    assert!((1..=4).contains(&rtcp.len()), "{}", rtcp.len());
    let (at, reports) = &rtcp[0];
    let ours = world.statistics(1).sent_ssrc.expect("ours");
    assert_eq!(reports[0].ssrc, ours);
    let ntp = reports[0].sender.expect("a sender report").0;
    assert_eq!(ntp, ntp_from_unix_micros(at.as_micros()));
    // The phone answers: its figures, and the round trip.
    let answer = Compound {
        ssrc: 6,
        cname: "phone",
        ntp: 0,
        sender: None,
        reception: Some(ReceptionReport {
            ssrc: ours,
            fraction_lost: 25,
            total_lost: 12,
            last_sequence_number: 0,
            jitter: 80,
            last_sender_report: (ntp >> 16) as u32,
            delay: 0,
        }),
        goodbye: false,
    };
    let mut bytes = answer.emit();
    let length = bytes.len();
    let now = *at + Duration::from_millis(40);
    let mut source = phone(1);
    source.set_port(4_001);
    assert_eq!(world.session.handle_packet(rtcp_endpoint, source, &mut bytes, length, now), None);
    world.drain();
    let exchanged = world.exchanged();
    let Some(last) = exchanged.last() else { panic!("RTCP that came is told of") };
    assert_eq!((last.leg, last.received, last.remote), (LegId(1), true, source));
    assert_eq!((&last.bytes[..], last.at), (&answer.emit()[..], now));
    let sent: Vec<_> = exchanged.iter().filter(|packet| !packet.received).collect();
    let left = world.sent().iter().filter(|(from, ..)| from.channel == Channel::Rtcp).count();
    assert_eq!(sent.len(), left);
    assert!(exchanged.iter().all(|packet| packet.local.port() % 2 == 1), "{exchanged:?}");
    let statistics = world.statistics(1);
    assert_eq!((statistics.reported_lost, statistics.reported_jitter_us), (Some(12), Some(10_000)));
    assert!((39_900..40_100).contains(&statistics.rtt_us.expect("a round trip")));
    world.outputs.clear();
    let release = Release { session: SessionId(9), epoch: Epoch(1), rev: Rev(99) };
    let last = world.session.release(&release, world.now).expect("ours to release");
    assert_eq!(last.legs[0].streams[0].statistics.packets_received, 500);
    world.drain();
    assert_eq!(world.sent().len(), 2, "one BYE a stream");
    assert_eq!(world.session.next_timeout(), None);
    assert_eq!(world.receive(0, audio(0, 5, 500), &[1; 160]), None);
    assert_eq!(world.session.release(&release, world.now), Ok(last));
    assert!(world.sent().len() == 2);
    assert_eq!(world.apply_as(1, 100), Err(Refusal::Stale), "it is over");
}

#[test]
fn digits_are_sent_in_place_of_audio_once_an_act() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    spec.legs[1].streams[0].telephone_event = events(101, 100, 8_000);
    let mut world = World::new(spec);
    let (_, before, _) = world.receive(0, audio(0, 5, 0), &[1; 160]).expect("relayed");
    world.spec.acts = vec![Act::SendDigits { number: 1, leg: LegId(1), digits: "1#".into() }];
    world.apply().expect("acts");
    world.apply().expect("the same acts again");
    let mut next = 1;
    while world.made_for(1).len() < 14 {
        assert_eq!(world.receive(0, audio(0, 5, next), &[1; 160]), None, "audio waits");
        world.pass(Duration::from_millis(20));
        next += 1;
    }
    world.pass(Duration::from_millis(100));
    let made = world.made_for(1);
    assert_eq!(made.len(), 14, "done once");
    assert!(made.iter().all(|(_, header, _)| header.payload_type == 100));
    let (_, after, _) = world.receive(0, audio(0, 5, next), &[1; 160]).expect("audio goes on");
    assert_eq!(after.sequence, before.sequence.wrapping_add(15));
    assert!(after.marker);
}

#[test]
fn all_who_hear_a_leg_hear_it() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    spec.legs.push(leg(2, codec("PCMU", 0, 0), Hears::Leg(LegId(0))));
    spec.legs.push(leg(3, codec("PCMA", 8, 8), Hears::Leg(LegId(0))));
    let mut world = World::new(spec);
    for number in 0..10 {
        let payload = [number as u8; 160];
        let (forward, _, relayed) =
            world.receive(0, audio(0, 5, number), &payload).expect("relayed");
        assert_eq!((forward.from, &relayed[..]), (rtp_of(1), &payload[..]));
        world.pass(Duration::from_millis(20));
    }
    let copies = world.made_for(2);
    assert_eq!(copies.len(), 10);
    assert!(copies.iter().enumerate().all(|(n, (_, _, payload))| payload[..] == [n as u8; 160]));
    assert!(world.made_for(3).len() > 5, "transcoded for the last");
    // A branch that loses leaves; the others go on.
    world.spec.legs.remove(1);
    world.stream(0).hears = Hears::Leg(LegId(2));
    world.apply().expect("one leg less");
    let (forward, ..) = world.receive(0, audio(0, 5, 10), &[1; 160]).expect("relayed");
    assert_eq!(forward.from, rtp_of(2));
    assert_eq!(world.receive(1, audio(0, 6, 0), &[1; 160]), None);
}

#[test]
fn orders_and_refusals() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
    let state = world.apply_as(2, 1).expect("a new owner");
    assert_eq!((state.epoch, state.rev), (Epoch(2), Rev(1)));
    assert_eq!(world.apply_as(1, 9), Err(Refusal::Stale));
    world.stream(0).to_phone = false;
    assert!(world.apply_as(2, 1).is_ok(), "answered again");
    assert!(world.receive(1, audio(0, 6, 0), &[1; 160]).is_some(), "and nothing changed");
    let good = world.spec.clone();
    let mut rev = 2;
    let mut refuse = |world: &mut World, change: &dyn Fn(&mut SessionSpec), what: &str| {
        rev += 1;
        world.spec = good.clone();
        change(&mut world.spec);
        assert_eq!(world.apply_as(2, rev), Err(Refusal::Invalid), "{what}");
    };
    refuse(&mut world, &|spec| spec.legs.swap(0, 1), "order");
    refuse(&mut world, &|spec| spec.legs.truncate(1), "hears who is not there");
    refuse(
        &mut world,
        &|spec| spec.legs[0].streams[0].hears = Hears::Leg(LegId(0)),
        "hears itself as a leg",
    );
    refuse(
        &mut world,
        &|spec| {
            let twice = spec.legs[0].streams[0].clone();
            spec.legs[0].streams.push(twice);
        },
        "an index twice",
    );
    let release = Release { session: SessionId(9), epoch: Epoch(1), rev: Rev(50) };
    assert_eq!(world.session.release(&release, START), Err(Refusal::Stale));
}

#[test]
fn a_changed_state_is_told_every_five_seconds() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
    world.pass(Duration::from_secs(5));
    let states = |world: &World| {
        let state = |report: &&&Report| matches!(report.kind, ReportKind::State(_));
        world.reports().iter().filter(state).count()
    };
    assert_eq!(states(&world), 1, "applied");
    world.pass(Duration::from_millis(5_001));
    assert_eq!(states(&world), 1, "nothing changed");
    world.receive(0, audio(0, 5, 0), &[1; 160]);
    assert_eq!(states(&world), 2, "latched");
    world.receive(0, audio(0, 5, 1), &[1; 160]);
    world.pass(Duration::from_secs(12));
    assert_eq!(states(&world), 3);
    let numbers: Vec<_> = world.reports().iter().map(|report| report.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn second_lines_hear_second_lines_and_the_node_may_end_it() {
    let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    for leg in &mut spec.legs {
        let mut second = StreamSpec { index: 1, ..leg.streams[0].clone() };
        let remote = second.remote.as_mut().expect("known");
        remote.rtp.set_port(6_000);
        remote.rtcp.set_port(6_001);
        second.codec = Some(codec("PCMA", 8, 8));
        leg.streams.push(second);
    }
    let mut world = World::new(spec);
    let mut packet = audio(8, 5, 0).with_payload(&[1; 160]);
    let from = Endpoint { stream: 1, ..rtp_of(0) };
    let mut source = phone(0);
    source.set_port(6_000);
    let length = packet.len();
    let forward = world.session.handle_packet(from, source, &mut packet, length, world.now);
    let mut to = phone(1);
    to.set_port(6_000);
    assert_eq!(forward, Some(Forward { from: Endpoint { stream: 1, ..rtp_of(1) }, to, length }));
    assert_eq!(world.session.last_packet_at(), Some(START));
    assert!(world.session.is_confirmed());
    world.session.end(world.now);
    world.session.end(world.now);
    world.drain();
    let ended = |report: &&&Report| matches!(report.kind, ReportKind::Ended(_));
    assert_eq!(world.reports().iter().filter(ended).count(), 1);
    assert_eq!(world.session.next_timeout(), None);
}

/// What can happen to a call, for the property below.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Packets { leg: usize, count: u8, lost: u8 },
    Digit { leg: usize },
    NewSource { leg: usize },
    Hears { leg: usize, what: u8 },
    Direction { leg: usize, to_phone: bool, from_phone: bool },
    Digits { leg: usize },
    Time { ms: u16 },
}

fn happening() -> impl Strategy<Value = Happening> {
    let leg = 0_usize..3;
    prop_oneof![
        6 => (leg.clone(), 1_u8..12, 0_u8..3)
            .prop_map(|(leg, count, lost)| Happening::Packets { leg, count, lost }),
        1 => leg.clone().prop_map(|leg| Happening::Digit { leg }),
        1 => leg.clone().prop_map(|leg| Happening::NewSource { leg }),
        2 => (leg.clone(), 0_u8..5).prop_map(|(leg, what)| Happening::Hears { leg, what }),
        1 => (leg.clone(), any::<bool>(), any::<bool>()).prop_map(
            |(leg, to_phone, from_phone)| Happening::Direction { leg, to_phone, from_phone }
        ),
        1 => leg.prop_map(|leg| Happening::Digits { leg }),
        1 => (0_u16..3_000).prop_map(|ms| Happening::Time { ms }),
    ]
}

/// A phone's own counters.
#[derive(Clone, Copy)]
struct Speaker {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
}

/// What the three phones of the property have received.
struct Listening {
    world: World,
    speakers: [Speaker; 3],
    heard: [Option<Header>; 3],
    ours: [Option<u32>; 3],
    acts: u32,
    /// All of it, in order.
    trace: Vec<(usize, Header)>,
}

impl Listening {
    fn new() -> Self {
        let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
        spec.legs.push(leg(2, codec("opus", 111, 111), Hears::Leg(LegId(0))));
        for (number, clock) in [8_000, 8_000, 48_000].into_iter().enumerate() {
            spec.legs[number].streams[0].telephone_event = events(101, 101, clock);
        }
        let world = World::new(spec);
        let ours = [0, 1, 2].map(|leg| world.statistics(leg).sent_ssrc);
        let speakers = [1, 2, 3].map(|ssrc| Speaker { ssrc, sequence: 65_500, timestamp: 0 });
        Self { world, speakers, heard: [None; 3], ours, acts: 0, trace: vec![] }
    }

    /// Another process carries the session on.
    fn move_on(&mut self) {
        let bytes = self.world.session.snapshot();
        self.world.session = Session::restored(&bytes).expect("of our own version");
    }

    fn check(&mut self, leg: usize, header: Header) {
        assert_eq!(Some(header.ssrc), self.ours[leg], "one SSRC");
        // How much Opus makes of a frame depends on the frames before, which stay behind.
        self.trace.push((leg, Header { payload_end: 0, ..header }));
        if let Some(last) = self.heard[leg] {
            let ahead = crate::rtp::serial::sequence_distance(last.sequence, header.sequence);
            assert!(ahead > 0, "sequence {} after {}", header.sequence, last.sequence);
            // All packets of an event carry its start.
            if header.payload_type == 101 {
                self.heard[leg] = Some(Header { timestamp: last.timestamp, ..header });
                return;
            }
            let later = crate::rtp::serial::timestamp_distance(last.timestamp, header.timestamp);
            assert!(later >= 0, "timestamp {} after {}", header.timestamp, last.timestamp);
        }
        self.heard[leg] = Some(header);
    }

    fn collect(&mut self) {
        let outputs = core::mem::take(&mut self.world.outputs);
        for (_, output) in outputs {
            if let Output::Send { from, packet, .. } = output
                && from.channel == Channel::Rtp
            {
                let header = Header::parse(&packet).expect("what we send is RTP");
                self.check(usize::from(from.leg.0), header);
            }
        }
    }

    fn speak(&mut self, leg: usize, payload_type: u8, payload: &[u8]) {
        let speaker = self.speakers[leg];
        let header = Header {
            sequence: speaker.sequence,
            timestamp: speaker.timestamp,
            ssrc: speaker.ssrc,
            ..Header::new(payload_type, payload.len())
        };
        self.speakers[leg].sequence = speaker.sequence.wrapping_add(1);
        if let Some((forward, header, _)) = self.world.receive(leg as u16, header, payload) {
            self.check(usize::from(forward.from.leg.0), header);
        }
        self.collect();
    }

    fn tick(&mut self, ms: u64) {
        self.world.pass(Duration::from_millis(ms));
        self.collect();
        for (speaker, units) in self.speakers.iter_mut().zip([8, 8, 48]) {
            speaker.timestamp = speaker.timestamp.wrapping_add(units * ms as u32);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Packets { leg, count, lost } => {
                let payload_type = if leg == 2 { 111 } else { 0 };
                self.speakers[leg].sequence = self.speakers[leg].sequence.wrapping_add(lost.into());
                for _ in 0..count {
                    self.speak(leg, payload_type, &[0xf8; 40]);
                    self.tick(20);
                }
            }
            Happening::Digit { leg } => {
                for step in 1..6 {
                    let payload = EventPayload::new(3, step > 2, step * 160).emit();
                    self.speak(leg, 101, &payload);
                    let timestamp = self.speakers[leg].timestamp;
                    self.tick(20);
                    self.speakers[leg].timestamp = timestamp;
                }
                self.speakers[leg].timestamp = self.speakers[leg].timestamp.wrapping_add(4_800);
            }
            Happening::NewSource { leg } => {
                let speaker = &mut self.speakers[leg];
                speaker.ssrc = speaker.ssrc.wrapping_mul(7).wrapping_add(1);
                speaker.sequence = speaker.sequence.wrapping_mul(31).wrapping_add(17);
                speaker.timestamp = speaker.timestamp.wrapping_mul(31).wrapping_add(17);
            }
            Happening::Hears { leg, what } => {
                self.world.stream(leg).hears = match what {
                    0 => Hears::Nothing,
                    1 => Hears::Echo,
                    2 => Hears::Tone(Tone::Ringback),
                    3 => Hears::Leg(LegId((leg as u16 + 1) % 3)),
                    _ => Hears::Leg(LegId((leg as u16 + 2) % 3)),
                };
                self.world.apply().expect("a sensible spec");
            }
            Happening::Direction { leg, to_phone, from_phone } => {
                self.world.stream(leg).to_phone = to_phone;
                self.world.stream(leg).from_phone = from_phone;
                self.world.apply().expect("a sensible spec");
            }
            Happening::Digits { leg } => {
                self.acts += 1;
                let (number, leg) = (self.acts, LegId(leg as u16));
                self.world.spec.acts = vec![Act::SendDigits { number, leg, digits: "7".into() }];
                self.world.apply().expect("a sensible spec");
            }
            Happening::Time { ms } => self.tick(ms.into()),
        }
        self.collect();
    }
}

proptest! {
    #[test]
    fn every_phone_hears_one_source_that_only_goes_forward(
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let mut listening = Listening::new();
        for happening in happenings {
            listening.happen(happening);
        }
    }

    #[test]
    fn a_session_that_moves_from_process_to_process_says_what_it_would_have_said(
        happenings in proptest::collection::vec(happening(), 1..20),
    ) {
        let (mut stays, mut moves) = (Listening::new(), Listening::new());
        for happening in happenings {
            stays.happen(happening);
            moves.happen(happening);
            moves.move_on();
        }
        prop_assert_eq!(&stays.trace, &moves.trace);
        prop_assert_eq!(stays.world.digits(), moves.world.digits());
        prop_assert_eq!(stays.world.statistics(0), moves.world.statistics(0));
    }
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics(
        packets in proptest::collection::vec(
            (
                0_u16..4,
                any::<bool>(),
                proptest::collection::vec(any::<u8>(), 0..80),
                0_u64..3_000,
                0_usize..6,
            ),
            1..60,
        ),
        hears_tone: bool,
    ) {
        let mut spec = two_legs(codec("opus", 111, 111), codec("PCMU", 0, 0));
        spec.legs[0].streams[0].telephone_event = events(101, 101, 48_000);
        spec.legs[1].streams[0].telephone_event = events(101, 101, 8_000);
        let mut third = leg(2, codec("PCMU", 0, 0), Hears::Leg(LegId(1)));
        if hears_tone { third.streams[0].hears = Hears::Tone(Tone::Ringback); }
        spec.legs.push(third);
        let mut world = World::new(spec);
        for (number, rtcp, mut bytes, pause, kind) in packets {
            if let [flags, payload_type, ..] = &mut bytes[..] {
                // Most packets are nearly right.
                if kind > 0 { *flags = *flags & 0x1f | 0x80; }
                *payload_type = [*payload_type, *payload_type, 111, 0, 101, 13][kind];
                if rtcp { *payload_type = 200 + *payload_type % 4; }
            }
            let channel = if rtcp { Channel::Rtcp } else { Channel::Rtp };
            let endpoint = Endpoint { channel, ..rtp_of(number) };
            let length = bytes.len();
            let claimed = if pause % 50 == 0 { length + 5 } else { length };
            world.session.handle_packet(endpoint, phone(number), &mut bytes, claimed, world.now);
            world.drain();
            world.pass(Duration::from_millis(pause / 10));
        }
    }
}

#[test]
fn a_session_that_lost_its_process_goes_on_in_another_from_what_was_told() {
    let spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
    let nat = SocketAddr::from(([203, 0, 113, 7], 61_000));
    let mut world = World::new(spec.clone());
    let mut last = None;
    for number in 0..300 {
        last = world.receive_from(nat, 0, audio(0, 5, number), &[1; 160]);
        world.receive(1, audio(0, 6, number), &[1; 160]);
        world.pass(Duration::from_millis(20));
    }
    let (_, before, _) = last.expect("relayed");
    let statistics = [0, 1].map(|leg| world.statistics(leg));
    assert_eq!(statistics[0].latched, Some(nat));
    let told = world.reports().into_iter().rev().find_map(|report| match &report.kind {
        ReportKind::Sent(sent) => Some(sent.clone()),
        _ => None,
    });
    let told = told.expect("told beside the state");
    let carried: Vec<Carried> = told
        .into_iter()
        .zip(statistics.clone())
        .map(|((leg, index, sent), statistics)| Carried {
            leg,
            index,
            statistics,
            sent: Some(sent),
        })
        .collect();
    for (later, is_same_source) in [(1, true), (60, false)] {
        let mut heir = World::new(SessionSpec::default());
        heir.session = Session::new(SessionId(9), 4_711, world.now);
        heir.now = world.now + Duration::from_secs(later);
        heir.spec = spec.clone();
        heir.resume(carried.clone());
        heir.session.replay_reports(heir.now);
        heir.drain();
        assert_eq!(heir.statistics(0).packets_received, statistics[0].packets_received);
        assert_eq!(heir.statistics(1).packets_sent, statistics[1].packets_sent);
        // The caller is where its NAT put it, from the first packet on.
        let number = 300 + 50 * later as u16;
        let (forward, after, _) =
            heir.receive_from(nat, 0, audio(0, 5, number), &[1; 160]).expect("relayed at once");
        assert_eq!(forward.to, phone(1));
        let (forward, ..) = heir.receive(1, audio(0, 6, number), &[1; 160]).expect("relayed");
        assert_eq!(forward.to, nat);
        assert_eq!(after.ssrc == before.ssrc, is_same_source);
        if is_same_source {
            let jump = crate::rtp::serial::sequence_distance(before.sequence, after.sequence);
            assert!((1..3_000).contains(&jump), "{jump}");
            let units = after.timestamp.wrapping_sub(before.timestamp);
            assert!((8_000..16_000).contains(&units), "{units}");
        }
        // Reports count on, so that none is taken for one that was heard already.
        let number = |world: &World| world.reports().last().expect("a report").number;
        assert!(number(&heir) > number(&world));
    }
}
