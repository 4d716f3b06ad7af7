//! Real workers and real sockets; an heir that does at each step what a dying process might.

use super::*;
use crate::control::{
    Apply, Carried, Codec, Frame, Hears, LegSpec, Refusal, Release, RemoteStream, Reply, Request,
    Resume, SessionSpec, StreamSpec, StreamStatistics,
};
use crate::event::Event;
use crate::ids::{Epoch, LegId, Rev};
use crate::media::ports::Ports;
use crate::media::worker::{self, Asked, Command, Handle};
use crate::media::{Addresses, PortRange, Shared};
use crate::net::clock;
use crate::net::descriptor_link::DescriptorLink;
use crate::relay::SNAPSHOT_VERSION;
use crate::rtp::Header;
use core::net::{IpAddr, Ipv4Addr};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

const ID: SessionId = SessionId(7);
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A folder for sockets, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension("sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A media process without its control links.
struct Node {
    shared: Arc<Shared>,
    worker: Handle,
}

impl Node {
    fn new(ports: PortRange) -> Self {
        Self::telling(ports, |_| {})
    }

    fn telling(ports: PortRange, events: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared::new((100, 1), ports, LOCAL, None, Arc::new(events)));
        let addresses = Addresses { bind: LOCAL, advertise: None, local_nets: Arc::from([]) };
        let ports = Arc::new(Mutex::new(Ports::new(LOCAL, ports)));
        let (worker, _) =
            worker::start(0, shared.clone(), ports, addresses, None, 0).expect("a thread");
        Self { shared, worker }
    }

    /// The session as wished; where its legs are to be spoken to.
    fn apply(&self, rev: u64, phones: &[UdpSocket; 2]) -> Option<[SocketAddr; 2]> {
        self.ask(rev, Request::Apply(wish(rev, phones)))
    }

    /// The same of a session that lost its process, on its ports.
    fn resume(
        &self,
        rev: u64,
        phones: &[UdpSocket; 2],
        at: [SocketAddr; 2],
    ) -> Option<[SocketAddr; 2]> {
        let mut apply = wish(rev, phones);
        for (leg, at) in apply.spec.legs.iter_mut().zip(at) {
            leg.streams[0].port = Some(at.port());
        }
        let statistics = StreamStatistics {
            latched: phones[0].local_addr().ok(),
            ..StreamStatistics::default()
        };
        let carried = Carried { leg: LegId(0), index: 0, statistics, sent: None };
        self.ask(rev, Request::Resume(Resume { apply, carried: vec![carried] }))
    }

    /// Its worker has what its thread said that it took.
    fn has_it(&self) {
        let since = clock::now();
        let is_there = || {
            let (answer, ids) = sync_channel(1);
            self.worker.deliver(Command::List(answer));
            ids.recv().is_ok_and(|ids| ids.contains(&ID))
        };
        while !is_there() {
            assert!(clock::now().saturating_since(since) < PATIENCE, "it came to no worker");
            std::thread::yield_now();
        }
    }

    fn ask(&self, rev: u64, request: Request) -> Option<[SocketAddr; 2]> {
        let (reply, mut replies) = tokio::sync::mpsc::channel(4);
        let asked = Asked { id: rev, request, reply };
        self.worker.send(Command::Request(asked));
        match replies.blocking_recv()? {
            Frame::Reply { reply: Reply::Applied(state), .. } => {
                Some([0, 1].map(|leg| state.legs[leg].streams[0].local))
            }
            // Another has it.
            Frame::Passed { .. } => None,
            other => panic!("{other:?}"),
        }
    }
}

fn wish(rev: u64, phones: &[UdpSocket; 2]) -> Apply {
    let spec = SessionSpec {
        confirmed: true,
        legs: vec![leg(0, &phones[0]), leg(1, &phones[1])],
        ..SessionSpec::default()
    };
    Apply { session: ID, epoch: Epoch(1), rev: Rev(rev), spec }
}

fn leg(number: u16, phone: &UdpSocket) -> LegSpec {
    let rtp = phone.local_addr().expect("bound");
    let codec = Codec {
        encoding: "PCMU".into(),
        clock_rate_hz: 8_000,
        channels: 1,
        fmtp: None,
        payload_type_sent: 0,
        payload_type_received: 0,
        ptime_ms: 20,
    };
    let stream = StreamSpec {
        index: 0,
        port: None,
        peer: Some(LOCAL),
        remote: Some(RemoteStream { rtp, rtcp: rtp, generation: 1 }),
        telephone_event: None,
        codec: Some(codec),
        comfort_noise: false,
        passed: vec![],
        to_phone: true,
        from_phone: true,
        hears: Hears::Leg(LegId(1 - number)),
        rtp_timeout_ms: 0,
        srtp: None,
    };
    LegSpec { leg: LegId(number), streams: vec![stream] }
}

