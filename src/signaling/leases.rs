//! Leases of signaling nodes, read from the table of nodes by the store's clock: whose ran out, and may we say so?
//!
//! Invariants: only who renewed its own lease for a whole one without a gap judges others; a step of the store's clock,
//! forward or back, makes no living node silent and keeps no dead one alive.

use crate::ids::Incarnation;
use crate::store::NodeRow;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap};

/// What a row says of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Fresh,
    Silent,
    Dead,
}

/// By how long a node has not renewed its lease.
pub(super) fn standing(silent_for: Duration, lease: Duration) -> Standing {
    match silent_for {
        time if time <= lease => Standing::Fresh,
        time if time <= 2 * lease => Standing::Silent,
        _ => Standing::Dead,
    }
}

/// What is known from one look at the table to the next.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Our own row was fresh since then, without a gap.
    fresh_since: Option<Timestamp>,
    /// The last look.
    looked_at: Option<Timestamp>,
    /// Rows that are newer than the clock, which was set back: when they were first seen so.
    ahead: HashMap<(Incarnation, Timestamp), Timestamp>,
    /// Owners of calls that no row named at the last look.
    pub nameless: BTreeSet<Incarnation>,
    /// All calls of the store were ours at a look: of an embedded one, nothing is left of earlier starts.
    pub has_inherited: bool,
}

impl Leases {
    /// While the store cannot be asked nobody renews a lease, so none is judged until ours was renewed anew.
    pub(super) fn forget(&mut self) {
        self.fresh_since = None;
        self.nameless.clear();
    }

    /// A row of before the clock was set back would be new for as long as it was set back by: it ages from the first
    /// look at it on.
    pub(super) fn age(&mut self, now: Timestamp, rows: &mut [NodeRow]) {
        let before = core::mem::take(&mut self.ahead);
        for row in rows.iter_mut().filter(|row| row.seen_at > now) {
            let key = (row.incarnation, row.seen_at);
            let since = before.get(&key).map_or(now, |since| *since.min(&now));
            self.ahead.insert(key, since);
            row.seen_at = since;
        }
    }

    /// Others' leases are judged only by who renewed its own for a whole lease without a gap, and just now: when the
    /// store takes no writes all rows grow old together, and the last one written must not judge the others. So they do
    /// when its clock is set forward.
    pub(super) fn may_judge(
        &mut self,
        now: Timestamp,
        own: Option<&NodeRow>,
        lease: Duration,
    ) -> bool {
        let fresh = own.is_some_and(|row| now.saturating_since(row.seen_at) <= lease / 2);
        let looked_at = self.looked_at.replace(now);
        if looked_at.is_some_and(|at| at > now || now.saturating_since(at) > lease) {
            self.forget();
        }
        let since = &mut self.fresh_since;
        *since = fresh.then(|| since.unwrap_or(now));
        since.is_some_and(|since| now.saturating_since(since) >= lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::samples::row;

    const LEASE: Duration = Duration::from_secs(3);
    const OWN: Incarnation = Incarnation(1);
    const OTHER: Incarnation = Incarnation(2);

    /// A look at our row, just written, and another's of then: what that one's standing is, if we may judge.
    fn look(leases: &mut Leases, now: Timestamp, other: Timestamp) -> Option<Standing> {
        let mut rows = vec![row(OWN, now), row(OTHER, other)];
        leases.age(now, &mut rows);
        let may = leases.may_judge(now, Some(&rows[0]), LEASE);
        may.then(|| standing(now.saturating_since(rows[1].seen_at), LEASE))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(10_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_node_is_silent_before_it_is_dead() {
        let after = |ms| standing(Duration::from_millis(ms), LEASE);
        assert_eq!([after(0), after(3_000)], [Standing::Fresh; 2]);
        assert_eq!([after(3_001), after(6_000)], [Standing::Silent; 2]);
        assert_eq!(after(6_001), Standing::Dead);
    }

    #[test]
    fn a_clock_set_forward_makes_nobody_silent() {
        let mut leases = Leases::default();
        let hour = 3_600;
        (0..=5).for_each(|second| _ = look(&mut leases, at(second), at(second)));
        // The other's row is of before the step, and then renewed.
        assert_eq!(look(&mut leases, at(hour), at(5)), None);
        for second in 1..=5 {
            let standing = look(&mut leases, at(hour + second), at(hour + second));
            assert!(matches!(standing, None | Some(Standing::Fresh)), "{standing:?}");
        }
    }

    #[test]
    fn a_clock_set_back_keeps_no_dead_node_alive() {
        let mut leases = Leases::default();
        let (hour, died) = (3_600, at(3_605));
        (0..=5).for_each(|second| _ = look(&mut leases, at(hour + second), at(hour + second)));
        let seen: Vec<_> = (0..=7).map(|second| look(&mut leases, at(second), died)).collect();
        assert_eq!(seen[..3], [None; 3], "our own lease is judged anew");
        assert_eq!(seen[3], Some(Standing::Fresh));
        assert_eq!(seen[4..=6], [Some(Standing::Silent); 3]);
        assert_eq!(seen[7], Some(Standing::Dead));
    }

    /// The clock is read before the rows are.
    #[test]
    fn a_row_written_between_two_readings_is_fresh() {
        let mut leases = Leases::default();
        for second in 0..=20 {
            let written = Timestamp::from_micros(at(second).as_micros() + 900);
            let standing = look(&mut leases, at(second), written);
            assert!(matches!(standing, None | Some(Standing::Fresh)), "{standing:?}");
        }
    }
}
