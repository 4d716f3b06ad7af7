//! A leg: one dialog with one phone, its streams and its open transactions.
//!
//! Transactions live in the leg that owns them. Of an open INVITE the record keeps the request, the last final answer
//! and no counters; messages are made again from fields.

use super::anchor::Moving;
use super::refresh::Stale;
use super::steer::Steered;
use crate::control::{Codec, RollOver};
use crate::ids::{Flow, LegId, Rev};
use crate::rtp::srtp::Keying;
use crate::sdp::offer_answer::StreamSide;
use crate::sdp::{Description, LegDescription, Policy};
use crate::sip::transaction::{ClientTransaction, ServerTransaction};
use crate::sip::{Dialog, Method, Request};
use crate::time::Timestamp;
use crate::views::call::LegRole;
use bytes::Bytes;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// One leg.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leg {
    pub id: LegId,
    pub role: LegRole,
    pub extension: Option<String>,
    pub state: LegState,
    pub dialog: Dialog,
    pub flow: Flow,
    /// Branches (client transactions) made so far.
    pub branches: u32,
    pub description: LegDescription,
    pub policy: Policy,
    pub streams: Vec<Stream>,
    /// The phone put us on hold.
    pub holds: bool,
    /// User part of our Contact towards this phone, as it is to be shown in its call log.
    pub contact_user: String,
    /// Host that the phone knows us by (of its AOR or From).
    pub domain: String,
    /// Path of the binding (RFC 3327): Route of the first INVITE.
    pub path: Vec<String>,
    /// Redirections that led here, latest last: Diversion (RFC 5806).
    pub diverted_by: Vec<String>,
    pub user_agent: Option<String>,
    pub last_status: Option<u16>,
    pub created_at: Timestamp,
    pub answered_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// CSeq number of an INVITE of ours whose 2xx is not acknowledged yet.
    pub owed_ack: Option<u32>,
    /// The offer of that 2xx (late offer): its ACK must answer, if only to refuse.
    pub owed_answer: Option<Box<Description>>,
    /// Text of the open INVITE, ours or theirs, so that another node can go on with it.
    pub open_invite: Option<Bytes>,
    /// The phone knows us by an address that is no more.
    #[serde(skip)]
    pub stale: Option<Stale>,
    /// The phone is to be told of another media node.
    #[serde(skip)]
    pub moving: Option<Moving>,
    /// The phone is to be told that an operator holds it, or does not any more.
    #[serde(skip)]
    pub steered: Option<Steered>,
    #[serde(skip)]
    pub servers: Vec<Server>,
    #[serde(skip)]
    pub clients: Vec<Client>,
    /// Greatest number of a request of ours that its phone answered.
    #[serde(skip)]
    pub answered_seq: u32,
    /// Our last ACKs to 2xx, repeated when the 2xx is; several, because a re-INVITE may follow an ACK that was lost.
    #[serde(skip)]
    pub acknowledgements: Vec<Acknowledgement>,
    /// Until then the phone may repeat a 2xx to an INVITE of a former owner.
    #[serde(skip)]
    pub repeats_until: Option<Timestamp>,
    /// BYE is due as soon as the ACK of our 2xx came (RFC 3261 §15: a callee waits for it).
    #[serde(skip)]
    pub bye_after_ack: Option<Option<String>>,
    /// What it offered last may be in force at the other phone: nothing that it offers is a repeat.
    #[serde(skip)]
    pub in_doubt: bool,
    #[serde(skip)]
    pub probe: Probe,
    /// Last words of the media node, per stream. Records have it behind their legs.
    #[serde(skip)]
    pub statistics: Vec<crate::control::StreamStatistics>,
}

/// State of a leg's dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LegState {
    /// Ports are being opened, nothing sent yet (a branch), or nothing answered (the caller).
    Waiting,
    /// INVITE is out, no To tag yet.
    Inviting,
    /// Early dialog.
    Early,
    /// 2xx.
    Confirmed,
    /// Over.
    Ended,
}

impl LegState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting | Self::Inviting => "trying",
            Self::Early => "early",
            Self::Confirmed => "confirmed",
            Self::Ended => "terminated",
        }
    }
}

/// One anchored stream of a leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    /// Bound at the media node.
    pub port: u16,
    /// For the SDP.
    pub local: SocketAddr,
    /// What was agreed.
    pub side: Option<StreamSide>,
    /// Of the phone's SRTP, as the media node told it last. Sealed records have it.
    #[serde(skip)]
    pub roll_over: Option<RollOver>,
}

