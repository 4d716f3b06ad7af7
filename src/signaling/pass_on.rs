//! Messages of calls that another node owns: passed on to it, or, when it is dead, the call is claimed (design §4
//! "Finding a call").
//!
//! Invariants: a message is passed on at most `FORWARDS` times; looking an owner up is a task, bounded in number; a
//! message whose call nobody owns gets 481, one whose owner is in doubt gets nothing and is repeated by its phone.

use super::asked::MEETING;
use super::errand::{Claim, Errand};
use super::media_pool::LinkNumber;
use super::peers::Life;
use super::worker::Worker;
use crate::call::{Input, cancel_unknown};
use crate::control::PeerFrame;
use crate::control::peer::FORWARDS;
use crate::event::Event;
use crate::ids::{CallId, Flow, Incarnation, Locator, NodeName, Transport};
use crate::sip::{Message, Method};
use crate::store::{Batch, ClaimedCall};
use crate::views::ladder::Scope;
use bytes::Bytes;
use core::time::Duration;

/// A call that is between two owners is looked for so often: for two seconds.
const TRIES: u8 = 24;
/// For a phone that says nothing twice: ten seconds, longer than the lease of an owner that stands still.
const TRIES_OF_STREAM: u8 = 60;
/// Before the first of them.
const PAUSE: Duration = Duration::from_millis(50);

/// A message on its way to its call.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Whose it is.
    pub call: CallId,
    /// Number of the node that its token names; 0: none.
    pub hint: u16,
    /// How it came.
    pub flow: Flow,
    /// As it came.
    pub bytes: Bytes,
    /// Nodes that passed it on before.
    pub hops: u8,
    /// How often its owner was looked up in vain.
    pub tries: u8,
}

impl Stray {
    /// A message with a token of ours.
    pub(super) fn new(locator: &Locator, flow: Flow, bytes: &Bytes, hops: u8) -> Self {
        Self { call: locator.call, hint: locator.node, flow, bytes: bytes.clone(), hops, tries: 0 }
    }

    /// None: the call itself is wanted.
    pub(super) fn none(call: CallId) -> Self {
        let address = core::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let (transport, connection) = (Transport::Udp, None);
        let flow = Flow { transport, local: address, remote: address, connection };
        Self { call, hint: 0, flow, bytes: Bytes::new(), hops: FORWARDS, tries: u8::MAX }
    }

    /// Before it is looked for again.
    pub fn pause(&self) -> Duration {
        PAUSE * u32::from(self.tries / 10 + 1).min(5)
    }
}

/// Where a stray's call is.
#[derive(Debug)]
pub enum Whereabouts {
    /// Its owner.
    Owner(Incarnation),
    /// Its owner was dead: it is ours now.
    Claimed(Box<ClaimedCall>),
    /// It has ended.
    Over,
    /// Nobody has it.
    Nowhere,
    /// The store does not say.
    Unknown,
}

impl Worker {
    /// A message for a call that is not here. False: there is nobody to ask, it is treated as a stranger's.
    pub(super) fn pass_on(&mut self, stray: Stray) -> bool {
        if self.has_all_calls() {
            return false;
        }
        self.peers.passed.note_end(&stray, self.now);
        if stray.hops >= FORWARDS || self.pass_to_refuge(stray.flow, &stray.bytes, stray.hops) {
            return true;
        }
        let likely = self.peers.likely_owner(stray.call, stray.hint);
        if stray.hops == 0
            && let Some(name) = likely
            && self.forward(&name, &stray)
        {
            return true;
        }
        self.look_for(stray);
        true
    }

    /// On SQLite there is one process: it knows all calls when it has taken up what earlier starts left, a while after
    /// the store says so.
    fn has_all_calls(&self) -> bool {
        let has_met = self.now >= self.started_at + MEETING;
        self.store.is_embedded() && has_met && self.leases.has_inherited
    }

    /// To that node, by its link.
    fn forward(&mut self, name: &NodeName, stray: &Stray) -> bool {
        let Stray { flow, bytes, hops, .. } = stray;
        let frame = PeerFrame::Forward { flow: *flow, bytes: bytes.clone(), hops: hops + 1 };
        let is_sent = self.peers.send(name, frame);
        if is_sent && flow.transport.is_reliable() {
            self.peers.passed.note(name, stray.clone(), self.now);
        }
        is_sent
    }

