//! What does not come from phones: packets that are lost, and all of them.

use super::*;
use crate::control::{Bursts, Missed};

/// The last word on each leg, and when it was said.
fn missed(world: &World) -> Vec<(u16, Missed)> {
    let reports = world.reports().into_iter().rev();
    let mut told = reports.filter_map(|report| match &report.kind {
        ReportKind::Missed(missed) => Some(missed.clone()),
        _ => None,
    });
    let last = told.next().unwrap_or_default();
    last.into_iter().map(|missed| (missed.leg.0, missed)).collect()
}

fn silent(world: &World) -> Vec<(u16, u32)> {
    missed(world).into_iter().map(|(leg, missed)| (leg, missed.silent_ms)).collect()
}

fn calling() -> World {
    World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)))
}

/// Both speak, a packet each 20 ms, for a while.
fn speak(world: &mut World, legs: &[u16], from: u16, count: u16) {
    for number in from..from + count {
        for leg in legs {
            world.receive(*leg, audio(0, u32::from(*leg) + 5, number), &[1; 160]);
        }
        world.pass(Duration::from_millis(20));
    }
}

#[test]
fn who_should_send_and_does_not_is_told_of_two_seconds_after_the_last_packet() {
    let mut world = calling();
    speak(&mut world, &[0, 1], 0, 50);
    speak(&mut world, &[0], 50, 98);
    assert_eq!(silent(&world), []);
    speak(&mut world, &[0], 148, 2);
    assert_eq!(silent(&world), [(1, 2_000)]);
    // The other one too.
    world.pass(Duration::from_millis(1_981));
    assert_eq!(silent(&world), [(0, 2_000), (1, 4_000)]);
    // Heard again: told at once, with nothing to tell of it.
    world.receive(1, audio(0, 6, 50), &[1; 160]);
    assert_eq!(silent(&world), [(0, 2_001)]);
}

#[test]
fn a_held_phone_may_be_silent_and_has_two_seconds_when_it_is_let_go() {
    let mut world = calling();
    speak(&mut world, &[0, 1], 0, 5);
    world.stream(1).from_phone = false;
    world.apply().expect("held");
    speak(&mut world, &[0], 5, 200);
    assert_eq!(silent(&world), []);
    world.stream(1).from_phone = true;
    world.apply().expect("let go");
    speak(&mut world, &[0], 205, 99);
    assert_eq!(silent(&world), []);
    speak(&mut world, &[0], 304, 2);
    assert_eq!(silent(&world), [(1, 2_000)]);
}

#[test]
fn bursts_are_told_with_the_state_and_go_on_in_another_process() {
    let mut world = calling();
    speak(&mut world, &[0, 1], 0, 20);
    speak(&mut world, &[0, 1], 23, 240);
    let bursts = Bursts { count: 1, packets: 3, lost: 3, runs: 1 };
    let told = |world: &World| missed(world).iter().map(|(_, one)| one.bursts).collect::<Vec<_>>();
    assert_eq!(told(&world), [bursts; 2]);
    world.session = Session::restored(&world.session.snapshot()).expect("its bytes");
    // As long as packets are on their way, they are not lost.
    speak(&mut world, &[0, 1], 265, 250);
    assert_eq!(told(&world), [Bursts { runs: 2, count: 2, packets: 5, lost: 5 }; 2]);
}

#[test]
fn a_silence_that_lasts_to_the_end_or_to_a_hold_counts_among_the_longest() {
    let longest = |world: &World| [0, 1].map(|leg| world.statistics(leg).silence_max_ms);
    let mut world = calling();
    speak(&mut world, &[0], 0, 250);
    assert_eq!(longest(&world), [20, 5_000], "it never speaks");
    let release = Release { session: SessionId(9), epoch: Epoch(1), rev: Rev(99) };
    world.session.release(&release, world.now).expect("ours to release");
    world.pass(Duration::from_secs(60));
    assert_eq!(longest(&world), [20, 5_000], "it is over");

    let mut world = calling();
    speak(&mut world, &[0, 1], 0, 50);
    speak(&mut world, &[0], 50, 149);
    assert_eq!(longest(&world), [20, 3_000], "it speaks no more");
    world.stream(1).from_phone = false;
    world.apply().expect("held");
    speak(&mut world, &[0], 199, 250);
    assert_eq!(longest(&world), [20, 3_000], "held");
}
