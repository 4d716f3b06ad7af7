//! A signaling node: its process comes, has turns, stands still, leaves and dies between any two outputs.

use super::journal::Journal;
use super::link::Place;
use super::sabotage::Sabotage;
use super::world::{Happening, MS, S, World, draw_call_id, tell_event};
use bytes::Bytes;
use core::time::Duration;
use holdfast::control::Frame;
use holdfast::event::Event;
use holdfast::ids::{ClusterKey, Flow, Incarnation, NodeName};
use holdfast::net::control_link::Secrets;
use holdfast::operator::Tuning;
use holdfast::signaling::Config;
use holdfast::signaling::driven::{DrivenNode, Errand, Incoming, Wakeup};
use holdfast::sip::address::Advertise;
use holdfast::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// Datagrams that wait for a process that stands still.
const BACKLOG: usize = 200;
/// A stopping node waits so long for its last commit.
const LAST_COMMIT: u64 = 3 * S;
/// A process so old has its links and knows its peers.
const SETTLED: u64 = 3 * S;
/// Of `HOLDFAST_LEASE_MS`.
pub const LEASE: u64 = 3 * S;

/// What outlives its processes.
#[derive(Debug)]
pub struct Node {
    pub number: usize,
    pub process: Option<Process>,
    pub journal: Journal,
    pub is_cut_from_store: bool,
}

/// One start of it.
#[derive(Debug)]
pub struct Process {
    pub driven: DrivenNode,
    pub life: u64,
    pub born_at: u64,
    pub is_frozen: bool,
    pub backlog: VecDeque<Incoming>,
    pub wakes_at: u64,
    /// It dies when it made so many more outputs; when it starts again.
    pub dies_after: Option<(u64, Option<u64>)>,
    /// It is told to leave as soon as it decided something that is not on its way to the store; when it starts again.
    pub leaves_in_midst: Option<Option<u64>>,
    pub is_draining: bool,
    pub looks: u32,
    /// It leaves: until when at most, and when it starts again.
    pub leaving: Option<(u64, Option<u64>)>,
    /// Its clock less ours.
    pub ahead: u64,
}

/// What a turn gave.
#[derive(Debug)]
enum Output {
    Send(Flow, Bytes),
    Errand(Errand),
    Frame { link: u64, end: usize, frame: Frame },
}

impl Node {
    pub fn new(number: usize) -> Self {
        Self { number, process: None, journal: Journal::default(), is_cut_from_store: false }
    }

    pub fn name(&self) -> NodeName {
        NodeName(format!("sim-{}", self.number + 1).into())
    }

    /// Of its present process; 0: none.
    pub fn life(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.life)
    }

    pub fn wakes_at(&self) -> Option<u64> {
        let process = self.process.as_ref().filter(|process| !process.is_frozen)?;
        Some(process.wakes_at)
    }

    /// It has no call that is not over for everybody.
    pub fn is_idle(&self) -> bool {
        let calls = self.process.iter().flat_map(|process| process.driven.calls());
        self.journal.is_empty() && calls.into_iter().all(|call| call.lingers())
    }
}

fn config(node: &Node, life: u64, key: ClusterKey) -> Config {
    Config {
        node: node.name(),
        incarnation: Incarnation(life),
        mode: "signaling",
        key,
        secrets: Secrets(Arc::new([])),
        sip_bind: Vec::new(),
        advertise: Advertise::default(),
        realm: "sim".to_owned(),
        product: "Holdfast".to_owned(),
        tuning: Tuning {
            ring_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(60),
            registration_max: Duration::from_secs(3_600),
            max_contacts: 10,
            emergency_numbers: Vec::new(),
            reanchor_window: 512,
        },
        control_bind: ([10, 0, 0, 1], 7070 + node.number as u16).into(),
        lease: Duration::from_micros(LEASE),
        journals: None,
        capture: None,
        hep: None,
        siblings: None,
    }
}

impl World {
    /// Starts a process, as soon as what the last one kept is in the store.
    pub fn start(&mut self, at: usize) {
        if self.nodes[at].process.is_some() {
            return;
        }
        if !self.store_takes_writes(at) {
            return self.schedule(500 * MS, Happening::Start { node: at });
        }
        self.replay(at);
        self.replay_dead(at);
        let life = self.next_life();
        let ahead = self.random.between(0, 50 * MS);
        let config = config(&self.nodes[at], life, self.key_of(at));
        let events = Arc::new(move |event: &Event| tell_event(at, event));
        let now = Timestamp::from_micros(self.now + ahead);
        let driven = DrivenNode::new(config, self.background.clone(), draw_call_id, events, now);
        self.nodes[at].process = Some(Process {
            driven,
            life,
            born_at: self.now,
            is_frozen: false,
            backlog: VecDeque::new(),
            wakes_at: self.now,
            dies_after: None,
            leaves_in_midst: None,
            is_draining: false,
            looks: 0,
            leaving: None,
            ahead,
        });
        self.note(|| format!("node {at} starts as {life}"));
        let loaded = Wakeup::Loaded(self.users.clone(), self.stored_bindings());
        let incoming = Incoming::Wakeup(loaded);
        self.schedule(2 * MS, Happening::ToNode { node: at, life, incoming });
        self.schedule(MS, Happening::WriteRow { node: at, life });
        self.schedule(4 * MS, Happening::Look { node: at, life });
        self.schedule(5 * MS, Happening::Relink);
    }

    /// The key that a node derives its tokens under.
    pub fn key_of(&self, at: usize) -> ClusterKey {
        match self.sabotage {
            Some(Sabotage::OwnKeys) => ClusterKey::new(format!("of node {at}").as_bytes()),
            _ => ClusterKey::new(b"of the cluster"),
        }
    }

