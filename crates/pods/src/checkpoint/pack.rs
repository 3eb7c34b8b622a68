//! Writing an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use ::runtime::checkpoint as format;
use serde_json::json;
use storage::{ArchiveWriter, Attributes};

use super::{
    BIND_MOUNTS, CHANGES, CONFIG, DELETED, DUMP_LOG, IMAGES, LOG, SPEC, STATS, images_dir,
};
use crate::node::record_id;
use crate::records::Dirs;
use crate::state::container::Container;
use crate::{Error, bundle};

/// Mounts that every container has: nothing to be told about.
const COMMON: [&str; 7] = [
    "/dev",
    "/dev/shm",
    "/proc",
    "/run",
    "/run/.containerenv",
    "/run/secrets",
    "/sys",
];

/// What an archive is made from.
#[derive(Debug)]
pub(crate) struct Pack<'a> {
    pub(crate) store: &'a storage::Store,
    pub(crate) container: &'a Container,
    pub(crate) handler: &'a str,
    pub(crate) dirs: &'a Dirs,
    /// Where criu has written to.
    pub(crate) work: &'a Path,
    /// The file to be made.
    pub(crate) to: &'a Path,
    /// When it must be done.
    pub(crate) deadline: Instant,
}

/// Writes and syncs the archive. The container should stand still meanwhile. Blocks.
pub(crate) fn pack(from: &Pack<'_>) -> Result<(), Error> {
    let spec_path = from.dirs.bundle.join("config.json");
    let spec = fs::read(&spec_path).map_err(Error::io("read", &spec_path))?;
    let mounts = mounts(&spec);
    let config = config(from);
    let file = create(from.to)?;
    let file = Bounded {
        inner: BufWriter::with_capacity(1 << 20, file),
        deadline: from.deadline,
    };
    let mut archive = Archive {
        writer: ArchiveWriter::new(file),
        at: from.to,
    };
    archive.bytes(CONFIG, &pretty(&config)?)?;
    archive.bytes(SPEC, &spec)?;
    if let Some(mounts) = bind_mounts(&mounts) {
        archive.bytes(BIND_MOUNTS, &pretty(&mounts)?)?;
    }
    for (name, path) in [
        (DUMP_LOG, from.work.join(DUMP_LOG)),
        (STATS, from.work.join(STATS)),
        (LOG, PathBuf::from(&from.container.made.log_path)),
    ] {
        archive.file(name, &path, true)?;
    }
    let images = images_dir(from.work);
    archive.directory(IMAGES)?;
    for path in files(&images)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("{IMAGES}/{name}"), &path, false)?;
    }
    changes(from, &mounts, &mut archive)?;
    let Archive { writer, .. } = archive;
    let file = writer.finish().map_err(|error| failed(error, from.to))?;
    let file = file
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all())
        .map_err(|error| failed(error, from.to))
}

/// What the container changed on disk, by way of a file, since its size comes first.
fn changes(from: &Pack<'_>, mounts: &[Mount], archive: &mut Archive<'_>) -> Result<(), Error> {
    let skip: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| PathBuf::from(mount.destination.trim_matches('/')))
        .collect();
    let path = from.work.join(CHANGES);
    let file = Bounded {
        inner: BufWriter::new(create(&path)?),
        deadline: from.deadline,
    };
    let id = record_id(from.container.id.as_str())?;
    let (diff, _) = from.store.export_changes(&id, &skip, file)?;
    if diff.members > 0 {
        archive.file(CHANGES, &path, false)?;
    }
    if !diff.deleted.is_empty() {
        archive.bytes(DELETED, &pretty(&diff.deleted)?)?;
    }
    Ok(())
}

fn config(from: &Pack<'_>) -> format::Config {
    let Container { id, made, .. } = from.container;
    let name = |path: &str| path.to_owned();
    format::Config {
        id: id.to_string(),
        name: name(&from.container.request.name),
        rootfs_image: from.container.request.image.clone(),
        rootfs_image_ref: made.image_id.clone(),
        rootfs_image_name: made.image_name.clone(),
        runtime: from.handler.to_owned(),
        created_time: bundle::timestamp(from.container.created),
        checkpointed_time: bundle::timestamp(SystemTime::now()),
        // What Go writes for no time.
        restored_time: "0001-01-01T00:00:00Z".to_owned(),
        restored: made.restored.is_some(),
    }
}

/// A mount of a spec.
#[derive(Debug, serde::Deserialize)]
struct Mount {
    destination: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    source: String,
}

fn mounts(spec: &[u8]) -> Vec<Mount> {
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        mounts: Vec<Mount>,
    }
    // We have written it.
    serde_json::from_slice(spec).map_or_else(|_| Vec::new(), |spec: Spec| spec.mounts)
}

/// What a bind mount's source is, for whoever restores where it is missing: criu mounts no directory
/// on a file.
fn bind_mounts(mounts: &[Mount]) -> Option<serde_json::Value> {
    let told = mounts
        .iter()
        .filter(|mount| mount.kind == "bind" && !COMMON.contains(&mount.destination.as_str()))
        .filter_map(|mount| {
            let about = fs::metadata(&mount.source).ok()?;
            Some(json!({
                "source": mount.source,
                "destination": mount.destination,
                "file_type": if about.is_dir() { "directory" } else { "file" },
                "permissions": about.permissions().mode() & 0o777,
            }))
        })
        .collect::<Vec<_>>();
    (!told.is_empty()).then(|| told.into())
}

/// The archive being written.
struct Archive<'a> {
    writer: ArchiveWriter<Bounded<BufWriter<File>>>,
    at: &'a Path,
}

impl Archive<'_> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = self.writer.file(name.as_bytes(), &now(0o600), size, bytes);
        written.map_err(|error| failed(error, self.at))
    }

    fn directory(&mut self, name: &str) -> Result<(), Error> {
        let written = self.writer.directory(name.as_bytes(), &now(0o700));
        written.map_err(|error| failed(error, self.at))
    }

    /// Writes the file at `path`; one that is not there only where it has to be.
    fn file(&mut self, name: &str, path: &Path, optional: bool) -> Result<(), Error> {
        let file = match File::open(path) {
            Err(missing) if optional && missing.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(Error::io("open", path))?,
        };
        let size = file.metadata().map_err(Error::io("stat", path))?.len();
        let written = self.writer.file(name.as_bytes(), &now(0o600), size, file);
        written.map_err(|error| failed(error, self.at))
    }
}

fn now(mode: u32) -> Attributes {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Attributes {
        mode,
        modified: i64::try_from(since.as_secs()).unwrap_or(0),
        ..Attributes::default()
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Makes a file that was not there, which only root reads: a process's memory will be in it.
fn create(path: &Path) -> Result<File, Error> {
    let new = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    new.map_err(Error::io("make", path))
}

/// Makes the directories in which a checkpoint is made, after what an earlier one left.
pub(crate) fn make_work_dir(work: &Path) -> Result<(), Error> {
    remove_dir(work)?;
    for dir in [work.to_owned(), images_dir(work)] {
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(Error::io("make", dir))?;
    }
    Ok(())
}

/// Removes a directory; fine if there is none.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", dir)),
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|wrong| Error::Internal(wrong.to_string()))
}

/// A writer that fails when time is up.
struct Bounded<W> {
    inner: W,
    deadline: Instant,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn failed(error: io::Error, path: &Path) -> Error {
    if error.kind() == io::ErrorKind::TimedOut {
        return Error::TimedOut("time is up while the checkpoint's archive is written".to_owned());
    }
    Error::io("write", path)(error)
}
