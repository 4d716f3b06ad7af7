//! Delivers events to webhooks, if this node has the duty: one node of the cluster has it, and renews it each second.
//!
//! Invariants: an event counts as told when its receiver answered 2xx and the store knows; who dies in between has told
//! it twice, never not at all. A round is settled whole, and only by who has the duty. One receiver that is slow or
//! away holds up no other, and what it does not take is bounded: then the log of events waits for it.

use super::Document;
use super::round::{Job, Line, Outcome, plan};
use crate::admin::events::{Filter, Log, Watcher, may_be_more};
use crate::event::{Event, WebhookOutcome};
use crate::ids::{ClusterKey, Incarnation};
use crate::net::clock;
use crate::net::web::HttpClient;
use crate::store::{Settlement, Store, StoreError, StoredEvent, StoredWebhook};
use crate::telemetry::Telemetry;
use crate::views::{EventDocument, Rfc3339};
use base64::Engine as _;
use core::time::Duration;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What one node of the cluster has.
const DUTY: &str = "webhooks";
/// Without renewal; a deadline of the store and a renewal fit in.
const DUTY_LIFE: Duration = Duration::from_secs(5);
/// Between two looks at webhooks and duty.
const RENEWAL: Duration = Duration::from_secs(1);
/// After the store failed.
const PATIENCE: Duration = Duration::from_millis(500);
/// Commits of events a round, where the store is read.
const COMMITS: u32 = 100;
/// Events in memory that are looked at in a round, and those of them that are told.
const EVENTS: usize = 1_000;
const WANTED: usize = 200;
/// Events that a receiver did not take; with more of them no new ones are read.
const OWED: usize = 1_000;
/// Events given up that are remembered, a webhook.
const DEAD: u32 = 10_000;
/// Posts to one receiver at a time.
const PARALLEL: usize = 4;
/// A position that nothing was wanted of is kept no more often.
const SETTLED: Duration = Duration::from_secs(5);

/// What deliveries need.
#[derive(Clone, Debug)]
pub struct CourierConfig {
    /// Where events and webhooks are.
    pub store: Store,
    /// Events as all of this node follow them.
    pub events: Arc<Log>,
    /// Secrets are sealed under it.
    pub key: ClusterKey,
    /// The name of this node.
    pub node: String,
    /// This start of it.
    pub holder: Incarnation,
    /// How receivers are reached.
    pub http: HttpClient,
    /// Where is told what came of it.
    pub telemetry: Telemetry,
}