/// A server transaction: a request of the phone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub method: Method,
    pub sequence: u32,
    /// `None` once the final response was made: it is not needed any more.
    pub request: Option<Request>,
    /// Where responses go.
    pub flow: Flow,
    pub transaction: ServerTransaction,
    pub last_response: Option<Bytes>,
    /// A 2xx to INVITE was sent and its ACK has not come.
    pub awaits_ack: bool,
    /// Retransmissions wait for the same commit as the first.
    pub behind: Option<Rev>,
    /// Asked of a former owner, who may have answered it.
    pub inherited: bool,
}

/// A client transaction: a request of ours.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub number: u32,
    pub method: Method,
    pub purpose: Purpose,
    /// As sent; its top Via and CSeq serve ACK and CANCEL.
    pub request: Request,
    pub bytes: Bytes,
    pub behind: Option<Rev>,
    pub transaction: ClientTransaction,
    pub cancel: Cancel,
    /// Given up on at this time: an INVITE that rang, was cancelled and got no final response; one that is in doubt; or
    /// one whose phone does not say a word while its audio is gone.
    pub deadline: Option<Timestamp>,
    /// A re-INVITE of a former owner, who may have had the answer: silence says nothing of the phone.
    pub in_doubt: bool,
}

/// Why a request of ours was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// First INVITE of a branch.
    Invite,
    /// re-INVITE of the exchange under way.
    Modify,
    /// re-INVITE, or UPDATE, of ours: it tells our address, our media node's, or that an operator holds the phone.
    Refresh,
    Cancel,
    Bye,
    /// A request of the other leg passed on (INFO): its answer goes back there.
    Relay {
        to: LegId,
        method: Method,
        sequence: u32,
    },
    /// INFO: a digit of an operator, to a phone that takes no telephone events.
    Dial,
    /// OPTIONS: is the phone there?
    Probe,
}

/// Cancelling an INVITE of ours (RFC 3261 §9.1: only after a provisional).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// With this Reason, as soon as a provisional came.
    Wanted(Option<String>),
    Sent,
}

/// An ACK to a 2xx.
#[derive(Clone, Debug)]
pub(super) struct Acknowledgement {
    pub sequence: u32,
    pub remote_tag: String,
    pub bytes: Bytes,
    pub behind: Option<Rev>,
}

/// Asking a silent phone whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probe {
    pub next_at: Option<Timestamp>,
    pub unanswered: u8,
}

impl Server {
    /// An INVITE that we owe a final response.
    pub fn is_open_invite(&self) -> bool {
        self.method == Method::Invite && !self.transaction.is_completed()
    }
}

impl Client {
    /// An INVITE without final response.
    pub fn is_open_invite(&self) -> bool {
        self.method == Method::Invite && self.transaction.is_pending()
    }
}

