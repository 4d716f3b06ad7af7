use super::*;

fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap_or_else(|_| panic!("{text}"))
}

#[test]
fn parts_are_read() {
    let check = |text: &str, user: Option<&str>, host: Option<&str>, port: Option<u16>| {
        let uri = uri(text);
        assert_eq!(uri.as_str(), text);
        assert_eq!(uri.user().as_deref(), user, "user of {text}");
        assert_eq!(uri.host().map(|host| host.to_string()).as_deref(), host, "host of {text}");
        assert_eq!(uri.port(), port, "port of {text}");
    };
    check("sip:bob.smith@y.com", Some("bob.smith"), Some("y.com"), None);
    check("SIP:bob@192.0.2.1:5070", Some("bob"), Some("192.0.2.1"), Some(5070));
    check("sips:b@[2001:db8::1]:5061;lr", Some("b"), Some("[2001:db8::1]"), Some(5061));
    check("sip:[::1]", None, Some("[::1]"), None);
    check("sip:example.com;lr", None, Some("example.com"), None);
    check("sip:%2A43@h", Some("*43"), Some("h"), None);
    check("sip:#31#12@h", Some("#31#12"), Some("h"), None);
    check("sip:alice:secret@h", Some("alice"), Some("h"), None);
    check(
        "sip:user;par=u%40example.net@example.com",
        Some("user;par=u@example.net"),
        Some("example.com"),
        None,
    );
    check(
        "sip:sips%3Auser%40example.com@example.net",
        Some("sips:user@example.com"),
        Some("example.net"),
        None,
    );
    check("sip:null-%00-null@example.com", Some("null-\0-null"), Some("example.com"), None);
    check("sip:a@h?Replaces=x%3Bto-tag=1", Some("a"), Some("h"), None);
    check("tel:+1-555-(123);phone-context=x", Some("+1555123"), None, None);
    check("urn:service:sos", Some("service:sos"), None, None);
    check("http://www.example.com/", None, None, None);
    check("sip:line=x;y@my_pbx:5060", Some("line=x;y"), Some("my_pbx"), Some(5060));
}

#[test]
fn schemes() {
    let check = |text: &str, scheme| assert_eq!(uri(text).scheme(), scheme, "{text}");
    check("sIp:a@b", Scheme::Sip);
    check("sips:a@b", Scheme::Sips);
    check("TEL:112", Scheme::Tel);
    check("urn:service:sos", Scheme::Urn);
    check("nobodyKnowsThisScheme:totallyopaquecontent", Scheme::Other);
    check("soap.beep://192.0.2.103:3002", Scheme::Other);
}

#[test]
fn malformed_ones_are_refused() {
    for text in [
        "",
        "bob",
        "sip:",
        "sip:@h",
        "sip:a@",
        "sip:a b@h",
        "sip:a@h:",
        "sip:a@h:x",
        "sip:a@h:70000",
        "sip:a%4@h",
        "sip:a%zz@h",
        "sip:a@b@c",
        "sip:a@[::1",
        "sip:a@2001:db8::1",
        "<sip:a@b>",
        "sip:a@h>",
        "1sip:a@h",
        "tel:",
        "tel:;x",
        "tel:abcxyz",
        "sip:a@h\r\nX: y",
        "sip:a\"b@h",
        "*",
        "sip:a@h;=x",
        "sip:a%é@h",
    ] {
        assert_eq!(Uri::parse(text), Err(UriError::Malformed), "{text}");
    }
}

#[test]
fn params_and_headers() {
    let text = uri("sip:a@h;transport=TCP;lr;x=\"a;b\"?Subject=x&y");
    assert_eq!(text.param("Transport"), Some(Some("TCP")));
    assert_eq!(text.param("lr"), Some(None));
    assert_eq!(text.param("x"), Some(Some("\"a;b\"")));
    assert_eq!(text.param("b"), None);
    assert_eq!(text.headers().collect::<Vec<_>>(), [("Subject", "x"), ("y", "")]);
    assert_eq!(uri("tel:12;phone-context=+44").param("phone-context"), Some(Some("+44")));
    assert_eq!(uri("urn:service:sos;x=1").param("x"), None);
}

/// The examples of RFC 3261 §19.1.4 first.
#[test]
fn equivalence() {
    let check = |ours: &str, theirs: &str, expect: bool| {
        assert_eq!(uri(ours).equivalent(&uri(theirs)), expect, "{ours} = {theirs}");
        assert_eq!(uri(theirs).equivalent(&uri(ours)), expect, "{theirs} = {ours}");
    };
    check("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", true);
    check("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", true);
    check("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5", true);
    check(
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
        "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        true,
    );
    check(
        "sip:alice@a.com?subject=x&priority=urgent",
        "sip:alice@a.com?priority=urgent&subject=x",
        true,
    );
    check("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", false);
    check("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false);
    check("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", false);
    check("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", false);
    check("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", false);
    check("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", false);
    check("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", false);
    check("sip:%2A43@h", "sip:*43@h", true);
    check("sip:a%3bb@h", "sip:a%3Bb@h", true);
    check("sip:a%3Bb@h", "sip:a;b@h", false);
    check("sip:a@h", "sips:a@h", false);
    check("sip:a:x@h", "sip:a:y@h", false);
    check("sip:a@[2001:DB8:0::1]", "sip:a@[2001:db8::1]", true);
    check("tel:+1-555", "tel:+1555", true);
    check("tel:1;phone-context=x", "tel:1", false);
    check("urn:service:SOS", "urn:service:sos", true);
    check("http://a/x", "http://a/X", false);
}

#[test]
fn rsip_model_is_filled_rightly() {
    let model =
        uri("sip:bob.smith:pw@[2001:db8::1]:5060;transport=tcp;lr;x=1").to_rsip().expect("sip");
    assert_eq!(model.user(), Some("bob.smith"));
    assert_eq!(model.port().map(|port| *port.value()), Some(5060));
    assert_eq!(model.transport(), Some(&rsip::Transport::Tcp));
    assert!(matches!(model.host(), rsip::Host::IpAddr(IpAddr::V6(_))));
    assert!(model.params.contains(&rsip::Param::Lr));
    assert_eq!(uri("tel:1").to_rsip(), None);
}
