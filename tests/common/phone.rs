//! Our own phone: says exactly what a test wants said, over UDP or TCP, and tells what it was told.
//!
//! Invariants: what is sent within a dialog goes to the dialog's remote target; retransmissions of a request are
//! answered by the same response and not shown twice; a transaction that was refused hears no second answer; OPTIONS
//! pings are answered by itself; what it is told within a dialog is judged (`dialogs`).

use super::dialogs::Dialogs;
use super::repeats::Repeats;
use super::{SOON, own_ip};
use bytes::Bytes;
use holdfast::sip::framing::{StreamFramer, StreamItem};
use holdfast::sip::{
    Dialog, HeaderName, Message, Method, NameAddr, Request, Response, Status, Uri, digest,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How it is connected.
enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream, StreamFramer),
}

/// A phone of `user`.
pub(crate) struct Phone {
    wire: Wire,
    pub(crate) local: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) user: String,
    pub(crate) password: String,
    contact: Option<String>,
    inbox: VecDeque<Message>,
    answered: HashMap<String, Vec<u8>>,
    /// What came once is not shown again.
    seen: HashSet<Bytes>,
    /// Where requests came from.
    sources: HashMap<String, SocketAddr>,
    registration: (String, u32),
    repeats: Repeats,
    /// ACKs to 2xx, by what `acknowledged` names.
    acknowledged: HashMap<String, Vec<u8>>,
    /// Branches of requests that were refused.
    refused: HashSet<String>,
    dialogs: Dialogs,
}

impl Phone {
    pub(crate) fn udp(server: SocketAddr, user: &str, password: &str) -> Self {
        Self::udp_at(own_ip().into(), server, user, password)
    }

