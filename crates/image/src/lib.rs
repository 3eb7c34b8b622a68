//! Images: references, registries.conf, credentials, the registry client, pulling as a pipeline,
//! and what the store's images say about themselves.
//!
//! Owns nothing on disk: what is pulled goes through `storage`, which commits it. Reads the
//! configuration files of containers/image (`registries.conf`, `auth.json`, `certs.d`). Asks
//! `trust` before it fetches and again before an image is run. Knows nothing of pods or gRPC.
//!
//! Everything that a registry sends is hostile: digests are checked before they become part of a
//! URL or a key, sizes before they become allocations (see [`limits`]), and credentials are sent
//! to the registry they are for and to nobody else.
//!
//! A pull may be done by a process of its own ([`Place`]).

mod artifact;
mod blob;
mod chunked;
mod client;
mod credentials;
mod decompress;
mod decrypt;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod images;
mod inflight;
pub mod limits;
mod local;
mod manifest;
mod options;
mod pipe;
mod platform;
mod progress;
mod pull;
mod reference;
mod registries;
mod signatures;
mod totals;
mod worker;

pub use artifact::{Artifact, ArtifactFile};
pub use credentials::{BadAuth, Credentials};
pub use error::{Error, Result};
pub use image::{Image, OciConfig, User};
pub use images::{Images, Trust};
pub use local::{Location, Transport};
pub use options::{Changing, Options, ShortNames};
pub use platform::Platform;
pub use progress::{LayerProgress, LayerState, PullProgress};
pub use pull::{LoadRequest, Loaded, PullRequest};
pub use reference::{ImageName, Reference};
pub use storage::{Digest, ImageId};
pub use totals::{LAYER_SIZES, Totals};
pub use worker::{Assignment, Place};
