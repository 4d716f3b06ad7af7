//! The world of the cluster: signaling and media nodes, phones, one store, links and a network, in one thread and by
//! one seed. The nodes are the product's own workers; everything around them is here.

use super::air::Ear;
use super::digits::Digits;
use super::errands::Suspect;
use super::faults::{Mood, Theme};
pub use super::happening::Happening;
use super::hosts::Break;
use super::link::{Link, Place};
use super::losses::Replica;
use super::media::{MediaNode, Ports};
use super::node::Node;
use super::sabotage::Sabotage;
use super::streams::Stream;
use crate::count::Count;
use crate::phone::Phone;
use crate::random::Random;
use crate::scheduled::Scheduled;
use crate::store_model::StoreModel;
use bytes::Bytes;
use core::net::SocketAddr;
use holdfast::control::Frame;
use holdfast::directory::{Binding, User};
use holdfast::event::Event;
use holdfast::ids::{CallId, ConnectionId, Flow, Incarnation, Rev, Transport};
use holdfast::net::udp::Datagram;
use holdfast::signaling::driven::Incoming;
use holdfast::views::EndCause;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use tokio::runtime::Handle;

pub const NODES: usize = 3;
/// Two on each of two hosts.
pub const MEDIAS: usize = 4;
pub const HOSTS: usize = 2;
pub const START: u64 = 1_700_000_000_000_000;
pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;
pub const fn host_of(media: usize) -> usize {
    media * HOSTS / MEDIAS
}

/// Between two starts of processes.
const LIFE: u64 = 1_000_000;

/// Far more than a seed needs: a timer that never clears is found.
const MOST_STEPS: u64 = 400_000;

/// How unkind the network and the store always are, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
    pub slow_store: u64,
    /// The answer of a write is lost.
    pub doubt: u64,
    /// A message takes up to so long, in microseconds.
    pub spread: u64,
    /// Only processes die or leave: phones wait for nothing longer than two seconds.
    pub is_mild: bool,
}

#[derive(Debug)]
pub struct Media {
    pub node: MediaNode,
    pub is_up: bool,
    pub is_frozen: bool,
    pub life: u64,
    /// Frames that wait for it to go on.
    pub backlog: Vec<(u64, Frame)>,
    /// It leaves: until when at most, and when it starts again.
    pub leaves: Option<(u64, u64)>,
    /// After so many sessions its hand-over breaks off.
    pub breaks: Option<(u32, Break)>,
}

impl Media {
    fn new(number: usize) -> Self {
        Self {
            node: MediaNode::new(number),
            is_up: true,
            is_frozen: false,
            life: 1 + number as u64,
            backlog: Vec::new(),
            leaves: None,
            breaks: None,
        }
    }
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub phones: Vec<Phone>,
    pub by_address: HashMap<SocketAddr, usize>,
    /// When a phone last sent or heard something.
    pub touched: Vec<u64>,
    pub nodes: Vec<Node>,
    pub medias: Vec<Media>,
    /// Ports of each host.
    pub hosts: Vec<Ports>,
    /// Hosts of media nodes that nobody reaches.
    pub lost_hosts: BTreeSet<usize>,
    /// Links on which nothing moves until then.
    pub stalls: BTreeMap<(Place, Place), u64>,
    pub theme: Theme,
    /// What lines of phones hear.
    pub ears: BTreeMap<(usize, usize), Ear>,
    pub digits: Digits,
    pub calls_by_tag: HashMap<String, u128>,
    /// Connections of phones.
    pub streams: BTreeMap<ConnectionId, Stream>,
    pub stream_count: u64,
    pub links: BTreeMap<u64, Link>,
    pub link_count: u64,
    pub cuts: BTreeSet<(Place, Place)>,
    pub store: StoreModel,
    pub mood: Mood,
    /// Counts the servers that were the store; the last one is new to its owners until then.
    pub server: u64,
    pub settled_at: u64,
    /// Calls that a node gave up: until when the process that was told may claim them.
    pub given: BTreeMap<(u64, Incarnation), u64>,
    /// What a replica has.
    pub replica: Option<Replica>,
    /// A call that kills who carries it on, and a node of the release before.
    pub poison: Option<CallId>,
    /// Who it killed.
    pub killed: u32,
    pub older: Option<usize>,
    pub suspects: Vec<Suspect>,
    /// Calls of nodes that were asked nothing just before a replica stopped.
    pub rested: Vec<Option<Vec<(CallId, Rev)>>>,
    /// The store's clock less ours, in microseconds.
    pub store_ahead: u64,
    pub lives: u64,
    pub users: Vec<User>,
    pub bindings: Vec<Binding>,
    pub weather: Weather,
    pub sabotage: Option<Sabotage>,
    pub background: Handle,
    pub complaints: Vec<String>,
    pub trace: Vec<String>,
    pub is_traced: bool,
    pub count: Count,
    pub branches: HashSet<String>,
    /// Of each dialog the last number that the switch used, and for a BYE.
    pub sequences: HashMap<String, (u32, bool)>,
    pub next_audit: u64,
    pub last_fault: u64,
    /// When a fault came or ended last.
    pub hurt_at: u64,
    /// A node died while the store took no writes.
    pub died_in_outage: bool,
    /// When nodes died.
    pub deaths: Vec<u64>,
    /// Two nodes could not speak with each other.
    pub peers_were_cut: bool,
    /// The last node died, or none that was long enough there was left.
    pub bereft_at: u64,
    /// All calls have begun: when they are over, all is.
    pub is_ending: bool,
    queue: BinaryHeap<Scheduled<Happening>>,
    order: u64,
    /// Messages between phones and nodes under way.
    pub in_flight: u64,
}

