//! Blobs that nothing refers to any more, and signatures of what is gone. All under the lock.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Layout;
use super::index::{Index, References};
use crate::error::Context;
use crate::{Digest, Error, limits};

impl Layout {
    /// Removes the blobs of the manifest `gone` that no artifact of `index` has. A peer may be
    /// writing blobs of something that is in no index yet: those are not touched.
    pub(super) fn sweep_of(&self, gone: &Digest, index: &Index) -> Result<(), Error> {
        let doomed = self.reachable([gone.clone()].into_iter())?;
        let needed = self.reachable(index.entries().map(|(digest, _)| digest))?;
        for digest in doomed.difference(&needed) {
            remove_file(&self.blob(digest))?;
        }
        if !needed.contains(gone) {
            remove_file(&self.signatures().join(gone.hex()))?;
        }
        Ok(())
    }

    /// Removes all blobs that no artifact has, and signatures of none, unless they are younger than
    /// `age`. Says how many blobs.
    pub(super) fn sweep(&self, index: &Index, age: Duration) -> Result<usize, Error> {
        let needed = self.reachable(index.entries().map(|(digest, _)| digest))?;
        let Some(before) = SystemTime::now().checked_sub(age) else {
            return Ok(0);
        };
        let mut removed = 0;
        for algorithm in ["sha256", "sha512"] {
            let of = |name: &str| format!("{algorithm}:{name}").parse().ok();
            let unneeded = |name: &str| of(name).is_some_and(|digest| !needed.contains(&digest));
            removed += sweep_dir(&self.dir.join("blobs").join(algorithm), before, unneeded)?;
        }
        // Ours alone: what is no digest a death left there.
        let of = |name: &str| format!("sha256:{name}").parse().ok();
        let unneeded = |name: &str| of(name).is_none_or(|digest| !needed.contains(&digest));
        sweep_dir(&self.signatures(), before, unneeded)?;
        Ok(removed)
    }

    /// All that those manifests refer to, and they themselves. A manifest that is not there refers
    /// to nothing; one that can't be read is an error: what it needs must not go.
    fn reachable(&self, roots: impl Iterator<Item = Digest>) -> Result<HashSet<Digest>, Error> {
        let mut seen = HashSet::new();
        let mut open: Vec<Digest> = roots.collect();
        while let Some(digest) = open.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let path = self.blob(&digest);
            let file = match File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.at("open", &path)?,
            };
            let bytes = super::blobs::read(file, limits::INDEX_BYTES, &path)?;
            let references =
                References::parse(&bytes).map_err(|source| Error::Damaged { path, source })?;
            open.extend(references.manifests().cloned());
            seen.extend(references.blobs().cloned());
        }
        Ok(seen)
    }
}

/// Removes the files of a directory that are unneeded by their name and were last changed before that
/// time.
fn sweep_dir(
    dir: &Path,
    before: SystemTime,
    unneeded: impl Fn(&str) -> bool,
) -> Result<usize, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.at("read", dir)?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.at("read", dir)?;
        if !entry.file_name().to_str().is_some_and(&unneeded) {
            continue;
        }
        let modified = entry.metadata().and_then(|of| of.modified());
        if modified.at("stat", entry.path())? <= before {
            remove_file(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// What is not there is removed already.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.at("remove", path),
    }
}
