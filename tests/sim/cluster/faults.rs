//! What befalls the cluster: processes die, stand still, leave; links and the way to the store are cut; the store is
//! slow, read-only or gone; media nodes die or stand still. All of it heals in the end.

use super::hosts::Break;
use super::link::Place;
use super::world::{HOSTS, Happening, MEDIAS, MS, NODES, S, Weather, World};
use crate::random::Random;
use holdfast::operator::Command;
use holdfast::signaling::driven::Incoming;

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Every answer takes up to so long.
    Slow(u64),
    ReadOnly,
    /// It refuses connections.
    Gone,
    /// It does not answer at all.
    Silent,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process dies when it has made so many more outputs, and starts again after some time.
    Kill {
        node: usize,
        outputs: u64,
        back: Option<u64>,
    },
    /// The same, if it did not come to that.
    KillNow {
        node: usize,
        life: u64,
        back: Option<u64>,
    },
    Freeze {
        node: usize,
        time: u64,
    },
    Thaw {
        node: usize,
        life: u64,
    },
    /// It is told to leave in the midst of its work, and starts again after some time.
    Leave {
        node: usize,
        back: Option<u64>,
    },
    /// The same, if it did not come to that.
    LeaveNow {
        node: usize,
        life: u64,
    },
    /// An operator drains a node, and takes that back.
    Drain {
        node: usize,
        time: u64,
    },
    Undrain {
        node: usize,
        life: u64,
    },
    /// Between two nodes, or a node and a media node.
    Cut(Place, Place, u64),
    Join(Place, Place),
    CutFromStore {
        node: usize,
        time: u64,
    },
    JoinToStore {
        node: usize,
    },
    Mood(Mood, u64),
    Well,
    /// Its clock is set forward, or back.
    StepStore {
        micros: i64,
    },
    /// The replica stops here.
    Lag,
    /// The store dies, and the replica takes its place; a node that the replica lacks nothing else of than what was
    /// said in calls that were confirmed before dies with it, and starts again after some time.
    FallBack {
        back: Option<u64>,
    },
    /// The replica will stop in a moment: what is said until then is in it.
    Rest,
    /// A process is no more, and starts again after some time.
    Die {
        node: usize,
        back: u64,
    },
    /// So is its disk.
    LoseDisk {
        node: usize,
        back: u64,
    },
    /// The same, for one of its calls kills who reads it.
    Poison {
        node: usize,
        back: u64,
    },
    /// From then on it is of the release before.
    Older {
        node: usize,
    },
    KillMedia {
        media: usize,
        back: u64,
    },
    /// SIGTERM to a media node; its hand-over breaks after so many sessions, or does not.
    LeaveMedia {
        media: usize,
        back: u64,
        breaks: Option<(u32, Break)>,
    },
    DrainMedia {
        media: usize,
        time: u64,
    },
    UndrainMedia {
        media: usize,
        life: u64,
    },
    /// A host of media nodes is cut off from everybody.
    LoseHost {
        host: usize,
        time: u64,
    },
    FindHost {
        host: usize,
    },
    /// Nothing moves on that link for a while, and nothing is lost.
    Stall(Place, Place, u64),
    FreezeMedia {
        media: usize,
        time: u64,
    },
    ThawMedia {
        media: usize,
        life: u64,
    },
}

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Processes die and leave; nothing else is wrong.
    Deaths,
    /// The same in a bad network over a slow store that leaves commits in doubt.
    BadNetwork,
    Freezes,
    Cuts,
    Store,
    /// The store is replaced by a replica that lacks what came last.
    Failover,
    Media,
    /// Media processes die and leave one at a time; nothing else is wrong.
    MediaDeaths,
    /// Something is lost for good, or cannot be read.
    Losses,
    All,
}

impl Theme {
    pub fn of(random: &mut Random) -> Self {
        match random.between(0, 16) {
            0..=2 => Self::Deaths,
            3 => Self::BadNetwork,
            4 => Self::Freezes,
            5 => Self::Cuts,
            6 => Self::Store,
            7..=9 => Self::Media,
            10 => Self::MediaDeaths,
            11 => Self::Failover,
            12 => Self::Losses,
            _ => Self::All,
        }
    }

