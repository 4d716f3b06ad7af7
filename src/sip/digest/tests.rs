use super::*;
use crate::sip::Uri;

const REALM: &str = "pbx.example";
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn key() -> ClusterKey {
    ClusterKey::new(b"secret")
}

fn ha1_of(user: &str) -> Option<Ha1> {
    (user == "1001").then(|| Ha1::new("1001", REALM, "pass"))
}

fn request(values: &[String]) -> Request {
    let mut request = Request::new(Method::Register, Uri::parse("sip:pbx.example").expect("a URI"));
    for value in values {
        request.headers.push(HeaderName::Authorization, value.as_str());
    }
    request
}

fn verdict(values: &[String], now: Timestamp) -> Verdict {
    verify(&request(values), REALM, &key(), ha1_of, now)
}

fn answer(challenge: &str, user: &str, password: &str) -> String {
    respond(challenge, &Method::Register, "sip:pbx.example", user, password, "c", 1)
        .expect("an answer")
}

/// RFC 7616 §3.9.1.
#[test]
fn rfc_7616_vectors() {
    let check = |algorithm: &str, expect: &str| {
        let challenge = format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        );
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let get = Method::from("GET");
        let value =
            respond(&challenge, &get, "/dir/index.html", "Mufasa", "Circle of Life", cnonce, 1)
                .expect("an answer");
        let credentials = Credentials::parse(&value).expect("credentials");
        assert_eq!(credentials.response, expect, "{algorithm}");
        assert_eq!(credentials.nc, Some("00000001"));
        let ha1 = Ha1::new("Mufasa", "http-auth@example.org", "Circle of Life");
        assert_eq!(credentials.expected(&ha1, &get).as_ref().map(Hex::as_str), Some(expect));
    };
    check("MD5", "8ca523f5e9506fed4657c9700eebdbec");
    check("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
}

/// RFC 2617 §3.5, and RFC 2069 §2.4 with its erratum.
#[test]
fn older_vectors() {
    let value = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
                 nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\", qop=auth, nc=00000001, \
                 cnonce=\"0a4f113b\", response=\"6629fae49393a05397450978507c4ef1\"";
    let credentials = Credentials::parse(value).expect("credentials");
    let ha1 = Ha1::new("Mufasa", "testrealm@host.com", "Circle Of Life");
    let get = Method::from("GET");
    assert_eq!(
        credentials.expected(&ha1, &get).as_ref().map(Hex::as_str),
        Some(credentials.response)
    );
    let value = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
                 nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\", \
                 response=\"1949323746fe6a43ef61f9606e7febea\"";
    let credentials = Credentials::parse(value).expect("credentials");
    let ha1 = Ha1::new("Mufasa", "testrealm@host.com", "CircleOfLife");
    assert_eq!(
        credentials.expected(&ha1, &get).as_ref().map(Hex::as_str),
        Some(credentials.response)
    );
}

const BOTH: &[Algorithm] = &[Algorithm::Md5, Algorithm::Sha256];

#[test]
fn a_phone_that_knows_md5_alone_is_offered_md5_alone() {
    assert_eq!(algorithms_for("Yealink SIP-T46S 66.85.0.5"), BOTH);
    assert_eq!(algorithms_for(""), BOTH);
    assert_eq!(algorithms_for("baresip v1.0.0 (x86_64/linux)"), [Algorithm::Md5]);
}

#[test]
fn both_challenges_can_be_answered() {
    let offered = challenges(REALM, &key(), BOTH, false, START);
    assert!(offered[0].contains("algorithm=MD5,") && offered[1].contains("algorithm=SHA-256,"));
    assert!(!offered[0].contains("stale"));
    assert!(challenges(REALM, &key(), BOTH, true, START)[1].ends_with(", stale=true"));
    for challenge in &offered {
        let value = answer(challenge, "1001", "pass");
        let authentic = Verdict::Authentic("1001".to_owned());
        assert_eq!(verdict(std::slice::from_ref(&value), START), authentic);
        let digits = Credentials::parse(&value).expect("credentials").response;
        let upper_case = value.replace(digits, &digits.to_ascii_uppercase());
        assert_eq!(verdict(&[upper_case], START), authentic);
        assert_eq!(verdict(&[answer(challenge, "1001", "wrong")], START), Verdict::Challenge);
        assert_eq!(verdict(&[answer(challenge, "1002", "pass")], START), Verdict::Challenge);
        let both = [answer(challenge, "1001", "wrong"), value.clone()];
        assert_eq!(verdict(&both, START), authentic, "the best of several counts");
        let other_method = {
            let mut request = request(&[value]);
            request.method = Method::Invite;
            verify(&request, REALM, &key(), ha1_of, START)
        };
        assert_eq!(other_method, Verdict::Challenge);
    }
    let mut proxied = request(&[]);
    proxied.headers.push(HeaderName::ProxyAuthorization, answer(&offered[0], "1001", "pass"));
    let found = verify(&proxied, REALM, &key(), ha1_of, START);
    assert_eq!(found, Verdict::Authentic("1001".to_owned()));
}

