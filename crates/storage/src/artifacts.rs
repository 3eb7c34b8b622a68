//! Artifacts: an OCI image layout in `artifacts/` beneath the graph root, as podman's and CRI-O's
//! libartifact keep it. An entry of `index.json` is an artifact; its name is in the annotation
//! `org.opencontainers.image.ref.name`, and an entry whose name moved on has none. Ours alone is
//! `signatures/` in it, with a file of the caller's form by each manifest's digits: peers read only what
//! the layout names.
//!
//! Invariants:
//! * A blob has its name only when all of it is there: it is written without one, synced, then
//!   linked. Blobs are durable before the index that refers to them, and go after it.
//! * The index is changed under `index.lock` (peers hold it through a whole pull, so readers don't
//!   wait for it), and replaced whole. What an index says beside what is read here stays in it.
//! * An additional store is only ever read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sys::lock::{Kind, LockFile};

use crate::error::Context;
use crate::table::{self, Order, Rank};
use crate::{Digest, Error, Store, limits};

mod blobs;
pub(crate) mod index;
mod sweep;

pub use blobs::{BlobWriter, StagedBlob};
use index::Index;

/// The artifacts of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct ArtifactStore(Arc<Layouts>);

#[derive(Debug)]
struct Layouts {
    main: Layout,
    additional: Vec<Layout>,
    lock_timeout: Duration,
}

/// One layout.
#[derive(Debug)]
struct Layout {
    dir: PathBuf,
    read_only: bool,
    /// What was read of it last, and of which index: blobs never change.
    cache: Mutex<Option<(Stamp, Artifacts)>>,
}

type Artifacts = Arc<[Arc<StoredArtifact>]>;

/// What changes with an index.
type Stamp = (u64, u64, i64, i64);

/// An artifact that is stored.
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// `host/path:tag` or `host/path@digest`; none once the name has moved to another.
    pub name: Option<String>,
    /// The manifest's SHA-256 digest.
    pub digest: Digest,
    /// The manifest, whose digest is checked.
    pub manifest: Vec<u8>,
    /// Whether it is of an additional store.
    pub read_only: bool,
    dir: PathBuf,
}

/// Beneath the layout.
const SIGNATURES: &str = "signatures";

/// An artifact that is to be stored.
#[derive(Debug)]
pub struct NewArtifact {
    /// Its name, which another artifact may have so far.
    pub name: String,
    /// SHA-256 digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// Blobs that were fetched.
    pub blobs: Vec<StagedBlob>,
    /// All blobs that it needs, each with its size.
    pub needed: Vec<(Digest, u64)>,
}

impl Store {
    /// The artifacts beneath its graph root, and those in `artifacts` beneath each of `additional`,
    /// which come first and are only read. Nothing is made before the first artifact.
    #[must_use]
    pub fn artifacts(&self, additional: &[PathBuf]) -> ArtifactStore {
        ArtifactStore::new(self.root(), additional, self.0.options.lock_timeout)
    }
}

impl ArtifactStore {
    fn new(root: &Path, additional: &[PathBuf], lock_timeout: Duration) -> Self {
        let layout = |root: &Path, read_only| Layout {
            dir: root.join("artifacts"),
            read_only,
            cache: Mutex::default(),
        };
        Self(Arc::new(Layouts {
            main: layout(root, false),
            additional: additional.iter().map(|path| layout(path, true)).collect(),
            lock_timeout,
        }))
    }

    /// All artifacts, those of additional stores first. A name that was found is not found again.
    /// An additional store that can't be read is logged and passed over.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`]: of the store's own.
    pub fn list(&self) -> Result<Vec<Arc<StoredArtifact>>, Error> {
        let mut found: Vec<Arc<StoredArtifact>> = Vec::new();
        for layout in &self.0.additional {
            match layout.read() {
                Ok(artifacts) => found.extend(artifacts.iter().cloned()),
                Err(error) => {
                    tracing::warn!(path = %layout.dir.display(), %error, "an additional artifact store is not read");
                }
            }
        }
        found.extend(self.0.main.read()?.iter().cloned());
        let mut names = HashSet::new();
        found.retain(|artifact| match &artifact.name {
            Some(name) => names.insert(name.clone()),
            None => true,
        });
        Ok(found)
    }

    /// Whether the store's own blobs have that one.
    ///
    /// # Errors
    /// Of `stat(2)`.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let path = self.0.main.blob(digest);
        match fs::symlink_metadata(&path) {
            Ok(there) => Ok(there.is_file() && there.len() == size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("stat", path),
        }
    }

