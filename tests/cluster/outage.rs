//! PostgreSQL goes away and comes back: people on the phone notice nothing, and everything is in it afterwards, once.

use crate::common::phone::Phone;
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::proxy::Proxy;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone, reinvite};
use holdfast::sip::{Method, Status};
use holdfast::store::{CdrQuery, Store};
use jiff::Timestamp;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A switch whose database can be stopped, with users that it knows.
struct Site {
    server: Server,
    /// Another one on the same port: the kernel chooses who has a call.
    sibling: Option<Server>,
    _media: Process,
    host: Host,
    postgres: Postgres,
    /// Of every user.
    password: &'static str,
}

impl Site {
    fn start() -> Self {
        let postgres = Postgres::start();
        let host = Host::new(&postgres.url("postgres"));
        Self::of(postgres, host)
    }

    fn of(postgres: Postgres, host: Host) -> Self {
        let (media, server) = (host.media(), host.signaling());
        let password = server.user("1005");
        Self { server, sibling: None, _media: media, host, postgres, password }
    }

    fn stop_postgres(&mut self) {
        self.postgres.stop();
        eventually("the outage is noticed", SOON, || {
            (self.server.readiness().1["status"] == "degraded").then_some(())
        });
    }

    /// The phone of a user that no node saw before.
    fn register_1005(&self) {
        let mut phone = Phone::udp(self.server.sip, "1005", self.password);
        assert_eq!(phone.register(&[]).status, Status(200));
    }

    /// Degraded, never down, and who keeps something says so.
    fn check_degraded(&self) {
        let has_entries = |server: &&Server| self.journal_of(server)["entries"].as_u64() > Some(0);
        let servers = [Some(&self.server), self.sibling.as_ref()];
        let keeper = servers.into_iter().flatten().find(has_entries).expect("somebody's journal");
        let (status, ready) = keeper.readiness();
        assert_eq!((status, &ready["status"]), (200, &Value::from("degraded")), "{ready}");
        let reasons = ready["reasons"].to_string();
        assert!(reasons.contains("kept in the journal"), "{reasons}");
        let journal = self.journal_of(keeper);
        assert!(journal["bytes"].as_u64() > Some(0) && journal["oldest_at"].is_string());
    }

    fn journal(&self) -> Value {
        self.journal_of(&self.server)
    }

    fn journal_of(&self, server: &Server) -> Value {
        let nodes = server.list("/nodes");
        let own = nodes.iter().find(|node| node["name"] == server.node().as_str());
        own.expect("itself")["journal"].clone()
    }

    /// As a reader of its own finds it in PostgreSQL: CDRs, the first ended one first, and how many phones 1005 has.
    fn stored(&self) -> (Vec<holdfast::views::Cdr>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let store = Store::connect(&self.postgres.url("postgres")).await.expect("there");
            let query = CdrQuery { limit: 100, ..CdrQuery::default() };
            let mut cdrs = store.cdrs(&query).await.expect("read");
            cdrs.sort_by_key(|cdr| cdr.ended_at.0);
            (cdrs, store.bindings_of("1005").await.expect("read").len())
        })
    }

    /// PostgreSQL has a CDR for each call, and the one phone of 1005.
    fn check_stored(&self, ended: &[Span]) {
        let (cdrs, bindings) = self.stored();
        check_cdrs(&cdrs, ended);
        assert_eq!(bindings, 1);
    }
}

/// When a call ended, as seen from outside.
type Span = (Timestamp, Timestamp);

fn hang_up(mut pair: Pair) -> Span {
    let before = Timestamp::now();
    pair.caller.hangs_up_on(&mut pair.callee);
    (before, Timestamp::now())
}

/// One CDR for each call, of answered ones, that ended when they did.
fn check_cdrs(cdrs: &[holdfast::views::Cdr], ended: &[Span]) {
    assert_eq!(cdrs.len(), ended.len(), "{cdrs:#?}");
    for (cdr, (first, last)) in cdrs.iter().zip(ended) {
        // A CDR counts milliseconds.
        let at = i64::try_from(cdr.ended_at.0.as_millis()).expect("a time of ours");
        let span = first.as_millisecond()..=last.as_millisecond();
        assert!(span.contains(&at), "{span:?}: {cdr:#?}");
        assert!(cdr.billable_ms > 0 && cdr.billable_ms <= cdr.duration_ms, "{cdr:#?}");
    }
}

