//! What is remembered of a leg's descriptions, and how ours are written (RFC 8866).
//!
//! Invariants: SDP is written from the model; the o= version rises by one exactly when our SDP differs from the last
//! one sent, which is the one that the phone refused when it refused one.

use super::{Crypto, Description, Direction, Format, MediaDescription, Security, StreamKeys};
use core::fmt::Write as _;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// What is remembered of a leg's descriptions, in the call's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegDescription {
    /// o= sess-id of ours, derived.
    pub session_id: u64,
    /// o= sess-version of the last SDP sent.
    pub version: u64,
    /// Our last SDP sent, as text; `None` before the first. When the phone did not take that, what is in force, under
    /// the next version.
    pub sent: Option<String>,
    /// Their last SDP that took effect.
    pub received: Option<Description>,
    /// Counts descriptions that took effect: the latch generation.
    pub generation: u32,
    /// Meaning of payload types on this leg: (we tell the phone to send with, format). Never changes meaning.
    pub ours: Vec<Format>,
    /// Of each of the leg's m= lines: the stream index it carries, or `None` when it is refused.
    pub lines: Vec<Line>,
    /// SRTP. Records keep it apart, sealed.
    #[serde(skip)]
    pub security: Security,
    /// An operator holds the phone: whatever it is told, nothing is wanted of it. Records keep it apart.
    #[serde(skip)]
    pub parked: bool,
}

/// One m= line of a leg's dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The anchored stream, `None`: port 0 for ever or until re-offered.
    pub stream: Option<u8>,
    /// `audio` …
    pub kind: String,
    /// As offered.
    pub protocol: String,
    /// Format list to repeat when the line is refused.
    pub raw_formats: String,
}

impl LegDescription {
    /// What was agreed stays for long: the room that it was made in is not needed.
    pub fn give_room_back(&mut self) {
        self.ours.shrink_to_fit();
        self.lines.shrink_to_fit();
        if let Some(sent) = &mut self.sent {
            sent.shrink_to_fit();
        }
        if let Some(received) = &mut self.received {
            received.media.shrink_to_fit();
        }
    }

    /// Of a new leg.
    pub fn new(session_id: u64, security: Security) -> Self {
        Self {
            session_id,
            version: 0,
            sent: None,
            received: None,
            generation: 0,
            ours: Vec::new(),
            lines: Vec::new(),
            security,
            parked: false,
        }
    }

    /// Takes what records keep apart; the phone's keys stand in its description again.
    pub fn secure(&mut self, security: Security) {
        if let Some(received) = &mut self.received {
            let indexes = super::offer_answer::stream_indexes(received);
            for (media, index) in received.media.iter_mut().zip(indexes) {
                let keys = index.and_then(|index| security.in_force(index));
                media.crypto = keys.map(StreamKeys::of_phone).into_iter().collect();
                media.has_crypto = keys.is_some();
            }
        }
        self.security = security;
    }

    /// Their SDP says nothing new but perhaps its o= line: it is answered by us. A phone that forgets to raise its
    /// version is still heard, so the o= line alone decides nothing.
    pub fn is_repeat(&self, description: &Description) -> bool {
        let same = |known: &Description| {
            let known: Vec<_> = known.media.iter().map(without_keys).collect();
            known == description.media.iter().map(without_keys).collect::<Vec<_>>()
        };
        self.received.as_ref().is_some_and(same) && self.keeps_keys(description)
    }

    fn keeps_keys(&self, description: &Description) -> bool {
        let indexes = super::offer_answer::stream_indexes(description);
        indexes.into_iter().zip(&description.media).all(|(index, media)| {
            media.port == 0 || index.is_none_or(|index| self.security.is_kept_by(index, media))
        })
    }

    /// A description takes effect: kept, and the generation counted when transport, formats or keys changed.
    pub fn take(&mut self, description: Description) {
        let transport = |description: &Description| -> Vec<_> {
            let media = description.media.iter();
            media.map(|media| (media.rtp, media.rtcp, media.formats.clone())).collect()
        };
        let changed =
            self.received.as_ref().is_none_or(|known| transport(known) != transport(&description))
                || !self.keeps_keys(&description);
        if changed {
            self.generation += 1;
        }
        self.received = Some(description);
    }

    /// What was in force before `refused`, our offer that the phone did not take: the same text, which the phone knows
    /// by an older version than that of the refused one.
    pub fn after_refusal(mut self, refused: &Self) -> Self {
        let text = self.sent.take();
        self.version = refused.version;
        self.ours.clone_from(&refused.ours);
        self.parked = refused.parked;
        self.put_in_force(text);
        self
    }

