//! The console in a real browser, before a real switch with phones that talk.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;
mod kept;
mod ladder;
mod many;
mod nodes;
#[path = "../peers/pair.rs"]
mod pair;
mod phones;
mod pictures;
mod policy;
mod quality;

use common::chromium::Chromium;
use common::events::Watching;
use common::receiver::Receiver;
use common::server::Server;
use holdfast::sip::Method;
use kept::Kept;
use pair::{Pair, Side, reinvite};
use serde_json::json;
use std::time::Duration;

const VIEWS: [&str; 10] = [
    "",
    "calls",
    "registrations",
    "users",
    "cdrs",
    "events",
    "nodes",
    "webhooks",
    "tokens",
    "audit",
];
/// Browsers tell of every answer that is an error, also of those that are meant.
const REFUSED: &str = "status of 401";
const OVER: &str = "status of 404";

/// At the overview, signed in.
fn signed_in(server: &Server, width: u32) -> Chromium {
    let mut browser = Chromium::start(width, 900);
    browser.open(&format!("http://{}/", server.admin));
    browser.fill("input[name=token]", &server.token);
    browser.click("button", "Sign in");
    browser.wait_for("Nobody is on the phone");
    browser
}

fn go(browser: &mut Chromium, view: &str) {
    browser.value(&format!("location.hash = '#/{view}'"));
}

/// A script that was lost on its way leaves no blank page.
#[test]
fn a_page_whose_scripts_do_not_come_says_what_to_do() {
    let server = Server::start();
    let mut browser = Chromium::start(1280, 900);
    let told = "document.querySelector('.late')?.checkVisibility({visibilityProperty: true})";
    browser.block(&["*/console/call.js"]);
    browser.open(&format!("http://{}/", server.admin));
    browser.wait(told);
    browser.wait_for("load the page again");
    browser.block(&[]);
    browser.open(&format!("http://{}/", server.admin));
    browser.wait("document.querySelector('input[name=token]')");
    assert_eq!(browser.value(&format!("Boolean({told})")), false);
}

#[test]
fn a_token_opens_the_door_and_a_wrong_one_does_not() {
    let server = Server::start();
    let mut browser = Chromium::start(1280, 900);
    browser.open(&format!("http://{}/", server.admin));
    browser.fill("input[name=token]", "not-the-token");
    browser.press("Enter");
    browser.wait_for("not a token of this switch");
    browser.value("document.querySelector('input[name=token]').value = ''");
    browser.fill("input[name=token]", &server.token);
    browser.click("button", "Sign in");
    browser.wait_for("Live calls");
    browser.wait("document.querySelector('.foot .state.good')");
    browser.value("location.reload()");
    browser.wait_for("Live calls");
    browser.click("button", "Sign out");
    browser.wait("document.querySelector('input[name=token]')");
    assert_eq!(browser.value("sessionStorage.length + localStorage.length"), 0);
    assert_eq!(browser.complaints(&[REFUSED]), [""; 0]);
}

#[test]
fn a_call_is_seen_without_reload_and_hung_up() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "calls");
    browser.wait_for("Nobody is on the phone.");
    browser.value("window.unchanged = true");
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    browser.wait("document.querySelector('tr.open .state.good')?.textContent === 'Talking'");
    assert_eq!(browser.value("document.querySelector('tr.open td').textContent"), "1001");
    // Where its sound is.
    let last = "[...document.querySelectorAll('tr.open td')].at(-1).textContent";
    assert_eq!(browser.value(last), server.node());
    pair.hear_each_other();
    // By keyboard: the first row, then into it.
    browser.press("j");
    browser.press("Enter");
    browser.click("a", "1001");
    browser.wait_for("1001 → 1002");
    browser.wait_for("PCMU");
    browser.wait(
        "[...document.querySelectorAll('td[data-name=MOS]')]\
        .some((cell) => Number(cell.textContent) > 4)",
    );
    browser.click("button", "Hang up");
    browser.fill("dialog input[name=reason]", "end of day");
    browser.click("dialog button", "Hang up");
    for side in [&mut pair.caller, &mut pair.callee] {
        let bye = side.phone.request_of(&Method::Bye);
        side.phone.respond(&bye, 200, "unused", None);
    }
    browser.wait_for("ended by an operator");
    browser.wait_for("end of day");
    go(&mut browser, "cdrs");
    browser.wait_for("ended by an operator");
    go(&mut browser, "events");
    browser.wait_for("1001 → 1002 begins");
    assert_eq!(browser.value("window.unchanged"), true, "it was never loaded again");
    assert_eq!(browser.complaints(&[OVER]), [""; 0]);
}

