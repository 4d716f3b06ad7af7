//! The ladder of a call: drawn as its messages come, read by keyboard, saved as a capture.

use crate::common::process::Folder;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::Pair;
use crate::{go, signed_in};

/// Of a file of libpcap, little endian.
const PCAP: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];

fn rows(kind: &str) -> String {
    format!("document.querySelectorAll('svg.ladder g.row{kind}').length")
}

#[test]
fn a_ladder_is_drawn_read_by_keyboard_and_saved() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let folder = Folder::new("downloads");
    browser.saves_to(folder.path());
    let mut pair = Pair::talking(&server, ["udp", "tcp"]);
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    go(&mut browser, &format!("calls/{id}"));
    // Requests, answers, and who stands where: each phone by its address.
    browser.wait(&format!("{} >= 4 && {} >= 4", rows(".request"), rows(".response")));
    for side in [&pair.caller, &pair.callee] {
        browser.wait_for(&side.phone.local.to_string());
    }
    // The first row has the focus as by Tab, and opens by Enter.
    browser.value("document.querySelector('svg.ladder g.row').focus()");
    let label = browser.value("document.activeElement.getAttribute('aria-label')");
    assert!(label.as_str().is_some_and(|label| label.ends_with(" INVITE")), "{label}");
    browser.press("Enter");
    browser.wait("document.querySelector('pre.message')?.textContent.startsWith('INVITE sip:')");
    browser.press("Tab");
    browser.press("Enter");
    browser.wait("document.querySelector('pre.message').textContent.startsWith('SIP/2.0 100')");
    assert_eq!(browser.value(&rows(".chosen")), 1, "one is chosen");
    // Grows without a reload.
    pair.caller.hangs_up_on(&mut pair.callee);
    browser.wait("document.querySelector('svg.ladder').textContent.includes('200 OK (BYE)')");
    assert_eq!(browser.value(&rows(".chosen")), 1, "and stays so");
    server.cdrs(1);
    browser.click("button", "Download pcap");
    let file = folder.file(&format!("{id}.pcap"));
    let saved = eventually("it is saved", SOON, || std::fs::read(&file).ok());
    assert!(saved.starts_with(&PCAP), "a capture");
    assert!(server.bytes(&format!("/calls/{id}/pcap")).starts_with(&saved), "as the API gives it");
}

/// What a phone says twice is told apart, and what an operator did stands between.
#[test]
fn repeats_and_deeds_are_told_apart() {
    let server = Server::start();
    let mut browser = signed_in(&server, 390);
    let mut attempt = crate::pair::Attempt::new(&server, ["udp", "udp"]);
    attempt.caller.send_request(&attempt.invite.clone());
    let mut attempt = attempt.ringing();
    let accepted = attempt.accepted();
    let pair = attempt.acknowledged(&accepted);
    pair.hear_each_other();
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let wish = serde_json::json!({"leg": "callee", "tone": "dial"});
    let (status, told) = server.api("POST", &format!("/calls/{id}/play"), Some(&wish));
    assert_eq!(status, 202, "{told}");
    for dark in [false, true] {
        browser.set_dark(dark);
        go(&mut browser, "calls");
        go(&mut browser, &format!("calls/{id}"));
        browser.wait(&format!("{} >= 1", rows(".again")));
        browser.wait("document.querySelector('.ladder .marked')?.textContent === 'an operator: play the dial tone to callee'");
        let wide = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.value(wide), false, "it is wider than the screen");
    }
    assert_eq!(browser.complaints(&[]), [""; 0]);
}
