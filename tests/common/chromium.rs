//! A real browser, driven by its DevTools protocol over a pipe.

use super::SOON;
use super::process::Folder;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

/// A browser with one page. What the page complains of is kept.
pub(crate) struct Chromium {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    session: String,
    number: u64,
    complaints: Vec<String>,
    /// What pages asked for.
    requests: Vec<String>,
    _profile: Folder,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its helpers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Chromium {
    /// With an empty page of that size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let profile = Folder::new("chromium");
        // Chromium reads commands from descriptor 3 and answers on 4.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
            --no-first-run --disable-background-networking --disable-extensions \
            --remote-debugging-pipe --user-data-dir=\"$0\" about:blank \
            3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(profile.file("profile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs chromium: the Debian package `chromium`");
        let commands = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if let Ok(answer) = serde_json::from_slice(&message)
                    && sender.send(answer).is_err()
                {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            commands,
            answers,
            session: String::new(),
            number: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
            _profile: profile,
        };
        browser.attach();
        browser.resize(width, height);
        browser
    }

    fn attach(&mut self) {
        let page = self.command("Target.createTarget", &json!({"url": "about:blank"}));
        let target = &page["targetId"];
        let attached =
            self.command("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        self.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.command(&format!("{domain}.enable"), &json!({}));
        }
    }

    /// The window is so large from now on; below 500 pixels it is a phone's.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 500});
        self.command("Emulation.setDeviceMetricsOverride", &size);
    }

    /// As a person's system is set.
    pub(crate) fn set_dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.command("Emulation.setEmulatedMedia", &features);
    }

    /// The page never gets what lies there, whatever it was before.
    pub(crate) fn block(&mut self, urls: &[&str]) {
        self.command("Network.setBlockedURLs", &json!({"urls": urls}));
    }

    /// Opens a page; it is there when `wait` finds what is expected.
    pub(crate) fn open(&mut self, url: &str) {
        self.command("Page.navigate", &json!({"url": url}));
    }

    /// The value of an expression on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        self.evaluate(expression).unwrap_or_else(|| panic!("there is no page: {expression}"))
    }

    /// The same; nothing while one page gives way to another.
    fn evaluate(&mut self, expression: &str) -> Option<Value> {
        let wanted = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.answer("Runtime.evaluate", &wanted);
        let result = answer.get("result")?;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        Some(result["result"]["value"].clone())
    }

    /// Until an expression is true on the page.
    pub(crate) fn wait(&mut self, expression: &str) {
        let mut text = Value::Null;
        let mut probe = || {
            text = self.evaluate("document.body?.innerText")?;
            let found = self.evaluate(&format!("Boolean({expression})"))?;
            (found == true).then_some(())
        };
        let deadline = std::time::Instant::now() + SOON * 2;
        while probe().is_none() {
            let is_late = std::time::Instant::now() > deadline;
            assert!(!is_late, "never: {expression}\n{text}\n{:?}", self.complaints);
            thread::sleep(std::time::Duration::from_millis(30));
        }
    }

    /// Until the page shows this text.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let quoted = Value::from(text);
        self.wait(&format!("document.body?.innerText.includes({quoted})"));
    }

    /// Clicks what the selector finds first among what shows the text.
    pub(crate) fn click(&mut self, selector: &str, text: &str) {
        let (selector, text) = (Value::from(selector), Value::from(text));
        let find = format!(
            "[...document.querySelectorAll({selector})]\
             .find((one) => one.textContent.includes({text}) && one.getClientRects().length)"
        );
        self.wait(&find);
        // A click that leaves the page may take its answer along.
        _ = self.evaluate(&format!("{find}.click()"));
    }

    /// Types into a field, as by hand.
    pub(crate) fn fill(&mut self, selector: &str, text: &str) {
        let quoted = Value::from(selector);
        self.wait(&format!("document.querySelector({quoted})"));
        self.value(&format!("document.querySelector({quoted}).focus()"));
        self.command("Input.insertText", &json!({"text": text}));
    }

    /// What is downloaded lies there, under its name once it is whole.
    pub(crate) fn saves_to(&mut self, folder: &std::path::Path) {
        let wanted = json!({"behavior": "allow", "downloadPath": folder});
        self.command("Browser.setDownloadBehavior", &wanted);
    }

    /// Presses and releases a key.
    pub(crate) fn press(&mut self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            "Escape" => ("", 27),
            "Tab" => ("", 9),
            key if key.chars().count() == 1 => (key, 0),
            _ => ("", 0),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "text": text,
                "windowsVirtualKeyCode": code});
            self.command("Input.dispatchKeyEvent", &event);
        }
    }

    /// Errors on the page and violations of its policy since it was opened; each expected text is taken out.
    pub(crate) fn complaints(&mut self, expected: &[&str]) -> Vec<String> {
        // An answer comes behind all that was told before.
        self.value("1");
        let complaints = core::mem::take(&mut self.complaints).into_iter();
        complaints.filter(|text| !expected.iter().any(|known| text.contains(known))).collect()
    }

    /// Addresses that pages asked for, whoever they are.
    pub(crate) fn requests(&mut self) -> Vec<String> {
        self.value("1");
        self.requests.clone()
    }

    /// MiB of what the page's scripts hold, once what is dropped is gone.
    pub(crate) fn heap(&mut self) -> f64 {
        self.command("HeapProfiler.collectGarbage", &json!({}));
        let usage = self.command("Runtime.getHeapUsage", &json!({}));
        usage["usedSize"].as_f64().expect("a number") / f64::from(1 << 20)
    }

    /// Saves the page as PNG, also what is below the window.
    pub(crate) fn picture(&mut self, path: &std::path::Path) {
        use base64::Engine as _;
        let wanted = json!({"format": "png", "captureBeyondViewport": true, "clip": self.whole()});
        let taken = self.command("Page.captureScreenshot", &wanted);
        let text = taken["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        std::fs::write(path, bytes).expect("the folder is there");
    }

    fn whole(&mut self) -> Value {
        let size = self.value("[innerWidth, document.documentElement.scrollHeight]");
        json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1})
    }

    fn command(&mut self, method: &str, params: &Value) -> Value {
        let answer = self.answer(method, params);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    fn answer(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({"id": number, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("chromium listens");
        loop {
            let answer = self.answers.recv_timeout(SOON * 3);
            let answer = answer.unwrap_or_else(|_| panic!("chromium does not answer {method}"));
            if answer["id"] == number {
                return answer;
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params.to_string()),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"].to_string());
            }
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                self.complaints.push(params.to_string());
            }
            _ => {}
        }
    }
}
