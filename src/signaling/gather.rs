//! What operators ask of calls, whoever owns them: every peer is asked over its link, and what came within the patience
//! of an operator is the answer.
//!
//! Invariants: a question waits for peers that were there when it was asked, and no longer than its patience; an answer
//! comes in parts that fit a frame; that nobody has a call is said only when all peers said so.

use super::errand::Errand;
use super::media_pool::LinkNumber;
use super::steer;
use super::worker::Worker;
use crate::capture::{ENTRIES, RTCP_PACKETS, bound};
use crate::control::{Frame, PeerFrame, VERSION};
use crate::ids::{CallId, NodeName};
use crate::limits;
use crate::operator::{CallFilter, LiveCalls, Refused};
use crate::time::Timestamp;
use crate::views::ladder::{Entry, Scope};
use crate::views::{CallView, Steering};
use bytes::Bytes;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use tokio::sync::{mpsc, oneshot};

/// Peers that do not answer so long are left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// A frame is sent when it has so many: a call is a few kilobytes.
const BYTES_A_FRAME: usize = 64 * 1024;
/// One that is longer, for whatever phones made of it, is not told of: a frame has an end.
const LONGEST_CALL: usize = limits::CONTROL_FRAME_BYTES - BYTES_A_FRAME - 1_024;

/// Who waits for what.
#[derive(Debug)]
pub(super) enum Asker {
    /// All that match.
    Calls(oneshot::Sender<LiveCalls>),
    /// One, by its id.
    Call(oneshot::Sender<Option<CallView>>),
    /// Whether anybody ended it.
    Hangup(oneshot::Sender<bool>),
    /// What became of a wish for it.
    Steer(oneshot::Sender<Result<CallView, Refused>>),
    /// What all hosts keep of its signaling.
    Ladder(Scope, oneshot::Sender<Vec<Entry>>),
}

/// A question under way.
#[derive(Debug)]
struct Open {
    asker: Asker,
    found: LiveCalls,
    entries: Vec<Entry>,
    waiting: HashSet<NodeName>,
    until: Timestamp,
}

/// Questions under way, by number.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    open: HashMap<u64, Open>,
    numbers: u64,
}

impl Worker {
    /// Asks everybody for calls; `own` are those of this node.
    pub(super) fn gather(&mut self, filter: &CallFilter, own: Vec<CallView>, asker: Asker) {
        let question = serde_json::to_string(filter).unwrap_or_default();
        let limit = filter.limit.unwrap_or(usize::MAX);
        let found = LiveCalls { views: own, documents: Vec::new(), limit };
        let ask = |id| PeerFrame::AskCalls { id, filter: question.clone() };
        let id = self.ask_peers(found, PATIENCE, asker, ask);
        self.finish_if_complete(id);
    }

    /// Asks everybody to end a call that is not here.
    pub(super) fn hang_up_elsewhere(
        &mut self,
        call: &str,
        reason: Option<&str>,
        answer: oneshot::Sender<bool>,
    ) {
        let (call, reason) = (call.to_owned(), reason.map(str::to_owned));
        let ask = |id| PeerFrame::AskHangup { id, call: call.clone(), reason: reason.clone() };
        let id = self.ask_peers(LiveCalls::default(), PATIENCE, Asker::Hangup(answer), ask);
        self.finish_if_complete(id);
    }

    /// Asks everybody to do something to a call that is not here.
    pub(super) fn steer_elsewhere(
        &mut self,
        call: CallId,
        wish: &Steering,
        answer: oneshot::Sender<Result<CallView, Refused>>,
    ) {
        if let Err(refused) = self.may_steer() {
            // Who asked may have gone.
            let _ = answer.send(Err(refused));
            return;
        }
        let wish = serde_json::to_string(wish).unwrap_or_default();
        let ask = |id| PeerFrame::AskSteer { id, call, wish: wish.clone() };
        let id = self.ask_peers(LiveCalls::default(), steer::PATIENCE, Asker::Steer(answer), ask);
        self.finish_if_complete(id);
    }

    fn ask_peers(
        &mut self,
        found: LiveCalls,
        patience: Duration,
        asker: Asker,
        question: impl Fn(u64) -> PeerFrame,
    ) -> u64 {
        self.gathering.numbers += 1;
        let id = self.gathering.numbers;
        let names: Vec<NodeName> = self.peers.iter().map(|(name, _)| name.clone()).collect();
        let waiting =
            names.into_iter().filter(|name| self.peers.send(name, question(id))).collect();
        let until = self.now + patience;
        let open = Open { asker, found, entries: Vec::new(), waiting, until };
        self.gathering.open.insert(id, open);
        id
    }