impl Leg {
    /// Nothing has happened on it yet, and no more is known than whom it is with.
    pub fn new(
        (id, role): (LegId, LegRole),
        dialog: Dialog,
        flow: Flow,
        description: LegDescription,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            role,
            extension: None,
            state: LegState::Waiting,
            dialog,
            flow,
            branches: 0,
            description,
            policy: Policy::default(),
            streams: Vec::new(),
            holds: false,
            contact_user: String::new(),
            domain: String::new(),
            path: Vec::new(),
            diverted_by: Vec::new(),
            user_agent: None,
            last_status: None,
            created_at: now,
            answered_at: None,
            ended_at: None,
            owed_ack: None,
            owed_answer: None,
            open_invite: None,
            stale: None,
            moving: None,
            steered: None,
            servers: Vec::new(),
            clients: Vec::new(),
            acknowledgements: Vec::new(),
            repeats_until: None,
            bye_after_ack: None,
            in_doubt: false,
            answered_seq: 0,
            probe: Probe::default(),
            statistics: Vec::new(),
        }
    }

    /// BYE waits for no commit: each of those who had the call since it was saved may have said one, and died. Its
    /// number is not used for anything else.
    pub fn pass_over_unsaved(&mut self, owners: u32) {
        if self.state == LegState::Confirmed {
            self.dialog.local_seq = self.dialog.local_seq.saturating_add(owners);
        }
    }

    /// Not over.
    pub fn is_live(&self) -> bool {
        self.state != LegState::Ended
    }

    /// A branch that was invited or will be, and has not answered. What a caller of ours asked has a number.
    pub fn is_ringing(&self) -> bool {
        match self.state {
            LegState::Waiting => self.dialog.remote_seq.is_none(),
            LegState::Inviting | LegState::Early => true,
            LegState::Confirmed | LegState::Ended => false,
        }
    }

    /// Our addresses for the SDP, by stream.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.streams.iter().map(|stream| stream.local).collect()
    }

    /// The phone's request that an INVITE transaction still owes a final response.
    pub fn open_server_invite(&mut self) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.is_open_invite())
    }

    /// Our 2xx to INVITE still waits for its ACK.
    pub fn awaits_ack(&self) -> bool {
        self.servers.iter().any(|server| server.awaits_ack)
    }

    /// The phone ended the dialog: its ACK is not needed any more.
    pub fn stop_waiting_for_ack(&mut self, now: Timestamp) {
        for server in self.servers.iter_mut().filter(|server| server.awaits_ack) {
            server.awaits_ack = false;
            server.transaction.handle_success_ack(now);
        }
    }

    /// Our INVITE still waits for its final response.
    pub fn open_client_invite(&mut self) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.is_open_invite())
    }

    /// Our INVITE with that number had no offer: its 2xx has one.
    pub fn asked_for_offer(&self, sequence: u32) -> bool {
        let number = |client: &Client| client.request.cseq().map(|cseq| cseq.number);
        let asked =
            |client: &&Client| client.method == Method::Invite && number(client) == Some(sequence);
        self.clients.iter().find(asked).is_some_and(|client| client.request.body.is_empty())
    }

    /// One offer at a time: nothing may be offered now (RFC 3261 §14.1).
    pub fn is_negotiating(&self) -> bool {
        self.awaits_ack() || self.is_offering()
    }

    /// An INVITE of either side has no final response.
    pub fn is_offering(&self) -> bool {
        self.clients.iter().any(Client::is_open_invite)
            || self.servers.iter().any(Server::is_open_invite)
    }

    /// No request of ours is open: whatever its ACKs answered is not repeated any more (RFC 3261 §13.3.1.4), and what
    /// was said was said.
    pub fn give_room_back(&mut self) {
        self.clients = Vec::new();
        self.acknowledgements = Vec::new();
        self.streams.shrink_to_fit();
        self.statistics.shrink_to_fit();
        self.description.give_room_back();
    }

    /// Notes what was agreed, stream by stream.
    pub fn set_sides(&mut self, sides: impl Iterator<Item = StreamSide>) {
        for (stream, side) in self.streams.iter_mut().zip(sides) {
            let received = |side: &StreamSide| side.keys.as_ref().map(|keys| keys.received.clone());
            if stream.side.as_ref().and_then(received) != received(&side) {
                stream.roll_over = None;
            }
            stream.side = Some(side);
        }
        self.secure_description();
    }

    fn secure_description(&mut self) {
        let keys = self.streams.iter().map(|stream| stream.side.as_ref()?.keys.clone());
        self.description.security.in_force = keys.collect();
    }

    /// Our keys, stream by stream.
    pub fn own_keys(&self) -> Vec<Option<Keying>> {
        let keys = |stream: &Stream| Some(stream.side.as_ref()?.keys.as_ref()?.sent.clone());
        self.streams.iter().map(keys).collect()
    }

    /// Our keys of a session at another host, the `number`th of them.
    pub fn moved_keys(&self, number: u32) -> Vec<Option<Keying>> {
        let keys = |(stream, index): (&Stream, u8)| {
            let keys = stream.side.as_ref()?.keys.as_ref()?;
            Some(self.description.security.moved(keys, index, number))
        };
        self.streams.iter().zip(0_u8..).map(keys).collect()
    }

    /// Our keys are these from now on, unless the phone has agreed on another suite meanwhile.
    pub fn set_own_keys(&mut self, keys: &[Option<Keying>]) {
        for (stream, own) in self.streams.iter_mut().zip(keys) {
            let known = stream.side.as_mut().and_then(|side| side.keys.as_mut());
            if let Some((known, own)) = known.zip(own.as_ref())
                && known.sent.suite() == own.suite()
            {
                known.sent = own.clone();
            }
        }
        self.secure_description();
    }

    /// Encoding of what its phone says.
    pub fn codec(&self) -> Option<&str> {
        self.spoken().map(|codec| codec.encoding.as_str())
    }

    /// How much of it a packet holds.
    pub fn packet_ms(&self) -> u16 {
        self.spoken().map_or(20, |codec| codec.ptime_ms)
    }

    fn spoken(&self) -> Option<&Codec> {
        self.streams.first()?.side.as_ref()?.codec.as_ref()
    }

    /// When its phone was heard last, as far as was told.
    pub fn last_packet_at(&self) -> Option<Timestamp> {
        self.statistics.first()?.last_packet_at
    }

    /// The phone says it sends media on some stream.
    pub fn phone_sends(&self) -> bool {
        self.streams
            .iter()
            .filter_map(|stream| stream.side.as_ref())
            .any(|side| side.direction.sends())
    }

    /// Notes whether the phone put us on hold: it does not want to hear us, though it was `offered` to. A phone that
    /// was offered silence (inactive) can only answer so; what it wanted before stands.
    pub fn note_hold(&mut self, offered: bool) {
        let mut sides = self.streams.iter().filter_map(|stream| stream.side.as_ref()).peekable();
        if offered {
            self.holds = sides.peek().is_some() && sides.all(|side| !side.direction.receives());
        }
    }
}
