//! How often somebody may ask: a bucket each, which fills by itself.
//!
//! Invariants: no more buckets than `KEYS`, however many there are who ask; a node counts for itself.

use crate::time::Timestamp;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Those counted at a time.
const KEYS: usize = 10_000;

/// Buckets of one size.
#[derive(Debug)]
pub(super) struct Rates<K> {
    buckets: Mutex<HashMap<K, Bucket>>,
    /// What one holds.
    burst: f64,
    per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

impl<K: Eq + Hash> Rates<K> {
    pub(super) fn new(burst: f64, per_second: f64) -> Self {
        Self { buckets: Mutex::default(), burst, per_second }
    }

    /// Takes one out; else in how many seconds there is one.
    pub(super) fn take(&self, key: K, now: Timestamp) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEYS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| self.filled(*bucket, now) < self.burst);
            if buckets.len() >= KEYS {
                // So many at a time are no operators: none of them is worth more than who comes now.
                buckets.clear();
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: self.burst, at: now });
        let left = self.filled(*bucket, now);
        self.check(left)?;
        *bucket = Bucket { left: left - 1.0, at: now };
        Ok(())
    }

    /// The same, and takes none.
    pub(super) fn look(&self, key: &K, now: Timestamp) -> Result<(), u64> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(key).map_or(Ok(()), |bucket| self.check(self.filled(*bucket, now)))
    }

    fn check(&self, left: f64) -> Result<(), u64> {
        if left >= 1.0 {
            return Ok(());
        }
        let seconds = ((1.0 - left) / self.per_second).ceil();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number of seconds"
        )]
        Err((seconds as u64).max(1))
    }

    fn filled(&self, bucket: Bucket, now: Timestamp) -> f64 {
        let since = now.saturating_since(bucket.at).as_secs_f64();
        since.mul_add(self.per_second, bucket.left).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills() {
        let rates = Rates::new(3.0, 0.5);
        let now = Timestamp::from_millis(1_000);
        for _ in 0..3 {
            assert_eq!(rates.take("one", now), Ok(()));
        }
        assert_eq!((rates.take("one", now), rates.look(&"one", now)), (Err(2), Err(2)));
        assert_eq!(rates.take("other", now), Ok(()), "another has its own");
        let later = now + Duration::from_secs(2);
        assert_eq!(rates.take("one", later), Ok(()));
        assert_eq!(rates.take("one", later), Err(2));
        let much_later = now + Duration::from_secs(1_000);
        assert_eq!((0..9).filter(|_| rates.take("one", much_later).is_ok()).count(), 3);
    }

    #[test]
    fn many_do_not_fill_the_memory() {
        let rates = Rates::new(1.0, 1.0);
        let now = Timestamp::from_millis(1_000);
        for key in 0..3 * KEYS {
            assert_eq!(rates.take(key, now), Ok(()));
            assert!(rates.buckets.lock().expect("no panic").len() <= KEYS);
        }
    }
}
