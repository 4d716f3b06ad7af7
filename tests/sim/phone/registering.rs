//! The phone as one who registers (RFC 3261 §10): now and then, and whenever it has another connection. What was
//! acknowledged to it the switch must know from then on.

use super::{Kind, Phone};
use bytes::Bytes;
use holdfast::sip::{HeaderName, Method, Request, Response, Uri, digest};

/// In seconds: nothing expires while a seed lasts.
const EXPIRES: &str = "3600";
/// After a refusal for now.
const AGAIN: u64 = 2_000_000;

/// A registration of a phone.
#[derive(Clone, Debug)]
pub struct Registration {
    call_id: String,
    cseq: u32,
    /// It registers (again) then.
    pub due: u64,
    /// Between two REGISTERs.
    every: u64,
    /// CSeq of the last REGISTER that was acknowledged.
    pub acknowledged: Option<u32>,
}

impl Phone {
    /// It registers from then on.
    pub fn register_from(&mut self, due: u64, every: u64) {
        let call_id = self.token("register-");
        self.registration = Some(Registration { call_id, cseq: 0, due, every, acknowledged: None });
    }

    /// URI of its Contact.
    pub fn contact_uri(&self) -> String {
        self.contact().trim_matches(['<', '>']).to_owned()
    }

    pub(super) fn time_registration(&mut self, now: u64) {
        let is_due = |it: &Registration| it.due <= now;
        if self.registration.as_ref().is_some_and(is_due) {
            self.register(now);
        }
    }

    /// A connection was made: what was said by the former one, and not answered, is said again.
    pub fn connected(&mut self, now: u64) {
        if self.registration.is_some() {
            self.register(now);
        }
        let own = self.registration.as_ref().map(|it| it.call_id.clone());
        let again = self.pending.iter().filter(|pending| {
            pending.kind != Kind::InviteProceeding && Some(&pending.call_id) != own.as_ref()
        });
        let again: Vec<Bytes> = again.map(|pending| pending.bytes.clone()).collect();
        self.outbox.extend(again);
    }

    fn register(&mut self, now: u64) {
        let branch = self.token("z9hG4bK");
        let tag = self.token("tag");
        let via = self.via(&branch);
        let contact = format!("{};+sip.instance=\"<urn:uuid:{}>\"", self.contact(), self.address);
        let Some(registration) = &mut self.registration else { return };
        registration.cseq += 1;
        registration.due = now + registration.every;
        let (call_id, cseq) = (registration.call_id.clone(), registration.cseq);
        let uri = Uri::parse("sip:pbx").expect("URI");
        let mut request = Request::new(Method::Register, uri);
        let fields = &mut request.headers;
        fields.push(HeaderName::Via, via);
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<sip:{}@pbx>;tag={tag}", self.user));
        fields.push(HeaderName::To, format!("<sip:{}@pbx>", self.user));
        fields.push(HeaderName::CallId, call_id.as_str());
        fields.push(HeaderName::CSeq, format!("{cseq} REGISTER"));
        fields.push(HeaderName::Contact, contact);
        fields.push(HeaderName::Expires, EXPIRES);
        let credentials = self.challenge.as_ref().and_then(|(challenge, password)| {
            let (user, password) = (&self.user, *password);
            digest::respond(challenge, &Method::Register, "sip:pbx", user, password, "cnonce", 1)
        });
        if let Some(credentials) = credentials {
            request.headers.push(HeaderName::Authorization, credentials);
        }
        // One at a time (§10.2): who gave none is asked again.
        self.pending.retain(|pending| pending.call_id != call_id);
        let bytes = request.to_bytes();
        self.outbox.push(bytes.clone());
        self.wait(bytes, Kind::Request, &call_id, cseq, now);
        self.count.add("phones: REGISTER");
    }

    pub(super) fn registered(&mut self, response: &Response, cseq: u32, now: u64) {
        let Some(call_id) = self.registration.as_ref().map(|it| it.call_id.clone()) else { return };
        if !response.status.is_final() || response.call_id() != Some(call_id.as_str()) {
            return;
        }
        if self.registration.as_ref().is_some_and(|it| cseq < it.cseq) && response.status.0 != 200 {
            // Of one that it gave up for the next, and that came later than that.
            return self.count.add("phones: a late REGISTER refused");
        }
        self.settle(&call_id, cseq, &[Kind::Request]);
        let own = self.contact_uri();
        let names_it = response.headers.elements(&HeaderName::Contact).any(|it| it.contains(&own));
        let Some(registration) = &mut self.registration else { return };
        match response.status.0 {
            200 => {
                registration.acknowledged = registration.acknowledged.max(Some(cseq));
                self.count.add("phones: registered");
                if !names_it {
                    self.complain("a 200 to REGISTER lacks its Contact");
                }
            }
            503 => {
                registration.due = now + AGAIN;
                self.count.add("phones: REGISTER refused for now");
            }
            // By the other key of another node.
            401 => {
                registration.due = now + AGAIN / 10;
                let challenge = response.headers.get(&HeaderName::WwwAuthenticate);
                if let Some((challenge, (known, _))) = challenge.zip(self.challenge.as_mut()) {
                    challenge.clone_into(known);
                }
            }
            status => self.complain(format!("its REGISTER got {status}")),
        }
    }
}
