//! `holdfast backup` and `restore`: what makes this switch this one, as lines of JSON in one private file.
//!
//! In it: the digest realm, users with their settings and hashes, the secrets of the data directory,
//! `credentials.json`, and CDRs when they are asked for. Not in it: settings (they are the operator's own file and
//! environment), registrations (phones come again) and live calls.
//!
//! Invariants: a file is read to its end and judged before anything is changed; its last line counts what it holds, so
//! half a file is no backup; a secret or a realm that others rely on is never replaced.

use super::ServeOptions;
use super::config::Config;
use super::data_dir::DataDir;
use super::first_start::{self, Credentials};
use super::host::Host;
use crate::directory::User;
use crate::net::clock;
use crate::store::{CdrQuery, Store};
use crate::views::token::AuditView;
use crate::views::{Cdr, Rfc3339};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Of the file's form. A release reads all up to its own.
const VERSION: u32 = 1;
const SECRETS: [&str; 2] = ["cluster_secret", "admin_token"];
/// CDRs read or written at once.
const PAGE: u32 = 500;
/// CDRs between two signs of life.
const PROGRESS: u64 = 50_000;

/// A line of the file: the header first, the counts last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    HoldfastBackup(Header),
    Secret { name: String, value: String },
    Credentials(Credentials),
    User(Box<User>),
    Cdr(Box<Cdr>),
    End(Counts),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    release: String,
    created_at: Rfc3339,
    /// Hashes of passwords hold for this one.
    realm: String,
}

/// What a file holds, or what was put in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Users.
    pub users: u64,
    /// Call detail records.
    pub cdrs: u64,
    /// Secrets of the data directory.
    pub secrets: u64,
}

/// Writes everything to a new file.
pub fn backup(options: &ServeOptions, file: &Path, with_cdrs: bool) -> anyhow::Result<Counts> {
    let (config, _) = options.load()?;
    // SQLite would make an empty one.
    ensure!(config.data_dir.is_dir(), "{}: no data directory is there", config.data_dir.display());
    let mut open = OpenOptions::new();
    let output = open.write(true).create_new(true).mode(0o600).open(file);
    let output = output.with_context(|| format!("{}", file.display()))?;
    let written = block_on(write_all(&config, BufWriter::new(output), with_cdrs));
    if written.is_err() {
        let _ = std::fs::remove_file(file);
    }
    written
}

/// Puts a file's content in place.
pub fn restore(options: &ServeOptions, file: &Path) -> anyhow::Result<Counts> {
    let (config, _) = options.load()?;
    let judged = check(file).with_context(|| format!("{}", file.display()))?;
    block_on(put_in_place(&config, &judged, file))
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn write_all(
    config: &Config,
    mut output: BufWriter<File>,
    with_cdrs: bool,
) -> anyhow::Result<Counts> {
    let store = Store::open(config.database_url.expose()).await?;
    let store = store.context("the database has no tables yet: there is nothing to keep")?;
    let mut counts = Counts::default();
    let mut line = |line: &Line| -> anyhow::Result<()> {
        serde_json::to_writer(&mut output, line)?;
        Ok(output.write_all(b"\n")?)
    };
    line(&Line::HoldfastBackup(Header {
        version: VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: Rfc3339(clock::now()),
        realm: store.setting(first_start::REALM).await?.context("no node ever started here")?,
    }))?;
    let data = DataDir::open(&config.data_dir)?;
    for name in SECRETS {
        if let Some(secret) = data.kept_secret(name)? {
            let value = secret.expose().to_owned();
            line(&Line::Secret { name: name.to_owned(), value })?;
            counts.secrets += 1;
        }
    }
    if let Some(credentials) = Credentials::read(data.path())? {
        line(&Line::Credentials(credentials))?;
    }
    for user in store.users().await? {
        line(&Line::User(Box::new(user)))?;
        counts.users += 1;
    }
    if with_cdrs {
        let mut after = None;
        loop {
            let page = store.cdrs(&CdrQuery { after, limit: PAGE, ..CdrQuery::default() }).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.sequence);
            let before = counts.cdrs;
            for cdr in page {
                line(&Line::Cdr(Box::new(cdr)))?;
                counts.cdrs += 1;
            }
            tell_progress(before, counts.cdrs);
        }
    }
    line(&Line::End(counts))?;
    let file = output.into_inner().context("the last bytes")?;
    file.sync_all()?;
    Ok(counts)
}

/// What is known of a file that was read to its end.
struct Judged {
    header: Header,
    /// Name and value.
    secrets: Vec<(String, String)>,
}

