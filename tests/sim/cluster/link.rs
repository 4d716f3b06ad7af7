//! Links between nodes: frames in order, a little late; they break with a process, by a cut, or when a peer is silent.

use holdfast::control::Frame;
use holdfast::signaling::driven::LinkNumber;
use tokio::sync::mpsc;

/// A link that nobody takes anything from counts as stuck above it, as in the product.
const QUEUE: usize = 4_096;

/// Who is at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(usize),
    Media(usize),
}

/// One end: frames that its holder gave to the link.
#[derive(Debug)]
pub struct End {
    pub at: Place,
    /// Which start of it.
    pub life: u64,
    pub number: LinkNumber,
    /// A node's frames; a media node of the simulator sends by itself.
    pub frames: Option<mpsc::Receiver<Frame>>,
    /// When the last frame of this end arrives: none overtakes another.
    pub arrives: u64,
}

/// A link that is up.
#[derive(Debug)]
pub struct Link {
    pub ends: [End; 2],
    /// When it is noticed that it broke; nothing passes from then on.
    pub broken: bool,
}

impl Link {
    pub fn joins(&self, one: Place, other: Place) -> bool {
        let at = [self.ends[0].at, self.ends[1].at];
        at == [one, other] || at == [other, one]
    }

    pub fn touches(&self, place: Place) -> bool {
        self.ends.iter().any(|end| end.at == place)
    }
}

pub fn channel() -> (mpsc::Sender<Frame>, mpsc::Receiver<Frame>) {
    mpsc::channel(QUEUE)
}
