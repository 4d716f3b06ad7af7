//! House rules as tests: the floors of `lib.rs`, what floors 0 to 3 may not know, sizes, headers.
//!
//! Comments, strings and the tests at the foot of a file are not judged, except where a rule says so.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up; a module imports only from lower rows, and those of one row are strangers.
const FLOORS: [&[&str]; 9] = [
    &["time", "ids", "limits", "encoding"],
    &["sip", "rtp", "codec"],
    &["views"],
    &["event", "directory", "control"],
    &["sdp", "routing"],
    &["call", "registrar", "relay"],
    &["capture", "net", "store", "telemetry", "operator"],
    &["signaling", "media", "admin"],
    &["app", "cli"],
];

/// Rows of `FLOORS` that are sans-io.
const SANS_IO_ROWS: usize = 6;

/// What a sans-io module may not name, each with what it would let in.
const FORBIDDEN: [(&str, &str); 18] = [
    ("tokio", "a runtime"),
    ("async fn", "a runtime"),
    (".await", "a runtime"),
    ("UdpSocket", "sockets"),
    ("TcpStream", "sockets"),
    ("TcpListener", "sockets"),
    ("UnixStream", "sockets"),
    ("Instant::", "a clock"),
    ("SystemTime", "a clock"),
    ("std::env", "the environment"),
    ("std::fs", "files"),
    ("std::thread", "threads"),
    ("std::process", "processes"),
    ("rand::", "randomness"),
    ("Mutex", "locks"),
    ("RwLock", "locks"),
    ("mpsc", "channels"),
    ("sqlx", "a database"),
];

const FILE_LINES: usize = 600;
const CODE_COLUMNS: usize = 100;
/// Prose may be a little wider than code.
const COMMENT_COLUMNS: usize = 120;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.starts_with("tests")
            || self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self.path.components().any(|part| part.as_os_str() == "tests")
    }

    /// The module of `lib.rs` it belongs to; none for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<String> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "main")).then(|| name.to_owned())
    }

    /// Without the tests at the foot.
    fn without_tests(&self) -> &str {
        match self.text.find("#[cfg(test)]\nmod tests {") {
            Some(end) => &self.text[..end],
            None => &self.text,
        }
    }

    /// Lines of code with their numbers; comments and string contents are gone.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        let lines = self.without_tests().lines().enumerate();
        lines.map(|(index, line)| (index + 1, bare(line)))
    }
}

/// A line without its comment and without what stands in its strings.
fn bare(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let (mut quoted, mut escaped) = (false, false);
    for (index, character) in line.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            // `'"'` is a character.
            '"' if !line[..index].ends_with('\'') => {
                quoted = !quoted;
                code.push('"');
            }
            '/' if !quoted && line[index..].starts_with("//") => break,
            _ if quoted => {}
            other => code.push(other),
        }
    }
    code
}

/// `word` stands in the code, not as the beginning of a longer one.
fn names(code: &str, word: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let open_end = word.ends_with("::");
    code.match_indices(word).any(|(index, _)| open_end || !goes_on(&code[index + word.len()..]))
}

fn row(module: &str) -> Option<usize> {
    FLOORS.iter().position(|row| row.contains(&module))
}

/// Modules of this crate that a line names: `crate::x`, `crate::{x, y::z}`.
fn named_modules(line: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut names = Vec::new();
    for piece in line.split("crate::").skip(1) {
        match piece.strip_prefix('{') {
            Some(group) => names.extend(group.split(',').map(word)),
            None => names.push(word(piece)),
        }
    }
    names.retain(|name| row(name).is_some());
    names
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the crate") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(root).expect("below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 5, "the sources were found");
    found
}

/// All at once, so that one run shows all there is to do.
fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_module_has_its_floor() {
    let mut offences = Vec::new();
    for source in sources(&["src"]) {
        if let Some(module) = source.module().filter(|module| row(module).is_none()) {
            offences.push(format!("{}: module {module}", source.path.display()));
        }
    }
    expect_none("not in FLOORS", &offences);
}

