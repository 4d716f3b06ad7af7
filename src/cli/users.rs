//! `holdfast users`: who may register and call.

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::{list, print_done, show};
use super::progress::Sending;
use super::table::Column;
use clap::{Args, Subcommand, ValueEnum};
use core::str::FromStr;
use serde_json::{Map, Value};
use std::fs::File;
use std::path::PathBuf;

const USERS: &[Column] = &[
    ("EXTENSION", "/extension"),
    ("NAME", "/display_name"),
    ("ENABLED", "/enabled"),
    ("PHONES", "/contact_count"),
];

/// `holdfast users`.
#[derive(Clone, Debug, Subcommand)]
pub enum UsersCommand {
    /// All users.
    #[command(after_help = "Example: holdfast users list --json")]
    List,
    /// One user.
    #[command(after_help = "Example: holdfast users show 1003")]
    Show {
        /// Extension.
        extension: String,
    },
    /// A new user; without a password it gets a strong one, which is printed.
    #[command(after_help = "Example: holdfast users add 1003 --name Anna --json")]
    Add {
        /// Extension.
        extension: String,
        /// Fields.
        #[command(flatten)]
        fields: UserFields,
    },
    /// Changes a user: what is not named stays.
    #[command(
        after_help = "Examples: holdfast users set 1003 --max-calls 2 --codecs opus\n          \
            holdfast users set 1003 --max-calls none --codecs none"
    )]
    Set {
        /// Extension.
        extension: String,
        /// Fields.
        #[command(flatten)]
        fields: UserFields,
    },
    /// Removes a user and its registrations.
    #[command(after_help = "Example: holdfast users remove 1003")]
    Remove {
        /// Extension.
        extension: String,
    },
    /// Many users from a CSV file with the header extension,password[,display_name].
    #[command(
        after_help = "Example: holdfast users import users.csv --on-conflict update --dry-run"
    )]
    Import {
        /// The file.
        file: PathBuf,
        /// What to do with users that exist: skip, update or fail.
        #[arg(long, default_value = "fail")]
        on_conflict: String,
        /// Only says what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Fields of a user on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct UserFields {
    /// Password: 8-128 characters.
    #[arg(long)]
    pub password: Option<String>,
    /// Display name.
    #[arg(long)]
    pub name: Option<String>,
    /// true or false: whether it may register and call.
    #[arg(long)]
    pub enabled: Option<bool>,
    /// Phones that may be registered; none: as HOLDFAST_MAX_CONTACTS says.
    #[arg(long, value_name = "COUNT")]
    pub max_contacts: Option<OrNone>,
    /// Calls at a time; none: as many as there are.
    #[arg(long, value_name = "COUNT")]
    pub max_calls: Option<OrNone>,
    /// How long its phones ring; none: as HOLDFAST_RING_TIMEOUT_MS says.
    #[arg(long, value_name = "MS")]
    pub ring_timeout_ms: Option<OrNone>,
    /// SDP names in order of preference, with commas between; none: all.
    #[arg(long, value_name = "NAMES")]
    pub codecs: Option<String>,
    /// SRTP with its phones.
    #[arg(long)]
    pub srtp: Option<Srtp>,
}

/// A number, or the word none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone(Option<u64>);

impl FromStr for OrNone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            NONE => Ok(Self(None)),
            text => text.parse().map(|number| Self(Some(number))).map_err(|_| WANTED.to_owned()),
        }
    }
}

const NONE: &str = "none";
const WANTED: &str = "a number, or none";

/// Whether phones of a user have SRTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "`crate::views::user::SrtpPolicy` tells")]
pub enum Srtp {
    Off,
    Optional,
    Mandatory,
}

impl UserFields {
    fn body(self) -> Map<String, Value> {
        let number = |given: Option<OrNone>| given.map(|OrNone(number)| number.into());
        let srtp = self.srtp.and_then(|srtp| srtp.to_possible_value());
        let fields = [
            ("password", self.password.map(Value::from)),
            ("display_name", self.name.map(Value::from)),
            ("enabled", self.enabled.map(Value::from)),
            ("max_contacts", number(self.max_contacts)),
            ("max_calls", number(self.max_calls)),
            ("ring_timeout_ms", number(self.ring_timeout_ms)),
            ("codecs", self.codecs.map(|names| codecs(&names))),
            ("srtp", srtp.map(|policy| policy.get_name().into())),
        ];
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

fn codecs(names: &str) -> Value {
    let names = names.split(',').map(str::trim);
    names.filter(|name| !name.is_empty() && *name != NONE).map(Value::from).collect()
}

pub(super) fn run(client: &Client, command: UsersCommand, json: Json) -> Result<(), Failure> {
    let path = |extension: &str| format!("/users/{}", escape(extension));
    match command {
        UsersCommand::List => list(client, "/users", &[], USERS, json),
        UsersCommand::Show { extension } => show(&client.get(&path(&extension))?, json),
        UsersCommand::Add { extension, fields } => {
            let mut body = fields.body();
            body.insert("extension".to_owned(), extension.into());
            show(&client.post("/users", &body.into())?, json)
        }
        UsersCommand::Set { extension, fields } => {
            let body = fields.body();
            if body.is_empty() {
                return Err(Failure::usage("nothing to change: see holdfast users set --help"));
            }
            show(&client.patch(&path(&extension), &body.into())?, json)
        }
        UsersCommand::Remove { extension } => {
            print_done(&client.delete(&path(&extension))?, json, "removed");
            Ok(())
        }
        UsersCommand::Import { file, on_conflict, dry_run } => {
            let opened = File::open(&file);
            let shown = file.display();
            let opened = opened.map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
            let on_conflict = escape(&on_conflict);
            let path = format!("/users/import?on_conflict={on_conflict}&dry_run={dry_run}");
            show(&client.post_csv(&path, Sending::new(opened))?, json)
        }
    }
}
