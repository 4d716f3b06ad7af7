//! Traces of calls for a collector (OTLP over HTTP, protobuf), if one is named: made of CDRs by the one node of the
//! cluster that has the duty, so each call is told though its nodes die
//! (twice at most, with the same ids), and the store is the queue.
//!
//! Invariants: the position is moved by who has the duty, after the collector took what is before it; a collector that
//! is away for longer than `PATIENCE` costs the traces of before, which are counted, and nothing else.

mod otlp;
mod spans;

use crate::event::{Event, Measure};
use crate::ids::Incarnation;
use crate::net::clock;
use crate::net::web::HttpClient;
use crate::store::{CdrQuery, Store, StoreError};
use crate::telemetry::Telemetry;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::time::Instant;

/// What one node of the cluster has.
const DUTY: &str = "traces";
/// Without renewal; a post and a renewal fit in.
const DUTY_LIFE: Duration = Duration::from_secs(20);
/// Between two looks: nobody waits for the trace of a call that is over.
const PACE: Duration = Duration::from_secs(2);
/// The duty is renewed no more often.
const RENEWAL: Duration = Duration::from_secs(5);
/// After the collector took nothing; doubled up to the longest.
const BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(15);
/// Calls a post.
const CALLS: u32 = 400;
/// Calls that ended longer ago are left out.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What an exporter needs.
#[derive(Clone)]
pub struct ExporterConfig {
    /// Where CDRs are.
    pub store: Store,
    /// This start of this node.
    pub holder: Incarnation,
    /// Where traces are posted to, as `http://host:4318/v1/traces`.
    pub endpoint: String,
    /// Sent with each post.
    pub headers: Vec<(String, String)>,
    /// Parties may be named.
    pub names_parties: bool,
    /// Where is told what is lost.
    pub telemetry: Telemetry,
}

/// Its headers hold tokens.
impl core::fmt::Debug for ExporterConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "traces to {}", self.endpoint)
    }
}

/// A thread of its own.
#[derive(Debug)]
pub struct Exporter {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Works until stopped.
    pub fn start(config: ExporterConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        // The operator named the collector: no address is denied.
        let http = HttpClient::new(Arc::default());
        let (config, told) = (Arc::new(config), Posted::Taken);
        let work = Work { config, http, failures: 0, told, held: None };
        let run = move || {
            runtime.block_on(work.run(stopped));
            // A post that the collector holds up holds nobody else up.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Leaves the duty to another node.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What became of a post (OTLP 1.5, "Failures").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Posted {
    Taken,
    /// It may take the same later.
    Later,
    /// It takes the same never.
    Never,
}

impl Posted {
    const fn by(status: u16) -> Self {
        match status {
            200..=299 => Self::Taken,
            429 | 502..=504 => Self::Later,
            _ => Self::Never,
        }
    }
}

struct Work {
    config: Arc<ExporterConfig>,
    http: HttpClient,
    failures: u32,
    /// What was said of the last post that was not taken.
    told: Posted,
    held: Option<Held>,
}

/// The duty, as it is while nobody else moves it.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// When it was taken or renewed last.
    at: Instant,
    /// By which database server.
    server: u64,
    /// How far it is.
    position: u64,
}

impl Work {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let config = Arc::clone(&self.config);
        tokio::select! {
            () = self.work() => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        let _ = config.store.leave_duty(DUTY, config.holder).await;
    }

    async fn work(&mut self) {
        loop {
            let pause = match self.step().await {
                Ok(true) => continue,
                Ok(false) => PACE,
                Err(error) => {
                    self.held = None;
                    tracing::debug!("traces wait for the store: {error}");
                    PACE
                }
            };
            let back_off = BACK_OFF * 2_u32.saturating_pow(self.failures.min(8));
            let pause = if self.failures > 0 { back_off.min(LONGEST_BACK_OFF) } else { pause };
            tokio::time::sleep(pause).await;
        }
    }

    /// True: there may be more at once.
    async fn step(&mut self) -> Result<bool, StoreError> {
        let Some(after) = self.position().await? else { return Ok(false) };
        let config = Arc::clone(&self.config);
        let ExporterConfig { store, holder, .. } = &*config;
        let query = CdrQuery { after: Some(after), limit: CALLS, ..CdrQuery::default() };
        let documents = store.cdr_documents(&query).await?;
        let Some((last, _)) = documents.last() else { return Ok(false) };
        let (last, read) = (u64::try_from(*last).unwrap_or(0), documents.len());
        let now = clock::now();
        let names_parties = config.names_parties;
        let (told, body) = spans::export(&documents, now - PATIENCE, names_parties);
        drop(documents);
        let posted = if told == 0 { Posted::Taken } else { self.post(body).await };
        let told = match posted {
            Posted::Taken => told,
            Posted::Never => 0,
            Posted::Later => return Ok(false),
        };
        let is_moved = store.move_duty(DUTY, *holder, last).await?;
        self.held = self.held.filter(|_| is_moved).map(|held| Held { position: last, ..held });
        let count = u64::try_from(read - told).unwrap_or(u64::MAX);
        if is_moved && count > 0 {
            let lost = Measure::Lost { queue: "traces", count };
            self.config.telemetry.handle(&Event::Measured(lost), now);
        }
        Ok(read >= CALLS as usize)
    }

    /// How far it is; none: it is another's duty.
    async fn position(&mut self) -> Result<Option<u64>, StoreError> {
        let ExporterConfig { store, holder, .. } = &*self.config;
        let (at, server) = (Instant::now(), store.server_number());
        if let Some(held) = self.held
            && held.at.elapsed() < RENEWAL
            && held.server == server
        {
            return Ok(Some(held.position));
        }
        if !store.take_duty(DUTY, *holder, DUTY_LIFE).await? {
            self.held = None;
            return Ok(None);
        }
        let position = match store.duty_position(DUTY).await? {
            Some(position) => position,
            // The first that ever has it: what was before is history.
            None => {
                let newest = CdrQuery { newest_first: true, limit: 1, ..CdrQuery::default() };
                let last = store.cdrs(&newest).await?.first().map_or(0, |cdr| cdr.sequence);
                store.move_duty(DUTY, *holder, last).await?;
                last
            }
        };
        self.held = Some(Held { at, server, position });
        Ok(Some(position))
    }

    async fn post(&mut self, body: Vec<u8>) -> Posted {
        let (config, http) = (Arc::clone(&self.config), self.http.clone());
        let post = move || {
            let mut headers = vec![("content-type", "application/x-protobuf")];
            headers.extend(config.headers.iter().map(|(name, text)| (&**name, &**text)));
            http.post(&config.endpoint, &headers, &body)
        };
        let posted = tokio::task::spawn_blocking(post).await;
        let (posted, why) = match posted.unwrap_or_else(|_| Err("the post panicked".to_owned())) {
            Ok(status) => (Posted::by(status), format!("it answered {status}")),
            Err(why) => (Posted::Later, why),
        };
        if posted == Posted::Taken {
            (self.failures, self.told) = (0, posted);
            return posted;
        }
        self.failures = self.failures.saturating_add(1);
        if core::mem::replace(&mut self.told, posted) != posted {
            let lost = if posted == Posted::Never { "; these are lost" } else { "" };
            tracing::warn!("the collector of traces takes nothing: {why}{lost}");
        }
        posted
    }
}
