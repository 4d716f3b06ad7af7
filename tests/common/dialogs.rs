//! What a phone remembers of its dialogs, to judge what it is told in them: the numbers of requests (RFC 3261
//! §12.2.1.1, §9.1, §13.2.2.4) and session descriptions (RFC 3264 §5, §8).
//!
//! Invariant: a message is judged when the phone reads it, whatever its test waits for, and a repeat once more.

use bytes::Bytes;
use holdfast::sip::{HeaderName, Message, Method, NameAddr, Request, Response};
use std::collections::{HashMap, HashSet};

/// Numbers that are passed over where the record of a call may be older than what its phones saw.
const PASSED_OVER: u64 = 100;
/// RFC 3264 §5.
const LARGEST: u64 = i64::MAX.unsigned_abs();

/// All dialogs of a phone.
#[derive(Clone, Default)]
pub(crate) struct Dialogs {
    /// By Call-ID and the far tag.
    known: HashMap<(String, String), Heard>,
    /// Number and body of what was said, by what its repeats have in common.
    said: HashMap<String, (u32, Bytes)>,
}

/// What the far side said in a dialog.
#[derive(Clone, Default)]
struct Heard {
    /// CSeq number of the last request.
    number: Option<u32>,
    /// Those of INVITEs.
    invites: HashSet<u32>,
    description: Option<Description>,
}

/// A session description, for what may change in it.
#[derive(Clone)]
struct Description {
    version: u64,
    /// The phone did not take it: what was before is in force, and what comes next changes that.
    is_refused: bool,
    /// The o= line without its version.
    origin: String,
    /// All other lines.
    rest: String,
}

impl Dialogs {
    /// Remembers what came; what is wrong with it.
    pub(crate) fn judge(&mut self, message: &Message) -> Result<(), String> {
        match message {
            Message::Request(request) => self.request(request),
            Message::Response(response) => self.response(response),
        }
    }

    /// The phone refused what it was offered.
    pub(crate) fn refused(&mut self, request: &Request) {
        let heard = key(request.call_id(), request.from()).and_then(|key| self.known.get_mut(&key));
        if let Some(description) = heard.and_then(|heard| heard.description.as_mut()) {
            description.is_refused |= !request.body.is_empty();
        }
    }

    fn request(&mut self, request: &Request) -> Result<(), String> {
        let key = key(request.call_id(), request.from());
        let (Some(cseq), Some(key)) = (request.cseq(), key) else { return Ok(()) };
        let is_within = request.to().is_some_and(|to| to.tag().is_some());
        if !is_within && !matches!(request.method, Method::Invite | Method::Cancel) {
            return Ok(());
        }
        let method = &request.method;
        let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
        let branch = branch.unwrap_or_default();
        if *method == Method::Cancel {
            let invite = self.said.get(&format!("INVITE {branch}"));
            let number = invite.map_or(cseq.number, |(number, _)| *number);
            return right(number == cseq.number, || format!("its INVITE has CSeq {number}"));
        }
        let said = (cseq.number, request.body.clone());
        if let Some(before) = self.said.insert(format!("{method} {branch}"), said.clone()) {
            return right(before == said, || format!("the same branch was used for {before:?}"));
        }
        let heard = self.known.entry(key).or_default();
        heard.takes_number(method, cseq.number)?;
        heard.takes_body(request.headers.get(&HeaderName::ContentType), &request.body)
    }

    fn response(&mut self, response: &Response) -> Result<(), String> {
        let key = key(response.call_id(), response.to());
        let (Some(cseq), Some(key)) = (response.cseq(), key) else { return Ok(()) };
        if response.status.0 >= 300 || response.body.is_empty() {
            return Ok(());
        }
        let branch = response.top_via().and_then(|via| via.branch().map(str::to_owned));
        if response.status.is_success() {
            let what = format!("{} {} {}", response.status, branch.unwrap_or_default(), key.1);
            let said = (cseq.number, response.body.clone());
            if let Some(before) = self.said.insert(what, said.clone()) {
                return right(before == said, || format!("it was answered by {before:?}"));
            }
        }
        let heard = self.known.entry(key).or_default();
        heard.takes_body(response.headers.get(&HeaderName::ContentType), &response.body)
    }
}

impl Heard {
    fn takes_number(&mut self, method: &Method, number: u32) -> Result<(), String> {
        if *method == Method::Ack {
            // The INVITE may not be known: of a phone that took another's place, and the last one of a node that died
            // as it sent it, which the next node acknowledges in case it came.
            let is_known =
                self.invites.iter().all(|known| *known < number) || self.invites.contains(&number);
            return right(is_known, || format!("INVITEs have CSeq {:?}", self.invites));
        }
        let before = self.number.replace(number);
        if *method == Method::Invite {
            self.invites.insert(number);
        }
        right(before.is_none_or(|before| before < number), || {
            format!("CSeq does not rise: it was {}", before.unwrap_or_default())
        })
    }

    fn takes_body(&mut self, kind: Option<&str>, body: &[u8]) -> Result<(), String> {
        if kind != Some("application/sdp") || body.is_empty() {
            return Ok(());
        }
        let description = Description::parse(body)?;
        let before = self.description.replace(description.clone());
        before.map_or(Ok(()), |before| description.follows(&before))
    }
}

impl Description {
    fn parse(body: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(body);
        let (origins, rest): (Vec<&str>, Vec<&str>) =
            text.split_inclusive("\r\n").partition(|line| line.starts_with("o="));
        let fields: Vec<&str> = origins.iter().flat_map(|line| line.split(' ')).collect();
        let [user, id, version, place @ ..] = &fields[..] else {
            return Err("no o= line".to_owned());
        };
        let number = |text: &str| text.parse().ok().filter(|number| *number <= LARGEST);
        let (Some(_), Some(version), 1) = (number(id), number(version), origins.len()) else {
            return Err(format!("the o= line is {origins:?}"));
        };
        let origin = format!("{user} {id} {}", place.join(" "));
        Ok(Self { version, is_refused: false, origin, rest: rest.concat() })
    }

    /// The version rises by one when anything else is new, and not else.
    fn follows(&self, before: &Self) -> Result<(), String> {
        right(self.origin == before.origin, || format!("o= was {}", before.origin))?;
        let is_new = self.rest != before.rest;
        let step = self.version.checked_sub(before.version).map(|step| step % PASSED_OVER);
        let is_right = step == Some(u64::from(is_new)) || before.is_refused && step == Some(1);
        right(is_right, || format!("its version was {}, of\n{}", before.version, before.rest))
    }
}

/// A dialog, by the far side's From or To.
fn key(call_id: Option<&str>, far: Option<NameAddr<'_>>) -> Option<(String, String)> {
    Some((call_id?.to_owned(), far?.tag().unwrap_or_default().into_owned()))
}

fn right(is_right: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if is_right { Ok(()) } else { Err(wrong()) }
}
