//! Opening a store: the directories, whether overlay can work there, and what the last process
//! to die left behind.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use sys::beneath::Dir;
use sys::mount::{self, Propagation};

use crate::error::Context;
use crate::paths::Paths;
use crate::record::{ContainerRecord, LayerRecord, Record};
use crate::staging::{self, Staging};
use crate::table::{Half, Writing};
use crate::{Driver, Error, LayerId, Store, containers, driver, layer_stores, mounts, quota};

/// File systems that can't hold overlay's upper layers, by `statfs(2)`'s magic number.
const UNSUITABLE: [(u32, &str); 5] = [
    (0x794c_7630, "overlay"),
    (0x6175_6673, "aufs"),
    (0xf15f, "ecryptfs"),
    (0x6969, "nfs"),
    (0x0102_1997, "9p"),
];

/// Makes the directories and looks whether the kernel's overlay can work there, unless a program mounts in
/// its place.
pub(crate) fn prepare(paths: &Paths, by_program: bool) -> Result<(), Error> {
    driver::make_dirs(paths.root(), 0o700)?;
    driver::make_dirs(paths.run_root(), 0o700)?;
    let kind = paths.driver();
    if kind == Driver::Overlay && !by_program {
        backing_file_system(paths.root())?;
    }
    for home in paths.own_homes() {
        kind.prepare(&home)?;
        driver::make_dirs(&staging::staging_of(&home), 0o700)?;
        directory_types(&home)?;
    }
    if by_program {
        mounts::tell_peers(&paths.home()).at("write to", paths.home())?;
    }
    driver::make_dirs(&kind.home(paths.run_root()), 0o700)?;
    if paths.is_split() {
        driver::make_dirs(&kind.table(paths.image_root(), "layers"), 0o700)?;
    }
    for root in paths.additional() {
        if !fs::metadata(root).at("stat", root)?.is_dir() {
            let reason = "it is no directory".into();
            return Err(Error::Unsuitable {
                path: root.clone(),
                reason,
            });
        }
    }
    for table in ["layers", "images", "containers"] {
        driver::make_dirs(&paths.table(table), 0o700)?;
    }
    for table in ["layers", "containers", "locks"] {
        driver::make_dirs(&paths.run_table(table), 0o700)?;
    }
    for lock in ["storage.lock", "userns.lock"] {
        let path = paths.root().join(lock);
        sys::lock::LockFile::open(&path).at("open", path)?;
    }
    Ok(())
}

/// `overlay/` mounted onto itself, privately, as every peer does when it opens a store: the first
/// peer to come would else put that mount on top of our containers' mounts and hide them. Taken
/// away with the store unless it is in use (or was there before).
#[derive(Debug)]
pub(crate) struct Home(Option<PathBuf>);

impl Home {
    pub(crate) fn mount(paths: &Paths, wanted: bool) -> Result<Self, Error> {
        if !wanted || paths.driver() != Driver::Overlay {
            return Ok(Self(None));
        }
        let overlay = paths.home();
        // A mount on the directory would hide what is mounted below it.
        let there = mount::is_mount_point(&overlay).at("stat", &overlay)?;
        if there
            || !mount::beneath(&overlay)
                .at("look for mounts below", &overlay)?
                .is_empty()
        {
            return Ok(Self(None));
        }
        mount::bind(&overlay, &overlay, false).at("mount", &overlay)?;
        mount::set_propagation(&overlay, Propagation::Private, false).at("mount", &overlay)?;
        Ok(Self(Some(overlay)))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(overlay) = &self.0
            && let Err(error) = mount::unmount_idle(overlay)
        {
            // Containers that go on running are the usual case.
            tracing::debug!(path = %overlay.display(), %error, "store's mount stays");
        }
    }
}

fn backing_file_system(root: &Path) -> Result<(), Error> {
    let statfs = rustix::fs::statfs(root).at("statfs", root)?;
    let magic = u64::try_from(statfs.f_type).unwrap_or_default();
    match UNSUITABLE
        .iter()
        .find(|(known, _)| u64::from(*known) == magic)
    {
        Some((_, name)) => {
            let reason = format!("'overlay' is not supported over {name}");
            Err(Error::Unsuitable {
                path: root.to_owned(),
                reason,
            })
        }
        None => Ok(()),
    }
}

/// Overlay needs to know what a directory's entries are (XFS made with `ftype=0` can't tell).
fn directory_types(overlay: &Path) -> Result<(), Error> {
    let entries = Dir::open(overlay)
        .and_then(|dir| dir.entries())
        .at("list", overlay)?;
    if entries.iter().any(|(_, kind)| *kind == FileType::Unknown) {
        let reason = "the file system does not support d_type (XFS: make it with ftype=1)".into();
        return Err(Error::Unsuitable {
            path: overlay.to_owned(),
            reason,
        });
    }
    Ok(())
}

/// Removes directories and files of processes that died while they made them.
pub(crate) fn sweep(paths: &Paths) -> Result<(), Error> {
    staging::sweep(paths)?;
    for table in ["layers", "images", "containers"] {
        for dir in [paths.table(table), paths.run_table(table)] {
            sys::durable::sweep(&dir).at("sweep", &dir)?;
        }
    }
    Ok(())
}