#[test]
fn a_call_is_begun_held_and_transferred_by_buttons() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let mut phones = ["1001", "1002", "1003"].map(|user| pair::phone(&server, user, "udp"));
    go(&mut browser, "calls");
    browser.click("button", "New call");
    browser.fill("dialog input[name=from]", "1001");
    browser.fill("dialog input[name=to]", "1002");
    browser.click("dialog button", "Call");
    let mut takes = |at: usize| {
        let phone: &mut common::phone::Phone = &mut phones[at];
        let invite = phone.request_of(&Method::Invite);
        let talk = common::rtp::Talk::new(500);
        talk.told(&invite.body);
        phone.respond(&invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
        phone.request_of(&Method::Ack);
        talk
    };
    let _caller = takes(0);
    let callee = takes(1);
    browser.wait_for("1001 → 1002");
    browser.wait("[...document.querySelectorAll('button')].some((b) => b.textContent === 'Hold')");
    browser.click("button", "Hold");
    browser.value("document.querySelector('dialog select[name=leg]').value = 'callee'");
    browser.click("dialog button", "Hold");
    browser.wait_for("the callee is held by an operator");
    let told = phones[1].request_of(&Method::Invite);
    phones[1].respond(&told, 200, "unused", Some(&callee.sdp(2, "recvonly")));
    phones[1].request_of(&Method::Ack);
    browser.click("button", "Let go");
    browser.wait("!document.body.innerText.includes('held by an operator')");
    let told = phones[1].request_of(&Method::Invite);
    phones[1].respond(&told, 200, "unused", Some(&callee.sdp(3, "sendrecv")));
    phones[1].request_of(&Method::Ack);
    browser.click("button", "Digits");
    browser.value("document.querySelector('dialog select[name=leg]').value = 'callee'");
    browser.fill("dialog input[name=digits]", "5");
    browser.click("dialog button", "Send");
    common::eventually("a digit", common::SOON, || (callee.digits() == [5]).then_some(()));
    browser.click("button", "Play");
    browser.fill("dialog input[name=seconds]", "5s");
    browser.click("dialog button", "Play");
    browser.wait_for("is no number of seconds");
    browser.click("button", "Play");
    browser.value("document.querySelector('dialog select[name=leg]').value = 'callee'");
    browser.value("document.querySelector('dialog select[name=tone]').value = 'dial'");
    browser.click("dialog button", "Play");
    callee.hears(425);
    browser.wait_for("dial tone");
    browser.click("button", "Play");
    browser.value("document.querySelector('dialog select[name=tone]').value = ''");
    browser.click("dialog button", "Play");
    browser.wait("!document.body.innerText.includes('dial tone')");
    browser.click("button", "Transfer");
    browser.value("document.querySelector('dialog select[name=leg]').value = 'callee'");
    browser.fill("dialog input[name=to]", "1003");
    browser.click("dialog button", "Transfer");
    browser.wait_for("1003 is to take the callee's place");
    let invite = phones[2].request_of(&Method::Invite);
    phones[2].respond(&invite, 486, "busy", None);
    phones[2].request_of(&Method::Ack);
    browser.wait_for("the transfer to 1003 came to 486");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

/// Who came in the caller's place is the caller, whatever the number of its leg.
#[test]
fn whose_phone_holds_is_seen_after_the_caller_was_transferred() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "calls");
    let mut coming = pair::phone(&server, "1003", "udp");
    let Pair { mut caller, mut callee } = Pair::talking(&server, ["udp", "udp"]);
    browser.wait_for("Talking");
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let wish = json!({"leg": "caller", "to": "1003"});
    let (status, told) = server.api("POST", &format!("/calls/{call}/transfer"), Some(&wish));
    assert_eq!(status, 202, "{told}");
    let invite = coming.request_of(&Method::Invite);
    let mut coming = Side::taking(coming, &invite, 700);
    let bye = caller.phone.request_of(&Method::Bye);
    caller.phone.respond(&bye, 200, "unused", None);
    let holds = |browser: &mut Chromium, who: &str| {
        let calls = "import('/console/live.js').then(({ live }) => [...live.calls.values()])";
        let expected = format!("(await {calls})[0]?.hold === '{who}'");
        browser.wait(&format!("(async () => {expected})()"));
    };
    reinvite(&mut coming, &mut callee, "sendonly", "recvonly", false);
    holds(&mut browser, "caller");
    browser.wait("document.querySelector('tr.open .state')?.textContent === 'On hold'");
    reinvite(&mut coming, &mut callee, "sendrecv", "sendrecv", false);
    holds(&mut browser, "none");
    browser.wait("document.querySelector('tr.open .state')?.textContent === 'Talking'");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn a_user_is_made_and_its_phone_registers_with_what_is_shown() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "users");
    browser.fill("input[name=extension]", "2001");
    browser.fill("input[name=display_name]", "<b>Anna</b>");
    browser.click("form button", "Create");
    browser.wait_for("Type this into the phone of 2001");
    browser.wait_for("<b>Anna</b>");
    let password = browser.value("document.querySelectorAll('.typed .mono')[2].textContent");
    let address = browser.value("document.querySelectorAll('.typed .mono')[0].textContent");
    assert_eq!(address, server.sip.to_string());
    let password: &'static str = password.as_str().expect("a password").to_owned().leak();
    let mut phone = common::phone::Phone::udp(server.sip, "2001", password);
    assert_eq!(phone.register(&[]).status.0, 200);
    go(&mut browser, "registrations");
    browser.wait_for("2001");
    go(&mut browser, "users");
    browser.fill("input[type=search]", "2001");
    browser.wait("document.querySelectorAll('tbody tr').length === 1");
    browser.click("tbody button", "Delete");
    browser.click("dialog button", "Delete");
    browser.wait_for("No user is like that.");
    let (status, _) = server.api("GET", "/users/2001", None);
    assert_eq!(status, 404);
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn a_token_is_made_shown_once_and_revoked_and_the_log_tells() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    // By keyboard.
    browser.press("g");
    browser.press("t");
    browser.wait_for("There is only the admin token.");
    browser.fill("input[name=name]", "<b>billing</b>");
    browser.value("document.querySelector('select[name=role]').value = 'cdr'");
    browser.click("form button", "Create");
    browser.wait_for("It is not shown again.");
    let token = browser.value("document.querySelector('.typed .mono').textContent");
    let token = token.as_str().expect("a token").to_owned();
    let works = |path: &str| {
        let request = ureq::get(format!("http://{}/api/v1{path}", server.admin));
        request.header("Authorization", format!("Bearer {token}")).call().is_ok()
    };
    assert!(works("/cdrs") && !works("/calls"), "it is of the role that was chosen");
    browser.click("button", "Done");
    browser.value("location.reload()");
    browser.wait_for("<b>billing</b>");
    assert_eq!(browser.value(&format!("document.body.innerText.includes('{token}')")), false);
    browser.click("tbody button", "Revoke");
    browser.click("dialog button", "Revoke");
    browser.wait_for("There is only the admin token.");
    go(&mut browser, "audit");
    browser.wait_for("DELETE /tokens/");
    browser.wait_for("POST /tokens");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn a_webhook_is_made_turned_off_and_deleted() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "webhooks");
    browser.wait_for("Nobody is told of events.");
    browser.click("button", "New webhook");
    browser.fill("dialog input[name=url]", "http://127.0.0.1:9/hook");
    browser.fill("dialog input[name=types]", "call.ended, call.steered");
    browser.click("dialog button", "Create");
    browser.wait_for("whsec_");
    let (_, made) = server.api("GET", "/webhooks", None);
    assert_eq!(made["items"][0]["types"], json!(["call.ended", "call.steered"]));
    browser.click("button", "Turn off");
    browser.wait_for("Off");
    browser.click("button", "Delete");
    browser.click("dialog button", "Delete");
    browser.wait_for("Nobody is told of events.");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn what_a_webhook_did_not_take_is_sent_again_by_a_button() {
    let server = Server::start();
    let receiver = Receiver::start();
    receiver.behaves(|_| (503, Duration::ZERO));
    let (status, hook) = server.api(
        "POST",
        "/webhooks",
        Some(&json!({"url": receiver.url(), "types": ["call.ended"]})),
    );
    assert_eq!(status, 201, "{hook}");
    let hook = hook["id"].as_str().expect("an id");
    Kept::of(&server).owe(hook, &json!({"type": "call.ended", "call_id": "one"}), 19);
    common::eventually("it is given up", common::SOON, || {
        let (_, seen) = server.api("GET", &format!("/webhooks/{hook}"), None);
        (seen["dead"] == 1).then_some(())
    });
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "webhooks");
    browser.wait_for("1 given up");
    browser.wait("document.querySelector('td[data-name=Tries]')?.textContent === '20'");
    browser.wait("document.querySelector('td[data-name=Why]')?.textContent.includes('503')");
    receiver.behaves(|_| (200, Duration::ZERO));
    browser.click("tbody button", "Send again");
    assert_eq!(receiver.takes(1)[0]["call_id"], "one");
    common::eventually("nothing is owed", common::SOON, || {
        let (_, seen) = server.api("GET", &format!("/webhooks/{hook}"), None);
        (seen["dead"] == 0 && seen["owed"] == 0).then_some(())
    });
    go(&mut browser, "events");
    go(&mut browser, "webhooks");
    browser.wait_for("Well");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn what_somebody_else_changed_meanwhile_is_not_changed() {
    let server = Server::start();
    server.user("1001");
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "users");
    browser.wait_for("1001");
    // By another operator, while this one looks at the list.
    let change = json!({"display_name": "Anna", "enabled": false});
    assert_eq!(server.api("PATCH", "/users/1001", Some(&change)).0, 200);
    let disable = "[...document.querySelectorAll('tbody tr')]\
        .find((row) => row.textContent.startsWith('1001')).querySelector('button:nth-child(3)')";
    assert_eq!(browser.value(&format!("{disable}.textContent")), "Disable");
    browser.value(&format!("{disable}.click()"));
    browser.wait_for("Somebody changed it since");
    browser.wait_for("Anna");
    browser.value(&format!("{disable}.click()"));
    browser.wait(&format!("{disable}.textContent === 'Disable'"));
    let (_, seen) = server.api("GET", "/users/1001", None);
    assert_eq!((&seen["enabled"], &seen["display_name"]), (&json!(true), &json!("Anna")));
    // The same between its look and its change.
    browser.value(
        "(() => { const way = window.fetch; window.fetch = async (path, options) => {
            if (options?.method !== 'DELETE') return way(path, options);
            window.fetch = way;
            window.sent = options.headers['If-Match'];
            await way(path, { method: 'PATCH', body: '{\"display_name\":\"Berta\"}', headers:
                { Authorization: options.headers.Authorization, 'Content-Type': 'application/json' } });
            return way(path, options);
        }; })()",
    );
    browser.value(&format!("{}.click()", disable.replace("nth-child(3)", "nth-child(4)")));
    browser.click("dialog button", "Delete");
    browser.wait_for("it was changed since");
    browser.wait_for("Berta");
    assert!(browser.value("window.sent").as_str().is_some_and(|tag| tag.starts_with('"')));
    assert_eq!(browser.complaints(&["status of 412"]), [""; 0]);
}