thread_local! {
    /// What nodes told since the last look: (node, event).
    static EVENTS: RefCell<Vec<(usize, Event)>> = const { RefCell::new(Vec::new()) };
    static CALLS: RefCell<u128> = const { RefCell::new(0) };
}

pub fn tell_event(node: usize, event: &Event) {
    EVENTS.with(|events| events.borrow_mut().push((node, event.clone())));
}

/// In the turn that it just had.
pub fn has_adopted(node: usize, call: CallId) -> bool {
    let is_it = |(at, event): &(usize, Event)| {
        *at == node && matches!(event, Event::CallAdopted { call: adopted, .. } if *adopted == call)
    };
    EVENTS.with(|events| events.borrow().iter().any(is_it))
}

pub fn draw_call_id(_now: holdfast::time::Timestamp) -> CallId {
    CALLS.with(|calls| {
        *calls.borrow_mut() += 1;
        CallId(*calls.borrow())
    })
}

impl World {
    pub fn new(
        seed: u64,
        theme: Theme,
        weather: Weather,
        sabotage: Option<Sabotage>,
        background: Handle,
    ) -> Self {
        CALLS.with(|calls| *calls.borrow_mut() = 0);
        EVENTS.with(|events| events.borrow_mut().clear());
        let mut world = Self {
            now: START,
            random: Random::new(seed ^ 0x00c1_0573),
            phones: Vec::new(),
            by_address: HashMap::new(),
            touched: Vec::new(),
            nodes: (0..NODES).map(Node::new).collect(),
            medias: (0..MEDIAS).map(Media::new).collect(),
            hosts: vec![Ports::new(); HOSTS],
            lost_hosts: BTreeSet::new(),
            stalls: BTreeMap::new(),
            theme,
            ears: BTreeMap::new(),
            digits: Digits::default(),
            calls_by_tag: HashMap::new(),
            streams: BTreeMap::new(),
            stream_count: 0,
            links: BTreeMap::new(),
            link_count: 0,
            cuts: BTreeSet::new(),
            store: StoreModel::default(),
            mood: Mood::Well,
            server: 1,
            settled_at: START,
            given: BTreeMap::new(),
            replica: None,
            poison: None,
            killed: 0,
            older: None,
            suspects: Vec::new(),
            rested: Vec::new(),
            store_ahead: 0,
            lives: 0,
            users: Vec::new(),
            bindings: Vec::new(),
            weather,
            sabotage,
            background,
            complaints: Vec::new(),
            trace: Vec::new(),
            is_traced: false,
            count: Count::default(),
            branches: HashSet::new(),
            sequences: HashMap::new(),
            next_audit: START,
            last_fault: START,
            hurt_at: START,
            died_in_outage: false,
            deaths: Vec::new(),
            peers_were_cut: false,
            bereft_at: 0,
            is_ending: false,
            queue: BinaryHeap::new(),
            order: 0,
            in_flight: 0,
        };
        world.store_ahead = 7_200 * S + world.random.between(0, 20 * S);
        world.break_rules();
        world.schedule(0, Happening::Tick);
        world
    }

