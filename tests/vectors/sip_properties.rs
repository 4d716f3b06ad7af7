//! Properties over random messages: what is written is read back the same; what is broken never panics; a stream gives
//! what datagrams give.

use bytes::Bytes;
use holdfast::sip::framing::{StreamFramer, StreamItem};
use holdfast::sip::uri::Host;
use holdfast::sip::{
    Dialog, HeaderName, Message, Method, NameAddr, Request, Response, Status, Uri, Via,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.!%*_+`'~-]{1,12}"
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<std::net::IpAddr>().prop_map(Host::Ip),
        "[a-z][a-z0-9-]{0,8}(\\.[a-z]{1,5}){0,2}".prop_map(Host::Name),
    ]
}

fn uri() -> impl Strategy<Value = Uri> {
    let user = "([a-zA-Z0-9._*+;?/,=#-]|%[0-9a-fA-F]{2}){1,12}";
    // A parameter stands once in a URI (RFC 3261 §19.1.1).
    let params = btree_map("[a-z]{1,6}", option::of("[a-zA-Z0-9.]{1,6}"), 0..3);
    (option::of(user), host(), option::of(any::<u16>()), params).prop_map(
        |(user, host, port, params)| {
            let user = user.map_or_else(String::new, |user| format!("{user}@"));
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            let params: String = params
                .iter()
                .map(|(name, value)| match value {
                    Some(value) => format!(";{name}={value}"),
                    None => format!(";{name}"),
                })
                .collect();
            let text = format!("sip:{user}{host}{port}{params}");
            Uri::parse(&text).unwrap_or_else(|_| panic!("{text}"))
        },
    )
}

/// As they stand behind a value.
fn params() -> impl Strategy<Value = String> {
    let value = prop_oneof![token(), "\"([a-z ;,<>=]|\\\\[\"\\\\])*\""];
    vec((token(), option::of(value)), 0..3).prop_map(|params| {
        let text = |(name, value): (String, Option<String>)| match value {
            Some(value) => format!(";{name}={value}"),
            None => format!(";{name}"),
        };
        params.into_iter().map(text).collect()
    })
}

/// A name, a URI and parameters.
fn name_addr() -> impl Strategy<Value = (String, Uri, String)> {
    ("[a-zA-Zäß\"\\\\<>,;@ ]{0,12}", uri(), params())
}

fn name_addr_text() -> impl Strategy<Value = String> {
    name_addr().prop_map(|(name, uri, params)| format!("{}{params}", NameAddr::new(name, uri)))
}

fn via() -> impl Strategy<Value = String> {
    ("[A-Z]{2,4}", host(), option::of(any::<u16>()), params()).prop_map(
        |(transport, host, port, params)| {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            format!("SIP/2.0/{transport} {host}{port}{params}")
        },
    )
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::Invite),
        Just(Method::Register),
        token().prop_map(|name| Method::from(name.as_str()))
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let unknown = vec(("[A-Z][a-z]{2,8}-[A-Z]{2,6}", "([!-~][ -~]{0,20}[!-~])?"), 0..6);
    let contacts = vec(name_addr_text(), 0..3);
    let parties = (name_addr_text(), name_addr_text(), contacts, vec(via(), 1..4));
    let line = (method(), uri(), option::of((100_u16..700, "([!-~][ -~]{0,20}[!-~])?")));
    let body = vec(any::<u8>(), 0..64);
    (line, parties, 0_u32..1 << 31, unknown, body).prop_map(
        |(line, parties, number, unknown, body)| {
            let ((method, uri, answer), (from, to, contacts, vias)) = (line, parties);
            let mut request = Request::new(method, uri);
            for via in vias {
                request.headers.push(HeaderName::Via, via);
            }
            request.headers.push(HeaderName::From, from);
            request.headers.push(HeaderName::To, to);
            request.headers.push(HeaderName::CallId, "call-id@host");
            request.headers.push(HeaderName::CSeq, format!("{number} {}", request.method));
            for contact in contacts {
                request.headers.push(HeaderName::Contact, contact);
            }
            for (name, value) in unknown {
                request.headers.push(HeaderName::from(name.as_str()), value);
            }
            request.body = Bytes::from(body);
            let Some((status, reason)) = answer else { return Message::Request(request) };
            let Request { headers, body, .. } = request;
            Message::Response(Response { status: Status(status), reason, headers, body })
        },
    )
}

/// Everything that can be asked of a message.
fn read_all(message: &Message) {
    let headers = match message {
        Message::Request(request) => {
            let _ = (
                request.from(),
                request.to(),
                request.contact(),
                request.cseq(),
                request.top_via(),
            );
            let _ = Dialog::from_request(request, "t")
                .map(|mut dialog| dialog.request(Method::Bye).to_bytes());
            let _ = request.response(Status(180), Some("t")).to_bytes();
            let _ = (request.uri.user(), request.uri.host(), request.uri.to_rsip());
            let _ = request.uri.equivalent(&request.uri);
            &request.headers
        }
        Message::Response(response) => {
            let _ = (response.from(), response.to(), response.contact(), response.top_via());
            &response.headers
        }
    };
    for (name, value) in headers.iter() {
        let _ = (Via::parse(value), NameAddr::parse(value), Uri::parse(value));
        let _ = holdfast::sip::digest::Credentials::parse(value);
        let _ = headers.elements(name).count();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_read_back(message in message()) {
        let bytes = message.to_bytes();
        let read = Message::parse(&bytes);
        prop_assert_eq!(read.as_ref(), Ok(&message), "{}", String::from_utf8_lossy(&bytes));
        prop_assert_eq!(read.map(|message| message.to_bytes()), Ok(bytes));
    }

    #[test]
    fn values_are_read_back((name, uri, params) in name_addr(), via in via()) {
        let text = format!("{}{params}", NameAddr::new(name.as_str(), uri.clone()));
        let read = NameAddr::parse(&text).expect("a name-addr");
        prop_assert_eq!((&*read.display_name, &read.uri), (name.as_str(), &uri));
        prop_assert_eq!(read.to_string(), text);
        prop_assert_eq!(Via::parse(&via).map(|via| via.to_string()), Some(via));
    }

    #[test]
    fn uris_equal_themselves_in_other_clothes(uri in uri()) {
        let (user, rest) = uri.as_str().strip_prefix("sip:").and_then(|rest| rest.split_once('@'))
            .map_or((None, uri.as_str().strip_prefix("sip:").unwrap_or_default()), |(user, rest)| (Some(user), rest));
        let clothed = match user {
            Some(user) => format!("SIP:{user}@{}", rest.to_ascii_uppercase()),
            None => format!("SIP:{}", rest.to_ascii_uppercase()),
        };
        let clothed = Uri::parse(&clothed).expect("a URI");
        prop_assert!(uri.equivalent(&clothed) && clothed.equivalent(&uri), "{} {}", uri, clothed);
    }

    /// On the plain messages that it reads, rsip is of our opinion.
    #[test]
    fn rsip_agrees_about_plain_messages(
        user in "[a-z0-9]{1,8}",
        host in "[a-z]{1,8}\\.example",
        port in option::of(1_u16..),
        params in "(;transport=(tcp|udp))?(;lr)?(;x=[a-z]{1,3})?",
        tag in "[a-z0-9]{1,8}",
        number in 0_u32..1 << 31,
    ) {
        use rsip::prelude::*;
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let text = format!("sip:{user}@{host}{port}{params}");
        let uri = Uri::parse(&text).expect("a URI");
        prop_assert_eq!(uri.to_rsip(), rsip::Uri::try_from(text.as_str()).ok());
        let mut ours = Request::new(Method::Invite, uri);
        for (name, value) in [
            (HeaderName::Via, format!("SIP/2.0/UDP {host}{port};branch=z9hG4bK{tag}")),
            (HeaderName::From, format!("<{text}>;tag={tag}")),
            (HeaderName::To, format!("<{text}>")),
            (HeaderName::CallId, format!("{tag}@{host}")),
            (HeaderName::CSeq, format!("{number} INVITE")),
        ] {
            ours.headers.push(name, value);
        }
        let theirs = rsip::Request::try_from(&ours.to_bytes()[..]).expect("rsip reads it");
        let cseq = theirs.cseq_header().and_then(|cseq| cseq.typed()).expect("CSeq");
        let via = theirs.via_header().and_then(|via| via.typed()).expect("Via");
        let from = theirs.from_header().and_then(|from| from.typed()).expect("From");
        prop_assert_eq!(ours.cseq().map(|cseq| cseq.number), Some(cseq.seq));
        let branch = via.branch().map(ToString::to_string);
        prop_assert_eq!(ours.top_via().and_then(|via| via.branch().map(str::to_owned)), branch);
        let their_tag = from.tag().map(ToString::to_string);
        let our_tag = ours.from().and_then(|from| from.tag()).map(|tag| tag.into_owned());
        prop_assert_eq!(our_tag, their_tag);
        prop_assert_eq!(ours.from().and_then(|from| from.uri.to_rsip()), Some(from.uri));
    }

    #[test]
    fn mutations_never_panic(message in message(), edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..8)) {
        let mut bytes = message.to_bytes().to_vec();
        for (place, byte, kind) in edits {
            // Bytes that mean something to a lexer are tried as often as any other.
            let byte = if kind == 0 { b"\r\n \t:;,<>\"\\=@%?[]/"[usize::from(byte) % 18] } else { byte };
            let position = place.index(bytes.len());
            match kind {
                0 => bytes.insert(position, byte),
                1 => bytes[position] = byte,
                _ => bytes.truncate(position.max(1)),
            }
        }
        let bytes = Bytes::from(bytes);
        if let Ok(message) = Message::parse(&bytes) {
            read_all(&message);
            // Whatever is accepted can be passed on and is accepted again.
            prop_assert!(Message::parse(&message.to_bytes()).is_ok(), "{}", String::from_utf8_lossy(&bytes));
        }
        let mut framer = StreamFramer::default();
        framer.push(&bytes);
        while framer.next_item().is_some() {}
    }

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..256), text in "\\PC{0,64}") {
        let _ = Message::parse(&Bytes::from(bytes));
        let _ = (Uri::parse(&text), NameAddr::parse(&text), Via::parse(&text));
        let stored: Uri = serde_json::from_value(serde_json::Value::String(text)).expect("any text is stored");
        let _ = (stored.user(), stored.host(), stored.port(), stored.param("x"), stored.to_rsip());
        let _ = stored.equivalent(&Uri::parse("sip:a@b").expect("a URI"));
    }

    #[test]
    fn streams_give_what_datagrams_give(messages in vec(message(), 1..4), cut in 1_usize..100) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.to_bytes()).collect();
        let mut framer = StreamFramer::default();
        let mut found = Vec::new();
        for piece in stream.chunks(cut) {
            framer.push(piece);
            while let Some(item) = framer.next_item() {
                let StreamItem::Message(bytes) = item else { panic!("{item:?}") };
                found.push(Message::parse(&bytes).expect("a message"));
            }
        }
        prop_assert_eq!(found, messages);
    }
}
