//! The command line: a client of the admin API; tables for people, `--json` for scripts.
//!
//! Invariant: a command asks a node and prints what it says; nothing is known or decided here.

mod call;
mod cdrs;
mod client;
mod commands;
mod events;
mod health;
mod local;
mod progress;
mod quality;
mod reload;
mod table;
mod tokens;
mod trace;
mod users;
mod watch;
mod webhooks;

pub use call::{CallCommand, Phone};
pub use cdrs::CdrsArguments;
pub use commands::run;
pub use tokens::{RoleName, TokensCommand};
pub use users::{OrNone, Srtp, UserFields, UsersCommand};
pub use webhooks::{WebhookFields, WebhooksCommand};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about = "A softswitch that containers cannot kill",
    after_help = "Example: holdfast serve --mode both\n\
        Exit codes: 0 done, 1 failed, 64 wrong use or configuration, \
        69 node unreachable, 75 try again later"
)]
pub struct Arguments {
    /// Settings file; ./holdfast.toml when it is there.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to reach a node.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach a node; the environment and credentials.json fill in what is not given.
#[derive(Clone, Debug, Default, Args)]
pub struct Connection {
    /// Admin API, for example http://127.0.0.1:8080 (HOLDFAST_ADMIN_URL).
    #[arg(long, global = true)]
    pub url: Option<String>,
    /// Admin token; better in HOLDFAST_ADMIN_TOKEN, where `ps` does not show it.
    #[arg(long, global = true)]
    pub token: Option<String>,
}

/// What is known of the node without asking, from the environment and the data directory.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// `HOLDFAST_ADMIN_URL`.
    pub url: Option<String>,
    /// `HOLDFAST_ADMIN_TOKEN`.
    pub token: Option<String>,
    /// `credentials.json`.
    pub credentials: Option<serde_json::Value>,
    /// Where processes of this container, or of this machine, tell their health: a socket of that process alone, and an
    /// address that others may share, for a release without the socket.
    pub health: Vec<(Option<PathBuf>, String)>,
    /// Where those of them that answer for the cluster take what this user asks, without a token.
    pub sockets: Vec<PathBuf>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Json {
    /// JSON as the API gives it.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a node.
    #[command(after_help = "Example: holdfast serve --mode signaling --config /etc/holdfast.toml")]
    Serve(Serve),
    /// Users: list, show, add, set, remove, import.
    #[command(after_help = "Examples: holdfast users add 1003 --name Anna\n          \
            holdfast users set 1003 --max-calls 2 --srtp optional")]
    Users {
        /// What to do; list when absent.
        #[command(subcommand)]
        command: Option<UsersCommand>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Phones that are registered.
    #[command(after_help = "Example: holdfast registrations --extension 1001")]
    Registrations {
        /// Of one user.
        #[arg(long)]
        extension: Option<String>,
        /// Removes the registration with this id instead.
        #[arg(long, value_name = "ID")]
        remove: Option<String>,
        /// Has the phone of the registration with this id look for its configuration again instead.
        #[arg(long, value_name = "ID", conflicts_with = "remove")]
        check_sync: Option<String>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Live calls.
    #[command(after_help = "Examples: holdfast calls --state confirmed\n          \
            holdfast calls --flag one_way_audio --watch\n          \
            holdfast calls --owner host-1 --media-node media-2")]
    Calls {
        /// trying, early, confirmed or terminating.
        #[arg(long)]
        state: Option<String>,
        /// From or to this user.
        #[arg(long)]
        extension: Option<String>,
        /// Of this signaling node.
        #[arg(long, value_name = "NODE")]
        owner: Option<String>,
        /// With media at this node.
        #[arg(long, value_name = "NODE")]
        media_node: Option<String>,
        /// With that fault: ack_missing, codec_mismatch, glare_loop, media_rejected, one_way_audio,
        /// private_address_in_sdp, retransmission_storm or silence.
        #[arg(long)]
        flag: Option<String>,
        /// Shows them anew whenever they change, until it is interrupted.
        #[arg(long, short)]
        watch: bool,
        /// Form of the output; watched, a line a change.
        #[command(flatten)]
        json: Json,
    },
    /// One live call, with its legs and streams; or what is to be done with it.
    #[command(
        arg_required_else_help = true,
        after_help = "Examples: holdfast call 0192f0c1-8c5e-7000-8000-000000000001\n          \
            holdfast call new 1001 1002\n          \
            holdfast call hold 0192f0c1-8c5e-7000-8000-000000000001 --leg callee"
    )]
    Call {
        /// Id of the call.
        id: Option<String>,
        /// What to do.
        #[command(subcommand)]
        command: Option<CallCommand>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Ends a call.
    #[command(
        after_help = "Example: holdfast hangup 0192f0c1-8c5e-7000-8000-000000000001 --reason test"
    )]
    Hangup {
        /// Id of the call.
        id: String,
        /// For the phones and the CDR.
        #[arg(long)]
        reason: Option<String>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// What was said in SIP in a call, alive or over, as a ladder; or the ladders of calls as they grow.
    #[command(after_help = "Examples: holdfast trace ID --full\n          \
            holdfast trace --call ID\n          \
            holdfast trace --user 1001\n          \
            holdfast trace --ip 192.0.2.7")]
    Trace {
        /// Id of the call: what was said until now.
        #[arg(required_unless_present_any = ["call", "user", "ip"])]
        id: Option<String>,
        /// Follows this call to its end.
        #[arg(long, value_name = "ID", conflicts_with_all = ["id", "user", "ip"])]
        call: Option<String>,
        /// Follows the calls of this user.
        #[arg(long, value_name = "EXTENSION", conflicts_with_all = ["id", "ip"])]
        user: Option<String>,
        /// Follows the calls of phones at this address; its port may be given too.
        #[arg(long, value_name = "ADDRESS", conflicts_with = "id")]
        ip: Option<String>,
        /// Whole messages.
        #[arg(long)]
        full: bool,
        /// Form of the output; followed, a line for each message, mark and flag.
        #[command(flatten)]
        json: Json,
    },
    /// How each phone of a call was heard and what it heard, alive or over, some seconds a line.
    #[command(after_help = "Example: holdfast quality 0192f0c1-8c5e-7000-8000-000000000001")]
    Quality {
        /// Id of the call.
        id: String,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// The dial plan, without a call: test.
    #[command(after_help = "Example: holdfast route test 1002")]
    Route {
        /// What to do.
        #[command(subcommand)]
        command: RouteCommand,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Who may use the API: list, add, remove.
    #[command(after_help = "Example: holdfast tokens add billing --role cdr")]
    Tokens {
        /// What to do; list when absent.
        #[command(subcommand)]
        command: Option<TokensCommand>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Who asked for a change, and what came of it, newest first.
    #[command(after_help = "Example: holdfast audit --limit 20")]
    Audit {
        /// So many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// The same as a capture file for Wireshark, with the RTCP of the call's sound.
    #[command(after_help = "Example: holdfast pcap ID | wireshark -k -i -")]
    Pcap {
        /// Id of the call.
        id: String,
        /// The file; standard output when absent.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Form of the output: only of what goes wrong.
        #[command(flatten)]
        json: Json,
    },
    /// Nodes of the cluster.
    #[command(after_help = "Example: holdfast nodes --json")]
    Nodes {
        /// Only this one.
        name: Option<String>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Lets a node take no new calls.
    #[command(after_help = "Example: holdfast drain host-1 --wait")]
    Drain {
        /// Name of the node.
        name: String,
        /// Ends its calls, of a signaling node, instead of handing them over.
        #[arg(long, conflicts_with = "undo")]
        end_calls: bool,
        /// Lets it take calls again.
        #[arg(long)]
        undo: bool,
        /// Until nothing of it is left, and tells what is.
        #[arg(long, conflicts_with = "undo")]
        wait: bool,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Call detail records.
    #[command(after_help = "Examples: holdfast cdrs --since 2026-01-01T00:00:00Z\n          \
            holdfast cdrs --flag one_way_audio --newest --limit 20\n          \
            holdfast cdrs --after 4711 --json")]
    Cdrs(CdrsArguments),
    /// What happens in the cluster, as it happens.
    #[command(after_help = "Example: holdfast events --types 'call.*' --extension 1001")]
    Events {
        /// Only these, with commas between; call.* is all of calls.
        #[arg(long)]
        types: Option<String>,
        /// Only of this call.
        #[arg(long, value_name = "ID")]
        call: Option<String>,
        /// Only of this user.
        #[arg(long)]
        extension: Option<String>,
        /// All that came after the event with this id too, as far as it is kept.
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Who is told of events by HTTP: list, show, add, set, remove, deliveries, resend.
    #[command(
        after_help = "Example: holdfast webhooks add https://example.com/in --types 'call.*'"
    )]
    Webhooks {
        /// What to do; list when absent.
        #[command(subcommand)]
        command: Option<WebhooksCommand>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Whether the nodes here take calls: exit code 0 ready, 75 not now, 69 unreachable.
    #[command(after_help = "Example (in a container): holdfast health")]
    Health {
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// What of this machine or of the settings would spoil calls, and how to mend it: exit code 1 when they would fail.
    #[command(after_help = "Example (in a container): holdfast doctor --json")]
    Doctor {
        /// As for `serve`.
        #[arg(long)]
        mode: Option<String>,
        /// Where another host of the cluster takes SIP, to be asked for an echo. Signaling finds it in the database;
        /// for those that a media node joins port 5060 is tried.
        #[arg(long, value_name = "HOST:PORT")]
        echo: Vec<String>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Has the processes here read their settings again. What may change while people talk changes at once, the rest at
    /// the next start; with a mistake nothing does.
    #[command(after_help = "Example (in a container): holdfast reload --check\n\
        At once: log, ring_timeout_ms, rtp_timeout_ms, drain_timeout_ms, registration_max_ms, \
        max_contacts, emergency_numbers, reanchor_window, max_calls")]
    Reload {
        /// Only tells what would change.
        #[arg(long)]
        check: bool,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Writes users, secrets, digest realm and, if wished, CDRs to a new file; nodes may run. It holds secrets.
    #[command(after_help = "Example: holdfast backup /safe/holdfast.backup --cdrs")]
    Backup {
        /// A new file, readable by its owner only.
        file: PathBuf,
        /// CDRs too.
        #[arg(long)]
        cdrs: bool,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Puts a backup in place: users are added or replaced, CDRs are added; registrations and calls stay.
    #[command(after_help = "Example: holdfast restore /safe/holdfast.backup")]
    Restore {
        /// What `backup` wrote.
        file: PathBuf,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Prints what makes a shell complete commands and flags.
    #[command(after_help = "Example: holdfast completions bash > \
        /usr/share/bash-completion/completions/holdfast")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Settings and credentials.
    #[command(subcommand, after_help = "Example: holdfast config credentials --json")]
    Config(ConfigCommand),
}

/// `holdfast route`.
#[derive(Clone, Debug, Subcommand)]
pub enum RouteCommand {
    /// What becomes of a call to a number: whose phones ring, which service answers, or why it is refused.
    #[command(after_help = "Example: holdfast route test 1002")]
    Test {
        /// An extension or number as a person dials it, or a sip: URI.
        to: String,
    },
}

/// What makes a shell complete commands and flags.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "holdfast", &mut script);
    script
}

/// `holdfast serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// both, signaling or media (HOLDFAST_MODE).
    #[arg(long)]
    pub mode: Option<String>,
    /// Starts beside the process that runs, takes its calls, and ends it.
    #[arg(long)]
    pub replace: bool,
}

/// `holdfast config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Effective settings, and where each came from.
    #[command(after_help = "Example: holdfast config show")]
    Show {
        /// As for `serve`.
        #[arg(long)]
        mode: Option<String>,
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
    /// Server address, users and token of the first start.
    #[command(after_help = "Example: holdfast config credentials --json")]
    Credentials {
        /// Form of the output.
        #[command(flatten)]
        json: Json,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_well_formed() {
        Arguments::command().debug_assert();
    }

    /// Words of the commands in a text, as a shell has them.
    fn typed(text: &str) -> Vec<Vec<String>> {
        let lines = text.lines().filter_map(|line| line.find("holdfast ").map(|at| &line[at..]));
        let word = |word: &str| word.trim_matches('\'').to_owned();
        lines
            .map(|line| {
                let words = line.split_whitespace().take_while(|word| !["|", ">"].contains(word));
                words.map(word).collect()
            })
            .collect()
    }

    /// Each is of the command that it stands with, and would be understood.
    #[test]
    fn every_noun_and_verb_has_examples_that_are_understood() {
        fn check(command: &clap::Command, above: &str) -> usize {
            let path = format!("{above} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = typed(&help);
            assert!(help.starts_with("Example") && !examples.is_empty(), "{path}: {help}");
            for example in &examples {
                assert!(example.join(" ").starts_with(&path), "{path}: {example:?}");
                let taken = Arguments::try_parse_from(example);
                assert!(taken.is_ok(), "{example:?}: {}", taken.unwrap_err());
            }
            1 + command.get_subcommands().map(|verb| check(verb, &path)).sum::<usize>()
        }
        let nouns = Arguments::command();
        let checked: usize = nouns.get_subcommands().map(|noun| check(noun, "holdfast")).sum();
        assert!(checked > 40, "{checked}");
    }

    /// One would be taken for the other.
    #[test]
    fn no_command_has_an_argument_that_is_named_like_one_of_all() {
        fn check(command: &clap::Command, global: &[&str]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                let (name, id) = (command.get_name(), argument.get_id().as_str());
                assert!(!global.contains(&id), "{name}: {id}");
            }
            command.get_subcommands().for_each(|command| check(command, global));
        }
        let command = Arguments::command();
        let global = command.get_arguments().filter(|argument| argument.is_global_set());
        let global: Vec<&str> = global.map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(global, ["config", "url", "token"]);
        command.get_subcommands().for_each(|command| check(command, &global));
    }
}
