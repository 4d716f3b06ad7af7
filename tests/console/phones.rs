//! Phones that are registered, with what may be wrong with them; and everything by keyboard.

use crate::common::chromium::Chromium;
use crate::common::phone::Phone;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::{VIEWS, go, pair, signed_in};
use holdfast::sip::{HeaderName, Status};

/// The words of the hints of a user's phone.
fn hints(user: &str) -> String {
    format!(
        "[...document.querySelectorAll('tbody tr')]\
         .find((row) => row.textContent.startsWith('{user}'))\
         ?.querySelector('td[data-name=Hints]').innerText.trim()"
    )
}

#[test]
fn hints_tell_what_may_be_wrong_with_a_phone() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    go(&mut browser, "registrations");
    browser.wait_for("No phone is registered.");
    let registers = |user: &str, contact: &dyn Fn(&Phone) -> String| {
        let mut phone = Phone::udp(server.sip, user, server.user(user));
        let contact = contact(&phone);
        assert_eq!(phone.register(&[(HeaderName::Contact, &contact)]).status, Status(200));
        phone
    };
    let _plain = registers("1001", &Phone::contact);
    let _nat = registers("1002", &|_| "<sip:1002@192.0.2.77:5060>".to_owned());
    let _alg = registers("1003", &|phone| {
        format!("<sip:1003@{}:{}>", phone.local.ip(), phone.local.port() ^ 1)
    });
    let lost = pair::phone(&server, "1004", "tcp");
    drop(lost);
    for (user, wanted) in
        [("1001", ""), ("1002", "NAT"), ("1003", "NAT port rewritten"), ("1004", "connection lost")]
    {
        browser.wait(&format!("({}) === '{wanted}'", hints(user)));
    }
    // Why, for who points at it.
    let why = "document.querySelector('td[data-name=Hints] .tag.bad').title";
    assert!(browser.value(why).as_str().is_some_and(|why| why.contains("registers")));
    // Half a minute before its end, which no phone of a test waits for.
    let words = "import('/console/registrations.js').then(({ hints }) =>
        hints({ flow: 'live', nat: false, expires_in_ms: 29000, transport: 'udp',
            contact: 'sip:1@192.0.2.1:5060', source: '192.0.2.1:5060' }).map((one) => one.textContent ?? one).join(''))";
    assert_eq!(browser.value(words), "expires soon ");
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

/// The second key is to come soon after the first, which a busy machine may miss.
fn goes_by_keys(browser: &mut Chromium, key: &str, view: &str) {
    eventually(view, SOON, || {
        browser.press("g");
        browser.press(key);
        (browser.value("location.hash") == format!("#/{view}")).then_some(())
    });
}

#[test]
fn everything_is_reached_by_keyboard() {
    let server = Server::start();
    let _phone = pair::phone(&server, "1001", "udp");
    let mut browser = signed_in(&server, 1280);
    for (key, view) in ["o", "c", "p", "u", "h", "e", "n", "w", "t", "a"].into_iter().zip(VIEWS) {
        goes_by_keys(&mut browser, key, view);
        browser.wait("document.querySelector('h1')");
    }
    browser.press("?");
    browser.wait("document.querySelector('dialog[open]')?.innerText.includes('Filter the list')");
    browser.press("Escape");
    browser.wait("!document.querySelector('dialog')");
    goes_by_keys(&mut browser, "p", "registrations");
    browser.wait("document.querySelector('tbody tr')");
    // The filter, out of it, and on to the first button of the list.
    browser.press("/");
    browser.wait("document.activeElement.type === 'search'");
    browser.press("Tab");
    let focused = browser.value("document.activeElement.textContent");
    assert_eq!(focused, "Remove", "the next thing that can be done");
    // What cannot be taken back is asked for, and can be left.
    browser.press("Enter");
    browser.wait("document.querySelector('dialog[open]')");
    browser.press("Escape");
    browser.wait("!document.querySelector('dialog')");
    server.registrations("1001", 1);
    browser.wait("document.activeElement.textContent === 'Remove'");
    browser.press("Enter");
    browser.wait("document.querySelector('dialog[open]')");
    browser.click("dialog button", "Remove");
    browser.wait_for("No phone is registered.");
    server.registrations("1001", 0);
    assert_eq!(browser.complaints(&[]), [""; 0]);
}
