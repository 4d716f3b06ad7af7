//! The only SQL: one door in domain terms, PostgreSQL and SQLite behind it, one conformance suite for both.
//!
//! Invariants: every write of a call names owner, epoch and a greater rev than stored, so a fenced node writes
//! nothing; a CDR is inserted by the transaction that ends its call, and a batch is one transaction; an error is never
//! an absence; every call ends within a deadline, and no read is without a bound.

mod batch;
mod journal;
mod migrations;
mod postgres;
mod rows;
mod sqlite;

use crate::call::Save;
use crate::directory::{Binding, User};
use crate::ids::{CallId, Epoch, Incarnation, NodeName, Rev};
use crate::time::Timestamp;
use crate::views::{CallFlag, Cdr, EventDocument};
use batch::Part;
use core::time::Duration;
pub use journal::{Journal, JournalFolder, ReplayLock, Replayed};
use rows::is_storable;

/// What became of a call's write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Stored.
    Done,
    /// The store holds a greater epoch or a rev not smaller: drop the call silently.
    Fenced,
    /// Another call has the key: its id. The message belongs to that call.
    Duplicate(CallId),
    /// The database refuses this row and no other: why.
    Rejected(String),
}

/// The end of a call that the database refuses is kept whole in the log, where its CDR can still be found.
pub fn tell_rejected(save: &Save, why: &str) {
    let id = save.id;
    let cdr = save.cdr.as_ref().and_then(|cdr| serde_json::to_string(cdr).ok());
    let cdr = cdr.unwrap_or_default();
    tracing::error!(call.id = %id, cdr, "the store refuses call {id}: {why}");
}

/// All bindings of one user, replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingsWrite {
    /// User.
    pub extension: String,
    /// What is to be there afterwards.
    pub bindings: Vec<Binding>,
}

/// One commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Calls, each at most once.
    pub calls: Vec<Save>,
    /// Bindings, each user at most once.
    pub bindings: Vec<BindingsWrite>,
    /// Events of no call: JSON.
    pub told: Vec<String>,
}

/// An event as it is read: ids rise in the order in which all readers see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the order.
    pub id: u64,
    /// What happened.
    pub event: EventDocument,
}

/// A stored call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCall {
    /// Which.
    pub id: CallId,
    /// Owner's incarnation.
    pub owner: Incarnation,
    /// Epoch.
    pub epoch: Epoch,
    /// Rev.
    pub rev: Rev,
    /// Record.
    pub record: Vec<u8>,
}

/// A call that was claimed: it is the claimer's, with an epoch of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedCall {
    /// Which.
    pub id: CallId,
    /// Keyed hash of its first INVITE.
    pub key: [u8; 16],
    /// The claimer's.
    pub epoch: Epoch,
    /// As stored.
    pub rev: Rev,
    /// Record.
    pub record: Vec<u8>,
    /// Claims since an owner saved it last, this one too.
    pub claims: u32,
}

/// What CDRs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdrQuery {
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// Caller's or callee's or a leg's extension.
    pub extension: Option<String>,
    /// As in the API (`no_answer`).
    pub disposition: Option<String>,
    /// That had this which was not as it should be.
    pub flag: Option<CallFlag>,
    /// Sequence greater than this.
    pub after: Option<u64>,
    /// Sequence less than this.
    pub before: Option<u64>,
    /// Of this call.
    pub id: Option<String>,
    /// The greatest sequence comes first.
    pub newest_first: bool,
    /// At most.
    pub limit: u32,
}

/// A token of the API, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do, as in the API.
    pub role: String,
    /// SHA-256 of it.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last, about.
    pub last_used_at: Option<Timestamp>,
}

/// Why nothing came of it. Callers decide by the kind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Cannot be reached, read-only, full, too slow: journal, degrade, try again.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Exists already (users).
    #[error("{0} exists already")]
    Exists(String),
    /// What is stored cannot be read.
    #[error("stored data is corrupt: {0}")]
    Corrupt(String),
    /// The schema needs a newer release than this one.
    #[error(
        "the database has schema version {found}, this release knows {known}: start the newer \
         release"
    )]
    NewerSchema {
        /// In the database.
        found: i64,
        /// Ours.
        known: i64,
    },
}

/// A change of the configuration, read by every node from the change feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A user was made or changed.
    User(Box<User>),
    /// A user was removed.
    UserRemoved(String),
}

/// A row of `nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Name.
    pub name: NodeName,
    /// Its start.
    pub incarnation: Incarnation,
    /// signaling, media, both.
    pub mode: String,
    /// Where it takes control connections.
    pub control: Vec<core::net::SocketAddr>,
    /// When it wrote the row, by the store's clock.
    pub seen_at: Timestamp,
    /// JSON of what it shows of itself (views::NodeView).
    pub view: String,
}

