//! Every option of `crio.conf` once, as a row, and what the files, the environment and the
//! command line make of them.
//!
//! Precedence, lowest first: built-in, `storage.conf`, `crio.conf`, the drop-ins in lexical order,
//! environment, flags. Arrays replace, handlers merge field by field, `storage_option` joins.
//! Only the binary depends on this crate: it fills the options struct of every other one.

mod command_line;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod row;
mod rows;
mod settings;
mod storage_conf;
mod value;

pub use command_line::{flags, given};
pub use file::Origin;
pub use row::{Effect, Kind, Reload, Row};
pub use rows::{all as rows, find};
pub use settings::{Change, Handler, Settings, Sources};
pub use storage_conf::StorageSources;
pub use value::{Value, duration};

use std::io;
use std::path::PathBuf;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was named can't be read.
    #[error("unable to read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("unable to decode configuration: {at}: {message}")]
    Syntax {
        /// File and line.
        at: Origin,
        /// What the parser says.
        message: String,
    },
    /// A value is of another type than its option.
    #[error("unable to decode configuration: {at}: {key} wants {wanted}")]
    Type {
        /// Full name of the option.
        key: String,
        /// Type in words.
        wanted: &'static str,
        /// Where it was set.
        at: Origin,
    },
    /// A value has the right type and makes no sense.
    #[error("invalid configuration: {at}: {key}: {message}")]
    Value {
        /// Full name of the option.
        key: String,
        /// Where it was set, or `built-in default`.
        at: String,
        /// What is wrong and what would be right.
        message: String,
    },
}
