//! RFC 4475, SIP torture test messages: the valid ones (§3.1.1) are read rightly, the invalid ones (§3.1.2) refused
//! with the status the RFC asks for, the rest (§3.2-§3.4) left to the layer that decides.

use crate::{request, response, verdict, wire};
use bytes::Bytes;
use holdfast::sip::uri::Scheme;
use holdfast::sip::{HeaderName, Method, NameAddr, Via};

const SDP: &str = "v=0\no=mhandley 29739 7272939 IN IP4 192.0.2.3\ns=-\nc=IN IP4 192.0.2.4\nt=0 0\n\
m=audio 49217 RTP/AVP 0 12\na=rtpmap:31 LPC\n";

/// The ordinary header fields that most of the messages share, around what a test is about.
fn ordinary(first: &str, method: &str, fields: &str) -> Bytes {
    let has = |name: &str| fields.lines().any(|line| line.starts_with(name));
    let mut text = format!("{first}\n{fields}");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, value) in [
        ("Via:", "SIP/2.0/UDP host5.example.net;branch=z9hG4bK293423"),
        ("Max-Forwards:", "70"),
        ("From:", "<sip:caller@example.net>;tag=242etr"),
        ("To:", "<sip:user@example.com>"),
        ("Call-ID:", "torture.lkjsdfopiasd@192.0.2.1"),
        ("CSeq:", &format!("93942939 {method}")),
        ("Content-Length:", "{len}"),
    ] {
        if !has(name) {
            text.push_str(&format!("{name} {value}\n"));
        }
    }
    text.push('\n');
    wire(&text)
}

#[test]
fn wsinv_a_short_tortuous_invite() {
    let text = format!(
        r#"
INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : "J Rosenberg \\\""       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : {{len}}
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \"\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

{SDP}"#
    );
    let invite = request(&wire(&text));
    let to = invite.to().expect("To");
    assert_eq!(to.uri.as_str(), "sip:vivekg@chair-dnrc.example.com");
    assert_eq!(to.tag().as_deref(), Some("1918181833n"));
    let from = invite.from().expect("From");
    assert_eq!((&*from.display_name, from.tag().as_deref()), ("J Rosenberg \\\"", Some("98asjd8")));
    assert_eq!(invite.cseq().map(|cseq| cseq.number), Some(9));
    assert_eq!(invite.headers.get(&HeaderName::MaxForwards), Some("0068"));
    let vias: Vec<_> = invite.headers.elements(&HeaderName::Via).filter_map(Via::parse).collect();
    let branches: Vec<_> = vias.iter().filter_map(|via| via.branch()).collect();
    assert_eq!(branches, ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]);
    assert_eq!(vias[1].to_string(), "SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8");
    assert_eq!(invite.headers.get(&HeaderName::Subject), Some(""));
    assert_eq!(
        invite.headers.get(&HeaderName::from("newfangledheader")),
        Some("newfangled value continued newfangled value")
    );
    assert_eq!(
        invite.headers.get(&HeaderName::from("UnknownHeaderWithUnusualValue")),
        Some(";;,,;;,;")
    );
    let contact = invite.contact().expect("Contact");
    assert_eq!(contact.display_name, "Quoted string \"\"");
    assert_eq!(contact.param("newparam").as_deref(), Some("newvalue"));
    assert_eq!(contact.param("secondparam").as_deref(), Some(""));
    assert_eq!(contact.param("q").as_deref(), Some("0.33"));
    let route =
        NameAddr::parse(invite.headers.get(&HeaderName::Route).expect("Route")).expect("a Route");
    assert_eq!(route.uri.param("lr"), Some(None));
    assert_eq!(route.uri.param("unknownwith"), Some(Some("value")));
    assert_eq!(invite.body.len(), SDP.replace('\n', "\r\n").len());
}

