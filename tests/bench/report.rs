//! Figures of the runs of a case, as a table and as the ratio of pairs.

use super::clock::Nanos;
use super::usage::Used;

/// Share of what was offered; below it a server is overloaded, and no longer compared at the same rate.
const KEPT_UP: f64 = 0.97;
/// Lateness of the generator (99th percentile) above which a run is noisy.
const LATE_MS: f64 = 1.0;
/// Cores of other processes above which a run is noisy.
const STRANGERS: f64 = 0.1;

/// Of one run.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// CPU microseconds a unit, by what the processes do.
    parts: Vec<(&'static str, f64)>,
    p50_ms: f64,
    p99_ms: f64,
    units: usize,
    offered: usize,
    failed: usize,
    repeated: usize,
    late_ms: f64,
    generator: f64,
    strangers: f64,
}

/// What a run has counted.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) units: usize,
    /// What the window had room for at the rate.
    pub(crate) offered: usize,
    pub(crate) failed: usize,
    pub(crate) repeated: usize,
    pub(crate) latencies: Vec<Nanos>,
    pub(crate) late: Nanos,
}

impl Figures {
    pub(crate) fn new(mut counted: Counted, used: &Used) -> Self {
        counted.latencies.sort_unstable();
        let latencies = &counted.latencies;
        let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or(0);
        let ms = |nanos: Nanos| nanos as f64 / 1e6;
        let units = counted.units.max(1) as f64;
        let parts = used.groups.iter().map(|(name, used)| (*name, used * 1e6 / units));
        Self {
            parts: parts.collect(),
            p50_ms: ms(at(50)),
            p99_ms: ms(at(99)),
            units: counted.units,
            offered: counted.offered,
            failed: counted.failed,
            repeated: counted.repeated,
            late_ms: ms(counted.late),
            generator: used.generator,
            strangers: used.strangers,
        }
    }

    fn total(&self) -> f64 {
        self.parts.iter().map(|(_, used)| used).sum()
    }

    /// All was done, nothing twice, and all but one in a hundred within this time.
    pub(crate) fn is_clean(&self, within_ms: f64) -> bool {
        let kept_up = self.units as f64 >= self.offered as f64 * KEPT_UP;
        kept_up && self.failed == 0 && self.repeated == 0 && self.p99_ms < within_ms
    }

    fn part(&self, name: &str) -> Option<f64> {
        self.parts.iter().find(|(found, _)| *found == name).map(|(_, used)| *used)
    }
}

/// The runs of a case, in pairs.
#[derive(Debug)]
pub(crate) struct Case {
    title: String,
    unit: &'static str,
    names: [String; 2],
    pairs: Vec<[Figures; 2]>,
}

impl Case {
    pub(crate) fn new(title: String, unit: &'static str, peer: &str, holdfast: &str) -> Self {
        eprintln!("{title} ...");
        Self { title, unit, names: [peer.to_owned(), holdfast.to_owned()], pairs: Vec::new() }
    }

    pub(crate) fn push(&mut self, peer: Figures, holdfast: Figures) {
        self.pairs.push([peer, holdfast]);
    }

    /// A table: medians, and least and most in brackets where they differ.
    pub(crate) fn print(&self) {
        println!("\n**{}** ({} pairs; CPU in us a {})\n", self.title, self.pairs.len(), self.unit);
        print_head("");
        for (side, name) in self.names.iter().enumerate() {
            let runs: Vec<&Figures> = self.pairs.iter().map(|pair| &pair[side]).collect();
            print_row(name, &runs);
        }
        let ratios = self.pairs.iter().map(|[peer, ours]| ours.total() / peer.total()).collect();
        println!("\nCPU of Holdfast / peer, median of pairs: {}", range(ratios, 2));
        self.print_doubts();
    }

    /// How much more the second one costs.
    pub(crate) fn print_difference(&self, what: &str) {
        let more = self.pairs.iter().map(|[one, other]| other.total() - one.total()).collect();
        println!("{what}: {} us a {}, median of pairs", range(more, 0), self.unit);
    }

    /// Why the ratio is not to be believed: who falls behind does other work, and strangers spoil caches and clocks.
    fn print_doubts(&self) {
        for (side, name) in self.names.iter().enumerate() {
            let count = |is_so: &dyn Fn(&Figures) -> bool| {
                self.pairs.iter().filter(|pair| is_so(&pair[side])).count()
            };
            let behind = count(&|run| (run.units as f64) < run.offered as f64 * KEPT_UP);
            let noisy = count(&|run| run.late_ms > LATE_MS || run.strangers > STRANGERS);
            for (runs, what) in [(behind, "did not keep up with the rate"), (noisy, "were noisy")] {
                if runs > 0 {
                    println!("DOUBT: {name}: {runs} of {} runs {what}", self.pairs.len());
                }
            }
        }
    }
}

/// Head of a table of `print_row`.
pub(crate) fn print_head(what: &str) {
    println!(
        "| {what} | CPU | signaling | media | database | p50 ms | p99 ms | done | failed | repeated \
         | late p99 ms | generator cores | strangers' cores |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
}

/// Runs of the same: medians, and least and most in brackets where they differ.
pub(crate) fn print_row(name: &str, runs: &[&Figures]) {
    let spread = |digits: usize, of: &dyn Fn(&Figures) -> f64| {
        range(runs.iter().map(|run| of(run)).collect(), digits)
    };
    let part = |name: &str| match runs.first().and_then(|run| run.part(name)) {
        Some(_) => spread(1, &|run| run.part(name).unwrap_or(0.0)),
        None => "-".to_owned(),
    };
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        spread(1, &Figures::total),
        part("signaling"),
        part("media"),
        part("database"),
        spread(2, &|run| run.p50_ms),
        spread(2, &|run| run.p99_ms),
        spread(0, &|run| run.units as f64),
        spread(0, &|run| run.failed as f64),
        spread(0, &|run| run.repeated as f64),
        spread(2, &|run| run.late_ms),
        spread(2, &|run| run.generator),
        spread(2, &|run| run.strangers),
    );
}

fn range(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return String::new() };
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    let median = format!("{middle:.digits$}");
    let (least, most) = (format!("{least:.digits$}"), format!("{most:.digits$}"));
    if least == most { median } else { format!("{median} ({least}-{most})") }
}
