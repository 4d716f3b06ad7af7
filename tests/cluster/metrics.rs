//! The dashboard and the alert rules name what a running switch exports, and what it exports counts what happened.

use crate::common::metrics::Scrape;
use crate::common::process::Folder;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::crowd::Crowd;
use crate::switch::Switch;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const CALLS: usize = 3;
/// For who looks closer: they say again what is drawn of their node, or do not change.
const LEFT_OUT: [&str; 9] = [
    "holdfast_journal_size_bytes",
    "holdfast_media_cpu_percent",
    "holdfast_media_node_draining",
    "holdfast_media_nodes",
    "holdfast_media_receive_buffer_bytes",
    "holdfast_media_sessions",
    "holdfast_media_sessions_most",
    "holdfast_media_sessions_transcoded",
    "holdfast_sip_receive_buffer_bytes",
];

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All that begins like a metric of ours.
fn named(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_word(c)).filter(|word| word.starts_with(prefix));
    words.map(str::to_owned).collect()
}

/// The names under which a scrape finds what is exported: those of samples, and of what has none yet.
fn exported(metrics: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in metrics.lines() {
        match line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            Some((name, "counter")) => _ = names.insert(format!("{name}_total")),
            Some((name, "histogram")) => {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
            }
            Some((name, _)) => _ = names.insert(name.to_owned()),
            None => {}
        }
    }
    names
}

/// Who reads a histogram needs all its buckets: of one without an end no share can be told (OpenMetrics 1.0).
fn check_histograms(scrape: &Scrape) {
    let kinds = scrape.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = kinds.filter_map(|line| line.strip_suffix(" histogram"));
    let mut checked = 0;
    for name in names {
        let counted: BTreeSet<String> = scrape
            .0
            .lines()
            .filter_map(|line| {
                let (labels, _) =
                    line.strip_prefix(name)?.strip_prefix("_count")?.split_once(' ')?;
                Some(labels.trim_matches(['{', '}']).to_owned())
            })
            .collect();
        for labels in counted {
            let (braced, more) = match &*labels {
                "" => (String::new(), String::new()),
                labels => (format!("{{{labels}}}"), format!(",{labels}")),
            };
            let all = scrape.value(&format!("{name}_count{braced}"));
            let below = scrape.value(&format!("{name}_bucket{{le=\"+Inf\"{more}}}"));
            assert_eq!(all, below, "{name}{braced}");
            checked += 1;
        }
    }
    assert!(checked > 5, "histograms");
}

/// Each phone was heard for long enough to be scored.
fn wait_for_scores(switch: &Switch) {
    eventually("each phone has a score", SOON * 2, || {
        let calls = switch.survivor().list("/calls");
        let legs = calls.iter().filter_map(|call| call["legs"].as_array()).flatten();
        let scored = legs.filter(|leg| leg["streams"][0]["mos"].is_number()).count();
        (scored == CALLS * 2).then_some(())
    });
}

/// Commits are measured; both phones of each call were heard, and well.
fn check_measured(texts: &[Scrape]) {
    assert!(texts.iter().any(|text| text.find("holdfast_commit_seconds_count") > Some(0.0)));
    let all_of = |sample: &str| texts.iter().filter_map(|text| text.find(sample)).sum::<f64>();
    // Begin and answer of a call are two rows at least; a commit of nothing but events has none.
    let [commits, rows] =
        ["count", "sum"].map(|end| all_of(&format!("holdfast_commit_rows_{end}")));
    assert!(commits > 0.0 && rows >= (CALLS * 2) as f64, "{rows} in {commits}");
    for sample in ["holdfast_call_lost_ratio_count", "holdfast_call_mos_count"] {
        assert!(all_of(sample) == (CALLS * 2) as f64, "{sample}: {}", all_of(sample));
    }
    assert!(all_of("holdfast_call_mos_sum") > (CALLS * 2) as f64 * 4.0);
}