/// How long ended calls are remembered.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(600);
/// A statement that takes longer is given up: the store is unavailable.
const DEADLINE: Duration = Duration::from_secs(3);
/// The same for a commit, whose fate would be in doubt.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);
/// Owners have found another server and written their calls to it: they look each second and try a commit within two.
const SETTLED_AFTER: Duration = Duration::from_secs(4);
/// Rows a statement of an import.
const IMPORT_CHUNK: usize = 500;
/// Rows a statement when a whole table is loaded.
const PAGE: usize = 5_000;
/// Tombstones a statement of a sweep.
const SWEEP_CHUNK: u32 = 5_000;
/// How long events are kept for those who come back.
pub const EVENT_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Rows of events at most, however young.
const EVENT_ROWS: u32 = 500_000;

/// Rows that go when they are old, and when there are many.
#[derive(Clone, Copy, Debug)]
enum Aged {
    /// The log of events.
    Events,
    /// Requests with a key, and their answers.
    Answers,
}

/// How long they stay, and how many.
const AGED: [(Aged, Duration, u32); 2] = [
    (Aged::Events, EVENT_LIFE, EVENT_ROWS),
    (Aged::Answers, answers::ANSWER_LIFE, answers::ANSWER_ROWS),
];
/// How long the audit log is kept.
const AUDIT_LIFE: Duration = Duration::from_secs(400 * 24 * 3_600);

/// The door. `connect` chooses the back end by the URL. Cheap to clone; every call has a deadline inside.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Postgres(postgres::Postgres),
    Sqlite(sqlite::Sqlite),
    /// Nothing can be read or written.
    Absent,
}

/// Calls one method of the back end, within a deadline; PostgreSQL's by a session out of the pool, or by another.
macro_rules! ask {
    ($self:ident, $deadline:expr, $method:ident($($argument:expr),*)) => {
        ask!($self, $deadline, session, $method($($argument),*))
    };
    ($self:ident, $deadline:expr, $session:ident, $method:ident($($argument:expr),*)) => {
        within($deadline, async {
            match &$self.backend {
                Backend::Postgres(store) => {
                    let mut session = store.$session().await?;
                    let result = session.$method($($argument),*).await;
                    session.settle(&result);
                    result
                }
                Backend::Sqlite(store) => store.$method($($argument),*).await,
                Backend::Absent => Err(StoreError::Unavailable("there is none".to_owned())),
            }
        })
        .await
    };
}

/// What a repeated request was answered before.
mod answers;
/// Which of many calls live.
mod ends;
/// Users one by one, and in an import.
mod users;
/// Events, pages of users, tokens and the audit log.
mod watched;
/// Webhooks, what they are owed, and who delivers.
mod webhooks;

pub use answers::{Answered, Asked};
pub use users::KeptUser;
pub use webhooks::{Delivery, Settlement, StoredWebhook};

