//! How things look in rows: documents as JSON where people may read them, postcard where speed counts.

use super::{
    Change, ClaimedCall, Delivery, NodeRow, StoreError, StoredCall, StoredEvent, StoredToken,
    StoredWebhook,
};
use crate::directory::{Binding, User};
use crate::encoding::append;
use crate::ids::{CallId, Epoch, Incarnation, NodeName, Rev};
use crate::time::Timestamp;
use crate::views::{Cdr, EventDocument};
use serde::Serialize;
use std::collections::BTreeSet;

/// First byte of a bindings document.
const BINDINGS_VERSION: u8 = 1;
/// Bytes of most bindings documents.
const BINDINGS_ROOM: usize = 512;
/// Longest extension that a CDR is found by; those of users are shorter.
const EXTENSION_BYTES: usize = 128;

/// Unsigned numbers of ours are far below 2^63; a stored negative one is corrupt and becomes 0.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn user_document(user: &User) -> String {
    serde_json::to_string(user).expect("users are plain data")
}

pub(super) fn user(document: &str) -> Result<User, StoreError> {
    serde_json::from_str(document).map_err(|error| StoreError::Corrupt(format!("user: {error}")))
}

pub(super) fn bindings_document(bindings: &[Binding]) -> Vec<u8> {
    let mut document = Vec::with_capacity(BINDINGS_ROOM);
    document.push(BINDINGS_VERSION);
    append(document, bindings).expect("bindings are plain data")
}

pub(super) fn bindings(document: &[u8]) -> Result<Vec<Binding>, StoreError> {
    match document.split_first() {
        Some((&BINDINGS_VERSION, rest)) => postcard::from_bytes(rest)
            .map_err(|error| StoreError::Corrupt(format!("bindings: {error}"))),
        Some(_) | None => Err(StoreError::Corrupt("bindings of an unknown version".into())),
    }
}

pub(super) fn cdr_document(cdr: &Cdr) -> String {
    serde_json::to_string(cdr).expect("CDRs are plain data")
}

/// Ids of events that a commit has for its own.
pub(super) const EVENTS_A_ROW: u64 = 65_536;

/// Events between commas, as they are written.
pub(super) fn events_of_row(
    sequence: i64,
    documents: &str,
) -> Result<Vec<StoredEvent>, StoreError> {
    let events: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(&format!("[{documents}]"))
            .map_err(|error| StoreError::Corrupt(format!("event: {error}")))?;
    let ids = (0..EVENTS_A_ROW).map(|place| unsigned(sequence) + place);
    let stored = |(id, json)| match EventDocument::new(json) {
        Some(event) => Ok(StoredEvent { id, event }),
        None => Err(StoreError::Corrupt(format!("event {id} is no object"))),
    };
    ids.zip(events).map(stored).collect()
}

pub(super) fn cdr(sequence: i64, document: &str) -> Result<Cdr, StoreError> {
    let cdr: Cdr = serde_json::from_str(document)
        .map_err(|error| StoreError::Corrupt(format!("CDR: {error}")))?;
    Ok(Cdr { sequence: unsigned(sequence), ..cdr })
}

/// PostgreSQL has no NUL in a text: a name with one is nobody's, and is not asked for.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Everybody that a search by extension finds, separated by spaces. What no user can be called is left out: an index
/// has no room for a word of kilobytes, and a space would make two of one.
pub(super) fn cdr_extensions(cdr: &Cdr) -> String {
    let legs = cdr.legs.iter().map(|leg| &leg.extension);
    let parties = [&cdr.caller.extension, &cdr.callee.extension];
    let all = parties.into_iter().chain(legs).filter_map(Option::as_deref);
    let is_word = |word: &&str| {
        (1..=EXTENSION_BYTES).contains(&word.len())
            && !word.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let words: BTreeSet<&str> = all.filter(is_word).collect();
    Vec::from_iter(words).join(" ")
}

/// As in the API: `no_answer`.
pub(super) fn disposition(cdr: &Cdr) -> String {
    word(cdr.disposition)
}

/// The same, separated by spaces.
pub(super) fn cdr_flags(cdr: &Cdr) -> String {
    cdr.flags.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The API's word for it.
pub(super) fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn call_id(bytes: &[u8]) -> Result<CallId, StoreError> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| StoreError::Corrupt("call id of a wrong length".into()))?;
    Ok(CallId(u128::from_be_bytes(bytes)))
}

