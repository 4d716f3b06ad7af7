//! Sessions as bytes of every release: in an upgrade they pass both ways.

use super::*;

/// `version-name`, as the release of that version wrote them.
fn fixtures() -> Vec<(u16, String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/snapshots");
    let entries = std::fs::read_dir(folder).expect("fixtures").map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let (version, name) = name.split_once('-').expect("a version");
        (version.parse().expect("a number"), name.to_owned(), std::fs::read(&path).expect("bytes"))
    });
    entries.collect()
}

#[test]
fn every_past_snapshot_is_read_and_goes_on() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 3, "{} fixtures", fixtures.len());
    for (version, name, bytes) in fixtures {
        assert!(snapshot_is_read(version, SNAPSHOT_VERSION), "{name}");
        let session = Session::restored(&bytes).unwrap_or_else(|| panic!("{version}-{name}"));
        if version == SNAPSHOT_VERSION {
            assert!(session.snapshot() == bytes, "{name}: its form changed, but not its version");
        }
        let mut world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMU", 0, 0)));
        world.session = session;
        world.now = START + Duration::from_secs(60);
        let before = world.statistics(1).packets_received;
        let payload = [0x55; 160];
        for number in 0..10 {
            let header = audio(0, 2, 1_000 + number);
            let (_, _, _) = world.receive(1, header, &payload).unwrap_or_else(|| panic!("{name}"));
            world.pass(Duration::from_millis(20));
        }
        assert_eq!(world.statistics(1).packets_received, before + 10, "{name}");
    }
}

#[test]
fn a_snapshot_of_another_form_is_refused() {
    let world = World::new(two_legs(codec("PCMU", 0, 0), codec("PCMA", 8, 8)));
    let bytes = world.session.snapshot();
    assert!(Session::restored(&bytes).is_some());
    for end in 0..bytes.len() {
        assert!(Session::restored(&bytes[..end]).is_none(), "{end} bytes of it");
    }
    let other = [&[0, 99], &bytes[2..]].concat();
    assert!(Session::restored(&other).is_none());
}
