//! Sixty probes: what phones, trunks and attackers send that SIP parsers get wrong.

use crate::{request, verdict, wire};
use bytes::Bytes;
use holdfast::sip::digest::Credentials;
use holdfast::sip::uri::Scheme;
use holdfast::sip::{HeaderName, Message, MessageError, Method, NameAddr, Request, Uri, Via};

const BASE: &str = "INVITE sip:bob@y.com SIP/2.0
Via: SIP/2.0/UDP x.com;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@x.com>;tag=1
To: <sip:bob@y.com>
Call-ID: c@x.com
CSeq: 1 INVITE
Contact: <sip:alice@x.com>
Content-Length: {len}

v=0
";

/// The base message with one piece replaced.
#[track_caller]
fn probe(from: &str, to: &str) -> Bytes {
    assert!(BASE.contains(from), "{from}");
    wire(&BASE.replacen(from, to, 1))
}

const NOTHING: Option<&str> = None;

#[test]
fn request_uris() {
    // text, scheme, user, host, port
    for (text, scheme, user, host, port) in [
        ("sip:bob.smith@y.com", Scheme::Sip, Some("bob.smith"), Some("y.com"), None),
        ("sip:b@[2001:db8::1]:5060", Scheme::Sip, Some("b"), Some("[2001:db8::1]"), Some(5060)),
        ("tel:+15551234;phone-context=+1", Scheme::Tel, Some("+15551234"), NOTHING, None),
        ("urn:service:sos", Scheme::Urn, Some("service:sos"), NOTHING, None),
        ("sip:user;par=u%40x@y.com", Scheme::Sip, Some("user;par=u@x"), Some("y.com"), None),
        ("sip:*43@y.com", Scheme::Sip, Some("*43"), Some("y.com"), None),
        ("sip:%2A43@y.com", Scheme::Sip, Some("*43"), Some("y.com"), None),
        ("sip:%23@y.com", Scheme::Sip, Some("#"), Some("y.com"), None),
        (
            "sip:alice;line=4711;ob@y.com",
            Scheme::Sip,
            Some("alice;line=4711;ob"),
            Some("y.com"),
            None,
        ),
        ("sip:y.com;transport=tcp", Scheme::Sip, None, Some("y.com"), None),
        ("sips:b@y.com:5061", Scheme::Sips, Some("b"), Some("y.com"), Some(5061)),
        ("SIP:B@Y.com", Scheme::Sip, Some("B"), Some("Y.com"), None),
        ("sip:a%00b@y.com", Scheme::Sip, Some("a\0b"), Some("y.com"), None),
        ("sip:bob@signaling_1:5060", Scheme::Sip, Some("bob"), Some("signaling_1"), Some(5060)),
    ] {
        let uri = request(&probe("sip:bob@y.com SIP", &format!("{text} SIP"))).uri;
        assert_eq!(uri.as_str(), text, "byte-exact");
        assert_eq!(uri.scheme(), scheme, "{text}");
        assert_eq!(uri.user().as_deref(), user, "{text}");
        assert_eq!(uri.host().map(|host| host.to_string()).as_deref(), host, "{text}");
        assert_eq!(uri.port(), port, "{text}");
    }
}

#[test]
fn verdicts() {
    for (from, to, expect) in [
        ("INVITE sip", "FOO sip", "400"),
        ("INVITE sip", "invite sip", "400"),
        ("INVITE sip:bob@y.com SIP/2.0", "INVITE sip:bob@y.com SIP/3.0", "505"),
        ("INVITE sip:bob@y.com SIP/2.0", "INVITE sip:bob@y.com", "drop"),
        ("INVITE sip:bob@y.com SIP/2.0", "GET / HTTP/1.1", "drop"),
        ("sip:bob@y.com SIP", "mailto:bob@y.com SIP", "416"),
        ("sip:bob@y.com SIP", "bob SIP", "400"),
        ("sip:bob@y.com SIP", "sip:bob@ SIP", "400"),
        ("sip:bob@y.com SIP", "sip:bob%4@y.com SIP", "400"),
        ("Max-Forwards: 70", "Max-Forwards  : 70", "ok"),
        ("Max-Forwards: 70", "Max-Forwards: 70\nthis line has no colon", "ok"),
        ("Max-Forwards: 70", "Max-Forwards:\n 70", "ok"),
        ("Max-Forwards: 70\n", "", "ok"),
        ("Max-Forwards: 70", "Max-Forwards: many", "400"),
        ("Content-Length: {len}\n", "", "ok"),
        ("Content-Length: {len}", "l: {len}", "ok"),
        ("Content-Length: {len}", "Content-Length: 4000", "400"),
        ("Content-Length: {len}", "Content-Length: 99999999999999999999", "400"),
        ("Content-Length: {len}", "Content-Length: 5\nContent-Length: 6", "400"),
        ("CSeq: 1 INVITE", "CSeq: 1", "400"),
        ("CSeq: 1 INVITE", "CSeq: INVITE", "400"),
        ("CSeq: 1 INVITE", "CSeq: -1 INVITE", "400"),
        ("CSeq: 1 INVITE", "CSeq: 4294967296 INVITE", "400"),
        ("CSeq: 1 INVITE", "CSeq: 1 BYE", "400"),
        ("Call-ID: c@x.com", "i: c@x.com", "ok"),
        ("Call-ID: c@x.com", "Call-ID:", "400"),
        ("From: <sip:alice@x.com>;tag=1", "From: alice", "400"),
        ("From: <sip:alice@x.com>;tag=1", "From: <sip:alice@x.com", "400"),
        ("From: <sip:alice@x.com>;tag=1", "From: <sip:alice@x.com>", "ok"),
        ("Contact: <sip:alice@x.com>", "Contact: <sip:alice@x.com>, *", "ok"),
        ("Via: SIP/2.0/UDP x.com;branch=z9hG4bK1", "Via: SIP/2.0/UDP", "400"),
        ("Via: SIP/2.0/UDP x.com;branch=z9hG4bK1", "v: SIP/2.0/UDP x.com:65536", "400"),
    ] {
        assert_eq!(verdict(&probe(from, to)), expect, "{to}");
    }
    let unknown = BASE.replace("INVITE", "FOO");
    assert_eq!(
        request(&wire(&unknown)).method,
        Method::Other("FOO".to_owned()),
        "we must answer 405"
    );
    let lower = BASE.replace("INVITE", "invite");
    assert_ne!(request(&wire(&lower)).method, Method::Invite, "methods know case");
}

