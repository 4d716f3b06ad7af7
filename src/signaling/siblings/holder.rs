//! This process as one that may die: a sibling is given what it holds.

use super::{BEAT, Common, PATIENCE, READS_ON, socket_of};
use crate::control::sibling::{FromHeir, ToHeir};
use crate::ids::{ConnectionId, Flow, Incarnation};
use crate::net::sibling_link::{MOST_DESCRIPTORS, SiblingLink};
use crate::net::tcp::{Ending, News};
use crate::signaling::wakeup::Wakeup;
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Without an heir one is looked for so often.
const SEEK: Duration = Duration::from_millis(500);
/// Connections that are released are let go within this.
const RELEASE: Duration = Duration::from_secs(1);
const RELEASE_STEP: Duration = Duration::from_millis(2);
/// Ids a frame.
const MOST_IDS: usize = 1_000;

/// One heir after another, for as long as the worker lives.
pub(super) async fn seek_heirs(common: Common) {
    let mut last = common.estate.incarnation;
    while !common.wakeups.is_closed() {
        let Some((heir, link)) = find_heir(&common, last) else {
            last = common.estate.incarnation;
            tokio::time::sleep(SEEK).await;
            continue;
        };
        last = heir;
        common.estate.connections.begin_news();
        let mut holder = Holder::new(&common, link);
        if let Err(error) = holder.run().await {
            tracing::debug!("no heir any more: {error}");
        }
        common.estate.connections.end_news();
        common.estate.connections.read_until(None);
        if holder.has_left {
            let _ = common.wakeups.send(Wakeup::SocketsLeft(false)).await;
        }
    }
}

/// The next sibling after `last` that listens, round the circle.
fn find_heir(common: &Common, last: Incarnation) -> Option<(Incarnation, SiblingLink)> {
    let own = common.estate.incarnation;
    let entries = std::fs::read_dir(&common.folder).ok()?;
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        Some(Incarnation(name.to_str()?.strip_suffix(".sock")?.parse().ok()?))
    });
    let mut siblings: Vec<Incarnation> = named.filter(|one| *one != own).collect();
    siblings.sort_unstable();
    let first = siblings.iter().position(|one| *one > last).unwrap_or_default();
    siblings.rotate_left(first);
    siblings.into_iter().find_map(|sibling| {
        let path = socket_of(&common.folder, sibling);
        match SiblingLink::dial(&path) {
            Ok(link) => Some((sibling, link)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // A dead one's: its incarnation never comes back.
                let _ = std::fs::remove_file(&path);
                None
            }
            Err(_) => None,
        }
    })
}

struct Holder<'task> {
    common: &'task Common,
    link: SiblingLink,
    /// Connections that the heir has too.
    passed: HashSet<ConnectionId>,
    beaten_at: Instant,
    /// The heir reads the sockets.
    has_left: bool,
}

impl<'task> Holder<'task> {
    fn new(common: &'task Common, link: SiblingLink) -> Self {
        let beaten_at = Instant::now();
        Self { common, link, passed: HashSet::new(), beaten_at, has_left: false }
    }

