//! Packets that the kernel passes on: nobody can tell that it did. The kernel here is its rules in a few lines; the
//! real one is before the real switch in `tests/networks/offload.rs`.

use super::*;
use crate::rtp::serial::{clock_units, timestamp_distance};

const SSRC: u32 = 5;

/// What befalls a stream.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Packets in order, so many milliseconds apart.
    Speak(u8, u8),
    /// So many are lost.
    Lose(u16),
    /// A packet comes after its successor.
    Swap,
    /// One comes twice.
    Repeat,
    /// A talkspurt begins.
    Mark,
    /// A digit is pressed.
    Digit,
    /// Nothing comes for so many times ten milliseconds.
    Pause(u16),
    /// The stream begins anew under its SSRC.
    Restart(u16),
    /// A stranger sends its next packet.
    Stranger,
    /// We send digits to the listener.
    SendDigits,
    /// The same wish again.
    Apply,
}

#[derive(Default)]
struct Kernel {
    rule: Option<(Flow, Position)>,
    done: Option<Passed>,
    packets: u16,
    pause_ms: u32,
}

impl Kernel {
    /// The header with which a packet leaves, if that is the kernel's.
    fn pass(
        &mut self,
        source: SocketAddr,
        header: Header,
        bytes: u64,
        now: Timestamp,
    ) -> Option<Header> {
        let (flow, from) = self.rule.as_ref()?;
        let (last, at, jitter) = self.done.map_or((from.timestamp, from.at, from.jitter_16), |d| {
            (d.timestamp, d.at, d.jitter_16)
        });
        let step = timestamp_distance(last, header.timestamp);
        let pause = now.saturating_since(at);
        let is_next = source == SocketAddr::V4(flow.source)
            && header.ssrc == flow.ssrc
            && header.payload_type == flow.payload_type
            && !header.marker
            && header.sequence == from.next_sequence.wrapping_add(self.packets)
            && pause <= Duration::from_secs(1)
            && step > 0
            && step.unsigned_abs() <= flow.clock_rate_hz;
        if !is_next {
            return None;
        }
        let came = clock_units(pause.as_micros() as u64, flow.clock_rate_hz);
        let difference = came.abs_diff(step.unsigned_abs());
        self.packets = self.packets.wrapping_add(1);
        self.pause_ms = self.pause_ms.max(pause.as_millis() as u32);
        let before = self.done.map_or((0, 0), |done| (done.packets, done.bytes));
        self.done = Some(Passed {
            packets: before.0 + 1,
            bytes: before.1 + bytes,
            timestamp: header.timestamp,
            at: now,
            jitter_16: jitter + difference - ((jitter + 8) >> 4),
            pause_ms: self.pause_ms,
        });
        Some(Header {
            payload_type: flow.new_payload_type,
            sequence: header.sequence.wrapping_add(flow.sequence_offset),
            timestamp: header.timestamp.wrapping_add(flow.timestamp_offset),
            ssrc: flow.new_ssrc,
            ..header
        })
    }
}

/// A session, and the kernel before its first leg.
struct Offloaded {
    world: World,
    kernel: Option<Kernel>,
    passed: u64,
}