#[test]
fn a_node_is_drained_and_taken_back() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "nodes");
    browser.wait_for("CPU, %");
    browser.click(".card button", "Drain");
    browser.click("dialog button", "Drain");
    browser.wait_for("Draining");
    browser.wait("document.querySelector('.notice:not(.hidden)')");
    browser.click(".card button", "Take back");
    browser.wait_for("Ready");
    browser.wait("document.querySelector('.card button')?.textContent === 'Drain'");
    assert_eq!(browser.complaints(&["status of 503"]), [""; 0]);
}

#[test]
fn every_view_fits_a_phone_in_light_and_dark() {
    let server = Server::start();
    let mut browser = signed_in(&server, 390);
    let _pair = Pair::talking(&server, ["udp", "udp"]);
    browser.wait("document.querySelector('.figure .value').textContent === '1'");
    let mut grounds = Vec::new();
    for dark in [false, true] {
        browser.set_dark(dark);
        grounds.push(browser.value("getComputedStyle(document.body).backgroundColor"));
        for view in VIEWS {
            go(&mut browser, view);
            browser.wait("document.querySelector('h1') && document.querySelector('.card')");
            let wide = "document.documentElement.scrollWidth > innerWidth";
            assert_eq!(browser.value(wide), false, "{view} is wider than the screen");
        }
    }
    assert_ne!(grounds[0], grounds[1], "dark is dark");
    browser.click("button", "Menu");
    browser.click("nav a", "Calls");
    browser.wait("document.querySelector('tr.open')");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn the_api_is_described_without_a_network() {
    let server = Server::start();
    let mut browser = Chromium::start(1280, 900);
    browser.open(&format!("http://{}/docs", server.admin));
    browser.click("summary", "/api/v1/calls/{id}/ladder");
    browser.wait_for("The signaling of a call, alive or over");
    browser.wait("document.querySelectorAll('details').length > 40");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn a_phone_that_is_not_heard_is_flagged() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "calls");
    let watching = Watching::start(&server, "types=call.*");
    let pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    pair.callee.talk.mute(true);
    // How soon: relay::tests::missed, where time is what it is said to be.
    let came = watching.until("call.one_way", 1);
    assert_eq!(came.last().expect("some")["role"], "callee");
    browser.wait_for("callee not heard");
    pair.callee.talk.mute(false);
    watching.until("call.two_way", 1);
    browser.wait("!document.body.innerText.includes('callee not heard')");
    assert!(watching.came().iter().filter(|one| one["type"] == "call.one_way").count() == 1);
    for side in [&pair.caller, &pair.callee] {
        side.talk.mute(true);
    }
    watching.until("call.silent", 1);
    browser.wait_for("neither heard");
    for side in [&pair.caller, &pair.callee] {
        side.talk.mute(false);
    }
    watching.until("call.heard", 1);
    browser.wait("!document.body.innerText.includes('neither heard')");
}