    /// The same at another address of this place.
    pub(crate) fn udp_at(ip: IpAddr, server: SocketAddr, user: &str, password: &str) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        let local = socket.local_addr().expect("bound");
        let repeats = Repeats::over(socket.try_clone().expect("a second handle"));
        Self { repeats, ..Self::new(Wire::Udp(socket), local, server, user, password) }
    }

    pub(crate) fn tcp(server: SocketAddr, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(server).expect("the server takes connections");
        let local = stream.local_addr().expect("connected");
        Self::new(Wire::Tcp(stream, StreamFramer::default()), local, server, user, password)
    }

    fn new(wire: Wire, local: SocketAddr, server: SocketAddr, user: &str, password: &str) -> Self {
        Self {
            wire,
            local,
            server,
            user: user.to_owned(),
            password: password.to_owned(),
            contact: None,
            inbox: VecDeque::new(),
            answered: HashMap::new(),
            seen: HashSet::new(),
            sources: HashMap::new(),
            registration: (unique("registration"), 0),
            repeats: Repeats::default(),
            acknowledged: HashMap::new(),
            refused: HashSet::new(),
            dialogs: Dialogs::default(),
        }
    }

    /// `sip:user@local`, with the transport when it is not UDP.
    pub(crate) fn contact(&self) -> String {
        if let Some(contact) = &self.contact {
            return contact.clone();
        }
        let parameter = if self.is_udp() { "" } else { ";transport=tcp" };
        format!("<sip:{}@{}{parameter}>", self.user, self.local)
    }

    /// The same phone by another connection: it knows what it knew.
    pub(crate) fn stands_for(&mut self, former: &Self) {
        self.contact = Some(former.contact());
        self.dialogs = former.dialogs.clone();
        self.answered.clone_from(&former.answered);
    }

    /// It comes from another port from now on, on TCP by another connection. Its Contact is what it was.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn comes_anew(&mut self) {
        self.contact = Some(self.contact());
        let fresh = match self.wire {
            Wire::Udp(_) => Self::udp_at(self.local.ip(), self.server, "", ""),
            Wire::Tcp(..) => Self::tcp(self.server, "", ""),
        };
        (self.wire, self.local, self.repeats) = (fresh.wire, fresh.local, fresh.repeats);
    }

    /// Its Contact names the port that it comes from now.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn names_its_port(&mut self) {
        self.contact = None;
    }

    /// Registers as an instance (RFC 5626 §4.1) that it is wherever it comes from; it must succeed.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn register_instance(&mut self) {
        let contact = format!("{};+sip.instance=\"<urn:x:{}>\"", self.contact(), self.user);
        let response = self.register(&[(HeaderName::Contact, &contact)]);
        assert_eq!(response.status, Status(200), "REGISTER");
    }

    /// A request outside of dialogs, with all it must have.
    pub(crate) fn request(&self, method: Method, uri: &str) -> Request {
        let name = method.as_str().to_owned();
        let mut request = Request::new(method, Uri::parse(uri).expect("a URI"));
        let address = format!("<sip:{}@{}>", self.user, self.server);
        for (header, value) in [
            (HeaderName::Via, self.via()),
            (HeaderName::MaxForwards, "70".to_owned()),
            (HeaderName::From, format!("{address};tag={}", unique("tag"))),
            (HeaderName::To, format!("<{uri}>")),
            (HeaderName::CallId, unique("call")),
            (HeaderName::CSeq, format!("1 {name}")),
            (HeaderName::Contact, self.contact()),
        ] {
            request.headers.push(header, value);
        }
        request
    }

    /// Registers, through the challenge; what the registrar says at last.
    pub(crate) fn register(&mut self, lines: &[(HeaderName, &str)]) -> Response {
        let address = format!("sip:{}@{}", self.user, self.server);
        let mut request = self.request(Method::Register, &format!("sip:{}", self.server));
        self.registration.1 += 1;
        request.headers.set(HeaderName::To, format!("<{address}>"));
        request.headers.set(HeaderName::CallId, self.registration.0.as_str());
        request.headers.set(HeaderName::CSeq, format!("{} REGISTER", self.registration.1));
        for (name, value) in lines {
            request.headers.set(name.clone(), *value);
        }
        self.send_request(&request);
        let mut response = self.response();
        if response.status == Status(401) {
            self.registration.1 += 1;
            let request = self.authorized(&request, &response);
            self.send_request(&request);
            response = self.response();
        }
        response
    }

    /// CSeq number of its last REGISTER.
    pub(crate) fn registered_as(&self) -> u64 {
        self.registration.1.into()
    }

    /// Registers; it must succeed.
    pub(crate) fn registered(mut self) -> Self {
        let response = self.register(&[]);
        assert_eq!(response.status, Status(200), "REGISTER");
        self
    }

    /// Takes its binding back.
    pub(crate) fn unregister(&mut self) {
        let response = self.register(&[(HeaderName::Expires, "0")]);
        assert_eq!(response.status, Status(200), "REGISTER that ends");
    }

    /// Sends an INVITE through its challenge, the ACK of the challenge included; the INVITE as it went at last.
    pub(crate) fn invite(&mut self, uri: &str, sdp: Option<&str>) -> Request {
        let mut invite = self.request(Method::Invite, uri);
        set_sdp(&mut invite, sdp);
        self.send_request(&invite);
        let challenge = self.response();
        assert!(matches!(challenge.status.0, 401 | 407), "{}", challenge.status);
        self.acknowledge_refusal(&invite, &challenge);
        let invite = self.authorized(&invite, &challenge);
        self.send_request(&invite);
        invite
    }

    /// The same request with credentials, the next CSeq and a new branch.
    pub(crate) fn authorized(&self, request: &Request, challenge: &Response) -> Request {
        let (asks, tells) = match challenge.status.0 {
            407 => (HeaderName::ProxyAuthenticate, HeaderName::ProxyAuthorization),
            _ => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
        };
        let asked = challenge.headers.get(&asks).expect("a challenge");
        let (method, uri) = (&request.method, request.uri.as_str());
        let told = digest::respond(asked, method, uri, &self.user, &self.password, "cnonce", 1);
        let mut request = request.clone();
        request.headers.set(tells, told.expect("a challenge we can meet"));
        let number = request.cseq().expect("a CSeq").number + 1;
        request.headers.set(HeaderName::CSeq, format!("{number} {}", request.method));
        request.headers.set(HeaderName::Via, self.via());
        request
    }

    /// ACK of a refusal (RFC 3261 §17.1.1.3): same branch, To of the response.
    pub(crate) fn acknowledge_refusal(&mut self, invite: &Request, response: &Response) {
        let mut ack = self.same_transaction(invite, Method::Ack);
        let to = response.headers.get(&HeaderName::To).expect("a To");
        ack.headers.set(HeaderName::To, to);
        self.send(&ack.to_bytes());
    }

    /// CANCEL of an INVITE (RFC 3261 §9.1).
    pub(crate) fn cancel(&mut self, invite: &Request) {
        let cancel = self.same_transaction(invite, Method::Cancel);
        self.send_request(&cancel);
    }

    fn same_transaction(&self, invite: &Request, method: Method) -> Request {
        let number = invite.cseq().expect("a CSeq").number;
        let mut request = Request::new(method, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId] {
            let value = invite.headers.get(&name).expect("an INVITE has it").to_owned();
            request.headers.push(name, value);
        }
        let cseq = format!("{number} {}", request.method);
        request.headers.push(HeaderName::CSeq, cseq);
        request.headers.push(HeaderName::MaxForwards, "70");
        request
    }

    /// The caller's dialog once its INVITE has a response.
    pub(crate) fn caller_dialog(invite: &Request, response: &Response) -> Dialog {
        let mut dialog = Dialog::from_own_request(invite).expect("an INVITE of ours");
        dialog.establish(response);
        dialog
    }

    /// ACK of a 2xx, with the late answer if there is one.
    pub(crate) fn acknowledge(&mut self, dialog: &Dialog, invite: &Request, sdp: Option<&str>) {
        let sequence = invite.cseq().expect("a CSeq").number;
        let mut ack = dialog.ack(sequence);
        set_sdp(&mut ack, sdp);
        let ack = self.send_in_dialog(ack);
        let key = format!("{sequence} INVITE {}", dialog.call_id);
        self.acknowledged.insert(key, ack.to_bytes().to_vec());
    }

    /// Sends a request of a dialog and gives it as it went.
    pub(crate) fn send_in_dialog(&mut self, mut request: Request) -> Request {
        request.headers.push_front(HeaderName::Via, self.via());
        if request.headers.get(&HeaderName::MaxForwards).is_none() {
            request.headers.push(HeaderName::MaxForwards, "70");
        }
        if request.headers.get(&HeaderName::Contact).is_none() {
            request.headers.push(HeaderName::Contact, self.contact());
        }
        self.send_request(&request);
        request
    }

    /// Ends the call from this side and sees it answered.
    pub(crate) fn hang_up(&mut self, dialog: &mut Dialog) {
        self.send_in_dialog(dialog.request(Method::Bye));
        assert_eq!(self.response_to(&Method::Bye).status, Status(200));
    }

    /// Sends a request, and over UDP says it again until it is answered.
    pub(crate) fn send_request(&mut self, request: &Request) {
        if self.is_udp() {
            self.repeats.sent(request, self.server);
        }
        self.send(&request.to_bytes());
    }

    /// Answers a request; repeats of it will get the same.
    pub(crate) fn respond(
        &mut self,
        request: &Request,
        status: u16,
        tag: &str,
        sdp: Option<&str>,
    ) -> Response {
        let mut response = request.response(Status(status), Some(tag));
        if request.method == Method::Invite && status < 300 {
            response.headers.push(HeaderName::Contact, self.contact());
        }
        if let Some(sdp) = sdp {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = sdp.to_owned().into();
        }
        if status >= 300 {
            self.dialogs.refused(request);
        }
        let bytes = response.to_bytes();
        self.answered.insert(key(request), bytes.to_vec());
        if request.method == Method::Invite && (200..300).contains(&status) {
            self.repeats.accepted(request, &bytes, self.source_of(request));
        }
        self.send_to(&bytes, self.source_of(request));
        response
    }

    /// Bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.send_to(bytes, self.server);
    }

    /// What it sends goes to the remote target of a dialog from now on.
    pub(crate) fn follow(&mut self, dialog: &Dialog) {
        let target = dialog.remote_target.as_str();
        let host = target.split_once('@').map_or(target, |(_, host)| host);
        let host = host.split(';').next().unwrap_or(host);
        self.server = host.parse().expect("the switch gives addresses");
    }

    /// Responses go where their request came from.
    fn source_of(&self, request: &Request) -> SocketAddr {
        self.sources.get(&key(request)).copied().unwrap_or(self.server)
    }

    fn send_to(&mut self, bytes: &[u8], to: SocketAddr) {
        match &mut self.wire {
            Wire::Udp(socket) => {
                let _ = socket.send_to(bytes, to);
            }
            Wire::Tcp(stream, _) => {
                let _ = stream.write_all(bytes);
            }
        }
    }

    /// It is as if what came had been lost: what is said again is heard.
    pub(crate) fn has_heard_nothing(&mut self) {
        self.seen.clear();
        self.refused.clear();
    }

    /// The next final response.
    pub(crate) fn response(&mut self) -> Response {
        self.take("a final response", |message| match message {
            Message::Response(response) if response.status.is_final() => Some(response.clone()),
            _ => None,
        })
    }

    /// The next final response to that method.
    pub(crate) fn response_to(&mut self, method: &Method) -> Response {
        self.take(&format!("a final response to {method}"), |message| match message {
            Message::Response(response)
                if response.status.is_final()
                    && response.cseq().is_some_and(|cseq| cseq.method == *method) =>
            {
                Some(response.clone())
            }
            _ => None,
        })
    }

    /// The next response with that status.
    pub(crate) fn response_with(&mut self, status: u16) -> Response {
        self.take(&format!("a {status}"), |message| match message {
            Message::Response(response) if response.status.0 == status => Some(response.clone()),
            _ => None,
        })
    }

    /// The next request of that method.
    pub(crate) fn request_of(&mut self, method: &Method) -> Request {
        self.take(&format!("a request {method}"), |message| match message {
            Message::Request(request) if request.method == *method => Some(request.clone()),
            _ => None,
        })
    }

    /// Whether anything of that kind comes while `time` passes.
    pub(crate) fn comes(&mut self, time: Duration, wanted: impl Fn(&Message) -> bool) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.inbox.iter().any(&wanted) {
                return true;
            }
            self.read(deadline);
        }
        false
    }

    /// The server closes the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let Wire::Tcp(stream, _) = &mut self.wire else { return false };
        stream.set_read_timeout(Some(SOON)).expect("a time");
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    fn take<T>(&mut self, what: &str, wanted: impl Fn(&Message) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            for index in 0..self.inbox.len() {
                if let Some(found) = wanted(&self.inbox[index]) {
                    self.inbox.remove(index);
                    return found;
                }
            }
            assert!(
                Instant::now() < deadline,
                "{} waits for {what}, has {:#?}",
                self.user,
                self.inbox
            );
            self.read(deadline);
        }
    }

    /// Reads once, for a moment at most.
    fn read(&mut self, deadline: Instant) {
        let wait = deadline.saturating_duration_since(Instant::now());
        let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(100));
        let mut buffer = vec![0_u8; 66_000];
        let mut found = Vec::new();
        match &mut self.wire {
            Wire::Udp(socket) => {
                socket.set_read_timeout(Some(wait)).expect("a time");
                if let Ok((length, source)) = socket.recv_from(&mut buffer) {
                    buffer.truncate(length);
                    found.push((buffer.into(), source));
                }
            }
            Wire::Tcp(stream, framer) => {
                stream.set_read_timeout(Some(wait)).expect("a time");
                if let Ok(length) = stream.read(&mut buffer) {
                    framer.push(&buffer[..length]);
                }
                while let Some(item) = framer.next_item() {
                    match item {
                        StreamItem::Message(bytes) => found.push((bytes, self.server)),
                        StreamItem::Ping => {}
                        StreamItem::Broken(error, _) => panic!("the server wrote {error:?}"),
                    }
                }
            }
        }
        for (bytes, source) in found {
            if let Ok(message) = Message::parse(&bytes) {
                let first = self.seen.insert(bytes);
                if let Message::Request(request) = &message {
                    self.sources.insert(key(request), source);
                }
                self.keep(message, first);
            }
        }
    }

    fn keep(&mut self, message: Message, first: bool) {
        if let Err(wrong) = self.dialogs.judge(&message) {
            panic!("{} is told what nobody may say in a dialog: {wrong}\n{message:#?}", self.user);
        }
        self.repeats.heard(&message);
        if let Message::Response(response) = &message
            && response.status.is_success()
            && let Some(ack) = self.acknowledged.get(&acknowledged(response)).cloned()
        {
            return self.send(&ack);
        }
        if let Message::Response(response) = &message
            && response.status.0 >= 300
            && let Some(branch) = response.top_via().and_then(|via| via.branch().map(str::to_owned))
            && !self.refused.insert(branch)
        {
            return;
        }
        if let Message::Request(request) = &message {
            if let Some(answer) = self.answered.get(&key(request)).cloned() {
                return self.send_to(&answer, self.source_of(request));
            }
            let is_ping = request.method == Method::Options
                && request.to().is_some_and(|to| to.tag().is_none());
            if is_ping {
                let request = request.clone();
                self.respond(&request, 200, "ping", None);
                return;
            }
        }
        if first {
            self.inbox.push_back(message);
        }
    }

    fn via(&self) -> String {
        let transport = if self.is_udp() { "UDP" } else { "TCP" };
        format!("SIP/2.0/{transport} {};branch=z9hG4bK{};rport", self.local, unique("branch"))
    }

    fn is_udp(&self) -> bool {
        matches!(self.wire, Wire::Udp(_))
    }
}

