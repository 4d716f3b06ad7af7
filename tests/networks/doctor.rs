//! `holdfast doctor` on one host asks another host of its cluster for an echo: through nothing, a firewall and a NAT.

use crate::common::network::{Machine, Network, in_a_network};
use crate::common::postgres::Postgres;
use crate::common::process::{Folder, Process};
use crate::common::server::{Host, Server, holdfast};
use crate::router::{Kind, Router, nft};
use serde_json::Value;

/// What the echo's check says there, as `status detail`.
fn echo(place: &Machine, settings: &[(&str, &str)]) -> String {
    echo_of(place, settings, &[])
}

/// The same, with more that is asked.
fn echo_of(place: &Machine, settings: &[(&str, &str)], asked: &[&str]) -> String {
    let folder = Folder::new("doctor-echo");
    let output = place.within(|| {
        let mut command = holdfast(&folder);
        command.args(["doctor", "--json"]).args(asked).envs(settings.iter().copied());
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
        Self::with_sip(network, 5_060)
    }

    fn with_sip(network: &Network, port: u16) -> Self {
        let postgres = Postgres::start();
        let database = postgres.url("postgres");
        let machine = network.machine(11);
        let media = Host::at(machine.ip, "media", &database).joining(&[machine.ip]);
        let signaling = Host::at(machine.ip, "signaling", &database).with_sip(port);
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
        // Its SIP might be elsewhere; of a port that is named there is no doubt.
        let told = echo(&media, &settings);
        assert!(told.contains("warn") && told.contains("does not answer"), "{told}");
        let named = ["--echo", &other.ip];
        let told = echo_of(&media, &settings, &named);
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
fn an_echo_is_heard_of_a_host_that_takes_sip_at_another_port() {
    in_a_network(|network| {
        let other = Other::with_sip(network, 5_070);
        let media = network.machine(12);
        // With the port of its control channel, as it may stand in `join`.
        let joined = format!("{}:7070", other.ip);
        let settings = [
            ("HOLDFAST_MODE", "media"),
            ("HOLDFAST_JOIN", joined.as_str()),
            ("HOLDFAST_CLUSTER_SECRET", "a-secret-of-two-hosts"),
        ];
        let told = echo(&media, &settings);
        assert!(told.contains("warn") && told.contains(":5060 does not answer"), "{told}");
        let sip = format!("{}:5070", other.ip);
        let told = echo_of(&media, &settings, &["--echo", &sip]);
        assert!(told.contains("ok") && told.contains(&sip), "{told}");
        let told = echo_of(&media, &settings, &["--echo", &sip, "--echo", &sip]);
        assert!(told.contains("ok"), "asked once: {told}");
    });
}

/// What a doctor that is started in this way says there.
fn told_by(place: &Machine, folder: &Folder, way: &[&str]) -> Vec<Value> {
    let output = place.within(|| {
        let doctor = holdfast(folder);
        let mut command = std::process::Command::new(way[0]);
        command.args(&way[1..]).arg(doctor.get_program()).args(["doctor", "--json"]);
        for (name, value) in doctor.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(folder.path()).output().expect("runs")
    });
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    report["findings"].as_array().expect("findings").clone()
}

fn status_of(findings: &[Value], check: &str) -> String {
    let found = findings.iter().find(|one| one["check"] == check);
    found.map_or_else(|| panic!("no {check} in {findings:#?}"), |one| one["status"].to_string())
}

#[test]
fn a_full_disk_and_a_process_of_root_are_told() {
    in_a_network(|network| {
        let place = network.machine(11);
        let folder = Folder::new("doctor-disk");
        let data = folder.file("data");
        std::fs::create_dir(&data).expect("made");
        let data = data.display();
        for (size, status) in [("32m", "\"fail\""), ("512m", "\"warn\""), ("2g", "\"ok\"")] {
            let line = format!("mount -t tmpfs -o size={size} tmpfs {data} && exec \"$@\"");
            let told = told_by(&place, &folder, &["unshare", "-m", "sh", "-c", &line, "sh"]);
            assert_eq!(status_of(&told, "disk"), status, "{size}: {told:#?}");
            assert_eq!(status_of(&told, "user"), "\"warn\"", "{told:#?}");
        }
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let told = told_by(&place, &folder, &nobody);
        assert_eq!(status_of(&told, "user"), "\"ok\"", "{told:#?}");
        assert_eq!(status_of(&told, "data_dir"), "\"fail\"", "{told:#?}");
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
