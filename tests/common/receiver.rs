//! An HTTP server that is told of events: keeps what came, checks every signature, and behaves as the test wants.

use super::{SOON, eventually};
use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sha2::Sha256;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
    /// What it was answered.
    pub(crate) status: u16,
}

impl Post {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// The event that it tells of.
    pub(crate) fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// It was signed with this secret, a moment ago.
    pub(crate) fn check_signature(&self, secret: &str) {
        let engine = base64::engine::general_purpose::STANDARD;
        let key = secret.strip_prefix("whsec_").expect("a prefix");
        let key = engine.decode(key).expect("base64");
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(&self.body);
        let expect = format!("v1,{}", engine.encode(mac.finalize().into_bytes()));
        assert_eq!(self.header("webhook-signature"), expect);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let age = now.expect("a clock").as_secs().abs_diff(at.parse().expect("seconds"));
        assert!(age < 60, "{age} s old");
        assert_eq!(self.event()["id"].to_string(), id);
    }
}

/// What a request is answered, and after which time.
type Behaviour = dyn Fn(&Post) -> (u16, Duration) + Send;

/// The server.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    came: Arc<Mutex<Vec<Post>>>,
    behaviour: Arc<Mutex<Box<Behaviour>>>,
}

impl Receiver {
    /// One that takes all.
    pub(crate) fn start() -> Self {
        Self::listening(None)
    }

    /// The same by HTTPS.
    pub(crate) fn start_secure(config: Arc<ServerConfig>) -> Self {
        Self::listening(Some(config))
    }

    fn listening(secure: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if secure.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let came: Arc<Mutex<Vec<Post>>> = Arc::default();
        let taking: Box<Behaviour> = Box::new(|_| (200, Duration::ZERO));
        let behaviour = Arc::new(Mutex::new(taking));
        let (posts, behaves) = (Arc::clone(&came), Arc::clone(&behaviour));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (posts, behaves) = (Arc::clone(&posts), Arc::clone(&behaves));
                let secure = secure.clone();
                thread::spawn(move || match secure.map(ServerConnection::new) {
                    None => serve(stream, &posts, &behaves),
                    // Who does not trust us says so, and nothing else.
                    Some(connection) => {
                        serve(StreamOwned::new(connection.ok()?, stream), &posts, &behaves)
                    }
                });
            }
        });
        Self { address, scheme, came, behaviour }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/in", self.scheme, self.address)
    }

    /// From now on.
    pub(crate) fn behaves(&self, how: impl Fn(&Post) -> (u16, Duration) + Send + 'static) {
        *self.behaviour.lock().expect("no panic") = Box::new(how);
    }

    /// All that came.
    pub(crate) fn came(&self) -> Vec<Post> {
        self.came.lock().expect("no panic").clone()
    }

    /// The events that it took, in their order; what came twice stands where it came first.
    pub(crate) fn taken(&self) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        for post in self.came().iter().filter(|post| post.status == 200) {
            let event = post.event();
            if !events.iter().any(|known| known["id"] == event["id"]) {
                events.push(event);
            }
        }
        events
    }

    /// Waits until it took so many events.
    pub(crate) fn takes(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} events are taken"), SOON * 3, || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
    }
}

/// One connection, request after request.
fn serve(
    stream: impl Read + Write,
    came: &Mutex<Vec<Post>>,
    behaviour: &Mutex<Box<Behaviour>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut post = Post { path, headers, body: Vec::new(), at: Instant::now(), status: 0 };
        let length = post.header("content-length").parse().ok()?;
        post.body = vec![0; length];
        reader.read_exact(&mut post.body).ok()?;
        let (status, delay) = behaviour.lock().expect("no panic")(&post);
        post.status = status;
        thread::sleep(delay);
        came.lock().expect("no panic").push(post);
        let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: 2\r\n\r\nok");
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}
