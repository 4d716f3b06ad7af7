//! One function a kind of value: text in, a checked value or what is wrong with it out.

use super::{PortRange, Secret};
use crate::app::mode::Mode;
use crate::ids::Transport;
use crate::net::web::HttpClient;
use crate::sip::address::Network;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

type Parsed<T> = Result<T, String>;

/// A directory.
pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// Comma separated, without empty items.
pub(super) fn list(text: &str) -> Parsed<Vec<String>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

/// An integer within bounds, both included.
pub(super) fn number<T>(text: &str, least: T, most: T) -> Parsed<T>
where
    T: FromStr + PartialOrd + core::fmt::Display,
{
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        Ok(_) | Err(_) => Err(format!("is a whole number from {least} to {most}")),
    }
}

/// Milliseconds within bounds.
pub(super) fn millis(text: &str, least: u64, most: u64) -> Parsed<Duration> {
    let millis = number(text, least, most);
    millis.map(Duration::from_millis).map_err(|error| format!("{error} (milliseconds)"))
}

/// `ip:port`, or an address alone.
pub(super) fn socket(text: &str, default_port: u16) -> Parsed<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, default_port));
    address.map_err(|_| "is an address of this host, ip:port or [v6]:port".to_owned())
}

/// One or more listeners.
pub(super) fn sockets(text: &str) -> Parsed<Vec<SocketAddr>> {
    let all = list(text)?;
    let sockets: Vec<SocketAddr> =
        all.iter().map(|item| socket(item, 5060)).collect::<Parsed<_>>()?;
    if sockets.is_empty() { Err("names no address".to_owned()) } else { Ok(sockets) }
}

/// An address without port.
pub(super) fn ip(text: &str) -> Parsed<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_err(|_| "is an address of this host, without port".to_owned())
}

/// How a collector is reached, a name or address, and a port.
pub(super) fn hep_target(text: &str) -> Parsed<(Transport, String)> {
    let (transport, rest) = match text.split_once(':') {
        Some(("udp", rest)) => (Transport::Udp, rest),
        Some(("tcp", rest)) => (Transport::Tcp, rest),
        _ => (Transport::Udp, text),
    };
    match host_port(rest)? {
        (host, Some(port)) => Ok((transport, format!("{host}:{port}"))),
        (_, None) => Err("is host:port, udp:host:port or tcp:host:port".to_owned()),
    }
}

/// The key that a HEP collector wants to see.
pub(super) fn hep_password(text: &str) -> Parsed<Box<str>> {
    match (1..=128).contains(&text.len()) {
        true => Ok(text.into()),
        false => Err("has 1-128 bytes".to_owned()),
    }
}

/// `name=value,name=value`, as OTEL_EXPORTER_OTLP_HEADERS.
pub(super) fn headers(text: &str) -> Parsed<Vec<(String, Secret)>> {
    let parse = |item: &String| {
        let wrong = || "is name=value, with commas between".to_owned();
        let (name, value) = item.split_once('=').ok_or_else(wrong)?;
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_value = |b: u8| (b' '..=b'~').contains(&b);
        match !name.is_empty() && name.bytes().all(is_name) && value.bytes().all(is_value) {
            true => Ok((name.to_ascii_lowercase(), Secret::new(value))),
            false => Err(wrong()),
        }
    };
    list(text)?.iter().map(parse).collect()
}

/// Networks in CIDR notation.
pub(super) fn networks(text: &str) -> Parsed<Vec<Network>> {
    let parse = |item: &String| item.parse::<Network>().map_err(|error| format!("{item}: {error}"));
    list(text)?.iter().map(parse).collect()
}

/// A host name or address; IPv6 comes back in brackets, as it stands in a SIP URI.
fn host(text: &str) -> Parsed<String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("nobody can reach that address: name the one that phones use".to_owned());
        }
        return Ok(if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
    }
    let is_name = !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.bytes();
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && bytes.into_iter().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    // `1.2.3.456` is a misspelt address, not a name.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_name && !is_number {
        return Ok(text.to_owned());
    }
    Err("is a name or an address".to_owned())
}

/// Host, and a port when there is one.
fn host_port(text: &str) -> Parsed<(String, Option<u16>)> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((host(text)?, None));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        Some(_) | None => (text, None),
    };
    let port = port.map(|port| number(port, 1, u16::MAX)).transpose();
    Ok((host(name)?, port.map_err(|error| format!("the port {error}"))?))
}

