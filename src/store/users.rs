//! Users one by one, and in an import.
//!
//! Invariant: a change of what somebody saw is a change of that text and of no later one.

use super::rows::{self, is_storable};
use super::{Backend, COMMIT_DEADLINE, DEADLINE, IMPORT_CHUNK, Store, StoreError, within};
use crate::directory::User;

/// A user and the text in which it is kept: who changes it names what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptUser {
    /// As read.
    pub user: User,
    /// As kept.
    pub text: String,
}

impl Store {
    /// One user.
    pub async fn user(&self, extension: &str) -> Result<Option<User>, StoreError> {
        Ok(self.kept_user(extension).await?.map(|kept| kept.user))
    }

    /// The same, to be changed.
    pub async fn kept_user(&self, extension: &str) -> Result<Option<KeptUser>, StoreError> {
        if !is_storable(extension) {
            return Ok(None);
        }
        let text: Option<String> = ask!(self, DEADLINE, user(extension))?;
        text.map(|text| Ok(KeptUser { user: rows::user(&text)?, text })).transpose()
    }

    /// The text in which a user is kept.
    pub fn user_text(user: &User) -> String {
        rows::user_document(user)
    }

    /// `Exists` when taken.
    pub async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        check_storable(core::slice::from_ref(user))?;
        let existing = ask!(self, DEADLINE, import_users(core::slice::from_ref(user), false))?;
        match existing.into_iter().next() {
            Some(extension) => Err(StoreError::Exists(extension)),
            None => Ok(()),
        }
    }

    /// Many at once, each extension at most once, a transaction a chunk; those that exist are returned (and replaced
    /// when `update`).
    pub async fn import_users(
        &self,
        users: &[User],
        update: bool,
    ) -> Result<Vec<String>, StoreError> {
        check_storable(users)?;
        let mut existing = Vec::new();
        for chunk in users.chunks(IMPORT_CHUNK) {
            existing.extend(ask!(self, COMMIT_DEADLINE, import_users(chunk, update))?);
        }
        Ok(existing)
    }

    /// Of what was seen, if that is said. False when there is none, or another text.
    pub async fn update_user(&self, user: &User, seen: Option<&str>) -> Result<bool, StoreError> {
        if !is_storable(&user.extension) {
            return Ok(false);
        }
        ask!(self, DEADLINE, update_user(user, seen))
    }

    /// With its bindings. False when there was none, or another text than was seen.
    pub async fn delete_user(
        &self,
        extension: &str,
        seen: Option<&str>,
    ) -> Result<bool, StoreError> {
        if !is_storable(extension) {
            return Ok(false);
        }
        ask!(self, DEADLINE, delete_user(extension, seen))
    }
}

fn check_storable(users: &[User]) -> Result<(), StoreError> {
    if users.iter().all(|user| is_storable(&user.extension)) {
        return Ok(());
    }
    Err(StoreError::Corrupt("an extension with a NUL in it".to_owned()))
}
