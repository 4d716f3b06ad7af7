//! The store is out of reach: for one node alone, whose calls go to a peer that reaches it; or for all, and then one of
//! them is killed and its disk lost.

use crate::common::phone::Phone;
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::proxy::Proxy;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone, reinvite};

/// A node whose way to PostgreSQL can be cut, with calls of its own; and a second one that came later.
struct Site {
    cut_off: Server,
    peer: Server,
    /// Of 1001 with 1002.
    held: Pair,
    /// Of 1003 with 1004.
    over: Pair,
    /// 1011 and 1012, whom both nodes know.
    idle: [Phone; 2],
    _media: Process,
    host: Host,
    way: Proxy,
    postgres: Postgres,
}

impl Site {
    fn start() -> Self {
        let postgres = Postgres::start();
        let way = Proxy::to(&postgres.host());
        let host = Host::new(&postgres.url("postgres"));
        let media = host.media();
        let cut_off = host.through(&way).signaling();
        let held = pair(&cut_off, "1001", "1002");
        let over = pair(&cut_off, "1003", "1004");
        let idle = ["1011", "1012"].map(|user| phone(&cut_off, user, "udp"));
        let peer = host.signaling();
        eventually("the nodes know each other", SOON, || {
            let nodes = peer.list("/nodes");
            let own = nodes.iter().find(|node| node["name"] == peer.node().as_str())?;
            (own["links"].as_array()?.len() >= 2).then_some(())
        });
        Self { cut_off, peer, held, over, idle, _media: media, host, way, postgres }
    }
}

fn pair(server: &Server, caller: &str, callee: &str) -> Pair {
    let [from, to] = [caller, callee].map(|user| phone(server, user, "udp"));
    Pair::between(from, to, &server.uri(callee))
}

fn hang_up(mut pair: Pair) {
    pair.caller.hangs_up_on(&mut pair.callee);
}

fn hold_and_resume(pair: &mut Pair) {
    let Pair { caller, callee } = pair;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
}

#[test]
fn a_node_that_alone_cannot_reach_the_store_gives_its_calls_to_one_that_can() {
    let site = Site::start();
    site.way.cut();
    // Nobody knows yet: the node keeps it, and its peer too.
    hang_up(site.over);
    let Site { cut_off, peer, mut held, way, postgres, .. } = site;
    eventually("the call is the peer's", SOON, || {
        let calls = peer.list("/calls");
        (calls.len() == 1 && calls[0]["owner"] == peer.node().as_str()).then_some(())
    });
    let (status, ready) = cut_off.readiness();
    assert_eq!((status, &ready["status"]), (200, &"degraded".into()), "{ready}");
    assert!(ready.to_string().contains("out of reach from here: calls go to"), "{ready}");
    held.hear_each_other();
    hold_and_resume(&mut held);
    // To whichever of the two their messages come.
    let news = [("1005", "1006"), ("1007", "1008"), ("1009", "1010")];
    let news = news.map(|(caller, callee)| pair(&peer, caller, callee));
    news.into_iter().for_each(hang_up);
    held.hear_each_other();
    hang_up(held);
    let cdrs = || postgres.number("select count(*) from cdrs where disposition = 'answered'");
    eventually("each has its CDR", SOON, || (cdrs() == 5).then_some(()));
    way.heal();
    cut_off.signaling.says("the store is reached again");
    eventually("it is ready again", SOON, || {
        (cut_off.readiness().1["status"] == "ready").then_some(())
    });
    hang_up(pair(&peer, "1001", "1002"));
    eventually("the next has one too", SOON, || (cdrs() == 6).then_some(()));
}

#[test]
fn what_a_node_kept_in_an_outage_outlives_its_disk() {
    let mut site = Site::start();
    site.postgres.stop();
    hang_up(site.over);
    site.cut_off.signaling.says("changes are kept in the journal");
    hold_and_resume(&mut site.held);
    let [caller, callee] = site.idle;
    let new = Pair::between(caller, callee, &site.peer.uri("1012"));
    // What was done last is told lazily.
    let name = site.cut_off.node();
    new.hear_each_other();
    site.cut_off.signaling.kill();
    for kind in ["db", "db-wal", "db-shm"] {
        let file = site.host.data("journal").join(format!("{name}.{kind}"));
        std::fs::remove_file(&file).expect("it had a journal");
    }
    site.held.hear_each_other();
    site.postgres.run();
    eventually("both calls live", SOON * 2, || (site.peer.list("/calls").len() == 2).then_some(()));
    hang_up(new);
    hang_up(site.held);
    assert_eq!(site.peer.cdrs(3).len(), 3);
    let answered = "select count(*) from cdrs where disposition = 'answered'";
    assert_eq!(site.postgres.number(answered), 3);
}
