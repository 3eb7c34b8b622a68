//! Archives that are no layers: what a container changed as a tar, a tar read member by member, and
//! a writable layer filled from a tar before it is mounted.

mod diff;
mod read;
mod write;

pub use self::diff::Diff;
pub use self::read::{ArchiveReader, Link, Member};
pub use self::write::{ArchiveWriter, Attributes};