    /// Something comes to a process of a node, or its time has come.
    pub fn turn(&mut self, at: usize, life: u64, incoming: Option<Incoming>) {
        let now = self.now;
        let Some(process) = self.nodes[at].process.as_mut() else { return };
        if process.life != life {
            return;
        }
        if process.is_frozen {
            let is_full = process.backlog.len() >= BACKLOG;
            let is_lost = is_full && matches!(incoming, Some(Incoming::Datagram(_)));
            process.backlog.extend(incoming.filter(|_| !is_lost));
            return;
        }
        let was_safe = process.driven.is_safe();
        process.driven.turn(incoming, Timestamp::from_micros(now + process.ahead));
        if let Some(back) = self.is_poisoned(at) {
            return self.kill(at, Some(back));
        }
        let Some(process) = self.nodes[at].process.as_mut() else { return };
        let wakes_at = process.driven.next_timeout().as_micros().saturating_sub(process.ahead);
        process.wakes_at = if wakes_at > now { wakes_at } else { now + 2 * MS };
        let decides = was_safe && !process.driven.is_safe();
        let outputs = self.outputs(at, life);
        let decides =
            decides && !outputs.iter().any(|it| matches!(it, Output::Errand(Errand::Commit(_))));
        self.carry_out(at, life, outputs);
        self.claim_suspects();
        if decides {
            self.leave_in_midst(at, life);
        }
        self.go_on_leaving(at, life);
    }

    /// If it is to leave, and did not yet.
    pub fn leave_in_midst(&mut self, at: usize, life: u64) {
        let process = self.nodes[at].process.as_ref().filter(|process| process.life == life);
        if let Some(back) = process.and_then(|process| process.leaves_in_midst) {
            self.leave(at, back);
        }
    }

    pub fn time_nodes(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].wakes_at().is_some_and(|wakes_at| wakes_at <= self.now) {
                self.turn(at, self.nodes[at].life(), None);
            }
        }
    }

    fn outputs(&mut self, at: usize, life: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Some(process) = &mut self.nodes[at].process {
            let sent = process.driven.take_sent().into_iter();
            outputs.extend(sent.map(|(flow, bytes)| Output::Send(flow, bytes)));
            outputs.extend(process.driven.take_errands().into_iter().map(Output::Errand));
        }
        for (number, link) in &mut self.links {
            for (end, held) in link.ends.iter_mut().enumerate() {
                if held.at != Place::Node(at) || held.life != life {
                    continue;
                }
                while let Some(frame) = held.frames.as_mut().and_then(|held| held.try_recv().ok()) {
                    outputs.push(Output::Frame { link: *number, end, frame });
                }
            }
        }
        outputs
    }

    /// Between any two of them its end may come.
    fn carry_out(&mut self, at: usize, life: u64, mut outputs: Vec<Output>) {
        let Some(process) = &mut self.nodes[at].process else { return };
        let count = outputs.len() as u64;
        let end = match &mut process.dies_after {
            Some((left, back)) if *left < count => Some((*left as usize, *back)),
            Some((left, _)) => {
                *left -= count;
                None
            }
            None => None,
        };
        if let Some((left, _)) = end {
            // Messages leave in their order; what else is done meanwhile is anywhere between.
            let (mut sends, mut others): (VecDeque<Output>, VecDeque<Output>) =
                outputs.into_iter().partition(|output| matches!(output, Output::Send(..)));
            outputs = Vec::new();
            while outputs.len() < left {
                let one = match self.random.chance(500) || others.is_empty() {
                    true => sends.pop_front().or_else(|| others.pop_front()),
                    false => others.pop_front(),
                };
                outputs.extend(one);
            }
        }
        for output in outputs {
            match output {
                Output::Send(flow, bytes) => self.transmit(at, life, &flow, &bytes),
                Output::Errand(errand) => self.run_errand(at, life, errand),
                Output::Frame { link, end, frame } => self.send_frame(link, end, frame),
            }
        }
        if let Some((_, back)) = end {
            self.count.add("faults: node died between two outputs");
            self.kill(at, back);
        }
    }

    pub fn kill(&mut self, at: usize, back: Option<u64>) {
        let Some(process) = self.nodes[at].process.take() else { return };
        (self.last_fault, self.hurt_at) = (self.now, self.now);
        let old = |process: &Process| process.born_at + SETTLED < self.now && !process.is_frozen;
        if !self.nodes.iter().filter_map(|node| node.process.as_ref()).any(old) {
            self.bereft_at = self.now;
        }
        self.deaths.push(self.now);
        self.died_in_outage |= !self.store_takes_writes(at);
        self.count.add("faults: node died");
        self.note(|| format!("node {at} is dead"));
        self.break_links(Place::Node(at));
        self.leave_streams(at, process.life, process.leaving.is_none());
        if let Some(back) = back {
            self.schedule(back, Happening::Start { node: at });
        }
    }

    /// SIGTERM.
    pub fn leave(&mut self, at: usize, back: Option<u64>) {
        let now = self.now;
        let Some(process) = &mut self.nodes[at].process else { return };
        if process.is_frozen || process.leaving.is_some() {
            return;
        }
        process.driven.stop();
        process.leaves_in_midst = None;
        process.leaving = Some((now + LAST_COMMIT, back));
        let life = process.life;
        self.turn(at, life, None);
    }

    fn go_on_leaving(&mut self, at: usize, life: u64) {
        let now = self.now;
        let Some(process) = &mut self.nodes[at].process else { return };
        let Some((until, back)) = process.leaving else { return };
        if !process.driven.is_safe() && now < until {
            return;
        }
        process.driven.leave();
        let outputs = self.outputs(at, life);
        self.carry_out(at, life, outputs);
        self.count.add("faults: node left");
        self.kill(at, back);
    }
}
