//! The daemon's log: lines on standard error, as `key=value` text or JSON.

use std::io::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, bail};
use config::Settings;
use regex::Regex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

/// What is logged.
#[derive(Debug)]
pub(crate) struct Choice {
    level: LevelFilter,
    /// What a line has to match.
    filter: Option<Regex>,
}

impl Choice {
    /// `log_level` and `log_filter`.
    ///
    /// # Errors
    /// See [`Choice::parse`].
    pub(crate) fn of(settings: &Settings) -> Result<Self> {
        let section = "crio.runtime";
        Self::parse(
            settings.text(section, "log_level"),
            settings.text(section, "log_filter"),
        )
    }

    /// A level, by CRI-O's names, and a pattern; empty for all lines.
    ///
    /// # Errors
    /// An unknown level; a filter that is no pattern.
    pub(crate) fn parse(level: &str, filter: &str) -> Result<Self> {
        let level = match level {
            "trace" => LevelFilter::TRACE,
            "debug" => LevelFilter::DEBUG,
            "info" => LevelFilter::INFO,
            "warn" | "warning" => LevelFilter::WARN,
            "error" | "fatal" | "panic" => LevelFilter::ERROR,
            other => bail!(
                "crio.runtime.log_level: {other:?} is none of fatal, panic, error, warn, info, debug, trace"
            ),
        };
        let filter = (!filter.is_empty()).then(|| Regex::new(filter)).transpose();
        Ok(Self {
            level,
            filter: filter.context("crio.runtime.log_filter")?,
        })
    }
}

/// Libraries that tell of each frame and connection, which only `trace` asks for.
const CHATTY: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tonic",
    "zbus",
];

fn targets(level: LevelFilter) -> Targets {
    let targets = Targets::new().with_default(level);
    if level == LevelFilter::TRACE {
        return targets;
    }
    let theirs = level.min(LevelFilter::INFO);
    targets.with_targets(CHATTY.iter().map(|library| (*library, theirs)))
}

/// The log that runs.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    level: reload::Handle<Targets, Registry>,
    filter: Filter,
}

impl Log {
    /// Goes on with another choice.
    pub(crate) fn set(&self, choice: Choice) {
        if let Err(error) = self.level.reload(targets(choice.level)) {
            tracing::error!(%error, "log level not changed");
        }
        self.filter.set(choice.filter);
    }
}

/// Starts logging.
pub(crate) fn start(choice: Choice, format: &str) -> Log {
    let (level, handle) = reload::Layer::new(targets(choice.level));
    let filter = Filter(Arc::new(RwLock::new(choice.filter)));
    let lines = fmt::layer().with_writer(filter.clone()).with_ansi(false);
    let log = tracing_subscriber::registry().with(level);
    match format {
        "json" => log.with(lines.json()).init(),
        _ => log.with(lines.with_target(false)).init(),
    }
    Log {
        level: handle,
        filter,
    }
}

/// Lets lines through to standard error that match; all where there is no pattern.
#[derive(Debug, Clone)]
struct Filter(Arc<RwLock<Option<Regex>>>);

impl Filter {
    fn set(&self, pattern: Option<Regex>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pattern;
    }

    fn passes(&self, line: &[u8]) -> bool {
        let pattern = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pattern.as_ref().is_none_or(|pattern| {
            let line = String::from_utf8_lossy(line);
            pattern.is_match(line.trim_end())
        })
    }
}

impl MakeWriter<'_> for Filter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Filter {
    /// A whole line, as it is made by `fmt::layer`.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.passes(line) {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_to_those_who_trace() {
        let debug = targets(LevelFilter::DEBUG);
        let told = |targets: &Targets, of: &str| targets.would_enable(of, &tracing::Level::DEBUG);
        assert!(told(&debug, "crioxide::pods"));
        assert!(!told(&debug, "h2::codec::framed_read"));
        assert!(told(&targets(LevelFilter::TRACE), "h2::codec::framed_read"));
        let error = targets(LevelFilter::ERROR);
        assert!(!error.would_enable("h2::server", &tracing::Level::INFO));
    }

    #[test]
    fn a_filter_lets_lines_through_that_match() {
        let filter = Filter(Arc::new(RwLock::new(None)));
        assert!(filter.passes(b"anything\n"));
        filter.set(Some(Regex::new("pod=a$").unwrap()));
        assert!(filter.passes(b"INFO made pod=a\n"));
        assert!(!filter.passes(b"INFO made pod=ab\n"));
    }
}
