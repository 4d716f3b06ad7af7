//! What is to be measured, as given on the command line.

use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Users that refresh their registrations.
    Register,
    /// INVITE-100-180-200-ACK, a pause, BYE-200.
    Call,
    /// Two-way calls through a media relay: PCMU as it is, to SRTP, to Opus.
    Relay,
    /// Instructions a registration and a call (callgrind); only when named.
    Instructions,
    /// What PostgreSQL does for a registration and a call; only when named.
    Database,
    /// The highest rate of stored calls, and what a call costs at shares of it; only when named.
    Peak,
    /// What a call costs with everything on that watches calls, and with all off; only when named.
    Observed,
    /// Bytes an idle registration and an idle call; only when named.
    Memory,
    /// What calls and phones feel of a process that dies; only when named.
    Survival,
    /// How long it takes until another process has all calls of one; only when named.
    Takeover,
    /// The console in a browser while calls come and go; only when named.
    Console,
    /// What a page of the list of live calls takes; only when named.
    Lists,
    /// What calls and phones feel of what befalls containers on a real Docker engine; only when named.
    Containers,
}

/// Measures Holdfast and its peers in turn.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// What to measure; without a name all that is compared with a peer.
    work: Vec<Work>,
    /// Pairs of a case.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Length of a measured window.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Load before the window, in seconds.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Registrations or calls a second; 1500 and 400 when not given.
    #[arg(long)]
    rate: Option<u32>,
    /// Users, half of them called by the others.
    #[arg(long)]
    users: Option<usize>,
    /// From ACK to BYE.
    #[arg(long, default_value_t = 1_000)]
    hold_ms: u64,
    /// Two-way calls of `relay`, comma separated; the greatest number for the others.
    #[arg(long, value_delimiter = ',')]
    calls: Option<Vec<usize>>,
    /// From one packet to the next of a phone in `survival`: a generator can speak for more calls by longer packets.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=200))]
    packet_ms: u32,
    /// A folder that takes the profiles of `instructions`, for callgrind_annotate, and the pictures of `console`.
    #[arg(long)]
    profiles: Option<PathBuf>,
    /// Only cases whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Everything once and briefly: shows that it works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Said by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn work(&self) -> Vec<Work> {
        let compared = || vec![Work::Register, Work::Call, Work::Relay];
        if self.work.is_empty() { compared() } else { self.work.clone() }
    }

    pub(crate) fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds.max(1) })
    }

    pub(crate) fn warmup(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_secs(self.warmup) }
    }

    pub(crate) fn packet_ms(&self) -> u32 {
        self.packet_ms
    }

    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { self.hold_ms })
    }

    pub(crate) fn rate(&self, default: u32) -> u32 {
        let default = if self.quick { default / 4 } else { default };
        self.rate.unwrap_or(default).max(1)
    }

    pub(crate) fn users(&self) -> usize {
        self.users.unwrap_or(if self.quick { 1_000 } else { 10_000 }).max(2)
    }

    pub(crate) fn profiles(&self) -> Option<&Path> {
        self.profiles.as_deref()
    }

    pub(crate) fn relay_calls(&self) -> Vec<usize> {
        let default = if self.quick { vec![20] } else { vec![100, 500] };
        self.calls.clone().unwrap_or(default)
    }

    /// Calls whose sound is decoded and encoded: each costs as much as some twenty others.
    pub(crate) fn transcoded_calls(&self) -> Vec<usize> {
        let default = if self.quick { vec![4] } else { vec![10, 30] };
        self.calls.clone().unwrap_or(default)
    }

    /// Of one case.
    pub(crate) fn calls(&self, default: usize) -> usize {
        let default = if self.quick { default / 20 } else { default };
        self.calls.iter().flatten().copied().max().unwrap_or(default).max(1)
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// Cases are chosen.
    pub(crate) fn names_a_case(&self) -> bool {
        !self.only.is_empty()
    }

    /// The case is wanted. In a quick run only those that stand for their kind.
    pub(crate) fn wants(&self, case: &str, stands_for_its_kind: bool) -> bool {
        case.contains(&self.only) && (stands_for_its_kind || !self.quick)
    }
}