impl Store {
    /// Opens and migrates. `sqlite:PATH`, or `postgres://…` with one host or several that are tried in turn.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let backend = if let Some(path) = url.strip_prefix("sqlite:") {
            Backend::Sqlite(sqlite::Sqlite::connect(path.trim_start_matches("//")).await?)
        } else {
            Backend::Postgres(postgres::Postgres::connect(url).await?)
        };
        Ok(Self { backend })
    }

    /// For a node whose errands are done by its driver: all that is asked of it is unavailable.
    pub const fn absent() -> Self {
        Self { backend: Backend::Absent }
    }

    /// Opens what is there and changes nothing; none when there are no tables yet. For a look, not for service.
    pub async fn open(url: &str) -> Result<Option<Self>, StoreError> {
        let backend = match url.strip_prefix("sqlite:") {
            Some(path) => {
                let opened = sqlite::Sqlite::open(path.trim_start_matches("//")).await?;
                let Some(opened) = opened else { return Ok(None) };
                Backend::Sqlite(opened)
            }
            None => Backend::Postgres(postgres::Postgres::open(url).await?),
        };
        let store = Self { backend };
        Ok(store.schema().await?.is_some().then_some(store))
    }

    /// Version of the schema; none when there are no tables yet.
    pub async fn schema(&self) -> Result<Option<i64>, StoreError> {
        ask!(self, DEADLINE, schema())
    }

    /// This release can run on the schema that is there.
    pub async fn is_known(&self) -> Result<bool, StoreError> {
        let needs = self.setting("schema_needs").await?;
        Ok(migrations::check(self.schema().await?, needs, &migrations::sqlite()).is_ok())
    }

    /// The version of the schema that this release makes, in either back end.
    pub fn known_schema() -> i64 {
        migrations::known(&migrations::sqlite())
    }

    /// The file of an embedded store: one process only may have it.
    pub fn is_embedded(&self) -> bool {
        matches!(self.backend, Backend::Sqlite(_))
    }

    /// Counts the servers that took our writes one after the other, a restarted one anew: each may lack what the one
    /// before it took last, and is to be told.
    pub fn server_number(&self) -> u64 {
        match &self.backend {
            Backend::Postgres(store) => store.server_number(),
            Backend::Sqlite(_) | Backend::Absent => 1,
        }
    }

    /// Another server: what it says of owners may be old until they have written their calls to it.
    async fn check_settled(&self) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Postgres(store) if store.is_new(SETTLED_AFTER).await? => {
                let why = "another database server: owners write their calls to it first";
                Err(StoreError::Unavailable(why.to_owned()))
            }
            Backend::Postgres(_) | Backend::Sqlite(_) | Backend::Absent => Ok(()),
        }
    }

    /// One commit of calls with their CDRs, and of bindings. A row that the database refuses does not fail its
    /// neighbours. Outcomes in the order of `batch.calls`.
    pub async fn commit(&self, batch: &Batch) -> Result<Vec<CallOutcome>, StoreError> {
        let Some(part) = Part::of(batch) else { return Ok(Vec::new()) };
        ask!(self, COMMIT_DEADLINE, commit_session, commit(part))
    }

    /// A call that is stored and not ended.
    pub async fn call(&self, id: CallId) -> Result<Option<StoredCall>, StoreError> {
        ask!(self, DEADLINE, call(id))
    }

    /// Live calls of an owner (restart, takeover), at most `limit`.
    pub async fn calls_of(
        &self,
        owner: Incarnation,
        limit: u32,
    ) -> Result<Vec<StoredCall>, StoreError> {
        ask!(self, DEADLINE, calls_of(owner, limit))
    }

    /// Owners of live calls.
    pub async fn owners(&self) -> Result<Vec<Incarnation>, StoreError> {
        ask!(self, DEADLINE, owners())
    }

    /// Takes live calls of a dead owner over, at most `limit`. What another claims meanwhile is left to it, and what an
    /// earlier claimer did not live to save to `claim_suspect`. Of an owner of whose death nothing is known but its
    /// silence, when its row said `seen_at`: unless it has renewed its lease since.
    pub async fn claim(
        &self,
        from: Incarnation,
        to: Incarnation,
        limit: u32,
        seen_at: Option<Timestamp>,
    ) -> Result<Vec<ClaimedCall>, StoreError> {
        self.check_settled().await?;
        ask!(self, COMMIT_DEADLINE, claim(from, to, seen_at, limit, false))
    }

    /// The same for one call that an earlier claimer did not live to save.
    pub async fn claim_suspect(
        &self,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Result<Option<ClaimedCall>, StoreError> {
        self.check_settled().await?;
        Ok(ask!(self, COMMIT_DEADLINE, claim(from, to, seen_at, 1, true))?.pop())
    }

    /// The same for one call that has a message waiting.
    pub async fn claim_call(
        &self,
        id: CallId,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Result<Option<ClaimedCall>, StoreError> {
        self.check_settled().await?;
        // Given up earlier than the server does, it could come true with nobody to carry the call on.
        ask!(self, COMMIT_DEADLINE, claim_call(id, from, to, seen_at))
    }

    /// Owner of a live call.
    pub async fn owner(&self, id: CallId) -> Result<Option<Incarnation>, StoreError> {
        ask!(self, DEADLINE, owner(id))
    }

    /// It was a call and is over; known for `TOMBSTONE_LIFE`.
    pub async fn has_ended(&self, id: CallId) -> Result<bool, StoreError> {
        ask!(self, DEADLINE, has_ended(id))
    }

    /// A node's lease, by the store's clock.
    pub async fn renew(&self, node: Incarnation) -> Result<(), StoreError> {
        ask!(self, DEADLINE, renew(node))
    }

    /// Ids of an owner's live calls.
    pub async fn owned(&self, owner: Incarnation) -> Result<Vec<CallId>, StoreError> {
        ask!(self, DEADLINE, owned(owner))
    }

    /// The live call that an INVITE with this key made.
    pub async fn call_of_key(&self, key: &[u8; 16]) -> Result<Option<CallId>, StoreError> {
        ask!(self, DEADLINE, call_of_key(key))
    }

    /// The clock by which leases are judged.
    pub async fn clock(&self) -> Result<Timestamp, StoreError> {
        ask!(self, DEADLINE, clock())
    }

    /// Sweeps tombstones older than `TOMBSTONE_LIFE`; how many went.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let before = now - TOMBSTONE_LIFE;
        let mut gone = 0;
        loop {
            // A statement without a bound would outlast its deadline when there is much to do, and then for ever.
            let swept = ask!(self, DEADLINE, sweep(before, SWEEP_CHUNK))?;
            gone += swept;
            if swept < u64::from(SWEEP_CHUNK) {
                break;
            }
        }
        for (aged, life, rows) in AGED {
            while ask!(self, DEADLINE, sweep_aged(aged, now - life, rows, SWEEP_CHUNK))?
                >= u64::from(SWEEP_CHUNK)
            {}
        }
        ask!(self, DEADLINE, sweep_audit(now - AUDIT_LIFE, SWEEP_CHUNK))?;
        Ok(gone)
    }

    /// Every user. Not of one moment: a change during the load is in the feed from before it.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let mut users: Vec<User> = Vec::new();
        loop {
            let after = users.last().map_or("", |user| user.extension.as_str());
            let page = self.users_after(after, PAGE).await?;
            let is_last = page.len() < PAGE;
            users.extend(page);
            if is_last {
                return Ok(users);
            }
        }
    }

    /// Every binding not expired.
    pub async fn bindings(&self, now: Timestamp) -> Result<Vec<Binding>, StoreError> {
        let (mut live, mut after) = (Vec::new(), String::new());
        loop {
            let page = ask!(self, DEADLINE, bindings_after(&after, PAGE))?;
            let is_last = page.len() < PAGE;
            for (extension, document) in page {
                let bindings = rows::bindings(&document)?.into_iter();
                live.extend(bindings.filter(|binding| binding.expires_at > now));
                after = extension;
            }
            if is_last {
                return Ok(live);
            }
        }
    }

    /// Bindings of one user.
    pub async fn bindings_of(&self, extension: &str) -> Result<Vec<Binding>, StoreError> {
        if !is_storable(extension) {
            return Ok(Vec::new());
        }
        ask!(self, DEADLINE, bindings_of(extension))
    }

    /// CDRs by sequence.
    pub async fn cdrs(&self, query: &CdrQuery) -> Result<Vec<Cdr>, StoreError> {
        let documents = self.cdr_documents(query).await?.into_iter();
        documents.map(|(sequence, document)| rows::cdr(sequence, &document)).collect()
    }

    /// The same as they are stored, with their sequences: for who reads a part of each.
    pub async fn cdr_documents(&self, query: &CdrQuery) -> Result<Vec<(i64, String)>, StoreError> {
        let words = [&query.extension, &query.disposition, &query.id];
        if words.into_iter().flatten().any(|word| !is_storable(word)) {
            return Ok(Vec::new());
        }
        ask!(self, DEADLINE, cdrs(query))
    }

    /// Puts CDRs of another store in, behind all that are there; how many were new.
    pub async fn import_cdrs(&self, cdrs: &[Cdr]) -> Result<u64, StoreError> {
        let mut new = 0;
        for chunk in cdrs.chunks(IMPORT_CHUNK) {
            new += ask!(self, COMMIT_DEADLINE, import_cdrs(chunk))?;
        }
        Ok(new)
    }

    /// Changes since `position`, and the new position. Never loses a late commit.
    pub async fn changes(&self, position: i64) -> Result<(Vec<Change>, i64), StoreError> {
        ask!(self, DEADLINE, changes(position))
    }

    /// Position of the feed now (taken before a full load).
    pub async fn change_position(&self) -> Result<i64, StoreError> {
        ask!(self, DEADLINE, change_position())
    }

    /// Writes this node's row.
    pub async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        ask!(self, DEADLINE, write_node(row))
    }

    /// Every node's row.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        ask!(self, DEADLINE, nodes())
    }

    /// A small setting kept for the cluster (digest realm of the stored hashes …).
    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        ask!(self, DEADLINE, setting(name))
    }

    /// Sets it when it is not there; what is there afterwards.
    pub async fn setting_or_insert(&self, name: &str, value: &str) -> Result<String, StoreError> {
        ask!(self, DEADLINE, setting_or_insert(name, value))
    }

    /// Reachable and writable.
    pub async fn ping(&self) -> Result<(), StoreError> {
        ask!(self, DEADLINE, ping())
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // Boxed: a driver's future is tens of kilobytes, which whoever passes it on would copy.
    tokio::time::timeout(deadline, Box::pin(work)).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("no answer within {} s", deadline.as_secs())))
    })
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let why = error.to_string();
        if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
            Self::Corrupt(why)
        } else {
            Self::Unavailable(why)
        }
    }
}
