//! Images, layers and writable layers on disk, in the format of containers/storage (drivers overlay
//! and vfs), so that podman, skopeo and buildah share the store with us while all run.
//!
//! Owns everything below the graph root (`overlay/`, `overlay-layers/`, `overlay-images/`,
//! `overlay-containers/`, or the same of `vfs`, `artifacts/`) and the same below the run root, but for what podman alone keeps there
//! (`libpod/`, `db.sql`, …). Knows nothing of registries, pods or runtimes: a layer comes as an
//! uncompressed tar stream, an image as bytes under names, a container's metadata as a string.
//!
//! Invariants:
//! * A layer's data is on disk before the record that names it; the record is written marked
//!   `incomplete` first, and whoever takes the lock may remove what is still marked.
//! * Unpacking holds no lock. It happens in `overlay/staging`, the one place in `overlay/` where
//!   peers tolerate a directory that no record names.
//! * Every change of a table is made under its file's write lock and rewrites the 64 bytes by
//!   which the others notice (the primer is in `table.rs`); lists never wait for a lock that a peer holds.
//! * What a tar holds reaches the disk only beneath a directory descriptor.
//!
//! Everything blocks: callers run it on a pool.

mod additional;
mod archive;
mod artifacts;
mod check;
mod containers;
mod digest;
mod driver;
mod error;
mod force_mask;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gzip;
mod id_map;
mod ids;
mod images;
mod layer_stores;
mod layers;
pub mod limits;
mod mounts;
mod open;
mod other;
mod paths;
mod patience;
mod quota;
mod record;
mod reserve;
mod reuse;
mod staging;
mod store;
mod table;
mod tar;
mod tar_split;
mod unpack;
mod wipe;

pub use archive::{ArchiveReader, ArchiveWriter, Attributes, Diff, Link, Member};
pub use artifacts::{ArtifactStore, BlobWriter, NewArtifact, StagedBlob, StoredArtifact};
pub use check::{
    CheckOptions, Damage, Depth, Item, RepairContainers, check_tables, salvage_tables,
};
pub use containers::{Container, NewContainer};
pub use digest::{Digest, Hasher};
pub use driver::Driver;
pub use error::Error;
pub use force_mask::ForceMask;
pub use id_map::{IdMap, IdRange, UserNamespace};
pub use ids::{ContainerId, ImageId, LayerId};
pub use images::{Image, KnownImage, NewImage};
pub use layer_stores::{LayerStore, OfferedLayer, image_id};
pub use layers::{Compression, NewLayer};
pub use limits::TOC_BYTES;
pub use mounts::View;
pub use other::OtherStore;
pub use reuse::{ArchivePart, archive_parts};
pub use staging::StagedLayer;
pub use store::{Options, Store, Usage};
pub use sys::quota::{Limits as QuotaLimits, Quota};
pub use unpack::UnpackLimits;