#[test]
fn intmeth_wide_range_of_characters() {
    let text = r#"
!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0
Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~
To: "BEL:\{bel} NUL:\{nul} DEL:\{del}" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>
From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%="работающий";tag=_token~1'+`*%!-.
Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\/"][?}{
CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~
Max-Forwards: 255
extensionHeader-!.%*+_`'~: 大停電
Content-Length: 0

"#;
    let controls = [("{bel}", "\u{7}"), ("{nul}", "\0"), ("{del}", "\u{7f}")];
    let text = controls.iter().fold(text.to_owned(), |text, (name, byte)| text.replace(name, byte));
    let options = request(&wire(&text));
    let to = options.to().expect("To");
    assert_eq!(to.display_name, "BEL:\u{7} NUL:\0 DEL:\u{7f}");
    assert_eq!(options.method, Method::from("!interesting-Method0123456789_*+`.%indeed'~"));
    assert_eq!(
        options.uri.user().as_deref(),
        Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*")
    );
    assert_eq!(options.uri.host().map(|host| host.to_string()).as_deref(), Some("example.com"));
    let from = options.from().expect("From");
    assert_eq!(from.display_name, "token1~` token2'+_ token3*%!.-");
    assert_eq!(from.param("fromparam''~+*_!.-%").as_deref(), Some("работающий"));
    assert_eq!(from.tag().as_deref(), Some("_token~1'+`*%!-."));
    assert_eq!(options.top_via().as_ref().and_then(Via::branch), Some("z9hG4bK-.!%66*_+`'~"));
    assert_eq!(options.call_id(), Some("intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"));
    assert_eq!(options.headers.get(&HeaderName::from("extensionHeader-!.%*+_`'~")), Some("大停電"));
}

#[test]
fn escapes() {
    // esc01: the escaped @ is the user's.
    let esc01 = request(&ordinary(
        "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0",
        "INVITE",
        "To: sip:%75se%72@example.com\n\
         Contact: <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>",
    ));
    assert_eq!(esc01.uri.user().as_deref(), Some("sips:user@example.com"));
    assert_eq!(esc01.to().and_then(|to| to.uri.user()).as_deref(), Some("user"));
    let contact = esc01.contact().expect("Contact").uri;
    assert_eq!(contact.user().as_deref(), Some("caller"));
    assert_eq!(contact.as_str(), "sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31");
    assert_eq!(contact.param("lr"), None, "an escaped lr is not lr");
    // escnull: escaped NULs are characters like others.
    let escnull = request(&ordinary(
        "REGISTER sip:example.com SIP/2.0",
        "REGISTER",
        "To: sip:null-%00-null@example.com\nContact: <sip:%00@host5.example.com>\nContact: <sip:%00%00@host5.example.com>",
    ));
    assert_eq!(escnull.to().and_then(|to| to.uri.user()).as_deref(), Some("null-\0-null"));
    let users: Vec<_> = escnull
        .headers
        .elements(&HeaderName::Contact)
        .filter_map(|contact| NameAddr::parse(contact).ok()?.uri.user())
        .collect();
    assert_eq!(users, ["\0", "\0\0"]);
    // esc02: % is a token character and escapes nothing in a method or a display name.
    let esc02 = request(&ordinary(
        "RE%47IST%45R sip:registrar.example.com SIP/2.0",
        "RE%47IST%45R",
        "To: \"%Z%45\" <sip:resource@example.com>\n\
         Contact: <sip:alias1@host1.example.com>\nC%6Fntact: <sip:alias2@host2.example.com>",
    ));
    assert_eq!(esc02.method, Method::from("RE%47IST%45R"));
    assert_ne!(esc02.method, Method::Register);
    assert_eq!(esc02.to().map(|to| to.display_name).as_deref(), Some("%Z%45"));
    assert_eq!(esc02.headers.all(&HeaderName::Contact).count(), 1);
}

#[test]
fn lwsdisp_no_space_between_display_name_and_uri() {
    let options = request(&ordinary(
        "OPTIONS sip:user@example.com SIP/2.0",
        "OPTIONS",
        "From: caller<sip:caller@example.com>;tag=323",
    ));
    assert_eq!(options.from().map(|from| from.display_name).as_deref(), Some("caller"));
}

