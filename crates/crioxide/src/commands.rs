//! Sub-commands of the daemon's program, one file each: its command line, and what it does.
//!
//! The daemon's own options stand before the name of a sub-command (`crioxide --root DIR check`) and
//! come to it as settings, merged as the daemon's are. What somebody asked for goes to standard
//! output, all else to the log.

mod check;
mod config;
mod load;
mod version;
mod wipe;

use std::io::Write as _;
use std::process::ExitCode;

use ::config::Settings;
use anyhow::{Context as _, Result};
use clap::{ArgMatches, Command};

/// A sub-command.
struct SubCommand {
    /// Its command line.
    command: fn() -> Command,
    /// What it does.
    run: fn(&Invocation<'_>) -> Result<ExitCode>,
}

/// Every sub-command.
const ALL: &[SubCommand] = &[
    SubCommand {
        command: check::command,
        run: check::run,
    },
    SubCommand {
        command: config::command,
        run: config::run,
    },
    SubCommand {
        command: load::command,
        run: load::run,
    },
    SubCommand {
        command: version::command,
        run: version::run,
    },
    SubCommand {
        command: wipe::command,
        run: wipe::run,
    },
];

/// What a sub-command is run with.
pub(crate) struct Invocation<'a> {
    /// The configuration in force.
    pub(crate) settings: &'a Settings,
    /// The daemon's options, which stand before the sub-command.
    pub(crate) daemon: &'a ArgMatches,
    /// Its own options.
    pub(crate) own: &'a ArgMatches,
}

/// The command lines of all.
pub(crate) fn all() -> impl Iterator<Item = Command> {
    ALL.iter().map(|sub| (sub.command)())
}

/// Runs the sub-command `name`, which is one of [`all`].
///
/// # Errors
/// Its own.
pub(crate) fn run(name: &str, invocation: &Invocation<'_>) -> Result<ExitCode> {
    let sub = ALL.iter().find(|sub| (sub.command)().get_name() == name);
    let sub = sub.with_context(|| format!("no sub-command {name}"))?;
    (sub.run)(invocation)
}

/// Writes `text` to standard output.
///
/// # Errors
/// Nobody reads it, or the disk behind it is full.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to standard output")
}
