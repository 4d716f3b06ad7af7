//! From, To, Contact, Route, Path …: an optional display name, a URI, header parameters (RFC 3261 §20.10, §25.1).

use super::Uri;
use super::lexer;
use super::uri::UriError;
use core::fmt;
use std::borrow::Cow;

/// A name-addr or addr-spec with its header parameters, read where it stands.
#[derive(Clone, Debug)]
pub struct NameAddr<'a> {
    /// Without quotes and escapes; empty when absent.
    pub display_name: Cow<'a, str>,
    /// Byte-exact.
    pub uri: Uri,
    /// What follows the first `;`, as written.
    params: &'a str,
}

impl<'a> NameAddr<'a> {
    /// Without parameters.
    pub fn new(display_name: impl Into<Cow<'a, str>>, uri: Uri) -> Self {
        Self { display_name: display_name.into(), uri, params: "" }
    }

    /// Reads one value; quoted names, escapes, `<>` inside quotes and LWS around `;` and `=` are taken. Without `<>`
    /// parameters belong to the header, not to the URI (§20.10), and the URI may hold no `?` and no comma.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        let read = Self::read(text)?;
        if !lexer::are_params_sound(read.params) {
            return Err(UriError::Malformed);
        }
        Ok(Self { uri: read.uri.checked()?, ..read })
    }

    /// The same of a value that was checked before, with its message.
    pub(super) fn read(text: &'a str) -> Result<Self, UriError> {
        let text = text.trim();
        let (display_name, rest) = match lexer::quoted_string(text) {
            Some((inside, rest)) => {
                let rest = rest.trim_start().strip_prefix('<').ok_or(UriError::Malformed)?;
                (lexer::unescape(inside), rest)
            }
            None => match lexer::split_unquoted(text, b'<') {
                Some((name, rest)) => (Cow::Borrowed(name.trim()), rest),
                None => return Self::read_addr_spec(text),
            },
        };
        let (uri, rest) = lexer::split_once(rest, b'>').ok_or(UriError::Malformed)?;
        let params = match rest.trim_start() {
            "" => "",
            rest => rest.strip_prefix(';').ok_or(UriError::Malformed)?,
        };
        Ok(Self { display_name, uri: Uri::unchecked(uri.trim()), params })
    }

    fn read_addr_spec(text: &'a str) -> Result<Self, UriError> {
        let (uri, params) = lexer::split_once(text, b';').unwrap_or((text, ""));
        if uri.contains(['?', ',']) {
            return Err(UriError::Malformed);
        }
        Ok(Self { display_name: Cow::Borrowed(""), uri: Uri::unchecked(uri.trim_end()), params })
    }

    /// A parameter's value, unquoted; `Some("")` when it has none. Name compared without case.
    pub fn param(&self, name: &str) -> Option<Cow<'a, str>> {
        Some(lexer::find_param(self.params, name)?.map_or(Cow::Borrowed(""), lexer::unquote))
    }

    /// The tag parameter.
    pub fn tag(&self) -> Option<Cow<'a, str>> {
        self.param("tag")
    }

    /// Its text without the tag, as a dialog keeps the parties.
    pub(super) fn party(&self) -> String {
        let mut text = String::with_capacity(self.uri.as_str().len() + 32);
        let others =
            lexer::params(self.params).filter(|(name, _)| !name.eq_ignore_ascii_case("tag"));
        // A String takes all that is written.
        let _ = self.write_head(&mut text).and_then(|()| write_params(&mut text, others));
        text
    }

    fn write_head(&self, out: &mut impl fmt::Write) -> fmt::Result {
        if !self.display_name.is_empty() {
            out.write_char('"')?;
            for character in self.display_name.chars() {
                match character {
                    '"' | '\\' => write!(out, "\\{character}")?,
                    // A control character has no place on a header line (§25.1).
                    control if control.is_control() => out.write_char(' ')?,
                    plain => out.write_char(plain)?,
                }
            }
            out.write_str("\" ")?;
        }
        out.write_char('<')?;
        out.write_str(self.uri.as_str())?;
        out.write_char('>')
    }
}

/// Always with `<>`; the display name quoted and escaped when there is one.
impl fmt::Display for NameAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        write_params(f, lexer::params(self.params))
    }
}

