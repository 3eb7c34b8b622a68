//! Making an archive again from its tar-split and the files on disk.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use sys::beneath::Dir;

use super::{Crc64, FILE, Line, SEGMENT};
use crate::gzip::GzipReader;
use crate::unpack::EntryPath;

/// Writes to `archive` the archive that `tar_split` describes, with files out of `diff`. A file
/// that is not as it was is an error of kind `InvalidData`.
pub(crate) fn assemble(
    tar_split: impl Read,
    diff: &Dir,
    mut archive: impl Write,
) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    for line in lines(tar_split) {
        let line = line?;
        let payload = STANDARD.decode(line.payload.as_deref().unwrap_or_default());
        let payload = payload.map_err(invalid)?;
        match line.kind {
            SEGMENT => archive.write_all(&payload)?,
            FILE if line.size > 0 => {
                let name = line.name()?;
                let checksum = copy(diff, &name, line.size, &mut buffer, &mut archive)?;
                if payload != checksum.to_be_bytes() {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    return Err(invalid(format!("{name} has changed")));
                }
            }
            FILE => {}
            other => return Err(invalid(format!("line of type {other}"))),
        }
    }
    Ok(())
}

/// Copies exactly `size` bytes of the file; returns their checksum.
fn copy(
    diff: &Dir,
    name: &[u8],
    size: u64,
    buffer: &mut [u8],
    archive: &mut impl Write,
) -> io::Result<u64> {
    let path = EntryPath::parse(name).map_err(invalid)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = File::from(diff.open_in_root(path.as_path(), flags, 0)?);
    let mut crc = Crc64::new();
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = file.read(&mut buffer[..most])?;
        if read == 0 {
            let name = String::from_utf8_lossy(name);
            return Err(invalid(format!(
                "{name} has become shorter by {left} bytes"
            )));
        }
        crc.update(&buffer[..read]);
        archive.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(crc.finish())
}

/// The lines of a gzipped tar-split.
pub(crate) fn lines(tar_split: impl Read) -> impl Iterator<Item = io::Result<Line>> {
    let mut reader = BufReader::with_capacity(256 << 10, GzipReader::new(tar_split));
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&line).map_err(io::Error::from)),
            Err(error) => Some(Err(error)),
        }
    })
}

impl Line {
    pub(crate) fn name(&self) -> io::Result<Vec<u8>> {
        if self.name_raw.is_empty() {
            Ok(self.name.clone().into_bytes())
        } else {
            STANDARD.decode(&self.name_raw).map_err(invalid)
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
