//! One B2BUA call: legs, each a dialog, and one media session (RFC 3261, 3264, 6337). Sans-io.
//!
//! The machine's four words are those of every machine here: `handle_input`, `handle_timeout`, `poll_output` (drain to
//! `None` after every mutation), `next_timeout`.
//!
//! Where to read: `setup` (INVITE → route → ports → branches), `originate` (nobody sent one: the caller is called too),
//! `fork` (what branches answer), `answer` (200 to 200), `modify` (re-INVITE), `refresh` (our address is another one),
//! `anchor` (our media node is another one), `steer`, `dial`, `play`, `transfer` (what an operator does),
//! `dialog_request` (what phones ask in a dialog), `end` (every way a call ends), `media` (the session's wish), `told`
//! (its events), `sound`, `samples` and `flags` (how it
//! fares).
//!
//! Invariants: no state outside the record survives; `Save` comes before whatever acknowledges or uses up a number, and
//! what must wait for it says so (`Transmit::behind`); every call emits exactly one `Save` with a CDR.

mod anchor;
mod answer;
mod cdr;
mod dial;
mod dialog_request;
mod end;
mod farewell;
mod flags;
mod fork;
mod headers;
pub mod io;
mod leg;
mod media;
mod modify;
mod offer;
mod originate;
mod play;
mod quality;
mod record;
mod refresh;
mod restore;
mod samples;
mod sealed;
mod send;
mod setup;
mod sound;
mod steer;
mod timers;
mod told;
mod transfer;
mod view;

#[cfg(test)]
mod tests;

pub use farewell::{Farewell, cancel_unknown, farewell};
pub use headers::{ACCEPT, ALLOW};
pub use io::{
    Answer, Input, Invitation, Origination, Output, Query, Save, Settings, Told, Transmit,
};
pub use record::{
    VERSION as RECORD_VERSION, in_version as record_in_version, passing_over as record_passing_over,
};
pub use refresh::{Place, Reach, Way};

use crate::control::LastSent;
use crate::event::Event;
use crate::ids::{CallId, Epoch, LegId, NodeName, Rev};
use crate::time::Timestamp;
use crate::views::{CallState, EndCause};
use anchor::Anchor;
use core::net::SocketAddr;
use core::time::Duration;
use fork::Best;
use leg::Purpose;
use media::Then;
use modify::Exchange;
use record::{CallRecord, Phase};
use sound::Sound;
use std::collections::VecDeque;
use std::sync::Arc;

/// Ringing and the like is saved so long after it happened, unless another save comes first.
const LAZY_SAVE: Duration = Duration::from_millis(500);
/// What the next owner would find out by itself, do once more, or miss in a CDR alone.
const LAZIEST_SAVE: Duration = Duration::from_secs(10);
/// What was counted of its sound is saved with whatever else is; a call to which nothing happens for so long is saved
/// for that alone.
const COUNTS_SAVED_WITHIN: Duration = Duration::from_secs(600);
/// An ACK received: its loss costs a repeated 200, which the phone acknowledges again.
const LAZY_SAVE_ACK: Duration = Duration::from_secs(2);

/// One call.
#[derive(Debug)]
pub struct Call {
    settings: Arc<Settings>,
    record: CallRecord,
    /// Of the input or timer that is being handled.
    now: Timestamp,
    outputs: VecDeque<Output>,
    /// What is to be done when the media node has applied a rev.
    awaited: VecDeque<(Rev, Then)>,
    /// The media node must answer by then.
    media_deadline: Option<Timestamp>,
    /// It refused the last wish as one of a former owner, or of a session that is over.
    media_is_stale: bool,
    /// The re-INVITE that is being passed on, and who waits behind it.
    exchange: Option<Exchange>,
    queued: VecDeque<LegId>,
    /// The best failure of the branches so far.
    best: Option<Best>,
    /// Questions asked, answers awaited.
    questions: Vec<setup::Question>,
    question_count: u32,
    /// The answer given to the caller (SDP text), repeated byte for byte.
    caller_answer: Option<String>,
    ringing_repeat_at: Option<Timestamp>,
    /// A save is due by then.
    dirty_until: Option<Timestamp>,
    saved_at: Timestamp,
    /// The row with the CDR was emitted.
    saved_end: bool,
    is_transcoding: bool,
    /// The session is asked for at another host: what is known of where it was.
    opening: Option<Anchor>,
    /// How far each stream to a phone was, as told last.
    sent: Vec<(LegId, u8, LastSent)>,
    /// Events that leave with the next save.
    untold: Vec<String>,
    /// How it sounded so far.
    sound: Sound,
    /// A phone said its end then, when nobody was there to take it.
    told_at: Option<Timestamp>,
}

