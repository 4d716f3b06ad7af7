//! Settings as text: the table of every key, and where each value came from (flag, environment,
//! file, default).
//!
//! Invariants: every key can be given in `holdfast.toml` and as `HOLDFAST_*`, the environment wins;
//! an unknown key or variable is a mistake; no mistake hides another; a secret is never printed.

use super::mode::Mode;
use core::fmt;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The half of the switch that a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Either.
    Any,
    /// Without effect in a media node.
    Signaling,
    /// Without effect in a signaling node.
    Media,
}

impl Half {
    /// A process of this mode has it.
    pub const fn is_of(self, mode: Mode) -> bool {
        match self {
            Self::Any => true,
            Self::Signaling => mode.has_signaling(),
            Self::Media => mode.has_media(),
        }
    }
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Key in the file; the variable is `HOLDFAST_` and this in capitals.
    pub key: &'static str,
    /// Text taken when it is not set; `None`: chosen at start.
    pub default: Option<&'static str>,
    /// Never printed, and also readable from the file that `<key>_file` names.
    pub secret: bool,
    /// Whom it serves.
    pub half: Half,
    /// `holdfast reload` changes it while the process runs.
    pub is_tunable: bool,
}

impl Setting {
    const fn tunable(self) -> Self {
        Self { is_tunable: true, ..self }
    }
}

const fn setting(key: &'static str, default: &'static str, half: Half) -> Setting {
    Setting { key, default: Some(default), secret: false, half, is_tunable: false }
}

const fn chosen(key: &'static str, half: Half) -> Setting {
    Setting { key, default: None, secret: false, half, is_tunable: false }
}

const fn secret(key: &'static str, half: Half) -> Setting {
    Setting { key, default: None, secret: true, half, is_tunable: false }
}

/// Peers in these networks never get the public address (RFC 1918, RFC 4193).
const LOCAL_NETS: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7";

/// Where no webhook leads: link-local addresses, where clouds keep credentials, and what is nobody's.
const WEBHOOK_DENIED_NETS: &str = "169.254.0.0/16,fe80::/10,0.0.0.0/8,::/128,224.0.0.0/3,ff00::/8";

/// Every setting, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    setting("mode", "both", Half::Any),
    chosen("node", Half::Any),
    setting("data_dir", "./data", Half::Any),
    secret("database_url", Half::Signaling),
    secret("cluster_secret", Half::Any),
    setting("sip_bind", "0.0.0.0:5060", Half::Signaling),
    chosen("sip_advertise", Half::Signaling),
    setting("sip_realm", "holdfast", Half::Signaling),
    setting("media_bind", "0.0.0.0", Half::Media),
    chosen("media_advertise", Half::Media),
    setting("media_ports", "20000-29999", Half::Media),
    setting("local_nets", LOCAL_NETS, Half::Any),
    setting("control_bind", "127.0.0.1:7070", Half::Any),
    setting("join", "127.0.0.1", Half::Any),
    chosen("admin_bind", Half::Any),
    secret("admin_token", Half::Any),
    chosen("metrics_bind", Half::Any),
    chosen("admin_url", Half::Any),
    setting("log", "info", Half::Any).tunable(),
    setting("log_format", "text", Half::Any),
    setting("log_personal", "show", Half::Any),
    setting("ring_timeout_ms", "60000", Half::Signaling).tunable(),
    setting("rtp_timeout_ms", "60000", Half::Signaling).tunable(),
    setting("drain_timeout_ms", "3600000", Half::Any).tunable(),
    setting("lease_ms", "3000", Half::Signaling),
    setting("ladder_ms", "86400000", Half::Signaling),
    setting("ladder_bytes", "268435456", Half::Signaling),
    setting("reanchor_window", "512", Half::Signaling).tunable(),
    setting("registration_max_ms", "300000", Half::Signaling).tunable(),
    setting("max_contacts", "10", Half::Signaling).tunable(),
    chosen("max_calls", Half::Media).tunable(),
    setting("media_priority", "0", Half::Media),
    setting("media_offload", "auto", Half::Media),
    setting("emergency_numbers", "", Half::Signaling).tunable(),
    chosen("hep_target", Half::Any),
    setting("hep_agent", "2001", Half::Any),
    secret("hep_password", Half::Any),
    chosen("otlp_endpoint", Half::Signaling),
    secret("otlp_headers", Half::Signaling),
    setting("webhook_denied_nets", WEBHOOK_DENIED_NETS, Half::Signaling),
];

