//! What a PATCH says of a field: nothing, null or a value.
//!
//! Null is what the field is without a value (no name, no limit, all codecs); a field that is never without one refuses
//! null, with the reason.

use serde::{Deserialize, Deserializer};

/// Tells null (`Some(None)`) from absent (`None`); with `#[serde(default)]`.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A value, if the field is there; with `#[serde(default)]`.
pub(super) fn never_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