pub(super) fn call_key(bytes: Vec<u8>) -> Result<[u8; 16], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt("call key of a wrong length".into()))
}

/// (id, owner, epoch, rev, record)
pub(super) type CallRow = (Vec<u8>, i64, i64, i64, Vec<u8>);

pub(super) fn stored_call(row: CallRow) -> Result<StoredCall, StoreError> {
    let (id, owner, epoch, rev, record) = row;
    Ok(StoredCall {
        id: call_id(&id)?,
        owner: Incarnation(unsigned(owner)),
        epoch: Epoch(unsigned(epoch)),
        rev: Rev(unsigned(rev)),
        record,
    })
}

/// (id, key, epoch, rev, record, claims)
pub(super) type ClaimRow = (Vec<u8>, Vec<u8>, i64, i64, Vec<u8>, i16);

pub(super) fn claimed_call(row: ClaimRow) -> Result<ClaimedCall, StoreError> {
    let (id, key, epoch, rev, record, claims) = row;
    Ok(ClaimedCall {
        id: call_id(&id)?,
        key: call_key(key)?,
        epoch: Epoch(unsigned(epoch)),
        rev: Rev(unsigned(rev)),
        record,
        claims: u32::try_from(claims).unwrap_or(0),
    })
}

/// A changed user as it is now, or gone.
pub(super) fn change(extension: String, document: Option<String>) -> Result<Change, StoreError> {
    Ok(match document {
        Some(document) => Change::User(Box::new(user(&document)?)),
        None => Change::UserRemoved(extension),
    })
}

/// (id, name, role, hash, created_at, last_used_at)
pub(super) type TokenColumns = (String, String, String, Vec<u8>, i64, Option<i64>);

pub(super) fn token(columns: TokenColumns) -> Result<StoredToken, StoreError> {
    let (id, name, role, hash, created_at, last_used_at) = columns;
    let hash = hash.try_into().map_err(|_| StoreError::Corrupt("token hash".into()))?;
    let time = |micros| Timestamp::from_micros(unsigned(micros));
    let (created_at, last_used_at) = (time(created_at), last_used_at.map(time));
    Ok(StoredToken { id, name, role, hash, created_at, last_used_at })
}

/// (id, document, secret, cursor, owed, dead)
pub(super) type WebhookColumns = (String, String, Vec<u8>, i64, i64, i64);

pub(super) fn webhook(columns: WebhookColumns) -> StoredWebhook {
    let (id, document, secret, cursor, owed, dead) = columns;
    let (cursor, owed, dead) = (unsigned(cursor), unsigned(owed), unsigned(dead));
    StoredWebhook { id, document, secret, cursor, owed, dead }
}

/// (event, document, due_at)
pub(super) type DeliveryColumns = (i64, String, Option<i64>);

pub(super) fn delivery((event, document, due_at): DeliveryColumns) -> Delivery {
    let due_at = due_at.map(|micros| Timestamp::from_micros(unsigned(micros)));
    Delivery { event: unsigned(event), document, due_at }
}

/// (name, incarnation, mode, control separated by spaces, seen_at, view)
pub(super) type NodeColumns = (String, i64, String, String, i64, String);

pub(super) fn node(columns: NodeColumns) -> NodeRow {
    let (name, incarnation, mode, control, seen_at, view) = columns;
    NodeRow {
        name: NodeName(name.into()),
        incarnation: Incarnation(unsigned(incarnation)),
        mode,
        control: control.split(' ').filter_map(|address| address.parse().ok()).collect(),
        seen_at: Timestamp::from_micros(unsigned(seen_at)),
        view,
    }
}

pub(super) fn control_text(row: &NodeRow) -> String {
    let addresses: Vec<String> = row.control.iter().map(ToString::to_string).collect();
    addresses.join(" ")
}
