//! `holdfast doctor` on one host asks another host of its cluster for an echo: through nothing, a firewall and a NAT.

use crate::common::network::{Machine, Network, in_a_network};
use crate::common::postgres::Postgres;
use crate::common::process::{Folder, Process};
use crate::common::server::{Host, Server, holdfast};
use crate::router::{Kind, Router, nft};
use serde_json::Value;

/// What the echo's check says there, as `status detail`.
fn echo(place: &Machine, settings: &[(&str, &str)]) -> String {
    let folder = Folder::new("doctor-echo");
    let output = place.within(|| {
        let mut command = holdfast(&folder);
        command.args(["doctor", "--json"]).envs(settings.iter().copied());
        command.output().expect("the binary runs")
    });
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let findings = report["findings"].as_array().expect("findings");
    let found: Vec<&Value> = findings.iter().filter(|one| one["check"] == "echo").collect();
    let [found] = &found[..] else { panic!("one echo: {findings:#?}") };
    assert_eq!(found["status"] == "ok", found["fix"].is_null(), "{found}");
    format!("{} {}", found["status"], found["detail"])
}

fn blocks_media(place: &Machine) {
    place.within(|| {
        nft("table inet wall {
               chain input {
                 type filter hook input priority 0
                 udp dport 20000-29999 drop
               }
             }");
    });
}

/// A host with both kinds of nodes, which takes SIP at the usual port.
struct Other {
    _postgres: Postgres,
    _processes: (Process, Server),
    ip: String,
    database: String,
}

impl Other {
    fn new(network: &Network) -> Self {
        let postgres = Postgres::start();
        let database = postgres.url("postgres");
        let machine = network.machine(11);
        let media = Host::at(machine.ip, "media", &database).joining(&[machine.ip]);
        let signaling = Host::at(machine.ip, "signaling", &database);
        let processes = machine.within(|| (media.media(), signaling.signaling()));
        Self { _postgres: postgres, _processes: processes, ip: machine.ip.to_string(), database }
    }
}

#[test]
fn a_media_node_hears_the_echo_of_the_signaling_node_that_it_joins() {
    in_a_network(|network| {
        let other = Other::new(network);
        let settings = [
            ("HOLDFAST_MODE", "media"),
            ("HOLDFAST_JOIN", other.ip.as_str()),
            ("HOLDFAST_CLUSTER_SECRET", "a-secret-of-two-hosts"),
        ];
        let media = network.machine(12);
        let told = echo(&media, &settings);
        assert!(told.contains("ok") && told.contains(&media.ip.to_string()), "{told}");
        blocks_media(&media);
        let told = echo(&media, &settings);
        assert!(told.contains("fail") && told.contains("does not answer"), "{told}");

        let router = Router::new(network, 21, Kind::PortRestricted);
        let inside = router.place(2);
        let told = echo(&inside, &settings);
        assert!(told.contains("warn") && told.contains(&router.ip().to_string()), "{told}");
        let public = router.ip().to_string();
        let knowing = [&settings[..], &[("HOLDFAST_MEDIA_ADVERTISE", &public)]].concat();
        let told = echo(&inside, &knowing);
        assert!(told.contains("ok"), "{told}");
    });
}

#[test]
fn a_signaling_node_hears_the_echo_of_the_others_that_the_database_names() {
    in_a_network(|network| {
        let other = Other::new(network);
        let place = network.machine(12);
        let settings =
            [("HOLDFAST_MODE", "signaling"), ("HOLDFAST_DATABASE_URL", other.database.as_str())];
        let told = echo(&place, &settings);
        assert!(told.contains("ok") && told.contains(&place.ip.to_string()), "{told}");
        blocks_media(&place);
        let told = echo(&place, &settings);
        assert!(told.contains("fail"), "{told}");
    });
}
