//! Which of many calls live, and when the others ended.

use super::{Backend, DEADLINE, Store, StoreError, within};
use crate::ids::CallId;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// Calls a statement.
const CHUNK: usize = 500;

impl Store {
    /// Those that are known: none lives still, with a time ended then.
    pub async fn ends_of(
        &self,
        calls: &[CallId],
    ) -> Result<BTreeMap<CallId, Option<Timestamp>>, StoreError> {
        self.check_settled().await?;
        let mut ends = BTreeMap::new();
        for chunk in calls.chunks(CHUNK) {
            // In this order: what ends between the two questions has its CDR by the second.
            let live = ask!(self, DEADLINE, live_of(chunk))?;
            ends.extend(live.into_iter().map(|call| (call, None)));
            for cdr in ask!(self, DEADLINE, cdrs_of(chunk))? {
                if let Ok(call) = cdr.id.parse() {
                    ends.insert(call, Some(cdr.ended_at.0));
                }
            }
        }
        Ok(ends)
    }
}