/// A call from before is held, resumed and ended, one is made anew, a phone registers.
fn live_through(site: &Site, mut old: Pair, [caller, callee]: [Phone; 2]) -> ([Span; 1], Pair) {
    old.hear_each_other();
    let Pair { caller: from, callee: to } = &mut old;
    reinvite(from, to, "sendonly", "recvonly", false);
    reinvite(from, to, "sendrecv", "sendrecv", false);
    let ended = hang_up(old);
    let new = Pair::between(caller, callee, &site.server.uri("1004"));
    new.hear_each_other();
    site.register_1005();
    site.check_degraded();
    ([ended], new)
}

#[test]
fn calls_and_registrations_go_on_while_postgres_is_stopped() {
    let mut site = Site::start();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    site.stop_postgres();
    let ([first], new) = live_through(&site, old, others);
    let ended = [first, hang_up(new)];
    site.postgres.run();
    site.server.wait_until_ready();
    eventually("the journal is empty", SOON, || (site.journal()["entries"] == 0).then_some(()));
    site.check_stored(&ended);
    assert_eq!(site.server.cdrs(2).len(), 2);
    assert!(site.server.signaling.log().contains("the store takes writes again"));
}

#[test]
fn a_process_that_is_killed_meanwhile_leaves_all_in_its_journal() {
    let mut site = Site::start();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    site.stop_postgres();
    let ([first], new) = live_through(&site, old, others);
    site.server.signaling.kill();
    site.server = site.host.begin_signaling();
    new.hear_each_other();
    site.postgres.run();
    site.server.wait_until_ready();
    site.server.signaling.says("was replayed");
    // Live again, with its media.
    eventually("the call is back", SOON, || (site.server.list("/calls").len() == 1).then_some(()));
    new.hear_each_other();
    let ended = [first, hang_up(new)];
    assert_eq!(site.server.cdrs(2).len(), 2);
    site.check_stored(&ended);
}

#[test]
fn a_sibling_hands_over_what_a_dead_process_kept() {
    let mut site = Site::start();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    let sibling = site.host.signaling();
    site.stop_postgres();
    let ([first], new) = live_through(&site, old, others);
    let outlived = std::mem::replace(&mut site.server, sibling);
    drop(outlived);
    new.hear_each_other();
    site.postgres.run();
    site.server.signaling.says("was replayed");
    let back = || (site.server.list("/calls").len() == 1).then_some(());
    eventually("the call is adopted", SOON, back);
    new.hear_each_other();
    let ended = [first, hang_up(new)];
    assert_eq!(site.server.cdrs(2).len(), 2);
    site.check_stored(&ended);
}

#[test]
fn a_database_that_takes_no_writes_is_an_outage_too() {
    let site = Site::start();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    site.set_read_only("on");
    let ([first], new) = live_through(&site, old, others);
    // Longer than a lease: nobody is judged meanwhile.
    std::thread::sleep(Duration::from_secs(4));
    new.hear_each_other();
    let ended = [first, hang_up(new)];
    site.set_read_only("off");
    eventually("the journal is empty", SOON, || (site.journal()["entries"] == 0).then_some(()));
    site.check_stored(&ended);
}

#[test]
fn what_is_asked_meanwhile_is_in_the_audit_log_afterwards() {
    let mut site = Site::start();
    let mut pair = Pair::talking(&site.server, ["udp", "udp"]);
    let call = site.server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    site.stop_postgres();
    let asked = [("POST", "/nodes/nobody/drain".to_owned()), ("DELETE", format!("/calls/{call}"))];
    let answered = asked.clone().map(|(method, path)| site.server.api(method, &path, None).0);
    assert_eq!(answered, [404, 202]);
    pair.caller.phone.request_of(&Method::Bye);
    let began = Timestamp::now();
    site.postgres.run();
    let lines = eventually("both lines", SOON * 2, || {
        let (_, log) = site.server.api("GET", "/audit", None);
        let lines = log["items"].as_array()?.clone();
        let is_last = |line: &&Value| line["path"] == asked[1].1.as_str();
        lines.first().filter(is_last)?;
        Some(lines)
    });
    for ((method, path), (status, line)) in
        asked.iter().zip(answered.iter().zip(lines[..2].iter().rev()))
    {
        assert_eq!(
            (&line["method"], &line["path"]),
            (&Value::from(*method), &Value::from(path.as_str()))
        );
        assert_eq!(line["status"], *status);
        let at: Timestamp = line["at"].as_str().expect("a time").parse().expect("a time");
        assert!(at <= began, "when it was asked: {line}");
    }
    let own_log = site.server.signaling.log();
    assert!(own_log.contains("a line of the audit log waits for the database"), "told at once");
}

