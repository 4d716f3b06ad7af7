//! What several tests of this folder begin with.

use super::Config;
use super::errand::{Errand, Errands};
use super::journal::Keeping;
use super::sockets::Sockets;
use super::worker::{Doors, Worker};
use crate::call::Save;
use crate::control::Frame;
use crate::control::hello::{Hello, Role};
use crate::ids::{CallId, ClusterKey, Epoch, Incarnation, NodeName, Rev};
use crate::net::control_link::Secrets;
use crate::sip::address::Advertise;
use crate::store::{ClaimedCall, Store};
use crate::time::Timestamp;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A live call's row without a record.
pub(super) fn save(call: u128, rev: u64) -> Save {
    Save {
        id: CallId(call),
        key: [0; 16],
        owner: Incarnation(1),
        epoch: Epoch(1),
        rev: Rev(rev),
        ended: false,
        record: Vec::new(),
        cdr: None,
        told: Vec::new(),
    }
}

/// A worker without sockets and tasks, at the address that phones of `answered` know.
pub(super) fn worker() -> Worker {
    let config = Config {
        node: NodeName("n-1".into()),
        incarnation: Incarnation(5),
        mode: "signaling",
        key: ClusterKey::new(b"bench"),
        secrets: Secrets(Arc::new([])),
        sip_bind: Vec::new(),
        advertise: Advertise::default(),
        realm: "test".to_owned(),
        product: "Holdfast".to_owned(),
        ring_timeout: Duration::from_secs(30),
        rtp_timeout: Duration::from_secs(60),
        registration_max: Duration::from_secs(300),
        max_contacts: 10,
        emergency_numbers: Vec::new(),
        control_bind: SocketAddr::from(([127, 0, 0, 1], 7070)),
        drain_timeout: Duration::from_secs(3_600),
        lease: Duration::from_secs(3),
        journals: None,
        siblings: None,
        reanchor_window: 512,
        capture: None,
        hep: None,
    };
    let mut sockets = Sockets::driven();
    sockets.driver().local = vec![SocketAddr::from(([10, 0, 0, 1], 5060))];
    let doors = Doors {
        sockets,
        control: config.control_bind,
        keeping: Keeping::driven(),
        errands: Errands::Kept(Vec::new()),
        store: Store::absent(),
        background: Handle::current(),
        events: Arc::new(|_| {}),
    };
    let now = Timestamp::from_millis(1_700_000_000_000);
    Worker::with_doors(config, doors, |_| CallId(1), now)
}

/// A call that two phones talk in, as a dead node left it.
pub(super) fn answered() -> ClaimedCall {
    claimed(include_bytes!("../../tests/vectors/records/1-answered"))
}

/// One that rings at one phone, whose 183 the caller hears.
pub(super) fn ringing() -> ClaimedCall {
    claimed(include_bytes!("../../tests/vectors/records/1-early"))
}

fn claimed(record: &[u8]) -> ClaimedCall {
    let record = record.to_vec();
    let (id, key, epoch, rev) = (CallId(7), [7; 16], Epoch(2), Rev(9));
    ClaimedCall { id, key, epoch, rev, record, claims: 1 }
}

/// Another node with a link to the worker: what it is told.
pub(super) fn peer(worker: &mut Worker) -> mpsc::Receiver<Frame> {
    let (sender, told) = mpsc::channel(16);
    let hello = Hello {
        version: crate::control::VERSION,
        name: NodeName("n-2".into()),
        incarnation: Incarnation(6),
        role: Role::Signaling,
        control: Vec::new(),
    };
    worker.peer_up(1, hello, sender, Arc::default());
    told
}

/// What the worker wants done since the last time.
pub(super) fn errands(worker: &mut Worker) -> Vec<Errand> {
    match &mut worker.errands {
        Errands::Kept(kept) => core::mem::take(kept),
        Errands::Tasks(_) => Vec::new(),
    }
}