    /// Until the heir is gone.
    async fn run(&mut self) -> io::Result<()> {
        let estate = Arc::clone(&self.common.estate);
        let sockets = estate.udp.iter().chain(&estate.listeners);
        let descriptors: Vec<_> = sockets.map(|(_, descriptor)| descriptor.as_fd()).collect();
        self.beaten_at = Instant::now();
        self.send(&estate.hello(), &descriptors).await?;
        let mut leaves = self.common.leaves.clone();
        leaves.mark_changed();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = beats.tick() => self.beat().await?,
                frame = self.link.receive() => self.handle(frame?)?,
                changed = leaves.changed() => {
                    changed.map_err(io::Error::other)?;
                    let leaves = *leaves.borrow_and_update();
                    match (leaves, self.has_left) {
                        (true, false) => self.leave().await?,
                        (false, true) => self.come_back().await?,
                        (true, true) | (false, false) => {}
                    }
                }
                news = estate.connections.news() => self.tell(news).await?,
            }
        }
    }

    async fn beat(&mut self) -> io::Result<()> {
        // Read by the heir meanwhile, perhaps.
        if !self.has_left && self.beaten_at.elapsed() >= READS_ON {
            self.come_back().await?;
        }
        let now = Instant::now();
        self.send(&ToHeir::Beat, &[]).await?;
        self.beaten_at = now;
        if !self.has_left {
            self.common.estate.connections.read_until(Some(now + READS_ON));
        }
        Ok(())
    }

    async fn tell(&mut self, news: News) -> io::Result<()> {
        if self.has_left {
            // What this process opens now it keeps.
            return Ok(());
        }
        for opened in news.opened.chunks(MOST_DESCRIPTORS) {
            let flows: Vec<Flow> = opened.iter().map(|(flow, _)| *flow).collect();
            let streams: Vec<Arc<TcpStream>> =
                opened.iter().map(|(_, stream)| Arc::clone(stream)).collect();
            let descriptors: Vec<_> = streams.iter().map(|stream| stream.as_fd()).collect();
            self.passed.extend(flows.iter().filter_map(|flow| flow.connection));
            self.send(&ToHeir::Opened(flows), &descriptors).await?;
        }
        for closed in news.closed.chunks(MOST_IDS) {
            closed.iter().for_each(|id| _ = self.passed.remove(id));
            self.send(&ToHeir::Closed(closed.to_vec()), &[]).await?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Option<(Vec<u8>, Vec<std::os::fd::OwnedFd>)>) -> io::Result<()> {
        if let FromHeir::Declined(ids) = read(frame)? {
            ids.iter().for_each(|id| _ = self.passed.remove(id));
        }
        Ok(())
    }

    /// Stops reading; then the heir begins.
    async fn leave(&mut self) -> io::Result<()> {
        let connections = &self.common.estate.connections;
        if let Some(news) = connections.take_news() {
            self.tell(news).await?;
        }
        let _ = self.common.wakeups.send(Wakeup::SocketsLeft(true)).await;
        self.has_left = true;
        let passed: Vec<ConnectionId> = self.passed.drain().collect();
        connections.end(&passed, Ending::Release);
        let until = Instant::now() + RELEASE;
        while passed.iter().any(|id| connections.holds(*id)) && Instant::now() < until {
            tokio::time::sleep(RELEASE_STEP).await;
        }
        connections.end(&passed, Ending::Abandon);
        connections.read_until(None);
        // Those that were let go are not closed.
        let _ = connections.take_news();
        self.send(&ToHeir::Leave, &[]).await?;
        self.answer(|frame| (*frame == FromHeir::Taken).then_some(())).await?;
        tracing::info!("sockets and {} connections are a sibling's", passed.len());
        Ok(())
    }

    /// Reads again what is this process's own.
    async fn come_back(&mut self) -> io::Result<()> {
        let connections = &self.common.estate.connections;
        let passed: Vec<ConnectionId> = self.passed.iter().copied().collect();
        let back = async {
            self.send(&ToHeir::Back, &[]).await?;
            self.answer(|frame| match frame {
                FromHeir::Yours { taken } => Some(*taken),
                FromHeir::Declined(_) | FromHeir::Taken => None,
            })
            .await
        };
        let taken = back.await;
        // Without an answer they may be the heir's: then nobody but the heir may read them.
        if *taken.as_ref().unwrap_or(&true) {
            connections.end(&passed, Ending::Abandon);
            self.passed.clear();
        }
        taken?;
        self.has_left = false;
        let _ = self.common.wakeups.send(Wakeup::SocketsLeft(false)).await;
        Ok(())
    }

    async fn answer<T>(&self, wanted: impl Fn(&FromHeir) -> Option<T>) -> io::Result<T> {
        let answer = async {
            loop {
                if let Some(answer) = wanted(&read(self.link.receive().await?)?) {
                    return Ok(answer);
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn send(
        &self,
        frame: &ToHeir,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = postcard::to_stdvec(frame).map_err(io::Error::other)?;
        let sent = timeout(PATIENCE, self.link.send(&body, descriptors)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn read(frame: Option<(Vec<u8>, Vec<std::os::fd::OwnedFd>)>) -> io::Result<FromHeir> {
    let (body, _) = frame.ok_or(io::ErrorKind::UnexpectedEof)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