#[test]
fn a_full_disk_is_an_outage_too() {
    let site = Site::start();
    let disk = SmallDisk::new(&site.host.data("disk"));
    let place = format!("create tablespace small location '{}'", disk.0.display());
    site.postgres.execute(&place);
    site.postgres.execute("alter table calls set tablespace small");
    disk.fill();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    let ([first], new) = live_through(&site, old, others);
    let ended = [first, hang_up(new)];
    assert_eq!(site.postgres.number("select count(*) from calls"), 0, "nothing was taken");
    disk.make_room();
    eventually("the journal is empty", SOON, || (site.journal()["entries"] == 0).then_some(()));
    site.check_stored(&ended);
}

/// A disk of a few pages, mounted for the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(path: &std::path::Path) -> Self {
        std::fs::create_dir_all(path).expect("a folder");
        run("mount", &["-t", "tmpfs", "-o", "size=128k,mode=0777", "small", text(path)]);
        let inner = path.join("place");
        std::fs::create_dir(&inner).expect("room for a folder");
        run("chown", &["postgres:", text(&inner)]);
        Self(inner)
    }

    fn fill(&self) {
        let file = self.0.with_file_name("filler");
        let full = std::fs::write(file, vec![1; 1 << 20]).expect_err("there is not so much room");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.with_file_name("filler")).expect("it was there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mount = self.0.parent().expect("where it is mounted");
        let _ = std::process::Command::new("umount").args(["-l", text(mount)]).status();
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

fn run(program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program).args(arguments).status();
    assert!(status.expect("it is there").success(), "{program} {arguments:?}: as root?");
}

/// `cargo test --test cluster -- --ignored away_for_a_minute`
#[test]
#[ignore = "takes more than a minute"]
fn postgres_is_away_for_a_minute() {
    let mut site = Site::start();
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let others = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    let last = ["1006", "1007"].map(|user| phone(&site.server, user, "udp"));
    site.stop_postgres();
    let ([first], mut new) = live_through(&site, old, others);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(10));
        new.hear_each_other();
        let Pair { caller, callee } = &mut new;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        reinvite(caller, callee, "sendrecv", "sendrecv", false);
    }
    let [caller, callee] = last;
    let ended =
        [first, hang_up(new), hang_up(Pair::between(caller, callee, &site.server.uri("1007")))];
    site.postgres.run();
    site.server.wait_until_ready();
    eventually("the journal is empty", SOON, || (site.journal()["entries"] == 0).then_some(()));
    site.check_stored(&ended);
}

#[test]
fn any_node_may_start_while_postgres_is_away() {
    let mut postgres = Postgres::start();
    postgres.stop();
    let host = Host::new(&postgres.url("postgres"));
    let waiting = |server: &Server| {
        server.signaling.says("the database is not there yet");
        let (status, ready) = server.readiness();
        assert_eq!((status, &ready["status"]), (503, &Value::from("starting")), "{ready}");
        assert!(ready["reasons"].to_string().contains("the database is not there yet"), "{ready}");
        let live = server.request("GET", "/live", None).expect("it answers");
        assert_eq!(live.0, 200);
    };
    let mut server = host.begin_signaling();
    waiting(&server);
    let _media = host.media();
    postgres.run();
    server.wait_until_ready();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    postgres.stop();
    let mut late = host.begin_signaling();
    waiting(&late);
    // Who was up serves on, and the newcomer takes nothing from it.
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    postgres.run();
    late.wait_until_ready();
    server.wait_until_ready();
    assert_eq!(late.cdrs(1).len(), 1);
}

#[test]
fn without_a_journal_new_calls_are_refused_and_it_is_said_before() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let _media = host.media();
    eventually("the data directory", SOON, || host.data("").is_dir().then_some(()));
    std::fs::write(host.data("journal"), "not a folder").expect("written");
    let server = host.begin_signaling();
    server.signaling.says("no journal: while the store is away new calls get 503");
    let reason = "there is no journal for an outage of the store";
    let says_only_this = || {
        let ready = server.readiness().1;
        let reasons = ready["reasons"].as_array()?;
        let [only] = &reasons[..] else { return None };
        only.as_str()?.contains(reason).then_some(())
    };
    eventually("readiness says so", SOON, says_only_this);
    let password = server.user("1005");
    let mut site = Site { server, sibling: None, _media, host, postgres, password };
    let mut pair = Pair::talking(&site.server, ["udp", "udp"]);
    site.stop_postgres();
    let mut phone = Phone::udp(site.server.sip, "1005", site.password);
    // The first one finds the outage out.
    assert_eq!(phone.register(&[]).status, Status(503));
    let told = site.server.readiness().1.to_string();
    assert!(told.contains("the store takes no writes: new calls get 503"), "{told}");
    pair.caller.hangs_up_on(&mut pair.callee);
    site.postgres.run();
    assert_eq!(site.server.cdrs(1).len(), 1);
}

