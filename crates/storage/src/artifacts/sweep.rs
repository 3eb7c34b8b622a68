//! Blobs that nothing refers to any more. All under the lock.

use std::collections::HashSet;
use std::fs::{self, File};
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
            self.remove_blob(digest.algorithm(), digest.hex())?;
        }
        Ok(())
    }

    /// Removes all blobs that no artifact has, unless they are younger than `age`.
    pub(super) fn sweep(&self, index: &Index, age: Duration) -> Result<usize, Error> {
        let needed = self.reachable(index.entries().map(|(digest, _)| digest))?;
        let Some(before) = SystemTime::now().checked_sub(age) else {
            return Ok(0);
        };
        let mut removed = 0;
        for algorithm in ["sha256", "sha512"] {
            let dir = self.dir.join("blobs").join(algorithm);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.at("read", &dir)?,
            };
            for entry in entries {
                let entry = entry.at("read", &dir)?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
                    continue;
                };
                let modified = entry.metadata().and_then(|of| of.modified());
                if needed.contains(&digest) || modified.at("stat", entry.path())? > before {
                    continue;
                }
                self.remove_blob(algorithm, &name)?;
                removed += 1;
            }
        }
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

    fn remove_blob(&self, algorithm: &str, hex: &str) -> Result<(), Error> {
        let path = self.dir.join("blobs").join(algorithm).join(hex);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.at("remove", path),
        }
    }
}
