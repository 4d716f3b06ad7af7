//! What is done to a switch.

use super::super::cluster::Part;
use nix::sys::signal::Signal;
use std::time::Duration;

/// Something that happens at its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Signal(Part, Signal),
    Start(Part),
    /// The cable of that media host is pulled.
    Unplug(usize),
}

/// A fault: what happens how long after its begin.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) acts: Vec<(Duration, Act)>,
    /// Until what was stopped is back.
    pub(super) lasts: Duration,
    /// Also in a run that names none.
    pub(super) is_usual: bool,
    /// Each media process has a host of its own, and the first has all calls.
    pub(super) apart: bool,
    /// The media process that is to end by itself.
    pub(super) leaves: Option<usize>,
}

/// Longer than two leases.
const FROZEN: Duration = Duration::from_secs(10);
const ANEW: Duration = Duration::from_secs(1);

/// All of them.
pub(super) fn faults() -> Vec<Fault> {
    let signaling = Part::Signaling(0);
    let kill = |part| (Duration::ZERO, Act::Signal(part, Signal::SIGKILL));
    let once = |part, signal| vec![(Duration::ZERO, Act::Signal(part, signal))];
    let fault = |name, acts, seconds| Fault {
        name,
        acts,
        lasts: Duration::from_secs(seconds),
        is_usual: true,
        apart: false,
        leaves: None,
    };
    let leave = vec![(Duration::ZERO, Act::Signal(Part::Media(0), Signal::SIGTERM))];
    let cut = vec![(Duration::ZERO, Act::Unplug(0))];
    let without_database = |name, seconds: u64| {
        let back = Duration::from_secs(seconds);
        let mut acts = once(Part::Database, Signal::SIGINT);
        acts.push((back, Act::Start(Part::Database)));
        Fault { is_usual: seconds <= 60, ..fault(name, acts, seconds) }
    };
    let freeze = vec![
        (Duration::ZERO, Act::Signal(signaling, Signal::SIGSTOP)),
        (FROZEN, Act::Signal(signaling, Signal::SIGCONT)),
    ];
    let all = vec![
        kill(signaling),
        kill(Part::Signaling(1)),
        (ANEW, Act::Start(signaling)),
        (ANEW, Act::Start(Part::Signaling(1))),
    ];
    vec![
        fault("none", Vec::new(), 0),
        fault("signaling: kill -9", once(signaling, Signal::SIGKILL), 0),
        fault("signaling: SIGTERM", once(signaling, Signal::SIGTERM), 0),
        fault("signaling: SIGSTOP for 10 s", freeze, FROZEN.as_secs()),
        fault("media: kill -9", once(Part::Media(0), Signal::SIGKILL), 0),
        Fault { leaves: Some(0), ..fault("media: SIGTERM", leave.clone(), 0) },
        Fault { apart: true, ..fault("media host: cut off", cut, 0) },
        Fault { apart: true, leaves: Some(0), ..fault("media host: SIGTERM", leave, 0) },
        fault("all signaling killed, started 1 s later", all, ANEW.as_secs()),
        without_database("PostgreSQL stopped for 5 s", 5),
        without_database("PostgreSQL stopped for 60 s", 60),
        without_database("PostgreSQL stopped for 600 s", 600),
    ]
}
