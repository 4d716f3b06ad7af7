//! How a call sounds over time: drawn from what is kept, so a reload loses nothing, and as it goes on.

use crate::common::rtp::Mischief;
use crate::common::server::Server;
use crate::pair::Pair;
use crate::{go, signed_in};

const LINE: &str = "document.querySelector('figure.course polyline.line')";
const POINTS: &str = "(document.querySelector('figure.course polyline.line')?.getAttribute('points') ?? '').split(' ').length";

#[test]
fn the_graphs_of_a_call_are_there_after_a_reload_and_after_its_end() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    go(&mut browser, &format!("calls/{id}"));
    browser.wait_for("Sound over time");
    browser.wait(&format!("{POINTS} >= 4"));
    let label =
        browser.value("document.querySelector('figure.course svg').getAttribute('aria-label')");
    assert!(
        label.as_str().is_some_and(|label| label.starts_with("From the caller: MOS")),
        "{label}"
    );
    browser.value("location.reload()");
    browser.wait(&format!("{POINTS} >= 4"));
    // It goes on, and what is lost is drawn.
    pair.callee.talk.does(Some(Mischief::Loses));
    browser.value(&format!("window.before = {POINTS}"));
    browser.wait(&format!("{POINTS} > window.before"));
    browser.wait("document.querySelector('figure.course rect.loss')");
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
    browser.wait_for("hung up by the caller");
    browser.value("location.reload()");
    browser.wait(&format!("{LINE} && {POINTS} >= 4"));
    go(&mut browser, "cdrs");
    browser.wait("document.querySelector('select[aria-label=Fault]')");
    browser.value("const fault = document.querySelector('select[aria-label=Fault]'); fault.value = 'glare_loop'; fault.dispatchEvent(new Event('change'))");
    browser.wait_for("No call was like that.");
    assert_eq!(browser.complaints(&["status of 404"]), [""; 0]);
}