    /// Asks every host what it keeps of a call; this one's files are read beside the worker.
    pub(super) fn gather_ladder(
        &mut self,
        call: CallId,
        scope: Scope,
        answer: oneshot::Sender<Vec<Entry>>,
    ) {
        let ask = |id| match scope {
            Scope::Signaling => PeerFrame::AskLadder { id, call },
            Scope::Everything => PeerFrame::AskCapture { id, call },
            Scope::Sound => PeerFrame::AskSound { id, call },
        };
        let asker = Asker::Ladder(scope, answer);
        let id = self.ask_peers(LiveCalls::default(), PATIENCE, asker, ask);
        let own = self.settings.node.clone();
        if let Some(open) = self.gathering.open.get_mut(&id) {
            open.waiting.insert(own);
        }
        self.errands.run(Errand::ReadLadder { asker: None, id, call, scope });
    }

    /// What a host keeps of it. Processes of one host say the same.
    pub(super) fn take_entries(
        &mut self,
        from: &NodeName,
        id: u64,
        entries: Vec<Entry>,
        last: bool,
    ) {
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        let room = (4 * (ENTRIES + RTCP_PACKETS)).saturating_sub(open.entries.len());
        open.entries.extend(entries.into_iter().take(room));
        if last {
            open.waiting.remove(from);
            self.finish_if_complete(id);
        }
    }

    /// A peer asks for our calls.
    pub(super) fn answer_calls(&mut self, link: LinkNumber, id: u64, filter: &str) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let filter: CallFilter = serde_json::from_str(filter).unwrap_or_default();
        let views = self.call_views(&filter);
        if let Some(sender) = self.peers.sender_of(&name) {
            // JSON of a thousand calls takes its time: calls do not wait for it.
            self.background.spawn(tell_calls(views, id, sender));
        }
    }

    /// A peer asks us to end a call.
    pub(super) fn answer_hangup(
        &mut self,
        link: LinkNumber,
        id: u64,
        call: &str,
        reason: Option<String>,
    ) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let done = self.hang_up(call, reason);
        self.peers.send(&name, PeerFrame::HungUp { id, done });
    }

    /// A part of a peer's answer.
    pub(super) fn take_calls(&mut self, link: LinkNumber, id: u64, document: Bytes, last: bool) {
        let Some((name, peer)) = self.peers.by_link(link) else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        // What an older release does not tell is filled in.
        if matches!(open.asker, Asker::Calls(_)) && peer.hello.version >= VERSION {
            open.found.documents.push(document);
        } else if let Ok(views) = serde_json::from_slice::<Vec<CallView>>(&document) {
            open.found.views.extend(views);
        }
        if last {
            open.waiting.remove(name);
        }
        match matches!(open.asker, Asker::Call(_)) && !open.found.views.is_empty() {
            true => self.finish(id),
            false => self.finish_if_complete(id),
        }
    }

    /// A peer ended the call, or has none of that id.
    pub(super) fn take_hung_up(&mut self, link: LinkNumber, id: u64, done: bool) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        open.waiting.remove(&name);
        if done {
            if let Some(Open { asker: Asker::Hangup(answer), .. }) = self.gathering.open.remove(&id)
            {
                // Who asked may have gone.
                let _ = answer.send(true);
            }
            return;
        }
        self.finish_if_complete(id);
    }

    /// A peer did something to its call, did not want to, or has none of that id.
    pub(super) fn take_steered(&mut self, link: LinkNumber, id: u64, document: &[u8]) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        open.waiting.remove(&name);
        let told = serde_json::from_slice(document).unwrap_or(Err(Refused::Gone));
        if told == Err(Refused::Gone) {
            return self.finish_if_complete(id);
        }
        if let Some(Open { asker: Asker::Steer(answer), .. }) = self.gathering.open.remove(&id) {
            // Who asked may have gone.
            let _ = answer.send(told);
        }
    }

    /// Questions whose peers are silent are answered with what is there.
    pub(super) fn end_questions(&mut self) {
        let now = self.now;
        let due = self.gathering.open.iter().filter(|(_, open)| open.until <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id);
        }
    }

    fn finish_if_complete(&mut self, id: u64) {
        if self.gathering.open.get(&id).is_some_and(|open| open.waiting.is_empty()) {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(open) = self.gathering.open.remove(&id) else { return };
        let Open { asker, found, mut entries, waiting, .. } = open;
        // Who asked may have gone.
        match asker {
            Asker::Calls(answer) => _ = answer.send(found),
            // Dropped: that is no answer. A silent peer may have the call, and may have done what was wanted.
            Asker::Call(_) | Asker::Hangup(_) | Asker::Steer(_)
                if found.views.is_empty() && !waiting.is_empty() => {}
            Asker::Call(answer) => _ = answer.send(found.views().into_iter().next()),
            Asker::Hangup(answer) => _ = answer.send(false),
            Asker::Steer(answer) => _ = answer.send(Err(Refused::Gone)),
            Asker::Ladder(scope, answer) => {
                entries.sort_by(|one, other| one.order().cmp(&other.order()));
                entries.dedup();
                _ = answer.send(bound(scope, entries));
            }
        }
    }
}

