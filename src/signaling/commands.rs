//! What operators ask of the node: every command is answered, none waits in the worker.

use super::gather::Asker;
use super::steer::Asking;
use super::views;
use super::worker::Worker;
use crate::call::{Call, Input};
use crate::ids::CallId;
use crate::operator::{CallFilter, Command, Refused};
use crate::routing;
use crate::store::{NodeRow, Store};
use crate::views::{CallFlag, CallView, NodeState, NodeView, RegistrationView, Rfc3339, RouteView};
use core::time::Duration;
use std::collections::BTreeSet;

/// A row older than this is of a node that is gone.
const NODE_SILENT: Duration = Duration::from_secs(5);
/// The table of nodes is asked no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn handle_command(&mut self, command: Command) {
        // Who asked may have gone: an answer that nobody takes is no error.
        match command {
            Command::Calls(filter, answer) => {
                let own = self.call_views(&filter);
                self.gather(&filter, own, Asker::Calls(answer));
            }
            Command::Call(id, answer) => match self.call_view(&id) {
                Some(view) => _ = answer.send(Some(view)),
                None => {
                    let filter = CallFilter { id: Some(id), ..CallFilter::default() };
                    self.gather(&filter, Vec::new(), Asker::Call(answer));
                }
            },
            Command::Ladder(call, scope, answer) => self.gather_ladder(call, scope, answer),
            Command::Hangup(id, reason, answer) => match self.hang_up(&id, reason.clone()) {
                true => _ = answer.send(true),
                false => self.hang_up_elsewhere(&id, reason.as_deref(), answer),
            },
            Command::Originate(wish, answer) => self.originate(&wish, answer),
            Command::Steer(id, wish, answer) => match self.has(id) {
                true => self.steer(id, &wish, Asking::Here(answer)),
                false => self.steer_elsewhere(id, &wish, answer),
            },
            Command::Route(to, answer) => _ = answer.send(self.route_view(&to)),
            Command::Registrations(extension, answer) => {
                _ = answer.send(self.registrations(extension.as_deref()));
            }
            Command::Deregister(id, answer) => _ = answer.send(self.deregister(&id)),
            Command::CheckSync(id, reboot, answer) => self.check_sync(&id, reboot, answer),
            Command::Nodes(answer) => {
                let (own, media) = (self.node_view(), self.media_views());
                let store = self.store.clone();
                self.background.spawn(async move {
                    let mut views = vec![own];
                    add_others(&mut views, &store).await;
                    add_media(&mut views, media);
                    _ = answer.send(views);
                });
            }
            Command::Drain { node, drain, end_calls, answer } => {
                _ = answer.send(self.set_drain(&node, drain, end_calls));
            }
            Command::UserChanged(user) => self.directory.set_user(*user),
            Command::UserRemoved(extension) => self.remove_user(&extension),
            Command::UsersImported => self.feed.reload.notify_one(),
            Command::Tune(tuning) => self.tune(*tuning),
            Command::Readiness(answer) => _ = answer.send(self.readiness()),
        }
    }

    pub(super) fn call_views(&self, filter: &CallFilter) -> Vec<CallView> {
        if let Some(id) = &filter.id {
            return self.call_view(id).into_iter().collect();
        }
        let after: Option<CallId> = filter.after.as_deref().and_then(|id| id.parse().ok());
        let is_owner = filter.owner.as_deref().is_none_or(|owner| *owner == *self.settings.node.0);
        if !is_owner {
            return Vec::new();
        }
        let has_flag =
            |call: &Call| filter.flag.is_none_or(|flag| self.flags(call).contains(&flag));
        let is_wanted =
            |call: &Call| !call.lingers() && views::matches(call, filter) && has_flag(call);
        let limit = filter.limit.unwrap_or(usize::MAX);
        let wanted = self.calls.page(after, limit, is_wanted).into_iter();
        match filter.brief {
            true => wanted.map(|call| call.brief_view(self.now)).collect(),
            false => wanted.map(|call| self.shown(call)).collect(),
        }
    }

    /// A call as operators see it.
    pub(super) fn shown(&self, call: &Call) -> CallView {
        CallView { flags: self.flags(call).into_iter().collect(), ..call.view(self.now) }
    }

    /// What is wrong in its sound and in its signaling.
    fn flags(&self, call: &Call) -> BTreeSet<CallFlag> {
        let heard = self.recorder.as_ref().map(|recorder| recorder.flags(call.id()));
        let mut flags = call.flags();
        flags.extend(heard.into_iter().flatten());
        flags
    }

    fn call_view(&self, id: &str) -> Option<CallView> {
        let id: CallId = id.parse().ok()?;
        let slot = self.calls.get(id).filter(|slot| !slot.call.lingers())?;
        Some(self.shown(&slot.call))
    }

    pub(super) fn hang_up(&mut self, id: &str, reason: Option<String>) -> bool {
        let id = id
            .parse::<CallId>()
            .ok()
            .filter(|id| self.calls.get(*id).is_some_and(|slot| !slot.call.lingers()));
        id.map(|id| self.input(id, Input::Hangup { reason })).is_some()
    }

    fn route_view(&self, to: &str) -> Result<RouteView, Refused> {
        let uri = self.target(to)?;
        let decision = routing::route(&self.directory, &uri, self.now);
        Ok(views::route(&uri, decision, &self.settings, self.now))
    }

    fn registrations(&self, extension: Option<&str>) -> Vec<RegistrationView> {
        let live = |binding: &&crate::directory::Binding| binding.expires_at > self.now;
        let view = |binding| views::registration(binding, &self.settings, self.now);
        let mut views: Vec<_> = match extension {
            Some(extension) => {
                self.directory.bindings(extension).iter().filter(live).map(view).collect()
            }
            None => self.directory.all_bindings().filter(live).map(view).collect(),
        };
        views.sort_by(|one: &RegistrationView, other| {
            (&one.extension, &one.id).cmp(&(&other.extension, &other.id))
        });
        views
    }
}

