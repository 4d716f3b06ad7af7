//! The peer in signaling: Kamailio as registrar and stateful proxy, digest for REGISTER and INVITE as Holdfast asks for.
//!
//! A proxy, no B2BUA, and without media: what it does is less than what Holdfast does for the same phones.

use super::phones::{extension, password};
use super::usage::Meter;
use super::world::{Daemon, Side, World, port};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;

/// Of the SQL that Debian's package brings; the first makes what the others need.
const SCHEMA: &str = "/usr/share/kamailio/postgres";
const TABLES: [&str; 4] = ["standard", "usrloc", "auth_db", "dialog"];

/// How it keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Registrations are written to PostgreSQL before the answer.
    pub(crate) locations_stored: bool,
    /// Passwords are selected from PostgreSQL for each request.
    pub(crate) credentials_selected: bool,
    pub(crate) dialogs: Dialogs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialogs {
    None,
    Memory,
    /// Written at each change of state.
    Stored,
}

/// A running proxy.
pub(crate) struct Kamailio {
    pub(crate) sip: SocketAddrV4,
    pub(crate) meter: Meter,
    _daemon: Daemon,
}

impl Settings {
    fn has_database(self) -> bool {
        self.locations_stored || self.credentials_selected || self.dialogs == Dialogs::Stored
    }
}

impl Kamailio {
    pub(crate) fn start(world: &World, settings: Settings, users: usize) -> Self {
        let folder = world.folder("kamailio");
        let sip = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port());
        let mut groups = Vec::new();
        let database = settings.has_database().then(|| world.database(Side::Peer));
        let url = database.map(|database| database.fresh("kamailio")).unwrap_or_default();
        if let Some(database) = database {
            let read = |table: &&str| {
                let file = format!("{SCHEMA}/{table}-create.sql");
                fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
            };
            let mut sql: String = TABLES.iter().map(read).collect();
            writeln!(
                sql,
                "INSERT INTO subscriber (username, domain, password) SELECT {}, '127.0.0.1', {} \
                 FROM generate_series(0, {}) AS n;",
                pattern(&extension(7), "'"),
                pattern(&password(7), "'"),
                users - 1
            )
            .expect("a String");
            database.run("kamailio", &sql);
            groups.push(("database", database.id()));
        }
        let file = folder.join("kamailio.cfg");
        fs::write(&file, configuration(settings, sip, &url, users)).expect("a file");
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "1024", "-M", "16", "-f"]).arg(&file);
        command.arg("-Y").arg(&folder).arg("-P").arg(folder.join("pid"));
        let mut daemon = Daemon::start("kamailio", Signal::SIGTERM, &folder, &command);
        // TCP is opened only to be asked whether it is there.
        daemon.until("listens", || TcpStream::connect(sip).is_ok());
        groups.insert(0, ("signaling", daemon.id()));
        Self { sip, meter: Meter(groups), _daemon: daemon }
    }
}

/// `u7` as an expression over `n`: `'u' || n`.
fn pattern(of_seven: &str, quote: &str) -> String {
    let join = if quote == "'" { "||" } else { "+" };
    let column = if quote == "'" { "n" } else { "$var(n)" };
    format!("{quote}{}{quote} {join} {column}", of_seven.trim_end_matches('7'))
}