impl Call {
    fn with_record(settings: Arc<Settings>, record: CallRecord, now: Timestamp) -> Self {
        Self {
            settings,
            record,
            now,
            outputs: VecDeque::new(),
            awaited: VecDeque::new(),
            media_deadline: None,
            media_is_stale: false,
            exchange: None,
            queued: VecDeque::new(),
            best: None,
            questions: Vec::new(),
            question_count: 0,
            caller_answer: None,
            ringing_repeat_at: None,
            dirty_until: None,
            saved_at: now,
            saved_end: false,
            is_transcoding: false,
            opening: None,
            sent: Vec::new(),
            untold: Vec::new(),
            sound: Sound::default(),
            told_at: None,
        }
    }

    /// Something came.
    pub fn handle_input(&mut self, input: Input, now: Timestamp) {
        self.now = now;
        match input {
            Input::Request { leg, request, flow } => self.handle_request(leg, request, flow),
            Input::Response { leg, branch, response, flow } => {
                self.handle_response(leg, branch, &response, flow);
            }
            Input::Unreachable { leg, branch } => self.handle_unreachable(leg, branch),
            Input::Answer(answer) => self.handle_answer(answer),
            Input::Media { node, reply } => self.handle_media(node, reply),
            Input::Report(report) => self.handle_report(report),
            Input::MediaMoved { node } => self.handle_media_moved(node),
            Input::MediaMoves { lives } => self.handle_media_moves(lives),
            Input::MediaReturned { node } => self.handle_media_returned(&node),
            Input::MediaLost => self.handle_media_lost(),
            Input::Ended { by, cause } => self.ended_elsewhere(by, cause),
            Input::Hangup { reason } => self.end_by_admin(EndCause::Admin, reason),
            Input::Drained => self.end_by_admin(EndCause::Drain, Some("node drained".to_owned())),
            Input::FlowMoved { contact, from, flow } => self.move_flow(&contact, from, flow),
            Input::Flagged(flags) => self.flag(flags),
        }
        if self.saved_end {
            self.forget_sound();
        }
        self.refresh_targets();
    }

    /// The BYE that comes next was said first at that time: the call ended then.
    pub fn was_told(&mut self, at: Timestamp) {
        self.told_at = Some(at);
    }

    /// What would be saved with something else, or later, is saved now. An end does not wait for the last statistics:
    /// whoever has the call next would think that it lives.
    pub fn save_now(&mut self, now: Timestamp) {
        self.now = now;
        if self.record.phase == Phase::Ended {
            self.media_deadline = None;
            self.conclude();
        } else if self.dirty_until.is_some() {
            self.save();
        }
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Nothing more can come: forget it.
    pub fn is_over(&self) -> bool {
        self.saved_end
            && self.outputs.is_empty()
            && self.record.legs.iter().all(|leg| {
                leg.servers.is_empty() && leg.clients.is_empty() && leg.bye_after_ack.is_none()
            })
    }

    /// Its last save was made: what is left is to tell its phones.
    pub const fn is_concluded(&self) -> bool {
        self.saved_end
    }

    /// It has ended, and a phone does not know it yet: whoever has its row tells it.
    pub fn is_unfinished(&self) -> bool {
        self.record.phase == Phase::Ended && !self.is_told()
    }

    /// Over for everybody: it only lingers to answer what its phones may repeat.
    pub fn lingers(&self) -> bool {
        let mut clients = self.record.legs.iter().flat_map(|leg| &leg.clients);
        // A re-INVITE that the end overtook matters to nobody.
        let changes = |purpose: &Purpose| matches!(purpose, Purpose::Modify | Purpose::Refresh);
        self.is_concluded()
            && clients.all(|client| changes(&client.purpose) || !client.transaction.is_pending())
    }

    /// Its id.
    pub fn id(&self) -> CallId {
        self.record.id
    }

    /// Of its owner.
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// As the API shows it.
    pub fn state(&self) -> CallState {
        self.record.phase.view()
    }

    /// Where its media session is.
    pub fn media_node(&self) -> Option<&NodeName> {
        self.record.media.nodes.last()
    }

    /// When all its phones knew of the last move to another host.
    pub fn anchored_at(&self) -> Option<Timestamp> {
        self.record.added_3.resumed_at
    }

    /// It is moved first, and admitted everywhere.
    pub fn is_emergency(&self) -> bool {
        self.record.emergency
    }

    /// Where its media node takes RTP of one of its phones.
    pub fn media_address(&self) -> Option<SocketAddr> {
        let mut streams = self.record.legs.iter().flat_map(|leg| &leg.streams);
        streams.next().map(|stream| stream.local)
    }

    /// Extensions of the users it touches, for the index that registrations use.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.record.legs.iter().filter_map(|leg| leg.extension.as_deref())
    }