    /// Asks the store for the owner.
    fn look_for(&mut self, stray: Stray) {
        if !self.errands.run(Errand::FindOwner(stray)) {
            self.emit(&Event::Shed { what: "message of an unknown call" });
        }
    }

    pub(super) fn handle_stray_found(&mut self, stray: Stray, found: Whereabouts) {
        if stray.bytes.is_empty() {
            self.end_own_claim(stray.call);
            if self.calls.get(stray.call).is_some() {
                return;
            }
        }
        if self.calls.get(stray.call).is_some() {
            return self.handle_message_hopped(&stray.bytes, stray.flow, FORWARDS);
        }
        match found {
            Whereabouts::Owner(owner) => self.handle_owner(stray, owner),
            Whereabouts::Claimed(claimed) => {
                self.adopt(*claimed);
                if stray.bytes.is_empty() {
                    return;
                }
                self.handle_message_hopped(&stray.bytes, stray.flow, FORWARDS);
            }
            Whereabouts::Over => self.refuse_stray(&stray),
            Whereabouts::Nowhere => self.not_stored(stray),
            Whereabouts::Unknown => self.look_again(stray),
        }
    }

    fn handle_owner(&mut self, stray: Stray, owner: Incarnation) {
        match self.peers.life(owner) {
            Life::Up(name) => {
                self.peers.learn(stray.call, name.clone());
                self.forward(&name, &stray);
            }
            Life::Dead | Life::Silent if self.is_leaving() => self.leave_to_another(&stray),
            // Given up, or on its way here by a claim under way.
            Life::Unsure if owner == self.settings.incarnation => {
                self.doubt_claims();
                self.look_again(stray);
            }
            Life::Silent | Life::Unsure if self.pass_by_another(&stray) => {}
            // A call with a message waiting goes before the others of a dead owner; of a silent one it goes alone.
            Life::Dead | Life::Silent => {
                let seen_at = self.peers.last_seen(owner);
                let kept = self.entrusted.kept(owner, stray.call).cloned();
                let kept = Batch { calls: kept.into_iter().collect(), ..Batch::default() };
                let claim = Claim { from: owner, seen_at, kept, patience: None };
                self.errands.run(Errand::ClaimFor(stray, claim));
            }
            // Of a node in doubt.
            Life::Unsure => self.look_again_if_reliable(stray),
        }
    }

    /// An owner that we have no link with may have one with somebody else: who lives for that one is not claimed from.
    fn pass_by_another(&mut self, stray: &Stray) -> bool {
        let name = self.peers.taker().filter(|_| stray.hops == 0).cloned();
        name.is_some_and(|name| self.forward(&name, stray))
    }

    /// The store does not know the call. Who made it may not have saved it yet, or it is on its way through another
    /// node: none but its maker says that it is nowhere.
    fn not_stored(&mut self, stray: Stray) {
        let is_on_its_way = self.entrusted.is_on_its_way(stray.call, self.now);
        if is_on_its_way || stray.hint != 0 && self.peers.is_unheard(stray.hint) {
            return self.look_again_if_reliable(stray);
        }
        match self.peers.by_number(stray.hint).cloned() {
            // It came a long way: by the next repeat the shorter one is known.
            Some(_) if stray.hops + 1 >= FORWARDS => self.look_again_if_reliable(stray),
            Some(maker) => _ = self.forward(&maker, &stray),
            None => self.refuse_stray(&stray),
        }
    }

    /// A phone on TCP does not say it again.
    fn look_again_if_reliable(&mut self, stray: Stray) {
        if stray.flow.transport.is_reliable() {
            self.look_again(stray);
        }
    }

    /// The call is between two owners: where it is will be known soon.
    fn look_again(&mut self, stray: Stray) {
        let most = if stray.flow.transport.is_reliable() { TRIES_OF_STREAM } else { TRIES };
        if stray.call != CallId(0) && stray.tries < most {
            let tries = stray.tries + 1;
            self.look_for(Stray { tries, ..stray });
        }
    }

    /// Whoever takes calls claims this one.
    fn leave_to_another(&mut self, stray: &Stray) {
        if let Some(name) = self.peers.taker().cloned() {
            self.forward(&name, stray);
        }
    }

