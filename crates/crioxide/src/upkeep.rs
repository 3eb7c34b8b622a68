//! What is done to the store beside serving: repair after an unclean end, and removing what a reboot
//! or an upgrade made useless.
//!
//! Where CRI-O would remove the whole store because a repair at its start failed, we only say so: our
//! layers are synced before they are recorded, and an operator has `crioxide check --repair --wipe`.
//! Pods are kept over a reboot, with the exit codes that were told, unless somebody sets
//! `internal_wipe`: CRI-O's default is true, ours is false.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result};
use config::Settings;
use storage::{CheckOptions, Damage, ImageId, Item, RepairContainers, Store};

use crate::markers::Markers;
use crate::options;

/// Makes files of records readable that an unclean end has broken, before the store is opened.
pub(crate) fn salvage(settings: &Settings, markers: &Markers) -> Result<()> {
    if !is_repair_wanted(settings, markers) {
        return Ok(());
    }
    for damage in storage::salvage_tables(&options::storage(settings)?)? {
        tracing::error!(%damage, "records lost; the file is kept beside the new one");
    }
    Ok(())
}

/// Looks over the store after an unclean end, and removes what is damaged. Reads no file's content.
pub(crate) fn repair(settings: &Settings, markers: &Markers, store: &Store) -> Result<()> {
    if !is_repair_wanted(settings, markers) {
        return Ok(());
    }
    let damages = store.check(&CheckOptions::default());
    let damages = damages.context("check the store after an unclean end")?;
    for damage in &damages {
        tracing::warn!(%damage, "damaged by an unclean end");
    }
    // What was killed alone left containers that run.
    let containers = if markers.rebooted {
        RepairContainers::Unmounted
    } else {
        RepairContainers::Keep
    };
    for error in store.repair(&damages, containers)? {
        tracing::error!(%error, "not repaired; `crioxide check --repair` may do more");
    }
    forget_exits(settings, Some(store))
}

fn is_repair_wanted(settings: &Settings, markers: &Markers) -> bool {
    markers.unclean && settings.bool("crio", "internal_repair")
}

/// Removes pods after a reboot, and their images too after an upgrade, where `internal_wipe` was set.
pub(crate) async fn wipe(
    settings: &Settings,
    markers: &Markers,
    pods: &pods::Pods,
    images: &image::Images,
) {
    if !settings.bool("crio", "internal_wipe") || !(markers.rebooted || markers.upgraded) {
        return;
    }
    let snapshot = pods.snapshot();
    let used: BTreeSet<String> = snapshot
        .containers
        .values()
        .map(|container| container.made.image_id.clone())
        .collect();
    for id in snapshot.pods.keys() {
        match pods.remove_pod(id.as_str()).await {
            Ok(()) => tracing::info!(pod = id.as_str(), "removed: the node was rebooted"),
            Err(error) => tracing::warn!(pod = id.as_str(), %error, "pod not removed"),
        }
    }
    if markers.upgraded {
        for image in used {
            match images.remove(&image, pods.snapshot().image_volumes()).await {
                Ok(()) => tracing::info!(image, "removed: the version has changed"),
                Err(error) => tracing::warn!(image, %error, "image not removed"),
            }
        }
    }
}

/// Containers of ours, or of CRI-O, whose pod has no record.
///
/// # Errors
/// The store can't be read.
pub(crate) fn containers_without_pod(store: &Store) -> Result<Vec<Damage>> {
    let containers = store.containers().context("list containers")?;
    let known: HashSet<&str> = containers.iter().map(|one| one.id.as_str()).collect();
    let strays = containers.iter().filter_map(|container| {
        let pod = pods::pod_of_record(&container.metadata)?;
        (!known.contains(pod.as_str())).then(|| Damage {
            item: Item::Container(container.id.clone()),
            reason: format!("its pod {pod} has no record"),
        })
    });
    Ok(strays.collect())
}

/// Removes every container of ours, and CRI-O's, and with `with_images` the images that they used.
/// Pods of which something runs stay, and other tools' containers. Returns how many could not be
/// removed, each of which is logged.
///
/// # Errors
/// The store can't be read.
pub(crate) fn wipe_store(settings: &Settings, store: &Store, with_images: bool) -> Result<usize> {
    let mut failed = 0;
    let mut used: BTreeSet<ImageId> = BTreeSet::new();
    let containers = store.containers().context("list containers")?;
    let ours: Vec<_> = containers
        .iter()
        .filter_map(|container| Some((pods::pod_of_record(&container.metadata)?, container)))
        .collect();
    let mut busy: BTreeMap<&str, i64> = BTreeMap::new();
    for (pod, container) in &ours {
        busy.extend(running(&container.dir).map(|pid| (pod.as_str(), pid)));
    }
    for (pod, container) in &ours {
        used.extend(container.image.clone());
        let id = container.id.as_str();
        if let Some(pid) = busy.get(pod.as_str()) {
            failed += 1;
            tracing::error!(container = id, pod, pid, "not deleted: its pod runs");
            continue;
        }
        match store.delete_container(&container.id) {
            Ok(()) => tracing::info!(container = id, "deleted"),
            Err(error) => {
                failed += 1;
                tracing::error!(container = id, %error, "not deleted");
            }
        }
    }
    for image in used.iter().filter(|_| with_images) {
        match store.remove_image(image) {
            Ok(()) => tracing::info!(%image, "deleted"),
            Err(storage::Error::ImageUnknown(_)) => {}
            Err(error) => {
                failed += 1;
                tracing::error!(%image, %error, "not deleted");
            }
        }
    }
    forget_exits(settings, Some(store))?;
    Ok(failed)
}

/// Removes exit records of containers that are gone: all, where there is no store any more.
///
/// # Errors
/// The records or the store can't be read.
pub(crate) fn forget_exits(settings: &Settings, store: Option<&Store>) -> Result<()> {
    let dir = settings.path("crio.runtime", "container_exits_dir");
    let Ok(records) = std::fs::read_dir(&dir) else {
        return Ok(());
    };
    // First the directory: a container is recorded before it can end.
    let records: Vec<_> = records.collect::<Result<_, _>>().context("list exits")?;
    let containers = store.map(Store::containers).transpose();
    let containers = containers.context("list containers")?;
    let containers = containers.iter().flat_map(|all| all.iter());
    let known: HashSet<&str> = containers.map(|one| one.id.as_str()).collect();
    for record in records {
        let name = record.file_name();
        let Some(id) = name.to_str() else { continue };
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id && !known.contains(id) {
            let path = record.path();
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The process of a container whose state says that it runs, if it does.
fn running(dir: &std::path::Path) -> Option<i64> {
    let state = std::fs::read(dir.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
    let pid = state["initPid"].as_i64().or_else(|| state["pid"].as_i64());
    let pid = pid.filter(|pid| *pid > 0)?;
    let started = match &state["initStartTime"] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // proc_pid_stat(5): the name in field 2 may hold anything, so fields count from its end.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    (fields.split(' ').nth(19)? == started).then_some(pid)
}
