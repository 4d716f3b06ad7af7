//! Lists in pages: sorted by a key that does not change, the cursor names the last key given.

use super::problem::Problem;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// For the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// What a list without filters is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    pub limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    pub cursor: Option<Cursor>,
}

/// `limit`: 1-1000, 100 when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct Limit(u16);

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for Limit {
    type Error = &'static str;
    fn try_from(limit: u32) -> Result<Self, Self::Error> {
        match u16::try_from(limit) {
            Ok(limit) if (1..=1_000).contains(&limit) => Ok(Self(limit)),
            Ok(_) | Err(_) => Err("limit is 1-1000"),
        }
    }
}

impl Limit {
    pub(super) const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The last key of a page, in hexadecimal: keys may hold characters that mean something in a query.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Cursor(pub(super) String);

impl TryFrom<String> for Cursor {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "cursor is not one of ours";
        if !text.len().is_multiple_of(2) || text.len() > 1_024 || !text.is_ascii() {
            return Err(wrong);
        }
        let digits = text.as_bytes().chunks(2).map(|pair| {
            let pair = core::str::from_utf8(pair).map_err(|_| wrong)?;
            u8::from_str_radix(pair, 16).map_err(|_| wrong)
        });
        let bytes: Vec<u8> = digits.collect::<Result<_, _>>()?;
        String::from_utf8(bytes).map(Self).map_err(|_| wrong)
    }
}

/// A cursor as it is given out.
pub(super) fn cursor_text(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

impl<T> Page<T> {
    /// The page that is asked for.
    pub(super) fn asked(all: Vec<T>, key: impl Fn(&T) -> String, query: &PageQuery) -> Self {
        let after = query.cursor.as_ref().map(|cursor| &cursor.0);
        Self::of(all, key, query.limit, after)
    }

    /// The page after the cursor.
    pub(super) fn of<K: Ord + ToString>(
        mut all: Vec<T>,
        key: impl Fn(&T) -> K,
        limit: Option<Limit>,
        cursor: Option<&K>,
    ) -> Self {
        all.sort_by_cached_key(&key);
        let limit = limit.unwrap_or_default().get();
        let mut items: Vec<T> = all
            .into_iter()
            .filter(|item| cursor.is_none_or(|cursor| key(item) > *cursor))
            .take(limit + 1)
            .collect();
        let has_more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| has_more);
        let next_cursor = last.map(|item| cursor_text(&key(item).to_string()));
        Self { items, next_cursor }
    }
}

/// The cursor of a list that is ordered by number.
pub(super) fn number_cursor(cursor: Option<&Cursor>) -> Result<Option<u64>, Problem> {
    let parse = |cursor: &Cursor| cursor.0.parse();
    let foreign = |_| Problem::query("cursor", "is not one of ours");
    cursor.map(parse).transpose().map_err(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_everything_once() {
        let names: Vec<String> = ["b", "a+b", "d", "c", "a"].map(str::to_owned).to_vec();
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        for _ in 0..3 {
            let after = cursor.as_ref().map(|cursor| &cursor.0);
            let page = Page::of(names.clone(), Clone::clone, Some(Limit(2)), after);
            seen.extend(page.items);
            cursor = page.next_cursor.map(|text| Cursor::try_from(text).expect("ours"));
        }
        assert_eq!(seen, ["a", "a+b", "b", "c", "d"]);
        assert_eq!(cursor, None);
        let whole = Page::of(names, Clone::clone, Some(Limit(5)), None);
        assert_eq!(whole.next_cursor, None, "a full last page has no next");
    }

    #[test]
    fn foreign_cursors_are_refused() {
        for text in ["x", "zz", "é", "ff"] {
            assert!(Cursor::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
