//! `holdfast reload`, or SIGHUP: settings are read again, and what may change while people talk is changed.
//!
//! Invariants: one mistake, and nothing is changed; what waits for the next start is told each time until then.

use super::ServeOptions;
use super::config::{Change, Config, Mistakes};
use super::mode::Halves;
use crate::admin::{Admin, Reload, SettingChange};
use crate::net::clock;
use crate::operator::{Command, Operator};
use crate::telemetry::LogGuard;
use crate::views::token::AuditView;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A process that reads its settings again when it is told to.
pub(super) struct Reloader<'run> {
    /// How it was started.
    options: &'run ServeOptions,
    node: &'run str,
    log: &'run LogGuard,
    /// In force.
    pub config: Config,
    hang_ups: Signal,
    wishes: mpsc::Receiver<Reload>,
}

impl<'run> Reloader<'run> {
    pub(super) fn new(
        (options, node, log): (&'run ServeOptions, &'run str, &'run LogGuard),
        config: Config,
        wishes: mpsc::Receiver<Reload>,
    ) -> std::io::Result<Self> {
        let hang_ups = signal(SignalKind::hangup())?;
        Ok(Self { options, node, log, config, hang_ups, wishes })
    }

    /// As long as the process runs.
    pub(super) async fn follow(
        &mut self,
        halves: &Halves,
        operator: Option<&Operator>,
        admin: &Admin,
    ) {
        loop {
            let wish = tokio::select! {
                Some(wish) = self.wishes.recv() => Some(wish),
                _ = self.hang_ups.recv() => None,
            };
            let check = wish.as_ref().is_some_and(|wish| wish.check);
            let told = self.reload(check, halves, operator).await;
            match wish {
                // Who asked may have gone.
                Some(Reload { answer, .. }) => {
                    let _ = answer.send(told.map_err(|mistakes| mistakes.0));
                }
                None => {
                    let status = if told.is_ok() { 200 } else { 422 };
                    let what = ("SIGHUP", "/reload");
                    admin.note(AuditView::local(clock::now(), self.node, what, status)).await;
                }
            }
        }
    }

    async fn reload(
        &mut self,
        check: bool,
        halves: &Halves,
        operator: Option<&Operator>,
    ) -> Result<Vec<SettingChange>, Mistakes> {
        let (next, _) = self.options.load().inspect_err(|mistakes| {
            tracing::warn!("settings stay as they are, what was read has mistakes: {mistakes}");
        })?;
        let changes = self.config.changes(&next);
        if !check {
            changes.iter().for_each(tell);
            self.take(next, halves, operator).await;
        }
        Ok(changes.into_iter().map(|change| self.shown(change)).collect())
    }

    async fn take(&mut self, next: Config, halves: &Halves, operator: Option<&Operator>) {
        self.config = self.config.clone().tuned(next);
        self.log.set_filter(&self.config.log.filter);
        halves.set_max_calls(self.config.media.max_calls);
        if let Some(operator) = operator {
            // A worker that is gone needs no settings.
            let _ = operator.tell(Command::Tune(Box::new(self.config.tuning()))).await;
        }
    }

    fn shown(&self, change: Change) -> SettingChange {
        let Change { key, before, after, is_now } = change;
        let effect = if is_now { "now" } else { "next_start" };
        SettingChange { node: self.node.to_owned(), key, before, after, effect }
    }
}

fn tell(change: &Change) {
    let Change { key, before, after, is_now } = change;
    let when = if *is_now { "from now on" } else { "only at the next start" };
    tracing::info!(
        setting.key = key,
        setting.value = after,
        "{key} = {after}, was {before}: {when}"
    );
}