/// Name of the variable of a key.
pub fn variable(key: &str) -> String {
    format!("HOLDFAST_{}", key.to_ascii_uppercase())
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The settings file.
    File,
    /// The environment.
    Environment,
    /// A flag of the command line.
    Flag,
    /// The file that a `_file` setting names.
    SecretFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("settings file"),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("command line"),
            Self::SecretFile(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A value as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As given.
    pub text: String,
    /// By whom.
    pub origin: Origin,
}

/// What settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Text of `holdfast.toml`.
    pub file: Option<String>,
    /// Variables of the process.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line.
    pub flags: Vec<(&'static str, String)>,
}

/// Settings as text, and all mistakes so far.
#[derive(Clone, Debug, Default)]
pub struct Values {
    values: BTreeMap<&'static str, Value>,
    /// What is wrong, in words.
    pub mistakes: Vec<String>,
}

impl Values {
    /// Reads all sources; the later wins: default, file, environment, flag.
    pub fn resolve(sources: &Sources) -> Self {
        let mut given = Self::default();
        if let Some(text) = &sources.file {
            given.read_file(text);
        }
        given.read_environment(&sources.environment);
        for (key, text) in &sources.flags {
            given.values.insert(key, Value { text: text.clone(), origin: Origin::Flag });
        }
        given
    }

    /// The value given for a key, if any.
    pub fn given(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Reads a setting that has a default. A bad value is a mistake, and the default stands in for
    /// it.
    pub fn read<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        if let Some(value) = self.read_given(key, &parse) {
            return value;
        }
        let default = SETTINGS.iter().find(|setting| setting.key == key);
        let text = default.and_then(|setting| setting.default).unwrap_or_default();
        match parse(text) {
            Ok(value) => value,
            Err(error) => panic!("the default of {key} must be valid: {error}"),
        }
    }

    /// Reads a setting without default.
    pub fn read_given<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.values.get(key)?;
        match parse(&value.text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let shown = if is_secret(key) { "***" } else { value.text.as_str() };
                let mistake = format!("{} = {shown}: {error} ({})", key, value.origin);
                self.mistakes.push(mistake);
                None
            }
        }
    }

    /// Settings that the mode does not serve: a mistake when the process was told so itself, a note
    /// when they stand in a file, which the processes of a host may share.
    pub fn check_halves(&mut self, mode: Mode) -> Vec<String> {
        let mut notes = Vec::new();
        for setting in SETTINGS {
            let is_idle = |_: &&Value| !setting.half.is_of(mode);
            let Some(value) = self.values.get(setting.key).filter(is_idle) else { continue };
            let text = format!("{} has no effect in mode {mode}", setting.key);
            if value.origin == Origin::File {
                notes.push(text);
            } else {
                self.mistakes.push(format!("{text}: remove it ({})", value.origin));
            }
        }
        notes
    }

    fn read_file(&mut self, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                self.mistakes.push(format!("the settings file is not TOML: {error}"));
                return;
            }
        };
        for (key, value) in table {
            match (known(&key), file_text(&value)) {
                (Some(found), Some(text)) => self.insert(found, text, &Origin::File),
                (None, _) => self.mistakes.push(format!("{key}: no such setting (settings file)")),
                (Some(_), None) => self
                    .mistakes
                    .push(format!("{key}: give a string, a number or a list (settings file)")),
            }
        }
    }

    /// Empty variables count as not set: compose files pass them on as `${NAME:-}`.
    fn read_environment(&mut self, environment: &[(String, String)]) {
        let mut seen: Vec<&'static str> = Vec::new();
        for (name, text) in environment {
            let Some(rest) = name.strip_prefix("HOLDFAST_") else { continue };
            if text.is_empty() || rest == "CONFIG" || is_service_link(rest, text) {
                continue;
            }
            let Some(found) = known(&rest.to_ascii_lowercase()).filter(|_| !has_lower(rest)) else {
                self.mistakes.push(format!("{name}: no such setting (environment)"));
                continue;
            };
            if seen.contains(&found.0.key) {
                let key = variable(found.0.key);
                self.mistakes.push(format!("{key} and {key}_FILE are both set (environment)"));
                continue;
            }
            seen.push(found.0.key);
            self.insert(found, text.clone(), &Origin::Environment);
        }
    }

    fn insert(&mut self, (setting, by_file): (&Setting, bool), text: String, origin: &Origin) {
        let key = setting.key;
        if *origin == Origin::File && self.values.contains_key(key) {
            self.mistakes.push(format!("{key} and {key}_file are both set ({origin})"));
            return;
        }
        if !by_file {
            self.values.insert(key, Value { text, origin: origin.clone() });
            return;
        }
        match std::fs::read_to_string(&text) {
            Ok(content) => {
                let text_of_file = content.trim_end_matches(['\r', '\n']).to_owned();
                let origin = Origin::SecretFile(PathBuf::from(text));
                self.values.insert(key, Value { text: text_of_file, origin });
            }
            Err(error) => {
                self.mistakes
                    .push(format!("{key}_file = {text}: cannot be read: {error} ({origin})"));
            }
        }
    }
}

/// The setting of a key, and whether the key is its `_file` form.
fn known(key: &str) -> Option<(&'static Setting, bool)> {
    let find = |key: &str| SETTINGS.iter().find(|setting| setting.key == key);
    if let Some(setting) = find(key) {
        return Some((setting, false));
    }
    let setting = find(key.strip_suffix("_file")?)?;
    setting.secret.then_some((setting, true))
}

