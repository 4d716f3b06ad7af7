//! The directory's sources: everything at start, then the change feed, and single users on a miss (design §4).
//!
//! Invariants: no call waits for a read unless the directory does not know whom it calls, or the caller's credentials;
//! that is asked once. What the worker itself registered is never replaced by what the store said later.

use super::errand::Errand;
use super::wakeup::{Found, Wakeup};
use super::worker::Worker;
use crate::directory::{Binding, User};
use crate::event::{Event, Registration};
use crate::ids::{CallId, ConnectionId, NodeName};
use crate::net::clock;
use crate::sip::Uri;
use crate::store::{Change, Store, StoreError};
use core::time::Duration;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};

/// How often the change feed is read, and a failed read repeated.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two readings that were asked for.
const PAUSE: Duration = Duration::from_millis(50);

/// What the worker wants read out of turn.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// All users again.
    pub reload: Notify,
    /// What has changed until now; numbered, and answered by `Read`.
    pub questions: watch::Sender<u64>,
}

/// Loads everything, then follows the feed for as long as the worker lives.
pub(super) async fn follow(store: Store, wishes: Arc<Wishes>, wakeups: mpsc::Sender<Wakeup>) {
    let mut questions = wishes.questions.subscribe();
    let mut position = loop {
        match load(&store).await {
            Ok((users, bindings, position)) => {
                if wakeups.send(Wakeup::Loaded(users, bindings)).await.is_err() {
                    return;
                }
                break position;
            }
            Err(error) => {
                tracing::error!("users and registrations cannot be read: {error}");
                if wakeups.send(Wakeup::StoreRead(false)).await.is_err() {
                    return;
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }
    };
    let (mut was_readable, mut told) = (true, 0);
    loop {
        let is_reload = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => false,
            _ = questions.changed() => false,
            () = wishes.reload.notified() => true,
        };
        // Before the store is read: what is asked meanwhile is for the next reading.
        let question = *questions.borrow_and_update();
        let news = match is_reload {
            true => store.users().await.map(|users| Some(Wakeup::Users(users))),
            false => changes(&store, &mut position).await,
        };
        let is_readable = news.is_ok();
        let wakeup = match news {
            Ok(Some(news)) => Some(news),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!("the change feed cannot be read: {error}");
                None
            }
        };
        let turned = (is_readable != was_readable).then_some(Wakeup::StoreRead(is_readable));
        was_readable = is_readable;
        let was_asked = core::mem::replace(&mut told, question) != question;
        let answered = was_asked.then_some(Wakeup::Read(question));
        for wakeup in wakeup.into_iter().chain(turned).chain(answered) {
            if wakeups.send(wakeup).await.is_err() {
                return;
            }
        }
        if wakeups.is_closed() {
            return;
        }
        if was_asked {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn load(store: &Store) -> Result<(Vec<User>, Vec<Binding>, i64), StoreError> {
    // First the position: a change during the load is read twice rather than never.
    let position = store.change_position().await?;
    let users = store.users().await?;
    let bindings = store.bindings(clock::now()).await?;
    Ok((users, bindings, position))
}

async fn changes(store: &Store, position: &mut i64) -> Result<Option<Wakeup>, StoreError> {
    let (changes, reached) = store.changes(*position).await?;
    *position = reached;
    Ok((!changes.is_empty()).then_some(Wakeup::Changes(changes)))
}

impl Worker {
    /// The first load: the node knows its users from now on.
    pub(super) fn handle_loaded(&mut self, users: Vec<User>, bindings: Vec<Binding>) {
        self.handle_users(users);
        let mut bindings = bindings;
        bindings.sort_by(|one, other| one.extension.cmp(&other.extension));
        let count = bindings.len();
        for of_user in bindings.chunk_by(|one, other| one.extension == other.extension) {
            if let Some(first) = of_user.first() {
                let extension = first.extension.clone();
                self.learn_bindings(&extension, of_user.to_vec());
            }
        }
        self.pings.spread(self.now);
        self.loaded = true;
        self.store_readable = true;
        let users = self.directory.user_count();
        tracing::info!("{users} users and {count} registrations are known");
    }

    /// All users as the store has them.
    pub(super) fn handle_users(&mut self, users: Vec<User>) {
        let kept: std::collections::HashSet<&str> =
            users.iter().map(|user| user.extension.as_str()).collect();
        let gone: Vec<String> = self
            .directory
            .users()
            .filter(|user| !kept.contains(user.extension.as_str()))
            .map(|user| user.extension.clone())
            .collect();
        for extension in gone {
            self.remove_user(&extension);
        }
        for user in users {
            self.directory.set_user(user);
        }
    }

    pub(super) fn handle_changes(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::User(user) => self.directory.set_user(*user),
                Change::UserRemoved(extension) => self.remove_user(&extension),
            }
        }
    }

    /// A user is no more; its bindings went with it in the store.
    pub(super) fn remove_user(&mut self, extension: &str) {
        let registered = !self.directory.bindings(extension).is_empty();
        self.directory.remove_user(extension);
        if registered {
            let extension = extension.to_owned();
            let change = Registration::Removed;
            self.emit(&Event::Registered { extension, contacts: 0, change });
        }
    }

    /// What the store said of one user.
    pub(super) fn learn(&mut self, extension: &str, user: Option<User>, bindings: Vec<Binding>) {
        let Some(user) = user else { return };
        self.directory.set_user(user);
        if self.directory.bindings(extension).iter().all(|binding| binding.expires_at <= self.now) {
            self.learn_bindings(extension, bindings);
        }
    }

    fn learn_bindings(&mut self, extension: &str, mut bindings: Vec<Binding>) {
        for binding in &mut bindings {
            binding.flow_lost |= self.is_lost(binding);
            self.watch_binding(binding);
        }
        self.directory.set_bindings(extension, bindings);
    }

    /// A connection that an earlier life of this node held and nobody inherited; of a node that is alone, any that it
    /// did not accept itself.
    fn is_lost(&self, binding: &Binding) -> bool {
        let own: &NodeName = &self.settings.node;
        let ours = binding.node == *own || self.store.is_embedded();
        ours && binding.flow.connection.is_some_and(|id| !self.is_held(id))
    }

    /// This process has that connection, or a peer may have it.
    pub(super) fn is_held(&self, connection: ConnectionId) -> bool {
        self.sockets.holds(connection) || self.peers.holders(connection).next().is_some()
    }

    /// Connections of nodes that are no more are gone with them, but for those that somebody inherited.
    pub(super) fn lose_connections_of_others(&mut self, alive: &HashSet<&str>) {
        let all = self.directory.all_bindings();
        let lost = all.filter_map(|binding| {
            let connection = binding.flow.connection?;
            let is_lost = !alive.contains(&*binding.node.0) && !self.is_held(connection);
            (is_lost && !binding.flow_lost).then_some(connection)
        });
        let lost: HashSet<ConnectionId> = lost.collect();
        if lost.is_empty() {
            return;
        }
        for binding in self.directory.all_bindings_mut() {
            binding.flow_lost |= binding.flow.connection.is_some_and(|id| lost.contains(&id));
        }
    }

    /// Asks the store for a user that the directory does not know, or whose phones it does not know.
    pub(super) fn look_up(&mut self, call: CallId, number: u32, uri: Uri, extension: String) {
        let wanted = extension.clone();
        if !self.errands.run(Errand::LookUp { call, number, uri: uri.clone(), extension }) {
            self.emit(&Event::Shed { what: "look-up of a user" });
            let result = Err(StoreError::Unavailable("too many look-ups".to_owned()));
            self.found.push(Found { call, number, uri, extension: wanted, result });
        }
    }
}
