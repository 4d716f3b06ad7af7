//! PostgreSQL fails over to a replica that lacks what was committed last: what is missing there is written again by who
//! has it.

use crate::common::events::{Watching, check_ends, ids, live_of};
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone, reinvite};
use holdfast::sip::Method;
use serde_json::Value;

/// Live calls, and their records for people.
const LIVE: &str = "select count(*) from calls where ended_at is null";
const CDRS: &str = "select count(*) from cdrs";

/// Two signaling processes, and a replica that can take the primary's place.
struct Site {
    signaling: Vec<Server>,
    _media: Process,
    host: Host,
    primary: Postgres,
    replica: Postgres,
}

impl Site {
    fn start() -> Self {
        let primary = Postgres::start();
        let replica = primary.replica();
        let hosts = format!("{},{}", primary.host(), replica.host());
        let host = Host::new(&format!("postgres://holdfast@{hosts}/postgres"));
        let media = host.media();
        let signaling = vec![host.signaling(), host.signaling()];
        let site = Self { signaling, _media: media, host, primary, replica };
        for server in &site.signaling {
            eventually("they know each other", SOON, || {
                let nodes = server.list("/nodes");
                let links = nodes.iter().find(|node| node["name"] == server.node().as_str())?;
                (links["links"].as_array()?.len() >= 2).then_some(())
            });
        }
        site
    }

    fn pair(&self, caller: &str, callee: &str) -> Pair {
        let server = &self.signaling[0];
        let [from, to] = [caller, callee].map(|user| phone(server, user, "udp"));
        Pair::between(from, to, &server.uri(callee))
    }

    fn fail_over(&mut self) {
        self.primary.stop();
        self.replica.execute("select pg_promote()");
        for server in &self.signaling {
            server.signaling.says("another database server");
        }
    }

    fn stored(&self, live: i64, cdrs: i64) {
        eventually(&format!("{live} live calls and {cdrs} CDRs"), SOON, || {
            let now = (self.replica.number(LIVE), self.replica.number(CDRS));
            (now == (live, cdrs)).then_some(())
        });
    }
}

fn hang_up(mut pair: Pair) {
    pair.caller.hangs_up_on(&mut pair.callee);
}

#[test]
fn what_the_replica_lacks_is_written_to_it_again() {
    let mut site = Site::start();
    let watching = [0, 1].map(|at| Watching::start(&site.signaling[at], "types=call.*"));
    let mut held = site.pair("1001", "1002");
    let over = site.pair("1003", "1004");
    site.primary.cut_off(&site.replica);
    // All of this was committed, and the replica knows nothing of it.
    let Pair { caller, callee } = &mut held;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    hang_up(over);
    let new = site.pair("1005", "1006");
    eventually("its end is stored", SOON, || (site.primary.number(CDRS) == 1).then_some(()));
    site.fail_over();
    site.stored(2, 1);
    let bindings = "select count(*) from bindings where extension in ('1005', '1006')";
    assert_eq!(site.replica.number(bindings), 2, "registrations too");
    let live = ids(&site.signaling[0].list("/calls"));
    assert_eq!(live.len(), 2);
    for watching in &watching {
        let shown = watching.wait("gap and snapshot", after_the_gap);
        assert_eq!(shown[0]["type"], "snapshot", "{shown:#?}");
        assert_eq!(live_of(&shown), live, "{shown:#?}");
    }
    // As good as ever: whoever owns them may die now.
    let mut owner = site.signaling.remove(0);
    owner.signaling.kill();
    hang_up(new);
    let Pair { caller, callee } = &mut held;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    hang_up(held);
    site.stored(0, 3);
    let answered = "select count(*) from cdrs where disposition = 'answered'";
    assert_eq!(site.replica.number(answered), 3);
    // The other one was at a node that is dead.
    let [_, survivor] = &watching;
    survivor.wait("both ends", |came| live_of(&after_the_gap(came)?).is_empty().then_some(()));
    let rest = after_the_gap(&survivor.came()).expect("as before");
    let of_live = |event: &&Value| {
        let call = event["call_id"].as_str();
        event["type"] == "snapshot" || call.is_some_and(|call| live.contains(call))
    };
    check_ends(&rest.iter().filter(of_live).cloned().collect::<Vec<_>>());
}

/// What came after the last one, once there is one and the snapshot is complete.
fn after_the_gap(came: &[Value]) -> Option<Vec<Value>> {
    let gap = came.iter().rposition(|event| event["type"] == "gap")?;
    let rest = &came[gap + 1..];
    rest.iter().any(|event| event["last"] == true).then(|| rest.to_vec())
}

#[test]
fn an_heir_of_an_old_record_passes_over_the_numbers_that_phones_saw() {
    let mut site = Site::start();
    let mut pair = site.pair("1001", "1002");
    site.primary.cut_off(&site.replica);
    let Pair { caller, callee } = &mut pair;
    let last = reinvite(caller, callee, "sendonly", "recvonly", false);
    let last = reinvite(caller, callee, "sendrecv", "sendrecv", false).cseq().or(last.cseq());
    let seen = last.expect("a number").number;
    let owners = site.signaling[0].list("/calls")[0]["owner"].clone();
    let owner = site.signaling.iter().position(|server| server.node() == owners);
    let mut owner = site.signaling.remove(owner.expect("an owner of ours"));
    let name = owner.node();
    site.primary.stop();
    // Nobody is left who knows better than the replica.
    owner.signaling.kill();
    for kind in ["db", "db-wal", "db-shm"] {
        let file = site.host.data("journal").join(format!("{name}.{kind}"));
        std::fs::remove_file(&file).expect("it had a journal");
    }
    site.replica.execute("select pg_promote()");
    eventually("the call is adopted", SOON * 2, || {
        (site.signaling[0].list("/calls").len() == 1).then_some(())
    });
    pair.hear_each_other();
    pair.caller.phone.hang_up(&mut pair.caller.dialog);
    let bye = pair.callee.phone.request_of(&Method::Bye);
    let number = bye.cseq().expect("a number").number;
    assert!(number > seen, "{number}, but the phone has seen {seen}");
    pair.callee.phone.respond(&bye, 200, "", None);
    site.stored(0, 1);
}
