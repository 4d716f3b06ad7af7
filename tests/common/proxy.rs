//! A way through TCP that can be cut: both ends see their connections break, and nobody gets through until it heals. Or
//! it can be long: what goes in comes out later.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces that are on their way at a time; who says more waits.
const ON_THE_WAY: usize = 4_096;

/// The way.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    is_open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    delay_ms: Arc<AtomicU64>,
}

impl Proxy {
    /// To a `host:port`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (is_open, streams) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<_>>>::default());
        let (target, open, all) = (target.to_owned(), Arc::clone(&is_open), Arc::clone(&streams));
        let delay_ms = Arc::<AtomicU64>::default();
        let delay = Arc::clone(&delay_ms);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(&target);
                if let (true, Ok(far)) = (open.load(Ordering::SeqCst), far) {
                    join(&near, &far, &delay);
                    all.lock().expect("no panic").extend([near, far]);
                }
            }
        });
        Self { address, is_open, streams, delay_ms }
    }

    pub(crate) fn cut(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn heal(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    /// What anybody says from now on takes so long, either way.
    pub(crate) fn delay(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).expect("a time for a test");
        self.delay_ms.store(time, Ordering::SeqCst);
    }
}

/// What comes from one goes to the other, until one of them ends.
fn join(near: &TcpStream, far: &TcpStream, delay_ms: &Arc<AtomicU64>) {
    for (from, to) in [(near, far), (far, near)] {
        let (mut from, mut to) =
            (from.try_clone().expect("a handle"), to.try_clone().expect("one"));
        let (sender, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
        let delay_ms = Arc::clone(delay_ms);
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = from.read(&mut buffer) {
                let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::SeqCst));
                let piece = buffer[..length].to_vec();
                if sender.send((due, piece)).is_err() || length == 0 {
                    break;
                }
            }
        });
        thread::spawn(move || {
            for (due, piece) in pieces {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if piece.is_empty() || to.write_all(&piece).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
