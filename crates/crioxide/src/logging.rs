//! The daemon's log: lines on standard error, as `key=value` text or JSON.

use anyhow::{Result, bail};
use tracing_subscriber::filter::LevelFilter;

/// Starts logging at `level`, one of CRI-O's names.
///
/// # Errors
/// An unknown level.
pub(crate) fn start(level: &str, format: &str) -> Result<()> {
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
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        "json" => lines.json().init(),
        _ => lines.with_target(false).init(),
    }
    Ok(())
}
