use super::*;
use crate::sip::{Status, Uri};

const START: Timestamp = Timestamp::from_millis(1_000_000);

fn at(ms: u64) -> Timestamp {
    START + Duration::from_millis(ms)
}

/// What a table does to a transaction, and what must come of it.
#[derive(Clone, Copy)]
enum Step {
    /// A response came.
    Response(u64, u16, ResponseAction),
    /// The next timer is this one, at that time, and asks this.
    Fires(u64, &'static str, TimerAction),
    /// No timer runs.
    Quiet,
    /// The server sends.
    Sends(u64, u16),
    /// The request came again.
    Again(u64, RequestAction),
    /// ACK to a failure.
    FailureAck(u64),
    /// ACK to a 2xx.
    SuccessAck(u64),
}
use RequestAction::{Absorb, Retransmit as SendAgain};
use ResponseAction::{Acknowledge, AcknowledgeAndDeliver, Deliver, Ignore};
use Step::{Again, FailureAck, Fires, Quiet, Response as Comes, Sends, SuccessAck};
use TimerAction::{Retransmit, Terminated, TimedOut};

fn client(is_invite: bool, reliable: bool, steps: &[Step]) -> ClientTransaction {
    let mut transaction = ClientTransaction::new(is_invite, reliable, START);
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Comes(ms, status, expect) => {
                assert_eq!(transaction.handle_response(Status(status), at(ms)), expect, "{number}");
            }
            Fires(ms, name, expect) => {
                assert_eq!(transaction.next_timeout(), Some((at(ms), name)), "step {number}");
                let early = Timestamp::from_micros(at(ms).as_micros() - 1);
                assert_eq!(transaction.handle_timeout(early), None, "step {number}, too early");
                assert_eq!(transaction.handle_timeout(at(ms)), Some(expect), "step {number}");
            }
            Quiet => assert_eq!(transaction.next_timeout(), None, "step {number}"),
            Sends(..) | Again(..) | FailureAck(_) | SuccessAck(_) => panic!("a server's step"),
        }
    }
    transaction
}

fn server(is_invite: bool, reliable: bool, steps: &[Step]) -> ServerTransaction {
    let mut transaction = ServerTransaction::new(is_invite, reliable, START);
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Sends(ms, status) => transaction.handle_sent(Status(status), at(ms)),
            Again(ms, expect) => {
                assert_eq!(transaction.handle_retransmission(at(ms)), expect, "step {number}");
            }
            FailureAck(ms) => transaction.handle_failure_ack(at(ms)),
            SuccessAck(ms) => transaction.handle_success_ack(at(ms)),
            Fires(ms, name, expect) => {
                assert_eq!(transaction.next_timeout(), Some((at(ms), name)), "step {number}");
                let early = Timestamp::from_micros(at(ms).as_micros() - 1);
                assert_eq!(transaction.handle_timeout(early), None, "step {number}, too early");
                assert_eq!(transaction.handle_timeout(at(ms)), Some(expect), "step {number}");
            }
            Quiet => assert_eq!(transaction.next_timeout(), None, "step {number}"),
            Comes(..) => panic!("a client's step"),
        }
    }
    transaction
}

/// §17.1.1.2: A doubles without a cap: at 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s, then B.
#[test]
fn invite_client_unanswered() {
    let mut steps: Vec<_> = [500, 1_500, 3_500, 7_500, 15_500, 31_500]
        .map(|ms| Fires(ms, "TimerA", Retransmit))
        .to_vec();
    steps.extend([Fires(32_000, "TimerB", TimedOut), Quiet, Comes(33_000, 200, Ignore)]);
    assert!(client(true, false, &steps).is_terminated());
    assert!(client(true, true, &[Fires(32_000, "TimerB", TimedOut), Quiet]).is_terminated());
}

#[test]
fn invite_client_rings_without_a_timer() {
    for reliable in [false, true] {
        let transaction = client(
            true,
            reliable,
            &[Comes(100, 100, Deliver), Quiet, Comes(9_000_000, 180, Deliver), Quiet],
        );
        assert!(transaction.has_provisional() && transaction.is_pending());
    }
    assert!(!client(true, false, &[Fires(500, "TimerA", Retransmit)]).has_provisional());
}