#[test]
fn what_dashboard_and_alerts_name_is_exported() {
    let switch = Switch::start();
    let crowd = Crowd::talking(switch.survivor(), CALLS, 0);
    let all =
        || -> Vec<Scrape> { switch.signaling.iter().map(|node| Scrape::of(node.admin)).collect() };
    // Media nodes tell now and then what they have.
    let talking = eventually("the sessions are told", SOON, || {
        let texts = all();
        let sessions = |text: &Scrape| {
            let mut lines = text.0.lines();
            let line = lines.find(|line| line.starts_with("holdfast_media_node_sessions{"));
            line.is_some_and(|line| line.ends_with(&format!(" {CALLS}")))
        };
        texts.iter().all(sessions).then_some(texts)
    });
    let live = |text: &Scrape| text.find("holdfast_calls{state=\"confirmed\"}").unwrap_or(0.0);
    assert_eq!(talking.iter().map(live).sum::<f64>(), CALLS as f64);
    for text in &talking {
        let up = text.0.lines().filter(|line| line.starts_with("holdfast_link_up{"));
        assert_eq!(up.filter(|line| line.ends_with(" 1")).count(), 2, "{text:?}");
    }
    wait_for_scores(&switch);
    crowd.hang_up();
    switch.survivor().cdrs(CALLS);
    let texts = eventually("all ends are counted", SOON, || {
        let texts = all();
        let ended = |sample: &str| texts.iter().filter_map(|text| text.find(sample)).sum::<f64>();
        let count = CALLS as f64;
        let samples = [
            "holdfast_calls_ended_total{disposition=\"answered\"}",
            "holdfast_call_ends_total{cause=\"bye\"}",
            "holdfast_call_talk_seconds_count",
            "holdfast_post_dial_delay_seconds_count",
            "holdfast_sip_transaction_seconds_count{method=\"INVITE\",role=\"server\"}",
            "holdfast_sip_transaction_seconds_count{method=\"INVITE\",role=\"client\"}",
            "holdfast_sip_transaction_seconds_count{method=\"BYE\",role=\"server\"}",
            "holdfast_sip_transaction_seconds_count{method=\"BYE\",role=\"client\"}",
        ];
        samples.iter().all(|sample| ended(sample) == count).then_some(texts)
    });
    check_measured(&texts);
    let rules = file("prometheus/holdfast.rules.yml");
    let record = |line: &str| Some(line.trim().strip_prefix("- record: ")?.to_owned());
    let recorded: BTreeSet<String> = rules.lines().filter_map(record).collect();
    let dashboard = file("grafana/holdfast.json");
    let board: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(board["panels"].as_array().is_some_and(|panels| panels.len() > 20));
    // What media processes alone tell is told by one of both halves too.
    let both = Server::start();
    let whole = Scrape::of(both.admin);
    texts.iter().chain([&whole]).for_each(check_histograms);
    let known: BTreeSet<String> =
        texts.iter().chain([&whole]).flat_map(|text| exported(&text.0)).collect();
    for text in [&rules, &dashboard] {
        let missing: Vec<String> = named(text, "holdfast_").difference(&known).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "not exported");
        let missing: Vec<_> = named(text, "holdfast:").difference(&recorded).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "not recorded");
    }
    check_described(&known, &[rules, dashboard].concat());
}

/// The list of metrics has them all and nothing else, and each is drawn or alerted of, but for those that say again
/// what is drawn of their node.
fn check_described(known: &BTreeSet<String>, watched: &str) {
    let described = std::fs::read_to_string("docs/metrics.md").expect("the list of metrics");
    let bare = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        let end = ends.iter().find_map(|end| name.strip_suffix(end));
        end.unwrap_or(name).to_owned()
    };
    let known: BTreeSet<String> = known.iter().map(|name| bare(name)).collect();
    assert_eq!(known, named(&described, "holdfast_"), "exported and described");
    let watched: BTreeSet<String> =
        named(watched, "holdfast_").iter().map(|one| bare(one)).collect();
    let left: Vec<&str> = known.difference(&watched).map(String::as_str).collect();
    assert_eq!(left, LEFT_OUT, "neither drawn nor alerted of");
}

#[test]
fn prometheus_takes_the_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus");
    check_with_promtool(&["check", "rules", "holdfast.rules.yml"], &folder);
    check_with_promtool(&["check", "config", "prometheus.yml"], &folder);
    // Ratios and alerts of series that are made up: each alert of the rules is called for.
    check_with_promtool(&["test", "rules", "holdfast.rules.test.yml"], &folder);
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is there");
    let (rules, tests) = (file("holdfast.rules.yml"), file("holdfast.rules.test.yml"));
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let fires = |alert: &str| tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n"));
    let untested: Vec<&str> = alerts.filter(|alert| !fires(alert)).collect();
    assert_eq!(untested, [""; 0]);
}

#[test]
fn prometheus_takes_what_the_dashboard_asks() {
    let board = std::fs::read_to_string("docker/grafana/holdfast.json").expect("the dashboard");
    let board: serde_json::Value = serde_json::from_str(&board).expect("JSON");
    let mut questions = Vec::new();
    collect_questions(&board, &mut questions);
    assert!(questions.len() > 50, "{}", questions.len());
    // As Grafana asks them; as rules, for those are read by Prometheus's own tool.
    let rules = questions.iter().enumerate().map(|(number, question)| {
        let question = question.replace("$__rate_interval", "1m").replace("$job", "holdfast");
        serde_json::json!({"record": format!("panel:{number}"), "expr": question})
    });
    let rules: Vec<_> = rules.collect();
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let folder = Folder::new("dashboard");
    std::fs::write(folder.file("panels.yml"), groups.to_string()).expect("written");
    check_with_promtool(&["check", "rules", "panels.yml"], folder.path());
}

fn collect_questions(part: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value::{Array, Object};
    match part {
        Object(fields) => {
            found.extend(fields.get("expr").and_then(|expr| expr.as_str()).map(str::to_owned));
            fields.values().for_each(|part| collect_questions(part, found));
        }
        Array(parts) => parts.iter().for_each(|part| collect_questions(part, found)),
        _ => {}
    }
}

fn check_with_promtool(arguments: &[&str], folder: &Path) {
    let told = Command::new("promtool").args(arguments).current_dir(folder).output();
    let told = told.expect("promtool: apt-get install -y prometheus");
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success(), "{said}{}", String::from_utf8_lossy(&told.stderr));
}
