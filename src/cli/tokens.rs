//! `holdfast tokens` and `holdfast audit`: who may do what by the API, and who did.

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::{list, print_done, show};
use super::table::Column;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

const TOKENS: &[Column] = &[
    ("ID", "/id"),
    ("NAME", "/name"),
    ("ROLE", "/role"),
    ("CREATED", "/created_at"),
    ("LAST_USED", "/last_used_at"),
];
pub(super) const AUDIT: &[Column] = &[
    ("AT", "/at"),
    ("BY", "/name"),
    ("NODE", "/node"),
    ("METHOD", "/method"),
    ("STATUS", "/status"),
    ("PATH", "/path"),
];

/// `holdfast tokens`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokensCommand {
    /// All tokens, without themselves.
    #[command(after_help = "Example: holdfast tokens list")]
    List,
    /// A new one; prints it, once.
    #[command(after_help = "Example: holdfast tokens add billing --role cdr")]
    Add {
        /// What it is for.
        name: String,
        /// What it may do.
        #[arg(long)]
        role: RoleName,
    },
    /// Revokes a token: within five seconds it is good for nothing.
    #[command(after_help = "Example: holdfast tokens remove ID")]
    Remove {
        /// Its id.
        id: String,
    },
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "`crate::views::token::Role` tells")]
pub enum RoleName {
    Admin,
    Operator,
    Readonly,
    Cdr,
}

pub(super) fn run(client: &Client, command: TokensCommand, json: Json) -> Result<(), Failure> {
    match command {
        TokensCommand::List => list(client, "/tokens", &[], TOKENS, json),
        TokensCommand::Add { name, role } => {
            let role = role.to_possible_value().map(|value| value.get_name().to_owned());
            show(&client.post("/tokens", &json!({"name": name, "role": role}))?, json)
        }
        TokensCommand::Remove { id } => {
            print_done(&client.delete(&format!("/tokens/{}", escape(&id)))?, json, "removed");
            Ok(())
        }
    }
}
