//! `holdfast serve`, from settings to exit.
//!
//! Invariant: everything is bound, locked and checked in one order, and given up in the reverse
//! one.

use super::config::{Config, Secret};
use super::data_dir::{DataDir, Holder, PortSlice, Slot};
use super::first_start::{self, Credentials};
use super::host::Host;
use super::mode::{Halves, Parts};
use super::reload::Reloader;
use super::{Exit, ServeOptions, doctor, replace};
use crate::admin::traces::{Exporter, ExporterConfig};
use crate::admin::webhooks::{Courier, CourierConfig};
use crate::admin::{self, Admin, Phase, Reload, Server, Services};
use crate::ids::Incarnation;
use crate::net::clock;
use crate::net::web::HttpClient;
use crate::operator::{Command, Operator, Readiness};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, LogGuard, Personal, Telemetry};
use anyhow::Context;
use core::time::Duration;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Between two tries to reach the store, at most.
const STORE_BACKOFF: Duration = Duration::from_secs(5);
/// Between two looks whether calls can be made.
const LOOKS: Duration = Duration::from_millis(100);
/// A node that is not ready by then may want to know what is wrong with its surroundings.
const EXPECTED_READY: Duration = Duration::from_secs(30);
/// A port of a process's own is the first free one of so many.
const OWN_PORTS: u16 = 20;

/// Runs until told to stop.
pub fn serve(options: &ServeOptions) -> Exit {
    let (config, host) = match options.load() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            eprintln!("holdfast cannot start:");
            mistakes.0.iter().for_each(|mistake| eprintln!("  {mistake}"));
            return Exit::Usage;
        }
    };
    let log = telemetry::init(&config.log);
    match run(config, &host, (options, &log)) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("holdfast cannot start: {error:#}");
            Exit::of(&error)
        }
    }
}

/// Everything that is held while the node runs.
struct Base {
    config: Config,
    data: DataDir,
    slot: Slot,
    media_ports: PortSlice,
    _database_lock: Option<File>,
    secrets: Vec<Secret>,
    token: Secret,
    telemetry: Telemetry,
    /// Whose place this process takes.
    predecessor: Option<Holder>,
}

/// Every phone on TCP and every stream has descriptors: as many as the system allows.
fn raise_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::warn!("only {soft} descriptors: `ulimit -n` limits phones on TCP and calls");
    }
}

