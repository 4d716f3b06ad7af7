//! Control frames of every past version, written by the code of that version: this release reads them, and writes them
//! so to a node of that version.

use holdfast::control::Frame;
use std::fs;
use std::path::Path;

#[test]
fn every_past_frame_is_read_and_written_back_byte_for_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/frames");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let (version, _) = name.split_once('-').expect("a version");
        let bytes = fs::read(&path).expect("a fixture");
        let frame = Frame::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let version = version.parse().expect("a number");
        assert!(frame.since() <= version, "{name}");
        assert_eq!(frame.encode(version), bytes, "{name}");
        count += 1;
    }
    assert!(count >= 17, "{count} fixtures");
}
