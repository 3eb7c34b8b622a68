//! Runtime handlers: which OCI runtime a pod's containers run with, where it is, and what it can
//! do. The runtimes themselves are started by the pod's monitor; what a handler says here is how.

pub mod checkpoint;
mod features;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod program;

pub use features::Features;
pub use handler::{Config, Handler, Handlers};
pub use program::Image;

use std::path::PathBuf;

/// Why a handler can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No handler of that name is configured.
    #[error("failed to find runtime handler {name} from runtime list [{}]", known.join(" "))]
    Unknown {
        /// Name as requested.
        name: String,
        /// The names that would do.
        known: Vec<String>,
    },
    /// The runtime's program is not there.
    #[error("runtime handler {name}: no program {}", path.display())]
    NoProgram {
        /// The handler.
        name: String,
        /// What was looked for, a path or a name in `PATH`.
        path: PathBuf,
    },
    /// A kind of handler that is not built.
    #[error("runtime handler {name}: runtime_type {kind:?} is not supported")]
    Kind {
        /// The handler.
        name: String,
        /// Its `runtime_type`.
        kind: String,
    },
}
