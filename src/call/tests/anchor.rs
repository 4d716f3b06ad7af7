//! Calls whose media moves to another host (RFC 3261 §14, RFC 3311): what phones are told, and what becomes of each
//! answer.

use super::*;
use crate::control::{Hears, Report, ReportKind};
use crate::ids::SessionId;
use crate::views::EndCause;

fn callee() -> String {
    phone(1002, 1)
}

/// Talking for a while, with sound.
fn at_rest() -> Bench {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench.packets = 100;
    is_told(&mut bench);
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    bench
}

/// The media node tells what it hears.
fn is_told(bench: &mut Bench) {
    let statistics = StreamStatistics {
        packets_received: bench.packets,
        last_packet_at: Some(bench.now),
        ..StreamStatistics::default()
    };
    let stream =
        StreamState { index: 0, local: SocketAddr::from(([10, 0, 0, 9], 1)), port: 1, statistics };
    let legs =
        [LegId::CALLER, LegId(1)].map(|leg| LegState { leg, streams: vec![stream.clone()] }).into();
    let state = SessionState { session: SessionId(7), epoch: Epoch(1), rev: Rev(0), legs };
    let kind = ReportKind::State(state);
    bench.input(Input::Report(Report { session: SessionId(7), number: 1, kind }));
}

/// The first media node is gone, or drains; the second has the session.
fn moves(bench: &mut Bench, lives: bool) {
    bench.media_node = 2;
    bench.input(Input::MediaMoves { lives });
}

fn hears_both(bench: &mut Bench) {
    bench.packets += 10;
    is_told(bench);
}

fn offer(bench: &Bench, to: &str) -> String {
    text(&bench.request(to, &Method::Invite).body)
}

fn accept(bench: &mut Bench, phone: &str) {
    let port = if phone == CALLER { 4_000 } else { 5_000 };
    bench.answer(phone, 200, &sdp(port, 1, ""));
}

fn media_of(bench: &Bench) -> String {
    let view = bench.call.view(bench.now);
    view.media.node.expect("a node")
}