/// A thread of its own: it slows neither calls nor operators.
#[derive(Debug)]
pub struct Courier {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Courier {
    /// Works until stopped.
    pub fn start(config: CourierConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let run = move || {
            runtime.block_on(Supervisor::new(config).run(stopped));
            // A post that a receiver holds up holds nobody else up.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("webhooks".to_owned()).spawn(run)?;
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

/// Those who deliver, one a webhook.
struct Supervisor {
    config: Arc<CourierConfig>,
    workers: HashMap<String, Worker>,
    /// Whether the duty is ours, and until when.
    until: Option<Instant>,
}

struct Worker {
    hook: watch::Sender<StoredWebhook>,
    task: AbortHandle,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    fn new(config: CourierConfig) -> Self {
        Self { config: Arc::new(config), workers: HashMap::new(), until: None }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.supervise() => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        self.workers.clear();
        if self.until.is_some() {
            let _ = self.config.store.leave_duty(DUTY, self.config.holder).await;
        }
    }

    async fn supervise(&mut self) {
        let mut renew_at = Instant::now();
        loop {
            if renew_at <= Instant::now() {
                renew_at = Instant::now() + RENEWAL;
                if let Err(error) = self.renew().await {
                    tracing::debug!("webhooks wait for the store: {error}");
                }
            }
            if self.until.is_some_and(|until| until <= Instant::now()) {
                tracing::info!("events are delivered to webhooks by another node from now on");
                self.workers.clear();
                self.until = None;
            }
            let next = self.until.map_or(renew_at, |until| renew_at.min(until));
            tokio::time::sleep_until(next).await;
        }
    }

    /// The webhooks as they are now, and whose duty it is.
    async fn renew(&mut self) -> Result<(), StoreError> {
        let CourierConfig { store, holder, telemetry, .. } = &*self.config;
        let hooks = store.webhooks().await?;
        let enabled = |hook: &&StoredWebhook| Document::read(hook).is_some_and(|of| of.enabled);
        let enabled: Vec<StoredWebhook> = hooks.iter().filter(enabled).cloned().collect();
        let asked = Instant::now();
        if !enabled.is_empty() && store.take_duty(DUTY, *holder, DUTY_LIFE).await? {
            if self.until.replace(asked + DUTY_LIFE).is_none() {
                tracing::info!("this node delivers events to webhooks");
            }
        } else if enabled.is_empty() && self.until.take().is_some() {
            store.leave_duty(DUTY, *holder).await?;
        }
        let is_ours = self.until.is_some();
        let sum = |count: fn(&StoredWebhook) -> u64| match is_ours {
            true => hooks.iter().map(count).sum(),
            false => 0,
        };
        telemetry.set_webhooks(sum(|hook| hook.owed), sum(|hook| hook.dead));
        if is_ours {
            self.employ(enabled);
        } else {
            self.workers.clear();
        }
        Ok(())
    }

    fn employ(&mut self, hooks: Vec<StoredWebhook>) {
        let is_there = |id: &String| hooks.iter().any(|hook| hook.id == *id);
        self.workers.retain(|id, worker| is_there(id) && !worker.task.is_finished());
        for hook in hooks {
            if let Some(worker) = self.workers.get(&hook.id) {
                worker.hook.send_replace(hook);
                continue;
            }
            let id = hook.id.clone();
            let (sender, receiver) = watch::channel(hook);
            let deliverer = Deliverer::new(&self.config, receiver);
            let task = tokio::spawn(deliverer.run()).abort_handle();
            self.workers.insert(id, Worker { hook: sender, task });
        }
    }
}

/// Tells one receiver.
struct Deliverer {
    config: Arc<CourierConfig>,
    hook: watch::Receiver<StoredWebhook>,
    events: Watcher,
    /// Everything up to this event is told, owed or not wanted.
    position: u64,
    /// The database server whose log that is.
    server: u64,
    /// The log ended there once, so nothing is missing behind it.
    is_seen: bool,
    has_owed: bool,
    settled: Instant,
}

impl Deliverer {
    fn new(config: &Arc<CourierConfig>, hook: watch::Receiver<StoredWebhook>) -> Self {
        let events = config.events.watch(&config.store);
        let position = hook.borrow().cursor;
        let config = Arc::clone(config);
        let server = config.store.server_number();
        let (is_seen, has_owed, settled) = (false, true, Instant::now());
        Self { config, hook, events, position, server, is_seen, has_owed, settled }
    }

    /// Until the duty is another's, or the webhook is gone.
    async fn run(mut self) {
        loop {
            self.events.known.mark_unchanged();
            let hook = self.hook.borrow_and_update().clone();
            match self.round(&hook).await {
                Ok(Some(true)) => continue,
                Ok(Some(false)) => {}
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!("a webhook waits for the store: {error}");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
            tokio::select! {
                _ = self.events.known.changed() => {}
                _ = self.hook.changed() => {}
            }
        }
    }

    /// True: there may be more at once. `None`: it is not ours any more.
    async fn round(&mut self, hook: &StoredWebhook) -> Result<Option<bool>, StoreError> {
        let store = self.config.store.clone();
        let Some(document) = Document::read(hook) else { return Ok(Some(false)) };
        // Another server may lack events that were told; its cursor is as old as they are.
        let is_other = core::mem::replace(&mut self.server, store.server_number()) != self.server;
        if is_other || hook.cursor > self.position {
            (self.position, self.is_seen) = (hook.cursor, false);
        }
        let most = u32::try_from(OWED).unwrap_or(u32::MAX);
        let owed = match self.has_owed || hook.owed > 0 {
            true => store.deliveries(&hook.id, false, 0, most).await?,
            false => Vec::new(),
        };
        let reads = owed.len() < OWED;
        let New { events, read, is_more, has_gap } =
            if reads { self.read(&document.types).await? } else { New::default() };
        let threads = if has_gap { 1 } else { PARALLEL };
        if has_gap {
            tell(&self.config.telemetry, &hook.id, WebhookOutcome::Missed);
        }
        self.has_owed = !owed.is_empty();
        // The log's end was seen if it was looked for, and what is passed over meanwhile may be a gap.
        self.is_seen = reads && (self.is_seen || !is_more);
        let plan = plan(owed, events, clock::now());
        let mut settlement = Settlement {
            cursor: read.unwrap_or(self.position),
            kept: plan.waiting,
            ..Settlement::default()
        };
        let told = !plan.lines.is_empty();
        let sender = Arc::new(Sender::new(&self.config, hook, document.url));
        // A gap is told before what came after it. Not settled, all is told again.
        let told_now = tell_all(&sender, plan.lines, threads).await;
        let Some(told_now) = told_now else { return Ok(Some(false)) };
        for Settlement { taken, kept, .. } in told_now {
            settlement.taken.extend(taken);
            settlement.kept.extend(kept);
        }
        self.has_owed |= !settlement.kept.is_empty();
        let is_due = told || !settlement.kept.is_empty() || self.settled.elapsed() > SETTLED;
        if is_due && (told || read.is_some()) {
            let duty = (DUTY, self.config.holder);
            if !store.settle_deliveries(duty, &hook.id, &settlement, DEAD).await? {
                return Ok(None);
            }
            self.settled = Instant::now();
        }
        self.position = settlement.cursor;
        Ok(Some(is_more))
    }

    /// What is new, of what is wanted: as this node follows the log, or, where that began later, out of the store.
    async fn read(&mut self, types: &[String]) -> Result<New, StoreError> {
        let filter = Filter::of_types(types);
        if let Some(recent) = self.events.recent(self.position, EVENTS) {
            self.is_seen = true;
            let wanted = recent.iter().filter(|event| filter.takes(event)).take(WANTED);
            let events = Vec::from_iter(wanted.map(|event| StoredEvent::clone(event)));
            let is_full = events.len() >= WANTED;
            let last = if is_full { events.last() } else { recent.last().map(|event| &**event) };
            let read = last.map(|event| event.id);
            let is_more = is_full || recent.len() >= EVENTS;
            return Ok(New { events, read, is_more, has_gap: false });
        }
        let mut events = self.config.store.events(self.position, COMMITS).await?;
        let read = events.last().map(|event| event.id);
        let is_more = may_be_more(&events, COMMITS);
        let gap = self.gap(&events).await?;
        let has_gap = gap.is_some();
        events.retain(|event| filter.takes(event));
        events.splice(0..0, gap);
        Ok(New { events, read, is_more, has_gap })
    }

    /// When the log does not reach back to where we are: an event of its own that says so.
    async fn gap(&mut self, new: &[StoredEvent]) -> Result<Option<StoredEvent>, StoreError> {
        let Some(first) = new.first().filter(|_| !self.is_seen && self.position > 0) else {
            return Ok(None);
        };
        self.is_seen = true;
        if self.config.store.has_event(self.position).await? {
            return Ok(None);
        }
        let (at, node) = (Rfc3339(clock::now()), &self.config.node);
        let event = serde_json::json!({ "type": "gap", "at": at, "node": node });
        let event = event.as_object().cloned().unwrap_or_default();
        Ok(Some(StoredEvent { id: first.id - 1, event: EventDocument::of(&event) }))
    }
}

/// What a look at the log found for one receiver.
#[derive(Default)]
struct New {
    events: Vec<StoredEvent>,
    /// Everything up to this event was looked at.
    read: Option<u64>,
    /// There may be more at once.
    is_more: bool,
    /// The first one says that something is missing before it.
    has_gap: bool,
}

/// What a round tells one receiver. Dropped with the round: what was not begun is left to who has the duty then.
struct Lines(Arc<Mutex<VecDeque<Line>>>);

impl Drop for Lines {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Several threads take one line after the other: to change threads for each post would cost as much as the post.
/// `None`: one of them panicked.
async fn tell_all(
    sender: &Arc<Sender>,
    lines: Vec<Line>,
    threads: usize,
) -> Option<Vec<Settlement>> {
    let lines = Lines(Arc::new(Mutex::new(lines.into())));
    let count = lines.0.lock().unwrap_or_else(PoisonError::into_inner).len();
    let tellers = (0..count.min(threads)).map(|_| {
        let (sender, lines) = (Arc::clone(sender), Arc::clone(&lines.0));
        let next = move || lines.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        tokio::task::spawn_blocking(move || {
            core::iter::from_fn(next).map(|line| sender.tell(line)).collect::<Vec<Settlement>>()
        })
    });
    let told = futures_util::future::join_all(tellers.collect::<Vec<_>>()).await;
    let told: Result<Vec<_>, _> = told.into_iter().collect();
    Some(told.ok()?.into_iter().flatten().collect())
}

/// Posts to one receiver, signed.
struct Sender {
    http: HttpClient,
    telemetry: Telemetry,
    id: String,
    url: String,
    secret: Option<Vec<u8>>,
}

impl Sender {
    fn new(config: &CourierConfig, hook: &StoredWebhook, url: String) -> Self {
        let (http, telemetry) = (config.http.clone(), config.telemetry.clone());
        let secret = super::open_secret(&config.key, hook);
        Self { http, telemetry, id: hook.id.clone(), url, secret }
    }

    /// One event after the other, until one is not taken. Blocks.
    fn tell(&self, line: Line) -> Settlement {
        let mut outcome = Outcome::default();
        for job in line.jobs {
            if outcome.is_blocked() {
                outcome.skip(&job);
                continue;
            }
            let what = match self.post(&job) {
                Ok(()) => {
                    outcome.take(&job);
                    WebhookOutcome::Taken
                }
                Err(why) => match outcome.fail(job, why, clock::now(), rand::random()) {
                    true => WebhookOutcome::GivenUp,
                    false => WebhookOutcome::Failed,
                },
            };
            tell(&self.telemetry, &self.id, what);
        }
        outcome.settled
    }

    fn post(&self, job: &Job) -> Result<(), String> {
        let post = || self.post_now(&job.id.to_string(), &job.body());
        let posted = catch_unwind(AssertUnwindSafe(post));
        match posted.unwrap_or_else(|_| Err("the post panicked".to_owned()))? {
            200..=299 => Ok(()),
            status => Err(format!("the receiver answered {status}")),
        }
    }

    /// Signed as Standard Webhooks 1.0 has it.
    fn post_now(&self, id: &str, body: &str) -> Result<u16, String> {
        let secret = self.secret.as_ref();
        let secret = secret.ok_or("its secret was sealed under another cluster secret")?;
        let at = clock::now().as_secs().to_string();
        let signature = signature(secret, id, &at, body);
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", id),
            ("webhook-timestamp", &at),
            ("webhook-signature", &signature),
        ];
        self.http.post(&self.url, &headers, body.as_bytes())
    }
}

fn tell(telemetry: &Telemetry, webhook: &str, outcome: WebhookOutcome) {
    telemetry.handle(&Event::Webhook { webhook: webhook.to_owned(), outcome }, clock::now());
}

fn signature(secret: &[u8], id: &str, at: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    let digest = mac.finalize().into_bytes();
    format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = base64::engine::general_purpose::STANDARD
            .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .expect("base64");
        let body = r#"{"test": 2432232314}"#;
        let made = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
