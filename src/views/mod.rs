//! What the REST API shows: one type a resource, names as in the API. Made by the shells, served by `admin`, printed by
//! `cli`.
//!
//! Invariant: a field is null, never absent; times are RFC 3339 UTC with milliseconds; durations are integer `*_ms`.

pub mod call;
pub mod cdr;
mod change;
pub mod event;
pub mod event_document;
pub mod ladder;
pub mod node;
pub mod quality;
pub mod registration;
pub mod route;
pub mod steer;
pub mod time;
pub mod token;
pub mod user;
pub mod webhook;

pub use call::{
    CallFlag, CallState, CallSummary, CallView, HoldState, LegView, MediaView, PartyView,
    StreamView,
};
pub use cdr::{Cdr, CdrLeg, Disposition, EndCause, EndedBy};
pub use event::{CallName, EventView, Happening};
pub use event_document::{EventDocument, EventGist};
pub use node::{NodeState, NodeView};
pub use registration::RegistrationView;
pub use route::{RouteDecision, RouteView};
pub use steer::{Steering, SteeringAct};
pub use time::Rfc3339;
pub use user::{NewUser, UserChange, UserView};