    pub fn weather(self, random: &mut Random) -> Weather {
        let mut weather = Weather { spread: 20 * MS, ..Weather::default() };
        match self {
            Self::Deaths | Self::MediaDeaths => weather.is_mild = true,
            Self::BadNetwork | Self::All => {
                weather.loss = [0, 20, 60][random.between(0, 3) as usize];
                weather.duplication = [0, 40][random.between(0, 2) as usize];
                weather.slow_store = [0, 100][random.between(0, 2) as usize];
                weather.doubt = [0, 20][random.between(0, 2) as usize];
                weather.spread = [20 * MS, 300 * MS, 2 * S][random.between(0, 3) as usize];
            }
            Self::Freezes
            | Self::Cuts
            | Self::Store
            | Self::Failover
            | Self::Losses
            | Self::Media => {}
        }
        weather
    }

    fn fault(self, random: &mut Random) -> Fault {
        let node = random.between(0, NODES as u64) as usize;
        let media = random.between(0, MEDIAS as u64) as usize;
        let other = (node + random.between(1, NODES as u64) as usize) % NODES;
        let kill = |random: &mut Random| Fault::Kill {
            node,
            outputs: random.between(0, 12),
            back: Some(random.between(50 * MS, 12 * S)),
        };
        let all = match self {
            Self::Deaths | Self::BadNetwork | Self::Failover | Self::Losses => 0,
            Self::Freezes => random.between(0, 2),
            Self::Cuts => [0, 2, 2, 3][random.between(0, 4) as usize],
            Self::Store => [0, 4, 4, 3, 13][random.between(0, 5) as usize],
            Self::Media => [0, 5, 6, 7, 8, 8, 9, 10, 10, 11][random.between(0, 10) as usize],
            Self::MediaDeaths => return Self::media_death(random),
            Self::All => random.between(0, 14),
        };
        match all {
            0 if random.chance(250) => {
                Fault::Leave { node, back: Some(random.between(100 * MS, 8 * S)) }
            }
            0 if random.chance(200) => Self::drain(node, random),
            0 => kill(random),
            1 => Fault::Freeze { node, time: random.between(100 * MS, 12 * S) },
            2 => {
                Fault::Cut(Place::Node(node), Place::Node(other), random.between(100 * MS, 20 * S))
            }
            3 => Fault::CutFromStore { node, time: random.between(100 * MS, 10 * S) },
            4 => {
                let mood = match random.between(0, 4) {
                    0 => Mood::Slow(random.between(100 * MS, 4 * S)),
                    1 => Mood::ReadOnly,
                    2 => Mood::Gone,
                    _ => Mood::Silent,
                };
                Fault::Mood(mood, random.between(100 * MS, 15 * S))
            }
            5 => Fault::KillMedia { media, back: random.between(100 * MS, 15 * S) },
            6 => Fault::FreezeMedia { media, time: random.between(100 * MS, 15 * S) },
            7 => {
                let time = random.between(100 * MS, 15 * S);
                Fault::Cut(Place::Node(node), Place::Media(media), time)
            }
            8 => {
                let at = random.between(0, Break::ALL.len() as u64) as usize;
                let breaks =
                    random.chance(800).then(|| (random.between(0, 3) as u32, Break::ALL[at]));
                Fault::LeaveMedia { media, back: random.between(100 * MS, 8 * S), breaks }
            }
            9 => Fault::DrainMedia { media, time: random.between(100 * MS, 15 * S) },
            10 => {
                let host = random.between(0, HOSTS as u64) as usize;
                Fault::LoseHost { host, time: random.between(500 * MS, 25 * S) }
            }
            12 => Self::drain(node, random),
            13 => {
                let micros = random.between(S, 1_200 * S) as i64;
                Fault::StepStore { micros: if random.chance(500) { micros } else { -micros } }
            }
            _ => {
                let time = random.between(100 * MS, 1_400 * MS);
                Fault::Stall(Place::Node(node), Place::Media(media), time)
            }
        }
    }

    fn drain(node: usize, random: &mut Random) -> Fault {
        Fault::Drain { node, time: random.between(10 * MS, 12 * S) }
    }

    /// One process of each host stays.
    fn media_death(random: &mut Random) -> Fault {
        let media = [0, MEDIAS / 2][random.between(0, 2) as usize];
        let back = random.between(100 * MS, 8 * S);
        match random.chance(500) {
            true => Fault::KillMedia { media, back },
            false => Fault::LeaveMedia { media, back, breaks: None },
        }
    }

