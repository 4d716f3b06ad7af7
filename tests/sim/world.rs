//! The world of the simulator: one signaling node's outputs interpreted over a network, a store and a media node that
//! are late, lossy and out of order, in one thread and by one seed.

mod judge;
mod sabotage;

pub use sabotage::Sabotage;

use crate::count::Count;
use crate::media::Media;
use crate::phone::Phone;
use crate::random::Random;
use crate::scheduled::Scheduled;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use holdfast::call::{Answer, Call, Input, Invitation, Output, Query, Save, Settings, Transmit};
use holdfast::control::{Report, ReportKind};
use holdfast::directory::Directory;
use holdfast::event::Event;
use holdfast::ids::{
    CallId, ClusterKey, Epoch, Flow, Incarnation, LegId, NodeName, Rev, SessionId, Transport,
};
use holdfast::routing;
use holdfast::sip::address::{Advertise, stamp_via};
use holdfast::sip::{Message, Method, Request, Status};
use holdfast::time::Timestamp;
use holdfast::views::Cdr;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

pub const SERVER: &str = "10.0.0.1:5060";
/// Far more than a seed needs: a timer that never clears is found.
const MOST_STEPS: u64 = 100_000;
const RTP_TIMEOUT: u64 = 60_000_000;
const START: u64 = 1_700_000_000_000_000;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    ToNode {
        from: String,
        bytes: Bytes,
    },
    ToPhone {
        address: String,
        bytes: Bytes,
    },
    Committed {
        call: CallId,
        rev: Rev,
        record: Vec<u8>,
    },
    FromMedia {
        call: CallId,
        reply: holdfast::control::Reply,
    },
    MediaLost {
        call: CallId,
    },
    Routed {
        call: CallId,
        number: u32,
        uri: holdfast::sip::Uri,
    },
    /// The media node looks whether RTP of a phone that vanished from that dialog is missed.
    Missed {
        call_id: String,
    },
    /// An operator ends whatever call there is.
    Hangup,
}

/// How unkind the network is, in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
    pub slow_store: u64,
    pub media_refusal: u64,
    /// The media node does not answer.
    pub media_silence: u64,
    /// A message takes up to so long, in microseconds: above T1 phones and node repeat what only is late.
    pub spread: u64,
}

#[derive(Debug)]
struct Slot {
    call: Call,
    committed: Rev,
    held: Vec<Transmit>,
    saved: Rev,
    /// What the store holds of it.
    stored: Vec<u8>,
    /// The store knows of its answer.
    answer_stored: bool,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub phones: Vec<Phone>,
    pub cdrs: BTreeMap<CallId, Vec<Cdr>>,
    pub complaints: Vec<String>,
    pub trace: Vec<String>,
    pub directory: Directory,
    weather: Weather,
    settings: Arc<Settings>,
    queue: BinaryHeap<Scheduled<Happening>>,
    order: u64,
    slots: BTreeMap<CallId, Slot>,
    keys: HashMap<[u8; 16], (CallId, String)>,
    /// Which caller's Call-ID began which call.
    pub calls: BTreeMap<CallId, String>,
    media: Media,
    call_count: u128,
    branches: HashSet<String>,
    sequences: HashMap<String, u32>,
    next_audit: u64,
    pub count: Count,
    /// Of the last message to each address: when it will arrive.
    arrivals: HashMap<String, u64>,
    sabotage: Option<Sabotage>,
    sent_once: HashSet<Bytes>,
    /// Dialogs whose phone vanished.
    missed: HashSet<String>,
    /// Keeps the trace, which costs more than the calls.
    pub is_traced: bool,
}

