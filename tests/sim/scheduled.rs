//! What will happen in a world: first what is due first, and of two at one time what was said first.

#[derive(Debug)]
pub struct Scheduled<T> {
    pub at: u64,
    pub order: u64,
    pub what: T,
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<T> Eq for Scheduled<T> {}
impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
/// Turned round: the greatest leaves a heap first.
impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
