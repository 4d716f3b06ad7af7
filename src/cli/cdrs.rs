//! `holdfast cdrs`: calls that are over.

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::{first_items, print_list, show};
use super::table::Column;
use clap::Args;

const CDRS: &[Column] = &[
    ("SEQUENCE", "/sequence"),
    ("CREATED", "/created_at"),
    ("CALLER", "/caller/extension"),
    ("CALLEE", "/callee/extension"),
    ("DISPOSITION", "/disposition"),
    ("STATUS", "/sip_status"),
    ("BILLABLE_MS", "/billable_ms"),
    ("ENDED_BY", "/ended_by"),
    ("CAUSE", "/end_cause"),
    ("FLAGS", "/flags"),
];

/// `holdfast cdrs`.
#[derive(Clone, Debug, Args)]
pub struct CdrsArguments {
    /// Only that of the call with this id.
    #[arg(conflicts_with_all = ["since", "until", "extension", "disposition", "flag", "after",
        "newest", "limit"])]
    pub id: Option<String>,
    /// Created at or after (RFC 3339).
    #[arg(long)]
    pub since: Option<String>,
    /// Created before (RFC 3339).
    #[arg(long)]
    pub until: Option<String>,
    /// Of this user.
    #[arg(long)]
    pub extension: Option<String>,
    /// answered, busy, no_answer, cancelled, rejected or failed.
    #[arg(long)]
    pub disposition: Option<String>,
    /// That had this fault at any time; the same as of live calls.
    #[arg(long)]
    pub flag: Option<String>,
    /// That came after the one with this sequence: what is new since it was looked at last.
    #[arg(long, value_name = "SEQUENCE")]
    pub after: Option<u64>,
    /// The last ones first.
    #[arg(long)]
    pub newest: bool,
    /// So many at most; all when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Form of the output.
    #[command(flatten)]
    pub json: Json,
}

pub(super) fn run(client: &Client, wanted: CdrsArguments) -> Result<(), Failure> {
    let json = wanted.json;
    if let Some(id) = wanted.id {
        return show(&client.get(&format!("/cdrs/{}", escape(&id)))?, json);
    }
    let query = [
        ("since", wanted.since),
        ("until", wanted.until),
        ("extension", wanted.extension),
        ("disposition", wanted.disposition),
        ("flag", wanted.flag),
        ("after", wanted.after.map(|sequence| sequence.to_string())),
        ("order", wanted.newest.then(|| "newest".to_owned())),
    ];
    print_list(&first_items(client, "/cdrs", &query, wanted.limit)?, CDRS, json);
    Ok(())
}