fn phones() -> [UdpSocket; 2] {
    [0, 1].map(|_| {
        let socket = UdpSocket::bind((LOCAL, 0)).expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
        socket
    })
}

fn packet(sequence: u16) -> Vec<u8> {
    let header =
        Header { sequence, timestamp: u32::from(sequence) * 160, ssrc: 9, ..Header::new(0, 160) };
    header.with_payload(&[1; 160])
}

/// What the phone hears next.
fn heard(phone: &UdpSocket) -> Option<u16> {
    let mut buffer = [0; 512];
    let length = phone.recv(&mut buffer).ok()?;
    Header::parse(&buffer[..length]).map(|header| header.sequence)
}

/// An heir that says that it has room and then does as it is told with the session. It lives until its socket is
/// dropped.
fn false_heir(
    path: &Path,
    then: impl FnOnce(&mut DescriptorLink, Vec<OwnedFd>) + Send + 'static,
) -> std::thread::JoinHandle<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("somebody leaves");
        let mut link = DescriptorLink::new(stream, Duration::from_secs(10)).expect("a link");
        let room = Room {
            name: NodeName("heir".into()),
            snapshot_version: SNAPSHOT_VERSION,
            draining: false,
            sessions: 5,
        };
        link.send(&Word::Room(room).encode(), &[]).expect("sent");
        let (body, descriptors) = link.receive().expect("a session");
        assert!(matches!(Word::decode(&body), Ok(Word::Session(parcel)) if parcel.id == ID));
        then(&mut link, descriptors);
        listener
    })
}

/// To whoever takes them: how many.
fn passed_by(node: &Node, own: &Path) -> Option<usize> {
    hand_over(own, &node.shared, core::slice::from_ref(&node.worker)).map(|(passed, _)| passed)
}

#[test]
fn a_hand_over_that_breaks_leaves_the_session_where_it_was() {
    let folder = Folder::new("broken");
    let (own, heirs) = (folder.socket("own"), folder.socket("heir"));
    let node = Node::new(PortRange { first: 41_200, last: 41_219 });
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    let mut last = None;
    let mut sequence = 0;
    let mut speak = || {
        for _ in 0..3 {
            sequence += 1;
            phones[0].send_to(&packet(sequence), legs[0]).expect("sent");
            let now = heard(&phones[1]).expect("relayed");
            assert!(last.is_none_or(|last: u16| now == last.wrapping_add(1)), "a gap");
            last = Some(now);
        }
    };
    speak();
    type Step = fn(&mut DescriptorLink, Vec<OwnedFd>);
    let steps: [Step; 4] = [
        |_, _| (),
        |link, _| link.send(&Word::Refused(ID).encode(), &[]).expect("sent"),
        |link, _| link.send(b"garbage", &[]).expect("sent"),
        |link, descriptors| {
            // Silent for too long: then its word is not taken any more.
            assert!(link.receive().is_err());
            assert!(link.send(&Word::Taken(ID).encode(), &[]).is_err());
            drop(descriptors);
        },
    ];
    for step in steps {
        let heir = false_heir(&heirs, step);
        assert_eq!(passed_by(&node, &own), Some(0));
        heir.join().expect("no panic");
        speak();
        // Signaling is answered again too.
        assert_eq!(node.apply(1, &phones), Some(legs));
    }
}