fn run(
    config: Config,
    host: &Host,
    (options, log): (&ServeOptions, &LogGuard),
) -> anyhow::Result<Exit> {
    tell_settings(&config);
    doctor::at_start(&config, host);
    raise_descriptors();
    let mut base = prepare(config, host, options.replace)?;
    let admin = Admin::new(
        &base.slot.name,
        base.config.mode.name(),
        base.token.expose(),
        base.telemetry.clone(),
    );
    let (reloads, wishes) = mpsc::channel(1);
    let server = listen(&base.config, &admin, &base.slot, reloads)?;
    let admin_url = first_start::admin_url(server.address, host);
    let mode = base.config.mode;
    base.slot.announce(mode, &admin_url).context("slot")?;
    let metrics = listen_for_metrics(&base.config, &admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = runtime.block_on(async {
        let of = (options, base.slot.name.as_str(), log);
        let reloader = Reloader::new(of, base.config.clone(), wishes)?;
        live(&base, host, (&admin, &admin_url), reloader).await
    });
    // Who was told to stop twice waits for no thread that still does so.
    runtime.shutdown_background();
    server.stop();
    if let Some(metrics) = metrics {
        metrics.stop();
    }
    exit
}

fn tell_settings(config: &Config) {
    tracing::info!("holdfast {} starts as {}", env!("CARGO_PKG_VERSION"), config.mode);
    for one in &config.effective {
        tracing::info!(
            setting.key = one.key,
            setting.value = one.value,
            setting.origin = one.origin,
            "{} = {} ({})",
            one.key,
            one.value,
            one.origin
        );
    }
    for note in &config.notes {
        tracing::warn!("{note}");
    }
}

fn prepare(config: Config, host: &Host, replaces: bool) -> anyhow::Result<Base> {
    let data = DataDir::open(&config.data_dir)?;
    let predecessor = match replaces {
        true => replace::predecessor(&config)
            .map_err(|text| anyhow::Error::new(Exit::Usage).context(text))?,
        false => None,
    };
    let slot = match (&predecessor, config.node_name.as_deref()) {
        // While its holder lives nobody else has the name: it is told from it by the slot.
        (Some(holder), Some(name)) if holder.name == name => data.take_slot(name, None)?,
        (_, name) => data.take_slot(&host.name, name)?,
    };
    let database_lock =
        if config.mode.has_signaling() { data.lock_database(&config.database_url)? } else { None };
    let joins_others = config.join.iter().any(|name| !is_loopback(name));
    if config.cluster_secrets.is_empty()
        && !config.mode.has_signaling()
        && joins_others
        && !data.has_secret("cluster_secret")
    {
        let text = "cluster_secret is not set: a node on another host is joined with its secret";
        return Err(anyhow::Error::new(Exit::Usage).context(text));
    }
    let secrets = if config.cluster_secrets.is_empty() {
        vec![data.secret("cluster_secret")?]
    } else {
        config.cluster_secrets.clone()
    };
    let token = match &config.admin.token {
        Some(token) => token.clone(),
        None => data.secret("admin_token")?,
    };
    let telemetry = Telemetry::new(config.log.personal);
    let media_ports = match data.take_ports(&config.media.ports, config.mode.has_media()) {
        // Its slice is ours as it gives its ports up.
        Err(_) if predecessor.is_some() => data.take_ports(&config.media.ports, false)?,
        taken => taken?,
    };
    let _database_lock = database_lock;
    Ok(Base {
        config,
        data,
        slot,
        media_ports,
        _database_lock,
        secrets,
        token,
        telemetry,
        predecessor,
    })
}

/// The name of a host, perhaps with a port, is this host's own.
pub(super) fn is_loopback(name: &str) -> bool {
    let host = name.parse::<core::net::SocketAddr>().map(|address| address.ip());
    let ip = host.or_else(|_| name.trim_matches(['[', ']']).parse::<core::net::IpAddr>());
    ip.map_or_else(|_| name.split(':').next() == Some("localhost"), |ip| ip.is_loopback())
}

fn listen(
    config: &Config,
    admin: &Arc<Admin>,
    slot: &Slot,
    reloads: mpsc::Sender<Reload>,
) -> anyhow::Result<Server> {
    let address = config.admin.bind;
    let (listener, router) = if config.mode.has_signaling() {
        (admin::bind_shared(address), admin::router(admin))
    } else {
        (admin::bind_next_free(address, OWN_PORTS), admin::health_router(admin))
    };
    let listener = listener.with_context(|| {
        format!("admin_bind {address}: free that port, or set HOLDFAST_ADMIN_BIND")
    })?;
    let socket = slot.own_socket();
    let server = match admin::bind_own(&socket) {
        Ok(own) => {
            let own_router = router.clone().merge(admin::reload_router(admin, reloads));
            Server::start_with_own(listener, router, (own, own_router))?
        }
        Err(error) => {
            let socket = socket.display();
            tracing::warn!("`holdfast health` cannot ask this process alone: {socket}: {error}");
            Server::start(listener, router)?
        }
    };
    tracing::info!("health and admin are at http://{}", server.address);
    Ok(server)
}

/// The admin port is shared by processes of a host; figures are of one process.
fn listen_for_metrics(config: &Config, admin: &Arc<Admin>) -> anyhow::Result<Option<Server>> {
    let Some(address) = config.admin.metrics_bind else { return Ok(None) };
    let listener = admin::bind_next_free(address, OWN_PORTS);
    let listener = listener.with_context(|| format!("metrics_bind {address}"))?;
    let server = Server::start(listener, admin::health_router(admin))?;
    tracing::info!("metrics are at http://{}/metrics", server.address);
    Ok(Some(server))
}

/// Each start of a node is another, and a later one is greater: microseconds, and the slot for two that start at once.
fn incarnation(slot: u16) -> Incarnation {
    Incarnation(clock::now().as_micros() << 8 | u64::from(slot & 0xff))
}

/// From the first signal handler to the last.
async fn live(
    base: &Base,
    host: &Host,
    (admin, admin_url): (&Arc<Admin>, &str),
    mut reloader: Reloader<'_>,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let started = tokio::select! {
        started = start(base, host, admin, admin_url) => started?,
        () = signals.next() => {
            tracing::info!("told to stop while starting");
            return Ok(Exit::Success);
        }
    };
    admin.set_phase(Phase::Running);
    let Started { halves, operator, credentials } = started;
    let welcomes = async {
        let welcomed = async {
            if let (Some(operator), Some(credentials)) = (&operator, &credentials) {
                welcome(operator, credentials).await;
            }
        };
        tokio::pin!(welcomed);
        // What keeps it from being ready may be what the doctor finds.
        let in_time = tokio::time::timeout(EXPECTED_READY, &mut welcomed).await;
        doctor::after_start(&base.config, host);
        if in_time.is_err() {
            welcomed.await;
        }
        core::future::pending::<()>().await;
    };
    let replaces = async {
        if let Some(from) = base.predecessor.clone() {
            let operator = operator.clone();
            replace::take_over(&base.config.data_dir, from, &halves, operator).await;
        }
        core::future::pending::<()>().await;
    };
    tokio::select! {
        () = signals.next() => {}
        () = welcomes => {}
        () = replaces => {}
        () = reloader.follow(&halves, operator.as_ref(), admin) => {}
    }
    tracing::info!("told to stop: takes no new calls; a second signal ends at once");
    admin.set_phase(Phase::Draining);
    tokio::select! {
        () = halves.stop(reloader.config.drain_timeout) => {
            tracing::info!("stopped");
            Ok(Exit::Success)
        }
        () = signals.next() => {
            tracing::warn!("told to stop again: ends at once");
            Ok(Exit::Failed)
        }
    }
}

