//! Sessions that were released a while ago: a wish of before, which a stalled link or a node that stood still delivers
//! late, must not make one anew, for nobody would ever end it.

use crate::ids::{Epoch, Rev, SessionId};
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};

/// Longer than what a broken link still delivers.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The oldest makes room.
const MOST: usize = 100_000;

/// The orders by which they were released.
#[derive(Debug, Default)]
pub struct Released {
    orders: HashMap<SessionId, (Timestamp, (Epoch, Rev))>,
    by_time: VecDeque<(Timestamp, SessionId)>,
}

impl Released {
    /// A session was released by that order: it is not here any more, or never was.
    pub fn note(&mut self, id: SessionId, order: (Epoch, Rev), now: Timestamp) {
        self.forget(now);
        while self.by_time.len() >= MOST {
            self.forget_oldest();
        }
        let known = self.orders.get(&id).map_or(order, |(_, known)| order.max(*known));
        self.orders.insert(id, (now, known));
        self.by_time.push_back((now, id));
    }

    /// A wish of that order came too late.
    pub fn is_over(&self, id: SessionId, order: (Epoch, Rev)) -> bool {
        self.orders.get(&id).is_some_and(|(_, released)| order < *released)
    }

    fn forget(&mut self, now: Timestamp) {
        let is_old = |(at, _): &(Timestamp, SessionId)| now.saturating_since(*at) > REMEMBERED;
        while self.by_time.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    /// Unless it was released once more since.
    fn forget_oldest(&mut self) {
        let Some((noted_at, id)) = self.by_time.pop_front() else { return };
        if self.orders.get(&id).is_some_and(|(at, _)| *at == noted_at) {
            self.orders.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_release_is_over_for_a_minute() {
        let now = Timestamp::from_millis(1_000_000);
        let order = |epoch, rev| (Epoch(epoch), Rev(rev));
        let mut released = Released::default();
        let (one, other) = (SessionId(1), SessionId(2));
        released.note(one, order(2, 5), now);
        for (wish, over) in
            [((1, 9), true), ((2, 4), true), ((2, 5), false), ((2, 6), false), ((3, 1), false)]
        {
            assert_eq!(released.is_over(one, order(wish.0, wish.1)), over, "{wish:?}");
        }
        assert!(!released.is_over(other, order(1, 1)));
        // A repeat that came late takes nothing back.
        released.note(one, order(1, 1), now);
        assert!(released.is_over(one, order(2, 4)));
        // A minute after the last of its releases.
        released.note(one, order(2, 6), now + Duration::from_secs(30));
        released.note(other, order(1, 1), now + Duration::from_secs(61));
        assert!(released.is_over(one, order(2, 5)));
        released.note(other, order(1, 1), now + Duration::from_secs(91));
        assert!(!released.is_over(one, order(1, 1)));
        assert_eq!((released.orders.len(), released.by_time.len()), (1, 2));
    }
}