#[test]
fn both_phones_are_told_as_soon_as_the_session_is_there() {
    let mut bench = at_rest();
    let before = [text(&bench.response(CALLER, 200).body), offer(&bench, &callee())];
    bench.media_silent = true;
    moves(&mut bench, true);
    assert!(bench.heard(CALLER).is_empty(), "nothing is there yet");
    bench.media_returns();
    let saved = bench.saves.last().map(|save| save.rev);
    for (phone, port, before) in [(CALLER, 40_000, &before[0]), (&*callee(), 40_100, &before[1])] {
        assert_eq!(bench.heard(phone), ["INVITE sdp"]);
        let offer = offer(&bench, phone);
        let old = port / 2 + if phone == CALLER { 0 } else { 50 };
        let expect = before
            .replace("c=IN IP4 10.0.0.2", "c=IN IP4 10.0.0.3")
            .replace(&format!("m=audio {old}"), &format!("m=audio {port}"));
        let version = |text: &str| text.split(' ').nth(2).map(|v| v.parse::<u64>().expect("one"));
        assert_eq!(version(&offer), version(before).map(|version| version + 1));
        let rest = |text: &str| text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(rest(&offer), rest(&expect), "but for our addresses nothing changes");
        assert!(origin(offer.as_bytes()).ends_with("10.0.0.2"), "RFC 3264 §8: {offer}");
        let behind = bench.wire.iter().rev().find(|(to, ..)| to == phone).and_then(|sent| sent.2);
        assert_eq!(behind, saved, "a CSeq and a version are saved first");
    }
    assert!(bench.left.is_empty(), "what was there goes on");
    accept(&mut bench, CALLER);
    accept(&mut bench, &callee());
    hears_both(&mut bench);
    assert_eq!(bench.left, [NodeName("m-1".into())], "both know");
    assert_eq!(
        (bench.heard(CALLER), bench.heard(&callee())),
        (vec!["ACK".into()], vec!["ACK".into()])
    );
    bench.wait(Duration::from_secs(40));
    assert!(bench.heard(CALLER).is_empty() && bench.heard(&callee()).is_empty(), "once");
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
    bench.ask(CALLER, "BYE", 2, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.must_end();
    let cdr = bench.cdr();
    assert_eq!((cdr.reanchors, cdr.media_nodes.len()), (1, 2));
}

/// The next offer to the callee, by method and number.
fn asked_next(bench: &mut Bench, after: u32) -> (Method, u32) {
    for _ in 0..100 {
        let sent = bench.wire.iter().rev().find_map(|(to, message, _)| match message {
            Message::Request(request) if *to == callee() && !request.body.is_empty() => {
                request.cseq()
            }
            Message::Request(_) | Message::Response(_) => None,
        });
        if let Some(cseq) = sent.filter(|cseq| cseq.number > after) {
            return (cseq.method, cseq.number);
        }
        bench.wait(Duration::from_millis(50));
    }
    panic!("the callee is not asked again");
}

/// (statuses of the callee in turn, what it is asked meanwhile, how the call fares when its former node is gone)
#[test]
fn each_answer_has_its_consequence() {
    let ends = Some(EndCause::ReanchorFailed);
    let table: [(&[u16], &str, Option<EndCause>); 11] = [
        (&[491, 200], "INVITE INVITE", None),
        (&[491, 491, 491, 491], "INVITE INVITE INVITE INVITE", ends),
        (&[500, 200], "INVITE INVITE", None),
        (&[503, 200], "INVITE INVITE", None),
        (&[500, 503, 200], "INVITE INVITE UPDATE", None),
        (&[405, 200], "INVITE UPDATE", None),
        (&[501, 200], "INVITE UPDATE", None),
        (&[405, 405], "INVITE UPDATE", ends),
        (&[488], "INVITE", ends),
        (&[603], "INVITE", ends),
        (&[481], "INVITE", ends),
    ];
    for (statuses, asked, end) in table {
        let mut bench = at_rest();
        moves(&mut bench, false);
        accept(&mut bench, CALLER);
        hears_both(&mut bench);
        let (mut all, mut number) = (Vec::new(), 1);
        for status in statuses {
            let (method, sequence) = asked_next(&mut bench, number);
            number = sequence;
            let body = if *status == 200 { sdp(5_000, 1, "") } else { String::new() };
            bench.answer_with(&callee(), &method, *status, "", &body);
            all.push(method.to_string());
        }
        hears_both(&mut bench);
        bench.heard(&callee());
        bench.wait(Duration::from_secs(11));
        assert_eq!(all.join(" "), asked, "{statuses:?}");
        let more = bench.heard(&callee());
        assert!(more.iter().all(|what| what == "BYE"), "{statuses:?}: {more:?}");
        match end {
            None => assert_eq!(bench.call.state(), CallState::Confirmed, "{statuses:?}"),
            Some(cause) => {
                for phone in [CALLER, &callee()] {
                    bench.answer_with(phone, &Method::Bye, 200, "", "");
                }
                bench.must_end();
                assert_eq!(bench.cdr().end_cause, cause, "{statuses:?}");
            }
        }
    }
}

#[test]
fn an_update_names_us_and_is_not_acknowledged() {
    let mut bench = at_rest();
    moves(&mut bench, false);
    bench.answer(&callee(), 405, "");
    let update = bench.request(&callee(), &Method::Update);
    assert!(update.contact().is_some() && text(&update.body).contains("c=IN IP4 10.0.0.3"));
    bench.heard(&callee());
    bench.answer_with(&callee(), &Method::Update, 200, "", &sdp(5_000, 1, ""));
    assert!(bench.heard(&callee()).is_empty());
}

#[test]
fn a_phone_that_says_nothing_at_all_is_gone_and_one_that_works_on_it_is_not() {
    let mut bench = at_rest();
    moves(&mut bench, false);
    accept(&mut bench, CALLER);
    bench.answer(&callee(), 100, "");
    hears_both(&mut bench);
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.call.state(), CallState::Confirmed);
    let mut bench = at_rest();
    moves(&mut bench, false);
    accept(&mut bench, CALLER);
    hears_both(&mut bench);
    bench.wait(Duration::from_millis(4_900));
    assert_eq!(bench.call.state(), CallState::Confirmed);
    bench.wait(Duration::from_millis(200));
    assert!(bench.heard(CALLER).contains(&"BYE".to_owned()));
}

