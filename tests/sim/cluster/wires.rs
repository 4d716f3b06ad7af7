//! Links in the world: how they come, carry frames and break; and media nodes at their ends.

use super::link::{End, Link, Place, channel};
use super::world::{Happening, MEDIAS, MS, NODES, S, World};
use holdfast::control::hello::{Hello, Role};
use holdfast::control::{Frame, PeerFrame, VERSION};
use holdfast::ids::{Incarnation, NodeName};
use holdfast::signaling::driven::{Incoming, Wakeup};

/// A link whose peer is silent for so long is broken.
pub const SILENCE: u64 = 1_500 * MS;

impl World {
    fn life_at(&self, place: Place) -> u64 {
        match place {
            Place::Node(at) => self.nodes[at].life(),
            Place::Media(at) if self.medias[at].is_up => self.medias[at].life,
            Place::Media(_) => 0,
        }
    }

    fn hello(&self, place: Place) -> Hello {
        let (name, role, control) = match place {
            Place::Node(at) => {
                let control = vec![([10, 0, 0, 1], 7070 + at as u16).into()];
                (self.nodes[at].name(), Role::Signaling, control)
            }
            Place::Media(at) => {
                let control = vec![([10, 0, 1, at as u8], 7080).into()];
                (NodeName(format!("media-{at}").into()), Role::Media, control)
            }
        };
        let incarnation = Incarnation(self.life_at(place));
        Hello { version: VERSION, name, incarnation, role, control }
    }

    pub fn is_cut(&self, one: Place, other: Place) -> bool {
        self.cuts.contains(&(one, other)) || self.cuts.contains(&(other, one))
    }

    /// Both ends get a link.
    pub fn link_up(&mut self, one: Place, other: Place, after: u64) {
        if self.links.values().any(|link| !link.broken && link.joins(one, other)) {
            return;
        }
        self.link_count += 1;
        let number = self.link_count;
        let places = [(one, other), (other, one)];
        let ends = places.map(|(at, peer)| {
            let life = self.life_at(at);
            let Place::Node(node) = at else {
                return End { at, life, number, frames: None, arrives: self.now + after };
            };
            let (sender, frames) = channel();
            let hello = self.hello(peer);
            let up = Wakeup::LinkUp { number, hello, sender, rtt_us: Default::default() };
            let incoming = Incoming::Wakeup(up);
            self.schedule(after, Happening::ToNode { node, life, incoming });
            let arrives = self.now + after;
            End { at, life, number, frames: Some(frames), arrives }
        });
        self.links.insert(number, Link { ends, broken: false });
        self.note(|| format!("   link {number} joins {one:?} and {other:?}"));
        if let Place::Media(media) = other {
            self.greet(media, number);
        }
    }

    pub fn send_frame(&mut self, link: u64, end: usize, mut frame: Frame) {
        let delay = self.random.between(50, 800);
        let now = self.now;
        let forwards = matches!(frame, Frame::Peer(PeerFrame::Forward { .. }));
        if forwards {
            self.count.add("links: messages passed on");
        }
        if self.is_withheld(&frame) {
            return;
        }
        self.twist(&mut frame);
        if matches!(frame, Frame::Peer(PeerFrame::HandOver)) {
            self.count.add("links: calls handed over");
        }
        let Some(known) = self.links.get_mut(&link).filter(|known| !known.broken) else { return };
        let places = (known.ends[0].at, known.ends[1].at);
        let stalled = self.stalls.get(&places).copied().filter(|until| *until > now);
        if stalled.is_some() {
            self.count.add("links: frames stalled");
        }
        let sent = stalled.unwrap_or(now) + delay;
        let arrives = (known.ends[end].arrives + 1).max(sent);
        known.ends[end].arrives = arrives;
        self.schedule(arrives - now, Happening::Frame { link, end, frame });
    }

    /// A frame is at the other end.
    pub fn frame_arrives(&mut self, link: u64, end: usize, frame: Frame) {
        let Some(known) = self.links.get(&link) else { return };
        let there = &known.ends[1 - end];
        let (at, life, number) = (there.at, there.life, there.number);
        match at {
            Place::Node(node) => {
                let incoming = Incoming::Wakeup(Wakeup::Frame(number, Box::new(frame)));
                self.turn(node, life, Some(incoming));
            }
            Place::Media(media) if self.life_at(at) == life => {
                if self.medias[media].is_frozen {
                    return self.medias[media].backlog.push((link, frame));
                }
                self.media_hears(media, link, frame);
            }
            Place::Media(_) => {}
        }
    }

    /// A process died: the other ends of its links are told by their kernel.
    pub fn break_links(&mut self, place: Place) {
        let touched: Vec<u64> = self.touching(place);
        for number in touched {
            let after = self.random.between(200, 3 * MS);
            self.break_link(number, after);
        }
        self.schedule(500 * MS, Happening::Relink);
    }

    pub fn touching(&self, place: Place) -> Vec<u64> {
        let up = self.links.iter().filter(|(_, link)| !link.broken && link.touches(place));
        up.map(|(number, _)| *number).collect()
    }

    fn break_link(&mut self, number: u64, after: u64) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&number) else { return };
        link.broken = true;
        link.ends.iter_mut().for_each(|end| end.frames = None);
        // What was sent before is heard before the end.
        let heard = [link.ends[1].arrives, link.ends[0].arrives];
        for (end, arrives) in heard.into_iter().enumerate() {
            let after = after.max((arrives + 1).saturating_sub(now));
            self.schedule(after, Happening::LinkDown { link: number, end });
        }
    }

    pub fn link_down(&mut self, link: u64, end: usize) {
        let Some(known) = self.links.get(&link) else { return };
        let End { at, life, number, .. } = known.ends[end];
        if let Place::Node(node) = at {
            self.turn(node, life, Some(Incoming::Wakeup(Wakeup::LinkDown(number))));
        }
    }

    /// A place stands still: its links break after a while.
    pub fn silence(&mut self, place: Place) {
        for number in self.touching(place) {
            self.miss_beats(number);
            self.break_link(number, SILENCE);
        }
    }

    pub fn silence_between(&mut self, one: Place, other: Place) {
        for number in self.touching(one) {
            if self.links[&number].joins(one, other) {
                self.miss_beats(number);
                self.break_link(number, SILENCE);
            }
        }
    }

    /// Media nodes dial the nodes that they have no link with.
    pub fn relink(&mut self) {
        let mut misses = false;
        for node in 0..NODES {
            for media in 0..MEDIAS {
                let (one, other) = (Place::Node(node), Place::Media(media));
                let stands = self.medias[media].is_frozen
                    || self.nodes[node].process.as_ref().is_some_and(|known| known.is_frozen);
                let gone = self.life_at(one) == 0 || self.life_at(other) == 0;
                let has = self.links.values().any(|link| !link.broken && link.joins(one, other));
                if has || gone {
                    continue;
                }
                misses |= stands || self.is_cut(one, other);
                if !stands && !self.is_cut(one, other) {
                    let after = self.random.between(MS, 60 * MS);
                    self.link_up(one, other, after);
                }
            }
        }
        if misses {
            self.schedule(S, Happening::Relink);
        }
    }
}
