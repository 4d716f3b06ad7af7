//! Every view with something in it, as a person sees it: pictures for who changes them, in `target/tmp/console`.

use crate::common::chromium::Chromium;
use crate::common::phone::sdp;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone};
use crate::{VIEWS, go, signed_in};
use holdfast::sip::Method;
use serde_json::json;
use std::path::Path;

/// Calls that are over, tokens, a webhook, and lines of the audit log.
fn furnish(server: &Server) -> String {
    let mut pair = Pair::talking(server, ["udp", "tcp"]);
    pair.hear_each_other();
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let wish = json!({"leg": "callee", "tone": "dial"});
    assert_eq!(server.api("POST", &format!("/calls/{id}/play"), Some(&wish)).0, 202);
    pair.caller.hangs_up_on(&mut pair.callee);
    let mut caller = phone(server, "1003", "udp");
    let invite = caller.invite(&server.uri("nobody"), Some(&sdp(40_000, 1, "sendrecv")));
    let refused = caller.response_to(&Method::Invite);
    caller.acknowledge_refusal(&invite, &refused);
    let hook = json!({"url": "http://127.0.0.1:9/hook", "types": ["call.ended"]});
    assert_eq!(server.api("POST", "/webhooks", Some(&hook)).0, 201);
    let token = json!({"name": "billing", "role": "cdr"});
    assert_eq!(server.api("POST", "/tokens", Some(&token)).0, 201);
    server.cdrs(2);
    id
}

fn take(browser: &mut Chromium, folder: &Path, name: &str) {
    let wide = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(browser.value(wide), false, "{name} is wider than the screen");
    let cut = "[...document.querySelectorAll('.card table.list td')].filter((cell) => {
        const [own, card] = [cell, cell.closest('.card')].map((one) => one.getBoundingClientRect());
        return cell.scrollWidth > cell.clientWidth + 1 || own.right > card.right + 1;
    }).length";
    assert_eq!(browser.value(cut), 0, "{name}: cells are cut off");
    let path = folder.join(format!("{name}.png"));
    browser.picture(&path);
    let size = std::fs::metadata(&path).expect("a picture").len();
    assert!(size > 5_000, "{name}: there is something to see, {size} bytes");
}

#[test]
fn every_view_has_its_picture() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&folder).expect("a folder");
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let over = furnish(&server);
    let pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let live = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    eventually("it has a score", SOON * 2, || {
        server.list("/calls")[0]["legs"][0]["streams"][0]["mos"].is_number().then_some(())
    });
    for width in [1280, 390] {
        browser.resize(width, 900);
        for (dark, ground) in [(false, "light"), (true, "dark")] {
            browser.set_dark(dark);
            for view in VIEWS {
                go(&mut browser, view);
                browser.wait("document.querySelector('h1') && document.querySelector('.card')");
                browser.wait("!document.body.innerText.includes('Loading')");
                let name = if view.is_empty() { "overview" } else { view };
                take(&mut browser, &folder, &format!("{name}-{ground}-{width}"));
            }
            for (name, id) in [("live", &live), ("over", &over)] {
                go(&mut browser, &format!("calls/{id}"));
                browser.wait("document.querySelector('svg.ladder')");
                take(&mut browser, &folder, &format!("call-{name}-{ground}-{width}"));
            }
        }
    }
    assert_eq!(browser.complaints(&["status of 404"]), [""; 0]);
}