#[test]
fn compact_names() {
    let text = BASE
        .replace("Via:", "v:")
        .replace("From:", "F :")
        .replace("To:", "t:")
        .replace("Call-ID:", "I:")
        .replace("Contact:", "m:")
        .replace("Content-Length: {len}", "c: application/sdp\nk: timer\nl: {len}");
    let compact = request(&wire(&text));
    assert_eq!(compact.headers.get(&HeaderName::Supported), Some("timer"));
    assert_eq!(compact.headers.get(&HeaderName::ContentType), Some("application/sdp"));
    assert!(compact.contact().is_some() && compact.check().is_ok());
}

#[test]
fn vias() {
    let with = |text: &str| {
        request(&probe("Via: SIP/2.0/UDP x.com;branch=z9hG4bK1", &format!("Via: {text}")))
    };
    let two = with("SIP/2.0/UDP a;branch=1, SIP/2.0/TCP b;branch=2");
    let vias = two.headers.elements(&HeaderName::Via).filter_map(Via::parse);
    assert_eq!(vias.filter_map(|via| via.branch()).collect::<Vec<_>>(), ["1", "2"]);
    let v6 = with("SIP/2.0/UDP [2001:db8::2]:5060;received=2001:db8::9;rport=5060;branch=1");
    let via = v6.top_via().expect("a Via");
    assert_eq!(via.received(), "2001:db8::9".parse().ok());
    assert_eq!(via.param("rport"), Some(Some("5060")));
    let quoted = with("SIP/2.0/UDP a;x=\"a;b,c\";branch=1");
    let via = quoted.top_via().expect("a Via");
    assert_eq!((via.param("x"), via.branch()), (Some(Some("\"a;b,c\"")), Some("1")));
    let bare = with("SIP/2.0/UDP a;rport;branch=1");
    assert_eq!(bare.top_via().expect("a Via").param("rport"), Some(None));
}

