//! Sound in the world: phones in a call send a packet now and then, the product's sessions pass it on, and who ought to
//! hear somebody and does not for too long tells of dead air.

use super::faults::Theme;
use super::media::Ports;
use super::world::{Happening, MS, NODES, S, World, host_of};
use crate::phone::State;
use holdfast::control::Frame;
use holdfast::time::Timestamp;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Between two packets of a phone.
const EVERY: u64 = 400 * MS;
/// A process of the host takes the sessions of one that died: silence is no longer than that, with what `EVERY` adds.
const SHORT_SILENCE: u64 = 2 * S;
/// A phone that refuses another host is waited for; what follows takes a transaction's time at most.
const LONG_SILENCE: u64 = 40 * S;

/// What a phone hears in a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ear {
    /// Since when it ought to hear somebody.
    due: Option<u64>,
    heard_at: u64,
    sent: u16,
}

/// A line of a phone.
type At = (usize, usize);

impl World {
    /// One packet of every phone that talks.
    pub fn tick_air(&mut self) {
        self.schedule(EVERY, Happening::Tick);
        let mut calls: BTreeMap<u128, Vec<At>> = BTreeMap::new();
        for at in 0..self.phones.len() {
            for line in 0..self.phones[at].lines.len() {
                if self.phones[at].lines[line].state == State::Up {
                    let call = self.call_of(at, line);
                    calls.entry(call).or_default().push((at, line));
                }
            }
        }
        self.ears.retain(|(at, line), _| self.phones[*at].lines[*line].state == State::Up);
        for lines in calls.values() {
            lines.iter().for_each(|at| self.speak(*at, lines));
        }
        self.time_sessions();
        for (call, lines) in calls {
            if let [one, other] = lines[..]
                && self.are_together(&lines)
            {
                self.listen(call, one, other);
                self.listen(call, other, one);
            }
        }
    }

    /// Our tags name their call.
    pub fn call_of(&mut self, at: usize, line: usize) -> u128 {
        let tag = &self.phones[at].lines[line].remote_tag;
        if let Some(call) = self.calls_by_tag.get(tag) {
            return *call;
        }
        let located = (0..NODES).find_map(|at| self.key_of(at).locate_tag(tag));
        let call = located.map_or(0, |locator| locator.call.0);
        self.calls_by_tag.insert(tag.clone(), call);
        call
    }

    /// Somebody was heard on that line.
    pub fn has_heard(&self, at: usize, line: usize) -> bool {
        self.ears.get(&(at, line)).is_some_and(|ear| ear.heard_at > 0)
    }

    /// Phones have one port for all their lines: the call tells which of them hears it.
    fn speak(&mut self, (at, line): At, lines: &[At]) {
        let phone = &self.phones[at];
        let voice = phone.lines[line].local;
        let Some((to, payload_type)) = phone.remote_media(line).filter(|_| voice.sends) else {
            return;
        };
        let source = SocketAddr::new(self.address_of(at).ip(), voice.port);
        let ear = self.ears.entry((at, line)).or_default();
        // Between two there is room for the number of a digit.
        ear.sent = ear.sent.wrapping_add(2);
        let sent = ear.sent;
        let packet = packet(sent, payload_type, (at as u32) << 16 | line as u32);
        let Some(media) = self.listener(to) else { return };
        let now = Timestamp::from_micros(self.now);
        let port = to.port();
        let Some(to) = self.medias[media].node.packet((source, port), &packet, now) else {
            return;
        };
        self.press_key((at, line), (media, source, port), &packet, sent);
        let hears = |other: &&At| {
            let voice = self.phones[other.0].lines[other.1].local;
            let is_there = self.address_of(other.0).ip() == to.ip() && voice.port == to.port();
            **other != (at, line) && is_there && voice.receives
        };
        if let Some(listener) = lines.iter().find(hears) {
            self.count.add("audio: heard");
            self.ears.entry(*listener).or_default().heard_at = self.now;
        }
    }

    fn address_of(&self, at: usize) -> SocketAddr {
        self.phones[at].address.parse().expect("an address")
    }

    /// The process that reads that address, if any does.
    fn listener(&self, to: SocketAddr) -> Option<usize> {
        let host = (0..self.hosts.len()).find(|host| to.ip() == address_of_host(*host))?;
        let media = *self.hosts[host].get(&to.port())?;
        let is_read = self.medias[media].is_up && !self.medias[media].is_frozen;
        (is_read && !self.lost_hosts.contains(&host)).then_some(media)
    }

    /// That node's workers would answer at one of these.
    pub fn answers_at(&self, probes: &[SocketAddr]) -> bool {
        probes.iter().any(|at| self.listener(*at).is_some())
    }

    fn time_sessions(&mut self) {
        let now = Timestamp::from_micros(self.now);
        for media in 0..self.medias.len() {
            if self.medias[media].is_up && !self.medias[media].is_frozen {
                let links = &self.links;
                let has = |link: &u64| links.get(link).is_some_and(|link| !link.broken);
                let ports = ports_of(&mut self.hosts, media);
                self.medias[media].node.sweep(has, ports, now);
                for report in self.medias[media].node.time(now) {
                    self.tell_links(media, &Frame::Report(report));
                }
            }
        }
    }

    /// Who ought to hear whom.
    fn listen(&mut self, call: u128, listener: At, speaker: At) {
        let voice = |(at, line): At| self.phones[at].lines[line].local;
        let expected = voice(listener).receives && voice(speaker).sends;
        let (now, bound) = (self.now, self.silence_bound());
        let since_fault = self.hurt_at;
        let ear = self.ears.entry(listener).or_default();
        if !expected {
            ear.due = None;
            return;
        }
        let due = *ear.due.get_or_insert(now);
        let since = due.max(ear.heard_at);
        // While faults go on nobody promises an end of the silence.
        let since = if bound == SHORT_SILENCE { since } else { since.max(since_fault) };
        if now - since > bound {
            let address = &self.phones[listener.0].address;
            let silent = (now - due.max(ear.heard_at)) / MS;
            self.complain(format!("phone {address} hears nobody for {silent} ms in call {call}"));
        }
    }

    fn silence_bound(&self) -> u64 {
        match self.theme {
            // Without a survivor nobody tells a media node what phones agreed on last.
            Theme::Deaths | Theme::MediaDeaths if !self.is_bereft(self.now) => SHORT_SILENCE,
            _ => LONG_SILENCE,
        }
    }
}

pub fn address_of_host(host: usize) -> core::net::IpAddr {
    core::net::IpAddr::from([10, 0, 1, host as u8])
}

/// What the media node with that port is on.
pub fn ports_of(hosts: &mut [Ports], media: usize) -> &mut Ports {
    &mut hosts[host_of(media)]
}

/// RTP (RFC 3550 §5.1) without sound.
fn packet(sequence: u16, payload_type: u8, ssrc: u32) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[0] = 0x80;
    packet[1] = payload_type;
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    let timestamp = u32::from(sequence / 2).wrapping_mul((EVERY / MS * 8) as u32);
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}
