//! A phone for tests of a signaling node: says what it is told, answers challenges, waits for what it expects.

use core::net::SocketAddr;
use core::time::Duration;
use holdfast::sip::{HeaderName, Message, Method, Request, Response, digest};
use tokio::net::UdpSocket;

/// Anything that takes longer failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A phone over UDP.
#[derive(Debug)]
pub struct Phone {
    pub extension: String,
    pub password: String,
    pub local: SocketAddr,
    pub server: SocketAddr,
    pub socket: UdpSocket,
    /// Requests made so far: numbers Call-IDs and branches.
    count: u32,
}

/// What makes a request of a phone.
#[derive(Clone, Debug)]
pub struct Draft {
    pub method: &'static str,
    pub uri: String,
    pub to: String,
    pub call_id: String,
    pub cseq: u32,
    pub branch: String,
    /// Further header lines, each with its line end.
    pub more: String,
    pub body: String,
}

impl Phone {
    pub async fn new(server: SocketAddr, extension: &str, password: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let local = socket.local_addr().expect("bound");
        let (extension, password) = (extension.to_owned(), password.to_owned());
        Self { extension, password, local, server, socket, count: 0 }
    }

    /// A request outside a dialog.
    pub fn draft(&mut self, method: &'static str, to: &str) -> Draft {
        self.count += 1;
        let (extension, port, count) = (&self.extension, self.local.port(), self.count);
        Draft {
            method,
            uri: format!("sip:{to}@{}", self.server),
            to: format!("<sip:{to}@{}>", self.server),
            call_id: format!("{extension}-{port}-{count}"),
            cseq: 1,
            branch: format!("z9hG4bK-{extension}-{port}-{count}"),
            more: String::new(),
            body: String::new(),
        }
    }

    pub fn text(&self, draft: &Draft) -> String {
        let Draft { method, uri, to, call_id, cseq, branch, more, body } = draft;
        let (extension, local) = (&self.extension, self.local);
        let content = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch={branch};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{extension}@{}>;tag=from-{extension}\r\nTo: {to}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{extension}@{local}>\r\n{more}{content}Content-Length: {}\r\n\r\n{body}",
            self.server,
            body.len()
        )
    }

    pub async fn send(&self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub async fn send_bytes(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server).await.expect("sent");
    }

    pub async fn receive_bytes(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let wait = tokio::time::timeout(PATIENCE, self.socket.recv_from(&mut buffer));
        let (length, _) = wait.await.expect("something comes in time").expect("received");
        buffer.truncate(length);
        buffer
    }

    pub async fn receive(&self) -> Message {
        Message::parse(&self.receive_bytes().await.into()).expect("the server sends good messages")
    }

    /// The next response; a request in between is a failure.
    pub async fn response(&self) -> Response {
        match self.receive().await {
            Message::Response(response) => response,
            Message::Request(request) => panic!("{} came instead of a response", request.method),
        }
    }

    /// The next request; a response in between is a failure.
    pub async fn request(&self, method: Method) -> Request {
        match self.receive().await {
            Message::Request(request) if request.method == method => request,
            other => panic!("no {method} but {other:?}"),
        }
    }

    /// Sends and gives the first response.
    pub async fn ask(&self, draft: &Draft) -> Response {
        self.send(&self.text(draft)).await;
        self.response().await
    }

    /// Answers the challenge in `refused`: the same request again with credentials.
    pub fn authenticated(&mut self, draft: &Draft, refused: &Response) -> Draft {
        let challenge = refused.headers.get(&HeaderName::WwwAuthenticate).expect("a challenge");
        let method = Method::from(draft.method);
        let (user, password) = (&self.extension, &self.password);
        let credentials =
            digest::respond(challenge, &method, &draft.uri, user, password, "cnonce", 1)
                .expect("a challenge that can be answered");
        self.count += 1;
        let mut again = draft.clone();
        again.cseq += 1;
        again.branch = format!("{}-{}", draft.branch, self.count);
        again.more.push_str(&format!("Authorization: {credentials}\r\n"));
        again
    }

    /// Sends, answers the challenge, gives what came then.
    pub async fn ask_authenticated(&mut self, draft: &Draft) -> (Draft, Response) {
        let refused = self.ask(draft).await;
        assert_eq!(refused.status.0, 401, "{refused:?}");
        let again = self.authenticated(draft, &refused);
        let response = self.ask(&again).await;
        (again, response)
    }

    pub async fn register(&mut self) -> Response {
        let mut draft = self.draft("REGISTER", "");
        draft.uri = format!("sip:{}", self.server);
        draft.to = format!("<sip:{}@{}>", self.extension, self.server);
        self.ask_authenticated(&draft).await.1
    }

    /// Answers a request of the server.
    pub async fn answer(&self, request: &Request, status: u16, sdp: Option<&str>) {
        let mut response = request
            .response(holdfast::sip::Status(status), Some(&format!("to-{}", self.extension)));
        let contact = format!("<sip:{}@{}>", self.extension, self.local);
        response.headers.push(HeaderName::Contact, contact);
        if let Some(sdp) = sdp {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = sdp.to_owned().into();
        }
        self.send_bytes(&response.to_bytes()).await;
    }
}

/// An offer or answer of G.711 at a port.
pub fn sdp(port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
    )
}