/// RFC 6026 §7.2: each 2xx is the user's; anything else is dropped; Timer M ends it, over TCP too.
#[test]
fn invite_client_accepted() {
    for reliable in [false, true] {
        for first in [&[][..], &[Comes(10, 180, Deliver)]] {
            let mut steps = first.to_vec();
            steps.extend([
                Comes(1_000, 200, Deliver),
                Comes(1_500, 200, Deliver),
                Comes(1_600, 486, Ignore),
                Comes(1_700, 180, Ignore),
                Fires(33_000, "TimerM", Terminated),
                Comes(33_000, 200, Ignore),
                Quiet,
            ]);
            let transaction = client(true, reliable, &steps);
            assert!(transaction.is_terminated() && !transaction.is_pending());
        }
    }
}

#[test]
fn invite_client_completed() {
    for status in [302, 486, 503, 603] {
        let begin = [Comes(100, 180, Deliver), Comes(1_000, status, AcknowledgeAndDeliver)];
        let more = [
            Comes(1_500, status, Acknowledge),
            Comes(1_600, 180, Ignore),
            Comes(1_700, 200, Ignore),
            Fires(33_000, "TimerD", Terminated),
            Quiet,
        ];
        assert!(client(true, false, &[&begin[..], &more[..]].concat()).is_terminated());
        let at_once = [Fires(1_000, "TimerD", Terminated), Comes(1_500, status, Ignore)];
        assert!(client(true, true, &[&begin[..], &at_once[..]].concat()).is_terminated());
    }
}

/// §17.1.2.2: E doubles up to T2, then F.
#[test]
fn other_client_unanswered() {
    let times = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    let mut steps: Vec<_> = times.map(|ms| Fires(ms, "TimerE", Retransmit)).to_vec();
    steps.extend([Fires(32_000, "TimerF", TimedOut), Quiet, Comes(33_000, 200, Ignore)]);
    assert!(client(false, false, &steps).is_terminated());
    assert!(client(false, true, &[Fires(32_000, "TimerF", TimedOut), Quiet]).is_terminated());
}

/// In Proceeding E is T2 from its next firing on, and F still runs.
#[test]
fn other_client_proceeding() {
    let mut steps = vec![Comes(100, 100, Deliver), Fires(500, "TimerE", Retransmit)];
    steps.extend([4_500, 8_500, 12_500].map(|ms| Fires(ms, "TimerE", Retransmit)));
    assert!(client(false, false, &steps).is_pending());
    steps.truncate(2);
    steps.extend([
        Comes(600, 200, Deliver),
        Comes(700, 200, Ignore),
        Fires(5_600, "TimerK", Terminated),
        Quiet,
    ]);
    assert!(client(false, false, &steps).is_terminated());
    let reliable = [
        Comes(100, 100, Deliver),
        Comes(600, 481, Deliver),
        Fires(600, "TimerK", Terminated),
        Quiet,
    ];
    assert!(client(false, true, &reliable).is_terminated());
    let silent = [Comes(100, 100, Deliver), Fires(32_000, "TimerF", TimedOut)];
    assert!(client(false, true, &silent).is_terminated());
}

/// §17.2.1: G doubles up to T2 until the ACK, then I; without an ACK H.
#[test]
fn invite_server_failure() {
    let begin =
        [Again(50, SendAgain), Sends(100, 100), Again(500, SendAgain), Quiet, Sends(1_000, 486)];
    let more = [
        Again(1_100, SendAgain),
        Fires(1_500, "TimerG", Retransmit),
        Fires(2_500, "TimerG", Retransmit),
        Fires(4_500, "TimerG", Retransmit),
        Fires(8_500, "TimerG", Retransmit),
        Fires(12_500, "TimerG", Retransmit),
        Sends(12_600, 486),
    ];
    let acknowledged = [
        FailureAck(13_000),
        FailureAck(13_100),
        Again(13_200, Absorb),
        Fires(18_000, "TimerI", Terminated),
        Again(18_100, Absorb),
        Quiet,
    ];
    let transaction = server(true, false, &[&begin[..], &more[..], &acknowledged[..]].concat());
    assert!(transaction.is_terminated() && transaction.is_completed());
    let times = [16_500, 20_500, 24_500, 28_500, 32_500];
    let mut never = [&begin[..], &more[..]].concat();
    never.extend(times.map(|ms| Fires(ms, "TimerG", Retransmit)));
    never.extend([Fires(33_000, "TimerH", TimedOut), Quiet]);
    assert!(server(true, false, &never).is_terminated());
    let reliable = [&begin[..], &[FailureAck(1_200), Fires(1_200, "TimerI", Terminated)]].concat();
    assert!(server(true, true, &reliable).is_terminated());
    let reliable = [&begin[..], &[Fires(33_000, "TimerH", TimedOut)]].concat();
    assert!(server(true, true, &reliable).is_terminated());
}

