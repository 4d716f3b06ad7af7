//! JSON as tables for people.

use serde_json::Value;

/// A column: heading, and the JSON pointer of its value.
pub(super) type Column = (&'static str, &'static str);

/// A list as a table; columns as wide as needed.
pub(super) fn table(items: &[Value], columns: &[Column]) -> String {
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let row = |item: &Value| columns.iter().map(|(_, at)| cell(item.pointer(at))).collect();
    let rows: Vec<Vec<String>> = core::iter::once(heading).chain(items.iter().map(row)).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One thing, a field a line; what is inside is indented.
pub(super) fn fields(value: &Value) -> String {
    let mut text = String::new();
    push_fields(&mut text, value, 0);
    text.trim_end().to_owned()
}

fn push_fields(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let Value::Object(map) = value else {
        *text += &format!("{indent}{}\n", cell(Some(value)));
        return;
    };
    for (key, value) in map {
        match value {
            Value::Object(_) => {
                *text += &format!("{indent}{key}\n");
                push_fields(text, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (number, item) in items.iter().enumerate() {
                    *text += &format!("{indent}{key} {number}\n");
                    push_fields(text, item, depth + 1);
                }
            }
            _ => *text += &format!("{indent}{key:20} {}\n", cell(Some(value))),
        }
    }
}

/// Control characters come from phones; a terminal must not obey them.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned_and_harmless() {
        let items =
            [json!({"a": "1001", "b": {"c": null}}), json!({"a": "x\u{1b}[2J", "b": {"c": 7}})];
        let text = table(&items, &[("A", "/a"), ("LONG", "/b/c")]);
        assert_eq!(text, "A      LONG\n1001   -\nx\u{fffd}[2J  7");
    }

    #[test]
    fn one_thing_shows_what_is_inside() {
        let text = fields(&json!({"id": "x", "legs": [{"role": "caller"}], "tags": ["p", "q"]}));
        assert_eq!(
            text,
            "id                   x\nlegs 0\n  role                 caller\ntags                 p,q"
        );
    }
}
