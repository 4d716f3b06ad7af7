//! Connections on which a request leaves in one piece: by themselves they write its head, then its body, and are asked
//! before and after each use whether they are open still.
//!
//! Invariant: nothing is kept back while an answer is waited for.

use crate::net::clock;
use crate::time::Timestamp;
use core::time::Duration;
use std::io;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// More than this leaves at once.
const PIECE: usize = 64 * 1024;
/// Who answered so short a time ago is there still: to ask the kernel takes three calls. If not, the request is made
/// again on another connection.
const FRESH: Duration = Duration::from_secs(1);

/// Behind a connector that makes connections.
#[derive(Debug)]
pub(super) struct Gathering;

impl<In: Transport> Connector<In> for Gathering {
    type Out = Gathered<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        made: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let (input, output) =
            (details.config.input_buffer_size(), details.config.output_buffer_size());
        let gathered = |connection| Gathered {
            connection,
            buffers: LazyBuffers::new(input, output),
            request: Vec::new(),
            is_waiting: false,
            answered: None,
        };
        Ok(made.map(gathered))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gathered<In> {
    connection: In,
    buffers: LazyBuffers,
    /// What is not written yet.
    request: Vec<u8>,
    /// Nothing of the answer has come yet.
    is_waiting: bool,
    /// When the other end was heard last.
    answered: Option<Timestamp>,
}

/// The other end had closed a connection before the request came.
#[derive(Debug, thiserror::Error)]
#[error("the receiver closed the connection")]
pub(super) struct Stale;

/// It says so.
pub(super) fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Io(why) if why.get_ref().is_some_and(|why| why.is::<Stale>()))
}

impl<In: Transport> Gathered<In> {
    fn write(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let mut rest = &self.request[..];
        while !rest.is_empty() {
            let output = self.connection.buffers().output();
            let (piece, behind) = rest.split_at(rest.len().min(output.len()));
            output[..piece.len()].copy_from_slice(piece);
            self.connection.transmit_output(piece.len(), timeout)?;
            rest = behind;
        }
        self.request.clear();
        Ok(())
    }

    fn read(&mut self, timeout: NextTimeout) -> Result<usize, Error> {
        self.write(timeout)?;
        self.connection.maybe_await_input(timeout)?;
        let came = self.connection.buffers();
        let room = self.buffers.input_append_buf();
        let count = came.input().len().min(room.len());
        room[..count].copy_from_slice(&came.input()[..count]);
        came.input_consume(count);
        self.buffers.input_appended(count);
        Ok(count)
    }
}

impl<In: Transport> Transport for Gathered<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.is_waiting = true;
        self.request.extend(&self.buffers.output()[..amount]);
        if self.request.len() < PIECE {
            return Ok(());
        }
        match self.write(timeout) {
            Err(Error::Io(_)) if self.answered.is_some() => Err(io::Error::other(Stale).into()),
            written => written,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let read = self.read(timeout);
        let was_used = self.is_waiting && self.answered.is_some();
        match read {
            Ok(0) | Err(Error::Io(_)) if was_used => Err(io::Error::other(Stale).into()),
            Ok(count) => {
                self.is_waiting &= count == 0;
                self.answered = Some(clock::now());
                Ok(count > 0)
            }
            Err(error) => Err(error),
        }
    }

    fn is_open(&mut self) -> bool {
        let is_fresh = self.answered.is_some_and(|at| clock::now() < at + FRESH);
        let says_more = !self.connection.buffers().input().is_empty();
        !says_more && (is_fresh || self.connection.is_open())
    }

    fn is_tls(&self) -> bool {
        self.connection.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::super::HttpClient;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}/in", listener.local_addr().expect("an address"));
        (listener, url)
    }

    /// What one call of the kernel has of a request.
    fn read_once(stream: &mut TcpStream) -> String {
        let mut buffer = [0; 4_096];
        let length = stream.read(&mut buffer).expect("a request");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Up to the end of its body.
    fn read_whole(stream: &mut TcpStream, body: &[u8]) {
        let mut came = Vec::new();
        while !came.ends_with(body) {
            let mut buffer = [0; 65_536];
            let length = stream.read(&mut buffer).expect("more of it");
            assert!(length > 0, "{} bytes", came.len());
            came.extend(&buffer[..length]);
        }
    }

    #[test]
    fn a_request_comes_in_one_piece_and_its_connection_is_kept() {
        const POSTS: usize = 50;
        let (listener, url) = listen();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the connection");
            for _ in 0..POSTS {
                let request = read_once(&mut stream);
                assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
                stream.write_all(ANSWER).expect("taken");
            }
        });
        let client = HttpClient::new(Arc::default());
        for _ in 0..POSTS {
            assert_eq!(client.post(&url, &[("x", "y")], b"{\"a\":1}"), Ok(200));
        }
        receiver.join().expect("every request was whole");
    }

    #[test]
    fn what_is_larger_than_a_piece_comes_whole() {
        let (listener, url) = listen();
        let body: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        let expect = body.clone();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the connection");
            read_whole(&mut stream, &expect);
            stream.write_all(ANSWER).expect("taken");
        });
        assert_eq!(HttpClient::new(Arc::default()).post(&url, &[], &body), Ok(200));
        receiver.join().expect("all of it came");
    }

    /// It answers, and is gone without a word: the next post finds it out, and comes by another connection.
    #[test]
    fn a_connection_that_was_closed_meanwhile_costs_no_post() {
        let (listener, url) = listen();
        let (closed, is_closed) = std::sync::mpsc::channel();
        let receiver = thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().expect("a connection");
                read_once(&mut stream);
                stream.write_all(ANSWER).expect("taken");
                drop(stream);
                closed.send(()).expect("awaited");
            }
            listener
        });
        let client = HttpClient::new(Arc::default());
        for _ in 0..3 {
            assert_eq!(client.post(&url, &[], b"{}"), Ok(200));
            is_closed.recv().expect("closed");
        }
        // The same of a post whose first piece leaves before its last is there.
        let body: Vec<u8> = (0..600_000_u32).map(|number| number as u8).collect();
        let (listener, expect) = (receiver.join().expect("no panic"), body.clone());
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            read_whole(&mut stream, &expect);
            stream.write_all(ANSWER).expect("taken");
            drop(stream);
            listener
        });
        assert_eq!(client.post(&url, &[], &body), Ok(200));
        // A new connection that ends without an answer is the receiver's failure, and tried once.
        let listener = receiver.join().expect("no panic");
        let refusing = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            read_once(&mut stream);
            drop(stream);
            listener.set_nonblocking(true).expect("set");
            listener
        });
        assert!(client.post(&url, &[], b"{}").is_err());
        let listener = refusing.join().expect("no panic");
        assert!(listener.accept().is_err(), "nobody came again");
    }
}
