use super::*;
use crate::limits;

const INVITE: &str = "INVITE sip:bob@b.example SIP/2.0\r\n\
Via: SIP/2.0/UDP a.example:5060;branch=z9hG4bKtop;rport, SIP/2.0/TCP c.example;branch=z9hG4bKnext\r\n\
Record-Route: <sip:p1;lr>\r\n\
Max-Forwards: 70\r\n\
From: \"Alice\" <sip:alice@a.example>;tag=88\r\n\
To: Bob <sip:bob@b.example>\r\n\
Call-ID: c1@a.example\r\n\
CSeq: 314159 INVITE\r\n\
Timestamp: 54\r\n\
Contact: <sip:alice@a.example:5060;ob>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 4\r\n\
\r\n\
v=0\n";

fn parse(text: &str) -> Result<Message, MessageError> {
    Message::parse(&Bytes::copy_from_slice(text.as_bytes()))
}

fn invite() -> Request {
    match parse(INVITE) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// "ok", "drop", or the status.
fn verdict(bytes: &[u8]) -> String {
    match Message::parse(&Bytes::copy_from_slice(bytes)) {
        Ok(_) => "ok".to_owned(),
        Err(MessageError::NotSip) => "drop".to_owned(),
        Err(MessageError::Refuse(_, status, _)) => status.to_string(),
    }
}

#[test]
fn a_request_is_read() {
    let request = invite();
    assert_eq!(request.method, Method::Invite);
    assert_eq!(request.uri.as_str(), "sip:bob@b.example");
    assert_eq!(request.from().and_then(|from| from.tag()).as_deref(), Some("88"));
    assert_eq!(request.to().map(|to| to.display_name).as_deref(), Some("Bob"));
    assert_eq!(request.call_id(), Some("c1@a.example"));
    assert_eq!(request.cseq(), Some(CSeq { number: 314_159, method: Method::Invite }));
    assert_eq!(request.top_via().as_ref().and_then(Via::branch), Some("z9hG4bKtop"));
    assert_eq!(
        request.contact().map(|c| c.uri.to_string()).as_deref(),
        Some("sip:alice@a.example:5060;ob")
    );
    assert_eq!(&request.body[..], b"v=0\n");
    assert_eq!(request.headers.get(&HeaderName::ContentLength), None);
    assert_eq!(
        parse(std::str::from_utf8(&request.to_bytes()).expect("UTF-8")),
        Ok(Message::Request(request))
    );
}

#[test]
fn responses_copy_what_they_must() {
    let request = invite();
    let check = |status: u16, tag: Option<&str>, expect: &str| {
        let response = request.response(Status(status), tag);
        assert_eq!(String::from_utf8_lossy(&response.to_bytes()), expect);
    };
    let vias = "Via: SIP/2.0/UDP a.example:5060;branch=z9hG4bKtop;rport, SIP/2.0/TCP c.example;branch=z9hG4bKnext\r\n";
    let from = "From: \"Alice\" <sip:alice@a.example>;tag=88\r\n";
    let rest = "Call-ID: c1@a.example\r\nCSeq: 314159 INVITE\r\n";
    check(
        100,
        None,
        &format!(
            "SIP/2.0 100 Trying\r\n{vias}{from}To: Bob <sip:bob@b.example>\r\n{rest}Timestamp: 54\r\nContent-Length: 0\r\n\r\n"
        ),
    );
    check(
        180,
        Some("t"),
        &format!(
            "SIP/2.0 180 Ringing\r\n{vias}Record-Route: <sip:p1;lr>\r\n{from}To: Bob <sip:bob@b.example>;tag=t\r\n{rest}Content-Length: 0\r\n\r\n"
        ),
    );
    let mut again = request.clone();
    again.headers.set(HeaderName::To, "sip:bob@b.example;tag=x");
    assert_eq!(
        again.response(Status(486), Some("t")).headers.get(&HeaderName::To),
        Some("sip:bob@b.example;tag=x")
    );
    assert_eq!(again.response(Status(486), None).headers.get(&HeaderName::RecordRoute), None);
}

#[test]
fn verdicts() {
    let edit = |from: &str, to: &str| {
        assert!(INVITE.contains(from), "{from}");
        INVITE.replacen(from, to, 1)
    };
    let check = |text: String, expect: &str| assert_eq!(verdict(text.as_bytes()), expect, "{text}");
    check(INVITE.to_owned(), "ok");
    check(format!("\r\n\r\n{INVITE}"), "ok");
    check(format!("{INVITE}trailing bytes"), "ok");
    check(INVITE.replace("\r\n", "\n"), "ok");
    check(edit("SIP/2.0\r\n", "sip/2.0\r\n"), "ok");
    check(edit("SIP/2.0\r\n", "SIP/7.0\r\n"), "505");
    check(edit("SIP/2.0\r\n", "HTTP/1.1\r\n"), "drop");
    check(edit("INVITE sip", "invite sip"), "400");
    check(edit("INVITE sip", "INVITE  sip"), "400");
    check(edit("sip:bob@b.example", "bob"), "400");
    check(edit("sip:bob@b.example", "http://x/"), "416");
    check(edit("sip:bob@b.example", "tel:+123"), "ok");
    check(edit("sip:bob@b.example", "urn:service:sos"), "ok");
    check(edit("Length: 4", "Length: 5"), "400");
    check(edit("Length: 4", "Length: -4"), "400");
    check(edit("Length: 4", "Length: 3\r\nl: 2"), "400");
    check(edit("Length: 4", "Length: 3\r\nl: 3"), "ok");
    check(edit("Length: 4", "Length: "), "400");
    check(edit("Content-Length: 4\r\n", ""), "ok");
    check(edit("Max-Forwards: 70", "Max-Forwards: 256"), "400");
    check(edit("Max-Forwards: 70\r\n", "no colon here\r\n:\r\n bad name: x\r\n"), "ok");
    check(edit("Max-Forwards: 70", "Max-Forwards  : 70"), "ok");
    check(edit("314159 INVITE", "314159 invite"), "400");
    check(edit("314159 INVITE", "2147483648 INVITE"), "400");
    check(edit("314159 INVITE", "2147483647\tINVITE"), "ok");
    check(edit("Call-ID: c1@a.example", "Call-ID: "), "400");
    check(edit("Call-ID: c1@a.example", "X: y"), "400");
    check(edit("From:", "X-From:"), "400");
    check(edit("To: Bob", "To: \"Bob"), "400");
    check(edit("To: Bob", "To: <sip:x@y>\r\nTo: Bob"), "400");
    check(edit("Via:", "X-Via:"), "400");
    check(edit(", SIP/2.0/TCP c", ", SIP/2.0/TCP c,, ;"), "400");
    check(edit("<sip:alice@a.example:5060;ob>", "*"), "ok");
    check(edit("<sip:alice@a.example:5060;ob>", "<sip:alice@a.exa"), "400");
    check(edit("\r\n\r\nv=0\n", ""), "400");
    check(String::new(), "drop");
    check("\r\n\r\n".to_owned(), "drop");
    check("SIP/2.0 200 OK\r\n\r\n".to_owned(), "drop");
}

#[test]
fn refused_requests_can_be_answered() {
    let text = INVITE.replace("SIP/2.0\r\n", "SIP/3.0\r\n").replace("To: Bob", "To: \"Bob");
    let Err(MessageError::Refuse(request, status, _)) = parse(&text) else { panic!("{text}") };
    let response = request.response(status, Some("t"));
    assert_eq!((response.status, response.call_id()), (Status(505), Some("c1@a.example")));
    assert_eq!(response.top_via().as_ref().and_then(Via::branch), Some("z9hG4bKtop"));
}

#[test]
fn responses_are_read_or_dropped() {
    let ok =
        String::from_utf8_lossy(&invite().response(Status(200), Some("t")).to_bytes()).into_owned();
    let check = |from: &str, to: &str, expect: &str| {
        assert!(ok.contains(from), "{from}");
        assert_eq!(verdict(ok.replacen(from, to, 1).as_bytes()), expect, "{to}");
    };
    check("200 OK", "200 OK", "ok");
    check("200 OK", "200 ", "ok");
    check("200 OK", "200", "ok");
    check("200 OK", "200 = 2**3 * 5**2 но сто девяносто девять - простое", "ok");
    check("200 OK", "99 Low", "drop");
    check("200 OK", "700 High", "drop");
    check("200 OK", "4294967301 better not break the receiver", "drop");
    check("200 OK", "2OO OK", "drop");
    check("SIP/2.0 200", "SIP/7.0 200", "drop");
    check("314159 INVITE", "36893488147419103232 INVITE", "drop");
    check("Length: 0", "Length: 1", "drop");
    check("Via:", "X:", "drop");
}

#[test]
fn header_fields_are_bounded() {
    let fields =
        |count: usize| INVITE.replacen("Max-Forwards: 70\r\n", &"X: y\r\n".repeat(count), 1);
    // The INVITE has nine others that are kept.
    assert_eq!(verdict(fields(limits::SIP_HEADERS - 9).as_bytes()), "ok");
    assert_eq!(verdict(fields(limits::SIP_HEADERS - 8).as_bytes()), "513");
}

#[test]
fn bytes_that_are_no_text_are_kept_where_they_can_be() {
    let mut bytes = INVITE.replace("Alice", "Al?ce").into_bytes();
    let position = bytes.iter().position(|byte| *byte == b'?').expect("there");
    bytes[position] = 0xFF;
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&[0, 0xFF, 0xFE, b'\r']);
    let Ok(Message::Request(request)) = Message::parse(&Bytes::from(bytes)) else { panic!() };
    assert_eq!(request.from().map(|from| from.display_name).as_deref(), Some("Al\u{FFFD}ce"));
    assert_eq!(&request.body[..], [0, 0xFF, 0xFE, b'\r']);
    assert_eq!(&request.to_bytes()[request.to_bytes().len() - 4..], [0, 0xFF, 0xFE, b'\r']);
}

#[test]
fn no_value_breaks_out_of_its_line() {
    let mut request = invite();
    request.headers.set(HeaderName::Subject, "x\r\nX-Injected: y\r\n\r\nbody");
    let Ok(Message::Request(read)) = Message::parse(&request.to_bytes()) else { panic!() };
    assert_eq!(read.headers.get(&HeaderName::from("X-Injected")), None);
    assert_eq!(read.headers.get(&HeaderName::Subject), Some("x  X-Injected: y    body"));
}
