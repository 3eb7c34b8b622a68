//! May this image run here, under this name? What `policy.json` says.
//!
//! Reads the policy file; owns nothing on disk. Knows nothing of registries or the store. Of the
//! requirements, `insecureAcceptAnything` and `reject` are evaluated; those that ask for a
//! signature refuse every image, since accepting one unchecked would be worse.
//!
//! Source of the format: `containers-policy.json(5)`.

mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod policy;
mod scope;

pub use policy::{Error, Policy, Refused};
pub use scope::{Files, Name};
