//! CPU of process trees: user and system time of /proc/PID/stat, and what everybody else used meanwhile.

use super::clock::{self, Nanos};
use std::collections::HashMap;
use std::fs;

/// Of `times(2)` on every Linux that we meet.
const TICKS_A_SECOND: f64 = 100.0;

/// The processes of a contender, by what they do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(pub(crate) Vec<(&'static str, u32)>);

/// A reading.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Nanos,
    /// Ticks of each group.
    groups: Vec<(&'static str, u64)>,
    own: u64,
    /// Ticks in which a core was not idle.
    busy: u64,
}

/// What was used between two readings.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// CPU seconds of each group.
    pub(crate) groups: Vec<(&'static str, f64)>,
    /// Cores that the generator kept busy.
    pub(crate) generator: f64,
    /// Cores that strangers kept busy: the noise.
    pub(crate) strangers: f64,
}

impl Meter {
    pub(crate) fn read(&self) -> Reading {
        let processes = processes();
        let groups = self.0.iter().map(|(name, root)| (*name, tree(&processes, *root))).collect();
        let own = processes.get(&std::process::id()).map_or(0, |process| process.ticks);
        Reading { at: clock::now(), groups, own, busy: busy() }
    }
}

impl Reading {
    pub(crate) fn until(&self, later: &Self) -> Used {
        let seconds = (later.at - self.at) as f64 / 1e9;
        let between = |from: u64, to: u64| to.saturating_sub(from) as f64 / TICKS_A_SECOND;
        let pairs = self.groups.iter().zip(&later.groups);
        let groups: Vec<_> =
            pairs.map(|((name, from), (_, to))| (*name, between(*from, *to))).collect();
        let own = between(self.own, later.own);
        let known = own + groups.iter().map(|(_, used)| used).sum::<f64>();
        let strangers = (between(self.busy, later.busy) - known).max(0.0) / seconds;
        Used { groups, generator: own / seconds, strangers }
    }
}

struct Process {
    parent: u32,
    ticks: u64,
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|id: u32| Some((id, process(id)?))).collect()
}

/// `None`: it has ended meanwhile.
fn process(id: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, so the fields are counted from its end: state is the third of proc_pid_stat(5).
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    // utime, stime, and of children that are gone cutime, cstime.
    let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
    Some(Process { parent: u32::try_from(field(4)?).ok()?, ticks })
}

/// A process with all that descend from it.
fn tree(processes: &HashMap<u32, Process>, root: u32) -> u64 {
    let own = processes.get(&root).map_or(0, |process| process.ticks);
    let children = processes.iter().filter(|(_, process)| process.parent == root);
    own + children.map(|(id, _)| tree(processes, *id)).sum::<u64>()
}

fn busy() -> u64 {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq.
    [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum()
}