#[test]
fn a_slow_store_slows_nobody() {
    let site = Site::start();
    let phones = ["1003", "1004"].map(|user| phone(&site.server, user, "udp"));
    let lock = site.lock_calls();
    let begin = Instant::now();
    let [caller, callee] = phones;
    let pair = Pair::between(caller, callee, &site.server.uri("1004"));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "set up in {took:?}");
    pair.hear_each_other();
    let ended = hang_up(pair);
    assert!(!lock.is_finished(), "the store was slow all the while");
    lock.join().expect("unlocked");
    eventually("the journal is empty", SOON, || (site.journal()["entries"] == 0).then_some(()));
    check_cdrs(&site.stored().0, &[ended]);
}

/// Of a way to the database. What is asked takes that long, and the answer too: longer than a lease.
const FAR: Duration = Duration::from_secs(3);

#[test]
fn a_database_that_answers_six_seconds_later_slows_nobody() {
    let postgres = Postgres::start();
    let way = Proxy::to(&postgres.host());
    let host = Host::new(&postgres.url("postgres")).through(&way);
    let mut site = Site::of(postgres, host);
    let users = ["1003", "1004", "1006", "1007"].map(|user| phone(&site.server, user, "udp"));
    // It reads all users when it begins; later ones it would read within a second.
    site.sibling = Some(site.host.signaling());
    let old = Pair::talking(&site.server, ["udp", "udp"]);
    let [others @ .., caller, callee] = users;
    way.delay(FAR);
    eventually("the outage is noticed", SOON, || {
        (site.server.readiness().1["status"] == "degraded").then_some(())
    });
    let ([first], mut new) = live_through(&site, old, others);
    // Beyond both leases, and what each node asks of the other's.
    for _ in 0..5 {
        std::thread::sleep(FAR);
        new.hold_and_resume();
    }
    let late = Pair::between(caller, callee, &site.server.uri("1007"));
    late.hear_each_other();
    let nodes = [&site.server, site.sibling.as_ref().expect("begun")];
    for server in nodes {
        let (status, ready) = server.readiness();
        assert_eq!((status, &ready["status"]), (200, &Value::from("degraded")), "{ready}");
    }
    let ended = [first, hang_up(new), hang_up(late)];
    way.delay(Duration::ZERO);
    eventually("the journals are empty", SOON * 2, || {
        let journals =
            site.server.list("/nodes").into_iter().filter(|node| node["mode"] != "media");
        let left: Vec<u64> =
            journals.filter_map(|node| node["journal"]["entries"].as_u64()).collect();
        (left == [0, 0]).then_some(())
    });
    for server in nodes {
        eventually("it is ready again", SOON, || {
            (server.readiness().1["status"] == "ready").then_some(())
        });
    }
    site.check_stored(&ended);
}

impl Site {
    /// Sessions that are there obey too.
    fn set_read_only(&self, value: &str) {
        use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
        let url = self.postgres.url("postgres");
        let setting = format!("alter system set default_transaction_read_only = {value}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut session = PgConnection::connect(&url).await.expect("connected");
            session.execute(AssertSqlSafe(setting)).await.expect("set");
            session.execute("select pg_reload_conf()").await.expect("set");
        });
    }

    /// From now on, for three seconds, nobody else writes a call.
    fn lock_calls(&self) -> std::thread::JoinHandle<()> {
        use sqlx::{Connection as _, Executor as _, PgConnection};
        let url = self.postgres.url("postgres");
        let (locked, wait) = std::sync::mpsc::channel();
        let lock = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut session = PgConnection::connect(&url).await.expect("connected");
                let mut lock = session.begin().await.expect("a transaction");
                lock.execute("lock table calls in exclusive mode").await.expect("locked");
                locked.send(()).expect("awaited");
                tokio::time::sleep(Duration::from_secs(3)).await;
                lock.rollback().await.expect("unlocked");
            });
        });
        wait.recv().expect("locked");
        lock
    }
}