/// A secret is masked wherever it would be shown.
pub fn is_secret(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key == key && setting.secret)
}

fn has_lower(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Lists stand for themselves, joined by commas.
fn file_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(file_text).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Kubernetes gives every container variables of its services: one named `holdfast` makes
/// `HOLDFAST_SERVICE_HOST`, `HOLDFAST_PORT_5060_UDP_ADDR` and so on. They are nobody's mistake.
fn is_service_link(rest: &str, text: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let port_part = |word: &str| {
        rest.find(word).is_some_and(|at| {
            rest.get(at + word.len()..)
                .is_some_and(|tail| tail.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    rest.ends_with("SERVICE_HOST")
        || rest.ends_with("SERVICE_PORT")
        || rest.contains("SERVICE_PORT_")
        || (rest.ends_with("PORT") && is_url)
        || port_part("PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)]) -> Sources {
        Sources {
            file: Some(file.to_owned()),
            environment: environment
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect(),
            flags: Vec::new(),
        }
    }

    fn text(values: &Values, key: &str) -> Option<String> {
        values.given(key).map(|value| format!("{} ({})", value.text, value.origin))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_a_flag_over_both() {
        let mut sources = sources(
            "mode = 'media'\nring_timeout_ms = 5000\njoin = ['a', 'b:7071']",
            &[("HOLDFAST_MODE", "signaling"), ("HOLDFAST_LOG", ""), ("PATH", "/bin")],
        );
        let values = Values::resolve(&sources);
        assert_eq!(values.mistakes, Vec::<String>::new());
        assert_eq!(text(&values, "mode").as_deref(), Some("signaling (environment)"));
        assert_eq!(text(&values, "ring_timeout_ms").as_deref(), Some("5000 (settings file)"));
        assert_eq!(text(&values, "join").as_deref(), Some("a,b:7071 (settings file)"));
        assert_eq!(text(&values, "log"), None, "an empty variable is not set");
        sources.flags.push(("mode", "both".to_owned()));
        let values = Values::resolve(&sources);
        assert_eq!(text(&values, "mode").as_deref(), Some("both (command line)"));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let values = Values::resolve(&sources(
            "sip_bnd = '1'\n[mode]\nx = 1\n",
            &[
                ("HOLDFAST_RTP_START", "1"),
                ("HOLDFAST_mode", "both"),
                ("HOLDFAST_LOG_FILE", "/x"),
                ("HOLDFAST_ADMIN_TOKEN_FILE", "/nowhere/at/all"),
                ("HOLDFAST_CLUSTER_SECRET", "a"),
                ("HOLDFAST_CLUSTER_SECRET_FILE", "b"),
            ],
        ));
        let expected = [
            "mode: give a string, a number or a list",
            "sip_bnd: no such setting (settings file)",
            "HOLDFAST_RTP_START: no such setting",
            "HOLDFAST_mode: no such setting",
            "HOLDFAST_LOG_FILE: no such setting",
            "admin_token_file = /nowhere/at/all: cannot be read",
            "HOLDFAST_CLUSTER_SECRET and HOLDFAST_CLUSTER_SECRET_FILE are both set",
        ];
        assert_eq!(values.mistakes.len(), expected.len(), "{:#?}", values.mistakes);
        for start in expected {
            assert!(values.mistakes.iter().any(|mistake| mistake.starts_with(start)), "{start}");
        }
    }

    #[test]
    fn variables_of_kubernetes_services_are_not_ours() {
        for (name, value, link) in [
            ("SERVICE_HOST", "10.0.0.1", true),
            ("SIGNALING_SERVICE_PORT_SIP", "5060", true),
            ("PORT", "udp://10.0.0.1:5060", true),
            ("PORT", "5060", false),
            ("PORT_5060_UDP_ADDR", "10.0.0.1", true),
            ("MEDIA_PORTS", "1-2", false),
            ("MEDIA_PORT_FIRST", "1", false),
        ] {
            assert_eq!(is_service_link(name, value), link, "{name}={value}");
        }
    }

    #[test]
    fn a_mode_refuses_what_it_was_told_and_does_not_serve() {
        let mut values = Values::resolve(&sources(
            "media_ports = '1-2'\nsip_realm = 'x'",
            &[("HOLDFAST_SIP_BIND", "127.0.0.1:5060"), ("HOLDFAST_JOIN", "x")],
        ));
        let notes = values.check_halves(Mode::Media);
        assert_eq!(notes, ["sip_realm has no effect in mode media"]);
        assert_eq!(
            values.mistakes,
            ["sip_bind has no effect in mode media: remove it (environment)"]
        );
        values.mistakes.clear();
        assert_eq!(values.check_halves(Mode::Both), Vec::<String>::new());
        assert_eq!(values.mistakes, Vec::<String>::new());
    }
}
