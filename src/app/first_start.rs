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
        let mut text = format!(
            "Holdfast is ready.\n\n  SIP server   {}   (UDP or TCP, realm {})\n",
            self.sip_address, self.realm
        );
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

/// The server address as phones on the LAN must type it.
pub fn sip_address(config: &Config, host: &Host) -> String {
    let Some(bind) = config.sip.bind.first() else { return String::new() };
    if let Some((name, port)) = &config.sip.advertise.public {
        return format!("{name}:{}", port.unwrap_or_else(|| bind.port()));
    }
    let ip = if bind.ip().is_unspecified() { host.lan_address() } else { bind.ip() };
    std::net::SocketAddr::new(ip, bind.port()).to_string()
}

/// The URL of a listener, as it is reached from this host or its LAN.
pub fn admin_url(listener: std::net::SocketAddr, host: &Host) -> String {
    let ip = if listener.ip().is_unspecified() { host.lan_address() } else { listener.ip() };
    format!("http://{}", std::net::SocketAddr::new(ip, listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_tells_everything() {
        let credentials = Credentials {
            admin_url: "http://127.0.0.1:8080".to_owned(),
            admin_token: "t0ken".to_owned(),
            sip_address: "192.168.1.5:5060".to_owned(),
            realm: "holdfast".to_owned(),
            users: vec![planned("1001", &Credentials::default())],
        };
        let text = credentials.welcome();
        let password = credentials.users[0].password.as_str();
        for part in ["192.168.1.5:5060", "1001", password, "t0ken", "*43", "127.0.0.1:8080"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(planned("1001", &credentials).password, password, "kept over a broken start");
    }
}
