//! HTTP requests to others (webhooks, collectors of traces): bounded in time and size, no redirects, no proxy, and
//! never to an address that is denied, whatever name leads there.
//!
//! Invariant: what the other end answers is its status alone; its body is read a little and thrown away.

mod gathered;

use super::clock;
use crate::sip::address::Network;
use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use gathered::Gathering;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector as _, DefaultConnector, NextTimeout};

/// From the name's look-up to the answer's end.
const DEADLINE: Duration = Duration::from_secs(10);
/// What a post that is made again has of them at least: no time at all would be none to ureq.
const LEAST_LEFT: Duration = Duration::from_millis(10);
/// Of an answer's header, and read of its body.
const ANSWER_BYTES: usize = 16 * 1024;
/// Of a request at a time.
const REQUEST_BYTES: usize = 32 * 1024;
/// What a name stands for is believed so long.
const NAME_LIFE: Duration = Duration::from_secs(10);
/// Names that are remembered.
const NAMES: usize = 256;
/// Connections that are kept to a receiver, each of which may be closed at its end without our knowing.
const KEPT: usize = 4;

/// A client. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    agent: ureq::Agent,
    denied: Arc<[Network]>,
}

impl HttpClient {
    /// One that goes to no address of these networks.
    pub fn new(denied: Arc<[Network]>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .max_response_header_size(ANSWER_BYTES)
            .input_buffer_size(ANSWER_BYTES)
            .output_buffer_size(REQUEST_BYTES)
            .max_idle_connections_per_host(KEPT)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("Holdfast/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver = Guarded {
            denied: denied.clone(),
            names: DefaultResolver::default(),
            found: Mutex::default(),
        };
        let connector = DefaultConnector::default().chain(Gathering);
        let agent = ureq::Agent::with_parts(config, connector, resolver);
        Self { agent, denied }
    }

    /// What is wrong with an address to post to.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|_| "is no URL".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("begins with https:// or http://".to_owned());
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.is_empty() || authority.contains('@') {
            return Err("names a host, without user and password".to_owned());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        match host.parse() {
            Ok(ip) if is_denied(&self.denied, ip) => Err(format!("{ip} may not be reached")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Blocks until there is an answer, at most ten seconds: its status, or why there is none.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<u16, String> {
        let end = clock::now() + DEADLINE;
        let post = || {
            let left = end.saturating_since(clock::now()).max(LEAST_LEFT);
            let request = self.agent.post(url).config().timeout_global(Some(left)).build();
            let add = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
                request.header(*name, *value)
            };
            headers.iter().fold(request, add).send(body)
        };
        let mut answer = post();
        for _ in 0..KEPT {
            if answer.as_ref().err().is_some_and(gathered::is_stale) {
                answer = post();
            }
        }
        let mut answer = answer.map_err(|error| error.to_string())?;
        // A connection can be used again when its answer was read; one that says more is not worth it.
        let limit = u64::try_from(ANSWER_BYTES).unwrap_or(u64::MAX);
        let _ = answer.body_mut().with_config().limit(limit).read_to_vec();
        Ok(answer.status().as_u16())
    }
}

fn is_denied(denied: &[Network], ip: IpAddr) -> bool {
    denied.iter().any(|network| network.contains(ip))
}

/// Judges what a name stands for at the very moment when it is used. It is asked before each request, also where a
/// connection is there already: to look a name up costs a thread, so what was found stands for a while.
#[derive(Debug)]
struct Guarded {
    denied: Arc<[Network]>,
    names: DefaultResolver,
    found: Mutex<HashMap<Authority, (Timestamp, Vec<SocketAddr>)>>,
}

impl Guarded {
    fn look_up(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<Vec<SocketAddr>, ureq::Error> {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![(ip, uri.port_u16().unwrap_or(default)).into()]);
        }
        let key = uri.authority().cloned().ok_or(ureq::Error::HostNotFound)?;
        let now = clock::now();
        let known = self.known();
        if let Some((_, addresses)) = known.get(&key).filter(|(until, _)| now < *until) {
            return Ok(addresses.clone());
        }
        drop(known);
        let found = self.names.resolve(uri, config, timeout)?.iter().copied().collect::<Vec<_>>();
        let mut known = self.known();
        if known.len() >= NAMES {
            known.clear();
        }
        known.insert(key, (now + NAME_LIFE, found.clone()));
        Ok(found)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Authority, (Timestamp, Vec<SocketAddr>)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.look_up(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|found| !is_denied(&self.denied, found.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() {
            let why = format!("{} may not be reached", uri.host().unwrap_or_default());
            return Err(ureq::Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> HttpClient {
        let denied = ["169.254.0.0/16", "fe80::/10"].map(|text| text.parse().expect("a network"));
        HttpClient::new(denied.to_vec().into())
    }

    #[test]
    fn addresses_are_judged() {
        let client = client();
        for (url, is_good) in [
            ("https://hooks.example.com/in?x=1", true),
            ("http://127.0.0.1:8000/", true),
            ("http://[::1]:8000/", true),
            ("ftp://example.com/", false),
            ("example.com", false),
            ("https://user:secret@example.com/", false),
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://[fe80::1]/", false),
            ("", false),
        ] {
            assert_eq!(client.check(url).is_ok(), is_good, "{url}");
        }
    }

    #[test]
    fn a_denied_address_is_not_reached_by_whatever_name() {
        let denied =
            vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("one")];
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let client = HttpClient::new(denied.into());
        let told = client.post(&format!("http://localhost:{port}/"), &[], b"{}");
        assert!(told.as_ref().is_err_and(|why| why.contains("may not be reached")), "{told:?}");
        listener.set_nonblocking(true).expect("set");
        assert!(listener.accept().is_err(), "nobody came");
    }

    #[test]
    fn an_address_is_looked_up_nowhere_and_a_name_once() {
        let names = Guarded {
            denied: Arc::default(),
            names: DefaultResolver::default(),
            found: Mutex::default(),
        };
        let look_up = |url: &str| {
            let uri = url.parse().expect("a URL");
            names.look_up(&uri, &Config::default(), NextTimeout::default()).expect("found")
        };
        for (url, expect) in [
            ("http://192.0.2.1/x", "192.0.2.1:80"),
            ("https://[2001:db8::1]/", "[2001:db8::1]:443"),
            ("https://192.0.2.1:8443/", "192.0.2.1:8443"),
        ] {
            assert_eq!(look_up(url), [expect.parse().expect("an address")], "{url}");
        }
        assert!(names.known().is_empty());
        let found = look_up("http://localhost:7/");
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        let elsewhere = vec!["192.0.2.7:7".parse().expect("an address")];
        let authority = "localhost:7".parse().expect("an authority");
        let entry = |until| (until, elsewhere.clone());
        names.known().insert(Authority::clone(&authority), entry(clock::now() + NAME_LIFE));
        assert_eq!(look_up("http://localhost:7/"), elsewhere, "remembered");
        names.known().insert(authority, entry(clock::now()));
        assert_eq!(look_up("http://localhost:7/"), found, "and looked up again");
    }
}
