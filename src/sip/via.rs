//! Via (RFC 3261 §20.42, rport RFC 3581, IPv6 RFC 5118 §4.5).

use super::lexer;
use super::name_addr::write_params;
use super::uri::Host;
use core::fmt::{self, Write};
use core::net::{IpAddr, SocketAddr};

/// One Via value, read where it stands.
#[derive(Clone, Debug)]
pub struct Via<'a> {
    /// `UDP`, `TCP` …; as written.
    pub transport: &'a str,
    /// sent-by host.
    pub host: Host,
    /// sent-by port.
    pub port: Option<u16>,
    /// What follows the first `;`, as written.
    params: &'a str,
}

impl<'a> Via<'a> {
    /// Reads one value. LWS may stand around every separator.
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::read(text).filter(|via| lexer::are_params_sound(via.params))
    }

    /// The same of a value that was checked before, with its message.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let (head, params) = lexer::split_unquoted(text, b';').unwrap_or((text, ""));
        let (protocol, rest) = lexer::split_once(head, b'/')?;
        let (version, rest) = lexer::split_once(rest, b'/')?;
        if !protocol.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return None;
        }
        let (transport, sent_by) = rest.trim_start().split_once([' ', '\t'])?;
        if !lexer::is_token(transport) {
            return None;
        }
        let (host, port) = lexer::host_and_port(sent_by.trim())?;
        Some(Self { transport, host, port, params })
    }

    /// A parameter; `Some(None)` without value (`rport`).
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        lexer::find_param(self.params, name)
    }

    /// branch.
    pub fn branch(&self) -> Option<&'a str> {
        self.param("branch").flatten()
    }

    /// received, IPv6 with or without brackets.
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.param("received").flatten()?;
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok()
    }

    /// Its text with the source noted: `received`, and `rport` when it was asked for (RFC 3581 §4).
    pub fn stamped(&self, source: SocketAddr) -> String {
        let mut text = String::with_capacity(self.params.len() + 96);
        let is_stamp = |name: &str| {
            name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport")
        };
        let others = lexer::params(self.params).filter(|(name, _)| !is_stamp(name));
        // A String takes all that is written.
        let _ = self.write_head(&mut text).and_then(|()| write_params(&mut text, others));
        let _ = write!(text, ";received={}", source.ip());
        if self.param("rport").is_some() {
            let _ = write!(text, ";rport={}", source.port());
        }
        text
    }

    fn write_head(&self, out: &mut impl fmt::Write) -> fmt::Result {
        write!(out, "SIP/2.0/{} {}", self.transport, self.host)?;
        match self.port {
            Some(port) => write!(out, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        write_params(f, lexer::params(self.params))
    }
}

/// Without case where the RFC has none; parameters in their order.
impl PartialEq for Via<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.transport.eq_ignore_ascii_case(other.transport)
            && (&self.host, self.port) == (&other.host, other.port)
            && lexer::params(self.params).eq(lexer::params(other.params))
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
            "SIP/2.0/tcp spindle.example.com;branch=z9hG4bK9ikj8",
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
    fn the_source_is_noted_once() {
        let check = |text: &str, source: &str, stamped: &str| {
            let via = Via::parse(text).expect("a Via");
            assert_eq!(via.stamped(source.parse().expect("literal")), stamped, "{text}");
        };
        check(
            "SIP/2.0/UDP h;RPORT;branch=z;received=9.9.9.9",
            "[::1]:5",
            "SIP/2.0/UDP h;branch=z;received=::1;rport=5",
        );
        check("SIP/2.0/UDP h:7;branch=z", "1.2.3.4:5", "SIP/2.0/UDP h:7;branch=z;received=1.2.3.4");
    }
}
