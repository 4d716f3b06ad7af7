//! The signaling processes of a host stand in for each other: each holds the SIP sockets, listeners and phones'
//! connections of another, and reads on when that one dies, leaves, or is silent (design §4 "Shared port").
//!
//! `holder` gives this process's descriptors to its heir, `heir` keeps those of others. Both are tasks on the worker's
//! thread, so a process that stands still is silent.
//!
//! Invariants: a connection has one reader: its holder reads it until `READS_ON` after its last beat, an heir no sooner
//! than `TAKEN_AFTER` after it; what an heir once took stays its own. Descriptors are bounded.

mod heir;
mod holder;

use super::wakeup::Wakeup;
use crate::control::sibling::{ToHeir, VERSION};
use crate::ids::{Incarnation, NodeName};
use crate::net::sibling_link::SiblingListener;
use crate::net::tcp::Connections;
use core::net::SocketAddr;
use core::time::Duration;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A process says so often that it lives.
const BEAT: Duration = Duration::from_millis(100);
/// Silent for so long: its datagrams and its new connections are read by its heir.
const SILENT_AFTER: Duration = Duration::from_millis(400);
/// A holder reads its connections so long after its last beat.
const READS_ON: Duration = Duration::from_millis(800);
/// Silent for so long: its connections are its heir's.
const TAKEN_AFTER: Duration = Duration::from_secs(1);
/// No answer of a sibling for so long: it is no heir.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who this process is, and what it holds.
#[derive(Debug)]
pub(super) struct Estate {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub udp: Vec<(SocketAddr, OwnedFd)>,
    pub listeners: Vec<(SocketAddr, OwnedFd)>,
    pub connections: Connections,
}

impl Estate {
    fn hello(&self) -> ToHeir {
        let addresses = |all: &[(SocketAddr, OwnedFd)]| all.iter().map(|(at, _)| *at).collect();
        ToHeir::Hello {
            version: VERSION,
            node: self.node.clone(),
            incarnation: self.incarnation,
            udp: addresses(&self.udp),
            tcp: addresses(&self.listeners),
        }
    }
}

/// What both tasks share.
#[derive(Clone, Debug)]
struct Common {
    folder: PathBuf,
    estate: Arc<Estate>,
    wakeups: mpsc::Sender<Wakeup>,
    /// This process leaves its sockets to its heir.
    leaves: watch::Receiver<bool>,
}

fn socket_of(folder: &Path, incarnation: Incarnation) -> PathBuf {
    folder.join(format!("{}.sock", incarnation.0))
}

/// Starts both tasks on this thread. `leaves` tells when the sockets are left to the heir.
pub(super) fn begin(
    folder: PathBuf,
    estate: Estate,
    wakeups: mpsc::Sender<Wakeup>,
    leaves: watch::Receiver<bool>,
) {
    let own = socket_of(&folder, estate.incarnation);
    let listener = std::fs::create_dir_all(&folder).and_then(|()| SiblingListener::bind(&own));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("no sibling can stand in for this process: {}: {error}", own.display());
            return;
        }
    };
    let common = Common { folder, estate: Arc::new(estate), wakeups, leaves };
    tokio::spawn(heir::accept(listener, common.clone()));
    tokio::spawn(holder::seek_heirs(common));
}
