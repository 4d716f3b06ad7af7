//! `holdfast call`: one live call, a new one, and what is to be done to one.

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::{print_done, show};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

/// Caller or callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Phone {
    Caller,
    Callee,
}

impl Phone {
    const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }
}

/// `holdfast call`.
#[derive(Clone, Debug, Subcommand)]
pub enum CallCommand {
    /// Rings a user's phones, and connects the one that answers with somebody.
    #[command(after_help = "Example: holdfast call new 1001 1002")]
    New {
        /// Extension of who calls.
        from: String,
        /// Whom: an extension or a number as a person dials it, or a sip: URI.
        to: String,
        /// The caller's phones are asked to answer by themselves.
        #[arg(long)]
        auto_answer: bool,
    },
    /// Holds a phone, or both: it hears nothing and is not heard.
    #[command(after_help = "Example: holdfast call hold ID --leg callee")]
    Hold {
        /// Id of the call.
        id: String,
        /// Whose phone; both when absent.
        #[arg(long)]
        leg: Option<Phone>,
    },
    /// The end of that.
    #[command(after_help = "Example: holdfast call unhold ID")]
    Unhold {
        /// Id of the call.
        id: String,
        /// Whose phone; both when absent.
        #[arg(long)]
        leg: Option<Phone>,
    },
    /// Sends digits to a phone.
    #[command(after_help = "Example: holdfast call dtmf ID callee '12#'")]
    Dtmf {
        /// Id of the call.
        id: String,
        /// Whose phone.
        leg: Phone,
        /// 0-9, *, #, A-D.
        digits: String,
    },
    /// One phone leaves when somebody else answers, who takes its place.
    #[command(after_help = "Example: holdfast call transfer ID callee 1003")]
    Transfer {
        /// Id of the call.
        id: String,
        /// Whose phone leaves.
        leg: Phone,
        /// Who comes: an extension or a number as a person dials it, or a sip: URI.
        to: String,
    },
    /// Plays a tone to a phone, or both, in place of what it would hear.
    #[command(after_help = "Example: holdfast call play ID beep --leg callee --duration-ms 1000")]
    Play {
        /// Id of the call.
        id: String,
        /// ringback, busy, congestion, dial or beep.
        #[arg(required_unless_present = "stop")]
        tone: Option<String>,
        /// Whose phone; both when absent.
        #[arg(long)]
        leg: Option<Phone>,
        /// So long; until it is stopped when absent.
        #[arg(long)]
        duration_ms: Option<u32>,
        /// Stops what is played.
        #[arg(long, conflicts_with_all = ["tone", "duration_ms"])]
        stop: bool,
    },
    /// Moves the media of the call to another host; phones are told.
    #[command(after_help = "Example: holdfast call move ID --node media-2")]
    Move {
        /// Id of the call.
        id: String,
        /// Name of the media node; the freest of another host when absent.
        #[arg(long)]
        node: Option<String>,
    },
}

/// Shows a call, or does something with it.
pub(super) fn run(
    client: &Client,
    id: Option<&str>,
    command: Option<CallCommand>,
    json: Json,
) -> Result<(), Failure> {
    let Some(command) = command else {
        let id = id.ok_or_else(|| Failure::usage("which call? holdfast calls lists them"))?;
        return show(&client.get(&format!("/calls/{}", escape(id)))?, json);
    };
    if id.is_some() {
        return Err(Failure::usage("the id stands behind what is to be done: see --help"));
    }
    let (id, act, wish, done) = match command {
        CallCommand::New { from, to, auto_answer } => {
            let wish = json!({"from": from, "to": to, "auto_answer": auto_answer});
            return show(&client.post("/calls", &wish)?, json);
        }
        CallCommand::Hold { id, leg } => (id, "hold", choice(leg), "held"),
        CallCommand::Unhold { id, leg } => (id, "unhold", choice(leg), "let go"),
        CallCommand::Dtmf { id, leg, digits } => {
            (id, "dtmf", json!({"leg": leg.name(), "digits": digits}), "dialling")
        }
        CallCommand::Transfer { id, leg, to } => {
            (id, "transfer", json!({"leg": leg.name(), "to": to}), "ringing")
        }
        CallCommand::Play { id, leg, stop: true, .. } => {
            let leg = leg.map_or_else(String::new, |leg| format!("?leg={}", leg.name()));
            let call = client.delete(&format!("/calls/{}/play{leg}", escape(&id)))?;
            print_done(&call, json, "stopped");
            return Ok(());
        }
        CallCommand::Play { id, tone, leg, duration_ms, .. } => {
            let leg = leg.map(Phone::name);
            let wish = json!({"leg": leg, "tone": tone, "duration_ms": duration_ms});
            (id, "play", wish, "playing")
        }
        CallCommand::Move { id, node } => (id, "move", json!({ "node": node }), "moving"),
    };
    let call = client.post(&format!("/calls/{}/{act}", escape(&id)), &wish)?;
    print_done(&call, json, done);
    Ok(())
}

fn choice(leg: Option<Phone>) -> Value {
    json!({ "leg": leg.map(Phone::name) })
}