/// `HOLDFAST_SIP_ADVERTISE`.
pub(super) fn advertise(text: &str) -> Parsed<(Arc<str>, Option<u16>)> {
    host_port(text).map(|(host, port)| (host.into(), port))
}

/// `HOLDFAST_MEDIA_ADVERTISE`: ports are the media node's own.
pub(super) fn media_advertise(text: &str) -> Parsed<Arc<str>> {
    match host_port(text)? {
        (host, None) => Ok(host.into()),
        (_, Some(_)) => Err("takes no port: media ports are those of media_ports".to_owned()),
    }
}

/// Names or addresses with or without port.
pub(super) fn hosts(text: &str) -> Parsed<Vec<String>> {
    let items = list(text)?;
    if items.is_empty() {
        return Err("names nobody".to_owned());
    }
    for item in &items {
        host_port(item).map_err(|error| format!("{item}: {error}"))?;
    }
    Ok(items)
}

/// `first-last` or `first-last/size`.
pub(super) fn ports(text: &str) -> Parsed<PortRange> {
    let wrong = || "is first-last or first-last/size, for example 20000-29999".to_owned();
    let (range, slice) = match text.split_once('/') {
        Some((range, slice)) => (range, Some(slice)),
        None => (text, None),
    };
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.trim().parse().map_err(|_| wrong())?;
    let last: u16 = last.trim().parse().map_err(|_| wrong())?;
    let slice = slice.map(|size| size.trim().parse::<u16>().map_err(|_| wrong())).transpose()?;
    if first < 1024 {
        return Err("ports below 1024 are not for media".to_owned());
    }
    let ports = u32::from(last).checked_sub(u32::from(first)).map_or(0, |span| span + 1);
    if ports < 4 {
        return Err("a call needs four ports: the range is too small".to_owned());
    }
    if slice.is_some_and(|size| size < 4 || u32::from(size) > ports) {
        return Err(format!("the size of a slice is from 4 to {ports}"));
    }
    Ok(PortRange { first, last, slice })
}

/// `HOLDFAST_NODE`.
pub(super) fn node_name(text: &str) -> Parsed<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(known) && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err("is 1-63 letters, digits, '.', '_' or '-'".to_owned())
}

/// It stands in quotes in every challenge.
pub(super) fn realm(text: &str) -> Parsed<String> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("is 1-128 printable characters without quotes and backslashes".to_owned())
}

/// `current[,previous]`.
pub(super) fn secrets(text: &str) -> Parsed<Vec<Secret>> {
    let all: Vec<Secret> = list(text)?.iter().map(|item| Secret::new(item)).collect();
    match all.len() {
        1 | 2 => Ok(all),
        _ => Err("is current[,previous]".to_owned()),
    }
}

/// A bearer token (RFC 6750 §2.1).
pub(super) fn token(text: &str) -> Parsed<Secret> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if (1..=256).contains(&text.len()) && text.bytes().all(known) {
        return Ok(Secret::new(text));
    }
    Err("is 1-256 letters, digits or -._~+/=".to_owned())
}

/// Where the store is.
pub(super) fn database_url(text: &str) -> Parsed<Secret> {
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if known.iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(Secret::new(text));
    }
    Err("starts with sqlite: or postgres://".to_owned())
}

/// Of the admin API.
pub(super) fn url(text: &str) -> Parsed<String> {
    if text.starts_with("http://") {
        Ok(text.to_owned())
    } else {
        Err("starts with http://".to_owned())
    }
}

/// Where something is posted to.
pub(super) fn endpoint(text: &str) -> Parsed<String> {
    HttpClient::new(Arc::default()).check(text).map(|()| text.to_owned())
}

/// `HOLDFAST_LOG`.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    crate::telemetry::check_filter(text).map(|()| text.to_owned())
}

/// A database URL without its password.
pub(super) fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, query) =
        rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let shown = match rest.rsplit_once('@') {
        Some((credentials, place)) => {
            let user = credentials.split_once(':').map_or(credentials, |(user, _)| user);
            format!("{scheme}://{user}:***@{place}")
        }
        None => format!("{scheme}://{rest}"),
    };
    // A query may carry a password of its own.
    if query.is_some() { format!("{shown}?***") } else { shown }
}

/// Signaling shares a port among the processes of a host; media nodes have ports of their own.
pub(super) fn default_admin(mode: Mode) -> SocketAddr {
    let port = if mode.has_signaling() { 8080 } else { 8090 };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
