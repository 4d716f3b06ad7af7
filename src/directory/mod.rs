//! Users and bindings in memory: no call waits for a read. Fed by the store and by what this node accepts.

use crate::ids::{Flow, NodeName};
use crate::sip::digest::Ha1;
use crate::time::Timestamp;
use crate::views::user::SrtpPolicy;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// A user, as stored. The password is not: only what digest needs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the API's")]
pub struct User {
    pub extension: String,
    pub display_name: String,
    pub enabled: bool,
    pub ha1: Ha1,
    pub max_contacts: Option<u32>,
    pub max_calls: Option<u32>,
    pub ring_timeout_ms: Option<u64>,
    pub codecs: Vec<String>,
    pub srtp: SrtpPolicy,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A binding (RFC 3261 §10, RFC 5626): how one phone of a user is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Id in the API; derived from extension and the binding's identity, stable over refreshes.
    pub id: String,
    /// User.
    pub extension: String,
    /// Address of record as the phone wrote it in To (`sip:1001@pbx.example`).
    pub aor: String,
    /// Contact URI, byte-exact.
    pub contact: String,
    /// `+sip.instance`, without quotes.
    pub instance_id: Option<String>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
    /// Preference in thousandths; 1000 when absent.
    pub q_milli: u16,
    /// `q` was given.
    pub q_given: bool,
    /// Path values (name-addr texts), first = nearest to us.
    pub path: Vec<String>,
    /// Of the REGISTER.
    pub call_id: String,
    /// Of the REGISTER.
    pub cseq: u32,
    /// Of the REGISTER.
    pub user_agent: Option<String>,
    /// How the REGISTER came: requests go back the same way.
    pub flow: Flow,
    /// Source and Contact differ, or rport was asked with another port.
    pub nat: bool,
    /// Node that holds the flow.
    pub node: NodeName,
    /// First REGISTER of this binding.
    pub registered_at: Timestamp,
    /// Last REGISTER.
    pub refreshed_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
    /// The flow's connection broke: not called until it registers again.
    pub flow_lost: bool,
    /// Round trip of the last OPTIONS ping, in microseconds.
    pub ping_rtt_us: Option<u32>,
}

/// All users and bindings that this node knows.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    users: HashMap<String, Arc<User>>,
    bindings: HashMap<String, Vec<Binding>>,
}

impl Directory {
    /// A user by extension (byte-exact after unescaping).
    pub fn user(&self, extension: &str) -> Option<&Arc<User>> {
        self.users.get(extension)
    }
    /// Adds or replaces.
    pub fn set_user(&mut self, user: User) {
        self.users.insert(user.extension.clone(), Arc::new(user));
    }
    /// Removes a user and its bindings.
    pub fn remove_user(&mut self, extension: &str) {
        self.users.remove(extension);
        self.bindings.remove(extension);
    }
    /// Bindings of a user, oldest first; expired ones may be among them.
    pub fn bindings(&self, extension: &str) -> &[Binding] {
        self.bindings.get(extension).map_or(&[], Vec::as_slice)
    }
    /// Replaces all bindings of a user.
    pub fn set_bindings(&mut self, extension: &str, bindings: Vec<Binding>) {
        if bindings.is_empty() {
            self.bindings.remove(extension);
        } else {
            self.bindings.insert(extension.to_owned(), bindings);
        }
    }
    /// To change single bindings (ping results, lost flows).
    pub fn bindings_mut(&mut self, extension: &str) -> &mut [Binding] {
        self.bindings.get_mut(extension).map_or(&mut [], Vec::as_mut_slice)
    }
    /// To change every binding.
    pub fn all_bindings_mut(&mut self) -> impl Iterator<Item = &mut Binding> {
        self.bindings.values_mut().flatten()
    }
    /// Every user.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }
    /// Every binding.
    pub fn all_bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values().flatten()
    }
    /// How many users.
    pub fn user_count(&self) -> usize {
        self.users.len()
    }
}
