//! Files of the node's administrator that containers are made by.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Most files of one directory that are looked at.
pub(crate) const FILES: usize = 10_000;
/// Largest file that is read, in bytes.
const BYTES: u64 = 16 << 20;

/// Reads a regular file.
///
/// # Errors
/// It can't be read, is no regular file, or larger than 16 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would else be waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES {
        return Err(io::Error::other(format!("larger than {BYTES} bytes")));
    }
    Ok(bytes)
}