    /// Nobody owns its call: 481 to a request. A response, or an ACK, may be for a node where the call, over for
    /// everybody else, lingers. That one may have died: what rings is cancelled here.
    fn refuse_stray(&mut self, stray: &Stray) {
        match Message::parse(&stray.bytes) {
            Ok(Message::Request(mut request)) if request.method != Method::Ack => {
                crate::sip::address::stamp_via(&mut request, &stray.flow);
                self.refuse(&request, &stray.flow, 481);
            }
            Ok(Message::Response(response)) => {
                if let Some(cancel) = cancel_unknown(&self.settings, &response, &stray.flow) {
                    self.transmit(stray.flow, cancel);
                }
                self.tell_all(stray);
            }
            Ok(Message::Request(_)) => self.tell_all(stray),
            Err(_) => {
                self.emit(&Event::Malformed { what: "a message of a call that nobody has" });
            }
        }
    }

    /// Who has its call knows what to do with it.
    fn tell_all(&self, stray: &Stray) {
        let (flow, bytes) = (stray.flow, stray.bytes.clone());
        self.peers.broadcast(&PeerFrame::Forward { flow, bytes, hops: FORWARDS });
    }

    /// A CANCEL names no call: its key does.
    pub(super) fn look_for_key(
        &mut self,
        key: [u8; 16],
        flow: Flow,
        bytes: Bytes,
        hops: u8,
    ) -> bool {
        if self.has_all_calls() || hops >= FORWARDS {
            return false;
        }
        self.errands.run(Errand::FindByKey { key, flow, bytes, hops })
    }