fn configuration(settings: Settings, sip: SocketAddrV4, url: &str, users: usize) -> String {
    // One where nobody waits, more where each waits for the database: the best counts of either (docs/performance.md).
    let children = if settings.has_database() { 8 } else { 1 };
    let mut text = format!(
        "debug=0\nlog_stderror=yes\nfork=yes\nchildren={children}\ntcp_children=1\n\
         maxbuffer=8388608\nlisten=udp:{sip}\nlisten=tcp:{sip}\nauto_aliases=no\nalias=\"{sip}\"\n\
         max_while_loops={loops}\nmpath=\"/usr/lib/{arch}-linux-gnu/kamailio/modules/\"\n",
        loops = users + 1,
        arch = std::env::consts::ARCH,
    );
    let mut modules = vec![
        "tm",
        "sl",
        "rr",
        "pv",
        "maxfwd",
        "textops",
        "siputils",
        "usrloc",
        "registrar",
        "htable",
        "auth",
    ];
    let mut parameters = vec![
        ("usrloc", "db_mode", if settings.locations_stored { "1" } else { "0" }.to_owned()),
        ("usrloc", "hash_size", "14".to_owned()),
        ("registrar", "max_contacts", "1".to_owned()),
        ("registrar", "max_expires", "3600".to_owned()),
        ("auth", "nonce_expire", "600".to_owned()),
        ("tm", "fr_timer", "5000".to_owned()),
        ("tm", "fr_inv_timer", "60000".to_owned()),
        ("htable", "htable", "\"passwords=>size=14;\"".to_owned()),
    ];
    if settings.has_database() {
        modules.insert(0, "db_postgres");
        parameters.push(("usrloc", "db_url", format!("\"{url}\"")));
    }
    if settings.credentials_selected {
        modules.push("auth_db");
        parameters.push(("auth_db", "db_url", format!("\"{url}\"")));
        parameters.push(("auth_db", "calculate_ha1", "1".to_owned()));
        parameters.push(("auth_db", "password_column", "\"password\"".to_owned()));
        parameters.push(("auth_db", "load_credentials", "\"\"".to_owned()));
    }
    if settings.dialogs != Dialogs::None {
        modules.push("dialog");
        let mode = if settings.dialogs == Dialogs::Stored { "1" } else { "0" };
        parameters.push(("dialog", "db_mode", mode.to_owned()));
        parameters.push(("dialog", "hash_size", "16384".to_owned()));
    }
    if settings.dialogs == Dialogs::Stored {
        parameters.push(("dialog", "db_url", format!("\"{url}\"")));
    }
    for module in modules {
        writeln!(text, "loadmodule \"{module}.so\"").expect("a String");
    }
    for (module, name, value) in parameters {
        writeln!(text, "modparam(\"{module}\", \"{name}\", {value})").expect("a String");
    }
    text.push_str(&routes(settings, users));
    text
}

fn routes(settings: Settings, users: usize) -> String {
    let (www, proxy) = if settings.credentials_selected {
        ("www_authenticate(\"$fd\", \"subscriber\")", "proxy_authenticate(\"$fd\", \"subscriber\")")
    } else {
        (
            "pv_www_authenticate(\"$fd\", \"$sht(passwords=>$fU)\", \"0\")",
            "pv_proxy_authenticate(\"$fd\", \"$sht(passwords=>$fU)\", \"0\")",
        )
    };
    let manage = if settings.dialogs == Dialogs::None { "" } else { "dlg_manage();" };
    format!(
        r#"
event_route[htable:mod-init] {{
    $var(n) = 0;
    while ($var(n) < {users}) {{
        $var(user) = {user};
        $sht(passwords=>$var(user)) = {password};
        $var(n) = $var(n) + 1;
    }}
}}
request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (is_method("REGISTER")) {{
        if (!{www}) {{ www_challenge("$fd", "1"); exit; }}
        if (!save("location")) {{ sl_reply_error(); }}
        exit;
    }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        if (is_method("ACK")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
        sl_send_reply("481", "No such call");
        exit;
    }}
    if (is_method("ACK|CANCEL")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
    if (!is_method("INVITE")) {{ sl_send_reply("405", "Method Not Allowed"); exit; }}
    t_check_trans();
    if (!{proxy}) {{ proxy_challenge("$fd", "1"); exit; }}
    consume_credentials();
    record_route();
    {manage}
    if (!lookup("location")) {{ sl_send_reply("480", "Not registered"); exit; }}
    if (!t_relay()) {{ sl_reply_error(); }}
    exit;
}}
"#,
        user = pattern(&extension(7), "\""),
        password = pattern(&password(7), "\""),
    )
}