#[test]
fn longreq_long_values() {
    let long = "amazinglylong".repeat(80);
    let name = format!("Unknown-{}-Header", "Long".repeat(40));
    let mut fields = format!(
        "To: \"I have a user name of {long}\"<sip:user@example.com:6000;unknownparam1=very{long}value;longparam{long}=shortvalue>\n\
         From: sip:{long}@example.net\n ;tag=12{long}982424\n ;unknownheaderparam{long}name=x\n\
         Call-ID: longreq.one{long}\n{name}: unknown-{long}-value; unknown-{long}-parameter-name = x\n\
         Contact: <sip:{long}@host5.example.net>\n"
    );
    for number in 1..=34 {
        fields.push_str(&format!("Via: SIP/2.0/TCP sip{number}.example.com\n"));
    }
    fields.push_str(&format!(
        "v: SIP/2.0/TCP host.example.com;received=192.0.2.5;branch=very{long}value"
    ));
    let text = format!("INVITE sip:user@example.com SIP/2.0\n{fields}\nCSeq: 3882340 INVITE\n\n");
    let longreq = request(&wire(&text));
    let tag = longreq.from().and_then(|from| from.tag());
    assert_eq!(tag.as_deref(), Some(&*format!("12{long}982424")));
    assert_eq!(longreq.headers.elements(&HeaderName::Via).count(), 35);
    assert!(longreq.headers.get(&HeaderName::from(name.as_str())).is_some());
}

#[test]
fn dblreq_what_follows_the_message_is_not_its_body() {
    let first = ordinary("REGISTER sip:example.com SIP/2.0", "REGISTER", "Content-Length: 0");
    let second =
        ordinary("INVITE sip:joe@example.com SIP/2.0", "INVITE", "Content-Type: application/sdp");
    let both = request(&Bytes::from([&first[..], &second[..]].concat()));
    assert_eq!((both.method, both.body.len()), (Method::Register, 0));
}

#[test]
fn semiuri_semicolon_in_the_user() {
    let options = request(&ordinary(
        "OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0",
        "OPTIONS",
        "To: sip:j_user@example.com\nAccept: application/sdp, application/pkcs7-mime,\n        multipart/mixed",
    ));
    assert_eq!(options.uri.user().as_deref(), Some("user;par=u@example.net"));
    assert_eq!(options.uri.param("par"), None);
    assert_eq!(options.headers.elements(&HeaderName::Accept).count(), 3);
}

#[test]
fn transports_known_and_unknown() {
    let options = request(&ordinary(
        "OPTIONS sip:user@example.com SIP/2.0",
        "OPTIONS",
        "Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw\n\
         Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf\n\
         Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj\n\
         Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en\n\
         Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee",
    ));
    let transports: Vec<_> = options
        .headers
        .elements(&HeaderName::Via)
        .filter_map(|via| Via::parse(via).map(|via| via.transport))
        .collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
}

#[test]
fn mpart01_a_body_may_hold_any_byte() {
    let mut bytes =
        ordinary("MESSAGE sip:kumiko@example.org SIP/2.0", "MESSAGE", "Content-Length: 512")
            .to_vec();
    let body: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    bytes.extend_from_slice(&body);
    let message = request(&Bytes::from(bytes));
    assert_eq!(&message.body[..], body);
    assert!(message.to_bytes().ends_with(&body));
}

#[test]
fn reason_phrases() {
    let unreason = response(&ordinary(
        "SIP/2.0 200 = 2**3 * 5**2 но сто девяносто девять - простое",
        "INVITE",
        "Call-ID: unreason.1234ksdfak3j2erwedfsASdf",
    ));
    assert_eq!(unreason.reason, "= 2**3 * 5**2 но сто девяносто девять - простое");
    let noreason = response(&ordinary("SIP/2.0 100 ", "INVITE", ""));
    assert_eq!((noreason.status.0, noreason.reason.as_str()), (100, ""));
    let bytes = noreason.to_bytes();
    assert_eq!(response(&bytes), noreason);
}

