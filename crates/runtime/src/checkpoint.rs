//! What a checkpoint of a container is made of, as bytes: CRI-O's and podman's files of an archive,
//! and the parts of criu's images that we change. Pure; an archive may be hostile.

mod cgroups;
mod confine;
mod images;
mod metadata;
mod protobuf;

pub use cgroups::cgroups;
pub use confine::{Confinement, mounts, process};
pub use images::{Pipes, connect_pipes, descriptors, safe_descriptors};
pub use metadata::{BadMetadata, Config, Process, deleted, whiteout};

/// An image file is not what criu writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("criu image: {0}")]
pub struct BadImage(pub(crate) &'static str);