    /// The same, and those of caller and callee.
    pub fn party_extensions(&self) -> impl Iterator<Item = &str> {
        let parties = [&self.record.caller, &self.record.callee].into_iter();
        self.extensions().chain(parties.filter_map(|party| party.extension.as_deref()))
    }

    /// Extension of who is the caller now, while the call counts against its limit: a transfer may have changed it.
    pub fn caller_extension(&self) -> Option<&str> {
        let leg = self.record.leg(self.record.caller_leg());
        let now = leg.and_then(|leg| leg.extension.as_deref());
        let extension = now.or(self.record.caller.extension.as_deref());
        extension.filter(|_| self.record.phase != Phase::Ended)
    }

    /// Emits the row as it is now; what follows may wait for the returned rev.
    fn save(&mut self) -> Rev {
        (self.dirty_until, self.saved_at) = (None, self.now);
        self.record.rev.0 += 1;
        let rev = self.record.rev;
        let ended = self.record.phase == Phase::Ended;
        let cdr = ended.then(|| Box::new(self.cdr()));
        self.saved_end |= ended;
        let record = if ended { Vec::new() } else { self.encoded_record() };
        let told = self.told_with(rev);
        self.outputs.push_back(Output::Save(Save { ended, record, cdr, told, ..self.bare_row() }));
        rev
    }

    /// The row of a call that is over and has phones that do not know it: whoever claims it tells them.
    fn save_unfinished(&mut self) {
        self.record.rev.0 += 1;
        let (record, told) = (self.encoded_record(), self.told_with(self.record.rev));
        self.outputs.push_back(Output::Save(Save { record, told, ..self.bare_row() }));
    }

    /// The row as it is now, under the rev of the last save: for a store that may have lost that. None when it ended.
    pub fn row(&self) -> Option<Save> {
        let record = || self.encoded_record();
        (self.record.phase != Phase::Ended).then(|| Save { record: record(), ..self.bare_row() })
    }

    /// The row whatever phase it is in, to part from its phones by: a bug ends it. None once its end was saved.
    pub fn remains(&self) -> Option<Save> {
        (!self.saved_end).then(|| Save { record: self.encoded_record(), ..self.bare_row() })
    }

    fn bare_row(&self) -> Save {
        Save {
            id: self.record.id,
            key: self.record.key,
            owner: self.settings.incarnation,
            epoch: self.record.epoch,
            rev: self.record.rev,
            ended: false,
            record: Vec::new(),
            cdr: None,
            told: Vec::new(),
        }
    }

    fn encoded_record(&self) -> Vec<u8> {
        self.record.encode(RECORD_VERSION, &self.settings.key)
    }

    /// The row is to be saved within `delay`, or with the next save.
    fn save_within(&mut self, delay: Duration) {
        if self.record.phase == Phase::Ended {
            return;
        }
        let by = self.now + delay;
        self.dirty_until = Some(self.dirty_until.map_or(by, |until| until.min(by)));
    }

    fn emit(&mut self, event: Event) {
        self.note(&event);
        self.outputs.push_back(Output::Event(event));
    }
}