/// What runs. A media node has no operator, and nobody registers with it.
struct Started {
    halves: Halves,
    operator: Option<Operator>,
    credentials: Option<Credentials>,
}

async fn start(
    base: &Base,
    host: &Host,
    admin: &Arc<Admin>,
    admin_url: &str,
) -> anyhow::Result<Started> {
    let config = &base.config;
    let parts = Parts {
        config,
        node: &base.slot.name,
        slot: base.slot.number,
        incarnation: incarnation(base.slot.number),
        media_ports: base.media_ports.range,
        host: base.data.host_id()?,
        handover: base.slot.socket(),
        journals: base.data.path().join("journal"),
        capture: base.data.path().join("ladder"),
        siblings: base.data.path().join("siblings"),
        secrets: &base.secrets,
        telemetry: base.telemetry.clone(),
    };
    if !config.mode.has_signaling() {
        let halves = Halves::start(&parts, None).await?;
        return Ok(Started { halves, operator: None, credentials: None });
    }
    admin.set_phase(Phase::Starting("the database has not answered yet".to_owned()));
    let store = connect(admin, &config.database_url).await?;
    let realm = until_there(admin, &store, || first_start::realm(&store, &config.sip));
    let realm = realm
        .await
        .map_err(|error| anyhow::Error::new(Exit::Usage).context(format!("{error:#}")))?;
    let mut addresses = first_start::sip_addresses(config, host).into_iter();
    let known = Credentials {
        admin_url: admin_url.to_owned(),
        admin_token: base.token.expose().to_owned(),
        sip_address: addresses.next().unwrap_or_default(),
        other_sip_addresses: addresses.collect(),
        realm: realm.clone(),
        users: Vec::new(),
    };
    let prepare = || first_start::prepare(&store, &base.data, known.clone());
    let credentials = until_there(admin, &store, prepare).await?;
    admin.set_phase(Phase::Starting("what earlier starts kept goes to the database".to_owned()));
    let (operator, commands) = Operator::channel();
    let half = super::mode::SignalingPart { store: store.clone(), realm: realm.clone(), commands };
    let halves = Halves::start(&parts, Some(half)).await?;
    let key = parts.key()?;
    let http = HttpClient::new(config.webhook_denied_nets.clone());
    let courier = CourierConfig {
        store: store.clone(),
        events: admin.events(),
        key: key.clone(),
        node: base.slot.name.clone(),
        holder: parts.incarnation,
        http: http.clone(),
        telemetry: base.telemetry.clone(),
    };
    let mut halves = halves.with_courier(Courier::start(courier)?);
    if let Some(exporter) = exporter_config(base, &store, parts.incarnation) {
        halves = halves.with_exporter(Exporter::start(exporter)?);
    }
    admin.set_services(Services { store, operator: operator.clone(), realm, key, http });
    Ok(Started { halves, operator: Some(operator), credentials: Some(credentials) })
}