#[test]
fn nonces_age() {
    let challenge = challenges(REALM, &key(), BOTH, false, START).remove(0);
    let right = [answer(&challenge, "1001", "pass")];
    let wrong = [answer(&challenge, "1001", "wrong")];
    let authentic = Verdict::Authentic("1001".to_owned());
    let after = |seconds: u64| START + Duration::from_secs(seconds);
    assert_eq!(verdict(&right, after(300)), authentic);
    assert_eq!(verdict(&right, after(301)), Verdict::Stale);
    assert_eq!(verdict(&wrong, after(301)), Verdict::Challenge);
    assert_eq!(verdict(&right, START - Duration::from_secs(60)), authentic, "another node's clock");
    assert_eq!(verdict(&right, START - Duration::from_secs(61)), Verdict::Stale);
    // Of another cluster, or made up: a phone that knows the password asks again without asking its user.
    let foreign = challenges(REALM, &ClusterKey::new(b"other"), BOTH, false, START).remove(0);
    assert_eq!(verdict(&[answer(&foreign, "1001", "pass")], START), Verdict::Stale);
    for nonce in ["", "x", "zzzzzzzzzzzzzzzzz", "ääääääääääää"] {
        let challenge = format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", qop=\"auth\"");
        assert_eq!(
            verdict(&[answer(&challenge, "1001", "pass")], START),
            Verdict::Stale,
            "{nonce}"
        );
    }
}

#[test]
fn what_phones_write_is_taken() {
    let challenge = challenges(REALM, &key(), BOTH, false, START).remove(0);
    let value = answer(&challenge, "1001", "pass");
    let authentic = Verdict::Authentic("1001".to_owned());
    let check = |from: &str, to: &str, expect: &Verdict| {
        assert!(value.contains(from), "{from} in {value}");
        assert_eq!(verdict(&[value.replacen(from, to, 1)], START), *expect, "{from} -> {to}");
    };
    check("Digest", "dIGEST ", &authentic);
    check("qop=auth", "qop=\"auth\"", &authentic);
    check("algorithm=MD5", "algorithm=\"md5\"", &authentic);
    check(", algorithm=MD5", "", &authentic);
    check("username=", "Username = ", &authentic);
    check("nc=00000001", "nc=0000000a", &Verdict::Challenge);
    check("algorithm=MD5", "algorithm=MD5-sess", &Verdict::Challenge);
    check("algorithm=MD5", "algorithm=SHA-256", &Verdict::Challenge);
    check("qop=auth", "qop=auth-int", &Verdict::Challenge);
    check(REALM, "other.example", &Verdict::Challenge);
    check("Digest", "NoOneKnowsThisScheme", &Verdict::Challenge);
    check("nc=00000001", "nc=1", &Verdict::Malformed);
    check(", nc=00000001", "", &Verdict::Malformed);
    check("cnonce=\"c\", ", "", &Verdict::Malformed);
    check("response=", "x=", &Verdict::Malformed);
    check("username=\"1001", "username=\"10\"01", &Verdict::Malformed);
    assert_eq!(verdict(&[], START), Verdict::Challenge);
    assert_eq!(verdict(&["Digest".to_owned()], START), Verdict::Challenge);
    assert_eq!(verdict(&["Digest \"".to_owned()], START), Verdict::Malformed);
    // Out-of-order and hexadecimal nc; the URI verbatim.
    for (nc, uri) in
        [(0x0A, "sip:PBX.example;transport=tcp"), (0x256, "sip:pbx.example"), (3, "sip:x")]
    {
        let value = respond(&challenge, &Method::Register, uri, "1001", "pass", "c", nc)
            .expect("an answer");
        assert_eq!(verdict(&[value], START), authentic, "{nc} {uri}");
    }
    // RFC 2069: no qop, MD5 only.
    let old = challenge.replace(", qop=\"auth\"", "");
    assert_eq!(verdict(&[answer(&old, "1001", "pass")], START), authentic);
    let old = old.replace("MD5", "SHA-256");
    assert_eq!(verdict(&[answer(&old, "1001", "pass")], START), Verdict::Challenge);
}

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", Ha1::new("a", "b", "c")), "Ha1(..)");
}