    /// An offer of ours that named others was not taken: these addresses, and our keys, are in force again.
    pub fn return_to(&mut self, local: &[SocketAddr]) {
        let text = self.sent.as_ref().map(|sent| self.at(sent, local));
        if text != self.sent {
            self.put_in_force(text);
        }
    }

    /// The phone is told this text next, if nothing else.
    fn put_in_force(&mut self, text: Option<String>) {
        let version = self.version + 1;
        self.sent = text.map(|text| self.under(version, &text));
    }

    /// The same text with these addresses of ours and our keys in force, under a new version when they are others: an
    /// offer that moves our end and nothing else. `None` before the first.
    pub fn relocate(&mut self, local: &[SocketAddr]) -> Option<String> {
        let text = self.at(self.sent.as_ref()?, local);
        Some(self.say(text))
    }

    /// Its phone may have seen so many versions more: the last text is ours under a later one.
    pub fn pass_over(&mut self, versions: u64) {
        let version = self.written_version().saturating_add(versions);
        self.version = self.version.saturating_add(versions);
        self.sent = self.sent.take().map(|sent| self.under(version, &sent));
    }

    /// The last text, as it is.
    pub fn repeat(&mut self) -> Option<String> {
        let text = self.sent.clone()?;
        Some(self.say(text))
    }

    /// The phone was told these addresses of ours and our keys in force, or none yet.
    pub fn names(&self, local: &[SocketAddr]) -> bool {
        self.sent.as_ref().is_none_or(|sent| self.at(sent, local) == *sent)
    }

    /// The last text, asking for another direction on every line.
    pub fn redirect(&mut self, direction: Direction) -> Option<String> {
        let lines = self.sent.as_ref()?.split_inclusive("\r\n");
        let wanted = format!("a={}\r\n", direction.name());
        let text = lines.map(|line| direction_of(line).map_or(line, |_| &*wanted)).collect();
        Some(self.say(text))
    }

    /// The last text with other directions, by stream, and these addresses of ours.
    pub fn turn(&mut self, directions: &[Direction], local: &[SocketAddr]) -> Option<String> {
        let turned = self.turned(directions)?;
        let text = self.at(&turned, local);
        Some(self.say(text))
    }

    /// These are the directions of the last text.
    pub fn is_turned(&self, directions: &[Direction]) -> bool {
        self.turned(directions) == self.sent
    }

    fn turned(&self, directions: &[Direction]) -> Option<String> {
        let sent = self.sent.as_ref()?;
        let mut lines = self.lines.iter();
        let (mut turned, mut wanted) = (String::with_capacity(sent.len()), None);
        for line in sent.split_inclusive("\r\n") {
            if line.starts_with("m=") {
                let index = lines.next().and_then(|line| line.stream);
                wanted = index.and_then(|index| directions.get(usize::from(index)));
            }
            match wanted.filter(|_| direction_of(line).is_some()) {
                Some(direction) => {
                    let _ = write!(turned, "a={}\r\n", self.told(*direction).name());
                }
                None => turned.push_str(line),
            }
        }
        Some(turned)
    }

    /// The last text promises the phone less to hear than these directions do.
    pub fn promises_less(&self, directions: &[Direction]) -> bool {
        let sends = |text: &str| {
            let said = text.split_inclusive("\r\n").filter_map(direction_of);
            said.map(Direction::sends).collect::<Vec<_>>()
        };
        let (sent, wanted) = (self.sent.as_deref(), self.turned(directions));
        sent.zip(wanted).is_some_and(|(sent, wanted)| {
            sends(sent).iter().zip(sends(&wanted)).any(|(sent, wanted)| wanted && !sent)
        })
    }

    /// The last text promises something to hear.
    pub fn promises_sound(&self) -> bool {
        let sent = self.sent.iter().flat_map(|sent| sent.split_inclusive("\r\n"));
        sent.filter_map(direction_of).any(Direction::sends)
    }

    fn told(&self, direction: Direction) -> Direction {
        Direction::new(direction.sends(), direction.receives() && !self.parked)
    }

    /// What was said before, again: an earlier text under a new version.
    pub fn say_again(&mut self, earlier: &str) -> String {
        let lines = earlier.split_inclusive("\r\n");
        let origin = self.sent.as_ref().and_then(|sent| sent.split_inclusive("\r\n").nth(1));
        let as_now =
            |line| if str::starts_with(line, "o=") { origin.unwrap_or(line) } else { line };
        let text = lines.map(as_now).collect();
        self.say(text)
    }