#[test]
fn name_addrs() {
    let with = |text: &str| probe("Contact: <sip:alice@x.com>", &format!("Contact: {text}"));
    let contact = |text: &str, check: &dyn Fn(&NameAddr<'_>)| {
        check(&request(&with(text)).contact().expect("a Contact"));
    };
    contact(
        "<sip:a@x>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\";reg-id=1",
        &|outbound| {
            assert_eq!(
                outbound.param("+sip.instance").as_deref(),
                Some("<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>")
            );
        },
    );
    let two = request(&with("<sip:a@x>, <sip:b@x>;q=0.5"));
    assert_eq!(two.headers.elements(&HeaderName::Contact).count(), 2);
    contact("\"A, B\" <sip:a,b@x>, sip:c@x", &|first| assert_eq!(first.display_name, "A, B"));
    contact("<sip:a@x;x=\"a;b\">", &|quoted| {
        assert_eq!(quoted.uri.param("x"), Some(Some("\"a;b\"")));
    });
    contact("<sip:a@10.0.0.1:5060;ob;line=x%2b>", &|exact| {
        assert_eq!(exact.uri.as_str(), "sip:a@10.0.0.1:5060;ob;line=x%2b");
    });
    contact("<sip:b@y.com?Replaces=c%40x%3Bto-tag%3D1%3Bfrom-tag%3D2>", &|replaces| {
        let header = Some(("Replaces", "c%40x%3Bto-tag%3D1%3Bfrom-tag%3D2"));
        assert_eq!(replaces.uri.headers().next(), header);
    });
    for (text, name, tag) in [
        (r#""A \"q\" <x>" <sip:a@x> ; tag=1"#, "A \"q\" <x>", Some("1")),
        ("<sip:a@x> ; tag=1", "", Some("1")),
        ("sip:a@x;tag=1", "", Some("1")),
        ("\"\" <sip:a@x>;tag=1", "", Some("1")),
    ] {
        let request = request(&probe("From: <sip:alice@x.com>;tag=1", &format!("From: {text}")));
        let from = request.from().expect("From");
        assert_eq!((&*from.display_name, from.tag().as_deref()), (name, tag), "{text}");
    }
}

#[test]
fn fields_and_bodies() {
    let folded = request(&probe("Max-Forwards: 70", "Subject: one\n\t two\n  three"));
    assert_eq!(folded.headers.get(&HeaderName::Subject), Some("one two three"));
    let routes = request(&probe(
        "Max-Forwards: 70",
        "Record-Route: <sip:p1;lr>\nRecord-Route: <sip:p2;lr>,<sip:p3;lr>",
    ));
    assert_eq!(routes.headers.elements(&HeaderName::RecordRoute).count(), 3);
    let bytes = probe("Max-Forwards: 70", "Subject: caf?").to_vec();
    let latin: Vec<u8> =
        bytes.iter().map(|byte| if *byte == b'?' { 0xE9 } else { *byte }).collect();
    let latin = request(&Bytes::from(latin));
    assert_eq!(latin.headers.get(&HeaderName::Subject), Some("caf\u{FFFD}"));
    assert!(latin.contact().is_some(), "what follows is not lost");
    let mut binary = probe("Content-Length: {len}\n\nv=0\n", "Content-Length: 4\n\n").to_vec();
    binary.extend_from_slice(&[0xFF, 0, 0xFE, b'\n']);
    let binary = request(&Bytes::from(binary));
    assert_eq!(&binary.body[..], [0xFF, 0, 0xFE, b'\n']);
    assert!(binary.to_bytes().ends_with(&[0xFF, 0, 0xFE, b'\n']));
    let doubled = [&probe("v=0", "v=0")[..], &probe("v=0", "v=1")[..]].concat();
    assert_eq!(&request(&Bytes::from(doubled)).body[..], b"v=0\r\n");
    let leading = [b"\r\n\r\n", &probe("v=0", "v=0")[..]].concat();
    assert_eq!(verdict(&Bytes::from(leading)), "ok");
    for keep_alive in ["\r\n\r\n", "\r\n", "\0\0\0\0", "", "\u{0}\u{1}\u{0}\u{8}!\u{12}\u{a4}B"] {
        assert_eq!(verdict(&Bytes::from_static(keep_alive.as_bytes())), "drop", "{keep_alive:?}");
    }
}

#[test]
fn digest_fields() {
    let with = |text: &str| -> Request {
        let authorization = format!(
            "Authorization: Digest username=\"a\", realm=\"r\", nonce=\"n\", response=\"x\", {text}"
        );
        request(&probe("Max-Forwards: 70", &authorization))
    };
    fn credentials(request: &Request) -> Credentials<'_> {
        let value = request.headers.get(&HeaderName::Authorization).expect("kept");
        Credentials::parse(value).expect("credentials")
    }
    let taken = with(
        "algorithm=SHA-256, qop=auth, cnonce=\"c\", nc=0000000a, uri=\"sip:y.com;transport=tcp\"",
    );
    let taken = credentials(&taken);
    assert_eq!(taken.uri, "sip:y.com;transport=tcp");
    assert_eq!((taken.nc, taken.algorithm), (Some("0000000a"), Some("SHA-256")));
    let later = with("uri=\"sip:y\", qop=auth, nc=00000256, cnonce=\"c\"");
    assert_eq!(credentials(&later).nc, Some("00000256"));
    let quoted = with("uri=\"sip:y\", qop=\"auth\", nc=00000001, cnonce=\"a,b\"");
    assert_eq!(credentials(&quoted).cnonce, Some("a,b"));
}

/// What is refused can be answered: Via, From, To, Call-ID and CSeq are there as far as they were.
#[test]
fn refusals_carry_the_request() {
    let Err(MessageError::Refuse(request, status, _)) =
        Message::parse(&probe("sip:bob@y.com SIP", "nobody:knows SIP"))
    else {
        panic!("must be refused");
    };
    let response = request.response(status, Some("t"));
    let expect = "SIP/2.0 416 Unsupported URI Scheme\r\nVia: SIP/2.0/UDP x.com;branch=z9hG4bK1\r\n\
                  From: <sip:alice@x.com>;tag=1\r\nTo: <sip:bob@y.com>;tag=t\r\nCall-ID: c@x.com\r\n\
                  CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&response.to_bytes()), expect);
    assert_eq!(request.uri, Uri::parse("nobody:knows").expect("a URI"));
}
