//! From, To, Contact, Route, Path …: an optional display name, a URI, header parameters (RFC 3261 §20.10, §25.1).

use super::Uri;
use super::lexer;
use super::uri::UriError;
use core::fmt;

/// A name-addr or addr-spec with its header parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// Without quotes and escapes; empty when absent.
    pub display_name: String,
    /// Byte-exact.
    pub uri: Uri,
    /// In order; values as written (quotes kept).
    pub params: Vec<(String, Option<String>)>,
}

impl NameAddr {
    /// Reads one value; quoted names, escapes, `<>` inside quotes and LWS around `;` and `=` are taken. Without `<>`
    /// parameters belong to the header, not to the URI (§20.10), and the URI may hold no `?` and no comma.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let text = text.trim();
        let (display_name, rest) = match lexer::quoted_string(text) {
            Some((inside, rest)) => {
                let rest = rest.trim_start().strip_prefix('<').ok_or(UriError::Malformed)?;
                (lexer::unescape(inside).into_owned(), rest)
            }
            None => match lexer::split_unquoted(text, b'<') {
                Some((name, rest)) => (name.trim().to_owned(), rest),
                None => return Self::parse_addr_spec(text),
            },
        };
        let (uri, rest) = rest.split_once('>').ok_or(UriError::Malformed)?;
        let params = match rest.trim_start() {
            "" => Vec::new(),
            rest => {
                rest.strip_prefix(';').and_then(lexer::owned_params).ok_or(UriError::Malformed)?
            }
        };
        Ok(Self { display_name, uri: Uri::parse(uri.trim())?, params })
    }

    fn parse_addr_spec(text: &str) -> Result<Self, UriError> {
        let (uri, params) = text.split_once(';').unwrap_or((text, ""));
        if uri.contains(['?', ',']) {
            return Err(UriError::Malformed);
        }
        let params = lexer::owned_params(params).ok_or(UriError::Malformed)?;
        Ok(Self { display_name: String::new(), uri: Uri::parse(uri.trim_end())?, params })
    }

    /// A parameter's value, unquoted; `Some("")` when it has none. Name compared without case.
    pub fn param(&self, name: &str) -> Option<String> {
        let (_, value) = self.params.iter().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(value.as_deref().map_or_else(String::new, |value| lexer::unquote(value).into_owned()))
    }

    /// The tag parameter.
    pub fn tag(&self) -> Option<String> {
        self.param("tag")
    }

    /// Without its tag, as a dialog keeps the parties.
    pub(super) fn without_tag(mut self) -> Self {
        self.params.retain(|(name, _)| !name.eq_ignore_ascii_case("tag"));
        self
    }
}

/// Always with `<>`; the display name quoted and escaped when there is one.
impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        if !self.display_name.is_empty() {
            f.write_char('"')?;
            for character in self.display_name.chars() {
                match character {
                    '"' | '\\' => write!(f, "\\{character}")?,
                    // A control character has no place on a header line (§25.1).
                    control if control.is_control() => f.write_char(' ')?,
                    plain => f.write_char(plain)?,
                }
            }
            f.write_str("\" ")?;
        }
        write!(f, "<{}>", self.uri)?;
        write_params(f, &self.params)
    }
}

pub(super) fn write_params(
    f: &mut fmt::Formatter<'_>,
    params: &[(String, Option<String>)],
) -> fmt::Result {
    for (name, value) in params {
        match value {
            Some(value) => write!(f, ";{name}={value}")?,
            None => write!(f, ";{name}")?,
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
