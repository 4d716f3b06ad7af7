//! The world of the simulator: one signaling node's outputs interpreted over a network, a store and a media node that
//! are late, lossy and out of order, in one thread and by one seed.

use crate::media::Media;
use crate::phone::{Phone, State};
use crate::random::Random;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use holdfast::call::{Answer, Call, Input, Invitation, Output, Query, Save, Settings, Transmit};
use holdfast::directory::Directory;
use holdfast::ids::{
    CallId, ClusterKey, Epoch, Flow, Incarnation, LegId, NodeName, Rev, Transport,
};
use holdfast::routing;
use holdfast::sip::address::{Advertise, stamp_via};
use holdfast::sip::{Message, Method, Request, Status};
use holdfast::time::Timestamp;
use holdfast::views::{Cdr, Disposition};
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

pub const SERVER: &str = "10.0.0.1:5060";
/// Far more than a seed needs: a timer that never clears is found.
const MOST_STEPS: u64 = 100_000;
const START: u64 = 1_700_000_000_000_000;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    ToNode { from: String, bytes: Bytes },
    ToPhone { address: String, bytes: Bytes },
    Committed { call: CallId, rev: Rev },
    FromMedia { call: CallId, reply: holdfast::control::Reply },
    Routed { call: CallId, number: u32, uri: holdfast::sip::Uri },
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// How unkind the network is, in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
    pub slow_store: u64,
    pub media_refusal: u64,
}

#[derive(Debug)]
struct Slot {
    call: Call,
    committed: Rev,
    held: Vec<Transmit>,
    saved: Rev,
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
    queue: BinaryHeap<Scheduled>,
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
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
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
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn note(&mut self, what: String) {
        let at = (self.now - START) as f64 / 1e6;
        self.trace.push(format!("{at:10.4} {what}"));
    }

