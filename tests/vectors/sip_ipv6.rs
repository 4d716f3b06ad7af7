//! RFC 5118, SIP torture test messages for IPv6, and IPv6 literals in every place that holds an address.

use crate::{request, verdict, wire};
use holdfast::sip::uri::Host;
use holdfast::sip::{HeaderName, NameAddr, Uri, Via};

fn register(uri: &str, via: &str, contact: &str) -> bytes::Bytes {
    wire(&format!(
        "REGISTER {uri} SIP/2.0\nTo: sip:user@example.com\nFrom: sip:user@example.com;tag=81x2\n\
         Via: {via}\nCall-ID: SSG9559905523997077@hlau_4100\nMax-Forwards: 70\nContact: {contact}\n\
         CSeq: 98176 REGISTER\nContent-Length: 0\n\n"
    ))
}

const VIA: &str = "SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111";
const CONTACT: &str = "\"Caller\" <sip:caller@[2001:db8::1]>";

#[test]
fn verdicts() {
    let check = |name: &str, bytes: bytes::Bytes, expect: &str| {
        assert_eq!(verdict(&bytes), expect, "{name}");
    };
    check("§4.1 valid reference", register("sip:[2001:db8::10]", VIA, CONTACT), "ok");
    check("§4.2 no brackets in the Request-URI", register("sip:2001:db8::10", VIA, CONTACT), "400");
    check("§4.3 ambiguous port", register("sip:[2001:db8::10:5070]", VIA, CONTACT), "ok");
    check("§4.4 clear port", register("sip:[2001:db8::10]:5070", VIA, CONTACT), "ok");
    let bare = "SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bKas3-111";
    check("§4.5 received without brackets", register("sip:[2001:db8::10]", bare, CONTACT), "ok");
    let bracketed = bare.replace("2001:db8::9:255", "[2001:db8::9:255]");
    check("§4.5 received with brackets", register("sip:[2001:db8::10]", &bracketed, CONTACT), "ok");
    check(
        "sent-by without brackets",
        register("sip:h", "SIP/2.0/UDP 2001:db8::9:1;branch=z", CONTACT),
        "400",
    );
}

#[test]
fn ports_are_told_from_addresses() {
    let check = |text: &str, host: &str, port: Option<u16>| {
        let uri = Uri::parse(text).expect("a URI");
        assert_eq!(uri.host(), Some(Host::Ip(host.parse().expect("an address"))), "{text}");
        assert_eq!(uri.port(), port, "{text}");
        assert_eq!(uri.as_str(), text);
    };
    check("sip:[2001:db8::10:5070]", "2001:db8::10:5070", None);
    check("sip:[2001:db8::10]:5070", "2001:db8::10", Some(5070));
    check("sip:a@[::ffff:192.0.2.10]:5060;transport=tcp", "::ffff:192.0.2.10", Some(5060));
}

/// §4.5: received with and without brackets is the same address.
#[test]
fn received_in_both_forms() {
    for text in ["2001:db8::9:255", "[2001:db8::9:255]"] {
        let via =
            format!("SIP/2.0/UDP [2001:db8::9:1];received={text};rport=5060;branch=z9hG4bKas3-111");
        let request = request(&register("sip:[2001:db8::10]", &via, CONTACT));
        let found = request.top_via().expect("Via");
        assert_eq!(found.received(), "2001:db8::9:255".parse().ok(), "{text}");
        assert_eq!(found.param("rport"), Some(Some("5060")));
        assert_eq!(found.branch(), Some("z9hG4bKas3-111"));
        assert_eq!(found.to_string(), via);
    }
}

/// §4.6, §4.7, §4.10: several addresses and embedded IPv4 ones.
#[test]
fn addresses_in_lists() {
    let text = "
OPTIONS sip:user@[2001:db8::10] SIP/2.0
To: sip:user@[2001:db8::10]
From: sip:user@example.com;tag=81x2
Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111, SIP/2.0/TCP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19
Via: SIP/2.0/TCP [::ffff:192.0.2.2]:5060;branch=z9hG4bKas3-112
Record-Route: <sip:[2001:db8::a]:5060;lr>, <sip:[2001:db8::b];lr>
Contact: <sip:user@[2001:db8::1]:5061>
Call-ID: SSG95523997077@[2001:db8::1]
CSeq: 8912 OPTIONS

";
    let options = request(&wire(text));
    let vias: Vec<_> = options.headers.elements(&HeaderName::Via).filter_map(Via::parse).collect();
    assert_eq!(
        vias.iter().map(|via| via.port).collect::<Vec<_>>(),
        [Some(6050), Some(19823), Some(5060)]
    );
    assert_eq!(vias[1].host, Host::Ip("::ffff:192.0.2.10".parse().expect("an address")));
    let routes: Vec<_> = options
        .headers
        .elements(&HeaderName::RecordRoute)
        .filter_map(|route| NameAddr::parse(route).ok()?.uri.host())
        .map(|host| host.to_string())
        .collect();
    assert_eq!(routes, ["[2001:db8::a]", "[2001:db8::b]"]);
    assert_eq!(options.call_id(), Some("SSG95523997077@[2001:db8::1]"));
}