    /// What a peer says.
    pub(super) fn handle_peer(&mut self, link: LinkNumber, frame: PeerFrame) {
        match frame {
            PeerFrame::Forward { flow, bytes, hops } => {
                self.handle_message_hopped(&bytes, flow, hops);
            }
            PeerFrame::Send { flow, bytes } => self.send_for_peer(flow, bytes),
            PeerFrame::Bindings { extension, document } => {
                if let Ok(bindings) = postcard::from_bytes(&document) {
                    self.take_bindings(&extension, bindings);
                }
            }
            PeerFrame::BindingsChanged { extension, document } => {
                self.merge_bindings(&extension, &document);
            }
            PeerFrame::AskCalls { id, filter } => self.answer_calls(link, id, &filter),
            PeerFrame::Calls { id, document, last } => self.take_calls(link, id, document, last),
            PeerFrame::AskHangup { id, call, reason } => {
                self.answer_hangup(link, id, &call, reason);
            }
            PeerFrame::HungUp { id, done } => self.take_hung_up(link, id, done),
            PeerFrame::AskSteer { id, call, wish } => self.answer_steer(link, id, call, &wish),
            PeerFrame::Steered { id, document } => self.take_steered(link, id, &document),
            PeerFrame::AskLadder { id, call } => {
                self.answer_ladder(link, id, call, Scope::Signaling);
            }
            PeerFrame::AskCapture { id, call } => {
                self.answer_ladder(link, id, call, Scope::Everything);
            }
            PeerFrame::AskSound { id, call } => self.answer_ladder(link, id, call, Scope::Sound),
            PeerFrame::Ladder { id, document, last } => {
                self.take_ladder(link, id, &document, last);
            }
            PeerFrame::Addresses { sip } => {
                if let Some(peer) = self.peers.incarnation_of(link) {
                    self.peers.set_addresses(peer, sip);
                }
            }
            PeerFrame::Keep { document } => {
                if let Some(from) = self.peers.incarnation_of(link) {
                    self.take_entrusted(from, &document);
                }
            }
            PeerFrame::KeepNothing => {
                if let Some(from) = self.peers.incarnation_of(link) {
                    self.entrusted.take(from);
                }
            }
            PeerFrame::AskStore => self.answer_store(link),
            PeerFrame::StoreWorks => self.ask_again(link),
            PeerFrame::HandOver => {
                if let Some(from) = self.peers.incarnation_of(link) {
                    self.claim_given(from);
                }
            }
            PeerFrame::TakenBack => {
                if let Some(from) = self.peers.incarnation_of(link) {
                    self.errands.run(Errand::StopClaim(from));
                }
            }
            PeerFrame::Draining(is_draining) => self.peers.set_draining(link, is_draining),
            PeerFrame::Inherited(numbers) => self.note_inherited(link, &numbers),
            PeerFrame::Drain { drain, end_calls } => self.drain_self(drain, end_calls),
            PeerFrame::AskMedia { node, probes } => self.answer_media(link, node, probes),
            PeerFrame::MediaSeen { node, lives } => self.take_media_seen(link, &node, lives),
            PeerFrame::AskInvite { key } => self.answer_invite(link, key),
            PeerFrame::InviteSeen { key, here } => self.take_invite_seen(link, &key, here),
            PeerFrame::Ended { call, by, cause } => self.input(call, Input::Ended { by, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Frame;
    use crate::ids::{LegId, Purpose};
    use crate::signaling::samples;

    fn in_dialog(method: &str) -> Bytes {
        let text = format!(
            "{method} sip:1@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKx\r\n\
             From: <sip:1@pbx>;tag=a\r\nTo: <sip:2@pbx>;tag=b\r\nCall-ID: c\r\n\
             CSeq: 2 {method}\r\n\r\n"
        );
        Bytes::from(text)
    }

    #[tokio::test]
    async fn a_call_that_the_store_says_nothing_of_is_not_no_call() {
        let mut worker = samples::worker();
        let (_, flow) = samples::invite();
        let locator = Locator { call: CallId(7), leg: LegId(0), node: 0 };
        for (found, answers, looks) in [(Whereabouts::Unknown, 0, 1), (Whereabouts::Nowhere, 1, 0)]
        {
            let stray = Stray::new(&locator, flow, &in_dialog("BYE"), 0);
            worker.handle_stray_found(stray, found);
            let said = core::mem::take(&mut worker.sockets.driver().sent);
            assert!(said.iter().all(|(_, bytes)| bytes.starts_with(b"SIP/2.0 481")), "{said:?}");
            assert_eq!((said.len(), samples::errands(&mut worker).len()), (answers, looks));
        }
    }

    /// Its BYE waits for it (RFC 3261 §15).
    #[tokio::test]
    async fn an_ack_of_a_call_that_is_over_comes_to_who_still_has_it() {
        let mut worker = samples::worker();
        let mut told = samples::peer(&mut worker);
        let (_, flow) = samples::invite();
        let locator = Locator { call: CallId(7), leg: LegId(0), node: 3 };
        let mut forwarded = |method: &str| {
            let stray = Stray::new(&locator, flow, &in_dialog(method), 0);
            worker.handle_stray_found(stray, Whereabouts::Over);
            let frames = core::iter::from_fn(|| told.try_recv().ok());
            frames.filter(|it| matches!(it, Frame::Peer(PeerFrame::Forward { .. }))).count()
        };
        assert_eq!([forwarded("ACK"), forwarded("INFO")], [1, 0]);
    }

    #[tokio::test]
    async fn what_rings_for_a_call_that_is_over_is_cancelled() {
        let mut worker = samples::worker();
        let (_, flow) = samples::invite();
        let locator = Locator { call: CallId(7), leg: LegId(1), node: 3 };
        let branch = worker.settings.key.token(locator, Purpose::Branch(2));
        let mut said = |status: &str| {
            let text = format!(
                "SIP/2.0 {status}\r\nVia: SIP/2.0/UDP 10.0.0.1;branch={branch};received=10.0.0.7\r\n\
                 From: <sip:1@pbx>;tag=a\r\nTo: <sip:2@pbx>;tag=b\r\nCall-ID: c\r\n\
                 CSeq: 1 INVITE\r\n\r\n"
            );
            let stray = Stray::new(&locator, flow, &Bytes::from(text), 0);
            worker.handle_stray_found(stray, Whereabouts::Over);
            core::mem::take(&mut worker.sockets.driver().sent)
        };
        assert_eq!(said("100 Trying").len() + said("486 Busy Here").len(), 0);
        let said = said("180 Ringing");
        let [(to, bytes)] = said.as_slice() else { panic!("one message: {said:?}") };
        let Ok(Message::Request(cancel)) = Message::parse(bytes) else { panic!("a request") };
        assert_eq!((to.remote, &cancel.method), (flow.remote, &Method::Cancel));
        assert_eq!(cancel.top_via().and_then(|via| via.branch().map(str::to_owned)), Some(branch));
        assert_eq!(cancel.to().and_then(|to| to.tag().map(|tag| tag.into_owned())), None);
    }
}
