//! `crioxide config`: the configuration in force, or the built-in one, as TOML.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command};
use config::{Settings, Sources};

use super::Invocation;

pub(super) fn command() -> Command {
    Command::new("config")
        .about("Print the configuration in force: built-in, of files, environment and flags")
        .arg(
            Arg::new("default")
                .long("default")
                .action(ArgAction::SetTrue)
                .help("print the built-in configuration, without files, environment and flags"),
        )
}

pub(super) fn run(invocation: &Invocation<'_>) -> Result<ExitCode> {
    let text = if invocation.own.get_flag("default") {
        Settings::load(Sources::default())
            .context("built-in configuration")?
            .to_toml()
    } else {
        invocation.settings.to_toml()
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
