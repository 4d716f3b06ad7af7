//! Real-time priority of packet workers (`HOLDFAST_MEDIA_PRIORITY`): whatever else this host does, a packet is passed
//! on at once. The kernel grants it to processes with CAP_SYS_NICE or a limit RTPRIO.
//!
//! Invariant: the kernel's own bound on real-time threads (95 % of each second) stays; a worker that is not granted
//! what was wished for says so and works as others do.

use std::io;
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use thread_priority::{Error, ThreadPriority, ThreadPriorityValue};

/// For the thread that asks; 0: as it is.
pub(super) fn take(priority: u8) {
    if priority == 0 {
        return;
    }
    // Round robin: two workers on one core take turns.
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let result = ThreadPriorityValue::try_from(priority).map_err(|error| error.to_string());
    let result = result.and_then(|value| {
        let wish = ThreadPriority::Crossplatform(value);
        set_thread_priority_and_policy(thread_native_id(), wish, policy).map_err(told)
    });
    if let Err(error) = result {
        tracing::warn!(
            "media_priority = {priority} is not granted ({error}): packet workers run as all \
             others do; give the process CAP_SYS_NICE (`cap_add: [SYS_NICE]`) or \
             `ulimit -r {priority}`"
        );
    }
}

fn told(error: Error) -> String {
    match error {
        Error::OS(code) => io::Error::from_raw_os_error(code).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thread_priority::unix::thread_schedule_policy;

    #[test]
    fn a_thread_gets_the_priority_or_goes_on_without() {
        let got = std::thread::spawn(|| {
            take(3);
            (
                thread_schedule_policy(),
                thread_priority::unix::get_thread_priority(thread_native_id()),
            )
        });
        let (policy, priority) = got.join().expect("no panic");
        let real_time = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        // Who runs this without the right to it has no priority, and went on.
        if policy.expect("Linux tells") == real_time {
            let three = ThreadPriorityValue::try_from(3_u8).expect("in range");
            assert_eq!(priority.expect("Linux tells"), ThreadPriority::Crossplatform(three));
        }
        std::thread::spawn(|| take(0)).join().expect("nothing to do");
    }
}
