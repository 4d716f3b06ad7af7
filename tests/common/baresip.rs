//! baresip as a phone: sends a tone, records what it hears, is driven through its control socket (netstrings of JSON).
//!
//! Invariant: its recorder (1.0.0) ends at the first hold of a call, so audio after a hold is judged at the far phone.

use super::ports;
use super::process::{Folder, Process};
use super::tone::{Audio, tone};
use super::{SOON, eventually};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const MODULES: &str = "/usr/lib/baresip/modules";

/// What a phone is to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// Registrar and domain; without one the phone takes calls at its own address.
    pub(crate) server: Option<SocketAddr>,
    pub(crate) transport: &'a str,
    pub(crate) codecs: &'a str,
    pub(crate) tone_hz: u32,
    pub(crate) answers: bool,
    /// `srtp`, `srtp-mand` …; empty: RTP.
    pub(crate) encryption: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            user: "phone",
            password: "none",
            server: None,
            transport: "udp",
            codecs: "PCMU/8000/1,PCMA/8000/1",
            tone_hz: 500,
            answers: true,
            encryption: "",
        }
    }
}

/// A running baresip.
pub(crate) struct Baresip {
    pub(crate) tone_hz: u32,
    pub(crate) sip: SocketAddr,
    pub(crate) user: String,
    process: Process,
    control: TcpStream,
    unread: Vec<u8>,
    events: Vec<Value>,
    commands: u32,
    folder: Folder,
}

impl Baresip {
    pub(crate) fn start(settings: &Settings<'_>) -> Self {
        let folder = Folder::new(settings.user);
        let (sip, control) = (ports::port(), ports::port());
        write_files(&folder, settings, sip, control);
        let process = Process::start(
            &format!("baresip {}", settings.user),
            Command::new("baresip").arg("-f").arg(folder.path()).current_dir(folder.path()),
            folder.file("log"),
            "baresip-core",
        );
        let control = eventually("baresip opens its control socket", SOON, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, control)).ok()
        });
        Self {
            tone_hz: settings.tone_hz,
            sip: (Ipv4Addr::LOCALHOST, sip).into(),
            user: settings.user.to_owned(),
            process,
            control,
            unread: Vec::new(),
            events: Vec::new(),
            commands: 0,
            folder,
        }
    }

    /// Waits until the registrar said yes.
    pub(crate) fn registered(mut self) -> Self {
        let ok = eventually("registration ends", SOON, || self.registration());
        assert!(ok, "{} is registered", self.user);
        self
    }

    /// What the registrar said: yes or no; `None` when nothing yet.
    pub(crate) fn registration(&mut self) -> Option<bool> {
        let told = self.command("reginfo", "");
        if told.contains("OK") { Some(true) } else { told.contains("ERR").then_some(false) }
    }

    pub(crate) fn dial(&mut self, uri: &str) {
        self.command("dial", uri);
    }

    pub(crate) fn answer(&mut self) {
        self.command("accept", "");
    }

    pub(crate) fn hold(&mut self) {
        self.command("hold", "");
    }

    pub(crate) fn resume(&mut self) {
        self.command("resume", "");
    }

    pub(crate) fn hang_up(&mut self) {
        self.command("hangup", "");
    }

    /// Nobody hears of its end.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for an event (`CALL_INCOMING`, `CALL_RINGING`, `CALL_ESTABLISHED`, `CALL_CLOSED` …) that was not waited
    /// for before, and gives its parameter.
    pub(crate) fn event(&mut self, kind: &str) -> String {
        let deadline = Instant::now() + SOON * 2;
        loop {
            if let Some(index) = self.events.iter().position(|event| event["type"] == kind) {
                let event = self.events.remove(index);
                return event["param"].as_str().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < deadline, "{} has no {kind}: {:?}", self.user, self.events);
            if let Some(message) = self.read() {
                self.events.push(message);
            }
        }
    }

    /// Waits until the end of the newest recording is that tone.
    pub(crate) fn hears(&self, tone_hz: u32) {
        let begin = self.heard().samples.len();
        eventually(&format!("{} hears {tone_hz} Hz", self.user), SOON, || {
            let mut heard = self.heard();
            heard.samples.drain(..begin.min(heard.samples.len()));
            heard.last()?.is_tone(tone_hz).then_some(())
        });
    }

    /// Everything heard in the newest call, up to its first hold.
    pub(crate) fn heard(&self) -> Audio {
        let entries = fs::read_dir(self.folder.path()).expect("its folder");
        let mut recordings: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
            .collect();
        recordings.sort();
        recordings.last().and_then(|path| Audio::read(path)).unwrap_or_default()
    }

    /// Runs a command of baresip's menu and gives what it printed.
    pub(crate) fn command(&mut self, name: &str, parameters: &str) -> String {
        self.commands += 1;
        let token = self.commands.to_string();
        let text = json!({"command": name, "params": parameters, "token": token}).to_string();
        let frame = format!("{}:{text},", text.len());
        self.control.write_all(frame.as_bytes()).expect("baresip reads commands");
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "baresip answers {name}");
            match self.read() {
                Some(message) if message["token"] == token.as_str() => {
                    return message["data"].as_str().unwrap_or_default().to_owned();
                }
                Some(event) if event["response"] != true => self.events.push(event),
                // An answer to something asked before.
                Some(_) => {}
                None => {}
            }
        }
    }

    /// One netstring; `None` when there is none within a moment.
    fn read(&mut self) -> Option<Value> {
        loop {
            if let Some(colon) = self.unread.iter().position(|byte| *byte == b':') {
                let length = std::str::from_utf8(&self.unread[..colon]).ok()?.parse::<usize>();
                let end = colon + 1 + length.expect("a netstring");
                if self.unread.len() > end {
                    let message = serde_json::from_slice(&self.unread[colon + 1..end]);
                    self.unread.drain(..=end);
                    return Some(message.expect("JSON"));
                }
            }
            let mut buffer = [0_u8; 4_096];
            self.control.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
            match self.control.read(&mut buffer) {
                Ok(0) => panic!("baresip of {} ended", self.user),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(_) => return None,
            }
        }
    }
}

