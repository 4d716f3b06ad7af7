//! Both ends of a link on real sockets: in clear on loopback, encrypted between the addresses of an interface.

use super::*;
use crate::control::hello::Role;
use crate::ids::{Incarnation, NodeName, SessionId};
use crate::net::local_address::local_address_towards;
use tokio::net::TcpListener;

fn hello(name: &str, role: Role) -> Hello {
    let name = NodeName(name.into());
    Hello { version: VERSION, name, incarnation: Incarnation(1), role, control: Vec::new() }
}

fn secrets(texts: &[&str]) -> Secrets {
    Secrets(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
}

/// An address of this machine that is not loopback, if it has one.
fn outer_address() -> Option<core::net::IpAddr> {
    let address = local_address_towards([192, 0, 2, 77].into())?;
    (!address.is_loopback()).then_some(address)
}

type Ends = (Result<ControlLink, LinkError>, Result<ControlLink, LinkError>);

async fn link(address: core::net::IpAddr, dialing: &Secrets, accepting: &Secrets) -> Ends {
    let listener = TcpListener::bind((address, 0)).await.expect("bind");
    let to = listener.local_addr().expect("bound");
    let accepted = async {
        // A dialer tries each of its secrets on a connection of its own.
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let result = accept(stream, hello("media", Role::Media), accepting).await;
            if result.is_ok() || dialing.0.len() == 1 {
                return result;
            }
        }
    };
    tokio::join!(dial(to, hello("signaling", Role::Signaling), dialing), accepted)
}

fn large_report() -> Frame {
    let digits = "5".repeat(200_000);
    let act = crate::control::Act::SendDigits { number: 1, leg: crate::ids::LegId(0), digits };
    let spec = crate::control::SessionSpec { acts: vec![act], ..Default::default() };
    let apply = crate::control::Apply {
        session: SessionId(1),
        epoch: crate::ids::Epoch(1),
        rev: crate::ids::Rev(1),
        spec,
    };
    Frame::Request { id: 1, request: crate::control::Request::Apply(apply) }
}

#[tokio::test]
async fn frames_pass_both_ways_in_clear_and_encrypted() {
    let loopback = core::net::IpAddr::from([127, 0, 0, 1]);
    for address in [Some(loopback), outer_address()].into_iter().flatten() {
        let known = secrets(&["s3cret"]);
        let (dialed, accepted) = link(address, &known, &known).await;
        let (mut dialed, mut accepted) = (dialed.expect("dialed"), accepted.expect("accepted"));
        assert_eq!((&*dialed.peer.name.0, &*accepted.peer.name.0), ("media", "signaling"));
        for number in 0..3 {
            let frame = Frame::ReportAck { session: SessionId(7), number };
            dialed.sender.send(frame.clone()).await.expect("open");
            assert_eq!(accepted.receiver.recv().await, Some(frame));
            accepted.sender.send(large_report()).await.expect("open");
            assert_eq!(dialed.receiver.recv().await, Some(large_report()));
        }
        while dialed.rtt_us.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        drop(dialed);
        assert_eq!(accepted.receiver.recv().await, None, "the other end was dropped");
    }
}

#[tokio::test]
async fn an_outsider_is_refused_and_a_former_secret_is_not() {
    let Some(address) = outer_address() else { return };
    let (new, old) = (secrets(&["new", "old"]), secrets(&["old"]));
    let (dialed, accepted) = link(address, &secrets(&["wrong"]), &new).await;
    assert!(matches!(dialed, Err(LinkError::Secret)), "{dialed:?}");
    assert!(matches!(accepted, Err(LinkError::Secret)), "{accepted:?}");
    for (dialing, accepting) in [(&old, &new), (&new, &old)] {
        let (dialed, accepted) = link(address, dialing, accepting).await;
        assert!(dialed.is_ok() && accepted.is_ok());
    }
}

#[tokio::test]
async fn garbage_oversize_and_silence_end_a_link() {
    let plain = preamble(PLAIN);
    let hello_frame = Frame::Hello(hello("stranger", Role::Signaling)).encode(VERSION);
    let mut greeting = plain.to_vec();
    greeting.extend_from_slice(&u32::try_from(hello_frame.len()).expect("short").to_be_bytes());
    greeting.extend_from_slice(&hello_frame);
    let with = |tail: &[u8]| [&greeting[..], tail].concat();
    // (bytes of the stranger, a link comes about)
    let table: [(Vec<u8>, bool); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
        ([&plain[..], &[0, 0, 0, 1, 9]].concat(), false),
        ([&plain[..], &[255; 8]].concat(), false),
        (with(&[0, 0, 0, 3, 0, 1, 99]), true),
        (with(&[255; 4]), true),
        (with(&[]), true),
    ];
    for (bytes, links) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut stranger =
            TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connect");
        let (stream, _) = listener.accept().await.expect("accept");
        stranger.write_all(&bytes).await.expect("write");
        let known = secrets(&["s"]);
        let result = accept(stream, hello("media", Role::Media), &known).await;
        assert_eq!(result.is_ok(), links, "{bytes:?}");
        if let Ok(mut link) = result {
            assert_eq!(link.receiver.recv().await, None, "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn nothing_in_clear_from_outside() {
    let Some(address) = outer_address() else { return };
    let listener = TcpListener::bind((address, 0)).await.expect("bind");
    let to = listener.local_addr().expect("bound");
    let mut stranger = TcpStream::connect(to).await.expect("connect");
    let (stream, _) = listener.accept().await.expect("accept");
    stranger.write_all(&preamble(PLAIN)).await.expect("write");
    let result = accept(stream, hello("media", Role::Media), &secrets(&["s"])).await;
    assert!(matches!(result, Err(LinkError::Secret)), "{result:?}");
}

#[tokio::test]
async fn a_taken_port_gives_way_to_the_next() {
    let first = listen("127.0.0.1:7070".parse().expect("literal")).await.expect("free");
    let taken = first.local_addr().expect("bound");
    let second = listen(taken).await.expect("the next one").local_addr().expect("bound");
    assert!(second.port() > taken.port() && PORTS.contains(&second.port()));
    let any = listen("127.0.0.1:0".parse().expect("literal")).await.expect("any");
    let outside = any.local_addr().expect("bound");
    let after = listen(outside).await.expect("the next one").local_addr().expect("bound");
    assert!(after.port() > outside.port());
}
