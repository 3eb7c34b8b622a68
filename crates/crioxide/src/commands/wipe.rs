//! `crioxide wipe`: removes containers after a reboot, images after an upgrade, and the whole store
//! after a reboot that gave no time to write it out. It decides as `crio wipe` does (crio(8)).

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgAction, Command};
use storage::Store;

use super::Invocation;
use crate::{markers, options, serve, upkeep};

/// That the store was removed in this boot: the daemon starts with an empty one, and need not lose
/// what it then pulls to the same finding. CRI-O's name.
const DONE: &str = "crio-wipe-done";

pub(super) fn command() -> Command {
    Command::new("wipe")
        .about("Remove containers after a reboot, and images after an upgrade")
        .arg(
            Arg::new("force")
                .long("force")
                .short('f')
                .action(ArgAction::SetTrue)
                .help("remove containers and their images whatever the version files say"),
        )
}

pub(super) fn run(invocation: &Invocation<'_>) -> Result<ExitCode> {
    let settings = invocation.settings;
    let force = invocation.own.get_flag("force");
    let listen = settings.path("crio.api", "listen");
    if serve::is_served(&listen) {
        bail!("a daemon serves {}: stop it first", listen.display());
    }
    let rebooted = force || markers::is_outdated(settings, "version_file");
    let upgraded = force || markers::is_outdated(settings, "version_file_persist");
    let place = options::storage(settings)?;
    if rebooted && markers::was_unclean(settings) {
        let run_dir = crate::argument(invocation.daemon, "run-dir");
        let done = Path::new(run_dir).join(DONE);
        if done.try_exists().unwrap_or(false) {
            tracing::info!("the store was removed already since this boot");
            return Ok(ExitCode::SUCCESS);
        }
        tracing::warn!(root = %place.root.display(), "unclean shutdown: the store is removed");
        storage::salvage_tables(&place).context("repair the store's records")?;
        let store = Store::open_as_it_is(place.clone()).context("open the store")?;
        store.remove_all(false).context("remove the store")?;
        upkeep::forget_exits(settings, None)?;
        markers::write(&done, "done")?;
    }
    if !force && settings.bool("crio", "internal_wipe") {
        tracing::info!("internal_wipe is set: the rest is the daemon's, when it starts");
        return Ok(ExitCode::SUCCESS);
    }
    if !rebooted {
        tracing::info!("version unchanged and node not rebooted: nothing to remove");
        return Ok(ExitCode::SUCCESS);
    }
    let store = Store::open(place).context("open the store")?;
    let failed = upkeep::wipe_store(settings, &store, upgraded)?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