/// §3.1.2: refused, or for a response dropped.
#[test]
fn invalid_messages() {
    let invite = "INVITE sip:user@example.com SIP/2.0";
    let options = "OPTIONS sip:user@example.com SIP/2.0";
    let check = |name: &str, first: &str, method: &str, fields: &str, expect: &str| {
        assert_eq!(verdict(&ordinary(first, method, fields)), expect, "{name}");
    };
    let badinv01 = "Via: SIP/2.0/UDP 192.0.2.15;;,;,,\nContact: \"Joe\" <sip:joe@example.org>;;;;";
    check("badinv01", invite, "INVITE", badinv01, "400");
    check("clerr", invite, "INVITE", "Content-Length: 9999", "400");
    check("ncl", invite, "INVITE", "Content-Length: -999", "400");
    let scalar02 = "CSeq: 36893488147419103232 REGISTER\nMax-Forwards: 300\nExpires: 10000000000000\n\
                    Contact: <sip:user@host129.example.com>\n  ;expires=280297596632815";
    check("scalar02", "REGISTER sip:example.com SIP/2.0", "REGISTER", scalar02, "400");
    let scalarlg = "CSeq: 9292394834772304023312 OPTIONS\nRetry-After: 949302838503028349304023988\n\
                    Warning: 1812 overture \"In Progress\"\nContent-Length: 0";
    check("scalarlg", "SIP/2.0 503 Service Unavailable", "OPTIONS", scalarlg, "drop");
    check("quotbal", invite, "INVITE", "To: \"Mr. J. User <sip:j.user@example.com>", "400");
    check("ltgtruri", "INVITE <sip:user@example.com> SIP/2.0", "INVITE", "", "400");
    check("lwsruri", "INVITE sip:user@example.com; lr SIP/2.0", "INVITE", "", "400");
    check("lwsstart", "INVITE  sip:user@example.com  SIP/2.0", "INVITE", "", "400");
    check("trws", "OPTIONS sip:remote-target@example.com SIP/2.0  ", "OPTIONS", "", "400");
    check(
        "escruri",
        "INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0",
        "INVITE",
        "",
        "400",
    );
    // The RFC leaves it to us: a Date that is not GMT hurts nobody, spaces within <> and a comma in a name can be read.
    check("baddate", invite, "INVITE", "Date: Fri, 01 Jan 2010 16:00:00 EST", "ok");
    let regbadct = "Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E";
    check("regbadct", "REGISTER sip:example.com SIP/2.0", "REGISTER", regbadct, "400");
    check(
        "badaspec",
        options,
        "OPTIONS",
        "To: \"Watson, Thomas\" < sip:t.watson@example.org >",
        "ok",
    );
    check(
        "baddn",
        options,
        "OPTIONS",
        "From: Bell, Alexander <sip:a.g.bell@example.com>;tag=43",
        "ok",
    );
    check("badvers", "OPTIONS sip:t.watson@example.org SIP/7.0", "OPTIONS", "", "505");
    check("mismatch01", options, "OPTIONS", "CSeq: 8 INVITE", "400");
    check("mismatch02", "NEWMETHOD sip:user@example.com SIP/2.0", "", "CSeq: 8 INVITE", "400");
    check("bigcode", "SIP/2.0 4294967301 better not break the receiver", "INVITE", "", "drop");
}