    /// Begins a blob. Dropped without [`ArtifactStore::put`], nothing of it stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stage_blob(&self) -> Result<BlobWriter, Error> {
        self.0.main.prepare()?;
        BlobWriter::new(&self.0.main.dir)
    }

    /// Stores an artifact, durably. One that had its name so far stays without. `signatures` makes what
    /// [`StoredArtifact::signatures`] gives back from what is kept with this manifest, with the layout
    /// locked; of nothing, what is kept stays.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::NoBlob`] where a needed blob was removed meanwhile.
    pub fn put(
        &self,
        artifact: NewArtifact,
        signatures: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<(), Error> {
        let main = &self.0.main;
        main.prepare()?;
        let _lock = main.lock(Kind::Exclusive, self.0.lock_timeout)?;
        let mut index = main.index()?;
        for blob in artifact.blobs {
            blob.link(&main.blobs(blob.digest()))?;
        }
        let mut manifest = BlobWriter::new(&main.dir)?;
        io::Write::write_all(&mut manifest, &artifact.manifest).at("write", &main.dir)?;
        let manifest = manifest.finish(&artifact.digest)?;
        let size = manifest.size();
        manifest.link(&main.blobs(&artifact.digest))?;
        for (digest, size) in &artifact.needed {
            if !self.has_blob(digest, *size)? {
                return Err(Error::NoBlob(digest.clone()));
            }
        }
        main.sync_blobs()?;
        let kept = signatures_in(&main.dir, &artifact.digest, limits::BIG_DATA_BYTES)?;
        main.keep_signatures(&artifact.digest, &kept, &signatures(&kept))?;
        sys::fault::point("storage.artifact.blobs").at("put", &main.dir)?;
        index.put(&artifact.name, &artifact.digest, size, &artifact.media_type);
        main.replace_index(&index)
    }

    /// Removes `name` from the artifact with that digest, or all of its names; with the last one its
    /// blobs go that no other artifact has. What is not there is removed already.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn remove(&self, digest: &Digest, name: Option<&str>) -> Result<(), Error> {
        let main = &self.0.main;
        if !main.dir.try_exists().at("stat", &main.dir)? {
            return Ok(());
        }
        let _lock = main.lock(Kind::Exclusive, self.0.lock_timeout)?;
        let mut index = main.index()?;
        let before = index.len();
        index.remove(digest, name);
        if index.len() == before {
            return Ok(());
        }
        main.replace_index(&index)?;
        sys::fault::point("storage.artifact.unnamed").at("remove", &main.dir)?;
        // It is removed; what is left of it goes later ([`ArtifactStore::prune`]).
        if let Err(error) = main.sweep_of(digest, &index) {
            tracing::warn!(artifact = %digest, %error, "blobs of a removed artifact stay");
        }
        Ok(())
    }

    /// Removes blobs that nothing refers to and that are older than `age`, which has to be longer
    /// than any pull: a death between blobs and index left them. Says how many.
    ///
    /// # Errors
    /// As [`ArtifactStore::remove`].
    pub fn prune(&self, age: Duration) -> Result<usize, Error> {
        let main = &self.0.main;
        if !main.dir.try_exists().at("stat", &main.dir)? {
            return Ok(0);
        }
        let _lock = main.lock(Kind::Exclusive, self.0.lock_timeout)?;
        main.sweep(&main.index()?, age)
    }
}

impl StoredArtifact {
    /// Where a blob of it is, if it is a file there.
    ///
    /// # Errors
    /// [`Error::NoBlob`].
    pub fn blob(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let path = blob_path(&self.dir, digest);
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_file() => Ok(path),
            Ok(_) => Err(Error::NoBlob(digest.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoBlob(digest.clone()))
            }
            Err(error) => Err(error).at("stat", path),
        }
    }

    /// The signatures that were kept with it; nothing where nobody kept any.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond `limit` bytes; [`Error::Io`].
    pub fn signatures(&self, limit: u64) -> Result<Vec<u8>, Error> {
        signatures_in(&self.dir, &self.digest, limit)
    }
}

/// What is kept with a manifest in that layout.
fn signatures_in(layout: &Path, of: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
    let path = layout.join(SIGNATURES).join(of.hex());
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        file => blobs::read(file.at("open", &path)?, limit, &path),
    }
}

fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs")
        .join(digest.algorithm())
        .join(digest.hex())
}

impl Layout {
    fn blobs(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.dir, digest)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    fn lock(&self, kind: Kind, timeout: Duration) -> Result<(LockFile, Order), Error> {
        table::take(&self.dir.join("index.lock"), Rank::Artifacts, kind, timeout)
    }

