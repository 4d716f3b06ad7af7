//! What several tests of this folder begin with.

use super::Config;
use super::errand::{Errand, Errands};
use super::journal::Keeping;
use super::sockets::Sockets;
use super::worker::{Doors, Worker};
use crate::call::Save;
use crate::control::Frame;
use crate::control::hello::{Hello, Role};
use crate::directory::User;
use crate::ids::{CallId, ClusterKey, Epoch, Flow, Incarnation, NodeName, Rev, Transport};
use crate::net::control_link::Secrets;
use crate::operator::Tuning;
use crate::sip::address::Advertise;
use crate::sip::digest::Ha1;
use crate::sip::{Message, Request};
use crate::store::{ClaimedCall, NodeRow, Store};
use crate::time::Timestamp;
use crate::views::user::SrtpPolicy;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A user who may do everything.
pub(super) fn user(extension: &str) -> User {
    User {
        extension: extension.to_owned(),
        display_name: String::new(),
        enabled: true,
        ha1: Ha1::new(extension, "test", "x"),
        max_contacts: None,
        max_calls: None,
        ring_timeout_ms: None,
        codecs: Vec::new(),
        srtp: SrtpPolicy::Off,
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

/// An INVITE of user 1 for user 2, and how it came.
pub(super) fn invite() -> (Request, Flow) {
    let text = "INVITE sip:2@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKx\r\n\
                From: <sip:1@192.0.2.1>;tag=a\r\nTo: <sip:2@192.0.2.1>\r\nCall-ID: c\r\n\
                CSeq: 1 INVITE\r\nContact: <sip:1@192.0.2.2>\r\n\r\n";
    let Ok(Message::Request(request)) = Message::parse(&Bytes::from_static(text.as_bytes())) else {
        panic!("a good INVITE")
    };
    let address = |text: &str| text.parse().expect("literal");
    let (local, remote) = (address("10.0.0.1:5060"), address("192.0.2.2:5060"));
    (request, Flow { transport: Transport::Udp, local, remote, connection: None })
}

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
        tuning: Tuning {
            ring_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(60),
            registration_max: Duration::from_secs(300),
            max_contacts: 10,
            emergency_numbers: Vec::new(),
            reanchor_window: 512,
        },
        control_bind: SocketAddr::from(([127, 0, 0, 1], 7070)),
        lease: Duration::from_secs(3),
        journals: None,
        siblings: None,
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
    peer_of(worker, crate::control::VERSION)
}

/// And one more.
pub(super) fn second_peer(worker: &mut Worker) -> mpsc::Receiver<Frame> {
    link(worker, 2, crate::control::VERSION)
}

/// The same, of a release that speaks that version.
pub(super) fn peer_of(worker: &mut Worker, version: u16) -> mpsc::Receiver<Frame> {
    link(worker, 1, version)
}

fn link(worker: &mut Worker, number: u64, version: u16) -> mpsc::Receiver<Frame> {
    let (sender, told) = mpsc::channel(16);
    let hello = Hello {
        version,
        name: NodeName(format!("n-{}", number + 1).into()),
        incarnation: Incarnation(number + 5),
        role: Role::Signaling,
        control: Vec::new(),
    };
    worker.peer_up(number, hello, sender, Arc::default());
    told
}

/// What the worker wants done since the last time.
pub(super) fn errands(worker: &mut Worker) -> Vec<Errand> {
    match &mut worker.errands {
        Errands::Kept(kept) => core::mem::take(kept),
        Errands::Tasks(_) => Vec::new(),
    }
}

/// A signaling node's row.
pub(super) fn row(incarnation: Incarnation, seen_at: Timestamp) -> NodeRow {
    NodeRow {
        name: NodeName(format!("n-{incarnation:?}").into()),
        incarnation,
        mode: "signaling".to_owned(),
        control: Vec::new(),
        seen_at,
        view: String::new(),
    }
}