/// Removes what nobody will finish, and rebuilds what a power cut tore.
pub(crate) fn repair(store: &Store) -> Result<(), Error> {
    let paths = store.paths();
    sweep(paths)?;
    rebuild_torn(store)?;
    let trash = Staging::new(paths)?;
    let mut layers = store.0.layers.write()?;
    remove_incomplete(paths, &mut layers, &trash)?;
    remove_orphans(paths, &layers, &trash)?;
    let ids = layers.rows.iter().map(|layer| layer.id.clone());
    paths.driver().repair(paths, ids)?;
    drop(layers);
    store.prune_writable().map(drop)
}

/// Whether a volatile table was not written to its end. Peers write `[]` for no records, so an
/// empty file is one whose bytes a power cut took.
fn is_torn(path: &Path) -> Result<bool, Error> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        read => {
            let bytes = read.at("read", path)?;
            let text = std::str::from_utf8(&bytes).unwrap_or_default();
            Ok(serde_json::from_str::<serde::de::IgnoredAny>(text).is_err())
        }
    }
}

/// Fills a torn volatile table from the copies of the records in the containers' directories.
fn rebuild_torn(store: &Store) -> Result<(), Error> {
    let (layers, containers) = (&store.0.layers, &store.0.containers);
    let torn_layers = is_torn(layers.file(Half::Volatile))?;
    let torn_containers = is_torn(containers.file(Half::Volatile))?;
    if !torn_layers && !torn_containers {
        return Ok(());
    }
    tracing::warn!(
        torn_layers,
        torn_containers,
        "rebuilding the containers' records"
    );
    // Under the peers' locks, in their order; a table that can't be parsed can't be loaded either,
    // so it is emptied first.
    if torn_layers {
        reset(layers.file(Half::Volatile))?;
    }
    if torn_containers {
        reset(containers.file(Half::Volatile))?;
    }
    let mut layers = layers.write()?;
    let mut containers = containers.write()?;
    for copy in containers::copies(store.paths())? {
        if torn_layers && let Some(layer) = copy.layer {
            let there = store.paths().writable_layer(&layer.id);
            let there = store.paths().driver().files(&there);
            if fs::symlink_metadata(there).is_ok() {
                add(
                    &mut layers,
                    LayerRecord {
                        half: Half::Volatile,
                        ..layer
                    },
                );
            }
        }
        if torn_containers {
            add(
                &mut containers,
                ContainerRecord {
                    half: Half::Volatile,
                    ..copy.container
                },
            );
        }
    }
    layers.save(Half::Volatile)?;
    containers.save(Half::Volatile)
}

fn reset(path: &Path) -> Result<(), Error> {
    sys::durable::replace_volatile(path, b"[]", 0o600).at("write", path)
}

fn add<R: Record, V>(table: &mut Writing<'_, R, V>, record: R) {
    if table.get(record.id()).is_none() {
        table.rows.push(Arc::new(record));
    }
}

/// Removes the layers that are marked: whoever marked them held the lock that we hold now.
pub(crate) fn remove_incomplete(
    paths: &Paths,
    layers: &mut Writing<'_, LayerRecord, ()>,
    trash: &Staging,
) -> Result<(), Error> {
    let marked: Vec<_> = layers
        .rows
        .iter()
        .filter(|row| row.is_incomplete())
        .cloned()
        .collect();
    for layer in &marked {
        tracing::debug!(layer = %layer.id, "removing a layer marked incomplete");
        take_layer(paths, &layer.id, trash)?;
    }
    layers.rows.retain(|row| !row.is_incomplete());
    for half in Half::ALL {
        if marked.iter().any(|row| row.half == half) {
            layers.save(half)?;
        }
    }
    Ok(())
}

/// Moves everything of a layer out of the way.
pub(crate) fn take_layer(paths: &Paths, id: &LayerId, trash: &Staging) -> Result<(), Error> {
    let layer = paths.own_layer(id);
    if paths.driver() == Driver::Overlay {
        quota::release(&paths.home(), &layer);
    }
    paths.driver().forget(&layer)?;
    if paths.driver() == Driver::Overlay {
        layer_stores::forget(&layer);
    }
    trash.take(&layer)?;
    trash.take(&paths.own_beside_layers(&format!("{id}.tar-split.gz")))?;
    trash.take(&paths.own_beside_layers(id.as_str()))
}

/// Removes directories of layers that have no record: a volatile table lost them. Every maker of
/// such a directory writes the record before, under the lock that we hold.
fn remove_orphans(
    paths: &Paths,
    layers: &Writing<'_, LayerRecord, ()>,
    trash: &Staging,
) -> Result<(), Error> {
    let known: HashSet<&str> = layers.rows.iter().map(|row| row.id.as_str()).collect();
    for home in paths.own_homes() {
        remove_orphans_in(&paths.driver().layers(&home), paths, &known, trash)?;
    }
    Ok(())
}

fn remove_orphans_in(
    layers: &Path,
    paths: &Paths,
    known: &HashSet<&str>,
    trash: &Staging,
) -> Result<(), Error> {
    let dir = Dir::open(layers).at("open", layers)?;
    for (name, _) in dir.entries().at("list", layers)? {
        let Some(text) = name.to_str().filter(|_| driver::is_layer_name(&name)) else {
            continue;
        };
        if known.contains(text) {
            continue;
        }
        let id: LayerId = text.parse()?;
        tracing::warn!(layer = %id, "removing a layer that has no record");
        let merged = paths.driver().merged(&layers.join(text));
        if mount::is_mount_point(&merged).at("stat", &merged)? {
            mount::unmount_lazily(&merged).at("unmount", &merged)?;
        }
        take_layer(paths, &id, trash)?;
    }
    Ok(())
}
