//! Records of every past version, written by the code of that version (`tests/vectors/records`), and what this release
//! makes of them.

use super::*;
use crate::call::record::CallRecord;

macro_rules! records {
    ($version:literal: $($name:literal),+) => {
        [$(($version, $name, include_bytes!(concat!(
            "../../../tests/vectors/records/", $version, "-", $name)).as_slice())),+]
    };
}

fn fixtures() -> impl Iterator<Item = (&'static str, &'static str, &'static [u8])> {
    let first = records!("1": "ringing", "early", "answered", "held", "late-offer");
    first
        .into_iter()
        .chain(records!("2": "early"))
        .chain(records!("3": "moving"))
        .chain(records!("4": "called"))
        .chain(records!("5": "steered"))
}

fn restore(record: &[u8]) -> Option<Call> {
    Call::restore(Arc::new(settings()), record, Epoch(2), NOW, &Place::as_before())
}

#[test]
fn every_past_record_is_read_and_written_back_byte_for_byte() {
    for (version, name, bytes) in fixtures() {
        let record = CallRecord::decode(bytes, &settings().key);
        let record = record.unwrap_or_else(|| panic!("{version}-{name} cannot be read"));
        let number = version.parse().expect("a number");
        assert_eq!(record.encode(number, &settings().key), bytes, "{version}-{name}");
        assert!(restore(bytes).is_some(), "{version}-{name}");
    }
}

#[test]
fn a_record_is_written_as_older_releases_read_it() {
    let mut bench = Bench::plain();
    bench.answer(&phone(1002, 1), 183, &sdp(5_000, 1, ""));
    let new = &bench.saves.last().expect("saved").record;
    assert_eq!(new[..2], [0, 6]);
    let second = record_in_version(new, 2);
    assert_eq!((&second[..2], &second[2..]), (&[0, 2][..], &new[2..second.len()]));
    let old = record_in_version(new, 1);
    assert_eq!((&old[..2], &old[2..]), (&[0, 1][..], &new[2..old.len()]), "the same less its end");
    assert_eq!(record_in_version(new, 99), *new, "no later than ours");
    assert_eq!(record_in_version(b"garbage", 1), b"garbage");
}

#[test]
fn of_a_record_of_the_next_release_what_is_known_is_read() {
    let mut bytes = Bench::answered().saves.last().expect("saved").record.clone();
    bytes.extend_from_slice(b"added by the next release");
    bytes[1] = 7;
    assert!(restore(&bytes).is_some());
    bytes[1] = 8;
    assert!(restore(&bytes).is_none(), "two releases ahead");
}

/// Who cannot carry a call on ends it by the beginning of its record alone.
#[test]
fn of_every_past_record_its_phones_can_be_taken_leave_of() {
    for (version, name, bytes) in fixtures() {
        let before_end = &bytes[..bytes.len() - 15];
        let of = (CallId(7), Epoch(4));
        let Farewell { transmits, cdr } = farewell(&settings(), of, before_end, NOW, "why");
        let mut heads: Vec<String> = transmits.iter().map(|said| in_brief(&said.bytes)).collect();
        heads.sort();
        let expect = match name {
            "ringing" => vec!["500 INVITE", "CANCEL", "CANCEL", "CANCEL"],
            "early" => vec!["500 INVITE", "CANCEL"],
            _ => vec!["BYE", "BYE"],
        };
        assert_eq!(heads, expect, "{version}-{name}");
        assert_eq!(cdr.caller.extension.as_deref(), Some("1001"));
        let nothing = farewell(&settings(), of, &bytes[..40], NOW, "why");
        assert_eq!((nothing.transmits.len(), nothing.cdr.id), (0, CallId(7).to_string()));
    }
}

fn in_brief(bytes: &Bytes) -> String {
    match Message::parse(bytes).expect("readable") {
        Message::Request(request) => request.method.to_string(),
        Message::Response(response) => format!("{} INVITE", response.status.0),
    }
}

/// Phones play what they were told first: after a takeover the caller gets the same again.
#[test]
fn after_a_takeover_the_caller_is_told_what_it_was_told_before() {
    let mut before = Bench::plain();
    before.answer(&phone(1002, 1), 183, &sdp(5_000, 1, ""));
    let told = before.response(CALLER, 183).body;
    let record = before.saves.last().expect("saved").record.clone();
    let mut after = Bench::plain();
    after.call = restore(&record).expect("a record");
    after.wire.clear();
    after.drain();
    assert_eq!(after.response(CALLER, 183).body, told);
    after.wire.extend(before.wire);
    after.answer(&phone(1002, 1), 200, &sdp(5_000, 1, ""));
    assert_eq!(after.response(CALLER, 200).body, told);
}
