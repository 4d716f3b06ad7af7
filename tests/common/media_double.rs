//! A media node's double: links to a signaling node, opens "ports" and remembers what it was asked.

use core::net::SocketAddr;
use holdfast::control::hello::{Capacity, Hello, Role};
use holdfast::control::{
    Frame, LegState, Reply, Request, Resume, SessionState, StreamState, StreamStatistics, VERSION,
};
use holdfast::ids::{Incarnation, NodeName};
use holdfast::net::control_link::{self, ControlLink, Secrets};

/// One link to a signaling node.
pub struct MediaDouble {
    link: ControlLink,
    next_port: u16,
}

impl MediaDouble {
    /// Dials and tells its room.
    pub async fn announce(to: SocketAddr, name: &str, secrets: &Secrets) -> Self {
        let hello = Hello {
            version: VERSION,
            name: NodeName(name.into()),
            incarnation: Incarnation(1),
            role: Role::Media,
            control: Vec::new(),
        };
        let link = control_link::dial(to, hello, secrets).await.expect("a link");
        let capacity =
            Capacity { max_sessions: 100, ports: (20_000, 20_999), ..Capacity::default() };
        link.sender.send(Frame::Capacity(capacity)).await.expect("the link is up");
        Self { link, next_port: 20_000 }
    }

    /// The next request, not answered yet.
    pub async fn request(&mut self) -> (u64, Request) {
        loop {
            if let Frame::Request { id, request } =
                self.link.receiver.recv().await.expect("the link is up")
            {
                return (id, request);
            }
        }
    }

    /// Does as it is asked.
    pub async fn comply(&mut self, id: u64, request: &Request) {
        let reply = match request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => {
                let mut legs = Vec::new();
                for leg in &apply.spec.legs {
                    let streams =
                        leg.streams.iter().map(|stream| self.open(stream.index, stream.port));
                    legs.push(LegState { leg: leg.leg, streams: streams.collect() });
                }
                let (session, epoch, rev) = (apply.session, apply.epoch, apply.rev);
                Reply::Applied(SessionState { session, epoch, rev, legs })
            }
            Request::Release(release) => Reply::Released(SessionState {
                session: release.session,
                epoch: release.epoch,
                rev: release.rev,
                legs: Vec::new(),
            }),
        };
        self.link.sender.send(Frame::Reply { id, reply }).await.expect("the link is up");
    }

    fn open(&mut self, index: u8, port: Option<u16>) -> StreamState {
        let port = port.unwrap_or_else(|| {
            self.next_port += 2;
            self.next_port
        });
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        StreamState { index, local, port, statistics: StreamStatistics::default() }
    }

    /// Complies for as long as it lives.
    pub async fn serve(mut self) {
        loop {
            let (id, request) = self.request().await;
            self.comply(id, &request).await;
        }
    }
}