    /// Nobody can claim what a node gives up before that has it back. Then it is its turn not to reach the store.
    fn delay_claims(plan: &mut Vec<(u64, Fault)>, random: &mut Random) {
        for (at, fault) in plan.clone() {
            let Fault::Drain { node, .. } = fault else { continue };
            let back = random.between(10_500 * MS, 12 * S);
            plan.push((at + back, Fault::CutFromStore { node, time: 3 * S }));
            let time = back + random.between(300 * MS, 2 * S);
            for node in (0..NODES).filter(|other| *other != node) {
                plan.push((at - 50 * MS, Fault::CutFromStore { node, time }));
            }
        }
    }

    /// Faults of a seed and when they come, from the beginning.
    pub fn plan(self, random: &mut Random) -> Vec<(u64, Fault)> {
        let count = random.between(1, 5);
        let mut plan: Vec<(u64, Fault)> =
            (0..count).map(|_| (random.between(S, 45 * S), self.fault(random))).collect();
        // What a node asked just before its end comes late.
        for (at, fault) in plan.clone() {
            if let Fault::Stall(Place::Node(node), _, time) = fault {
                let back = Some(random.between(50 * MS, 12 * S));
                let kill = Fault::Kill { node, outputs: random.between(0, 12), back };
                plan.push((at + random.between(0, time), kill));
            }
        }
        if self == Self::Store {
            Self::delay_claims(&mut plan, random);
        }
        if self == Self::Failover {
            let at = random.between(5 * S, 45 * S);
            let lag = random.between(10 * MS, S);
            plan = vec![(at, Fault::Lag), (at + lag, Fault::FallBack { back: None })];
            Self::die_beside(&mut plan, random);
        }
        if self == Self::Losses {
            plan = Self::loss(random);
        }
        plan
    }
}

impl World {
    pub fn befall(&mut self, fault: Fault) {
        (self.last_fault, self.hurt_at) = (self.now, self.now);
        self.note(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::Kill { node, outputs, back } => {
                let life = self.nodes[node].life();
                let Some(process) = &mut self.nodes[node].process else { return };
                process.dies_after = Some((outputs, back));
                self.schedule(S, Happening::Fault(Fault::KillNow { node, life, back }));
            }
            Fault::KillNow { node, life, back } => {
                if self.nodes[node].life() == life && self.nodes[node].process.is_some() {
                    self.kill(node, back);
                }
            }
            Fault::Freeze { node, time } => {
                let life = self.nodes[node].life();
                // What it alone keeps nobody has while it stands still: no peer has a copy yet.
                let keeps = !self.nodes[node].journal.is_empty();
                let Some(process) = &mut self.nodes[node].process else { return };
                // Thawed while the store does not answer, it cannot prove that its calls are still its own.
                if process.is_frozen || keeps || self.mood != Mood::Well {
                    return;
                }
                process.is_frozen = true;
                self.count.add("faults: node froze");
                self.silence(Place::Node(node));
                self.miss_streams(node, life);
                self.schedule(time, Happening::Fault(Fault::Thaw { node, life }));
            }
            Fault::Thaw { node, life } => self.thaw(node, life),
            Fault::Leave { node, back } => {
                let life = self.nodes[node].life();
                let Some(process) = &mut self.nodes[node].process else { return };
                process.leaves_in_midst = Some(back);
                self.schedule(S, Happening::Fault(Fault::LeaveNow { node, life }));
            }
            Fault::LeaveNow { node, life } => self.leave_in_midst(node, life),
            Fault::Drain { node, time } => {
                let life = self.nodes[node].life();
                self.count.add("faults: node drained");
                self.order_drain(node, life, true);
                self.schedule(time, Happening::Fault(Fault::Undrain { node, life }));
            }
            Fault::Undrain { node, life } => self.order_drain(node, life, false),
            fault => self.befall_around(fault),
        }
    }

