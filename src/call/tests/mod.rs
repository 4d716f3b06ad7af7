//! The rules of a call, one by one: a bench with scripted phones, a store that commits at once, a media node that
//! obeys.

mod anchor;
mod dialog;
mod end;
mod fork;
mod modify;
mod refresh;
mod sound;
mod srtp;
mod steer;
mod takeover;
mod versions;

use super::*;
use crate::control::{self, LegState, SessionState, StreamState, StreamStatistics};
use crate::directory::{Binding, Directory, User};
use crate::ids::{ClusterKey, Epoch, Flow, Incarnation, NodeName, Transport};
use crate::routing;
use crate::sip::address::Advertise;
use crate::sip::digest::Ha1;
use crate::sip::{HeaderName, Message, Method, Request, Response, Status};
use crate::views::quality::Sounded;
use crate::views::user::SrtpPolicy;
use bytes::Bytes;
use core::net::SocketAddr;
use std::collections::BTreeMap;

const CALLER: &str = "10.0.0.9:5060";
const SERVER: &str = "10.0.0.1:5060";
/// Where another node is.
const ELSEWHERE: &str = "10.0.0.2:5060";
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A phone's SDP: PCMU and telephone-event.
pub(super) fn sdp(port: u16, version: u32, more: &str) -> String {
    format!(
        "v=0\r\no=- 7 {version} IN IP4 10.0.0.99\r\ns=-\r\nc=IN IP4 10.0.0.99\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n{more}"
    )
}

