//! What a UDP phone says again until it is answered (RFC 3261 §17.1, §13.3.1.4): requests, and a 2xx to INVITE. A
//! thread of its own does it, whatever the test waits for meanwhile.

use holdfast::sip::{Message, Method, Request};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timer B, F and H.
const GIVE_UP: Duration = Duration::from_secs(32);

/// One message that waits for its answer.
struct Repeat {
    /// Of the transaction, or of the dialog whose ACK is awaited.
    key: String,
    bytes: Vec<u8>,
    to: SocketAddr,
    due: Instant,
    interval: Duration,
    until: Instant,
}

/// How exactly the times are kept.
const TICK: Duration = Duration::from_millis(20);

/// All of a phone.
#[derive(Default)]
pub(crate) struct Repeats(Arc<Mutex<Vec<Repeat>>>);

impl Repeats {
    /// For a phone that speaks by this socket; ends with it.
    pub(crate) fn over(socket: UdpSocket) -> Self {
        let all = Arc::<Mutex<Vec<Repeat>>>::default();
        let shared = Arc::downgrade(&all);
        thread::spawn(move || run(&shared, &socket));
        Self(all)
    }

    /// A request that was sent; an ACK waits for nothing.
    pub(crate) fn sent(&mut self, request: &Request, to: SocketAddr) {
        if request.method != Method::Ack {
            self.begin(transaction(request), request.to_bytes().to_vec(), to);
        }
    }

    /// A 2xx to an INVITE that was sent.
    pub(crate) fn accepted(&mut self, invite: &Request, bytes: &[u8], to: SocketAddr) {
        self.begin(acknowledgement(invite), bytes.to_vec(), to);
    }

    /// Something came: what it answers is not said again.
    pub(crate) fn heard(&mut self, message: &Message) {
        let key = match message {
            Message::Response(response) => {
                let branch = response.top_via().and_then(|via| via.branch().map(str::to_owned));
                let method = response.cseq().map(|cseq| cseq.method.to_string());
                let is_over = response.status.is_final() || method.as_deref() == Some("INVITE");
                is_over.then(|| {
                    format!("{} {}", method.unwrap_or_default(), branch.unwrap_or_default())
                })
            }
            Message::Request(request) if request.method == Method::Ack => {
                Some(acknowledgement(request))
            }
            Message::Request(_) => None,
        };
        if let Some(key) = key {
            self.lock().retain(|repeat| repeat.key != key);
        }
    }

    fn begin(&mut self, key: String, bytes: Vec<u8>, to: SocketAddr) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|repeat| repeat.key != key);
        all.push(Repeat { key, bytes, to, due: now + T1, interval: T1, until: now + GIVE_UP });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Repeat>> {
        self.0.lock().expect("nobody panics with it")
    }
}

fn run(shared: &Weak<Mutex<Vec<Repeat>>>, socket: &UdpSocket) {
    while let Some(all) = shared.upgrade() {
        let now = Instant::now();
        let mut all = all.lock().expect("nobody panics with it");
        all.retain(|repeat| repeat.until > now);
        for repeat in all.iter_mut().filter(|repeat| repeat.due <= now) {
            repeat.interval = (repeat.interval * 2).min(T2);
            repeat.due = now + repeat.interval;
            let _ = socket.send_to(&repeat.bytes, repeat.to);
        }
        drop(all);
        thread::sleep(TICK);
    }
}

fn transaction(request: &Request) -> String {
    let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
    format!("{} {}", request.method, branch.unwrap_or_default())
}

/// An ACK has the CSeq number of its INVITE, and the dialog's Call-ID.
fn acknowledgement(request: &Request) -> String {
    let sequence = request.cseq().map_or(0, |cseq| cseq.number);
    format!("ack {sequence} {}", request.call_id().unwrap_or_default())
}
