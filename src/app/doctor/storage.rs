//! The data directory: writable, with room.

use super::{Finding, Patient};
use crate::app::data_dir::DataDir;

const LOW_BYTES: u64 = 1 << 30;
const FULL_BYTES: u64 = 64 << 20;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let path = &patient.config.data_dir;
    let shown = path.display();
    if !path.exists() {
        // A start makes it; a look does not.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| std::path::Path::new("."));
        return match nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => {
                vec![Finding::ok(
                    "data_dir",
                    format!(
                        "{shown} will be made by the first \
                start"
                    ),
                )]
            }
            Err(error) => {
                let detail = format!(
                    "{shown} is not there, and {} cannot be written: {error}",
                    parent.display()
                );
                vec![Finding::fail(
                    "data_dir",
                    detail,
                    "set data_dir to a folder that can be written",
                )]
            }
        };
    }
    if let Err(error) = DataDir::open(path) {
        let fix = "make it writable for the user that runs holdfast (the image's is \
        10001:10001), or set data_dir";
        return vec![Finding::fail("data_dir", error.to_string(), fix)];
    }
    vec![Finding::ok("data_dir", format!("{shown} can be written")), room(patient)]
}

pub(super) fn room(patient: &Patient<'_>) -> Finding {
    let path = &patient.config.data_dir;
    let free = match nix::sys::statvfs::statvfs(path) {
        Ok(found) => found.blocks_available() * found.fragment_size(),
        Err(error) => {
            let detail = format!("the room in {} cannot be told: {error}", path.display());
            return Finding::warn("disk", detail, "df tells it");
        }
    };
    let detail = format!("{} MiB free in {}", free >> 20, path.display());
    let fix = "make room: what the database does not take in time is written there, and so \
    are calls in SQLite";
    match free {
        0..FULL_BYTES => Finding::fail("disk", detail, fix),
        FULL_BYTES..LOW_BYTES => Finding::warn("disk", detail, fix),
        _ => Finding::ok("disk", detail),
    }
}
