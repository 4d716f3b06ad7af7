//! Via (RFC 3261 §20.42, rport RFC 3581, IPv6 RFC 5118 §4.5).

use super::lexer;
use super::name_addr::write_params;
use super::uri::Host;
use core::fmt;
use core::net::IpAddr;

/// One Via value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP` …; upper case.
    pub transport: String,
    /// sent-by host.
    pub host: Host,
    /// sent-by port.
    pub port: Option<u16>,
    /// In order, values as written.
    pub params: Vec<(String, Option<String>)>,
}

impl Via {
    /// Reads one value. LWS may stand around every separator.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, params) = lexer::split_unquoted(text, b';').unwrap_or((text, ""));
        let (protocol, rest) = head.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !protocol.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return None;
        }
        let (transport, sent_by) = rest.trim_start().split_once(char::is_whitespace)?;
        if !lexer::is_token(transport) {
            return None;
        }
        let (host, port) = lexer::host_and_port(sent_by.trim())?;
        let params = lexer::owned_params(params)?;
        Some(Self { transport: transport.to_ascii_uppercase(), host, port, params })
    }

    /// A parameter; `Some(None)` without value (`rport`).
    pub fn param(&self, name: &str) -> Option<Option<&str>> {
        let (_, value) = self.params.iter().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(value.as_deref())
    }

    /// branch.
    pub fn branch(&self) -> Option<&str> {
        self.param("branch").flatten()
    }

    /// received, IPv6 with or without brackets.
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.param("received").flatten()?;
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok()
    }

    /// Sets or replaces a parameter.
    pub fn set_param(&mut self, name: &str, value: Option<String>) {
        match self.params.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
            Some((_, present)) => *present = value,
            None => self.params.push((name.to_owned(), value)),
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write_params(f, &self.params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written() {
        let check = |text: &str, printed: &str, branch: Option<&str>, received: Option<&str>| {
            let via = Via::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(via.to_string(), printed, "{text}");
            assert_eq!(via.branch(), branch, "{text}");
            assert_eq!(via.received(), received.map(|text| text.parse().expect("an address")));
            assert_eq!(Via::parse(printed), Some(via), "{printed}");
        };
        check(
            "SIP/2.0/UDP h;branch=z9hG4bK1",
            "SIP/2.0/UDP h;branch=z9hG4bK1",
            Some("z9hG4bK1"),
            None,
        );
        check(
            "SIP  / 2.0  / tcp     spindle.example.com   ; branch  =   z9hG4bK9ikj8",
            "SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8",
            Some("z9hG4bK9ikj8"),
            None,
        );
        check(
            "SIP/2.0/UDP [2001:db8::9:1]:5060;received=2001:db8::9;rport=5060;branch=z",
            "SIP/2.0/UDP [2001:db8::9:1]:5060;received=2001:db8::9;rport=5060;branch=z",
            Some("z"),
            Some("2001:db8::9"),
        );
        check(
            "SIP/2.0/UDP h : 7;received=[::1]",
            "SIP/2.0/UDP h:7;received=[::1]",
            None,
            Some("::1"),
        );
        check("sip/2.0/UNKNOWN h;x=\"a;b\"", "SIP/2.0/UNKNOWN h;x=\"a;b\"", None, None);
        check("SIP/2.0/TLS-SCTP 192.0.2.1;rport", "SIP/2.0/TLS-SCTP 192.0.2.1;rport", None, None);
    }

    #[test]
    fn malformed_ones_are_refused() {
        for text in [
            "",
            ";",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/2.0 h",
            "SIP/7.0/UDP h",
            "HTTP/2.0/UDP h",
            "SIP/2.0/U@P h",
            "SIP/2.0/UDP 2001:db8::1",
            "SIP/2.0/UDP h:x",
            "SIP/2.0/UDP h;x=\"open",
            "SIP/2.0/UDP a b",
        ] {
            assert_eq!(Via::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parameters_are_replaced_in_place() {
        let mut via = Via::parse("SIP/2.0/UDP h;rport;branch=z").expect("a Via");
        assert_eq!(via.param("RPORT"), Some(None));
        via.set_param("rport", Some("5".to_owned()));
        via.set_param("received", Some("::1".to_owned()));
        assert_eq!(via.to_string(), "SIP/2.0/UDP h;rport=5;branch=z;received=::1");
    }
}