    /// The same, of what is around the nodes.
    fn befall_around(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(one, other, time) => {
                self.peers_were_cut |= matches!(other, Place::Node(_));
                self.count.add(format!("faults: cut from {}", name_of(other)));
                self.cuts.insert((one, other));
                self.silence_between(one, other);
                self.schedule(time, Happening::Fault(Fault::Join(one, other)));
            }
            Fault::Join(one, other) => {
                self.cuts.remove(&(one, other));
                self.schedule(0, Happening::Relink);
            }
            Fault::CutFromStore { node, time } => {
                self.count.add("faults: node cut from the store");
                self.nodes[node].is_cut_from_store = true;
                self.schedule(time, Happening::Fault(Fault::JoinToStore { node }));
            }
            Fault::JoinToStore { node } => self.nodes[node].is_cut_from_store = false,
            Fault::Mood(mood, time) => {
                let stands = |process: &super::node::Process| process.is_frozen;
                if self.nodes.iter().filter_map(|node| node.process.as_ref()).any(stands) {
                    return;
                }
                self.count.add(match mood {
                    Mood::Slow(_) => "faults: store slow".to_owned(),
                    mood => format!("faults: store {mood:?}"),
                });
                self.mood = mood;
                self.schedule(time, Happening::Fault(Fault::Well));
            }
            Fault::Well => self.mood = Mood::Well,
            Fault::StepStore { micros } => {
                self.count.add("faults: store's clock set");
                self.store_ahead = self.store_ahead.saturating_add_signed(micros);
            }
            Fault::Lag => self.lag(),
            Fault::FallBack { back } => self.fall_back(back),
            fault => self.befall_media(fault),
        }
    }

    fn befall_media(&mut self, fault: Fault) {
        match fault {
            Fault::KillMedia { media, back } if self.medias[media].is_up => {
                self.kill_media(media);
                self.schedule(back, Happening::StartMedia { media });
            }
            Fault::LeaveMedia { media, back, breaks } => self.leave_media(media, back, breaks),
            Fault::DrainMedia { media, time } if self.medias[media].is_up => {
                self.count.add("faults: media drained");
                let life = self.medias[media].life;
                self.drain_media(media, true);
                self.schedule(time, Happening::Fault(Fault::UndrainMedia { media, life }));
            }
            Fault::UndrainMedia { media, life } => {
                let there = &self.medias[media];
                if there.life == life && there.is_up && there.leaves.is_none() {
                    self.drain_media(media, false);
                }
            }
            Fault::LoseHost { host, time } => {
                self.lose_host(host);
                self.schedule(time, Happening::Fault(Fault::FindHost { host }));
            }
            Fault::FindHost { host } => self.find_host(host),
            Fault::Stall(one, other, time) => {
                self.count.add("faults: link stalled");
                self.stalls.insert((one, other), self.now + time);
            }
            Fault::FreezeMedia { media, time } => {
                let life = self.medias[media].life;
                if self.medias[media].is_up && !self.medias[media].is_frozen {
                    self.freeze_media(media);
                    self.schedule(time, Happening::Fault(Fault::ThawMedia { media, life }));
                }
            }
            Fault::ThawMedia { media, life } => self.thaw_media(media, life),
            fault => self.lose(fault),
        }
    }

    fn order_drain(&mut self, node: usize, life: u64, drain: bool) {
        // Nobody waits for the answer.
        let (answer, _) = tokio::sync::oneshot::channel();
        let name = self.nodes[node].name().to_string();
        if let Some(process) = self.nodes[node].process.as_mut().filter(|it| it.life == life) {
            process.is_draining = drain;
        }
        let order = Command::Drain { node: name, drain, end_calls: false, answer };
        self.turn(node, life, Some(Incoming::Command(order)));
    }

    /// What waited in its sockets and tasks comes all at once.
    fn thaw(&mut self, node: usize, life: u64) {
        if self.nodes[node].life() != life {
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        process.is_frozen = false;
        let mut backlog: Vec<Incoming> = core::mem::take(&mut process.backlog).into();
        // Which of its sources the loop looks at first is chance.
        let first = self.random.between(0, backlog.len().max(1) as u64) as usize;
        if first < backlog.len() {
            backlog.swap(0, first);
        }
        self.turn(node, life, None);
        self.read_on(node, life);
        for incoming in backlog {
            match incoming {
                Incoming::Datagram(_) => self.turn(node, life, Some(incoming)),
                // What its tasks and links bring comes when it has proven what is its own.
                incoming => self.schedule(20 * MS, Happening::ToNode { node, life, incoming }),
            }
        }
        self.schedule(0, Happening::Relink);
    }
}

fn name_of(place: Place) -> &'static str {
    match place {
        Place::Node(_) => "a node",
        Place::Media(_) => "a media node",
    }
}