/// Also the phone that answered moves back: what both had before goes on.
#[test]
fn when_a_phone_refuses_a_node_that_lives_takes_the_call_back() {
    for (status, lives) in [(488, true), (603, true), (488, false)] {
        let mut bench = at_rest();
        moves(&mut bench, lives);
        accept(&mut bench, CALLER);
        hears_both(&mut bench);
        bench.answer(&callee(), status, "");
        if !lives {
            bench.heard(CALLER);
            bench.wait(Duration::from_secs(8));
            assert!(bench.heard(CALLER).is_empty(), "it is waited for");
            bench.input(Input::MediaReturned { node: NodeName("m-1".into()) });
        }
        assert_eq!(media_of(&bench), "m-1");
        let wish = bench.wishes.iter().rev().find_map(control::Request::wish).expect("a wish");
        assert_eq!(wish.spec.legs[0].streams[0].port, Some(20_000), "its own ports again");
        assert!(offer(&bench, CALLER).contains("m=audio 20000"), "the caller is told so");
        bench.heard(&callee());
        accept(&mut bench, CALLER);
        hears_both(&mut bench);
        assert_eq!(bench.left, [NodeName("m-2".into())]);
        bench.wait(Duration::from_secs(40));
        assert!(bench.heard(&callee()).is_empty(), "nobody asks the callee again");
        assert_eq!(bench.call.state(), CallState::Confirmed);
        let sent = &bench.call.record.leg(LegId(1)).expect("the callee").description;
        let text = sent.sent.as_deref().expect("an SDP");
        assert!(text.contains("m=audio 20100"), "{text}");
        assert_eq!(sent.version, 2, "the last that the callee saw was refused");
        assert!(text.contains(" 3 IN IP4 "), "the refused version is not used again: {text}");
    }
}

/// 200, and then nothing comes: inactive and back, once.
#[test]
fn a_phone_that_sends_nothing_to_the_new_port_is_nudged_and_then_given_up() {
    for comes in [true, false] {
        let mut bench = at_rest();
        moves(&mut bench, false);
        accept(&mut bench, CALLER);
        hears_both(&mut bench);
        accept(&mut bench, &callee());
        bench.heard(&callee());
        bench.wait(Duration::from_millis(1_100));
        assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
        assert!(offer(&bench, &callee()).contains("a=inactive"));
        bench.answer(&callee(), 200, &sdp(5_000, 1, "a=inactive\r\n"));
        assert_eq!(bench.heard(&callee()), ["ACK", "INVITE sdp"]);
        let again = offer(&bench, &callee());
        assert!(again.contains("a=sendrecv") && again.contains("m=audio 40100"), "{again}");
        accept(&mut bench, &callee());
        if comes {
            hears_both(&mut bench);
        }
        bench.wait(Duration::from_millis(1_100));
        let over = bench.heard(&callee()).contains(&"BYE".to_owned());
        assert_eq!(over, !comes);
        if comes {
            assert_eq!(bench.left.len(), 1, "done");
        }
    }
}

#[test]
fn a_held_phone_stays_held_and_is_not_expected_to_speak() {
    let mut bench = at_rest();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, "a=sendonly\r\n"));
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    bench.ask(CALLER, "ACK", 2, "", "");
    bench.wait(Duration::from_secs(3));
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    moves(&mut bench, false);
    assert!(offer(&bench, &callee()).contains("a=sendonly"), "{}", offer(&bench, &callee()));
    assert!(offer(&bench, CALLER).contains("a=recvonly"), "{}", offer(&bench, CALLER));
    bench.answer(CALLER, 200, &sdp(4_000, 2, "a=sendonly\r\n"));
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.left.len(), 1, "done");
    assert!(bench.heard(&callee()).is_empty());
    assert_eq!(bench.call.view(bench.now).hold, crate::views::call::HoldState::Caller);
}