fn exporter_config(base: &Base, store: &Store, holder: Incarnation) -> Option<ExporterConfig> {
    let headers = base.config.otlp_headers.iter();
    Some(ExporterConfig {
        store: store.clone(),
        holder,
        endpoint: base.config.otlp_endpoint.clone()?,
        headers: headers.map(|(name, text)| (name.clone(), text.expose().to_owned())).collect(),
        names_parties: base.config.log.personal == Personal::Show,
        telemetry: base.telemetry.clone(),
    })
}

/// Tells how to register as soon as calls can be made, and before that what is waited for. For the person at the
/// terminal, and for who reads what a container said: it is no line of the log, which is on standard output alone.
#[allow(clippy::print_stderr, reason = "the answer to `holdfast serve`")]
async fn welcome(operator: &Operator, credentials: &Credentials) {
    let (mut seen, mut told) = (Vec::new(), Vec::new());
    loop {
        match operator.ask(Command::Readiness).await {
            Ok(Readiness::Ready | Readiness::Degraded(_)) => break,
            Ok(Readiness::Starting(reasons)) => {
                // What is over at the next look is not worth a line.
                if reasons == seen && reasons != told {
                    tracing::info!("not ready yet: {}", reasons.join("; "));
                    told.clone_from(&reasons);
                }
                seen = reasons;
            }
            Err(_) => {}
            Ok(Readiness::Draining) => return,
        }
        tokio::time::sleep(LOOKS).await;
    }
    eprintln!("{}", credentials.welcome());
}

/// PostgreSQL may start after us: any boot order works.
async fn connect(admin: &Arc<Admin>, url: &Secret) -> anyhow::Result<Store> {
    let connect = async || Store::connect(url.expose()).await.map_err(anyhow::Error::from);
    match url.expose().starts_with("sqlite:") {
        true => connect().await,
        false => insist(admin, connect).await,
    }
}

/// And it may go again between two steps of ours.
async fn until_there<T>(
    admin: &Arc<Admin>,
    store: &Store,
    mut step: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    match store.is_embedded() {
        true => step().await,
        false => insist(admin, step).await,
    }
}

/// Until the database answers, or says what is wrong with us.
async fn insist<T>(
    admin: &Arc<Admin>,
    mut step: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut pause = Duration::from_millis(250);
    loop {
        let error = match step().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(StoreError::Unavailable(reason)) = error.downcast_ref() else { return Err(error) };
        admin.set_phase(Phase::Starting("the database is not there yet".to_owned()));
        tracing::warn!("the database is not there yet: {reason}; tries again in {pause:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STORE_BACKOFF);
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
