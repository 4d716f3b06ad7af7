//! What calls and phones feel of what befalls containers: `compose.yaml` on a real Docker engine, N calls that talk, are held
//! or ring, one fault after the other, and then every call is used. A whole run writes its table into `docs/containers.md`.
//!
//! Invariant: as in `survival`: what is told is what phones saw.

/// What is done.
mod faults;

use super::clock;
use super::engine::{self, Edition};
use super::machine;
use super::options::Options;
use super::phones::{extension, password};
use super::stack::Stack;
use super::survival::crowd::{Crowd, Habits};
use super::survival::{self, report};
use faults::{FAULTS, Fault, SMALL_DISKS};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

const CALLS: usize = 40;
/// Percents.
const HELD: usize = 20;
const RINGING: usize = 20;
const ON_TCP: usize = 20;
/// Pairs that make short calls: each may take half a minute to fail.
const CALLING: usize = 80;
/// For the calls of all these.
const MEDIA_PORTS: &str = "30000-32759";
const LAST_CDRS: Duration = Duration::from_secs(60);
/// The table stands between these.
const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of figures -->"];

/// Every fault that is wanted.
pub(crate) fn containers(options: &Options) {
    let calls = options.calls(CALLS);
    let mut switch: Option<Switch> = None;
    let mut text = format!("{}\n|{}\n", report::HEAD, "---|".repeat(13));
    println!("{text}");
    let is_wanted = |fault: &&Fault| options.wants(fault.name, fault.stands_for_its_kind);
    for fault in FAULTS.iter().filter(is_wanted) {
        let mut here = switch.take().unwrap_or_else(|| Switch::up(calls));
        // What ends in a panic has told why; the other faults are lived through all the same.
        let lived = catch_unwind(AssertUnwindSafe(|| here.live_through(fault, calls)));
        let is_well = lived.is_ok();
        let row = lived.unwrap_or_else(|_| format!("| {} | not lived through |", fault.name));
        println!("{row}");
        let _ = writeln!(text, "{row}");
        // A switch that is whole again lives through the next fault too.
        switch = (is_well && here.is_whole_again()).then_some(here);
    }
    if !options.names_a_case() && !options.is_quick() {
        keep(&machine::in_a_line(calls), &text);
    }
}

/// Puts the table into the document.
fn keep(machine: &str, table: &str) {
    let path = engine::root().join("docs/containers.md");
    let text = fs::read_to_string(&path).expect("docs/containers.md");
    let (before, rest) = text.split_once(MARKS[0]).expect("a mark before the figures");
    let (_, after) = rest.split_once(MARKS[1]).expect("a mark after the figures");
    let [begin, end] = MARKS;
    let text = format!("{before}{begin}{machine}\n\n{table}{end}{after}");
    fs::write(&path, text).expect("written");
    println!("\n{} has the table", path.display());
}

/// A stack with its users.
struct Switch {
    stack: Stack,
    /// Sequence of the last CDR that was looked at.
    last_cdr: u64,
    _disks: Disks,
}

impl Switch {
    fn up(calls: usize) -> Self {
        let disks = Disks::new();
        let files = [Path::new("compose.yaml"), disks.file.as_path()];
        let more = vec![
            ("HOLDFAST_MEDIA_PORTS", MEDIA_PORTS.to_owned()),
            ("HOLDFAST_LOG", "info".to_owned()),
        ];
        let (stack, _) = Stack::up_with(Edition::Second, &files, "signaling", more);
        stack.wait_for_nodes(faults::NODES);
        let mut csv = "extension,password\n".to_owned();
        for user in 0..2 * (calls + CALLING) {
            writeln!(csv, "{},{}", extension(user), password(user)).expect("a String");
        }
        let url = format!("http://{}/api/v1/users/import?on_conflict=fail", stack.api.admin);
        let bearer = format!("Bearer {}", stack.api.token);
        let request = ureq::post(&url).header("Authorization", bearer);
        let answer = request.header("Content-Type", "text/csv").send(&csv);
        assert_eq!(answer.expect("the API answers").status(), 200);
        // The other process reads what has changed once a second.
        thread::sleep(Duration::from_secs(2));
        Self { stack, last_cdr: 0, _disks: disks }
    }

