//! May this image run here, under this name? What `policy.json` says, and whether an image's
//! signatures bear it out.
//!
//! Reads the policy, the keys that it names and `registries.d`; owns nothing on disk. Knows nothing
//! of registries or the store: signatures and manifests are handed to it as bytes, and it says where
//! signatures are looked for, never fetches them.
//!
//! Everything that is not a file of the administrator's is hostile: a signature is bounded, is
//! verified before what it says counts, and counts only for the manifest and the name that it is for.
//!
//! Source of the formats: `containers-policy.json(5)`, `containers-signature(5)`,
//! `containers-registries.d(5)`, RFC 4880 and RFC 9580 (OpenPGP), cosign's signature specification.

mod digest;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod json;
pub mod limits;
mod material;
mod openpgp;
mod payload;
mod policy;
mod requirement;
mod scope;
mod signature;
mod sigstore;
mod sources;
mod time;

#[cfg(test)]
// Included, as `signer` is.
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../testkit/src/cosign.rs"]
mod cosign;

#[cfg(test)]
// Included, not depended on: the crate that it is in depends on this one.
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../testkit/src/signer.rs"]
mod signer;

pub use policy::{Error, Policy, Refused};
pub use scope::{Files, Local, Name, Stored};
pub use signature::{Attachment, Evidence, SIGSTORE_SIGNATURE, Signature};
pub use sources::{Lookaside, Sources};
