//! `holdfast quality`: how a call sounds, or sounded, over time.
#![allow(clippy::print_stdout, reason = "this is the command line")]

use super::Json;
use super::client::{Client, Failure, escape};
use super::commands::print_json;
use super::table::{Column, table};
use serde_json::Value;

const SAMPLES: &[Column] = &[
    ("AT", "/at"),
    ("LEG", "/leg"),
    ("ROLE", "/role"),
    ("DIRECTION", "/direction"),
    ("SPAN_MS", "/span_ms"),
    ("PACKETS", "/packets"),
    ("LOST", "/lost"),
    ("JITTER_MS", "/jitter_ms"),
    ("RTT_MS", "/rtt_ms"),
    ("MOS", "/mos"),
];

pub(super) fn run(client: &Client, id: &str, json: Json) -> Result<(), Failure> {
    let quality = client.get(&format!("/calls/{}/quality", escape(id)))?;
    match json.json {
        true => print_json(&quality),
        false => println!("{}", table(&rows(&quality), SAMPLES)),
    }
    Ok(())
}

/// A row for each sample of each leg and direction, as time went by.
fn rows(quality: &Value) -> Vec<Value> {
    let list = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut rows = Vec::new();
    for leg in list(quality, "legs") {
        for direction in ["from_phone", "to_phone"] {
            for mut sample in list(&leg, direction) {
                if let Some(fields) = sample.as_object_mut() {
                    let told = [("leg", &leg["leg"]), ("role", &leg["role"])];
                    fields.extend(told.map(|(name, value)| (name.to_owned(), value.clone())));
                    fields.insert("direction".to_owned(), direction.into());
                }
                rows.push(sample);
            }
        }
    }
    rows.sort_by_key(|row| row.get("at").and_then(Value::as_str).map(str::to_owned));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn samples_of_both_phones_stand_in_the_order_of_time() {
        let sample = |at: &str| json!({"at": at, "packets": 250});
        let leg = |number: u8, role: &str| {
            let from_phone = [sample("10:00:05"), sample("10:00:10")];
            json!({"leg": number, "role": role, "from_phone": from_phone,
                "to_phone": [sample("10:00:07")]})
        };
        let rows = rows(&json!({"legs": [leg(0, "caller"), leg(1, "callee")]}));
        let told = rows.iter().map(|row| json!([row["at"], row["leg"], row["direction"]]));
        assert_eq!(
            told.collect::<Value>(),
            json!([
                ["10:00:05", 0, "from_phone"],
                ["10:00:05", 1, "from_phone"],
                ["10:00:07", 0, "to_phone"],
                ["10:00:07", 1, "to_phone"],
                ["10:00:10", 0, "from_phone"],
                ["10:00:10", 1, "from_phone"]
            ])
        );
    }
}