    /// The row of a fault.
    fn live_through(&mut self, fault: &Fault, calls: usize) -> String {
        let (held, ringing) = (calls * HELD / 100, calls * RINGING / 100);
        let talking = calls - held - ringing;
        let habits = Habits {
            talking,
            held,
            ringing,
            calling: CALLING,
            on_tcp: ON_TCP,
            rude: 0,
            early: 0,
            packet_ms: 20,
        };
        let SocketAddr::V4(sip) = self.stack.api.sip else { panic!("loopback is IPv4 here") };
        let mut crowd = Crowd::new(sip, &habits);
        survival::set_up(&mut crowd, calls);
        let mut took = 0;
        thread::scope(|scope| {
            let mut act = None;
            let stack = &self.stack;
            survival::live_through(&mut crowd, |since| {
                let act = act.get_or_insert_with(|| scope.spawn(|| (fault.act)(stack)));
                let is_over = act.is_finished();
                took = if is_over && took == 0 { since } else { took };
                is_over
            });
        });
        survival::use_all(&mut crowd, calls);
        let cdrs = self.cdrs(crowd.answered_calls());
        report::row(fault.name, took, &crowd, &cdrs)
    }

    /// CDRs since the last time, as soon as there are so many or their time is over.
    fn cdrs(&mut self, count: usize) -> Vec<Value> {
        let deadline = clock::now() + clock::in_nanos(LAST_CDRS);
        let path = format!("/api/v1/cdrs?limit=1000&after={}", self.last_cdr);
        loop {
            let page = self.stack.api.request("GET", &path, None);
            let items = page.and_then(|(_, page)| page["items"].as_array().cloned());
            let cdrs = items.unwrap_or_default();
            if cdrs.len() >= count || clock::now() > deadline {
                let last = cdrs.last().and_then(|cdr| cdr["sequence"].as_u64());
                self.last_cdr = last.unwrap_or(self.last_cdr);
                return cdrs;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// All containers run, and know each other; no call is left.
    fn is_whole_again(&self) -> bool {
        let mended = catch_unwind(AssertUnwindSafe(|| {
            faults::mend(&self.stack);
            self.stack.wait_for_nodes(faults::NODES);
        }));
        mended.is_ok() && self.stack.api.list("/calls").is_empty()
    }
}

/// Volumes that can be filled to the last byte, and the file that tells Compose of them.
struct Disks {
    folder: PathBuf,
    file: PathBuf,
}

impl Disks {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("holdfast-disks-{}", std::process::id()));
        let mut volumes = "volumes:\n".to_owned();
        for (name, size) in SMALL_DISKS {
            let disk = folder.join(name);
            fs::create_dir_all(&disk).expect("a folder");
            let options = format!("size={size},uid=10001,gid=10001,mode=755");
            let mounted = ["-t", "tmpfs", "-o", &options, "tmpfs", &disk.display().to_string()];
            engine::told(std::process::Command::new("mount").args(mounted));
            let _ = write!(
                volumes,
                "  {name}:\n    driver_opts: {{ type: none, o: bind, device: {} }}\n",
                disk.display()
            );
        }
        let file = folder.join("disks.yaml");
        // The first line: docker-compose 1.29 takes a file without a version and without services for one of before.
        fs::write(&file, format!("version: \"3.8\"\n{volumes}")).expect("written");
        Self { folder, file }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for (name, _) in SMALL_DISKS {
            let disk = self.folder.join(name);
            let _ = engine::ended(std::process::Command::new("umount").arg("-l").arg(&disk));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