impl World {
    pub fn new(seed: u64, weather: Weather, sabotage: Option<Sabotage>) -> Self {
        let settings = Settings {
            key: ClusterKey::new(b"simulated cluster"),
            node: NodeName("sim-1".into()),
            node_number: 1,
            incarnation: Incarnation(1),
            advertise: Advertise::default(),
            product: "Holdfast".into(),
            ring_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(60),
            emergency_numbers: Vec::new(),
        };
        Self {
            now: START,
            random: Random::new(seed),
            phones: Vec::new(),
            cdrs: BTreeMap::new(),
            complaints: Vec::new(),
            trace: Vec::new(),
            directory: Directory::default(),
            weather,
            settings: Arc::new(settings),
            queue: BinaryHeap::new(),
            order: 0,
            slots: BTreeMap::new(),
            keys: HashMap::new(),
            calls: BTreeMap::new(),
            media: Media::default(),
            call_count: 0,
            branches: HashSet::new(),
            sequences: HashMap::new(),
            next_audit: START,
            count: Count::default(),
            arrivals: HashMap::new(),
            sabotage,
            sent_once: HashSet::new(),
            missed: HashSet::new(),
            is_traced: false,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if !self.is_traced {
            return;
        }
        let at = (self.now - START) as f64 / 1e6;
        self.trace.push(format!("{at:10.4} {}", what()));
    }

    fn schedule(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + after, order: self.order, what });
    }

    /// Through the network: lost, doubled, late, overtaken.
    fn carry(&mut self, to: &str, make: impl Fn() -> Happening) {
        self.count.add("network: sent");
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
            let most = if slow { self.weather.spread } else { 20_000 };
            let delay = self.random.between(200, most);
            let arrival = self.arrivals.entry(to.to_owned()).or_default();
            if *arrival > self.now + delay {
                self.count.add("network: overtaken");
            }
            *arrival = (*arrival).max(self.now + delay);
            self.schedule(delay, make());
        }
    }

    /// Runs until nothing can happen any more, or for so many simulated seconds.
    pub fn run(&mut self, seconds: u64) {
        let end = self.now + seconds * 1_000_000;
        let mut steps = 0;
        while self.now < end {
            steps += 1;
            if steps > MOST_STEPS {
                let due = self.slots.values().find_map(|slot| slot.call.next_timeout());
                self.complaints.push(format!("time stands still at {:?}: {due:?}", self.now));
                return;
            }
            let queued = self.queue.peek().map(|scheduled| scheduled.at);
            let phones = self.phones.iter().filter_map(Phone::next_due).min();
            let calls = self
                .slots
                .values()
                .filter_map(|slot| slot.call.next_timeout().map(|(at, _)| at.as_micros()))
                .min();
            let Some(next) = [queued, phones, calls].into_iter().flatten().min() else { break };
            self.now = self.now.max(next);
            self.audit();
            if queued == Some(next) {
                if let Some(scheduled) = self.queue.pop() {
                    self.happen(scheduled.what);
                }
            } else if phones == Some(next) {
                self.time_phones();
            } else {
                self.time_calls();
            }
            if !self.complaints.is_empty() {
                return;
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::ToNode { from, bytes } => self.node_receives(&from, &bytes),
            Happening::ToPhone { address, bytes } => {
                let now = self.now;
                if let Some(at) = self.phones.iter().position(|phone| phone.address == address) {
                    self.phones[at].handle_bytes(&bytes, now);
                    self.drain_phone(at);
                }
            }
            Happening::Committed { call, rev, record } => self.committed(call, rev, record),
            Happening::Missed { call_id } => self.miss_rtp(call_id),
            Happening::Hangup => self.hang_up(),
            Happening::FromMedia { call, reply } => {
                let node = NodeName("media-1".into());
                self.input(call, Input::Media { node, reply });
            }
            Happening::MediaLost { call } => self.input(call, Input::MediaLost),
            Happening::Routed { call, number, uri } => {
                let decision = routing::route(&self.directory, &uri, self.time());
                self.input(call, Input::Answer(Answer::Route { number, decision }));
            }
        }
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
        let from = self.phones[at].address.clone();
        for bytes in core::mem::take(&mut self.phones[at].outbox) {
            self.note(|| format!("{} -> node  {}", from, first_line(&bytes)));
            let from = from.clone();
            self.carry("node", || Happening::ToNode { from: from.clone(), bytes: bytes.clone() });
        }
        self.count.merge(&mut self.phones[at].count);
        for call_id in self.phones[at].vanished.clone() {
            if self.missed.insert(call_id.clone()) {
                self.schedule(RTP_TIMEOUT, Happening::Missed { call_id });
            }
        }
        let complaints = core::mem::take(&mut self.phones[at].complaints);
        self.complaints.extend(complaints);
    }

    fn time_calls(&mut self) {
        let now = self.time();
        let due: Vec<CallId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.call.next_timeout().is_some_and(|(at, _)| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.call.handle_timeout(now);
            }
            self.drain_call(id);
        }
    }

    fn node_receives(&mut self, from: &str, bytes: &Bytes) {
        let flow = Flow {
            transport: Transport::Udp,
            local: SERVER.parse().expect("address"),
            remote: from.parse::<SocketAddr>().expect("address"),
            connection: None,
        };
        match Message::parse(bytes) {
            Ok(Message::Response(response)) => {
                let via = response.top_via();
                let branch = via.as_ref().and_then(|via| via.branch());
                let Some((locator, branch)) =
                    branch.and_then(|branch| self.settings.key.locate_branch(branch))
                else {
                    return;
                };
                let leg = locator.leg;
                self.input(locator.call, Input::Response { leg, branch, response, flow });
            }
            Ok(Message::Request(mut request)) => {
                stamp_via(&mut request, &flow);
                self.node_request(request, flow);
            }
            Err(error) => self.complaints.push(format!("the node cannot read: {error}")),
        }
    }

    fn node_request(&mut self, request: Request, flow: Flow) {
        if let Some(tag) = request.to().and_then(|to| to.tag()) {
            match self.settings.key.locate_tag(&tag) {
                Some(locator) if self.slots.contains_key(&locator.call) => {
                    let leg = locator.leg;
                    self.input(locator.call, Input::Request { leg, request, flow });
                }
                _ if request.method == Method::Ack => {}
                _ => self.answer_outside(&request, &flow, 481),
            }
            return;
        }
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let from_tag = request.from().and_then(|from| from.tag()).unwrap_or_default();
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let hash = self
            .settings
            .key
            .mac("invite-key", &[call_id.as_bytes(), from_tag.as_bytes(), &cseq.to_be_bytes()]);
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
        let branch = branch.unwrap_or_default();
        match (self.keys.get(&key).cloned(), &request.method) {
            (Some((call, known)), _) if known == branch => {
                let leg = LegId::CALLER;
                self.input(call, Input::Request { leg, request, flow });
            }
            (Some(_), Method::Invite) => self.answer_outside(&request, &flow, 482),
            (_, Method::Ack) => {}
            (None, Method::Invite) => self.new_call(key, branch, request, flow),
            (_, _) => self.answer_outside(&request, &flow, 481),
        }
    }

    fn new_call(&mut self, key: [u8; 16], branch: String, request: Request, flow: Flow) {
        let user = request.from().and_then(|from| from.uri.user()).unwrap_or_default();
        let Some(caller) = self.directory.user(&user).cloned() else { return };
        self.call_count += 1;
        let id = CallId(self.call_count);
        self.keys.insert(key, (id, branch));
        self.calls.insert(id, request.call_id().unwrap_or_default().to_owned());
        let (epoch, entropy) = (Epoch(1), [0; 32]);
        let invitation = Invitation { id, key, epoch, entropy, caller, request, flow };
        let now = self.time();
        match Call::new(self.settings.clone(), invitation, now) {
            Some(call) => {
                let slot = Slot {
                    call,
                    committed: Rev(0),
                    held: Vec::new(),
                    saved: Rev(0),
                    stored: Vec::new(),
                    answer_stored: false,
                };
                self.slots.insert(id, slot);
                self.drain_call(id);
            }
            None => self.complaints.push("a good INVITE made no call".into()),
        }
    }

    fn answer_outside(&mut self, request: &Request, flow: &Flow, status: u16) {
        let bytes = request.response(Status(status), Some("outside")).to_bytes();
        let (flow, leg) = (*flow, LegId::CALLER);
        self.transmit(None, Transmit { flow, bytes, leg, behind: None, request: None });
    }

    pub fn input(&mut self, id: CallId, input: Input) {
        let now = self.time();
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.call.handle_input(input, now);
        }
        self.drain_call(id);
    }

    fn drain_call(&mut self, id: CallId) {
        while let Some(output) = self.slots.get_mut(&id).and_then(|slot| slot.call.poll_output()) {
            match output {
                Output::Save(save) => self.save(save),
                Output::Send(transmit) => self.send(id, transmit),
                Output::Media(request) => self.ask_media(id, request),
                // There is one media node in this world.
                Output::MediaBack(_) | Output::MediaLeft(..) | Output::Sounded(_) => {}
                Output::Ask(Query::Route { number, uri }) => {
                    self.schedule(10, Happening::Routed { call: id, number, uri });
                }
                Output::Ask(Query::Resolve { .. }) => {}
                Output::Event(event) => self.take_event(&event),
            }
        }
        if self.slots.get(&id).is_some_and(|slot| slot.call.is_over() && slot.held.is_empty()) {
            self.slots.remove(&id);
        }
    }

    fn send(&mut self, id: CallId, transmit: Transmit) {
        let is_answer = transmit.bytes.starts_with(b"SIP/2.0 200");
        let is_early = match self.sabotage {
            Some(Sabotage::EarlyRelease) => true,
            sabotage => is_answer && sabotage == Some(Sabotage::EarlyAnswer),
        };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match transmit.behind {
            Some(rev) if rev > slot.saved => {
                self.complaints.push(format!("call {id} waits for a rev that was never saved"));
            }
            Some(rev) if rev > slot.committed && !is_early => slot.held.push(transmit),
            _ => self.transmit(Some(id), transmit),
        }
    }

    fn transmit(&mut self, id: Option<CallId>, transmit: Transmit) {
        let address = transmit.flow.remote.to_string();
        let Some(bytes) = self.spoil(&transmit.bytes) else { return };
        if let Ok(message) = Message::parse(&bytes) {
            self.judge_sequence(&message);
            if let Some(id) = id {
                self.judge_promise(id, &message);
            }
        }
        self.note(|| format!("node -> {}  {}", address, first_line(&bytes)));
        self.carry(&address, || Happening::ToPhone {
            address: address.clone(),
            bytes: bytes.clone(),
        });
    }

    fn save(&mut self, save: Save) {
        self.note(|| format!("   save rev {} ended {}", save.rev.0, save.ended));
        let slow = self.random.chance(self.weather.slow_store);
        let delay = if slow { self.random.between(50_000, 900_000) } else { 3_000 };
        let Some(slot) = self.slots.get_mut(&save.id) else { return };
        if save.rev.0 != slot.saved.0 + 1 {
            self.complaints.push(format!("call {} saved rev {} twice", save.id, save.rev.0));
        }
        slot.saved = save.rev;
        if save.ended != save.cdr.is_some() {
            self.complaints.push(format!("call {}: a CDR exactly with the end", save.id));
        }
        if self.cdrs.contains_key(&save.id) {
            self.complaints.push(format!("call {} was saved after its end", save.id));
        }
        if let Some(cdr) = save.cdr {
            self.cdrs.entry(save.id).or_default().push(*cdr);
        }
        if !save.ended && save.record.len() > 32_000 {
            self.complaints.push(format!("a record of {} bytes", save.record.len()));
        }
        let (call, rev, record) = (save.id, save.rev, save.record);
        self.schedule(delay, Happening::Committed { call, rev, record });
    }

    fn committed(&mut self, id: CallId, rev: Rev, record: Vec<u8>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if rev > slot.committed {
            slot.committed = rev;
            slot.stored = record;
        }
        let committed = slot.committed;
        let held = core::mem::take(&mut slot.held);
        let (free, held): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|transmit| transmit.behind <= Some(committed));
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.held = held;
        }
        for transmit in free {
            self.transmit(Some(id), transmit);
        }
        self.drain_call(id);
    }

    fn ask_media(&mut self, call: CallId, request: holdfast::control::Request) {
        let is_release = matches!(request, holdfast::control::Request::Release(_));
        if is_release && self.sabotage == Some(Sabotage::KeepMedia) {
            return;
        }
        let refuse = self.random.chance(self.weather.media_refusal);
        let answer = self.media.handle(&request, refuse);
        self.complaints.extend(core::mem::take(&mut self.media.complaints));
        if self.random.chance(self.weather.media_silence) {
            // The pool gives a node that is away so much time.
            self.schedule(10_000_000, Happening::MediaLost { call });
            return self.count.add("media: silent");
        }
        if matches!(answer, Some(holdfast::control::Reply::Refused { .. })) {
            self.count.add("media: refused");
        }
        if let Some(reply) = answer {
            let delay = self.random.between(300, 4_000);
            self.schedule(delay, Happening::FromMedia { call, reply });
        }
    }

    /// What a media node does when a phone's RTP stays away: it says so, as long as it is expected.
    fn miss_rtp(&mut self, call_id: String) {
        let now = self.time();
        let found = self.slots.iter().find_map(|(id, slot)| {
            let view = slot.call.view(now);
            let leg = view.legs.iter().find(|leg| leg.call_id == call_id)?;
            Some((*id, LegId(leg.id)))
        });
        let Some((id, leg)) = found else { return };
        let session = SessionId::from(id);
        if self.media.expects_rtp(session, leg) {
            self.count.add("media: silence reported");
            let kind = ReportKind::Silence { leg, silent_ms: 60_000 };
            self.input(id, Input::Report(Report { session, number: 1, kind }));
        }
        self.schedule(RTP_TIMEOUT, Happening::Missed { call_id });
    }

    /// An operator ends a call some time from now.
    pub fn plan_hangup(&mut self, after: u64) {
        self.schedule(after, Happening::Hangup);
    }

    fn hang_up(&mut self) {
        if let Some(id) = self.slots.keys().next().copied() {
            self.count.add("operator: hung up");
            self.input(id, Input::Hangup { reason: Some("maintenance".to_owned()) });
        }
    }

    fn take_event(&mut self, event: &Event) {
        self.note(|| format!("   event {event:?}"));
        if let Event::CallEnded { end_cause, .. } = event {
            self.count.add(format!("calls: ended by {end_cause:?}"));
        } else if matches!(event, Event::CallAnswered { .. }) {
            self.count.add("calls: answered");
        } else if matches!(event, Event::CallHold { held: true, .. }) {
            self.count.add("calls: held");
        }
    }
}

fn first_line(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    let cseq = text.lines().find(|line| line.to_ascii_lowercase().starts_with("cseq"));
    format!("{} [{}]", text.lines().next().unwrap_or_default(), cseq.unwrap_or_default())
}
