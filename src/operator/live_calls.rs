//! Live calls of the whole cluster, as they were gathered: whoever asked puts them together, not the thread that
//! handles SIP.
//!
//! Invariants: in the order of their ids, each once; what a node of this release said of its calls is passed on as it
//! came, for reading thousands of them costs more than anything else in a list.

use crate::views::CallView;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// What came of a question for live calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveCalls {
    /// Calls of this node, and of nodes of an older release, which do not tell all that this one does.
    pub views: Vec<CallView>,
    /// Lists of calls in JSON, of nodes of this release.
    pub documents: Vec<Bytes>,
    /// So many are wanted.
    pub limit: usize,
}

/// A call in JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct CallDocument {
    /// The call's.
    #[serde(skip)]
    pub id: String,
    document: Box<RawValue>,
}

/// All that is read of a call that is passed on.
#[derive(Deserialize)]
struct Named {
    id: String,
}

impl LiveCalls {
    /// To be looked at.
    pub fn views(self) -> Vec<CallView> {
        let Self { mut views, documents, limit } = self;
        for document in documents {
            views.extend(serde_json::from_slice::<Vec<CallView>>(&document).unwrap_or_default());
        }
        in_order(views, limit, |call| &call.id)
    }

    /// To be passed on.
    pub fn documents(self) -> Vec<CallDocument> {
        let Self { views, documents, limit } = self;
        let mut all = Vec::new();
        for view in views {
            let document = to_raw_value(&view).expect("views are plain data");
            all.push(CallDocument { id: view.id, document });
        }
        for list in documents {
            let list: Vec<Box<RawValue>> = serde_json::from_slice(&list).unwrap_or_default();
            all.extend(list.into_iter().filter_map(|document| {
                let Named { id } = serde_json::from_str(document.get()).ok()?;
                Some(CallDocument { id, document })
            }));
        }
        in_order(all, limit, |call| &call.id)
    }
}

fn in_order<T>(mut calls: Vec<T>, limit: usize, id: impl Fn(&T) -> &str) -> Vec<T> {
    // Ids are UUIDs of version 7: they sort by time.
    calls.sort_by(|one, other| id(one).cmp(id(other)));
    // A call that moved between two answers is in both.
    calls.dedup_by(|one, other| id(one) == id(other));
    calls.truncate(limit);
    calls
}
