//! Rules broken on purpose, each in the world around the nodes: a judge must notice, or the rule is not judged.
//!
//! Some rules have no switch here, for no seed of thousands fails without them, or the world has nothing that they are
//! about: docs/ownership.md names their tests.

use super::faults::Theme;
use super::world::World;
use holdfast::control::{Frame, PeerFrame};

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
    /// Who is asked for a repeated INVITE says that it has no call of it.
    NobodyHasIt,
    /// A peer that is silent counts as dead.
    SilenceIsDeath,
    /// After a gap a node believes that all is still its own.
    NoProof,
    /// The journal says it keeps what it does not, and no peer has a copy to make up for it.
    EmptyJournal,
    /// Nobody claims the calls of the dead.
    NobodyClaims,
    /// Leases are judged by another clock than they are written by.
    OtherClock,
    /// What a node gave up is claimed though it has taken it back since.
    LateClaims,
    /// Each node derives its tokens under a key of its own.
    OwnKeys,
    /// A node that leaves, or is drained, gives its calls up before they are saved.
    EarlyHandOver,
    /// A claim raises no epoch.
    SameEpoch,
    /// Media nodes do what former owners ask.
    OldEpochs,
    /// Calls of the dead are claimed before their journals are replayed, and no peer has a copy to make up for it.
    NoReplay,
    /// Media nodes forget what they told, heard or not.
    ForgottenReports,
    /// What a node journals is given to no peer.
    NoCopies,
    /// Nobody is told that another server took the store's place.
    UntoldServer,
    /// In an outage nodes say that they reach the store.
    FalseExile,
    /// Who has connections of another process tells no peer.
    SecretHeir,
    /// Claims are not counted.
    EndlessClaims,
    /// Nodes do not say which records they read.
    OwnVersion,
}

impl Sabotage {
    pub const ALL: [Self; 25] = [
        Self::EarlyCommit,
        Self::NoFence,
        Self::LooseCdrs,
        Self::NoKeys,
        Self::KeepMedia,
        Self::DeafPeers,
        Self::NobodyHasIt,
        Self::SilenceIsDeath,
        Self::NoProof,
        Self::EmptyJournal,
        Self::NobodyClaims,
        Self::OtherClock,
        Self::LateClaims,
        Self::OwnKeys,
        Self::EarlyHandOver,
        Self::SameEpoch,
        Self::OldEpochs,
        Self::NoReplay,
        Self::ForgottenReports,
        Self::NoCopies,
        Self::UntoldServer,
        Self::FalseExile,
        Self::SecretHeir,
        Self::EndlessClaims,
        Self::OwnVersion,
    ];
}

impl Sabotage {
    /// This seed has shown it: where the search begins, for it takes thousands of seeds from the first.
    pub const fn first_seed(self) -> u64 {
        match self {
            Self::LateClaims => 2_533,
            Self::EarlyHandOver => 413,
            Self::NoReplay => 91,
            Self::OldEpochs => 1_806,
            Self::UntoldServer => 81,
            Self::OwnVersion => 133,
            Self::FalseExile => 236,
            _ => 0,
        }
    }

    /// Under these faults the rule is needed.
    pub fn shows_under(self, theme: Theme) -> bool {
        let all = theme == Theme::All;
        match self {
            Self::EmptyJournal | Self::NoReplay => all || theme == Theme::Store,
            Self::LateClaims => theme == Theme::Store,
            Self::OldEpochs => all || theme == Theme::Media,
            Self::ForgottenReports | Self::SameEpoch => theme == Theme::Deaths,
            Self::NoCopies | Self::EndlessClaims | Self::OwnVersion => theme == Theme::Losses,
            Self::UntoldServer => theme == Theme::Failover,
            Self::FalseExile => all || theme == Theme::Store,
            _ => true,
        }
    }
}

impl World {
    /// Rules of the store.
    pub fn break_rules(&mut self) {
        match self.sabotage {
            Some(Sabotage::NoFence) => self.store.rules.fences = false,
            Some(Sabotage::LooseCdrs) => self.store.rules.joins_cdrs = false,
            Some(Sabotage::NoKeys) => self.store.rules.knows_keys = false,
            Some(Sabotage::EndlessClaims) => self.store.rules.counts_claims = false,
            Some(Sabotage::SameEpoch) => self.store.rules.raises_epochs = false,
            Some(Sabotage::OldEpochs) => {
                self.medias.iter_mut().for_each(|media| media.node.fences = false);
            }
            _ => {}
        }
    }

    /// What is not said.
    pub fn is_withheld(&self, frame: &Frame) -> bool {
        let Some(sabotage) = self.sabotage else { return false };
        match frame {
            Frame::Peer(PeerFrame::Forward { .. }) => sabotage == Sabotage::DeafPeers,
            Frame::Peer(PeerFrame::Keep { .. }) => {
                matches!(sabotage, Sabotage::NoCopies | Sabotage::NoReplay | Sabotage::EmptyJournal)
            }
            Frame::Peer(PeerFrame::Inherited(_)) => sabotage == Sabotage::SecretHeir,
            _ => false,
        }
    }

    /// What is said wrongly.
    pub fn twist(&self, frame: &mut Frame) {
        if self.sabotage == Some(Sabotage::NobodyHasIt)
            && let Frame::Peer(PeerFrame::InviteSeen { here, .. }) = frame
        {
            *here = false;
        }
    }
}
