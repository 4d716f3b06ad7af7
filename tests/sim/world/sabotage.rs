//! Rules broken on purpose: each must be noticed by some judge, or the judge is worth nothing.

use super::World;
use bytes::Bytes;
use holdfast::sip::{HeaderName, Message, Method, Response};

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Messages do not wait for their commit.
    EarlyRelease,
    /// The 200 does not wait for the answer's commit.
    EarlyAnswer,
    /// BYE does not leave.
    NoBye,
    /// CANCEL does not leave.
    NoCancel,
    /// Nothing is sent twice.
    NoRetransmission,
    /// BYE uses a number again.
    OldNumber,
    /// The 200 has another To tag than the 180.
    OtherTag,
    /// The 200 has another answer than the 183.
    OtherAnswer,
    /// The SDP changes, its version does not.
    OldVersion,
    /// The SDP names a port that is not the phone's.
    WrongPort,
    /// Media sessions are not released.
    KeepMedia,
}

impl Sabotage {
    pub const ALL: [Self; 11] = [
        Self::EarlyRelease,
        Self::EarlyAnswer,
        Self::NoBye,
        Self::NoCancel,
        Self::NoRetransmission,
        Self::OldNumber,
        Self::OtherTag,
        Self::OtherAnswer,
        Self::OldVersion,
        Self::WrongPort,
        Self::KeepMedia,
    ];
}

impl World {
    /// What becomes of a message on its way out; `None`: it does not leave.
    pub(super) fn spoil(&mut self, bytes: &Bytes) -> Option<Bytes> {
        let Some(sabotage) = self.sabotage else { return Some(bytes.clone()) };
        let message = Message::parse(bytes).ok()?;
        let method = match &message {
            Message::Request(request) => Some(request.method.clone()),
            Message::Response(_) => None,
        };
        let spoilt = match (sabotage, &message) {
            (Sabotage::NoBye, _) if method == Some(Method::Bye) => return None,
            (Sabotage::NoCancel, _) if method == Some(Method::Cancel) => return None,
            (Sabotage::NoRetransmission, _) if !self.sent_once.insert(bytes.clone()) => {
                return None;
            }
            (Sabotage::OldNumber, Message::Request(request)) if request.method == Method::Bye => {
                let mut request = request.clone();
                request.headers.set(HeaderName::CSeq, "1 BYE");
                request.to_bytes()
            }
            (Sabotage::OtherTag, Message::Response(response)) if is_answer(response) => {
                let mut response = response.clone();
                let to = response.headers.get(&HeaderName::To).unwrap_or_default();
                let to = to.replace(";tag=", ";tag=another");
                response.headers.set(HeaderName::To, to);
                response.to_bytes()
            }
            (Sabotage::OtherAnswer, Message::Response(response)) if is_answer(response) => {
                let mut response = response.clone();
                let text = String::from_utf8_lossy(&response.body).into_owned();
                response.body = Bytes::from(text + "a=another\r\n");
                response.to_bytes()
            }
            (Sabotage::OldVersion, _) => edit(bytes, |line| {
                let mut words: Vec<&str> = line.split(' ').collect();
                if line.starts_with("o=") && words.len() == 6 {
                    words[2] = "1";
                }
                words.join(" ")
            }),
            (Sabotage::WrongPort, _) => {
                edit(bytes, |line| line.replace("m=audio 20", "m=audio 30"))
            }
            _ => bytes.clone(),
        };
        Some(spoilt)
    }
}

fn is_answer(response: &Response) -> bool {
    response.status.is_success() && !response.body.is_empty()
}

/// Changes lines of the body; the length of the whole is put right.
fn edit(bytes: &Bytes, change: impl Fn(&str) -> String) -> Bytes {
    let lines = |body: &Bytes| {
        let text = String::from_utf8_lossy(body).into_owned();
        Bytes::from(text.split("\r\n").map(&change).collect::<Vec<_>>().join("\r\n"))
    };
    match Message::parse(bytes) {
        Ok(Message::Request(mut request)) => {
            request.body = lines(&request.body);
            request.to_bytes()
        }
        Ok(Message::Response(mut response)) => {
            response.body = lines(&response.body);
            response.to_bytes()
        }
        Err(_) => bytes.clone(),
    }
}