#[test]
fn once_the_heir_spoke_the_session_is_its_own() {
    let folder = Folder::new("taken");
    let (own, heirs) = (folder.socket("own"), folder.socket("heir"));
    let node = Node::new(PortRange { first: 41_240, last: 41_259 });
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    let (give, given) = std::sync::mpsc::channel();
    let heir = false_heir(&heirs, move |link, descriptors| {
        link.send(&Word::Taken(ID).encode(), &[]).expect("sent");
        give.send(descriptors).expect("the test waits");
    });
    assert_eq!(passed_by(&node, &own), Some(1));
    let _heir = heir.join().expect("no panic");
    let sockets: Vec<UdpSocket> =
        given.recv().expect("descriptors").into_iter().map(UdpSocket::from).collect();
    phones[0].send_to(&packet(1), legs[0]).expect("sent");
    let rtp = sockets.iter().find(|socket| socket.local_addr().ok() == Some(legs[0]));
    let rtp = rtp.expect("the first leg's socket");
    rtp.set_nonblocking(false).expect("blocking");
    rtp.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    assert_eq!(rtp.recv(&mut [0; 512]).expect("nobody else reads"), 172);
    // What signaling asks here is neither made anew nor refused: it is told whom to ask.
    assert_eq!(node.apply(2, &phones), None);
    assert_eq!(node.shared.sessions.load(core::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn the_heir_goes_on_where_the_other_stopped() {
    let folder = Folder::new("heir");
    let (own, heirs) = (folder.socket("own"), folder.socket("heir"));
    let leaving = Node::new(PortRange { first: 41_280, last: 41_299 });
    let heir = Node::new(PortRange { first: 41_300, last: 41_319 });
    let name = NodeName("heir".into());
    listen(&heirs, name, heir.shared.clone(), vec![heir.worker.clone()]).expect("listens");
    let phones = phones();
    let legs = leaving.apply(1, &phones).expect("applied");
    let mut last = None;
    for sequence in 0..20 {
        // Every other packet comes while nobody reads.
        let (answer, parcel) = std::sync::mpsc::sync_channel(1);
        if sequence == 10 {
            leaving.worker.send(Command::Export(ID, answer));
            assert!(parcel.recv().expect("an answer").is_some());
        }
        phones[0].send_to(&packet(sequence), legs[0]).expect("sent");
        if sequence == 10 {
            leaving.worker.send(Command::Resume(ID));
            assert_eq!(passed_by(&leaving, &own), Some(1));
        }
        let now = heard(&phones[1]).expect("relayed");
        assert!(last.is_none_or(|last: u16| now == last.wrapping_add(1)), "a gap at {sequence}");
        last = Some(now);
    }
    assert_eq!(heir.apply(2, &phones), Some(legs), "the same ports");
    // A later question is answered after what was ordered before.
    assert_eq!(leaving.apply(3, &phones), None, "it is the heir's");
    let room = |node: &Node| node.shared.sessions.load(core::sync::atomic::Ordering::Relaxed);
    assert_eq!((room(&leaving), room(&heir)), (0, 1));
}

/// One session, and not to whom has the most room.
#[test]
fn a_session_is_given_to_the_process_that_is_named() {
    let folder = Folder::new("named");
    let own = folder.socket("own");
    let node = Node::new(PortRange { first: 41_480, last: 41_499 });
    let heirs = ["one", "two"].map(|name| {
        let heir = Node::new(PortRange { first: 41_500, last: 41_519 });
        let (shared, workers) = (heir.shared.clone(), vec![heir.worker.clone()]);
        listen(&folder.socket(name), NodeName(name.into()), shared, workers).expect("listens");
        heir
    });
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    let give = |id, to: &str| {
        let workers = core::slice::from_ref(&node.worker);
        give(&own, &node.shared, workers, id, &NodeName(to.into()))
    };
    assert!(give(ID, "three").is_err(), "nobody has that name");
    assert_eq!(give(SessionId(1), "two").ok(), Some(false), "it is not here");
    assert_eq!(give(ID, "two").ok(), Some(true));
    assert_eq!(node.apply(2, &phones), None, "it is the heir's");
    heirs[1].has_it();
    assert_eq!(heirs[1].apply(2, &phones), Some(legs), "the same ports");
    phones[0].send_to(&packet(1), legs[0]).expect("sent");
    assert!(heard(&phones[1]).is_some());
    heirs[1].shared.shut_door();
    assert!(!node.shared.is_draining(), "what is new is taken here as before");
}

#[test]
fn of_those_who_leave_at_once_one_gathers_what_the_others_have() {
    let folder = Folder::new("gathers");
    let paths = [folder.socket("1"), folder.socket("2")];
    let nodes = [41_360, 41_380].map(|first| Node::new(PortRange { first, last: first + 19 }));
    for (path, node) in paths.iter().zip(&nodes) {
        let (shared, workers) = (node.shared.clone(), vec![node.worker.clone()]);
        listen(path, NodeName("heir".into()), shared, workers).expect("listens");
    }
    let give = |from: usize| passed_by(&nodes[from], &paths[from]);
    let phones = phones();
    let legs = nodes[1].apply(1, &phones).expect("applied");
    nodes.iter().for_each(|node| node.shared.set_draining(true));
    // Nobody ends while it waits for others, nor between the heir's word and its worker's.
    assert_eq!(give(1), Some(1));
    assert!(!nodes[0].shared.is_empty());
    nodes[0].has_it();
    assert_eq!(nodes[0].apply(2, &phones), Some(legs), "the same ports");
    assert!(!nodes[0].shared.is_empty());
    assert_eq!(give(0), None, "it does not go to and fro");
    assert_eq!(nodes[1].apply(3, &phones), None, "it has been forgotten there");
    assert!(nodes[1].shared.is_empty());
    // Once it ends it takes nothing in.
    nodes[1].shared.set_draining(false);
    assert_eq!(give(0), Some(0));
    assert_eq!(nodes[0].apply(4, &phones), Some(legs));
}

/// Its process may be one that ends as soon as it has no session.
#[test]
fn a_session_is_counted_by_the_heirs_word_though_its_worker_stands_still() {
    let folder = Folder::new("still");
    let (own, heirs) = (folder.socket("own"), folder.socket("heir"));
    let node = Node::new(PortRange { first: 41_440, last: 41_459 });
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    let still = Arc::new(Mutex::new(()));
    let wait = {
        let still = still.clone();
        move |_: &Event| drop(still.lock())
    };
    let heir = Node::telling(PortRange { first: 41_460, last: 41_479 }, wait);
    let standing = still.lock().expect("nobody else has it");
    // An answer that nobody takes is told of, and that waits.
    let (reply, _) = tokio::sync::mpsc::channel(1);
    let release = Release { session: SessionId(1), epoch: Epoch(1), rev: Rev(1) };
    let request = Request::Release(release);
    assert!(heir.worker.send(Command::Request(Asked { id: 1, request, reply })));
    let (shared, workers) = (heir.shared.clone(), vec![heir.worker.clone()]);
    listen(&heirs, NodeName("heir".into()), shared, workers).expect("listens");
    assert_eq!(passed_by(&node, &own), Some(1));
    assert!(!(0..3).any(|_| heir.shared.is_empty()), "it would end, and the session with it");
    drop(standing);
    phones[0].send_to(&packet(1), legs[0]).expect("sent");
    assert!(heard(&phones[1]).is_some());
}

/// It may die before it said to signaling what it took.
#[test]
fn what_the_heir_took_is_told_and_taken_back_when_it_is_asked_for_after_its_end() {
    let folder = Folder::new("dead");
    let (own, heirs) = (folder.socket("own"), folder.socket("heir"));
    let node = Node::new(PortRange { first: 41_420, last: 41_439 });
    let (link, mut told) = tokio::sync::mpsc::channel(16);
    node.shared.lock_links().push(link);
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    node.shared.set_draining(true);
    let heir = false_heir(&heirs, |link, _| {
        link.send(&Word::Taken(ID).encode(), &[]).expect("sent");
    });
    assert_eq!(passed_by(&node, &own), Some(1));
    let heir = heir.join().expect("no panic");
    let frames = core::iter::from_fn(|| told.try_recv().ok());
    let passed =
        |frame: &Frame| matches!(frame, Frame::Passed { session: ID, to, .. } if *to.0 == *"heir");
    assert_eq!(frames.filter(passed).count(), 1);
    assert_eq!(node.resume(2, &phones, legs), None, "it is the heir's");
    drop(heir);
    // On its ports, though nothing new is taken here.
    assert_eq!(node.resume(3, &phones, legs), Some(legs));
    phones[0].send_to(&packet(1), legs[0]).expect("sent");
    assert!(heard(&phones[1]).is_some());
}

#[test]
fn a_worker_answers_who_asks_whether_it_lives() {
    let node = Node::new(PortRange { first: 41_340, last: 41_359 });
    let phones = phones();
    let legs = node.apply(1, &phones).expect("applied");
    let transaction = *b"do you live?";
    phones[1].send_to(&crate::net::stun::request(transaction), legs[0]).expect("sent");
    let mut buffer = [0; 512];
    let (length, from) = phones[1].recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, legs[0]);
    assert!(crate::net::stun::is_answer_to(transaction, &buffer[..length]));
}

#[test]
fn a_wish_of_before_its_release_makes_no_session() {
    let node = Node::new(PortRange { first: 41_320, last: 41_339 });
    let phones = phones();
    node.apply(1, &phones).expect("applied");
    let told = |request: Request| {
        let (reply, mut replies) = tokio::sync::mpsc::channel(4);
        node.worker.send(Command::Request(Asked { id: 1, request, reply }));
        replies.blocking_recv().expect("an answer")
    };
    let release = Release { session: ID, epoch: Epoch(1), rev: Rev(3) };
    let released = told(Request::Release(release));
    assert!(matches!(released, Frame::Reply { reply: Reply::Released(_), .. }), "{released:?}");
    let late = told(Request::Apply(wish(2, &phones)));
    let is_stale =
        matches!(late, Frame::Reply { reply: Reply::Refused { reason: Refusal::Stale, .. }, .. });
    assert!(is_stale, "{late:?}");
    assert_eq!(node.shared.sessions.load(core::sync::atomic::Ordering::Relaxed), 0);
    // One that comes back, as a call whose move failed does, is newer. (A busy machine refuses what is no emergency.)
    let mut newer = wish(4, &phones);
    newer.spec.emergency = true;
    let applied = told(Request::Apply(newer));
    assert!(matches!(applied, Frame::Reply { reply: Reply::Applied(_), .. }), "{applied:?}");
}
