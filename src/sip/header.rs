//! Header fields in their order, names by identity, values as text (RFC 3261 §7.3).
//!
//! Invariant: a name that is known is never `Other`, however it was spelled.

use super::lexer;
use core::fmt;
use core::mem::discriminant;
use core::ops::Range;
use memchr::memchr2;

macro_rules! header_names {
    ($($variant:ident $name:literal $($compact:literal)?;)*) => {
        /// A header field name. Compact forms (§7.3.3) are folded into their long names; unknown names keep their
        /// spelling and compare without case. Made by `HeaderName::from`.
        #[derive(Clone, Debug, Eq)]
        #[allow(missing_docs, reason = "the names are the RFCs'")]
        pub enum HeaderName {
            $($variant,)*
            Other(String),
        }

        impl HeaderName {
            /// The long name, as on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        /// Without case; compact forms too.
        impl From<&str> for HeaderName {
            fn from(text: &str) -> Self {
                match text {
                    $(_ if text.eq_ignore_ascii_case($name)
                        $(|| text.eq_ignore_ascii_case($compact))? => Self::$variant,)*
                    other => Self::Other(long_name(other).to_owned()),
                }
            }
        }

        #[cfg(test)]
        const KNOWN: &[(HeaderName, &str)] = &[$((HeaderName::$variant, $name),)*];
    };
}

// The first ones are those that every message has.
header_names! {
    Via "Via" "v";
    From "From" "f";
    To "To" "t";
    CallId "Call-ID" "i";
    CSeq "CSeq";
    MaxForwards "Max-Forwards";
    Contact "Contact" "m";
    ContentLength "Content-Length" "l";
    ContentType "Content-Type" "c";
    Accept "Accept";
    AcceptLanguage "Accept-Language";
    AlertInfo "Alert-Info";
    Allow "Allow";
    AllowEvents "Allow-Events" "u";
    AuthenticationInfo "Authentication-Info";
    Authorization "Authorization";
    CallInfo "Call-Info";
    ContentDisposition "Content-Disposition";
    ContentEncoding "Content-Encoding" "e";
    Date "Date";
    Diversion "Diversion";
    Event "Event" "o";
    Expires "Expires";
    MinExpires "Min-Expires";
    MinSe "Min-SE";
    PAssertedIdentity "P-Asserted-Identity";
    Path "Path";
    Priority "Priority";
    Privacy "Privacy";
    ProxyAuthenticate "Proxy-Authenticate";
    ProxyAuthorization "Proxy-Authorization";
    ProxyRequire "Proxy-Require";
    RAck "RAck";
    Reason "Reason";
    RecordRoute "Record-Route";
    ReferTo "Refer-To" "r";
    ReferredBy "Referred-By" "b";
    Replaces "Replaces";
    Require "Require";
    RetryAfter "Retry-After";
    Route "Route";
    RSeq "RSeq";
    Server "Server";
    ServiceRoute "Service-Route";
    SessionExpires "Session-Expires" "x";
    Subject "Subject" "s";
    SubscriptionState "Subscription-State";
    Supported "Supported" "k";
    Timestamp "Timestamp";
    Unsupported "Unsupported";
    UserAgent "User-Agent";
    UserToUser "User-to-User";
    Warning "Warning";
    WwwAuthenticate "WWW-Authenticate";
}

/// Compact forms of names that have no variant (RFC 3841, RFC 8224).
fn long_name(text: &str) -> &str {
    match text {
        "a" | "A" => "Accept-Contact",
        "d" | "D" => "Request-Disposition",
        "j" | "J" => "Reject-Contact",
        "n" | "N" => "Identity-Info",
        "y" | "Y" => "Identity",
        other => other,
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Other(ours), Self::Other(theirs)) => ours.eq_ignore_ascii_case(theirs),
            _ => discriminant(self) == discriminant(other),
        }
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All header fields of a message. A value is one header line, unfolded and trimmed; bytes that are no UTF-8 are kept
/// as U+FFFD. Comma lists stay one value until `elements` splits them.
///
/// Invariant: no value holds a line break, so none can break out of its header line.
#[derive(Clone, Default)]
pub struct Headers {
    /// The values, one behind the other: a message costs two allocations and not one a field.
    text: String,
    fields: Vec<Field>,
}

/// A name, and where its value stands.
#[derive(Clone)]
struct Field {
    name: HeaderName,
    value: Range<usize>,
}

impl Headers {
    /// Room for `count` fields of `bytes` in all.
    pub(super) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), fields: Vec::with_capacity(count) }
    }

    /// Adds a value to the text.
    fn keep(&mut self, value: &str) -> Range<usize> {
        let start = self.text.len();
        if memchr2(b'\r', b'\n', value.as_bytes()).is_some() {
            let blank = |c: char| if matches!(c, '\r' | '\n') { ' ' } else { c };
            self.text.extend(value.chars().map(blank));
        } else {
            self.text.push_str(value);
        }
        start..self.text.len()
    }

    fn value(&self, field: &Field) -> &str {
        self.text.get(field.value.clone()).unwrap_or_default()
    }

    /// About how many bytes all of it takes on the wire.
    pub(super) fn wire_size(&self) -> usize {
        self.text.len() + self.fields.len() * 24
    }

    /// First value of that name.
    pub fn get(&self, name: &HeaderName) -> Option<&str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Every value of that name, in order.
    pub fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Every element of a comma list over all values of that name; commas in quotes and `<>` do not split.
    pub fn elements<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(lexer::elements)
    }

    /// Whether a comma list of tokens (Supported, Require, Allow …) names `token`, without case.
    pub fn lists(&self, name: &HeaderName, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token))
    }

    /// Appends.
    pub fn push(&mut self, name: HeaderName, value: impl AsRef<str>) {
        let value = self.keep(value.as_ref());
        self.fields.push(Field { name, value });
    }

    /// Puts before all others (Via, Record-Route).
    pub fn push_front(&mut self, name: HeaderName, value: impl AsRef<str>) {
        let value = self.keep(value.as_ref());
        self.fields.insert(0, Field { name, value });
    }

    /// Replaces all of that name by one at the first one's place, or appends.
    pub fn set(&mut self, name: HeaderName, value: impl AsRef<str>) {
        let mut value = Some(self.keep(value.as_ref()));
        self.fields.retain_mut(|field| {
            if field.name != name {
                return true;
            }
            value.take().map(|value| field.value = value).is_some()
        });
        if let Some(value) = value {
            self.fields.push(Field { name, value });
        }
    }

    /// Puts `value` in place of the first element of that name (the top Via with `received` added); the rest stays.
    pub fn replace_first_element(&mut self, name: &HeaderName, value: &str) {
        let Some(at) = self.fields.iter().position(|field| field.name == *name) else { return };
        let rest = self.fields.get(at).map(|field| lexer::elements(self.value(field)).skip(1));
        let replaced = rest
            .into_iter()
            .flatten()
            .fold(value.to_owned(), |text, element| text + ", " + element);
        let kept = self.keep(&replaced);
        if let Some(field) = self.fields.get_mut(at) {
            field.value = kept;
        }
    }

    /// Removes all of that name.
    pub fn remove(&mut self, name: &HeaderName) {
        self.fields.retain(|field| field.name != *name);
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &str)> {
        self.fields.iter().map(|field| (&field.name, self.value(field)))
    }

    /// How many fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_every_spelling() {
        for (name, text) in KNOWN {
            assert_eq!(HeaderName::from(*text), *name);
            assert_eq!(HeaderName::from(text.to_ascii_uppercase().as_str()), *name);
            assert_eq!(name.as_str(), *text);
        }
        let check = |text: &str, long: &str| assert_eq!(HeaderName::from(text).as_str(), long);
        for (compact, long) in [
            ("v", "Via"),
            ("F", "From"),
            ("t", "To"),
            ("i", "Call-ID"),
            ("m", "Contact"),
            ("l", "Content-Length"),
            ("c", "Content-Type"),
            ("k", "Supported"),
            ("s", "Subject"),
            ("e", "Content-Encoding"),
            ("o", "Event"),
            ("u", "Allow-Events"),
            ("r", "Refer-To"),
            ("b", "Referred-By"),
            ("x", "Session-Expires"),
            ("a", "Accept-Contact"),
            ("X-Foo", "X-Foo"),
        ] {
            check(compact, long);
        }
        assert_eq!(HeaderName::from("x-foo"), HeaderName::from("X-FOO"));
        assert_ne!(HeaderName::from("x-foo"), HeaderName::from("x-bar"));
        assert_ne!(HeaderName::Via, HeaderName::To);
    }

    #[test]
    fn fields_keep_their_order() {
        let mut headers = Headers::default();
        headers.push(HeaderName::Via, "a, b");
        headers.push(HeaderName::To, "<sip:x>");
        headers.push(HeaderName::Via, "c");
        headers.push_front(HeaderName::Via, "z");
        let vias = |headers: &Headers| {
            headers.elements(&HeaderName::Via).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(vias(&headers), ["z", "a", "b", "c"]);
        headers.set(HeaderName::Via, "one, two");
        assert_eq!(vias(&headers), ["one", "two"]);
        headers.replace_first_element(&HeaderName::Via, "first");
        assert_eq!(vias(&headers), ["first", "two"]);
        assert_eq!(headers.len(), 2);
        headers.set(HeaderName::From, "y");
        assert_eq!(headers.iter().last(), Some((&HeaderName::From, "y")));
        headers.remove(&HeaderName::Via);
        assert_eq!(headers.get(&HeaderName::Via), None);
        headers.push(HeaderName::Supported, "path, Outbound");
        assert!(headers.lists(&HeaderName::Supported, "outbound"));
        assert!(!headers.lists(&HeaderName::Supported, "out"));
    }
}
