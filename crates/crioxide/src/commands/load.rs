//! `crioxide load`: an image from files or another store of the node into the store, whether the daemon
//! runs or not.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command};
use image::{LoadRequest, Location, Reference};

use super::Invocation;
use crate::options;

pub(super) fn command() -> Command {
    Command::new("load")
        .about("Load an image from files or another store of the node; prints its ID and names")
        .after_help(
            "SOURCE is one of\n  oci:DIRECTORY[:NAME]\n  oci-archive:FILE[:NAME]\n  \
             docker-archive:FILE[:NAME]\n  dir:DIRECTORY\n  \
             containers-storage:[DRIVER@ROOT]IMAGE\nwith an absolute path; NAME may be @ and a number \
             from 0 on, DRIVER is overlay or vfs, IMAGE a name or an ID in that store. The policy \
             decides as for a pull, by the transport's scopes.",
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("HOST/PATH:TAG")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(Reference))
                .help("name to give it, may be repeated [default: those that the source says]"),
        )
        .arg(
            Arg::new("source")
                .value_name("SOURCE")
                .required(true)
                .value_parser(clap::value_parser!(Location))
                .help("transport and path"),
        )
}

pub(super) fn run(invocation: &Invocation<'_>) -> Result<ExitCode> {
    let own = invocation.own;
    let location: &Location = own.get_one("source").context("no SOURCE")?;
    let request = LoadRequest {
        location: location.clone(),
        names: own.get_many("name").unwrap_or_default().cloned().collect(),
    };
    let store = options::store(invocation.settings)?;
    let images = options::images(invocation.settings, invocation.daemon)?;
    let images = image::Images::new(images, store);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let loaded = runtime.block_on(images.load(request))?;
    super::print(&format!("{} {}\n", loaded.id, loaded.names.join(" ")))?;
    Ok(ExitCode::SUCCESS)
}
