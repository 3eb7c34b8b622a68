//! The process of one image pull (`separate_pull_cgroup`), which the daemon starts: `crioxide pull-worker`.
//! It reads no configuration: what counts is what the daemon says.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command};
use config::Settings;
use image::Assignment;

use crate::{argument, logging};

/// The sub-command's name.
pub(crate) const NAME: &str = "pull-worker";

/// The sub-command's command line. It is nobody's to use but the daemon's.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .hide(true)
        .about("Pull the image that the daemon at the other end of standard input names")
        .arg(Arg::new("level").long("level").default_value("info"))
        .arg(Arg::new("filter").long("filter").default_value(""))
}

/// The daemon's arguments for it, so that it logs as the daemon does.
pub(crate) fn arguments(settings: &Settings, format: &str) -> Vec<String> {
    let logged = |key: &str| settings.text("crio.runtime", key);
    vec![
        format!("--log-format={format}"),
        NAME.to_owned(),
        format!("--level={}", logged("log_level")),
        format!("--filter={}", logged("log_filter")),
    ]
}

/// Pulls.
///
/// # Errors
/// There is no daemon at the other ends.
pub(crate) fn run(own: &ArgMatches, format: &str) -> Result<ExitCode> {
    let choice = logging::Choice::parse(argument(own, "level"), argument(own, "filter"))?;
    logging::start(choice, format);
    // Else it is "exe", as it was started.
    rustix::thread::set_name(c"crioxide-pull").context("name the process")?;
    let runtime = crate::lean_runtime()?;
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let assignment = Assignment::receive(input.context("standard input")?);
    let assignment = assignment.context("hear from the daemon what to pull")?;
    let said = runtime.block_on(assignment.run(output.context("standard output")?));
    runtime.shutdown_background();
    said.context("tell the daemon of the pull")?;
    Ok(ExitCode::SUCCESS)
}
