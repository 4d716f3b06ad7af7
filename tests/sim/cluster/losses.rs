//! What is lost for good: a disk with its node, a node with the store's last moments. And what cannot be read: a record
//! that kills its readers, and one of a release that its heir does not know.

use super::faults::{Fault, Mood, Theme};
use super::sabotage::Sabotage;
use super::world::{MS, NODES, S, World, has_adopted};
use crate::phone::Phone;
use crate::random::Random;
use crate::store_model::StoreModel;
use holdfast::call::RECORD_VERSION;
use holdfast::ids::{CallId, Incarnation, Rev};
use holdfast::store::ClaimedCall;
use holdfast::views::CallState;

/// Nobody claims from a store that is new to the owners of calls.
const SETTLED_AFTER: u64 = 4 * S;
/// So many that carry a call on may die of it.
const MOST_KILLED: u32 = 3;
/// What is saved lazily is saved by then.
const RESTING: u64 = 700 * MS;
/// The first two bytes of a record that no release reads.
const NO_VERSION: [u8; 2] = [0x7f, 0xff];

/// What a replica has of the store.
#[derive(Debug)]
pub struct Replica {
    store: StoreModel,
    /// Calls of each node when it stopped there, if all were confirmed.
    confirmed: Vec<Option<Confirmed>>,
    /// What phones had heard of SDP.
    versions: Vec<Vec<u64>>,
}

/// Calls of a process.
type Confirmed = (u64, Vec<CallId>);

impl Theme {
    /// A node dies just before the replica stops, or with the store.
    pub fn die_beside(plan: &mut Vec<(u64, Fault)>, random: &mut Random) {
        let back = random.between(6 * S, 12 * S);
        let (at, way) = (plan[0].0, random.between(0, 3));
        if way == 1 {
            let node = random.between(0, NODES as u64) as usize;
            let before = random.between(2 * MS, 12 * MS);
            plan.push((at - before, Fault::Die { node, back }));
        }
        if way == 2 {
            let lag = random.between(S, 8 * S);
            plan[1] = (at + lag, Fault::FallBack { back: Some(back) });
            plan.push((at - RESTING, Fault::Rest));
        }
    }

    pub fn loss(random: &mut Random) -> Vec<(u64, Fault)> {
        let node = random.between(0, NODES as u64) as usize;
        let (at, back) = (random.between(8 * S, 40 * S), random.between(S, 8 * S));
        match random.between(0, 3) {
            0 => {
                let mood =
                    [Mood::ReadOnly, Mood::Gone, Mood::Silent][random.between(0, 3) as usize];
                let time = random.between(2 * S, 15 * S);
                let lost_at = at + random.between(S, time);
                vec![(at, Fault::Mood(mood, time)), (lost_at, Fault::LoseDisk { node, back })]
            }
            1 => vec![(at, Fault::Poison { node, back })],
            _ => {
                let other = |step: usize| (node + step) % NODES;
                let (one, two) =
                    (Fault::Die { node: other(1), back }, at + random.between(0, 20 * S));
                let two = (two, Fault::Die { node: other(2), back });
                vec![(0, Fault::Older { node }), (at, one), two]
            }
        }
    }
}

impl World {
    pub fn lose(&mut self, fault: Fault) {
        match fault {
            Fault::Die { node, back } => self.kill(node, Some(back)),
            Fault::LoseDisk { node, back } if self.nodes[node].process.is_some() => {
                self.count.add("faults: disk lost");
                self.kill(node, Some(back));
                self.nodes[node].journal.lose_calls();
            }
            Fault::Poison { node, back } => {
                let Some((_, calls)) = self.confirmed_calls(node, false) else { return };
                let Some(poison) = calls.first().copied() else { return };
                self.count.add("faults: record kills its reader");
                self.note(|| format!("   call {poison} kills who reads its record"));
                self.poison = Some(poison);
                self.kill(node, Some(back));
            }
            Fault::Rest => self.rest(),
            Fault::Older { node } => {
                self.count.add("faults: node of the release before");
                self.older = Some(node);
            }
            _ => {}
        }
    }

    /// Its confirmed calls that the store has; all of its calls are to be confirmed, or not.
    fn confirmed_calls(&self, node: usize, all: bool) -> Option<Confirmed> {
        let process = self.nodes[node].process.as_ref().filter(|process| !process.is_frozen)?;
        let owned = self.store.owned(Incarnation(process.life));
        let (confirmed, others): (Vec<_>, Vec<_>) =
            process.driven.calls().into_iter().filter(|call| !call.lingers()).partition(|call| {
                call.state() == CallState::Confirmed && owned.contains(&call.id())
            });
        let ids: Vec<CallId> = confirmed.iter().map(|call| call.id()).collect();
        (!ids.is_empty() && (others.is_empty() || !all)).then_some((process.life, ids))
    }