    /// This text, which is the last one but for what changed, is what the phone is told now.
    fn say(&mut self, text: String) -> String {
        if self.sent.as_ref() == Some(&text) {
            self.version = self.written_version();
            return text;
        }
        self.version += 1;
        let text = self.under(self.version, &text);
        self.sent = Some(text.clone());
        text
    }

    /// A text of ours under that version.
    fn under(&self, version: u64, text: &str) -> String {
        let lines = text.split_inclusive("\r\n");
        let line = |line: &str| match line
            .strip_prefix("o=")
            .and_then(|line| line.splitn(4, ' ').nth(3))
        {
            Some(place) => format!("o=- {} {version} {place}", self.session_id),
            None => line.to_owned(),
        };
        lines.map(line).collect()
    }

    /// The version that the last text has.
    fn written_version(&self) -> u64 {
        let origin = self.sent.as_ref().and_then(|sent| sent.lines().nth(1)?.split(' ').nth(2));
        origin.and_then(|version| version.parse().ok()).unwrap_or(self.version)
    }

    /// A text of ours with other addresses, and the keys that are in force of all that it offers. The o= line names the
    /// first address for the life of the dialog (RFC 3264 §8).
    fn at(&self, text: &str, local: &[SocketAddr]) -> String {
        let first = local.first().map_or(UNKNOWN, SocketAddr::ip);
        let mut moved = String::with_capacity(text.len());
        let mut lines = self.lines.iter();
        let (mut is_session, mut keys) = (true, None);
        for line in text.split_inclusive("\r\n") {
            if line.starts_with("m=") {
                is_session = false;
                let stream = lines.next().and_then(|line| line.stream);
                keys = stream.and_then(|index| self.security.in_force(index));
                moved.push_str(&media_line_at(line, stream, local, first));
            } else if let Some((keys, crypto)) = keys.zip(crypto_of(line)) {
                if crypto.keying.suite() == keys.sent.suite() {
                    Crypto { keying: keys.sent.clone(), ..crypto }.render(&mut moved);
                }
            } else if !line.starts_with("c=") {
                moved.push_str(line);
            } else if is_session {
                let _ = write!(moved, "c={}\r\n", connection(first));
            }
        }
        moved
    }

    /// The text that is sent now: the version rises exactly when something else in it differs from the last.
    pub(super) fn settle(&mut self, lines: &[OwnLine], local: &[SocketAddr]) -> String {
        let text = self.render(lines, local);
        self.say(text)
    }

    /// How the o= line of the last text begins.
    fn origin(&self) -> String {
        format!("o=- {} {} ", self.session_id, self.written_version())
    }

    /// What our o= line has named since the first.
    fn origin_address(&self) -> Option<&str> {
        let sent = self.sent.as_ref()?;
        sent.lines().nth(1)?.strip_prefix(&self.origin())
    }

    fn render(&self, lines: &[OwnLine], local: &[SocketAddr]) -> String {
        let first = local.first().map_or(UNKNOWN, SocketAddr::ip);
        let mut text = String::with_capacity(512);
        let address = connection(first);
        let (origin, named) = (self.origin(), self.origin_address());
        let named = named.unwrap_or(&address);
        let _ = write!(text, "v=0\r\n{origin}{named}\r\ns=-\r\nc={address}\r\nt=0 0\r\n");
        for line in lines {
            line.render(&mut text, local, first, |direction| self.told(direction));
        }
        text
    }
}

/// A media line of ours.
#[derive(Clone, Debug)]
pub(super) struct OwnLine {
    pub line: Line,
    /// `None`: port 0.
    pub active: Option<OwnStream>,
}

/// What an open line of ours says.
#[derive(Clone, Debug)]
pub(super) struct OwnStream {
    pub formats: Vec<Format>,
    pub direction: Direction,
    pub ptime_ms: Option<u16>,
    pub maxptime_ms: Option<u16>,
    pub crypto: Vec<Crypto>,
}

