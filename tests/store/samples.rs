//! Calls, users and bindings as they look.

use crate::database::Database;
use holdfast::call::Save;
use holdfast::directory::{Binding, User};
use holdfast::ids::{CallId, Epoch, Flow, Incarnation, NodeName, Rev, Transport};
use holdfast::sip::digest::Ha1;
use holdfast::store::{Batch, BindingsWrite, CallOutcome, CdrQuery, Store};
use holdfast::time::Timestamp;
use holdfast::views::Cdr;
use holdfast::views::Rfc3339;
use holdfast::views::call::{CallDirection, PartyView};
use holdfast::views::cdr::{Disposition, EndCause, EndedBy};
use holdfast::views::user::SrtpPolicy;

/// When the sample calls began; each a second later than the one before.
pub(crate) const BEGIN: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// A save of call `id` by owner 1 in epoch 1. Its key is made of the id.
pub(crate) fn save(id: u128, rev: u64) -> Save {
    Save {
        id: CallId(id),
        key: id.to_be_bytes(),
        owner: Incarnation(1),
        epoch: Epoch(1),
        rev: Rev(rev),
        ended: false,
        record: format!("record {id} {rev}").into_bytes(),
        cdr: None,
        told: Vec::new(),
    }
}

pub(crate) fn by(owner: u64, epoch: u64, save: Save) -> Save {
    Save { owner: Incarnation(owner), epoch: Epoch(epoch), ..save }
}

/// The last save of a call.
pub(crate) fn ended(save: Save) -> Save {
    let cdr = Some(Box::new(cdr(save.id.0)));
    Save { ended: true, record: Vec::new(), cdr, ..save }
}

pub(crate) fn second(number: u64) -> Timestamp {
    Timestamp::from_millis(BEGIN.as_millis() + number * 1_000)
}

pub(crate) fn cdr(id: u128) -> Cdr {
    let number = u64::try_from(id).unwrap_or_default();
    let party = |extension: &str| PartyView {
        extension: Some(extension.to_owned()),
        uri: format!("sip:{extension}@pbx.example"),
        display_name: None,
    };
    Cdr {
        id: CallId(id).to_string(),
        sequence: 0,
        caller: party("1001"),
        callee: party("1002"),
        request_uri: "sip:1002@pbx.example".to_owned(),
        direction: CallDirection::Internal,
        answered_by: Some("1002".to_owned()),
        created_at: Rfc3339(second(number)),
        ringing_at: None,
        answered_at: None,
        ended_at: Rfc3339(second(number + 30)),
        ring_ms: 0,
        duration_ms: 30_000,
        billable_ms: 0,
        disposition: Disposition::Answered,
        sip_status: 200,
        q850_cause: Some(16),
        reason: None,
        ended_by: EndedBy::Caller,
        end_cause: EndCause::Bye,
        flags: Vec::new(),
        owners: vec!["host-1".to_owned()],
        media_nodes: vec!["host-1".to_owned()],
        takeovers: 0,
        reanchors: 0,
        transfers: Vec::new(),
        legs: Vec::new(),
    }
}

pub(crate) fn user(extension: &str) -> User {
    User {
        extension: extension.to_owned(),
        display_name: format!("Phone {extension}"),
        enabled: true,
        ha1: Ha1::new(extension, "holdfast", "secret"),
        max_contacts: None,
        max_calls: Some(2),
        ring_timeout_ms: None,
        codecs: vec!["opus".to_owned()],
        srtp: SrtpPolicy::default(),
        created_at: BEGIN,
        updated_at: BEGIN,
    }
}

pub(crate) fn binding(extension: &str, expires_at: Timestamp) -> Binding {
    Binding {
        id: format!("{extension}-1"),
        extension: extension.to_owned(),
        aor: format!("sip:{extension}@pbx.example"),
        contact: format!("sip:{extension}@192.0.2.7:5060;ob"),
        instance_id: None,
        reg_id: None,
        q_milli: 1_000,
        q_given: false,
        path: Vec::new(),
        call_id: "register@192.0.2.7".to_owned(),
        cseq: 1,
        user_agent: Some("Phone/1.0".to_owned()),
        flow: Flow {
            transport: Transport::Udp,
            local: "192.0.2.1:5060".parse().expect("an address"),
            remote: "192.0.2.7:5060".parse().expect("an address"),
            connection: None,
        },
        nat: false,
        node: NodeName("host-1".into()),
        registered_at: BEGIN,
        refreshed_at: BEGIN,
        expires_at,
        flow_lost: false,
        ping_rtt_us: None,
    }
}

/// One binding of the user.
pub(crate) fn bind(extension: &str) -> BindingsWrite {
    BindingsWrite {
        extension: extension.to_owned(),
        bindings: vec![binding(extension, second(300))],
    }
}

pub(crate) fn batch(calls: Vec<Save>) -> Batch {
    Batch { calls, ..Batch::default() }
}

/// Commits and says what became of each.
#[track_caller]
pub(crate) fn commit(
    store: &Store,
    calls: Vec<Save>,
) -> impl Future<Output = Vec<CallOutcome>> + Send + use<> {
    let (store, batch) = (store.clone(), batch(calls));
    async move { store.commit(&batch).await.expect("a commit") }
}

/// Every CDR, once nobody writes any more.
pub(crate) async fn all_cdrs(database: &Database, store: &Store) -> Vec<Cdr> {
    database.settle().await;
    let query = CdrQuery { limit: 100_000, ..CdrQuery::default() };
    store.cdrs(&query).await.expect("CDRs")
}
