//! `crioxide check`: looks for damage in the store, and repairs it where it is told to. The flags are
//! those of `crio check` (crio(8)).

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgAction, Command};
use storage::{CheckOptions, Damage, Depth, Item, RepairContainers, Store};

use super::Invocation;
use crate::{options, upkeep};

pub(super) fn command() -> Command {
    let flag = |name: &'static str, short: char, help: &'static str| {
        let arg = Arg::new(name).long(name).short(short);
        arg.action(ArgAction::SetTrue).help(help)
    };
    Command::new("check")
        .about("Look for damage in the store of images and containers")
        .after_help(
            "Every file of every layer is read and compared with its archive, unless --quick is \
             given. With --repair, and more so with --force, nothing else should use the store: \
             stop the daemon, and containers if possible.",
        )
        .arg(
            Arg::new("age")
                .long("age")
                .short('a')
                .value_name("DURATION")
                .default_value("24h")
                .help("layers that nothing has needed for so long count as damage; empty for none"),
        )
        .arg(flag("repair", 'r', "remove damaged images and layers"))
        .arg(flag(
            "force",
            'f',
            "with --repair, remove damaged containers",
        ))
        .arg(flag(
            "quick",
            'q',
            "compare files' content, but not their attributes",
        ))
        .arg(flag(
            "wipe",
            'w',
            "remove the whole store if a repair fails; with --force also while containers run",
        ))
}

pub(super) fn run(invocation: &Invocation<'_>) -> Result<ExitCode> {
    let flag = |name| invocation.own.get_flag(name);
    let (repair, force) = (flag("repair"), flag("force"));
    let age = invocation.own.get_one::<String>("age");
    let age = age.map_or("", String::as_str);
    let options = CheckOptions {
        depth: if flag("quick") {
            Depth::Content
        } else {
            Depth::Attributes
        },
        unreferenced: match config::duration(age) {
            Some(_) if age.is_empty() => None,
            None => bail!("--age: {age:?} is no duration such as 24h"),
            age => age,
        },
    };
    if repair && force {
        tracing::warn!("damaged containers will be removed, whether they run or not");
    }
    if !repair {
        return look(invocation, &options);
    }
    match mend(invocation, &options, force) {
        Err(error) if flag("wipe") => {
            tracing::warn!(error = format!("{error:#}"), "the store is removed");
            let store = Store::open_as_it_is(options::storage(invocation.settings)?);
            store.context("open the store")?.remove_all(force)?;
            upkeep::forget_exits(invocation.settings, None)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
        Ok(kept) if kept.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(kept) => bail!("{}; --force removes damaged containers", counts(&kept)),
    }
}

/// Looks, and changes nothing.
fn look(invocation: &Invocation<'_>, options: &CheckOptions) -> Result<ExitCode> {
    let place = options::storage(invocation.settings)?;
    let tables = storage::check_tables(&place).context("read the store's records")?;
    tell(&tables)?;
    if !tables.is_empty() {
        bail!("{}: nothing else can be looked at", counts(&tables));
    }
    let store = Store::open_as_it_is(place).context("open the store")?;
    let damages = all(&store, options)?;
    tell(&damages)?;
    if damages.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{}", counts(&damages))
}

/// Looks, and repairs. Returns the damage that it is not for us to repair.
///
/// # Errors
/// Something could not be repaired.
fn mend(invocation: &Invocation<'_>, options: &CheckOptions, force: bool) -> Result<Vec<Damage>> {
    let place = options::storage(invocation.settings)?;
    tell(&storage::salvage_tables(&place).context("repair the store's records")?)?;
    let store = Store::open(place).context("open the store")?;
    let damages = all(&store, options)?;
    tell(&damages)?;
    let containers = if force {
        RepairContainers::All
    } else {
        RepairContainers::Keep
    };
    let failed = store.repair(&damages, containers)?;
    upkeep::forget_exits(invocation.settings, Some(&store))?;
    for error in &failed {
        tracing::error!(error = %error, "not repaired");
    }
    let is_kept = |damage: &&Damage| match damage.item {
        Item::Container(_) => !force,
        Item::ReadOnlyLayer(_) | Item::ReadOnlyImage(_) => true,
        _ => false,
    };
    match failed.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(damages.iter().filter(is_kept).cloned().collect()),
    }
}

/// The damage in the store, and containers that belong to no pod.
fn all(store: &Store, options: &CheckOptions) -> Result<Vec<Damage>> {
    let mut damages = store.check(options).context("check the store")?;
    damages.extend(upkeep::containers_without_pod(store)?);
    Ok(damages)
}

fn tell(damages: &[Damage]) -> Result<()> {
    let lines = damages.iter().map(|damage| format!("{damage}\n"));
    super::print(&lines.collect::<String>())
}

/// How many things of each kind are damaged.
fn counts(damages: &[Damage]) -> String {
    type IsOne = fn(&Item) -> bool;
    let kinds: [(&str, IsOne); 7] = [
        ("record", |item| matches!(item, Item::Table(_))),
        ("layer", |item| matches!(item, Item::Layer(_))),
        ("read-only layer", |item| {
            matches!(item, Item::ReadOnlyLayer(_))
        }),
        ("image", |item| matches!(item, Item::Image(_))),
        ("read-only image", |item| {
            matches!(item, Item::ReadOnlyImage(_))
        }),
        ("container", |item| matches!(item, Item::Container(_))),
        ("leftover", |item| matches!(item, Item::Leftover(_))),
    ];
    let counts = kinds.iter().map(|(name, is_one)| {
        let mut items: Vec<_> = damages
            .iter()
            .map(|damage| &damage.item)
            .filter(|item| is_one(item))
            .collect();
        items.dedup();
        format!("{} {name} errors", items.len())
    });
    counts.collect::<Vec<_>>().join(", ")
}