/// §13.3.1.4 and RFC 6026 §7.1: the 2xx from T1 to T2 until its ACK, also over TCP; Timer L ends it.
#[test]
fn invite_server_success() {
    for reliable in [false, true] {
        let begin = [
            Sends(100, 180),
            Sends(1_000, 200),
            Again(1_100, Absorb),
            Fires(1_500, "Timer2xx", Retransmit),
            Fires(2_500, "Timer2xx", Retransmit),
            Fires(4_500, "Timer2xx", Retransmit),
            Fires(8_500, "Timer2xx", Retransmit),
            FailureAck(8_600),
            Sends(8_700, 200),
            Fires(12_500, "Timer2xx", Retransmit),
        ];
        let acknowledged = [
            SuccessAck(13_000),
            SuccessAck(13_500),
            Again(13_600, Absorb),
            Fires(33_000, "TimerL", Terminated),
            Quiet,
        ];
        assert!(server(true, reliable, &[&begin[..], &acknowledged[..]].concat()).is_terminated());
        let mut never = begin.to_vec();
        never.extend(
            [16_500, 20_500, 24_500, 28_500, 32_500].map(|ms| Fires(ms, "Timer2xx", Retransmit)),
        );
        never.extend([Fires(33_000, "TimerL", TimedOut), Quiet]);
        assert!(server(true, reliable, &never).is_terminated());
    }
}

#[test]
fn other_server() {
    let begin = [Sends(100, 100), Again(500, SendAgain), Quiet, Sends(1_000, 200)];
    let udp = [
        Again(1_500, SendAgain),
        Sends(1_600, 500),
        FailureAck(1_700),
        Fires(33_000, "TimerJ", Terminated),
        Quiet,
    ];
    assert!(server(false, false, &[&begin[..], &udp[..]].concat()).is_terminated());
    let tcp = [Fires(1_000, "TimerJ", Terminated), Again(1_100, Absorb)];
    assert!(server(false, true, &[&begin[..], &tcp[..]].concat()).is_terminated());
}

/// A node that was frozen sends once, and what ends wins over what repeats.
#[test]
fn late_loops_do_not_burst() {
    let mut transaction = ClientTransaction::new(false, false, START);
    assert_eq!(transaction.handle_timeout(at(20_000)), Some(Retransmit));
    assert_eq!(transaction.handle_timeout(at(20_000)), None);
    assert_eq!(transaction.next_timeout(), Some((at(21_000), "TimerE")));
    assert_eq!(transaction.handle_timeout(at(40_000)), Some(TimedOut));
    assert_eq!(transaction.handle_timeout(at(40_000)), None);
}

#[test]
fn ack_and_cancel_repeat_the_invite() {
    let mut invite = Request::new(Method::Invite, Uri::parse("sip:b@h;x").expect("a URI"));
    for (name, value) in [
        (HeaderName::Via, "SIP/2.0/UDP us;branch=z9hG4bK1, SIP/2.0/UDP other"),
        (HeaderName::Route, "<sip:p1;lr>"),
        (HeaderName::Route, "<sip:p2;lr>"),
        (HeaderName::MaxForwards, "12"),
        (HeaderName::From, "<sip:a@h>;tag=1"),
        (HeaderName::To, "<sip:b@h>"),
        (HeaderName::CallId, "c"),
        (HeaderName::CSeq, "0009 INVITE"),
        (HeaderName::Contact, "<sip:us>"),
    ] {
        invite.headers.push(name, value);
    }
    let expect = |method: &str, to: &str| {
        format!(
            "{method} sip:b@h;x SIP/2.0\r\nVia: SIP/2.0/UDP us;branch=z9hG4bK1\r\nRoute: <sip:p1;lr>\r\n\
             Route: <sip:p2;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:a@h>;tag=1\r\nTo: {to}\r\nCall-ID: c\r\n\
             CSeq: 9 {method}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let response = invite.response(Status(486), Some("t"));
    assert_eq!(ack_for_failure(&invite, &response).to_bytes(), expect("ACK", "<sip:b@h>;tag=t"));
    assert_eq!(cancel_for(&invite).to_bytes(), expect("CANCEL", "<sip:b@h>"));
}