/// §3.2-§3.4: read; who serves the request decides. Refused is only what no response rule could mend.
#[test]
fn messages_for_the_layers_above() {
    let invite = "INVITE sip:user@example.com SIP/2.0";
    let register = "REGISTER sip:example.com SIP/2.0";
    let check = |name: &str, first: &str, method: &str, fields: &str, expect: &str| {
        assert_eq!(verdict(&ordinary(first, method, fields)), expect, "{name}");
    };
    check(
        "badbranch",
        "OPTIONS sip:a@b SIP/2.0",
        "OPTIONS",
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK",
        "ok",
    );
    let insuf = "INVITE sip:user@example.com SIP/2.0\nCSeq: 193942 INVITE\nVia: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\n\
                 Content-Type: application/sdp\nContent-Length: {len}\n\nv=0\n";
    assert_eq!(verdict(&wire(insuf)), "400", "insuf");
    check(
        "unkscm",
        "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0",
        "OPTIONS",
        "",
        "416",
    );
    check("novelsc", "OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0", "OPTIONS", "", "416");
    let unksm2 = "To: isbn:2983792873\nFrom: <http://www.example.com>;tag=3234233\n\
                  Contact: <name:John_Smith>";
    check("unksm2", register, "REGISTER", unksm2, "ok");
    let bext01 = "Require: nothingSupportsThis, nothingSupportsThisEither\n\
                  Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis";
    check("bext01", "OPTIONS sip:a@b SIP/2.0", "OPTIONS", bext01, "ok");
    check("invut", invite, "INVITE", "Content-Type: application/unknownformat", "ok");
    check(
        "regaut01",
        register,
        "REGISTER",
        "Authorization: NoOneKnowsThisScheme opaque-data=here",
        "ok",
    );
    let multi01 = "CSeq: 5 INVITE\nCall-ID: a\nCSeq: 59 INVITE\nCall-ID: b\nFrom: <sip:a@b>;tag=1\n\
                   From: <sip:c@d>;tag=2\nTo: <sip:a@b>\nTo: <sip:c@d>\nMax-Forwards: 70\nMax-Forwards: 5";
    check("multi01", invite, "INVITE", multi01, "400");
    let mcl01 = "Content-Length: 13\nContent-Length: 5";
    check("mcl01", "OPTIONS sip:a@b SIP/2.0", "OPTIONS", mcl01, "400");
    let bcast = "Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\nVia: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23";
    check("bcast", "SIP/2.0 200 OK", "INVITE", bcast, "ok");
    check("zeromf", "OPTIONS sip:a@b SIP/2.0", "OPTIONS", "Max-Forwards: 0", "ok");
    check(
        "cparam01",
        register,
        "REGISTER",
        "Contact: sip:+19725552222@gw1.example.net;unknownparam",
        "ok",
    );
    check(
        "cparam02",
        register,
        "REGISTER",
        "Contact: <sip:+19725552222@gw1.example.net;unknownparam>",
        "ok",
    );
    let regescrt = "Contact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>";
    check("regescrt", register, "REGISTER", regescrt, "ok");
    check("sdp01", invite, "INVITE", "Accept: text/nobodyKnowsThis", "ok");
}

#[test]
fn parameters_belong_to_the_header_without_angles() {
    for (text, of_header, of_uri) in [
        ("sip:+19725552222@gw1.example.net;unknownparam", Some(""), None),
        ("<sip:+19725552222@gw1.example.net;unknownparam>", None, Some(None)),
    ] {
        let fields = format!("Contact: {text}");
        let request = request(&ordinary("REGISTER sip:example.com SIP/2.0", "REGISTER", &fields));
        let contact = request.contact().expect("Contact");
        assert_eq!(contact.param("unknownparam").as_deref(), of_header, "{text}");
        assert_eq!(contact.uri.param("unknownparam"), of_uri, "{text}");
    }
}

/// §3.4.1, and RFC 3261's promise to RFC 2543: no branch, no From tag, no Max-Forwards, no Content-Length.
#[test]
fn inv2543() {
    let text = format!(
        "
INVITE sip:UserB@example.com SIP/2.0
Via: SIP/2.0/UDP iftgw.example.com
From: <sip:+13035551111@ift.client.example.net;user=phone>
Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>
To: sip:+16505552222@ss1.example.net;user=phone
Call-ID: inv2543.1717@ift.client.example.com
CSeq: 56 INVITE
Content-Type: application/sdp

{SDP}"
    );
    let invite = request(&wire(&text));
    assert_eq!(invite.from().and_then(|from| from.tag()), None);
    assert_eq!(invite.top_via().as_ref().and_then(Via::branch), None);
    assert!(invite.body.starts_with(b"v=0\r\n"));
    assert_eq!(invite.uri.scheme(), Scheme::Sip);
}
