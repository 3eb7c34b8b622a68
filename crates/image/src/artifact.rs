//! An artifact as it is listed, and its files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use storage::{Digest, ImageId, StoredArtifact};

use crate::error::{Error, Result};
use crate::manifest::{Descriptor, Manifest};

/// Where a layer says what its file is called: OCI's annotation, then the model specification's.
const TITLES: [&str; 2] = ["org.opencontainers.image.title", "org.cncf.model.filepath"];

/// An artifact of the store.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The hexadecimal digest of its manifest.
    pub id: ImageId,
    /// `host/path:tag`, for each.
    pub repo_tags: Vec<String>,
    /// `host/path@digest`, for each repository that it has a name in.
    pub repo_digests: Vec<String>,
    /// Bytes of its layers.
    pub size: u64,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the kubelet must not collect it.
    pub pinned: bool,
    layers: Vec<Descriptor>,
    stored: Arc<StoredArtifact>,
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its name, perhaps with directories; it never climbs.
    pub name: PathBuf,
    /// Where it is on the host.
    pub path: PathBuf,
}

impl Artifact {
    pub(crate) fn new(
        stored: Arc<StoredArtifact>,
        manifest: Manifest,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        pinned: bool,
    ) -> Result<Self> {
        Ok(Self {
            id: stored.digest.hex().parse()?,
            repo_tags,
            repo_digests,
            size: manifest.layers.iter().map(|layer| layer.size).sum(),
            annotations: manifest.annotations,
            pinned,
            layers: manifest.layers,
            stored,
        })
    }

    /// It as the store has it.
    pub(crate) fn stored(&self) -> Arc<StoredArtifact> {
        Arc::clone(&self.stored)
    }

    /// The bytes of its first layer, whatever it is called.
    ///
    /// # Errors
    /// [`Error::BadLayer`] where there is none or it is larger than `limit` bytes. Blocks.
    pub fn data(&self, limit: usize) -> Result<Vec<u8>> {
        let bad = |layer: &Digest, reason: &str| Error::BadLayer {
            layer: layer.clone(),
            reason: reason.to_owned(),
        };
        let Some(layer) = self.layers.first() else {
            return Err(bad(&self.stored.digest, "the artifact has no data"));
        };
        if layer.size > limit as u64 {
            return Err(bad(&layer.digest, "larger than what is read"));
        }
        let path = self.stored.blob(&layer.digest)?;
        let read = || {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(&path)?;
            file.take(layer.size + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| storage::Error::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        crate::blob::verify(&bytes, &layer.digest).map_err(|actual| Error::DigestMismatch {
            expected: layer.digest.clone(),
            actual,
        })?;
        Ok(bytes)
    }

    /// Its files: the layers that have a name.
    ///
    /// # Errors
    /// [`Error::BadLayer`] of a name that climbs or that two layers have; [`Error::Storage`] where a
    /// file is missing. Blocks.
    pub fn files(&self) -> Result<Vec<ArtifactFile>> {
        let mut names = BTreeSet::new();
        let mut files = Vec::new();
        for (name, digest) in named(&self.layers) {
            let bad = |reason: &str| Error::BadLayer {
                layer: digest.clone(),
                reason: format!("{reason}: {name:?}"),
            };
            let name = clean(name).ok_or_else(|| bad("not a name for a file"))?;
            if !names.insert(name.clone()) {
                return Err(bad("the name of two files"));
            }
            let path = self.stored.blob(digest)?;
            files.push(ArtifactFile { name, path });
        }
        Ok(files)
    }
}

fn named(layers: &[Descriptor]) -> impl Iterator<Item = (&str, &Digest)> {
    layers.iter().filter_map(|layer| {
        let title = TITLES.iter().find_map(|key| layer.annotations.get(*key));
        let title = title.filter(|title| !title.is_empty())?;
        Some((title.as_str(), &layer.digest))
    })
}

/// A path of plain components, or none.
fn clean(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let fine = !path.as_os_str().is_empty() && !name.contains('\0') && !name.ends_with('/');
    fine.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_never_climbs() {
        for (name, cleaned) in [
            ("a", Some("a")),
            ("./dir/a.json", Some("dir/a.json")),
            ("a/./b", Some("a/b")),
            ("/etc/passwd", None),
            ("../a", None),
            ("a/../../b", None),
            (".", None),
            ("a/", None),
            ("a\0b", None),
        ] {
            assert_eq!(clean(name), cleaned.map(PathBuf::from), "{name:?}");
        }
    }
}