/// The answer, in as many frames as it takes.
async fn tell_calls(views: Vec<CallView>, id: u64, sender: mpsc::Sender<Frame>) {
    let mut views = views.into_iter().peekable();
    loop {
        let mut list = vec![b'['];
        while list.len() < BYTES_A_FRAME
            && let Some(view) = views.next()
        {
            let document = serde_json::to_vec(&view).unwrap_or_default();
            if document.is_empty() || document.len() > LONGEST_CALL {
                continue;
            }
            if list.len() > 1 {
                list.push(b',');
            }
            list.extend(document);
        }
        list.push(b']');
        let last = views.peek().is_none();
        let frame = Frame::Peer(PeerFrame::Calls { id, document: list.into(), last });
        if sender.send(frame).await.is_err() || last {
            return;
        }
        // The link sends it meanwhile.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Command;
    use crate::signaling::samples;

    /// Frames about calls that the peer gets, the last one included.
    async fn lists(told: &mut mpsc::Receiver<Frame>) -> Vec<Bytes> {
        let mut documents = Vec::new();
        while let Some(frame) = told.recv().await {
            if let Frame::Peer(PeerFrame::Calls { id: 3, document, last }) = frame {
                assert!(document.len() < limits::CONTROL_FRAME_BYTES);
                documents.push(document);
                if last {
                    break;
                }
            }
        }
        documents
    }

    #[tokio::test]
    async fn a_peer_is_told_of_calls_in_frames_that_fit() {
        let mut worker = samples::worker();
        let mut told = samples::peer(&mut worker);
        let ask = |worker: &mut Worker| {
            let filter = r#"{"state":"confirmed"}"#.to_owned();
            worker.handle_peer(1, PeerFrame::AskCalls { id: 3, filter });
        };
        ask(&mut worker);
        assert_eq!(lists(&mut told).await, [&b"[]"[..]]);
        worker.adopt(samples::answered());
        ask(&mut worker);
        let views = worker.call_views(&CallFilter::default());
        let one = serde_json::to_vec(&views).expect("JSON");
        assert_eq!(lists(&mut told).await, [one]);
        // Many, and one that no frame holds.
        let mut many = vec![views[0].clone(); 100];
        many[50].request_uri = "x".repeat(limits::CONTROL_FRAME_BYTES);
        let (sender, mut told) = mpsc::channel(100);
        tell_calls(many, 3, sender).await;
        let lists = lists(&mut told).await;
        assert!(lists.len() > 1);
        let read = |list: &Bytes| serde_json::from_slice::<Vec<CallView>>(list).expect("a list");
        assert_eq!(lists.iter().flat_map(read).collect::<Vec<_>>(), vec![views[0].clone(); 99]);
    }

    /// A node of this release has its words passed on, whatever they are; one before it does not tell all fields.
    #[tokio::test]
    async fn what_peers_say_of_their_calls_is_the_answer_with_ours() {
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        for version in [VERSION, VERSION - 1] {
            let mut told = samples::peer_of(&mut worker, version);
            let (answer, answered) = oneshot::channel();
            let filter = CallFilter { limit: Some(2), ..CallFilter::default() };
            worker.handle_command(Command::Calls(filter, answer));
            let asked = |frame| match frame {
                Frame::Peer(PeerFrame::AskCalls { id, .. }) => Some(id),
                _ => None,
            };
            let mut frames = core::iter::from_fn(|| told.try_recv().ok());
            let id = frames.find_map(asked).expect("it is asked");
            let ours = worker.call_views(&CallFilter::default()).remove(0);
            let mut theirs = serde_json::to_value(&ours).expect("JSON");
            theirs["id"] = "0192f0c1-8c5e-7000-8000-000000000001".into();
            theirs["later"] = true.into();
            theirs.as_object_mut().expect("an object").remove("flags");
            let document = Bytes::from(format!("[{theirs},{theirs}]"));
            worker.handle_peer(1, PeerFrame::Calls { id, document, last: true });
            let found = answered.await.expect("all have answered");
            let ids: Vec<String> = found.clone().views().into_iter().map(|call| call.id).collect();
            assert_eq!(ids.len(), 2, "each once: {ids:?}");
            let page = serde_json::to_value(found.documents()).expect("JSON");
            assert_eq!((&page[0]["id"], &page[1]["id"]), (&ids[0].clone().into(), &theirs["id"]));
            assert_eq!(page[1]["later"].is_boolean(), version == VERSION, "{page}");
            assert_eq!(page[1]["flags"].is_array(), version < VERSION, "{page}");
        }
    }
}
