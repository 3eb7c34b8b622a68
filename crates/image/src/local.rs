//! Images of the node itself: in files (`oci:`, `oci-archive:`, `docker-archive:`, `dir:`) or in
//! another store (`containers-storage:`), as containers-transports(5) names them. For preloading, never
//! for what a pod names: a reference of a pod must not make the daemon read the node's files.
//!
//! A bundle is one image in such files. It, and an image in a store, answer as a registry does, by
//! manifest and blob, so that all that follows (digests, platforms, policies, layers) is the same as for
//! a pull.

mod directory;
mod docker;
mod layout;
mod location;
mod stored;
mod tree;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use storage::{Digest, UnpackLimits};
use trust::Signature;

pub use self::location::{Location, Transport};
pub(crate) use self::stored::Stored;
use self::tree::Tree;
use crate::error::Result;
use crate::reference::Reference;

/// An image of the node itself.
#[derive(Debug)]
pub(crate) enum Local {
    /// In files.
    Files(Bundle),
    /// In another store.
    Stored(Stored),
}

impl Local {
    /// Finds it; blocks. As [`Bundle::open`].
    ///
    /// # Errors
    /// [`crate::Error::Local`]: it is not there, or not what the transport says.
    pub(crate) fn open(
        location: &Location,
        limits: UnpackLimits,
        temporary: &std::path::Path,
    ) -> Result<Self> {
        match location.transport {
            Transport::ContainersStorage(driver) => {
                Stored::open(location, driver).map(Self::Stored)
            }
            _ => Bundle::open(location, limits, temporary).map(Self::Files),
        }
    }

    pub(crate) fn location(&self) -> &Location {
        match self {
            Self::Files(bundle) => &bundle.location,
            Self::Stored(stored) => stored.location(),
        }
    }

    /// The names that it says of itself.
    pub(crate) fn names(&self) -> Vec<Reference> {
        match self {
            Self::Files(bundle) => bundle.names.clone(),
            Self::Stored(stored) => stored.names(),
        }
    }

    /// Asks a policy about it.
    pub(crate) fn ask<T>(
        &self,
        ask: impl FnOnce(&trust::Local<'_>) -> Result<T, trust::Refused>,
    ) -> Result<T> {
        match self {
            Self::Files(bundle) => bundle.ask(ask),
            Self::Stored(stored) => stored.ask(ask),
        }
    }

    /// The manifest or index with that digest; without one, that which stands for the image.
    pub(crate) fn manifest(&self, digest: Option<&Digest>, limit: usize) -> Result<Bytes> {
        match self {
            Self::Files(bundle) => bundle.manifest(digest, limit),
            Self::Stored(stored) => stored.manifest(digest, limit),
        }
    }

    /// A small blob.
    pub(crate) fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        match self {
            Self::Files(bundle) => bundle.small_blob(digest, limit),
            Self::Stored(stored) => stored.small_blob(digest, limit),
        }
    }

    /// The signatures of the manifest with that digest.
    pub(crate) fn signatures(&self, of: &Digest) -> Result<Vec<Signature>> {
        match self {
            Self::Files(bundle) => bundle.signatures(of),
            Self::Stored(stored) => Ok(stored.signatures(of)),
        }
    }
}

/// An image in files of the node.
#[derive(Debug)]
pub(crate) struct Bundle {
    location: Location,
    tree: Tree,
    content: Content,
    /// The names that it gives itself.
    names: Vec<Reference>,
}

/// Where the parts of an image are in a [`Tree`].
#[derive(Debug)]
struct Content {
    /// The manifest or index to begin with.
    first: Bytes,
    /// The path of a blob or of a further manifest by its digest.
    blobs: Blobs,
}

/// How blobs are named.
#[derive(Debug)]
enum Blobs {
    /// `blobs/ALGORITHM/HEX` (image-layout.md of the OCI image specification).
    Layout,
    /// Side by side.
    Flat,
    /// As the archive's own list says.
    Listed(HashMap<Digest, String>),
}