/// Parameters in their order, values as written.
impl PartialEq for NameAddr<'_> {
    fn eq(&self, other: &Self) -> bool {
        (&self.display_name, &self.uri) == (&other.display_name, &other.uri)
            && lexer::params(self.params).eq(lexer::params(other.params))
    }
}

pub(super) fn write_params<'a>(
    out: &mut impl fmt::Write,
    params: impl Iterator<Item = lexer::Param<'a>>,
) -> fmt::Result {
    for (name, value) in params {
        out.write_char(';')?;
        out.write_str(name)?;
        if let Some(value) = value {
            out.write_char('=')?;
            out.write_str(value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written() {
        let check = |text: &str, name: &str, uri: &str, tag: Option<&str>, printed: &str| {
            let value = NameAddr::parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(value.display_name, name, "{text}");
            assert_eq!(value.uri.as_str(), uri, "{text}");
            assert_eq!(value.tag().as_deref(), tag, "{text}");
            assert_eq!(value.to_string(), printed, "{text}");
            assert_eq!(NameAddr::parse(printed), Ok(value), "{printed}");
        };
        check("<sip:a@b>;tag=1", "", "sip:a@b", Some("1"), "<sip:a@b>;tag=1");
        check("sip:a@b;tag=1", "", "sip:a@b", Some("1"), "<sip:a@b>;tag=1");
        check("sip:a@b ;  tag  = 1 ;x", "", "sip:a@b", Some("1"), "<sip:a@b>;tag=1;x");
        check(
            "Bob Smith <sip:a@b;lr>",
            "Bob Smith",
            "sip:a@b;lr",
            None,
            "\"Bob Smith\" <sip:a@b;lr>",
        );
        check("caller<sip:a@b>", "caller", "sip:a@b", None, "\"caller\" <sip:a@b>");
        check(
            r#""A \"q\" <x>" <sip:a@b> ; TAG = 1"#,
            "A \"q\" <x>",
            "sip:a@b",
            Some("1"),
            r#""A \"q\" <x>" <sip:a@b>;TAG=1"#,
        );
        check(r#""" <sip:a@b>"#, "", "sip:a@b", None, "<sip:a@b>");
        check(
            "Bell, Alexander <sip:a@b>",
            "Bell, Alexander",
            "sip:a@b",
            None,
            "\"Bell, Alexander\" <sip:a@b>",
        );
        check("\"W\" < sip:w@b >", "W", "sip:w@b", None, "\"W\" <sip:w@b>");
        check(
            "<tel:+1;phone-context=x>;tag=q",
            "",
            "tel:+1;phone-context=x",
            Some("q"),
            "<tel:+1;phone-context=x>;tag=q",
        );
        check("Zoë <sip:z@b>", "Zoë", "sip:z@b", None, "\"Zoë\" <sip:z@b>");
        check(
            "<sip:a@b>;x=\"p;q>\";tag=\"t\"",
            "",
            "sip:a@b",
            Some("t"),
            "<sip:a@b>;x=\"p;q>\";tag=\"t\"",
        );
        check("<sip:a@b;x=\"p;q\">", "", "sip:a@b;x=\"p;q\"", None, "<sip:a@b;x=\"p;q\">");
    }

    #[test]
    fn outbound_contact_keeps_its_instance() {
        let text = r#"<sip:a@[2001:db8::1]:5060;ob>;+sip.instance="<urn:uuid:0>";reg-id=1;expires"#;
        let contact = NameAddr::parse(text).expect("a Contact");
        assert_eq!(contact.param("+SIP.instance").as_deref(), Some("<urn:uuid:0>"));
        assert_eq!(contact.param("expires").as_deref(), Some(""));
        assert_eq!(contact.param("q"), None);
        assert_eq!(contact.to_string(), text);
    }

    #[test]
    fn malformed_ones_are_refused() {
        for text in [
            "",
            "*",
            "\"open <sip:a@b>",
            "\"Mr. Watson <sip:a@b>;tag=1",
            "<sip:a@b",
            "<sip:a@b> x",
            "<>",
            "\"x\" sip:a@b",
            "sip:a@b?Route=%3Cx%3E",
            "sip:a,b@c",
            "<sip:a@b>;x=\"open",
            "<sip:a@b>;=1",
            "<bob>",
        ] {
            assert_eq!(NameAddr::parse(text), Err(UriError::Malformed), "{text}");
        }
    }
}
