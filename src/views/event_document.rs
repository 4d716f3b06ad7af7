//! An event as it is kept and passed on: JSON that stays as it was written; readers take from it what they ask for.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A JSON object: an `EventView`, or one of another release.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventDocument(Box<RawValue>);

/// Whom and what an event is of; empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of events")]
pub struct EventGist<'a> {
    #[serde(borrow, rename = "type", deserialize_with = "text")]
    pub kind: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub call_id: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub caller: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub callee: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub answered_by: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub extension: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub username: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub media_node: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub node: Cow<'a, str>,
}

/// Empty where another release says something else than a text.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    let json = <&RawValue>::deserialize(deserializer)?;
    // Without escapes it stays where it is.
    let plain = serde_json::from_str::<&str>(json.get()).map(Cow::Borrowed);
    let owned = || serde_json::from_str::<String>(json.get()).map(Cow::Owned);
    Ok(plain.or_else(|_| owned()).unwrap_or_default())
}

impl EventDocument {
    /// `None`: it is no object.
    pub fn new(json: Box<RawValue>) -> Option<Self> {
        json.get().starts_with('{').then_some(Self(json))
    }

    /// Made here, not read.
    pub fn of(event: &serde_json::Map<String, serde_json::Value>) -> Self {
        Self(serde_json::value::to_raw_value(event).expect("an object is plain data"))
    }

    /// What is asked of most events.
    pub fn gist(&self) -> EventGist<'_> {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// Its type: it stands first in what this release writes, and nothing else is read then.
    pub fn kind(&self) -> Cow<'_, str> {
        let first = self.0.get().strip_prefix("{\"type\":\"");
        let first = first.and_then(|rest| rest.split_once('"')).map(|(kind, _)| kind);
        let plain = first.filter(|kind| !kind.contains('\\'));
        plain.map_or_else(|| self.gist().kind, Cow::Borrowed)
    }

    /// As others get it: with its place in the order.
    pub fn with_id(&self, id: u64) -> String {
        let fields = self.0.get().trim_start_matches('{').trim_start();
        let comma = if fields.starts_with('}') { "" } else { "," };
        format!("{{\"id\":{id}{comma}{fields}")
    }
}

impl PartialEq for EventDocument {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for EventDocument {}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Option<EventDocument> {
        EventDocument::new(serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn an_event_gets_its_id_and_stays_as_it_is() {
        for (json, expect) in [
            (r#"{"type":"a","x":{"y":1}}"#, r#"{"id":7,"type":"a","x":{"y":1}}"#),
            (r#"{ "type": "a" }"#, r#"{"id":7,"type": "a" }"#),
            ("{}", r#"{"id":7}"#),
            ("{ }", r#"{"id":7}"#),
        ] {
            assert_eq!(event(json).expect("an object").with_id(7), expect, "{json}");
        }
        for json in ["[]", "1", "null", r#""{}""#] {
            assert_eq!(event(json), None, "{json}");
        }
    }

    #[test]
    fn its_type_is_known_wherever_it_stands() {
        for (json, kind) in [
            (r#"{"type":"call.held","call_id":"7"}"#, "call.held"),
            (r#"{"call_id":"7","type":"call.held"}"#, "call.held"),
            (r#"{ "type": "a" }"#, "a"),
            (r#"{"type":"a\"b"}"#, "a\"b"),
            (r#"{"type":7}"#, ""),
            (r#"{"x":{"type":"a"}}"#, ""),
            ("{}", ""),
        ] {
            assert_eq!(event(json).expect("an object").kind(), kind, "{json}");
        }
    }

    #[test]
    fn who_it_is_of_is_read_where_it_stands() {
        let json = r#"{"type":"call.held","call_id":"7","caller":"a\"b","leg":1,"later":null,"callee":null,"node":7}"#;
        let event = event(json).expect("an object");
        let gist = event.gist();
        assert_eq!((&*gist.kind, &*gist.call_id, &*gist.caller), ("call.held", "7", "a\"b"));
        assert!(matches!(gist.call_id, Cow::Borrowed(_)), "it is not copied");
        assert_eq!([gist.extension, gist.callee, gist.node], ["", "", ""]);
    }
}
