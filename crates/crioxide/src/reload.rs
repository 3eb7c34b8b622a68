//! SIGHUP: the configuration is read again, and what may change while the daemon runs does.
//!
//! All of it is read and checked before any of it counts: with a broken file the old state stays. Flags
//! and environment are taken again too, so they go before the files as at the start (in CRI-O they lose
//! then). Registries, policies, credentials and `mounts.conf` are read each time they are needed and are
//! only looked at here.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use config::{Change, Settings};
use image::Images;
use pods::Pods;
use sd_notify::NotifyState;
use sys::pool::Pool;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use crate::logging::{Choice, Log};
use crate::options;

/// What is shown of the configuration in force.
#[derive(Debug)]
pub(crate) struct Shown {
    /// As TOML.
    pub(crate) config: watch::Sender<Arc<str>>,
    /// The options of the runtime table, as JSON.
    pub(crate) runtime_fields: watch::Sender<Arc<serde_json::Value>>,
    /// Name of the default handler.
    pub(crate) default_runtime: watch::Sender<Arc<str>>,
}

impl Shown {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            config: watch::Sender::new(options::shown(settings).into()),
            runtime_fields: watch::Sender::new(settings.runtime_fields().into()),
            default_runtime: watch::Sender::new(options::default_runtime(settings).into()),
        }
    }
}

/// What goes on with another configuration.
#[derive(Debug)]
pub(crate) struct Reloader {
    pub(crate) matches: Arc<ArgMatches>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) log: Log,
    pub(crate) pods: Pods,
    pub(crate) images: Arc<Images>,
    pub(crate) shown: Shown,
}

/// Everything of a configuration that may change, read and checked.
struct Next {
    settings: Settings,
    changes: Vec<Change>,
    log: Choice,
    pods: pods::Changing,
    images: image::Changing,
    handlers: runtime::Handlers,
}

impl Reloader {
    /// Reloads at each signal, for ever. Signals that come meanwhile are one.
    pub(crate) async fn run(mut self, mut hangup: Signal) {
        let pool = Pool::new("reload", 1);
        while hangup.recv().await.is_some() {
            tell(&[NotifyState::Reloading, monotonic()]);
            tracing::info!("Reloading configuration");
            match self.reload(&pool).await {
                Ok(()) => tracing::info!("Configuration reload completed"),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "configuration reload failed: the old configuration stays"
                ),
            }
            tell(&[NotifyState::Ready]);
        }
    }

    async fn reload(&mut self, pool: &Pool) -> Result<()> {
        let (matches, old) = (Arc::clone(&self.matches), Arc::clone(&self.settings));
        let next = pool.run(move || read(&matches, &old)).await?;
        let registries = self.images.check_registries().await;
        registries.context("system registries reload failed")?;
        for change in next.changes.iter().filter(|change| change.reloads) {
            let value = change.value.as_deref().unwrap_or("its default");
            tracing::info!("Set config {} to {value}", change.option);
        }
        for change in next.changes.iter().filter(|change| !change.reloads) {
            let option = &change.option;
            tracing::info!(
                option,
                "option has changed and counts from the next start on"
            );
        }
        self.log.set(next.log);
        for handler in self.pods.change(next.pods, next.handlers) {
            tracing::warn!(
                handler,
                "runtime handler is gone, and stays while pods use it"
            );
        }
        self.images.change(next.images);
        let shown = &self.shown;
        shown
            .config
            .send_replace(options::shown(&next.settings).into());
        let fields = next.settings.runtime_fields();
        shown.runtime_fields.send_replace(fields.into());
        let default = options::default_runtime(&next.settings);
        shown.default_runtime.send_replace(default.into());
        self.settings = Arc::new(next.settings);
        Ok(())
    }
}

/// Reads and checks; asks the runtimes. Blocks.
fn read(matches: &ArgMatches, old: &Settings) -> Result<Next> {
    let new = Settings::load(crate::sources(matches)?).context("configuration")?;
    let (settings, changes) = old.reloaded(new);
    crate::report(&settings);
    Ok(Next {
        log: Choice::of(&settings)?,
        pods: options::changing(&settings)?,
        images: image::Changing::of(&options::images(&settings, matches)?),
        handlers: options::handlers(&settings)?,
        changes,
        settings,
    })
}

fn monotonic() -> NotifyState<'static> {
    // Without a clock there is nothing to say, and older versions of systemd ask for nothing.
    NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd not told of a reload");
    }
}
