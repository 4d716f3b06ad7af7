//! Rules broken on purpose, each in the world around the nodes: a judge must notice, or the rule is not judged.

use super::world::World;

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Commits are told done before they are: nothing waits for them.
    EarlyCommit,
    /// The store takes writes of former owners and of old revs.
    NoFence,
    /// A CDR goes in though its call's row does not.
    LooseCdrs,
    /// Two INVITEs that are one make two calls.
    NoKeys,
    /// Media sessions are not released.
    KeepMedia,
    /// What a node passes on to the owner is lost.
    DeafPeers,
    /// A peer that is silent counts as dead.
    SilenceIsDeath,
    /// After a gap a node believes that all is still its own.
    NoProof,
    /// The journal says it keeps what it does not.
    EmptyJournal,
    /// Nobody claims the calls of the dead.
    NobodyClaims,
    /// A store that cannot be read counts as one that knows of no call.
    AbsentForError,
    /// Leases are judged by another clock than they are written by.
    OtherClock,
}

impl Sabotage {
    pub const ALL: [Self; 12] = [
        Self::EarlyCommit,
        Self::NoFence,
        Self::LooseCdrs,
        Self::NoKeys,
        Self::KeepMedia,
        Self::DeafPeers,
        Self::SilenceIsDeath,
        Self::NoProof,
        Self::EmptyJournal,
        Self::NobodyClaims,
        Self::AbsentForError,
        Self::OtherClock,
    ];
}

impl World {
    /// Rules of the store.
    pub fn break_rules(&mut self) {
        match self.sabotage {
            Some(Sabotage::NoFence) => self.store.rules.fences = false,
            Some(Sabotage::LooseCdrs) => self.store.rules.joins_cdrs = false,
            Some(Sabotage::NoKeys) => self.store.rules.knows_keys = false,
            _ => {}
        }
    }
}