    /// A start of a process. Like those of the product, which are times, they are far apart: between two of them are the
    /// names of all connections that the first one accepts.
    pub fn next_life(&mut self) -> u64 {
        self.lives += LIFE;
        self.lives
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.is_traced {
            let at = (self.now - START) as f64 / 1e6;
            self.trace.push(format!("{at:10.4} {}", what()));
        }
    }

    pub fn complain(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("BROKEN: {what}"));
        self.complaints.push(what);
    }

    pub fn schedule(&mut self, after: u64, what: Happening) {
        let is_message = matches!(
            what,
            Happening::ToSwitch { .. }
                | Happening::ToPhone { .. }
                | Happening::StreamToSwitch { .. }
                | Happening::StreamToPhone { .. }
        );
        self.in_flight += u64::from(is_message);
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + after, order: self.order, what });
    }

    pub fn add_phone(&mut self, phone: Phone) {
        let address: SocketAddr = phone.address.parse().expect("an address");
        self.by_address.insert(address, self.phones.len());
        self.phones.push(phone);
        self.touched.push(self.now);
    }

    /// Through the network: lost, doubled, late, overtaken.
    pub fn carry(&mut self, make: impl Fn() -> Happening) {
        if self.random.chance(self.weather.loss) {
            self.count.add("network: lost");
            return self.note(|| "   (lost)".into());
        }
        let doubled = self.random.chance(self.weather.duplication);
        if doubled {
            self.count.add("network: doubled");
        }
        for _ in 0..if doubled { 2 } else { 1 } {
            let slow = self.random.chance(50);
            let most = if slow { self.weather.spread } else { 20 * MS };
            let delay = self.random.between(200, most.max(400));
            self.schedule(delay, make());
        }
    }

    /// Runs for so many simulated seconds, or until all is over.
    pub fn run(&mut self, seconds: u64) {
        self.run_until(self.now + seconds * S);
    }

    fn run_until(&mut self, end: u64) {
        let mut steps = 0;
        while self.now < end && self.complaints.is_empty() {
            steps += 1;
            if steps > MOST_STEPS {
                return self.complain(format!("time stands still at {}", self.now - START));
            }
            let queued = self.queue.peek().map(|scheduled| scheduled.at);
            let phones = self.phones.iter().filter_map(Phone::next_due).min();
            let nodes = self.nodes.iter().filter_map(Node::wakes_at).min();
            let Some(next) = [queued, phones, nodes].into_iter().flatten().min() else { return };
            if next > end {
                return;
            }
            self.now = self.now.max(next);
            if self.now >= self.next_audit {
                self.next_audit = self.now + S;
                self.audit();
                if self.is_over() {
                    return;
                }
            }
            if queued == Some(next) {
                if let Some(scheduled) = self.queue.pop() {
                    self.happen(scheduled.what);
                }
            } else if phones == Some(next) {
                self.time_phones();
            } else {
                self.time_nodes();
            }
            self.take_events();
        }
    }

    pub fn phone_hears(&mut self, at: usize, bytes: &Bytes) {
        let now = self.now;
        self.touched[at] = now;
        let address = self.phones[at].address.clone();
        self.note(|| format!("   {address} hears {}", first_line(bytes)));
        self.phones[at].handle_bytes(bytes, now);
        self.drain_phone(at);
    }

    fn time_phones(&mut self) {
        let now = self.now;
        for at in 0..self.phones.len() {
            if self.phones[at].next_due().is_some_and(|due| due <= now) {
                self.phones[at].handle_time(now);
                self.drain_phone(at);
            }
        }
    }

    pub fn drain_phone(&mut self, at: usize) {
        let from: SocketAddr = self.phones[at].address.parse().expect("an address");
        for bytes in core::mem::take(&mut self.phones[at].outbox) {
            self.touched[at] = self.now;
            self.note(|| format!("{from} -> switch  {}", first_line(&bytes)));
            match self.phones[at].by_connection {
                true => self.say_by_stream(at, bytes),
                false => self.carry(|| Happening::ToSwitch { from, bytes: bytes.clone() }),
            }
        }
        self.count.merge(&mut self.phones[at].count);
        for complaint in core::mem::take(&mut self.phones[at].complaints) {
            if !self.is_known(&complaint) {
                self.complain(complaint);
            }
        }
        self.judge_answers(at);
        self.judge_acknowledgements(at);
    }

    /// What phones find wrong after two faults at once, and what is known of it.
    fn is_known(&self, complaint: &str) -> bool {
        // A call that only a dead node's journal holds is begun again by the caller's next repeat.
        let is_doubled = self.died_in_outage && complaint.contains("a second To tag");
        // A branch that answers after it lost, with an offer, and after a takeover: its ACK, and BYE with it.
        let is_lost = !self.deaths.is_empty() && complaint.contains("ACK of a late offer");
        is_doubled || is_lost
    }

    /// The kernel chooses among the processes that have the port; one that stands still keeps its share.
    pub fn reach_switch(&mut self, from: SocketAddr, bytes: Bytes) {
        let members: Vec<usize> =
            (0..NODES).filter(|node| self.nodes[*node].process.is_some()).collect();
        if members.is_empty() {
            return self.note(|| "   (nobody has the port)".into());
        }
        let hash = from.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let node = members[(hash >> 7) as usize % members.len()];
        self.note(|| format!("   -> node {node}"));
        let flow = Flow {
            transport: Transport::Udp,
            local: crate::world::SERVER.parse().expect("address"),
            remote: from,
            connection: None,
        };
        let life = self.nodes[node].life();
        let incoming = Incoming::Datagram(Datagram { bytes, flow });
        self.turn(node, life, Some(incoming));
    }

    /// A message of a node leaves.
    pub fn transmit(&mut self, node: usize, life: u64, flow: &Flow, bytes: &Bytes) {
        let address = flow.remote;
        if let Ok(message) = holdfast::sip::Message::parse(bytes) {
            self.judge_sequence(node, &message);
        }
        if self.transmit_by_stream(node, life, flow, bytes) {
            return;
        }
        self.note(|| format!("node {node} -> {address}  {}", first_line(bytes)));
        self.carry(|| Happening::ToPhone { address, bytes: bytes.clone() });
    }

    fn take_events(&mut self) {
        let events = EVENTS.with(|events| core::mem::take(&mut *events.borrow_mut()));
        for (node, event) in events {
            self.note(|| format!("   node {node}: {event:?}"));
            match event {
                Event::CallEnded { call, end_cause, .. } => {
                    self.count.add(format!("calls: ended by {end_cause:?}"));
                    if end_cause == EndCause::Quarantined && self.poison != Some(call) {
                        self.complain(format!("call {call} is only ended, by node {node}"));
                    }
                }
                Event::CallAdopted { state, .. } => {
                    self.count.add(format!("calls: adopted {state:?}"));
                }
                Event::CallAnswered { .. } => self.count.add("calls: answered"),
                Event::DigitDialled { call, digit, .. } => self.digits.tell(call, digit),
                Event::CallLeft { .. } => self.count.add("calls: left"),
                Event::CallReanchored { .. } => self.count.add("calls: re-anchored"),
                Event::Bug { call, what } => {
                    self.complain(format!("node {node} panicked over call {call:?}: {what}"));
                }
                _ => {}
            }
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, micros: u64) {
        let end = self.now + micros;
        self.run_until(end);
        if self.complaints.is_empty() {
            self.now = self.now.max(end);
        }
    }

    /// Nothing can come any more that anybody waits for.
    fn is_over(&self) -> bool {
        self.is_ending
            && self.in_flight == 0
            && self.now > self.last_fault + 40 * S
            && self.phones.iter().all(Phone::is_done)
            && self.store.calls.values().all(|row| row.ended_at.is_some())
            && self.nodes.iter().all(Node::is_idle)
            && (self.medias.iter().all(|media| media.node.sessions().next().is_none())
                || self.now > self.last_fault + 150 * S)
    }
}

pub fn first_line(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    let find = |name: &str| {
        text.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap_or_default()
    };
    let direction = text.lines().rfind(|line| {
        ["a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"].contains(&line.trim_end())
    });
    format!(
        "{} [{}] {} {} {}",
        text.lines().next().unwrap_or_default(),
        find("cseq"),
        find("call-id"),
        find("o="),
        direction.unwrap_or_default()
    )
}