    fn schedule(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + after, order: self.order, what });
    }

    /// Through the network: lost, doubled, late.
    fn carry(&mut self, make: impl Fn() -> Happening) {
        if self.random.chance(self.weather.loss) {
            return self.note("   (lost)".into());
        }
        let copies = if self.random.chance(self.weather.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.random.between(200, 20_000);
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
            Happening::Committed { call, rev } => self.committed(call, rev),
            Happening::FromMedia { call, reply } => {
                let node = NodeName("media-1".into());
                self.input(call, Input::Media { node, reply });
            }
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
                self.phones[at].handle_time(now, &mut self.random);
                self.drain_phone(at);
            }
        }
    }

    pub fn drain_phone(&mut self, at: usize) {
        let from = self.phones[at].address.clone();
        for bytes in core::mem::take(&mut self.phones[at].outbox) {
            self.note(format!("{} -> node  {}", from, first_line(&bytes)));
            let from = from.clone();
            self.carry(|| Happening::ToNode { from: from.clone(), bytes: bytes.clone() });
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
        let invitation = Invitation { id, key, epoch: Epoch(1), caller, request, flow };
        let now = self.time();
        match Call::new(self.settings.clone(), invitation, now) {
            Some(call) => {
                let slot = Slot { call, committed: Rev(0), held: Vec::new(), saved: Rev(0) };
                self.slots.insert(id, slot);
                self.drain_call(id);
            }
            None => self.complaints.push("a good INVITE made no call".into()),
        }
    }

    fn answer_outside(&mut self, request: &Request, flow: &Flow, status: u16) {
        let bytes = request.response(Status(status), Some("outside")).to_bytes();
        self.transmit(Transmit { flow: *flow, bytes, behind: None, request: None });
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
                Output::Ask(Query::Route { number, uri }) => {
                    self.schedule(10, Happening::Routed { call: id, number, uri });
                }
                Output::Ask(Query::Resolve { .. }) => {}
                Output::Event(event) => self.note(format!("   event {event:?}")),
            }
        }
        if self.slots.get(&id).is_some_and(|slot| slot.call.is_over() && slot.held.is_empty()) {
            self.slots.remove(&id);
        }
    }

    fn send(&mut self, id: CallId, transmit: Transmit) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match transmit.behind {
            Some(rev) if rev > slot.saved => {
                self.complaints.push(format!("call {id} waits for a rev that was never saved"));
            }
            Some(rev) if rev > slot.committed => slot.held.push(transmit),
            _ => self.transmit(transmit),
        }
    }

    /// CSeq of new requests on a dialog only rises (a known branch is a repeat; ACK and CANCEL name an older number).
    fn judge_sequence(&mut self, bytes: &Bytes) {
        let Ok(Message::Request(request)) = Message::parse(bytes) else {
            return;
        };
        let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
        let (Some(branch), Some(cseq)) = (branch, request.cseq()) else { return };
        if matches!(request.method, Method::Ack | Method::Cancel) || !self.branches.insert(branch) {
            return;
        }
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let known = self.sequences.entry(call_id.clone()).or_default();
        if cseq.number <= *known {
            self.complaints.push(format!("dialog {call_id}: CSeq {} after {known}", cseq.number));
        }
        *known = cseq.number;
    }

    fn transmit(&mut self, transmit: Transmit) {
        self.judge_sequence(&transmit.bytes);
        let address = transmit.flow.remote.to_string();
        self.note(format!("node -> {}  {}", address, first_line(&transmit.bytes)));
        let bytes = transmit.bytes;
        self.carry(|| Happening::ToPhone { address: address.clone(), bytes: bytes.clone() });
    }

    fn save(&mut self, save: Save) {
        self.note(format!("   save rev {} ended {}", save.rev.0, save.ended));
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
        let (call, rev) = (save.id, save.rev);
        self.schedule(delay, Happening::Committed { call, rev });
    }

    fn committed(&mut self, id: CallId, rev: Rev) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.committed = slot.committed.max(rev);
        let committed = slot.committed;
        let held = core::mem::take(&mut slot.held);
        let (free, held): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|transmit| transmit.behind <= Some(committed));
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.held = held;
        }
        for transmit in free {
            self.transmit(transmit);
        }
        self.drain_call(id);
    }

    fn ask_media(&mut self, call: CallId, request: holdfast::control::Request) {
        let refuse = self.random.chance(self.weather.media_refusal);
        let answer = self.media.handle(&request, refuse);
        self.complaints.extend(core::mem::take(&mut self.media.complaints));
        if let Some(reply) = answer {
            let delay = self.random.between(300, 4_000);
            self.schedule(delay, Happening::FromMedia { call, reply });
        }
    }

    /// Once a simulated second: calls whose phones are both at rest are wired rightly.
    fn audit(&mut self) {
        if self.now < self.next_audit {
            return;
        }
        self.next_audit = self.now + 1_000_000;
        let views: Vec<_> = self.slots.values().map(|slot| slot.call.view(self.time())).collect();
        for view in views {
            if view.answered_at.is_none() || view.state != holdfast::views::CallState::Confirmed {
                continue;
            }
            let mut ends = Vec::new();
            for leg in &view.legs {
                for (at, phone) in self.phones.iter().enumerate() {
                    if let Some(line) =
                        phone.lines.iter().position(|line| line.call_id == leg.call_id)
                        && leg.state == "confirmed"
                    {
                        ends.push((leg.id, at, line));
                    }
                }
            }
            let resting = ends.len() == 2
                && ends.iter().all(|(_, phone, line)| {
                    let phone = &self.phones[*phone];
                    phone.lines[*line].state == State::Up && phone.rests(*line)
                });
            if resting && !self.in_flight() {
                for (leg, phone, line) in &ends {
                    let phone = &self.phones[*phone];
                    if let Err(wrong) = self.media.check(
                        view.media.session_id.as_deref().unwrap_or_default(),
                        LegId(*leg),
                        phone.rtp_port,
                        phone.remote_rtp(*line),
                    ) {
                        self.complaints.push(format!("call {} leg {leg}: {wrong}", view.id));
                    }
                }
            }
        }
    }

    /// Some message is still on its way.
    fn in_flight(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What must be true when all is over.
    pub fn verdict(&mut self) -> Result<(), String> {
        let mut wrong = core::mem::take(&mut self.complaints);
        for phone in &self.phones {
            for line in &phone.lines {
                if line.state != State::Over {
                    wrong.push(format!(
                        "phone {} thinks call {} is {:?}",
                        phone.address, line.call_id, line.state
                    ));
                }
            }
        }
        for (id, slot) in &self.slots {
            wrong.push(format!("call {id} is not over: {:?}", slot.call.next_timeout()));
        }
        wrong.extend(self.media.leaks());
        for (id, call_id) in &self.calls {
            let cdrs = self.cdrs.get(id).map(Vec::as_slice).unwrap_or_default();
            let [cdr] = cdrs else {
                wrong.push(format!("call {id} has {} CDRs", cdrs.len()));
                continue;
            };
            let caller = self
                .phones
                .iter()
                .flat_map(|phone| &phone.lines)
                .find(|line| line.caller && line.call_id == *call_id);
            let heard_answer = caller.is_some_and(|line| line.answered_at.is_some());
            let answered = cdr.disposition == Disposition::Answered;
            if heard_answer && !answered {
                wrong.push(format!("call {id}: the caller was answered, the CDR says {cdr:?}"));
            }
            if answered != cdr.answered_at.is_some() {
                wrong.push(format!("call {id}: answered_at and disposition differ: {cdr:?}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

fn first_line(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    let cseq = text.lines().find(|line| line.to_ascii_lowercase().starts_with("cseq"));
    format!("{} [{}]", text.lines().next().unwrap_or_default(), cseq.unwrap_or_default())
}
