//! `holdfast webhooks`: who is told of events by HTTP.

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::{list, print_done, show};
use super::table::Column;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

const WEBHOOKS: &[Column] = &[
    ("ID", "/id"),
    ("ENABLED", "/enabled"),
    ("OWED", "/owed"),
    ("DEAD", "/dead"),
    ("TYPES", "/types"),
    ("URL", "/url"),
];
const DELIVERIES: &[Column] = &[
    ("EVENT", "/event_id"),
    ("TYPE", "/event/type"),
    ("CALL", "/event/call_id"),
    ("ATTEMPTS", "/attempts"),
    ("TRIED", "/tried_at"),
    ("DUE", "/due_at"),
    ("ERROR", "/error"),
];

/// `holdfast webhooks`.
#[derive(Clone, Debug, Subcommand)]
pub enum WebhooksCommand {
    /// All webhooks.
    #[command(after_help = "Example: holdfast webhooks list")]
    List,
    /// One webhook.
    #[command(after_help = "Example: holdfast webhooks show ID")]
    Show {
        /// Its id.
        id: String,
    },
    /// A new one; prints the secret that its signatures are made with, once.
    #[command(
        after_help = "Example: holdfast webhooks add https://example.com/in --types 'call.*'"
    )]
    Add {
        /// Where events are posted to.
        #[arg(value_name = "URL")]
        receiver: String,
        /// Fields.
        #[command(flatten)]
        fields: WebhookFields,
    },
    /// Changes a webhook.
    #[command(after_help = "Example: holdfast webhooks set ID --enabled false")]
    Set {
        /// Its id.
        id: String,
        /// Where events are posted to.
        #[arg(long, value_name = "URL")]
        receiver: Option<String>,
        /// Fields.
        #[command(flatten)]
        fields: WebhookFields,
    },
    /// Removes a webhook.
    #[command(after_help = "Example: holdfast webhooks remove ID")]
    Remove {
        /// Its id.
        id: String,
    },
    /// Events that it did not take: given up, or (--owed) to be tried again.
    #[command(after_help = "Example: holdfast webhooks deliveries ID --owed")]
    Deliveries {
        /// Its id.
        id: String,
        /// Those that are tried again.
        #[arg(long)]
        owed: bool,
    },
    /// Sends again what was given up.
    #[command(after_help = "Example: holdfast webhooks resend ID --event 42")]
    Resend {
        /// Its id.
        id: String,
        /// Only this event.
        #[arg(long, value_name = "ID")]
        event: Option<u64>,
    },
}

/// Fields of a webhook on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct WebhookFields {
    /// Only these events, with commas between; call.* is all of calls.
    #[arg(long)]
    types: Option<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// true or false.
    #[arg(long)]
    enabled: Option<bool>,
}

impl WebhookFields {
    fn body(self, url: Option<String>) -> Map<String, Value> {
        let types = self.types.map(|types| {
            let types = types.split(',').map(str::trim).filter(|one| !one.is_empty());
            types.map(Value::from).collect::<Value>()
        });
        let fields = [
            ("url", url.map(Value::from)),
            ("types", types),
            ("description", self.description.map(Value::from)),
            ("enabled", self.enabled.map(Value::from)),
        ];
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

pub(super) fn run(client: &Client, command: WebhooksCommand, json: Json) -> Result<(), Failure> {
    let path = |id: &str| format!("/webhooks/{}", escape(id));
    match command {
        WebhooksCommand::List => list(client, "/webhooks", &[], WEBHOOKS, json),
        WebhooksCommand::Show { id } => show(&client.get(&path(&id))?, json),
        WebhooksCommand::Add { receiver, fields } => {
            show(&client.post("/webhooks", &fields.body(Some(receiver)).into())?, json)
        }
        WebhooksCommand::Set { id, receiver, fields } => {
            let body = fields.body(receiver);
            if body.is_empty() {
                return Err(Failure::usage("nothing to change: see holdfast webhooks set --help"));
            }
            show(&client.patch(&path(&id), &body.into())?, json)
        }
        WebhooksCommand::Remove { id } => {
            print_done(&client.delete(&path(&id))?, json, "removed");
            Ok(())
        }
        WebhooksCommand::Deliveries { id, owed } => {
            let state = if owed { "owed" } else { "dead" };
            let query = [("state", Some(state.to_owned()))];
            list(client, &format!("{}/deliveries", path(&id)), &query, DELIVERIES, json)
        }
        WebhooksCommand::Resend { id, event } => {
            let body = json!({ "event_id": event });
            show(&client.post(&format!("{}/resend", path(&id)), &body)?, json)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_was_given() {
        let fields = WebhookFields {
            types: Some("call.*, node.started".to_owned()),
            description: None,
            enabled: Some(false),
        };
        let body = Value::from(fields.body(None));
        assert_eq!(body, json!({"types": ["call.*", "node.started"], "enabled": false}));
        let all = WebhookFields { types: Some(String::new()), ..WebhookFields::default() };
        assert_eq!(Value::from(all.body(None)), json!({"types": []}), "all types again");
    }
}
