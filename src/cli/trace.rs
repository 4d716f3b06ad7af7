//! `holdfast trace`: a call's signaling as a ladder of lines: the caller left, the switch in the middle, who is called
//! right.

use super::client::{Client, Failure, escape};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Columns between two lines of the ladder.
const GAP: usize = 34;

/// The ladder; with `full` each message stands below its arrow.
pub(super) fn ladder(ladder: &Value, full: bool) -> String {
    let mut text = head();
    text += &Rungs::default().more(ladder, full, None);
    text
}

/// Who stands where.
pub(super) fn head() -> String {
    format!("{:<13} {:<GAP$}{:<GAP$}called\n", "", "caller", "holdfast")
}

/// How far a ladder was shown.
#[derive(Debug, Default)]
pub(super) struct Rungs {
    messages: usize,
    marks: usize,
    flags: Vec<String>,
}

/// What has come since, in the order of time.
enum News {
    Message(Value),
    Mark(Value),
    Flag(String),
}

impl Rungs {
    /// What has come since; each line names its call, when one is given.
    pub(super) fn more(&mut self, ladder: &Value, full: bool, call: Option<&str>) -> String {
        let mut text = String::new();
        // The last part of an id tells calls apart.
        let of = call.map(|id| format!("  {}", id.rsplit('-').next().unwrap_or_default()));
        let of = of.unwrap_or_default();
        for news in self.news(ladder) {
            let _ = match &news {
                News::Message(message) => {
                    writeln!(text, "{:<13} {}{of}", clock(message), arrow(message))
                }
                News::Mark(mark) => {
                    writeln!(text, "{:<13} * {}{of}", clock(mark), part(mark, "text"))
                }
                News::Flag(flag) => writeln!(text, "! {}{of}", flag.replace('_', " ")),
            };
            if let (News::Message(message), true) = (&news, full) {
                for line in part(message, "text").lines() {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        text
    }

    /// The same for scripts, a document a line.
    pub(super) fn documents(&mut self, ladder: &Value, call: &str) -> String {
        let news = self.news(ladder).into_iter().map(|news| match news {
            News::Message(message) => json!({"call_id": call, "message": message}),
            News::Mark(mark) => json!({"call_id": call, "mark": mark}),
            News::Flag(flag) => json!({"call_id": call, "flag": flag}),
        });
        news.map(|document| format!("{document}\n")).collect()
    }

    fn news(&mut self, ladder: &Value) -> Vec<News> {
        let items =
            |name: &str| ladder.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let (messages, marks, flags) = (items("messages"), items("marks"), items("flags"));
        let flags: Vec<String> =
            flags.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut news = Vec::new();
        let mut new_marks = marks.iter().skip(self.marks).peekable();
        for message in messages.iter().skip(self.messages) {
            while let Some(mark) = new_marks.next_if(|mark| part(mark, "at") <= part(message, "at"))
            {
                news.push(News::Mark(mark.clone()));
            }
            news.push(News::Message(message.clone()));
        }
        news.extend(new_marks.cloned().map(News::Mark));
        let new_flags = flags.iter().filter(|flag| !self.flags.contains(flag));
        news.extend(new_flags.cloned().map(News::Flag));
        (self.messages, self.marks, self.flags) = (messages.len(), marks.len(), flags);
        news
    }
}

/// The capture, into a file or to standard output.
pub(super) fn capture(client: &Client, call: &str, output: Option<&Path>) -> Result<(), Failure> {
    let bytes = client.get_bytes(&format!("/calls/{}/pcap", escape(call)))?;
    let written = match output {
        Some(path) => std::fs::write(path, bytes),
        None => std::io::stdout().write_all(&bytes),
    };
    written.map_err(|error| Failure::usage(format!("the capture is not written: {error}")))
}

fn arrow(message: &Value) -> String {
    let is_caller = message.get("leg").and_then(Value::as_u64) == Some(0);
    let is_received = part(message, "direction") == "received";
    let again = match message.get("retransmission") == Some(&Value::Bool(true)) {
        true => " (again)",
        false => "",
    };
    let label = format!(" {}{again} ", part(message, "summary"));
    let line = format!("{label:-^width$}", width = GAP - 2);
    // From the caller and to who is called it goes right.
    let line = if is_caller == is_received { format!("{line}>") } else { format!("<{line}") };
    let side = if is_caller { String::new() } else { format!("|{:width$}", "", width = GAP - 1) };
    let rest = if is_caller { format!("|{:width$}|", "", width = GAP - 1) } else { "|".to_owned() };
    format!("{side}|{line}{rest}  {}", part(message, "remote"))
}

fn part<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Of the day.
fn clock(value: &Value) -> &str {
    part(value, "at").get(11..23).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_go_the_way_of_the_messages() {
        let message = |leg: u64, direction: &str, summary: &str, again: bool| {
            json!({"at": "2026-01-31T12:00:01.250Z", "leg": leg, "direction": direction,
                "summary": summary, "retransmission": again, "remote": "p", "text": "A\r\nB"})
        };
        let document = json!({
            "messages": [message(0, "received", "INVITE", false), message(1, "sent", "INVITE", true),
                message(1, "received", "200 OK (INVITE)", false)],
            "marks": [{"at": "2026-01-31T12:00:02.000Z", "text": "carried on by b"}],
            "flags": ["glare_loop"],
        });
        let shown = ladder(&document, false);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("12:00:01.250  |-") && lines[1].contains("INVITE -"));
        assert!(lines[1].contains("->|"), "{shown}");
        assert!(lines[2].contains("INVITE (again)") && lines[2].contains("->|"), "{shown}");
        assert!(lines[3].contains("|<-"), "{shown}");
        assert_eq!(lines[4], "12:00:02.000  * carried on by b");
        assert_eq!(lines[5], "! glare loop");
        assert!(ladder(&document, true).contains("    A\n    B\n"));
        let mut rungs = Rungs::default();
        let mut first = document.clone();
        first["messages"].as_array_mut().expect("a list").truncate(1);
        first["marks"] = json!([]);
        first["flags"] = json!([]);
        let shown = rungs.more(&first, false, Some("a-b-call"));
        assert!(shown.contains("INVITE") && shown.ends_with("  call\n"), "{shown}");
        let rest = rungs.more(&document, false, None);
        assert_eq!(rest.lines().count(), 4, "what is new: {rest}");
        assert_eq!(rungs.more(&document, false, None), "");
        let told = Rungs::default().documents(&document, "id");
        let told: Vec<Value> =
            told.lines().map(|line| serde_json::from_str(line).expect("a document")).collect();
        let kinds = ["message", "message", "message", "mark", "flag"];
        assert_eq!(told.len(), kinds.len());
        for (document, kind) in told.iter().zip(kinds) {
            assert!(document["call_id"] == "id" && !document[kind].is_null(), "{document}");
        }
    }
}