impl Bundle {
    /// Opens it and finds the image; blocks. `temporary` is where an archive that is compressed is
    /// laid out, without a name.
    ///
    /// # Errors
    /// [`crate::Error::Local`]: a file is missing or not what the transport says.
    pub(crate) fn open(
        location: &Location,
        limits: UnpackLimits,
        temporary: &std::path::Path,
    ) -> Result<Self> {
        let tree = match location.transport {
            Transport::Oci | Transport::Dir => Tree::directory(&location.path),
            Transport::OciArchive | Transport::DockerArchive => {
                Tree::archive(&location.path, limits, temporary)
            }
            Transport::ContainersStorage(_) => Err("a store is no file".to_owned()),
        };
        let found = tree.and_then(|tree| {
            let (content, names) = match location.transport {
                Transport::Oci | Transport::OciArchive => layout::find(&tree, location)?,
                Transport::DockerArchive => docker::find(&tree, location)?,
                Transport::Dir | Transport::ContainersStorage(_) => directory::find(&tree)?,
            };
            Ok((tree, content, names))
        });
        let (tree, content, names) = found.map_err(|reason| location.error(reason))?;
        let names = names.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Self {
            location: location.clone(),
            tree,
            content,
            names,
        })
    }

    fn ask<T>(
        &self,
        ask: impl FnOnce(&trust::Local<'_>) -> Result<T, trust::Refused>,
    ) -> Result<T> {
        let path = self.location.real_path()?;
        Ok(ask(&trust::Local::Files(trust::Files {
            transport: self.location.transport.name(),
            path: &path,
            which: self.location.which.as_deref(),
        }))?)
    }

    /// The manifest or index with that digest; without one, that which stands for the image.
    pub(crate) fn manifest(&self, digest: Option<&Digest>, limit: usize) -> Result<Bytes> {
        let Some(digest) = digest else {
            return Ok(self.content.first.clone());
        };
        let path = match self.content.blobs {
            Blobs::Flat => directory::manifest(digest),
            _ => self.path(digest)?,
        };
        self.bytes(&path, limit)
    }

    fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        self.bytes(&self.path(digest)?, limit)
    }

    /// A blob, to be read from its beginning.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<impl Read + Send + use<>> {
        let path = self.path(digest)?;
        self.tree
            .open(&path)
            .map_err(|reason| self.location.error(format!("{path}: {reason}")))
    }

    /// `dir:` alone has any, as with containers/image.
    fn signatures(&self, of: &Digest) -> Result<Vec<Signature>> {
        if self.location.transport != Transport::Dir {
            return Ok(Vec::new());
        }
        let first = crate::blob::verify(&self.content.first, of).is_ok();
        let found = directory::signatures(&self.tree, (!first).then_some(of));
        found.map_err(|reason| self.location.error(reason))
    }

    fn bytes(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.tree
            .bytes(path, limit)
            .map_err(|reason| self.location.error(reason))
    }

    fn path(&self, digest: &Digest) -> Result<String> {
        match &self.content.blobs {
            Blobs::Layout => Ok(layout::blob(digest)),
            Blobs::Flat => Ok(directory::blob(digest)),
            Blobs::Listed(paths) => paths.get(digest).cloned().ok_or_else(|| {
                self.location
                    .error(format!("it has no blob of the digest {digest}"))
            }),
        }
    }
}

/// A reader that tells how far it got.
pub(crate) struct Counted<R> {
    inner: R,
    tracker: Arc<crate::progress::LayerTracker>,
}

impl<R> Counted<R> {
    pub(crate) fn new(inner: R, tracker: Arc<crate::progress::LayerTracker>) -> Self {
        Self { inner, tracker }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(into)?;
        self.tracker.add(length as u64);
        Ok(length)
    }
}