fn write_files(folder: &Folder, settings: &Settings<'_>, sip: u16, control: u16) {
    let tone_file = folder.file("tone.wav");
    tone(settings.tone_hz, 120).write(&tone_file);
    let config = format!(
        "poll_method epoll\n\
         sip_listen 127.0.0.1:{sip}\n\
         net_interface 127.0.0.1\n\
         audio_source aufile,{tone}\n\
         audio_player aubridge,speaker\n\
         audio_alert aubridge,alert\n\
         ausrc_srate 8000\n\
         ausrc_channels 1\n\
         auplay_srate 8000\n\
         auplay_channels 1\n\
         rtp_ports 50000-59999\n\
         rtp_timeout 0\n\
         statmode_default off\n\
         snd_path {folder}\n\
         module_path {MODULES}\n\
         module g711.so\n\
         module g722.so\n\
         module opus.so\n\
         module aufile.so\n\
         module aubridge.so\n\
         module sndfile.so\n\
         module srtp.so\n\
         module_tmp account.so\n\
         module_tmp uuid.so\n\
         module_app menu.so\n\
         module_app ctrl_tcp.so\n\
         ctrl_tcp_listen 127.0.0.1:{control}\n",
        tone = tone_file.display(),
        folder = folder.path().display(),
    );
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, sip));
    let account = format!(
        "<sip:{user}@{domain};transport={transport}>;auth_user={user};auth_pass={password};\
         answermode={mode};regint={interval};audio_codecs={codecs}{encryption}\n",
        user = settings.user,
        domain = settings.server.unwrap_or(own),
        transport = settings.transport,
        password = settings.password,
        mode = if settings.answers { "auto" } else { "manual" },
        interval = if settings.server.is_some() { 60 } else { 0 },
        codecs = settings.codecs,
        encryption = match settings.encryption {
            "" => String::new(),
            name => format!(";mediaenc={name}"),
        },
    );
    for (name, text) in [("config", config.as_str()), ("accounts", &account), ("contacts", "")] {
        fs::write(folder.file(name), text).expect("a file of baresip");
    }
}