fn user(extension: &str) -> User {
    User {
        extension: extension.to_owned(),
        display_name: format!("User {extension}"),
        enabled: true,
        ha1: Ha1 { md5: [0; 16], sha256: [0; 32] },
        max_contacts: None,
        max_calls: None,
        ring_timeout_ms: None,
        codecs: Vec::new(),
        srtp: SrtpPolicy::Off,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn flow(remote: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        local: SERVER.parse().expect("an address"),
        remote: remote.parse().expect("an address"),
        connection: None,
    }
}

fn binding(extension: &str, address: &str) -> Binding {
    Binding {
        id: address.to_owned(),
        extension: extension.to_owned(),
        aor: format!("sip:{extension}@pbx.example"),
        contact: format!("sip:{extension}@{address};line=x"),
        instance_id: None,
        reg_id: None,
        q_milli: 1000,
        q_given: false,
        path: Vec::new(),
        call_id: "register".to_owned(),
        cseq: 1,
        user_agent: None,
        flow: flow(address),
        nat: false,
        node: NodeName("n-1".into()),
        registered_at: NOW,
        refreshed_at: NOW,
        expires_at: Timestamp::from_millis(u64::MAX / 2_000),
        flow_lost: false,
        ping_rtt_us: None,
    }
}

/// The address of a user's n-th phone.
pub(super) fn phone(extension: u32, number: u32) -> String {
    format!("10.0.{}.{number}:5060", extension % 100)
}

fn settings() -> Settings {
    Settings {
        key: ClusterKey::new(b"bench"),
        node: NodeName("n-1".into()),
        node_number: 1,
        incarnation: Incarnation(1),
        advertise: Advertise::default(),
        product: "Holdfast".to_owned(),
        ring_timeout: Duration::from_secs(120),
        rtp_timeout: Duration::from_secs(60),
        emergency_numbers: Vec::new(),
    }
}

fn parse_request(text: String) -> Request {
    match Message::parse(&Bytes::from(text)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// One call, its phones and all that came out of it.
pub(super) struct Bench {
    pub call: Call,
    pub now: Timestamp,
    directory: Directory,
    /// Everything sent: to whom, what, behind which rev.
    pub wire: Vec<(String, Message, Option<Rev>)>,
    read: usize,
    pub saves: Vec<Save>,
    pub events: Vec<Event>,
    pub wishes: Vec<control::Request>,
    /// The media node does not answer.
    pub media_silent: bool,
    /// Which one does: 1 or 2.
    pub media_node: u8,
    /// Packets that it had of each phone.
    pub packets: u64,
    /// Media nodes that are told that they are not needed any more.
    pub left: Vec<NodeName>,
    /// How it sounded.
    pub sounded: Vec<Sounded>,
    branch: u32,
    /// Where the call's node is.
    local: &'static str,
}

impl Bench {
    /// 1001 dials 1002, who has so many phones; 1003, 1004 … have one each.
    pub fn new(phones: u32, extra: &str, body: &str) -> Self {
        Self::with_users(phones, extra, body, |_| {})
    }

    /// The same with other users.
    pub fn with_users(phones: u32, extra: &str, body: &str, change: impl Fn(&mut User)) -> Self {
        let mut directory = Directory::default();
        for extension in 1001..=1009_u32 {
            let name = extension.to_string();
            let mut user = user(&name);
            change(&mut user);
            directory.set_user(user);
            let count = if extension == 1002 { phones } else { 1 };
            let bindings = (1..=count).map(|n| binding(&name, &phone(extension, n))).collect();
            directory.set_bindings(&name, bindings);
        }
        let request = Self::invite(extra, body);
        let invitation = Invitation {
            id: CallId(7),
            key: [7; 16],
            epoch: Epoch(1),
            entropy: [3; 32],
            caller: directory.user("1001").cloned().expect("1001"),
            request,
            flow: flow(CALLER),
        };
        let call = Call::new(Arc::new(settings()), invitation, NOW).expect("a call");
        let mut bench = Self {
            call,
            now: NOW,
            directory,
            wire: Vec::new(),
            read: 0,
            saves: Vec::new(),
            events: Vec::new(),
            wishes: Vec::new(),
            media_silent: false,
            media_node: 1,
            packets: 0,
            left: Vec::new(),
            sounded: Vec::new(),
            branch: 0,
            local: SERVER,
        };
        bench.drain();
        bench
    }

    /// Rings one phone with an offer.
    pub fn plain() -> Self {
        Self::new(1, "", &sdp(4_000, 1, ""))
    }

    /// One phone rang and answered, the caller acknowledged.
    pub fn answered() -> Self {
        let mut bench = Self::plain();
        bench.answer(&phone(1002, 1), 180, "");
        bench.answer(&phone(1002, 1), 200, &sdp(5_000, 1, ""));
        bench.acknowledge(1, "");
        bench.heard(CALLER);
        bench
    }

    pub fn invite(extra: &str, body: &str) -> Request {
        parse_request(format!(
            "INVITE sip:1002@pbx SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKfirst;rport\r\n\
             From: <sip:1001@pbx>;tag=calling\r\nTo: <sip:1002@pbx>\r\nCall-ID: first\r\n\
             CSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:1001@{CALLER}>\r\n\
             Content-Type: application/sdp\r\n{extra}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn drain(&mut self) {
        while let Some(output) = self.call.poll_output() {
            match output {
                Output::Save(save) => self.saves.push(save),
                Output::Event(event) => self.events.push(event),
                Output::Send(transmit) => {
                    let message = Message::parse(&transmit.bytes).expect("readable");
                    self.wire.push((transmit.flow.remote.to_string(), message, transmit.behind));
                }
                Output::Media(request) => {
                    self.wishes.push(request.clone());
                    self.obey(&request);
                }
                Output::Ask(Query::Route { number, uri }) => {
                    let decision = routing::route(&self.directory, &uri, self.now);
                    let answer = Answer::Route { number, decision };
                    self.call.handle_input(Input::Answer(answer), self.now);
                }
                Output::Ask(Query::Resolve { .. }) => {}
                Output::MediaBack(node) => {
                    self.media_node = if node == NodeName("m-1".into()) { 1 } else { 2 };
                }
                Output::MediaLeft(node, _) => self.left.push(node),
                Output::Sounded(sounded) => self.sounded.push(sounded),
            }
        }
    }

    fn obey(&mut self, request: &control::Request) {
        if self.media_silent {
            return;
        }
        let reply = match request {
            control::Request::Release(release) => control::Reply::Released(SessionState {
                session: release.session,
                epoch: release.epoch,
                rev: release.rev,
                legs: Vec::new(),
            }),
            control::Request::Apply(apply)
            | control::Request::Resume(control::Resume { apply, .. }) => {
                let statistics = StreamStatistics {
                    packets_received: self.packets,
                    last_packet_at: (self.packets > 0).then_some(self.now),
                    ..StreamStatistics::default()
                };
                let node = self.media_node;
                let stream = |leg: u16, index: u8| {
                    let port = u16::from(node) * 20_000 + leg * 100 + u16::from(index) * 2;
                    let local = SocketAddr::from(([10, 0, 0, 1 + node], port));
                    StreamState { index, local, port, statistics: statistics.clone() }
                };
                let legs = apply.spec.legs.iter().map(|leg| LegState {
                    leg: leg.leg,
                    streams: leg.streams.iter().map(|s| stream(leg.leg.0, s.index)).collect(),
                });
                control::Reply::Applied(SessionState {
                    session: apply.session,
                    epoch: apply.epoch,
                    rev: apply.rev,
                    legs: legs.collect(),
                })
            }
        };
        let node = NodeName(format!("m-{}", self.media_node).into());
        self.call.handle_input(Input::Media { node, reply }, self.now);
    }

    /// The media node is there again, and is told the last wish.
    pub fn media_returns(&mut self) {
        self.media_silent = false;
        let wish = self.wishes.last().cloned().expect("a wish");
        self.obey(&wish);
        self.drain();
    }

    pub fn input(&mut self, input: Input) {
        self.call.handle_input(input, self.now);
        self.drain();
    }

    /// The owner dies with its address; what it saved last is carried on at another one.
    pub fn moves_elsewhere(&mut self) {
        let here = SocketAddr::from(([10, 0, 0, 2], 5060));
        let record = self.saves.last().expect("a save").record.clone();
        let reach = |way: &Way<'_>| match way.flow.local == here {
            true => Reach::AsBefore,
            false => Reach::By(Flow { local: here, ..*way.flow }),
        };
        let place = Place { reach: &reach, refresh_at: self.now };
        let mut settings = settings();
        (settings.node, settings.node_number) = (NodeName("n-2".into()), 2);
        let call = Call::restore(Arc::new(settings), &record, Epoch(2), self.now, &place);
        (self.call, self.local) = (call.expect("readable"), ELSEWHERE);
        self.drain();
        self.wait(Duration::ZERO);
    }

    /// The owner dies; what it saved last is carried on by another at the same address.
    pub fn is_taken_over(&mut self) {
        let record = self.saves.last().expect("a save").record.clone();
        let (settings, place) = (Arc::new(settings()), Place::as_before());
        let call = Call::restore(settings, &record, Epoch(2), self.now, &place);
        self.call = call.expect("readable");
        self.drain();
    }

    /// Time passes, timer by timer.
    pub fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.call.next_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.call.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The last request with that method that went to an address.
    pub fn request(&self, to: &str, method: &Method) -> Request {
        let found = self.wire.iter().rev().find_map(|(address, message, _)| match message {
            Message::Request(request) => {
                (address == to && request.method == *method).then(|| request.clone())
            }
            Message::Response(_) => None,
        });
        found.unwrap_or_else(|| panic!("no {method} to {to}"))
    }

    /// The last response with that status that went to an address.
    pub fn response(&self, to: &str, status: u16) -> Response {
        let found = self.wire.iter().rev().find_map(|(address, message, _)| match message {
            Message::Response(response) => {
                (address == to && response.status.0 == status).then(|| response.clone())
            }
            Message::Request(_) => None,
        });
        found.unwrap_or_else(|| panic!("no {status} to {to}"))
    }

    /// A phone answers the last INVITE it got.
    pub fn answer(&mut self, from: &str, status: u16, body: &str) {
        self.answer_with(from, &Method::Invite, status, "", body);
    }

    /// A phone answers the last request of a kind; `extra` are header lines.
    pub fn answer_with(
        &mut self,
        from: &str,
        method: &Method,
        status: u16,
        extra: &str,
        body: &str,
    ) {
        let request = self.request(from, method);
        let tag = if from == CALLER { "calling".to_owned() } else { format!("t{from}") };
        let mut response = request.response(Status(status), Some(&tag.replace([':', '.'], "x")));
        if from == CALLER {
            response = request.response(Status(status), None);
        }
        response.headers.push(HeaderName::Contact, format!("<sip:phone@{from}>"));
        for line in extra.lines() {
            let (name, value) = line.split_once(": ").expect("a header line");
            response.headers.set(HeaderName::from(name), value);
        }
        if !body.is_empty() {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = Bytes::from(body.to_owned());
        }
        self.respond_raw(from, response);
    }

    pub fn respond_raw(&mut self, from: &str, response: Response) {
        let via = response.top_via().expect("Via");
        let key = &self.call.settings.key;
        let (locator, branch) = via.branch().and_then(|b| key.locate_branch(b)).expect("ours");
        let flow = flow(from);
        self.input(Input::Response { leg: locator.leg, branch, response, flow });
    }

    /// A request of a phone within its dialog (an ACK for `number`, too).
    pub fn ask(&mut self, from: &str, method: &str, number: u32, extra: &str, body: &str) {
        let leg = self.leg_of(from);
        let dialog = &self.call.record.leg(leg).expect("a leg").dialog;
        self.branch += 1;
        let kind =
            if extra.contains("Content-Type") { "" } else { "Content-Type: application/sdp\r\n" };
        let request = parse_request(format!(
            "{method} sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKask{};rport\r\n\
             From: <sip:phone@pbx>;tag={}\r\nTo: <sip:us@pbx>;tag={}\r\nCall-ID: {}\r\n\
             CSeq: {number} {method}\r\nMax-Forwards: 70\r\nContact: <sip:phone@{from}>\r\n\
             {kind}{extra}Content-Length: {}\r\n\r\n{body}",
            self.branch,
            dialog.remote_tag,
            dialog.local_tag,
            dialog.call_id,
            body.len()
        ));
        let flow = Flow { local: self.local.parse().expect("an address"), ..flow(from) };
        self.input(Input::Request { leg, request, flow });
    }

    pub fn acknowledge(&mut self, number: u32, body: &str) {
        self.ask(CALLER, "ACK", number, "", body);
    }

    pub fn leg_of(&self, address: &str) -> LegId {
        let legs = self.call.record.legs.iter();
        let mut of = legs.filter(|leg| leg.flow.remote.to_string() == address);
        of.next_back().expect("a leg").id
    }

    /// What came to an address since it was asked last, in short: `180`, `200 sdp`, `BYE`.
    pub fn heard(&mut self, to: &str) -> Vec<String> {
        let (own, others): (Vec<_>, Vec<_>) =
            self.wire.split_off(self.read).into_iter().partition(|(address, _, _)| address == to);
        let heard = own.iter().map(|(_, message, _)| in_short(message)).collect();
        // Own messages go before the mark, so that `request` and `response` still find them.
        self.read += own.len();
        self.wire.extend(own);
        self.wire.extend(others);
        heard
    }

    /// The last wish for the media node, leg by leg: what each hears.
    pub fn hears(&self, leg: LegId) -> control::Hears {
        let apply = self.wishes.iter().rev().find_map(control::Request::wish);
        let spec = apply.and_then(|apply| apply.spec.legs.iter().find(|spec| spec.leg == leg));
        spec.expect("the leg").streams[0].hears
    }

    pub fn cdr(&self) -> crate::views::Cdr {
        let cdrs: Vec<_> = self.saves.iter().filter_map(|save| save.cdr.clone()).collect();
        assert_eq!(cdrs.len(), 1, "one CDR");
        *cdrs[0].clone()
    }

    /// Everybody answers what is still open, time passes, nothing is left.
    pub fn must_end(&mut self) {
        self.wait(Duration::from_secs(200));
        assert!(self.call.is_over(), "{:?}", self.call.next_timeout());
        self.cdr();
    }
}

fn in_short(message: &Message) -> String {
    let (head, body) = match message {
        Message::Request(request) => (request.method.to_string(), &request.body),
        Message::Response(response) => (response.status.0.to_string(), &response.body),
    };
    if body.is_empty() { head } else { format!("{head} sdp") }
}

/// Text of a body.
pub(super) fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// The o= line of a body.
pub(super) fn origin(body: &[u8]) -> String {
    text(body).lines().find(|line| line.starts_with("o=")).unwrap_or_default().to_owned()
}

/// Times at which messages leave are what a table of timers is about.
pub(super) fn count(heard: &[String]) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    for what in heard {
        *count.entry(what.as_str()).or_default() += 1;
    }
    count
}