/// Media nodes; one that is the other half of a node known already is shown with it.
fn add_media(views: &mut Vec<NodeView>, media: Vec<NodeView>) {
    for half in media {
        match views.iter_mut().find(|view| view.name == half.name) {
            // The name of a process that is no more: whoever started next on its host has it.
            Some(node) if node.mode == "signaling" => *node = half,
            Some(node) => {
                node.media = half.media;
                node.sessions = half.sessions;
                node.transcoded_sessions = half.transcoded_sessions;
                node.max_sessions = half.max_sessions;
                node.tick_late_p99_ms = half.tick_late_p99_ms;
                if let (Some(drain), Some(half)) = (&mut node.drain, half.drain) {
                    drain.remaining_sessions = half.remaining_sessions;
                }
            }
            None => views.push(half),
        }
    }
}

/// Nodes that are known by the store only.
async fn add_others(views: &mut Vec<NodeView>, store: &Store) {
    let Ok(Ok(rows)) = tokio::time::timeout(PATIENCE, store.nodes()).await else { return };
    let now = crate::net::clock::now();
    for row in rows {
        if views.iter().any(|view| view.name == *row.name.0) {
            continue;
        }
        let NodeRow { seen_at, view, .. } = row;
        let Ok(mut view) = serde_json::from_str::<NodeView>(&view) else { continue };
        view.last_seen_at = Some(Rfc3339(seen_at));
        if now.saturating_since(seen_at) > NODE_SILENT {
            view.state = NodeState::Down;
        }
        views.push(view);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(mode: &str, sessions: Option<u64>) -> NodeView {
        let state = if mode == "media" { "ready" } else { "down" };
        let view = serde_json::json!({
            "name": "host-1", "mode": mode, "state": state, "version": "0", "record_version": null,
            "control_version": 1, "started_at": null, "last_seen_at": null, "lease_expires_at": null,
            "sip": [], "media": null, "control": null, "labels": {}, "calls": null,
            "registrations": null, "sessions": sessions, "transcoded_sessions": null,
            "max_sessions": null, "cpu_percent": null, "tick_late_p99_ms": null, "journal": null,
            "drain": null, "links": [],
        });
        serde_json::from_value(view).expect("a view")
    }

    #[test]
    fn a_media_node_with_the_name_of_a_dead_signaling_node_is_shown() {
        let mut views = vec![view("signaling", None)];
        add_media(&mut views, vec![view("media", Some(3))]);
        let shown = views.iter().map(|one| (one.mode.as_str(), one.state, one.sessions));
        assert_eq!(shown.collect::<Vec<_>>(), [("media", NodeState::Ready, Some(3))]);
        // The other half of a node is shown with it.
        let mut views = vec![view("both", None)];
        add_media(&mut views, vec![view("media", Some(3))]);
        let shown = views.iter().map(|one| (one.mode.as_str(), one.sessions));
        assert_eq!(shown.collect::<Vec<_>>(), [("both", Some(3))]);
    }
}
