//! `crioxide version`: ours, and the CRI-O version whose conventions on disk we follow.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, ArgAction, Command};
use serde_json::json;

use super::Invocation;
use crate::markers;

pub(super) fn command() -> Command {
    Command::new("version")
        .about("Print the version, and the CRI-O version whose conventions on disk are followed")
        .arg(
            Arg::new("json")
                .long("json")
                .short('j')
                .action(ArgAction::SetTrue)
                .help("as JSON"),
        )
}

pub(super) fn run(invocation: &Invocation<'_>) -> Result<ExitCode> {
    let (version, compatible) = (env!("CARGO_PKG_VERSION"), markers::COMPATIBLE);
    let text = if invocation.own.get_flag("json") {
        let document = json!({ "version": version, "compatibleWithCrio": compatible });
        format!("{document}\n")
    } else {
        format!("Version:               {version}\nCompatible with CRI-O: {compatible}\n")
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
