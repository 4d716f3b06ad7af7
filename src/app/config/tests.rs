//! Tables of settings: what is taken, what is refused and how.

use super::*;

fn host() -> Host {
    Host {
        name: "pbx".to_owned(),
        addresses: vec!["10.0.0.4".parse().expect("an address")],
        can_bind: |ip| ip != "203.0.113.5".parse::<IpAddr>().expect("an address"),
    }
}

fn load(environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let environment =
        environment.iter().map(|(key, text)| (settings::variable(key), (*text).to_owned()));
    let sources = Sources { environment: environment.collect(), ..Sources::default() };
    Config::load(&sources, &host())
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = load(&[]).expect("defaults work");
    assert_eq!(config.mode, Mode::Both);
    assert_eq!(config.sip.bind, ["0.0.0.0:5060".parse().expect("an address")]);
    assert_eq!(config.sip.realm, "holdfast");
    assert_eq!(config.media.ports, PortRange { first: 20_000, last: 29_999, slice: None });
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:8080");
    assert_eq!(config.database_url.expose(), "sqlite:./data/holdfast.db");
    assert_eq!(config.sip.registration_max, Duration::from_millis(300_000));
    assert_eq!(config.lease, Duration::from_secs(3));
    assert_eq!(config.effective.len(), SETTINGS.len());
    let media = load(&[("mode", "media")]).expect("works");
    assert_eq!(media.admin.bind.to_string(), "127.0.0.1:8090");
}

#[test]
fn good_values() {
    for (key, text) in [
        ("sip_bind", "0.0.0.0"),
        ("sip_bind", "0.0.0.0:5060,[::]:5060"),
        ("sip_advertise", "pbx.example"),
        ("sip_advertise", "203.0.113.5:5080"),
        ("sip_advertise", "2001:db8::1"),
        ("sip_advertise", "[2001:db8::1]:5080"),
        ("media_advertise", "203.0.113.5"),
        ("media_ports", "20000-20099/20"),
        ("local_nets", "10.0.0.0/8"),
        ("join", "signaling,10.0.0.1:7071"),
        ("cluster_secret", "0123456789abcdef,fedcba9876543210"),
        ("database_url", "postgres://u:p@a,b/holdfast"),
        ("log", "info,holdfast::call=debug"),
        ("emergency_numbers", "112,911"),
        ("metrics_bind", "127.0.0.1:9464"),
        ("hep_target", "homer:9060"),
        ("hep_target", "[2001:db8::1]:9060"),
        ("hep_target", "tcp:homer:9060"),
        ("hep_target", "udp:[2001:db8::1]:9060"),
        ("hep_password", "x"),
        ("otlp_endpoint", "http://collector:4318/v1/traces"),
        ("otlp_headers", "x-key=a=b, x-other=c"),
        ("webhook_denied_nets", "10.0.0.0/8,fe80::/10"),
    ] {
        assert!(load(&[(key, text)]).is_ok(), "{key} = {text}: {:?}", load(&[(key, text)]).err());
    }
}

#[test]
fn bad_values() {
    for (key, text) in [
        ("mode", "proxy"),
        ("hep_target", "homer"),
        ("hep_target", "tls:homer:9060"),
        ("hep_agent", "-1"),
        ("otlp_endpoint", "collector:4318"),
        ("otlp_headers", "x-key"),
        ("webhook_denied_nets", "10.0.0.0"),
        ("sip_bind", "pbx.example:5060"),
        ("sip_bind", ","),
        ("sip_advertise", "0.0.0.0"),
        ("sip_advertise", "1.2.3.456"),
        ("sip_advertise", "a b"),
        ("sip_advertise", "pbx:0"),
        ("sip_realm", "a\"b"),
        ("media_bind", "0.0.0.0:5000"),
        ("media_advertise", "203.0.113.5:5000"),
        ("media_ports", "20000"),
        ("media_ports", "30000-20000"),
        ("media_ports", "1-100"),
        ("media_ports", "20000-20099/200"),
        ("local_nets", "10.0.0.0"),
        ("join", ""),
        ("join", "a:b:c"),
        ("node", "a/b"),
        ("cluster_secret", "a,b,c"),
        ("admin_token", "with space"),
        ("database_url", "mysql://x"),
        ("log", "info,=="),
        ("log_format", "xml"),
        ("ring_timeout_ms", "60s"),
        ("ring_timeout_ms", "10"),
        ("lease_ms", "-1"),
        ("max_contacts", "0"),
        ("max_calls", "many"),
        ("media_priority", "100"),
    ] {
        // An empty variable is not set; in the file it is.
        let file = format!("{key} = '''{text}'''");
        let sources = Sources { file: Some(file), ..Sources::default() };
        let mistakes = Config::load(&sources, &host()).err().map(|mistakes| mistakes.0);
        assert_eq!(mistakes.as_ref().map(Vec::len), Some(1), "{key} = {text}: {mistakes:?}");
        let starts = mistakes.is_some_and(|all| all.iter().all(|one| one.starts_with(key)));
        assert!(starts, "{key} = {text}");
    }
}

