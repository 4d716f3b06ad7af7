//! SIGSTOP to a process for longer than its lease: the other one serves its phones, and after SIGCONT it changes nothing.

use crate::common::phone::Phone;
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone};
use crate::switch::{Switch, check_record};
use holdfast::sip::{Message, Method, Status};
use std::time::{Duration, Instant};

/// Phones whose ports the kernel spreads over both processes.
const PHONES: usize = 12;
/// A request is answered within this, whatever happens to a process (design §1, tier S).
const PROMISE: Duration = Duration::from_secs(2);

#[test]
fn a_frozen_process_is_stood_in_for_and_changes_nothing_afterwards() {
    let mut switch = Switch::start();
    let server = switch.survivor();
    let mut phones: Vec<Phone> = (0..PHONES)
        .map(|number| phone(server, "1003", if number % 2 == 0 { "udp" } else { "tcp" }))
        .collect();
    let mut pair = Pair::talking(server, ["udp", "udp"]);
    pair.hear_each_other();
    let frozen = switch.owner();
    let call = switch.signaling[frozen].list("/calls")[0]["id"].clone();
    switch.signaling[frozen].signaling.freeze();
    let since = Instant::now();
    // Those on connections, and the others.
    for phone in &mut phones {
        let begun = Instant::now();
        assert_eq!(phone.register(&[]).status, Status(200));
        let taken = begun.elapsed();
        assert!(taken < PROMISE, "{} waited {taken:?}", phone.local);
    }
    let other = &switch.signaling[1 - frozen];
    eventually("its call is the other's", SOON * 2, || {
        let calls = other.list("/calls");
        (calls.first()?["owner"] == other.node().as_str()).then_some(())
    });
    std::thread::sleep(Duration::from_secs(5).saturating_sub(since.elapsed()));
    switch.signaling[frozen].signaling.thaw();
    switch.signaling[frozen].signaling.says("claimed by others meanwhile");
    let is_said = |message: &Message| match message {
        // The survivor said its ACK again when it adopted the call.
        Message::Request(request) => !matches!(request.method, Method::Options | Method::Ack),
        Message::Response(_) => false,
    };
    assert!(!pair.caller.phone.comes(Duration::from_secs(1), is_said), "not a word");
    assert!(!pair.callee.phone.comes(Duration::from_millis(1), is_said), "not a word");
    let calls = switch.signaling[1 - frozen].list("/calls");
    assert_eq!((calls.len(), &calls[0]["id"], &calls[0]["takeovers"]), (1, &call, &1.into()));
    pair.hear_each_other();
    for server in &switch.signaling {
        switch.wait_for_links(server, 2);
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.signaling[1 - frozen].cdrs(1), 1);
    // It takes calls again, when nobody else is there.
    drop(switch.signaling.remove(1 - frozen));
    let server = switch.survivor();
    let mut pair = Pair::talking(server, ["udp", "udp"]);
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
    assert_eq!(server.cdrs(2).len(), 2);
}
