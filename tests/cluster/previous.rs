//! The release before this one: the last commit whose records are of the version before, built from this repository's
//! own history.
//!
//! It is built with the dependencies of today, in the folder where they are built already: what differs is our code.

use crate::common::server::BINARY;
use holdfast::call::RECORD_VERSION;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const NAME: &str = "holdfast-previous";

/// The binary, built by who asks first. None, and it is said loudly: there is no history here.
pub(crate) fn binary() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| commit().map(|commit| build(&commit))).as_deref()
}

/// The last one of the version before.
fn commit() -> Option<String> {
    let words = format!("-Spub const VERSION: u16 = {RECORD_VERSION};");
    let began = ["log", "--reverse", "--format=%H", &words, "--", "src/call/record.rs"];
    let first = git(&began).and_then(|commits| commits.lines().next().map(str::to_owned));
    let commit = first.and_then(|first| git(&["rev-parse", "--verify", &format!("{first}^")]));
    if commit.is_none() {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let line = format!("\nNOT TESTED: {name}, because the repository's history is not here\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    commit.map(|commit| commit.trim().to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").args(["-C", HERE]).args(arguments).output().ok()?;
    let told = String::from_utf8(ran.stdout).ok().filter(|_| ran.status.success())?;
    (!told.trim().is_empty()).then_some(told)
}

fn build(commit: &str) -> PathBuf {
    let profile = Path::new(BINARY).parent().expect("a folder of binaries");
    let target = profile.parent().expect("where all is built");
    let source = target.join("previous").join(commit);
    if !source.exists() {
        unpack(commit, &source);
    }
    let here = |name: &str| fs::read_to_string(Path::new(HERE).join(name)).expect("ours");
    let there = |name: &str, text: String| {
        fs::write(source.join(name), text).expect("room for a file");
    };
    let manifest = here("Cargo.toml").replace("default-run = \"holdfast\"\n", "");
    let bin = format!("[[bin]]\nname = \"{NAME}\"\npath = \"src/main.rs\"\n");
    // What cargo builds of two packages of one name and version has one name.
    there("Cargo.toml", format!("{}\n{bin}", renumbered(&manifest)));
    there("Cargo.lock", renumbered(&here("Cargo.lock")));
    // With a test, dependencies have the features that tests want: those that are there.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--bin", NAME, "--test", "tidy"])
        .arg("--manifest-path")
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(built.expect("cargo runs").success(), "the previous release is not built");
    target.join("debug").join(NAME)
}

/// The package has a version of its own.
fn renumbered(text: &str) -> String {
    let own = concat!("name = \"holdfast\"\nversion = \"", env!("CARGO_PKG_VERSION"), "\"");
    assert!(text.contains(own), "the package names itself so");
    text.replace(own, "name = \"holdfast\"\nversion = \"0.0.0-previous\"")
}

/// Whole, or not at all.
fn unpack(commit: &str, source: &Path) {
    let partial = source.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).expect("room for a folder");
    let archive = partial.join("all.tar");
    let text = |path: &Path| path.to_str().expect("a name in UTF-8").to_owned();
    git(&["archive", "--verbose", "-o", &text(&archive), commit]);
    let unpacked =
        Command::new("tar").args(["-xf", &text(&archive), "-C", &text(&partial)]).status();
    assert!(unpacked.expect("tar is there").success(), "no archive of {commit}");
    fs::rename(&partial, source).expect("the folder is ours");
}