    /// Makes directories and `oci-layout` where they are missing.
    fn prepare(&self) -> Result<(), Error> {
        crate::driver::make_dirs(&self.dir, 0o700)?;
        for algorithm in ["sha256", "sha512"] {
            crate::driver::make_dirs(&self.dir.join("blobs").join(algorithm), 0o755)?;
        }
        let marker = self.dir.join("oci-layout");
        match sys::durable::create_new(&marker, index::LAYOUT, 0o644) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.at("create", &marker),
        }
    }

    /// The index as it is; an empty one where there is none.
    fn index(&self) -> Result<Index, Error> {
        match self.read_index()? {
            None => Ok(Index::default()),
            Some((index, _)) => Ok(index),
        }
    }

    fn read_index(&self) -> Result<Option<(Index, Stamp)>, Error> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.index_path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at("open", &path)?,
        };
        let of = file.metadata().at("stat", &path)?;
        let stamp = (of.ino(), of.size(), of.mtime(), of.mtime_nsec());
        let bytes = blobs::read(file, limits::INDEX_BYTES, &path)?;
        let index = Index::parse(&bytes).map_err(|source| Error::Damaged { path, source })?;
        Ok(Some((index, stamp)))
    }

    fn replace_index(&self, index: &Index) -> Result<(), Error> {
        let path = self.index_path();
        sys::durable::replace(&path, &index.to_bytes(), 0o644).at("write", path)
    }

    fn signatures(&self) -> PathBuf {
        self.dir.join(SIGNATURES)
    }

    /// Replaces what is kept with a manifest, though never by nothing.
    fn keep_signatures(&self, of: &Digest, kept: &[u8], signatures: &[u8]) -> Result<(), Error> {
        if signatures.is_empty() || signatures == kept {
            return Ok(());
        }
        let dir = self.signatures();
        let path = dir.join(of.hex());
        crate::driver::make_dirs(&dir, 0o755)?;
        sys::durable::replace(&path, signatures, 0o644).at("write", path)
    }

    fn sync_blobs(&self) -> Result<(), Error> {
        for algorithm in ["sha256", "sha512"] {
            let dir = self.dir.join("blobs").join(algorithm);
            sys::durable::sync_dir(&dir).at("sync", dir)?;
        }
        Ok(())
    }

    /// Its artifacts. Without the lock: a peer may hold it for a whole pull, and may be writing the
    /// index just now, which is then read again.
    fn read(&self) -> Result<Artifacts, Error> {
        let cached = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((known, artifacts))) = (self.stamp()?, &*cached())
            && *known == now
        {
            return Ok(Arc::clone(artifacts));
        }
        let mut tries = 0;
        let (index, stamp) = loop {
            match self.read_index() {
                Err(Error::Damaged { .. }) if tries < 3 && !self.read_only => {
                    tries += 1;
                    // Whoever writes it holds the lock. Without it we read again all the same.
                    drop(self.lock(Kind::Shared, Duration::from_secs(1)));
                }
                Err(error) => return Err(error),
                Ok(None) => return Ok(Arc::default()),
                Ok(Some(read)) => break read,
            }
        };
        let entries = index.entries();
        let artifacts: Vec<_> = entries
            .filter_map(|(digest, name)| self.artifact(digest, name))
            .collect();
        let artifacts: Artifacts = artifacts.into();
        *cached() = Some((stamp, Arc::clone(&artifacts)));
        Ok(artifacts)
    }

    fn stamp(&self) -> Result<Option<Stamp>, Error> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.index_path();
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            of => {
                let of = of.at("stat", &path)?;
                Ok(Some((of.ino(), of.size(), of.mtime(), of.mtime_nsec())))
            }
        }
    }

    /// An entry with its manifest; `None` for one that is damaged or just removed.
    fn artifact(&self, digest: Digest, name: Option<String>) -> Option<Arc<StoredArtifact>> {
        let manifest = self.read_manifest(&digest);
        match manifest {
            Ok(manifest) => Some(Arc::new(StoredArtifact {
                name,
                digest,
                manifest,
                read_only: self.read_only,
                dir: self.dir.clone(),
            })),
            Err(error) => {
                tracing::warn!(artifact = %digest, %error, "an artifact has no manifest");
                None
            }
        }
    }

    /// A manifest, whose digest is checked.
    fn read_manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        let bytes = blobs::read(
            File::open(&path).at("open", &path)?,
            limits::INDEX_BYTES,
            &path,
        )?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(Error::NoBlob(digest.clone()))
        }
    }
}

#[cfg(test)]
mod tests;