    /// What is saved lazily, and done before then, is in the store when the replica stops.
    pub fn rest(&mut self) {
        self.rested = (0..NODES).map(|node| self.resting_calls(node)).collect();
    }

    /// The replica stops here.
    pub fn lag(&mut self) {
        let rested = core::mem::take(&mut self.rested);
        let rests = |node: &usize| {
            self.resting_calls(*node).filter(|it| rested.get(*node) == Some(&Some(it.clone())))
        };
        let confirmed = |node: usize| rests(&node).and_then(|_| self.confirmed_calls(node, true));
        let confirmed = (0..NODES).map(confirmed).collect();
        let store = self.store.clone();
        self.replica = Some(Replica { store, confirmed, versions: self.versions() });
    }

    /// Of each line of each phone. An old record of an exchange that is over by now is not gone on with rightly.
    fn versions(&self) -> Vec<Vec<u64>> {
        let of = |phone: &Phone| phone.lines.iter().map(|line| line.remote_version).collect();
        self.phones.iter().map(of).collect()
    }

    /// The revs of its calls, if nothing is asked of their phones: that is asked anew, with its number and SDP, by who
    /// claims the call.
    fn resting_calls(&self, node: usize) -> Option<Vec<(CallId, Rev)>> {
        let (_, ids) = self.confirmed_calls(node, true)?;
        let calls = self.nodes[node].process.iter().flat_map(|it| it.driven.calls());
        let asks = calls.into_iter().any(|call| call.open_flows().next().is_some());
        let revs = ids.into_iter().map(|id| (id, self.store.calls[&id].rev));
        (!asks).then(|| revs.collect())
    }

    /// The replica takes the store's place.
    pub fn fall_back(&mut self, back: Option<u64>) {
        let Some(Replica { store, confirmed, versions }) = self.replica.take() else { return };
        self.count.add("faults: store went back in time");
        let is_old = |node: &usize| {
            let now = self.confirmed_calls(*node, true);
            now.is_some() && now == confirmed[*node] && self.is_known_to(&store, *node)
        };
        let mut lines = versions.iter().zip(self.versions());
        let is_told = lines.any(|(then, now)| !now.starts_with(then));
        let dies = (0..NODES).find(is_old).filter(|_| !is_told);
        self.store = store;
        self.server += 1;
        self.settled_at = self.now + SETTLED_AFTER;
        if let Some((node, back)) = dies.zip(back) {
            self.count.add("faults: node died with the store");
            self.kill(node, Some(back));
        }
    }

    /// The replica has the ends of all calls that ended at that node, and all that registered there.
    fn is_known_to(&self, replica: &StoreModel, node: usize) -> bool {
        let (name, life) = (self.nodes[node].name(), Incarnation(self.nodes[node].life()));
        let rows = self.store.calls.iter().filter(|(_, row)| row.owner == life);
        let mut ended = rows.filter(|(_, row)| row.ended_at.is_some());
        let bindings = self.store.bindings.values().flatten();
        let mut registered = bindings.filter(|binding| binding.node == name);
        let known: Vec<_> = replica.bindings.values().flatten().collect();
        ended.all(|(id, _)| replica.has_ended(*id)) && registered.all(|it| known.contains(&it))
    }

    /// A node has just begun to carry on what kills it; when it starts again.
    pub fn is_poisoned(&mut self, node: usize) -> Option<u64> {
        let poison = self.poison.filter(|poison| has_adopted(node, *poison))?;
        self.count.add("calls: killed who carried them on");
        self.killed += 1;
        if self.killed > MOST_KILLED {
            self.complain(format!("call {poison} killed {} that carried it on", self.killed));
        }
        Some(self.random.between(500 * MS, 3 * S))
    }

    /// What a node's row says of it.
    pub fn view_of(&self, node: usize) -> String {
        let older = u16::from(self.older == Some(node));
        match self.older.filter(|_| self.sabotage != Some(Sabotage::OwnVersion)) {
            Some(_) => format!(r#"{{"record_version":{}}}"#, RECORD_VERSION - older),
            None => String::new(),
        }
    }

    /// The release before does not read the records of this one.
    pub fn read_by(&self, node: usize, claimed: &mut [ClaimedCall]) {
        for call in claimed.iter_mut().filter(|_| self.older == Some(node)) {
            if let Some(version) = call.record.first_chunk_mut::<2>()
                && u16::from_be_bytes(*version) >= RECORD_VERSION
            {
                *version = NO_VERSION;
            }
        }
    }
}
