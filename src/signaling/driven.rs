//! A node that somebody else drives: the worker as it is, without sockets, tasks and a clock of its own.
//!
//! Whoever drives it is its network, its store, its links and its time: gives it what came and gets what it sends and
//! wants done, as values. So the same decisions run behind real doors and in a simulated cluster.

use super::Config;
use super::EventSink;
use super::errand::Errands;
use super::journal::Keeping;
use super::sockets::{Received, Sockets};
use super::worker::{Doors, Worker};
use crate::call::{Call, Settings};
use crate::directory::Binding;
use crate::ids::{CallId, ConnectionId, Flow};
use crate::net::tcp::TcpEvent;
use crate::net::udp::Datagram;
use crate::operator::Command;
use crate::store::{NodeRow, Store};
use crate::time::Timestamp;
use crate::views::NodeView;
use bytes::Bytes;
use std::sync::Arc;
use tokio::runtime::Handle;

pub use super::errand::{Claim, Errand};
pub use super::ledger::Work;
pub use super::links::PeerAddress;
pub use super::media_pool::LinkNumber;
pub use super::pass_on::{Stray, Whereabouts};
pub use super::wakeup::{Found, Judgement, Wakeup};

/// Something that comes to a node.
#[derive(Debug)]
pub enum Incoming {
    /// A datagram from a phone.
    Datagram(Datagram),
    /// Something on a phone's connection.
    Stream(TcpEvent),
    /// What came of an errand, or of a link.
    Wakeup(Wakeup),
    /// An operator's wish.
    Command(Command),
}

/// The node.
pub struct DrivenNode {
    worker: Worker,
    received: Received,
    wakeups: Vec<Wakeup>,
    commands: Vec<Command>,
}

impl core::fmt::Debug for DrivenNode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DrivenNode").field("node", &self.worker.settings.node).finish()
    }
}

impl DrivenNode {
    /// Starts it. Tasks that are not errands go to `background`, which need not run.
    pub fn new(
        config: Config,
        background: Handle,
        draw_call_id: fn(Timestamp) -> CallId,
        events: EventSink,
        now: Timestamp,
    ) -> Self {
        let mut sockets = Sockets::driven();
        sockets.driver().local.clone_from(&config.sip_bind);
        let doors = Doors {
            sockets,
            control: config.control_bind,
            keeping: Keeping::driven(),
            errands: Errands::Kept(Vec::new()),
            store: Store::absent(),
            background,
            events,
        };
        Self {
            worker: Worker::with_doors(config, doors, draw_call_id, now),
            received: Received::default(),
            wakeups: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// One turn of its loop with what came.
    pub fn turn(&mut self, incoming: Option<Incoming>, now: Timestamp) {
        match incoming {
            Some(Incoming::Datagram(datagram)) => self.received.datagrams.push(datagram),
            Some(Incoming::Stream(event)) => {
                self.note_connection(&event);
                self.received.streams.push(event);
            }
            Some(Incoming::Wakeup(wakeup)) => {
                if let Wakeup::Inherited(_, connections) = &wakeup {
                    self.worker.sockets.driver().open.extend(connections);
                }
                self.wakeups.push(wakeup);
            }
            Some(Incoming::Command(command)) => self.commands.push(command),
            None => {}
        }
        let Self { worker, received, wakeups, commands } = self;
        worker.handle_all(received, wakeups, commands, now);
    }

    fn note_connection(&mut self, event: &TcpEvent) {
        let open = &mut self.worker.sockets.driver().open;
        match event {
            TcpEvent::Connected(flow) => open.extend(flow.connection),
            TcpEvent::Closed(flow) => {
                if let Some(connection) = flow.connection {
                    open.remove(&connection);
                }
            }
            TcpEvent::Message { .. } | TcpEvent::Broken { .. } => {}
        }
    }

    /// When it wants a turn though nothing comes.
    pub fn next_timeout(&self) -> Timestamp {
        self.worker.next_timeout()
    }

    /// What it sent since the last time, in order.
    pub fn take_sent(&mut self) -> Vec<(Flow, Bytes)> {
        core::mem::take(&mut self.worker.sockets.driver().sent)
    }

    /// What it wants done since the last time, in order.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        match &mut self.worker.errands {
            Errands::Kept(kept) => core::mem::take(kept),
            Errands::Tasks(_) => Vec::new(),
        }
    }

    /// Its row for the table of nodes.
    pub fn row(&self, seen_at: Timestamp) -> NodeRow {
        NodeRow {
            name: self.worker.settings.node.clone(),
            incarnation: self.worker.settings.incarnation,
            mode: self.worker.mode.to_owned(),
            control: vec![self.worker.control],
            seen_at,
            view: String::new(),
        }
    }

    /// SIGTERM: no new calls.
    pub fn stop(&mut self) {
        self.worker.stop();
    }

    /// After `stop`: everything is saved, its process may end.
    pub fn is_safe(&self) -> bool {
        self.worker.committer.is_safe()
    }

    /// Its last words: its calls are anybody's. False: nobody is there to take them.
    pub fn leave(&mut self) -> bool {
        self.worker.give_up_calls()
    }

    /// Its calls that are not over, each as it is now.
    pub fn calls(&self) -> Vec<&Call> {
        let mut calls: Vec<&Call> = self.worker.calls.iter().map(|(_, slot)| &slot.call).collect();
        calls.sort_unstable_by_key(|call| call.id());
        calls
    }

    /// What is the same for all its calls.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.worker.settings
    }

    /// Phones of a user, as it knows them.
    pub fn bindings(&self, extension: &str) -> &[Binding] {
        self.worker.directory.bindings(extension)
    }

    /// A sibling took these connections: they are not read here any more.
    pub fn lose_connections(&mut self, connections: &[ConnectionId]) {
        let open = &mut self.worker.sockets.driver().open;
        open.retain(|id| !connections.contains(id));
    }

    /// It as operators see it.
    pub fn view(&self) -> NodeView {
        self.worker.node_view()
    }
}