impl OwnLine {
    fn render(
        &self,
        text: &mut String,
        local: &[SocketAddr],
        first: IpAddr,
        told: impl Fn(Direction) -> Direction,
    ) {
        let Line { stream, kind, protocol, raw_formats } = &self.line;
        let address = stream.and_then(|index| local.get(usize::from(index)));
        let Some((stream, address)) = self.active.as_ref().zip(address) else {
            let _ = write!(text, "m={kind} 0 {protocol} {raw_formats}\r\n");
            return;
        };
        let _ = write!(text, "m={kind} {} {protocol}", address.port());
        for format in &stream.formats {
            let _ = write!(text, " {}", format.payload_type);
        }
        text.push_str("\r\n");
        text.push_str(&own_connection(*address, first));
        for format in &stream.formats {
            let Format { payload_type, encoding, clock_rate_hz, channels, fmtp } = format;
            let _ = write!(text, "a=rtpmap:{payload_type} {encoding}/{clock_rate_hz}");
            if *channels > 1 {
                let _ = write!(text, "/{channels}");
            }
            text.push_str("\r\n");
            if let Some(fmtp) = fmtp {
                let _ = write!(text, "a=fmtp:{payload_type} {fmtp}\r\n");
            }
        }
        if let Some(ptime) = stream.ptime_ms {
            let _ = write!(text, "a=ptime:{ptime}\r\n");
        }
        if let Some(maxptime) = stream.maxptime_ms {
            let _ = write!(text, "a=maxptime:{maxptime}\r\n");
        }
        for crypto in &stream.crypto {
            crypto.render(text);
        }
        let _ = write!(text, "a={}\r\n", told(stream.direction).name());
    }
}

/// Of a line that is a direction.
fn direction_of(line: &str) -> Option<Direction> {
    line.trim_end().strip_prefix("a=").and_then(Direction::named)
}

/// Of a line of ours that names a key.
fn crypto_of(line: &str) -> Option<Crypto> {
    line.trim_end().strip_prefix("a=crypto:").and_then(Crypto::parse)
}

/// Before any address of ours is known.
const UNKNOWN: IpAddr = IpAddr::V4(core::net::Ipv4Addr::LOCALHOST);

/// An m= line with the port of our end there, and its c= line when the session's does not serve.
fn media_line_at(line: &str, stream: Option<u8>, local: &[SocketAddr], first: IpAddr) -> String {
    let address = stream.and_then(|index| local.get(usize::from(index)));
    let mut words = line.splitn(3, ' ');
    let named = (words.next(), words.next(), words.next());
    let ((Some(kind), Some(port), Some(rest)), Some(address)) = (named, address) else {
        return line.to_owned();
    };
    match port {
        "0" => line.to_owned(),
        _ => format!("{kind} {} {rest}{}", address.port(), own_connection(*address, first)),
    }
}

/// The c= line of a media line that is not at the session's address.
fn own_connection(address: SocketAddr, first: IpAddr) -> String {
    match address.ip() == first {
        true => String::new(),
        false => format!("c={}\r\n", connection(address.ip())),
    }
}

/// A line as it is stored.
fn without_keys(media: &MediaDescription) -> MediaDescription {
    MediaDescription { crypto: Vec::new(), has_crypto: false, ..media.clone() }
}

fn connection(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => format!("IN IP4 {ip}"),
        IpAddr::V6(ip) => format!("IN IP6 {ip}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> [SocketAddr; 1] {
        [SocketAddr::from(([127, 0, 0, 1], port))]
    }

    fn text(version: u64, port: u16) -> String {
        format!(
            "v=0\r\no=- 7 {version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=sendrecv\r\n"
        )
    }

    /// Port 1000 was agreed on, 1002 offered and refused.
    fn refused(by_backup: bool) -> LegDescription {
        let mut description = LegDescription::new(7, Security::default());
        let kind = ("audio".to_owned(), "RTP/AVP".to_owned(), "0".to_owned());
        let (kind, protocol, raw_formats) = kind;
        description.lines = vec![Line { stream: Some(0), kind, protocol, raw_formats }];
        description.sent = Some(text(0, 1_000));
        assert_eq!(description.relocate(&at(1_000)), Some(text(0, 1_000)));
        let backup = description.clone();
        assert_eq!(description.relocate(&at(1_002)), Some(text(1, 1_002)));
        if by_backup {
            return backup.after_refusal(&description);
        }
        description.return_to(&at(1_000));
        description
    }

    #[test]
    fn the_version_rises_by_one_after_a_refused_offer() {
        for by_backup in [true, false] {
            let unsaid = refused(by_backup);
            assert_eq!(unsaid.sent, Some(text(2, 1_000)), "in force");
            let mut again = unsaid.clone();
            assert_eq!(again.repeat(), Some(text(2, 1_000)));
            assert_eq!(again.relocate(&at(1_004)), Some(text(3, 1_004)));
            let mut other = unsaid.clone();
            assert_eq!(other.relocate(&at(1_004)), Some(text(2, 1_004)));
            assert_eq!(other.repeat(), Some(text(2, 1_004)), "nothing new");
            let mut passed_over = unsaid;
            passed_over.pass_over(100);
            assert_eq!(passed_over.relocate(&at(1_004)), Some(text(102, 1_004)));
        }
    }
}