impl Offloaded {
    fn new(has_kernel: bool) -> Self {
        let mut spec = two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0));
        for leg in &mut spec.legs {
            leg.streams[0].telephone_event = events(101, 101, 8_000);
            leg.streams[0].rtp_timeout_ms = 3_000;
        }
        Self { world: World::new(spec), kernel: has_kernel.then(Kernel::default), passed: 0 }
    }

    fn take_in(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        if let Some(done) = kernel.done.take() {
            self.passed += u64::from(done.packets);
            self.world.session.take_in(rtp_of(0), &done);
            // What is counted further counts from here.
            let (_, from) = kernel.rule.as_mut().expect("it passed something on");
            from.next_sequence = from.next_sequence.wrapping_add(done.packets as u16);
            (from.timestamp, from.at, from.jitter_16) = (done.timestamp, done.at, done.jitter_16);
            kernel.packets = 0;
        }
    }

    fn offload(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            let wanted = self.world.session.flow(rtp_of(0));
            if kernel.rule != wanted {
                *kernel = Kernel { rule: wanted, ..Kernel::default() };
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while let Some((due, _)) = self.world.session.next_timeout().filter(|(due, _)| *due <= end)
        {
            self.world.now = due.max(self.world.now);
            self.take_in();
            self.world.session.handle_timeout(self.world.now);
            self.world.drain();
            self.offload();
        }
        self.world.now = end;
    }

    fn receive(&mut self, source: SocketAddr, header: Header, payload: &[u8]) -> Option<Header> {
        let now = self.world.now;
        if let Some(kernel) = &mut self.kernel
            && let Some(sent) = kernel.pass(source, header, payload.len() as u64, now)
        {
            return Some(sent);
        }
        self.take_in();
        let sent = self.world.receive_from(source, 0, header, payload);
        self.offload();
        sent.map(|(_, header, _)| header)
    }

    fn apply(&mut self) {
        self.take_in();
        self.world.apply().expect("a sensible spec");
        self.offload();
    }
}

/// The same phone before a session without kernel and before one with it.
struct Pair {
    both: [Offloaded; 2],
    sequence: u16,
    timestamp: u32,
    digits: u32,
}

impl Pair {
    fn new() -> Self {
        let both = [Offloaded::new(false), Offloaded::new(true)];
        // Both wrap soon.
        Self { both, sequence: 65_500, timestamp: u32::MAX - 4_000, digits: 0 }
    }

    fn pass(&mut self, ms: u64) {
        self.both.iter_mut().for_each(|of| of.pass(Duration::from_millis(ms)));
    }

    /// The packet that is so far ahead of the last one.
    fn ahead(&self, by: u16) -> Header {
        Header {
            sequence: self.sequence.wrapping_add(by),
            timestamp: self.timestamp.wrapping_add(160 * u32::from(by)),
            ssrc: SSRC,
            ..Header::new(0, 160)
        }
    }

    fn send(&mut self, source: SocketAddr, header: Header, payload: &[u8]) {
        let [one, other] = self.both.each_mut().map(|of| of.receive(source, header, payload));
        let seen = |header: &Option<Header>| {
            header.map(|h| (h.marker, h.payload_type, h.sequence, h.timestamp, h.ssrc))
        };
        assert_eq!(seen(&one), seen(&other), "{header:?}");
    }

    fn speak(&mut self, marker: bool, apart_ms: u64) {
        let header = Header { marker, ..self.ahead(1) };
        (self.sequence, self.timestamp) = (header.sequence, header.timestamp);
        self.send(phone(0), header, &[1; 160]);
        self.pass(apart_ms);
    }

    fn lose(&mut self, count: u16) {
        let Header { sequence, timestamp, .. } = self.ahead(count);
        (self.sequence, self.timestamp) = (sequence, timestamp);
    }

    fn press_digit(&mut self) {
        for end in [false, true] {
            self.sequence = self.sequence.wrapping_add(1);
            let event = EventPayload::new(5, end, 160);
            let header = Header { payload_type: 101, ..self.ahead(0) };
            self.send(phone(0), header, &event.emit());
            self.pass(20);
        }
    }

    fn send_digits(&mut self) {
        self.digits += 1;
        let number = self.digits;
        for of in &mut self.both {
            let act = Act::SendDigits { number, leg: LegId(1), digits: "12".into() };
            of.world.spec.acts = vec![act];
            of.apply();
        }
    }

