//! SIGTERM to the owner: its calls are handed over, and it ends by itself.

use crate::common::SOON;
use crate::pair::{Pair, reinvite};
use crate::switch::{Switch, check_record};

#[test]
fn a_leaving_process_hands_its_calls_over() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.terminate();
    let status = owner.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    pair.hear_each_other();
    let Pair { caller, callee } = &mut pair;
    reinvite(callee, caller, "sendonly", "recvonly", false);
    reinvite(callee, caller, "sendrecv", "sendrecv", false);
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}