#[test]
fn modules_import_only_from_lower_floors() {
    let mut offences = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test()) {
        let Some(module) = source.module() else { continue };
        for (line, code) in source.code() {
            for named in named_modules(&code) {
                if named != module && row(&named) >= row(&module) {
                    offences
                        .push(format!("{}:{line}: {module} knows {named}", source.path.display()));
                }
            }
        }
    }
    expect_none("a floor is looked up to", &offences);
}

#[test]
fn machines_know_nothing_of_the_world() {
    let mut offences = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test()) {
        let sans_io = source.module().and_then(|module| row(&module));
        if sans_io.is_none_or(|row| row >= SANS_IO_ROWS) {
            continue;
        }
        for (line, code) in source.code() {
            for (word, what) in FORBIDDEN.iter().filter(|(word, _)| names(&code, word)) {
                offences.push(format!("{}:{line}: {word} is {what}", source.path.display()));
            }
        }
    }
    expect_none("floors 0 to 3 are sans-io", &offences);
}

#[test]
fn nothing_is_unwrapped_or_left_undone() {
    let mut offences = Vec::new();
    for source in sources(&["src", "tests"]) {
        let is_this_file = source.path.ends_with("tidy.rs");
        for (index, line) in source.text.lines().enumerate().filter(|_| !is_this_file) {
            for word in ["TODO", "FIXME", "XXX:", "todo!(", "unimplemented!("] {
                if line.contains(word) {
                    offences.push(format!("{}:{}: {word}", source.path.display(), index + 1));
                }
            }
        }
        for (line, code) in source.code().filter(|_| !source.is_test()) {
            if code.contains(".unwrap()") {
                offences.push(format!("{}:{line}: unwrap", source.path.display()));
            }
        }
    }
    expect_none("undone", &offences);
}

#[test]
fn files_open_with_what_they_are_and_stay_small() {
    let mut offences = Vec::new();
    for source in sources(&["src", "tests"]) {
        let path = source.path.display();
        // `foo/tests.rs` is the foot of `foo.rs`.
        let is_foot = source.path.starts_with("src") && source.path.ends_with("tests.rs");
        if !is_foot && !source.text.starts_with("//!") {
            offences.push(format!("{path}: no `//!` header"));
        }
        let lines = source.without_tests().lines().count();
        if !source.is_test() && lines > FILE_LINES {
            offences.push(format!("{path}: {lines} lines without tests"));
        }
        let wide = source.without_tests().lines().enumerate().filter(|_| !source.is_test());
        for (index, line) in wide {
            let is_comment = line.trim_start().starts_with("//");
            let most = if is_comment { COMMENT_COLUMNS } else { CODE_COLUMNS };
            let columns = line.chars().count();
            if columns > most {
                offences.push(format!("{path}:{}: {columns} columns", index + 1));
            }
        }
    }
    expect_none("size", &offences);
}

/// The context of an image that is compiled from source leaves out all that is not named.
#[test]
fn an_image_is_built_of_all_that_cargo_reads() {
    let told = fs::read_to_string(".dockerignore").expect("it is there");
    let let_in = |name: &&str| told.lines().any(|line| line.strip_prefix('!') == Some(*name));
    let read = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "migrations"];
    assert!(read.iter().all(|name| Path::new(name).exists()));
    let missing: Vec<_> = read.iter().filter(|name| !let_in(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_rules_see_what_they_forbid() {
    let check = |line: &str, expect: &str| assert_eq!(bare(line), expect, "{line}");
    check("let a = 1; // tokio", "let a = 1; ");
    check("let a = \"tokio // \\\" x\"; b", "let a = \"\"; b");
    check("matches!(c, '\"' | 'x') // y", "matches!(c, '\"' | 'x') ");
    assert!(names("a.await;", ".await") && !names("a.awaiting", ".await"));
    assert!(names("rand::random()", "rand::"));
    let named = |line: &str| named_modules(line).join(" ");
    assert_eq!(named("use crate::sip::{Uri, Status};"), "sip");
    assert_eq!(named("use crate::{time::Timestamp, call, Other};"), "time call");
    assert_eq!(named("fn x(a: crate::ids::Rev) -> crate::net::Y"), "ids net");
    assert!(row("call") > row("sdp") && row("sdp") > row("control"));
}
