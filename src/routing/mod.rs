//! The dial plan: a pure function of the request and the directory. It decides whom an INVITE rings.
//!
//! Invariant: escapes compare decoded (`%2A43` is `*43`); what is not known here is `Unknown`, never "not found": the
//! shell asks the store once before anybody is told 404.

use crate::directory::{Binding, Directory, User};
use crate::sip::uri::Scheme;
use crate::sip::{Status, Uri};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What becomes of a dialled URI.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Ring these phones of a user.
    Ring {
        /// Who is called.
        user: Arc<User>,
        /// Live bindings, highest q first.
        bindings: Vec<Binding>,
    },
    /// The switch answers itself.
    Service(Service),
    /// Tell the caller so.
    Refuse(Status),
    /// Not in the directory: no such user, or no binding; ask the store, then say `unknown`.
    Unknown {
        /// Decoded user part.
        extension: String,
        /// The user is known, only no phone of it.
        user_known: bool,
    },
}

/// What the switch answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// `*43`: the caller's own voice.
    Echo,
}

/// RFC 3261 §21.4.5.
pub const NOT_FOUND: Status = Status(404);
/// RFC 3261 §21.4.18: known, but no phone registered.
pub const UNAVAILABLE: Status = Status(480);

/// What a caller is told of somebody whom the store does not know better either.
pub const fn unknown(user_known: bool) -> Status {
    if user_known { UNAVAILABLE } else { NOT_FOUND }
}

/// RFC 3261 §21.4.22: nobody was dialled.
const ADDRESS_INCOMPLETE: Status = Status(484);
/// RFC 3261 §21.4.14.
const UNSUPPORTED_SCHEME: Status = Status(416);

/// Star codes are a table, not code.
const SERVICES: [(&str, Service); 1] = [("*43", Service::Echo)];

/// Decides for a dialled URI. `now` drops expired bindings; bindings with a lost flow are not rung. The host part is
/// not compared: a phone may know this server by any address or name.
pub fn route(directory: &Directory, uri: &Uri, now: Timestamp) -> Decision {
    let extension = match uri.scheme() {
        Scheme::Sip | Scheme::Sips | Scheme::Tel => uri.user(),
        // No emergency route can be configured: `urn:service:sos` leads nowhere.
        Scheme::Urn => return Decision::Refuse(NOT_FOUND),
        Scheme::Other => return Decision::Refuse(UNSUPPORTED_SCHEME),
    };
    let Some(extension) = extension.map(without_parameters).filter(|user| !user.is_empty()) else {
        return Decision::Refuse(ADDRESS_INCOMPLETE);
    };
    if let Some((_, service)) = SERVICES.iter().find(|(code, _)| *code == extension) {
        return Decision::Service(*service);
    }
    let Some(user) = directory.user(&extension) else {
        return Decision::Unknown { extension, user_known: false };
    };
    if !user.enabled {
        return Decision::Refuse(NOT_FOUND);
    }
    let mut bindings: Vec<Binding> = directory
        .bindings(&extension)
        .iter()
        .filter(|binding| binding.expires_at > now && !binding.flow_lost)
        .cloned()
        .collect();
    if bindings.is_empty() {
        return Decision::Unknown { extension, user_known: true };
    }
    bindings.sort_by_key(|binding| {
        (core::cmp::Reverse(binding.q_milli), core::cmp::Reverse(binding.refreshed_at))
    });
    Decision::Ring { user: Arc::clone(user), bindings }
}

/// `1001;phone-context=…` as a user part is 1001 (RFC 3261 §19.1.6).
fn without_parameters(mut user: String) -> String {
    if let Some(end) = user.find(';') {
        user.truncate(end);
    }
    user
}

#[cfg(test)]
mod tests;