    fn befall(&mut self, happening: Happening) {
        match happening {
            Happening::Speak(count, apart) => {
                (0..count).for_each(|_| self.speak(false, apart.into()));
            }
            Happening::Mark => self.speak(true, 20),
            Happening::Lose(count) => {
                self.lose(count);
                self.pass(20 * u64::from(count));
            }
            Happening::Swap => {
                let late = self.ahead(1);
                self.lose(1);
                self.speak(false, 20);
                self.send(phone(0), late, &[1; 160]);
            }
            Happening::Repeat => self.send(phone(0), self.ahead(0), &[1; 160]),
            Happening::Digit => self.press_digit(),
            Happening::Pause(tens) => self.pass(10 * u64::from(tens)),
            Happening::Restart(to) => (self.sequence, self.timestamp) = (to, u32::from(to)),
            Happening::Stranger => self.send(phone(7), self.ahead(1), &[1; 160]),
            Happening::SendDigits => self.send_digits(),
            Happening::Apply => self.both.iter_mut().for_each(Offloaded::apply),
        }
    }
}

/// How many packets the session with kernel never saw.
fn check(happenings: &[Happening]) -> u64 {
    let mut pair = Pair::new();
    happenings.iter().for_each(|happening| pair.befall(*happening));
    pair.both.iter_mut().for_each(Offloaded::take_in);
    let [plain, offloaded] = pair.both;
    assert_eq!(plain.world.session.snapshot(), offloaded.world.session.snapshot());
    assert_eq!(plain.world.outputs, offloaded.world.outputs);
    offloaded.passed
}

#[test]
fn a_stream_in_order_is_the_kernels_from_its_second_packet() {
    assert_eq!(check(&[Happening::Speak(250, 20)]), 249);
}

#[test]
fn what_is_not_simply_the_next_packet_is_ours() {
    let speak = Happening::Speak(100, 20);
    // What comes between, and how many packets of the two hundred are ours then.
    let cases = [
        (Happening::Mark, 1..=3),
        (Happening::Digit, 1..=40),
        (Happening::Repeat, 1..=2),
        (Happening::Stranger, 1..=2),
        (Happening::Pause(150), 2..=3),
        (Happening::Swap, 1..=3),
        (Happening::Lose(3), 30..=36),
        (Happening::Restart(30_000), 2..=3),
        (Happening::SendDigits, 2..=60),
    ];
    for (between, ours) in cases {
        let passed = check(&[speak, between, speak]);
        assert!(ours.contains(&(200 - passed)), "{between:?}: the kernel passed on {passed}");
    }
}

#[test]
fn no_flow_is_offered_where_more_than_the_header_changes() {
    let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMA", 8, 8)));
    world.receive(0, audio(0, SSRC, 0), &[1; 160]);
    assert_eq!(world.session.flow(rtp_of(0)), None, "transcoded");
    for change in [
        |world: &mut World| world.stream(0).from_phone = false,
        |world: &mut World| world.stream(1).to_phone = false,
        |world: &mut World| world.stream(1).hears = Hears::Tone(Tone::Ringback),
        |world: &mut World| world.stream(0).hears = Hears::Echo,
    ] {
        let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
        world.receive(0, audio(0, SSRC, 0), &[1; 160]);
        assert!(world.session.flow(rtp_of(0)).is_some());
        change(&mut world);
        world.apply().expect("a sensible spec");
        world.receive(0, audio(0, SSRC, 1), &[1; 160]);
        assert_eq!(world.session.flow(rtp_of(0)), None);
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1..80_u8, prop_oneof![Just(20_u8), 1..60_u8])
            .prop_map(|(count, apart)| Happening::Speak(count, apart)),
        1 => (1..40_u16).prop_map(Happening::Lose),
        1 => Just(Happening::Swap),
        1 => Just(Happening::Repeat),
        1 => Just(Happening::Mark),
        1 => Just(Happening::Digit),
        1 => (1..400_u16).prop_map(Happening::Pause),
        1 => any::<u16>().prop_map(Happening::Restart),
        1 => Just(Happening::Stranger),
        1 => Just(Happening::SendDigits),
        1 => Just(Happening::Apply),
    ]
}

proptest! {
    #[test]
    fn nobody_can_tell_who_passed_packets_on(
        happenings in proptest::collection::vec(happening(), 1..30),
    ) {
        check(&happenings);
    }
}
