//! What a server keeps, written beside it: as its commits would, for what no phone could make happen in a test.

use super::Server;
use holdfast::ids::Incarnation;
use holdfast::net::clock;
use holdfast::store::{Batch, Delivery, Settlement, Store};
use serde_json::{Value, json};
use std::time::Duration;

/// The store of a server.
pub(crate) struct Kept {
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Kept {
    pub(crate) fn of(server: &Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let url = format!("sqlite:{}", server.data().join("holdfast.db").display());
        let store = runtime.block_on(Store::open(&url)).expect("a store").expect("with tables");
        Self { store, runtime }
    }

    /// These happen, in one commit.
    pub(crate) fn tell(&self, told: Vec<Value>) {
        let told = told.into_iter().map(|event| event.to_string()).collect();
        let batch = Batch { told, ..Batch::default() };
        self.runtime.block_on(self.store.commit(&batch)).expect("a commit");
    }

    /// The webhook is owed this event, which it was told so often and did not take.
    pub(crate) fn owe(&self, webhook: &str, event: &Value, attempts: u32) {
        let document = json!({"event": event, "attempts": attempts}).to_string();
        let owed = Delivery { event: 1, document, due_at: Some(clock::now()) };
        let round = Settlement { cursor: 1, taken: vec![], kept: vec![owed] };
        let (holder, duty) = (Incarnation(1), "of a test");
        let settled = async {
            let life = Duration::from_secs(60);
            assert!(self.store.take_duty(duty, holder, life).await.expect("an answer"));
            self.store.settle_deliveries((duty, holder), webhook, &round, 10).await
        };
        assert!(self.runtime.block_on(settled).expect("an answer"));
    }
}
