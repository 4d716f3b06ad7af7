//! Pages ask nobody but the switch that served them, and could not: what the policy says (Content Security Policy
//! Level 3), and what a browser makes of it.

use crate::common::own_ip;
use crate::common::server::Server;
use crate::pair::Pair;
use crate::{VIEWS, go, signed_in};
use std::net::TcpListener;
use std::thread;

/// Nothing may come from anywhere but the switch, nor go there.
fn check_policy(server: &Server, path: &str) {
    let answer = ureq::get(format!("http://{}{path}", server.admin)).call().expect("a page");
    let policy = answer.headers().get("content-security-policy").expect("a policy");
    let policy = policy.to_str().expect("text");
    let directives: Vec<Vec<&str>> =
        policy.split(';').map(|directive| directive.split_whitespace().collect()).collect();
    for name in ["default-src", "base-uri", "form-action", "frame-ancestors"] {
        assert!(directives.contains(&vec![name, "'none'"]), "{path}: {name} in {policy}");
    }
    for directive in &directives {
        let sources = directive.get(1..).unwrap_or_default();
        assert!(matches!(sources, ["'none'" | "'self'"]), "{path}: {directive:?}");
    }
}

#[test]
fn pages_ask_the_switch_itself_and_nobody_else() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let of_call = format!("calls/{call}");
    for view in VIEWS.iter().copied().chain([of_call.as_str()]) {
        go(&mut browser, view);
        browser.wait("document.querySelector('h1') && document.querySelector('.card')");
    }
    browser.wait_for("INVITE");
    browser.open(&format!("http://{}/docs", server.admin));
    browser.wait("document.querySelectorAll('details').length > 40");
    let requests = browser.requests();
    let origin = format!("http://{}/", server.admin);
    for url in &requests {
        assert!(url.starts_with(&origin), "{url} is not of {origin}");
    }
    let paths = ["docs", "console/app.js", "api/v1/calls", "api/v1/events", "api/v1/openapi.json"];
    for path in paths.map(|path| format!("{origin}{path}")) {
        assert!(requests.iter().any(|url| url.starts_with(&path)), "{path}: {requests:#?}");
    }
    assert_eq!(browser.complaints(&[]), [""; 0]);
}

#[test]
fn a_browser_lets_pages_ask_nobody_else() {
    let server = Server::start();
    for path in ["/", "/docs", "/console/app.js"] {
        check_policy(&server, path);
    }
    let elsewhere = TcpListener::bind((own_ip(), 0)).expect("a port");
    let url = format!("http://{}/", elsewhere.local_addr().expect("bound"));
    elsewhere.set_nonblocking(true).expect("a socket");
    let mut browser = signed_in(&server, 1280);
    // Nobody answers there: what goes there is given up.
    let fetch = format!("fetch('{url}', {{ signal: AbortSignal.timeout(3000) }})");
    let why = "(error) => error.name === 'TimeoutError' ? 'sent' : 'refused'";
    let fetched = browser.value(&format!("{fetch}.then(() => 'sent', {why})"));
    assert_eq!(fetched, "refused");
    for element in ["img", "script"] {
        let put = format!(
            "new Promise((done) => {{
                const one = document.createElement('{element}');
                one.onload = () => done('loaded');
                setTimeout(() => done('sent'), 3000);
                one.onerror = () => done('refused');
                one.src = '{url}';
                document.body.append(one);
            }})"
        );
        assert_eq!(browser.value(&put), "refused", "{element}");
    }
    browser.value(
        "(() => {
            const one = document.createElement('script');
            one.textContent = 'window.ran = true';
            document.body.append(one);
        })()",
    );
    assert_eq!(browser.value("window.ran === true"), false, "a script in the page");
    assert!(elsewhere.accept().is_err(), "nobody came");
    assert_eq!(browser.complaints(&["Content Security Policy"]), [""; 0]);
    // Who is asked by a person is there.
    elsewhere.set_nonblocking(false).expect("a socket");
    let came = thread::spawn(move || elsewhere.accept().is_ok());
    browser.open(&url);
    assert!(came.join().expect("no panic"));
}