/// A callee's dialog once it has answered with `tag`.
pub(crate) fn callee_dialog(invite: &Request, tag: &str) -> Dialog {
    Dialog::from_request(invite, tag).expect("an INVITE with a Contact")
}

/// Session description of our phones: PCMU and telephone-event at `port`.
pub(crate) fn sdp(port: u16, version: u32, direction: &str) -> String {
    sdp_at(own_ip().into(), port, version, direction)
}

/// The same of a phone that is elsewhere.
pub(crate) fn sdp_at(ip: IpAddr, port: u16, version: u32, direction: &str) -> String {
    let kind = if ip.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\no=- 4711 {version} IN {kind} {ip}\r\ns=-\r\nc=IN {kind} {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na={direction}\r\n"
    )
}

/// Where the first audio line of a body wants its RTP.
pub(crate) fn audio_address(body: &[u8]) -> SocketAddr {
    let text = String::from_utf8_lossy(body);
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let address = line("c=IN IP4 ").or_else(|| line("c=IN IP6 ")).expect("a c= line");
    let address = address.trim().parse().expect("an address");
    let port = line("m=audio ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    SocketAddr::new(address, port.expect("an audio line"))
}

/// `From`, `To` … of a message as they are compared.
pub(crate) fn tag_of(value: Option<NameAddr<'_>>) -> String {
    value.and_then(|value| value.tag()).expect("a tag").into_owned()
}

fn set_sdp(request: &mut Request, sdp: Option<&str>) {
    if let Some(sdp) = sdp {
        request.headers.push(HeaderName::ContentType, "application/sdp");
        request.body = sdp.to_owned().into();
    }
}

/// The INVITE that a 2xx answers: its repeats are acknowledged again (RFC 3261 §13.2.2.4).
fn acknowledged(response: &Response) -> String {
    let cseq = response.cseq().map(|cseq| format!("{} {}", cseq.number, cseq.method));
    format!("{} {}", cseq.unwrap_or_default(), response.call_id().unwrap_or_default())
}

/// A server transaction (RFC 3261 §17.2.3).
fn key(request: &Request) -> String {
    let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
    format!("{} {}", request.method, branch.unwrap_or_default())
}

/// Never the same twice, in any process.
fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{number}", std::process::id())
}
