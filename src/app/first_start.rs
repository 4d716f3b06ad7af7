//! The first start: what a person needs to put a phone to use, made, kept and told.
//!
//! Invariants: passwords are on disk before their users exist, so a start that breaks off loses
//! none; users are made once in the life of a database, not again when they were removed; of several
//! processes of a host one at a time is at its first start, so the others tell what it made.

use super::config::{Config, SipConfig};
use super::data_dir::{DataDir, scratch_file, write_private};
use super::host::Host;
use crate::admin::users::{generate_password, new_user};
use crate::store::{Store, StoreError};
use crate::views::NewUser;
use anyhow::{Context, bail};
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `credentials.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Of the REST API.
    pub admin_url: String,
    /// Of the REST API.
    pub admin_token: String,
    /// Server address as phones on the LAN type it.
    pub sip_address: String,
    /// Others, when several are bound: of IPv6 beside IPv4.
    #[serde(default)]
    pub other_sip_addresses: Vec<String>,
    /// Digest realm.
    pub realm: String,
    /// The users of the first start.
    pub users: Vec<UserCredentials>,
}

/// A user of the first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCredentials {
    /// Extension, which is the SIP user name too.
    pub extension: String,
    /// As generated.
    pub password: String,
}

const FIRST_USERS: [&str; 2] = ["1001", "1002"];
pub(super) const USERS_MADE: &str = "first_users";
pub(super) const REALM: &str = "sip_realm";

impl Credentials {
    /// Where they are kept.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("credentials.json")
    }

    /// What is kept; `None`: no signaling process has started here yet.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(super) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let text = serde_json::to_string_pretty(self)? + "\n";
        let fresh = scratch_file(data_dir, "credentials");
        let written = write_private(&fresh, &text).and_then(|()| std::fs::rename(&fresh, &path));
        written.with_context(|| path.display().to_string())
    }

    /// For a person.
    pub fn welcome(&self) -> String {
        let mut text = "Holdfast is ready.\n\n".to_owned();
        text +=
            &format!("  SIP server   {}   (UDP or TCP, realm {})\n", self.sip_address, self.realm);
        for address in &self.other_sip_addresses {
            text += &format!("       or by   {address}\n");
        }
        for user in &self.users {
            text += &format!("  User {}    password {}\n", user.extension, user.password);
        }
        text += &format!(
            "  Echo test    dial *43\n  Console      {url}/\n  Admin API    {url}/api/v1\n  \
             Admin token  {}\n",
            self.admin_token,
            url = self.admin_url
        );
        text
    }
}

/// The realm of the cluster: passwords are hashed for it, so it cannot change under them.
pub async fn realm(store: &Store, sip: &SipConfig) -> anyhow::Result<String> {
    let stored = store.setting_or_insert(REALM, &sip.realm).await?;
    if sip.realm_given && stored != sip.realm {
        bail!(
            "sip_realm is {:?}, but the passwords in the database were hashed for {stored:?}: \
             set sip_realm to that, or take an empty database and set all passwords anew",
            sip.realm
        );
    }
    Ok(stored)
}

/// Makes the first users when the database never had any, and keeps what a person needs in
/// `credentials.json`.
pub async fn prepare(
    store: &Store,
    data: &DataDir,
    known: Credentials,
) -> anyhow::Result<Credentials> {
    let shared = data.clone();
    let _lock = tokio::task::spawn_blocking(move || shared.lock_first_start()).await??;
    let before = Credentials::read(data.path())?.unwrap_or_default();
    let mut credentials = Credentials { users: before.users.clone(), ..known };
    let is_first = store.setting(USERS_MADE).await?.is_none() && store.users().await?.is_empty();
    if is_first {
        credentials.users = FIRST_USERS.map(|extension| planned(extension, &before)).to_vec();
    }
    if credentials != before {
        credentials.write(data.path())?;
    }
    if !is_first {
        return Ok(credentials);
    }
    let mut made = Vec::new();
    for user in &credentials.users {
        let new = NewUser { extension: user.extension.clone(), ..NewUser::default() };
        match store.create_user(&new_user(new, &user.password, &credentials.realm)).await {
            Ok(()) => made.push(user.clone()),
            // Another node started first: its password counts, and it told it.
            Err(StoreError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    store.setting_or_insert(USERS_MADE, "made").await?;
    if made.len() < credentials.users.len() {
        credentials.users = made;
        credentials.write(data.path())?;
    }
    Ok(credentials)
}

/// A start that broke off has left its passwords.
fn planned(extension: &str, before: &Credentials) -> UserCredentials {
    let known = before.users.iter().find(|user| user.extension == extension);
    known.cloned().unwrap_or_else(|| UserCredentials {
        extension: extension.to_owned(),
        password: generate_password(),
    })
}

/// The server addresses as phones on the LAN must type them. What is bound to all IPv6 addresses serves those alone.
pub fn sip_addresses(config: &Config, host: &Host) -> Vec<String> {
    let port = config.sip.bind.first().map_or(0, SocketAddr::port);
    if let Some((name, given)) = &config.sip.advertise.public {
        return vec![format!("{name}:{}", given.unwrap_or(port))];
    }
    let shown = |bind: &SocketAddr| {
        let ip = match bind.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => host.lan_address(),
            IpAddr::V6(ip) if ip.is_unspecified() => host.lan_address_v6(),
            ip => ip,
        };
        SocketAddr::new(ip, bind.port()).to_string()
    };
    config.sip.bind.iter().map(shown).collect()
}

/// The URL of a listener, as it is reached from this host or its LAN.
pub fn admin_url(listener: SocketAddr, host: &Host) -> String {
    let ip = if listener.ip().is_unspecified() { host.lan_address() } else { listener.ip() };
    format!("http://{}", SocketAddr::new(ip, listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings::Sources;

    #[test]
    fn the_welcome_tells_everything() {
        let credentials = Credentials {
            admin_url: "http://127.0.0.1:8080".to_owned(),
            admin_token: "t0ken".to_owned(),
            sip_address: "192.168.1.5:5060".to_owned(),
            other_sip_addresses: vec!["[2001:db8::5]:5060".to_owned()],
            realm: "holdfast".to_owned(),
            users: vec![planned("1001", &Credentials::default())],
        };
        let text = credentials.welcome();
        let password = credentials.users[0].password.as_str();
        let servers = ["192.168.1.5:5060", "[2001:db8::5]:5060"];
        for part in [&servers[..], &["1001", password, "t0ken", "*43", "127.0.0.1:8080"]].concat() {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(planned("1001", &credentials).password, password, "kept over a broken start");
    }

    #[test]
    fn an_address_of_each_family_that_is_bound_is_told() {
        // No route leads to these, so the host's list says what phones use.
        let host = Host {
            name: "pbx".to_owned(),
            addresses: ["10.9.8.7", "2001:db8::7"].map(|ip| ip.parse().expect("literal")).into(),
            can_bind: |_| true,
        };
        let (v4, v6) = (host.lan_address(), host.lan_address_v6());
        assert!(v4.is_ipv4() && v6.is_ipv6(), "{v4} {v6}");
        for (bind, advertise, told) in [
            ("0.0.0.0:5060", "", vec![format!("{v4}:5060")]),
            ("[::]:5060", "", vec![format!("[{v6}]:5060")]),
            ("0.0.0.0:5060,[::]:5070", "", vec![format!("{v4}:5060"), format!("[{v6}]:5070")]),
            ("10.9.8.7:5060", "", vec!["10.9.8.7:5060".to_owned()]),
            ("[::]:5060", "pbx.example", vec!["pbx.example:5060".to_owned()]),
        ] {
            let settings = [("HOLDFAST_SIP_BIND", bind), ("HOLDFAST_SIP_ADVERTISE", advertise)];
            let environment = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let sources = Sources { environment: environment.into(), ..Sources::default() };
            let config = Config::load(&sources, &host).expect("works");
            assert_eq!(sip_addresses(&config, &host), told, "{bind} {advertise}");
        }
    }
}
