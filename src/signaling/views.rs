//! What the node shows of bindings and calls.

use crate::call::{Call, Settings};
use crate::directory::Binding;
use crate::event::Event;
use crate::ids::CallId;
use crate::operator::CallFilter;
use crate::routing::{self, Decision, Service};
use crate::sip::Uri;
use crate::time::Timestamp;
use crate::views::registration::FlowState;
use crate::views::{CallState, Cdr, RegistrationView, Rfc3339, RouteDecision, RouteView};

/// A binding in the API.
pub(super) fn registration(
    binding: &Binding,
    settings: &Settings,
    now: Timestamp,
) -> RegistrationView {
    let flow = match (binding.flow_lost, binding.node == settings.node) {
        (true, _) => FlowState::Lost,
        (false, true) => FlowState::Live,
        (false, false) => FlowState::Unknown,
    };
    let left = binding.expires_at.saturating_since(now).as_millis();
    RegistrationView {
        id: binding.id.clone(),
        extension: binding.extension.clone(),
        aor: binding.aor.clone(),
        contact: binding.contact.clone(),
        instance_id: binding.instance_id.clone(),
        reg_id: binding.reg_id,
        q: binding.q_given.then(|| f32::from(binding.q_milli) / 1_000.0),
        path: binding.path.clone(),
        call_id: binding.call_id.clone(),
        cseq: binding.cseq,
        user_agent: binding.user_agent.clone(),
        transport: binding.flow.transport.name().to_owned(),
        source: binding.flow.remote.to_string(),
        local: binding.flow.local.to_string(),
        nat: binding.nat,
        node: binding.node.to_string(),
        flow,
        registered_at: Rfc3339(binding.registered_at),
        refreshed_at: Rfc3339(binding.refreshed_at),
        expires_at: Rfc3339(binding.expires_at),
        expires_in_ms: u64::try_from(left).unwrap_or(u64::MAX),
        ping_rtt_ms: binding.ping_rtt_us.map(|rtt| f64::from(rtt) / 1_000.0),
    }
}

/// What the dial plan makes of it.
pub(super) fn route(
    uri: &Uri,
    decision: Decision,
    settings: &Settings,
    now: Timestamp,
) -> RouteView {
    let mut view = RouteView {
        uri: uri.as_str().to_owned(),
        decision: RouteDecision::Refuse,
        extension: None,
        service: None,
        sip_status: None,
        phones: Vec::new(),
    };
    match decision {
        Decision::Ring { user, bindings } => {
            view.decision = RouteDecision::Ring;
            view.extension = Some(user.extension.clone());
            let phones = bindings.iter().map(|binding| registration(binding, settings, now));
            view.phones = phones.collect();
        }
        Decision::Service(Service::Echo) => {
            (view.decision, view.service) = (RouteDecision::Service, Some("echo".to_owned()));
        }
        Decision::Refuse(status) => view.sip_status = Some(status.0),
        Decision::Unknown { extension, user_known } => {
            if user_known {
                view.decision = RouteDecision::NotRegistered;
                view.extension = Some(extension);
            }
            view.sip_status = Some(routing::unknown(user_known).0);
        }
    }
    view
}

/// Whether an operator asked for this call, the owner aside.
pub(super) fn matches(call: &Call, filter: &CallFilter) -> bool {
    let state = match call.state() {
        CallState::Trying => "trying",
        CallState::Early => "early",
        CallState::Confirmed => "confirmed",
        CallState::Terminating => "terminating",
    };
    let touches = |extension: &str| call.party_extensions().any(|have| have == extension);
    let has_media = |node: &str| call.media_node().is_some_and(|have| &*have.0 == node);
    filter.state.as_deref().is_none_or(|wish| wish == state)
        && filter.media_node.as_deref().is_none_or(has_media)
        && filter.extension.as_deref().is_none_or(touches)
}

/// The end of a call as its CDR tells it.
pub(super) fn ended_event(call: CallId, cdr: &Cdr) -> Event {
    Event::CallEnded {
        call,
        disposition: cdr.disposition,
        end_cause: cdr.end_cause,
        ended_by: cdr.ended_by,
        sip_status: cdr.sip_status,
        duration_ms: cdr.duration_ms,
        billable_ms: cdr.billable_ms,
    }
}
