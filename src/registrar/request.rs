//! What a REGISTER asks for, read once and strictly (RFC 3261 §10.3, §20.10, RFC 3327 §5.3, RFC 5626 §6).
//!
//! Invariant: a value that is malformed is a 400, never a default.

use super::answer::Refusal;
use crate::sip::uri::Scheme;
use crate::sip::{HeaderName, NameAddr, Request, Uri};
use std::borrow::Cow;

/// Extensions a REGISTER may require of us.
const UNDERSTOOD: [&str; 2] = ["path", "outbound"];

/// A REGISTER, checked.
#[derive(Clone, Debug)]
pub(super) struct Registration<'a> {
    /// Decoded user part of To.
    pub(super) extension: String,
    /// To without parameters.
    pub(super) aor: String,
    pub(super) call_id: String,
    pub(super) cseq: u32,
    pub(super) contacts: Contacts,
    /// First = nearest to us.
    pub(super) path: Vec<NameAddr<'a>>,
    pub(super) supports_path: bool,
    pub(super) supports_outbound: bool,
    /// Proxies it came through, the phone included.
    pub(super) hops: usize,
}

/// What is to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contacts {
    /// A query.
    None,
    /// `*` with Expires 0: remove all.
    All,
    Listed(Vec<Contact>),
}

/// One Contact value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contact {
    pub(super) uri: Uri,
    pub(super) instance_id: Option<String>,
    pub(super) reg_id: Option<u32>,
    pub(super) q_milli: Option<u16>,
    /// Its parameter, else the Expires header.
    pub(super) expires: Option<u32>,
}

impl<'a> Registration<'a> {
    pub(super) fn read(request: &'a Request) -> Result<Self, Refusal> {
        let unsupported: Vec<String> = request
            .headers
            .elements(&HeaderName::Require)
            .filter(|option| !UNDERSTOOD.iter().any(|known| known.eq_ignore_ascii_case(option)))
            .map(str::to_owned)
            .collect();
        if !unsupported.is_empty() {
            return Err(Refusal::Unsupported(unsupported));
        }
        let to = request.to().ok_or(Refusal::Malformed("Bad To"))?.uri;
        let extension = to.user().ok_or(Refusal::Malformed("To Names No User"))?;
        let supports = |option: &str| request.headers.lists(&HeaderName::Supported, option);
        Ok(Self {
            aor: address_of_record(&to).ok_or(Refusal::Malformed("Bad To"))?,
            extension,
            call_id: request.call_id().ok_or(Refusal::Malformed("No Call-ID"))?.to_owned(),
            cseq: request.cseq().ok_or(Refusal::Malformed("Bad CSeq"))?.number,
            contacts: contacts(request)?,
            path: path(request)?,
            supports_path: supports("path"),
            supports_outbound: supports("outbound"),
            hops: request.headers.elements(&HeaderName::Via).count(),
        })
    }
}

/// §10.3 step 5: without parameters; the user's escapes stay as the phone wrote them.
fn address_of_record(to: &Uri) -> Option<String> {
    matches!(to.scheme(), Scheme::Sip | Scheme::Sips).then_some(())?;
    let host = to.host()?;
    let (scheme, rest) = to.as_str().split_once(':')?;
    let (user, _) = rest.split_once('@')?;
    let user = user.split([':', ';']).next()?;
    let port = to.port().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{}:{user}@{host}{port}", scheme.to_ascii_lowercase()))
}

fn contacts(request: &Request) -> Result<Contacts, Refusal> {
    let default = request
        .headers
        .get(&HeaderName::Expires)
        .map(|text| seconds(text).ok_or(Refusal::Malformed("Bad Expires")))
        .transpose()?;
    let values: Vec<&str> = request.headers.elements(&HeaderName::Contact).collect();
    if values.is_empty() {
        return Ok(Contacts::None);
    }
    if values.contains(&"*") {
        return if values.len() == 1 && default == Some(0) {
            Ok(Contacts::All)
        } else {
            Err(Refusal::Malformed("Contact * Needs Expires 0 And Stands Alone"))
        };
    }
    let listed = values.iter().map(|text| contact(text, default)).collect::<Result<Vec<_>, _>>()?;
    // RFC 5626 §4.2.1: a flow is one contact.
    if listed.len() > 1 && listed.iter().any(|contact| contact.reg_id.is_some()) {
        return Err(Refusal::Malformed("One Contact A Flow"));
    }
    Ok(Contacts::Listed(listed))
}

fn contact(text: &str, default: Option<u32>) -> Result<Contact, Refusal> {
    let value = NameAddr::parse(text).map_err(|_| Refusal::Malformed("Bad Contact"))?;
    let reachable = matches!(value.uri.scheme(), Scheme::Sip | Scheme::Sips)
        && value.uri.headers().count() == 0;
    if !reachable {
        return Err(Refusal::Malformed("Contact Cannot Be Called"));
    }
    let expires = match value.param("expires") {
        Some(text) => Some(seconds(&text).ok_or(Refusal::Malformed("Bad Expires"))?),
        None => default,
    };
    let q_milli = value
        .param("q")
        .map(|text| thousandths(&text).ok_or(Refusal::Malformed("Bad q")))
        .transpose()?;
    let reg_id = value
        .param("reg-id")
        .map(|text| seconds(&text).filter(|id| (1..1 << 31).contains(id)))
        .map(|id| id.ok_or(Refusal::Malformed("Bad reg-id")))
        .transpose()?;
    let instance_id = value.param("+sip.instance").filter(|id| !id.is_empty());
    let instance_id = instance_id.map(Cow::into_owned);
    Ok(Contact { uri: value.uri, instance_id, reg_id, q_milli, expires })
}

fn path(request: &Request) -> Result<Vec<NameAddr<'_>>, Refusal> {
    let bad = Refusal::Malformed("Bad Path");
    request
        .headers
        .elements(&HeaderName::Path)
        .map(|text| NameAddr::parse(text).map_err(|_| bad.clone()))
        .map(|hop| {
            hop.and_then(|hop| match hop.uri.scheme() {
                Scheme::Sip | Scheme::Sips => Ok(hop),
                Scheme::Tel | Scheme::Urn | Scheme::Other => Err(bad.clone()),
            })
        })
        .collect()
}

/// delta-seconds (§25.1): digits below 2^32.
fn seconds(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// qvalue (§25.1) in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}