/// The caller was promised nothing: its 200 names the new address. The callee is told after its ACK.
#[test]
fn what_rings_is_told_when_it_is_answered() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 180, "");
    bench.wait(Duration::from_secs(1));
    moves(&mut bench, false);
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"], "it goes on ringing");
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert!(text(&bench.response(CALLER, 200).body).contains("m=audio 40000"));
    assert_eq!(bench.heard(&callee()), ["ACK", "INVITE sdp"]);
    bench.acknowledge(1, "");
    accept(&mut bench, &callee());
    bench.heard(CALLER);
    bench.wait(Duration::from_secs(3));
    assert!(bench.heard(CALLER).is_empty(), "it knows");
}

/// An SDP once given binds (RFC 6337 §3.1.1): the 200 repeats it, and the caller is told after its ACK.
#[test]
fn who_heard_early_media_is_told_after_the_acknowledgement() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 183, &sdp(5_000, 1, ""));
    let early = bench.response(CALLER, 183).body;
    moves(&mut bench, false);
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.response(CALLER, 200).body, early);
    bench.heard(CALLER);
    bench.wait(Duration::from_millis(400));
    assert!(!bench.heard(CALLER).contains(&"INVITE sdp".to_owned()), "not before its ACK");
    bench.acknowledge(1, "");
    assert!(bench.heard(CALLER).contains(&"INVITE sdp".to_owned()));
    assert!(offer(&bench, CALLER).contains("m=audio 40000"));
}

/// The next owner finds in the record who was told what, and what is to be given up.
#[test]
fn another_owner_carries_the_move_on() {
    let mut bench = at_rest();
    moves(&mut bench, true);
    accept(&mut bench, CALLER);
    bench.heard(CALLER);
    let asked = bench.request(&callee(), &Method::Invite);
    bench.is_taken_over();
    assert_eq!(bench.heard(CALLER), ["ACK"], "it knows");
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.request(&callee(), &Method::Invite).cseq(), asked.cseq(), "the same again");
    assert!(bench.left.is_empty());
    accept(&mut bench, &callee());
    hears_both(&mut bench);
    assert_eq!(bench.left, [NodeName("m-1".into())]);
    bench.ask(CALLER, "BYE", 2, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.must_end();
    assert_eq!(bench.cdr().reanchors, 1);
}

#[test]
fn a_second_node_that_dies_amid_the_move_is_followed_by_a_third() {
    let mut bench = at_rest();
    moves(&mut bench, false);
    accept(&mut bench, CALLER);
    bench.media_node = 3;
    bench.input(Input::MediaMoves { lives: false });
    assert!(offer(&bench, CALLER).contains("m=audio 60000"), "it is told anew");
    accept(&mut bench, &callee());
    let asked = offer(&bench, &callee());
    assert!(asked.contains("m=audio 60100"), "what it took was out of date: {asked}");
    for phone in [CALLER, &callee()] {
        accept(&mut bench, phone);
    }
    hears_both(&mut bench);
    assert_eq!(bench.call.state(), CallState::Confirmed);
    assert_eq!(bench.left, [NodeName("m-1".into())]);
}

#[test]
fn a_call_that_ends_amid_the_move_leaves_nothing_behind() {
    let mut bench = at_rest();
    moves(&mut bench, true);
    accept(&mut bench, CALLER);
    bench.ask(&callee(), "BYE", 1, "", "");
    assert_eq!(bench.left, [NodeName("m-1".into())]);
    let last = bench.wishes.last();
    assert!(matches!(last, Some(control::Request::Release(_))));
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.must_end();
}

#[test]
fn a_phone_that_takes_the_move_when_the_call_is_over_is_acknowledged() {
    let mut bench = at_rest();
    moves(&mut bench, false);
    bench.answer_with(&callee(), &Method::Invite, 481, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    accept(&mut bench, CALLER);
    assert!(bench.heard(CALLER).contains(&"ACK".to_owned()), "else it says 200 for 32 s");
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.must_end();
}

#[test]
fn when_nobody_takes_the_session_a_node_that_lives_keeps_it() {
    for lives in [true, false] {
        let mut bench = at_rest();
        bench.media_silent = true;
        moves(&mut bench, lives);
        bench.input(Input::MediaLost);
        bench.media_silent = false;
        assert_eq!(bench.call.state() == CallState::Confirmed, lives);
        if lives {
            assert_eq!(bench.media_node, 1);
            assert!(bench.heard(CALLER).is_empty(), "nobody was told anything");
            assert!(bench.left.is_empty());
        }
    }
}
