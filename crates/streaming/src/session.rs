//! What is done over a connection: a process with its streams, or forwarded ports. Knows streams
//! and channels, not the protocol that carries them.

pub(crate) mod forward;
pub(crate) mod remote;
mod size;
mod status;

#[cfg(feature = "fuzzing")]
pub(crate) use size::Sizes;
pub(crate) use status::Form as StatusForm;