/// Reads a file to its end.
fn check(file: &Path) -> anyhow::Result<Judged> {
    let mut lines = lines(file)?;
    let Some(Ok(Line::HoldfastBackup(header))) = lines.next() else {
        bail!("this is not a backup of Holdfast");
    };
    ensure!(
        header.version <= VERSION,
        "made by release {}, which this release ({}) cannot read: restore it with that one",
        header.release,
        env!("CARGO_PKG_VERSION")
    );
    let (mut found, mut end, mut secrets) = (Counts::default(), None, Vec::new());
    for line in lines {
        ensure!(end.is_none(), "there is more behind its end");
        match line? {
            Line::HoldfastBackup(_) => bail!("it begins twice"),
            Line::Secret { name, value } => {
                found.secrets += 1;
                secrets.push((name, value));
            }
            Line::Credentials(_) => {}
            Line::User(_) => found.users += 1,
            Line::Cdr(_) => found.cdrs += 1,
            Line::End(counts) => end = Some(counts),
        }
    }
    let end = end.context("its end is missing: it was cut, nothing is restored")?;
    ensure!(end == found, "it holds {found:?} and should hold {end:?}: nothing is restored");
    Ok(Judged { header, secrets })
}

fn lines(file: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>>> {
    let reader = BufReader::new(File::open(file)?);
    Ok((1..).zip(reader.lines()).map(|(number, text)| {
        serde_json::from_str(&text?).with_context(|| format!("line {number}"))
    }))
}

async fn put_in_place(config: &Config, judged: &Judged, file: &Path) -> anyhow::Result<Counts> {
    let Judged { header, secrets } = judged;
    let data = DataDir::open(&config.data_dir)?;
    let _first_start = data.lock_first_start()?;
    check_secrets(config, &data, secrets)?;
    let _database = data.lock_database(&config.database_url)?;
    let store = Store::connect(config.database_url.expose()).await?;
    let realm = store.setting_or_insert(first_start::REALM, &header.realm).await?;
    ensure!(
        realm == header.realm,
        "passwords in the backup are hashed for the realm {:?}, those in the database for \
         {realm:?}: take an empty database",
        header.realm
    );
    let mut restored =
        Restored { store: &store, counts: Counts::default(), users: Vec::new(), cdrs: Vec::new() };
    for line in lines(file)? {
        match line? {
            Line::Secret { name, value } if given(config, &name).is_none() => {
                data.keep_secret(&name, &value)?;
                restored.counts.secrets += 1;
            }
            Line::Credentials(credentials) => {
                if Credentials::read(data.path())?.is_none() {
                    credentials.write(data.path())?;
                }
            }
            Line::User(user) => restored.user(*user).await?,
            Line::Cdr(cdr) => restored.cdr(*cdr).await?,
            Line::HoldfastBackup(_) | Line::Secret { .. } | Line::End(_) => {}
        }
    }
    restored.flush().await?;
    store.setting_or_insert(first_start::USERS_MADE, "made").await?;
    let counts = restored.counts;
    let host = Host::of_this_process();
    let (now, node) = (clock::now(), config.node_name.as_deref().unwrap_or(&host.name));
    let what = ("restore", &*file.display().to_string());
    let line = serde_json::to_string(&AuditView::local(now, node, what, 200))?;
    store.add_audit(now, &line).await?;
    Ok(counts)
}

/// What the settings say in place of a secret of the data directory.
fn given<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    let secret = match name {
        "cluster_secret" => config.cluster_secrets.first(),
        "admin_token" => config.admin.token.as_ref(),
        _ => None,
    };
    secret.map(super::config::Secret::expose)
}

/// Nodes and calls that are alive rely on the secrets that are there.
fn check_secrets(
    config: &Config,
    data: &DataDir,
    secrets: &[(String, String)],
) -> anyhow::Result<()> {
    for (name, value) in secrets {
        if !SECRETS.contains(&name.as_str()) {
            bail!("{name} is no secret that this release knows");
        }
        if given(config, name).is_some() {
            continue;
        }
        let kept = data.kept_secret(name)?;
        ensure!(
            kept.is_none_or(|kept| kept.expose() == *value),
            "{} holds another {name} than the backup: restore into an empty data_dir, or set \
             {name} to keep what is in force",
            data.path().display()
        );
    }
    Ok(())
}

/// Rows go in by the page.
struct Restored<'a> {
    store: &'a Store,
    counts: Counts,
    users: Vec<User>,
    cdrs: Vec<Cdr>,
}

impl Restored<'_> {
    async fn user(&mut self, user: User) -> anyhow::Result<()> {
        self.users.push(user);
        self.counts.users += 1;
        self.flush_from(PAGE as usize).await
    }

    async fn cdr(&mut self, cdr: Cdr) -> anyhow::Result<()> {
        self.cdrs.push(cdr);
        self.flush_from(PAGE as usize).await
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.flush_from(1).await
    }

    async fn flush_from(&mut self, rows: usize) -> anyhow::Result<()> {
        if self.users.len() >= rows {
            self.store.import_users(&core::mem::take(&mut self.users), true).await?;
        }
        if self.cdrs.len() >= rows {
            let before = self.counts.cdrs;
            self.counts.cdrs += self.store.import_cdrs(&core::mem::take(&mut self.cdrs)).await?;
            tell_progress(before, self.counts.cdrs);
        }
        Ok(())
    }
}

#[allow(clippy::print_stderr, reason = "for the person who waits")]
fn tell_progress(before: u64, now: u64) {
    if before / PROGRESS < now / PROGRESS {
        eprintln!("{now} CDRs …");
    }
}
