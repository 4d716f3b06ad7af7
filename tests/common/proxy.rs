//! A way through TCP that can be cut: both ends see their connections break, and nobody gets through until it heals.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The way.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    is_open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// To a `host:port`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (is_open, streams) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<_>>>::default());
        let (target, open, all) = (target.to_owned(), Arc::clone(&is_open), Arc::clone(&streams));
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(&target);
                if let (true, Ok(far)) = (open.load(Ordering::SeqCst), far) {
                    join(&near, &far);
                    all.lock().expect("no panic").extend([near, far]);
                }
            }
        });
        Self { address, is_open, streams }
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
}

/// What comes from one goes to the other, until one of them ends.
fn join(near: &TcpStream, far: &TcpStream) {
    for (from, to) in [(near, far), (far, near)] {
        let (mut from, mut to) =
            (from.try_clone().expect("a handle"), to.try_clone().expect("one"));
        thread::spawn(move || {
            let _ = copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
