//! A signaling node as its phones, media nodes and operators meet it: real sockets, real store, a media node's double.

#[path = "common/media_double.rs"]
mod media_double;
#[path = "common/sip_phone.rs"]
mod sip_phone;

use core::time::Duration;
use holdfast::directory::User;
use holdfast::ids::{ClusterKey, Incarnation, NodeName};
use holdfast::net::control_link::Secrets;
use holdfast::operator::{Command, Operator, Readiness, Tuning};
use holdfast::signaling::{self, Config, SignalingNode};
use holdfast::sip::digest::Ha1;
use holdfast::sip::{HeaderName, Message, Method, Response};
use holdfast::store::{CdrQuery, Store};
use holdfast::time::Timestamp;
use holdfast::views::user::SrtpPolicy;
use media_double::MediaDouble;
use sip_phone::{Phone, sdp};
use std::sync::Arc;

const REALM: &str = "holdfast";

struct Node {
    node: SignalingNode,
    operator: Operator,
    store: Store,
    _folder: tempfolder::Folder,
}

fn user(extension: &str) -> User {
    User {
        extension: extension.to_owned(),
        display_name: format!("User {extension}"),
        enabled: extension != "1009",
        ha1: Ha1::new(extension, REALM, &password(extension)),
        max_contacts: None,
        max_calls: (extension == "1008").then_some(0),
        ring_timeout_ms: None,
        codecs: vec!["PCMA".to_owned(), "PCMU".to_owned()],
        srtp: SrtpPolicy::Off,
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

fn password(extension: &str) -> String {
    format!("secret of {extension}")
}

fn secrets() -> Secrets {
    Secrets(Arc::from([b"cluster".to_vec()]))
}

fn config() -> Config {
    Config {
        node: NodeName("test-1".into()),
        incarnation: Incarnation(1),
        mode: "signaling",
        key: ClusterKey::new(b"cluster"),
        secrets: secrets(),
        sip_bind: vec!["127.0.0.1:0".parse().expect("literal")],
        advertise: Default::default(),
        realm: REALM.to_owned(),
        product: "Holdfast/test".to_owned(),
        tuning: Tuning {
            ring_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(60),
            registration_max: Duration::from_secs(300),
            max_contacts: 10,
            emergency_numbers: Vec::new(),
            reanchor_window: 512,
        },
        control_bind: "127.0.0.1:0".parse().expect("literal"),
        lease: Duration::from_secs(3),
        journals: None,
        capture: None,
        hep: None,
        siblings: None,
    }
}

impl Node {
    async fn start() -> Self {
        let folder = tempfolder::Folder::new();
        let url = format!("sqlite:{}", folder.path.join("holdfast.db").display());
        let store = Store::connect(&url).await.expect("a store");
        for extension in ["1001", "1002", "1008", "1009"] {
            store.create_user(&user(extension)).await.expect("created");
        }
        let (operator, commands) = Operator::channel();
        let events = Arc::new(|_: &holdfast::event::Event| {});
        let node = signaling::start(config(), store.clone(), commands, events).await;
        let node = Self { node: node.expect("started"), operator, store, _folder: folder };
        node.wait_until(|readiness| !names(readiness, "not read yet")).await;
        node
    }

    /// With a media node that complies.
    async fn with_media() -> Self {
        let node = Self::start().await;
        let media = MediaDouble::announce(node.node.control, "media-1", &secrets()).await;
        tokio::spawn(media.serve());
        node.wait_until(|readiness| *readiness == Readiness::Ready).await;
        node
    }

    async fn wait_until(&self, wanted: impl Fn(&Readiness) -> bool) {
        for _ in 0..1_000 {
            if wanted(&self.operator.ask(Command::Readiness).await.expect("answers")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the node does not become what it should be");
    }

    async fn phone(&self, extension: &str) -> Phone {
        let server = *self.node.sip.first().expect("bound");
        Phone::new(server, extension, &password(extension)).await
    }
}

fn names(readiness: &Readiness, what: &str) -> bool {
    match readiness {
        Readiness::Starting(reasons) | Readiness::Degraded(reasons) => {
            reasons.iter().any(|reason| reason.contains(what))
        }
        Readiness::Ready | Readiness::Draining => false,
    }
}

fn status(response: &Response) -> u16 {
    response.status.0
}

/// A folder that goes with the test.
mod tempfolder {
    use std::path::PathBuf;

    pub struct Folder {
        pub path: PathBuf,
    }

    impl Folder {
        pub fn new() -> Self {
            let name = format!("holdfast-{}", uuid::Uuid::now_v7());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).expect("made");
            Self { path }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_register_and_only_as_themselves() {
    let node = Node::start().await;
    let mut phone = node.phone("1001").await;
    let mut draft = phone.draft("REGISTER", "1001");
    let challenged = phone.ask(&draft).await;
    assert_eq!(status(&challenged), 401);
    assert_eq!(challenged.headers.all(&HeaderName::WwwAuthenticate).count(), 2);
    let again = phone.authenticated(&draft, &challenged);
    let accepted = phone.ask(&again).await;
    assert_eq!(status(&accepted), 200);
    let contact = accepted.headers.get(&HeaderName::Contact).expect("its contact");
    assert!(contact.contains(&format!("<sip:1001@{}>", phone.local)), "{contact}");
    assert_eq!(status(&phone.ask(&again).await), 200, "a repeated one is answered alike");
    let registrations = node.operator.ask(|answer| Command::Registrations(None, answer));
    let registrations = registrations.await.expect("answers");
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].source, phone.local.to_string());
    assert_eq!(
        node.store.bindings_of("1001").await.expect("read").len(),
        1,
        "stored before the 200"
    );

    draft = phone.draft("REGISTER", "1002");
    assert_eq!(status(&phone.ask_authenticated(&draft).await.1), 403, "another's address");
    for (extension, secret, expected) in
        [("1001", "wrong", 401), ("nobody", "wrong", 401), ("1009", "secret of 1009", 403)]
    {
        let mut phone = node.phone(extension).await;
        secret.clone_into(&mut phone.password);
        assert_eq!(status(&phone.register().await), expected, "{extension} with {secret}");
    }
    let id = registrations[0].id.clone();
    assert!(node.operator.ask(|answer| Command::Deregister(id, answer)).await.expect("answers"));
    let left = node.operator.ask(|answer| Command::Registrations(None, answer)).await;
    assert_eq!(left.expect("answers").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_gets_the_right_status() {
    let node = Node::start().await;
    let mut phone = node.phone("1001").await;
    let options = phone.draft("OPTIONS", "1002");
    let answered = phone.ask(&options).await;
    assert_eq!(status(&answered), 200);
    for name in [HeaderName::Allow, HeaderName::Accept, HeaderName::Supported, HeaderName::Server] {
        assert!(answered.headers.get(&name).is_some(), "{name}");
    }
    // (method, a further header line, what a stranger is told, what a user is told)
    let table = [
        ("OPTIONS", "Max-Forwards: 0\r\n", 400, None),
        ("OPTIONS", "Require: 100rel\r\n", 420, None),
        ("OPTIONS", "Proxy-Require: foo\r\n", 420, None),
        ("OPTIONS", "Route: <sip:192.0.2.9;lr>\r\n", 403, None),
        ("NOTIFY", "Event: keep-alive\r\n", 200, None),
        ("CANCEL", "", 481, None),
        ("INVITE", "", 401, None),
        ("BYE", "", 401, Some(481)),
        ("INFO", "", 401, Some(481)),
        ("NOTIFY", "Event: dialog\r\n", 401, Some(481)),
        ("SUBSCRIBE", "Event: dialog\r\n", 401, Some(489)),
        ("MESSAGE", "", 401, Some(405)),
        ("UPDATE", "", 401, Some(405)),
        ("PRACK", "", 401, Some(405)),
        ("REFER", "", 401, Some(405)),
        ("PUBLISH", "", 401, Some(405)),
        ("BOOM", "", 401, Some(501)),
    ];
    for (method, more, stranger, user) in table {
        let mut draft = phone.draft(method, "1002");
        more.clone_into(&mut draft.more);
        let response = phone.ask(&draft).await;
        assert_eq!(status(&response), stranger, "{method} {more}");
        assert!(response.to().is_some_and(|to| to.tag().is_some()), "a To tag on {stranger}");
        if let Some(expected) = user {
            let mut draft = phone.draft(method, "1002");
            more.clone_into(&mut draft.more);
            let answered = phone.ask_authenticated(&draft).await.1;
            assert_eq!(status(&answered), expected, "{method} {more}");
        }
    }
    let mut own = phone.draft("OPTIONS", "1002");
    own.more = format!("Route: <sip:{};lr>\r\n", phone.server);
    assert_eq!(status(&phone.ask(&own).await), 200, "a Route that names us");
    let mut in_dialog = phone.draft("BYE", "1002");
    in_dialog.to.push_str(";tag=unknown");
    assert_eq!(status(&phone.ask(&in_dialog).await), 481);
    let spent = phone.draft("INVITE", "1002");
    let spent = phone.text(&spent).replace("Forwards: 70", "Forwards: 0");
    phone.send(&spent).await;
    assert_eq!(status(&phone.response().await), 483);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_survived() {
    let node = Node::start().await;
    let mut phone = node.phone("1001").await;
    let good = phone.draft("OPTIONS", "1002");
    let text = phone.text(&good);
    // Nothing is said to these.
    for bytes in
        [&b"\r\n\r\n"[..], b"\0", b"\0\0\0\0", b"no SIP", &[0xFF; 40], b"SIP/2.0 200 OK\r\n\r\n"]
    {
        phone.send_bytes(bytes).await;
    }
    let ack = phone.draft("ACK", "1002");
    phone.send(&phone.text(&ack)).await;
    phone.send(&text.replace("SIP/2.0/UDP", "NOT/2.0/UDP")).await;
    // (text, status)
    let table = [
        (text.replace("Content-Length: 0", "Content-Length: 9999"), 400),
        (text.replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"), 400),
        (text.replace("OPTIONS sip:1002", "OPTIONS mailto:1002"), 416),
        (text.replace(" SIP/2.0\r\nVia", " SIP/7.0\r\nVia"), 505),
    ];
    for (text, expected) in table {
        phone.send(&text).await;
        assert_eq!(status(&phone.response().await), expected, "{text}");
    }
    assert_eq!(status(&phone.ask(&good).await), 200, "alive");
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    stun.extend_from_slice(b"transaction!");
    phone.send_bytes(&stun).await;
    assert_eq!(phone.receive_bytes().await[..2], [1, 1], "a STUN success");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_refused_for_want_of_something() {
    let node = Node::start().await;
    let mut phone = node.phone("1001").await;
    let mut invite = phone.draft("INVITE", "1002");
    invite.body = sdp(4_000);
    let (_, refused) = phone.ask_authenticated(&invite).await;
    assert_eq!(status(&refused), 503, "no media node");
    assert!(refused.headers.get(&HeaderName::RetryAfter).is_some());
    let media = MediaDouble::announce(node.node.control, "media-1", &secrets()).await;
    tokio::spawn(media.serve());
    node.wait_until(|readiness| *readiness == Readiness::Ready).await;
    // (caller, callee, status)
    let table = [("1001", "1002", 480), ("1001", "nobody", 404), ("1008", "1002", 403)];
    for (caller, callee, expected) in table {
        let mut phone = node.phone(caller).await;
        let mut invite = phone.draft("INVITE", callee);
        invite.body = sdp(4_000);
        let (_, mut refused) = phone.ask_authenticated(&invite).await;
        if status(&refused) == 100 {
            refused = phone.response().await;
        }
        assert_eq!(status(&refused), expected, "{caller} calls {callee}");
    }
    let mut forger = node.phone("1001").await;
    let mut invite = forger.draft("INVITE", "1002");
    invite.body = sdp(4_000);
    let refused = forger.ask(&invite).await;
    let again = forger.authenticated(&invite, &refused);
    forger.send(&forger.text(&again).replace("From: <sip:1001@", "From: <sip:1002@")).await;
    assert_eq!(status(&forger.response().await), 403, "From of another");
    let drain = |drain| {
        let node = &node;
        async move {
            let command = |answer| Command::Drain {
                node: "test-1".to_owned(),
                drain,
                end_calls: false,
                answer,
            };
            assert!(node.operator.ask(command).await.expect("answers"));
        }
    };
    drain(true).await;
    let invite = phone.draft("INVITE", "1002");
    assert_eq!(status(&phone.ask_authenticated(&invite).await.1), 503, "draining");
    drain(false).await;
    let readiness = node.operator.ask(Command::Readiness).await.expect("answers");
    assert_eq!(readiness, Readiness::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk() {
    let node = Node::with_media().await;
    let mut caller = node.phone("1001").await;
    let mut callee = node.phone("1002").await;
    assert_eq!(status(&callee.register().await), 200);

    let mut draft = caller.draft("INVITE", "1002");
    draft.body = sdp(4_000);
    let (invite, trying) = caller.ask_authenticated(&draft).await;
    assert_eq!(status(&trying), 100);
    let offered = callee.request(Method::Invite).await;
    assert!(String::from_utf8_lossy(&offered.body).contains("m=audio 200"), "our port");
    // A repeated INVITE starts nothing; the same by another way is refused.
    caller.send(&caller.text(&invite)).await;
    let mut merged = invite.clone();
    merged.branch.push_str("-fork");
    caller.send(&caller.text(&merged)).await;
    let statuses = [status(&caller.response().await), status(&caller.response().await)];
    assert!(statuses.contains(&482), "{statuses:?}");
    callee.answer(&offered, 180, None).await;
    assert_eq!(status(&caller.response().await), 180);
    callee.answer(&offered, 200, Some(&sdp(5_000))).await;
    let answered = caller.response().await;
    assert_eq!(status(&answered), 200);
    assert_eq!(callee.request(Method::Ack).await.method, Method::Ack);

    let calls = node.operator.ask(|answer| Command::Calls(Default::default(), answer)).await;
    let calls = calls.expect("answers").views();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].media.node.as_deref(), Some("media-1"));
    assert!(node.store.call(calls[0].id.parse().expect("an id")).await.expect("read").is_some());

    let to = answered.headers.get(&HeaderName::To).expect("To").to_owned();
    let mut ack = invite.clone();
    (ack.method, ack.to, ack.body) = ("ACK", to.clone(), String::new());
    ack.branch.push_str("-ack");
    caller.send(&caller.text(&ack)).await;
    let mut bye = ack.clone();
    (bye.method, bye.cseq) = ("BYE", invite.cseq + 1);
    bye.branch.push_str("-bye");
    assert_eq!(status(&caller.ask(&bye).await), 200);
    let ended = callee.request(Method::Bye).await;
    callee.answer(&ended, 200, None).await;
    let mut cdrs = Vec::new();
    for _ in 0..400 {
        cdrs = node.store.cdrs(&CdrQuery { limit: 10, ..CdrQuery::default() }).await.expect("read");
        if !cdrs.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cdrs.len(), 1, "exactly one");
    assert_eq!(cdrs[0].id, calls[0].id);
    node.node.stop();
    tokio::task::spawn_blocking(|| node.node.join()).await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hangs_up_while_it_rings() {
    let node = Node::with_media().await;
    let mut caller = node.phone("1001").await;
    let mut callee = node.phone("1002").await;
    assert_eq!(status(&callee.register().await), 200);
    let mut draft = caller.draft("INVITE", "1002");
    draft.body = sdp(4_000);
    let (invite, _) = caller.ask_authenticated(&draft).await;
    let offered = callee.request(Method::Invite).await;
    callee.answer(&offered, 180, None).await;
    assert_eq!(status(&caller.response().await), 180);
    let mut cancel = invite.clone();
    (cancel.method, cancel.body) = ("CANCEL", String::new());
    caller.send(&caller.text(&cancel)).await;
    let mut statuses = [status(&caller.response().await), status(&caller.response().await)];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 487]);
    let cancelled = callee.request(Method::Cancel).await;
    callee.answer(&cancelled, 200, None).await;
    callee.answer(&offered, 487, None).await;
    assert_eq!(callee.request(Method::Ack).await.method, Method::Ack);
    assert!(matches!(caller.receive().await, Message::Response(again) if again.status.0 == 487));
}