#[test]
fn all_mistakes_come_together() {
    let mistakes = load(&[("mode", "x"), ("lease_ms", "x"), ("sip_bnd", "x")]).err();
    assert_eq!(mistakes.map(|mistakes| mistakes.0.len()), Some(3));
}

#[test]
fn a_public_address_in_bind_is_explained() {
    let mistakes = load(&[("sip_bind", "203.0.113.5:5060")]).err().map(|mistakes| mistakes.0);
    let expected = "sip_bind: 203.0.113.5 is not on this host; \
                    set sip_advertise=203.0.113.5 and sip_bind to an address of this host \
                    (10.0.0.4) or 0.0.0.0";
    assert_eq!(mistakes, Some(vec![expected.to_owned()]));
}

#[test]
fn secrets_are_never_shown() {
    let config = load(&[
        ("database_url", "postgres://holdfast:pass:word@db1,db2:5433/holdfast?password=x"),
        ("admin_token", "tokentokentoken1"),
        ("cluster_secret", "clusterclusterclu"),
    ])
    .expect("works");
    let all = format!("{config:?}");
    for secret in ["word", "tokentoken", "clusterclu"] {
        let without_keys = all.replace("password=x", "word=x");
        assert!(!without_keys.contains(secret) || secret == "word", "{secret} in {all}");
    }
    let url = config.effective.iter().find(|shown| shown.key == "database_url");
    let value = url.map(|shown| shown.value.as_str());
    assert_eq!(value, Some("postgres://holdfast:***@db1,db2:5433/holdfast?***"));
}

/// What a person reads that can be set must have an effect, however they start it.
#[test]
fn compose_passes_on_every_setting_that_the_readme_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).expect(file);
    let readme = read("README.md");
    let table = readme.split_once("| variable |").expect("a table of settings").1;
    let names = table.lines().take_while(|line| !line.is_empty()).flat_map(|line| {
        let first = line.split('|').nth(1).unwrap_or_default();
        first.split('`').filter_map(|word| word.strip_prefix("HOLDFAST_")).collect::<Vec<_>>()
    });
    let named: Vec<String> = names.map(str::to_lowercase).collect();
    let cluster = read("compose.yaml");
    let (signaling, media) = cluster.split_once("\n  media:\n").expect("a service");
    let (single, desktop) = (read("compose.single.yaml"), read("compose.desktop.yaml"));
    // What a container is by itself, and, where ports are published, what those ports are.
    let own = ["mode", "data_dir"];
    let published = ["sip_bind", "media_bind", "control_bind", "sip_advertise", "media_advertise"];
    for setting in SETTINGS.iter().filter(|one| named.iter().any(|name| name == one.key)) {
        let key = setting.key;
        let is_passed =
            |to: &str| to.contains(&format!("\n      {}: ${{", settings::variable(key)));
        let in_cluster = match setting.half {
            settings::Half::Signaling => is_passed(signaling),
            settings::Half::Media => is_passed(media),
            settings::Half::Any => is_passed(signaling) && is_passed(media),
        };
        if own.contains(&key) {
            continue;
        }
        // Replicas cannot have one name; signaling joins by the database, and media has no API.
        let one_half = ["node", "join", "admin_token", "admin_url"];
        assert!(in_cluster || one_half.contains(&key), "compose.yaml: {key}");
        assert!(is_passed(&single), "compose.single.yaml: {key}");
        let is_fixed = ["media_ports", "max_calls", "local_nets", "admin_bind"].contains(&key);
        let is_set = is_passed(&desktop) || is_fixed || published.contains(&key);
        assert!(is_set, "compose.desktop.yaml: {key}");
    }
    let known = |name: &&String| SETTINGS.iter().any(|setting| setting.key == **name);
    let unknown: Vec<_> = named.iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty() && named.len() > 30, "{unknown:?} of {}", named.len());
}
