//! From a checked request, an image's configuration and a handler's features to an OCI runtime
//! spec. Pure: no I/O, no clock, no kernel; what has to be looked up comes in as a value.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod apparmor;
pub mod capabilities;
pub mod cdi;
pub mod container;
pub mod environment;
pub mod hooks;
mod limits;
pub mod mounts;
pub mod oci;
pub mod process;
pub mod resources;
pub mod seccomp;
pub mod selinux;
pub mod sysctl;
pub mod user;

/// Why a request can't become a spec. All of these are the caller's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither the request nor the image says what to run.
    #[error("no command specified: the image has no entrypoint and the request no command")]
    NoCommand,
    /// A capability that the kernel does not know.
    #[error("unknown capability {0:?}")]
    UnknownCapability(String),
    /// A user or group that the image's files do not resolve.
    #[error("unable to find user or group {0:?}")]
    UnknownUser(String),
    /// A numeric user or group outside of 0..=2147483647.
    #[error("user or group id {0:?} is out of range")]
    IdRange(String),
    /// A memory limit beneath what the handler needs to start.
    #[error("set memory limit {limit} too low; should be at least {minimum} bytes")]
    MemoryTooLow {
        /// Bytes asked for.
        limit: i64,
        /// Bytes needed.
        minimum: i64,
    },
    /// A swap limit beneath the memory limit.
    #[error("memory+swap limit {swap} is smaller than the memory limit {memory}")]
    SwapBelowMemory {
        /// Bytes of memory and swap together.
        swap: i64,
        /// Bytes of memory.
        memory: i64,
    },
    /// A sysctl that is malformed or would reach beyond the pod.
    #[error("invalid sysctl {name:?}: {reason}")]
    Sysctl {
        /// Name as sent.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A seccomp profile that is not in the format of containers' profiles.
    #[error("invalid seccomp profile: {0}")]
    Seccomp(String),
    /// A value that would not survive its place in the spec.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
