//! Opening and reading small files of the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::limits;

/// A directory whose files are opened by their whole path: opening the directory first costs as
/// much as one more file, and a cgroup has two or three files that are wanted.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

/// What files are read into, one after another.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Dir {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The text of one of its files; none if it is not there or can't be read.
    pub(crate) fn text<'a>(&self, name: &str, buffer: &'a mut Buffer) -> Option<&'a str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, self.0.join(name), flags, Mode::empty()).ok()?;
        buffer.fill(&file)
    }
}

impl Buffer {
    /// Reads until a read does not fill what is left: the kernel makes these texts in one piece.
    fn fill(&mut self, file: &OwnedFd) -> Option<&str> {
        const START: usize = 8 * 1024;
        if self.0.len() < START {
            self.0.resize(START, 0);
        }
        let mut filled = 0;
        loop {
            let n = rustix::io::read(file, self.0.get_mut(filled..)?).ok()?;
            filled += n;
            if n == 0 || filled < self.0.len() {
                return std::str::from_utf8(self.0.get(..filled)?).ok();
            }
            if filled >= limits::FILE_BYTES {
                return None;
            }
            self.0.resize(filled * 2, 0);
        }
    }
}

/// The text of a file of `/proc`, bounded. Names in it may be a container's, and any bytes.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let limit = u64::try_from(limits::FILE_BYTES).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_read_and_not_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev");
        std::fs::write(&path, b"eth0: 1\n\xff\xfe: 2\n").unwrap();
        assert!(read(&path).unwrap().starts_with("eth0: 1\n"));
        std::fs::write(&path, vec![b'x'; limits::FILE_BYTES * 2]).unwrap();
        assert_eq!(read(&path).unwrap().len(), limits::FILE_BYTES);
        let dir = Dir::at(dir.path().to_owned());
        let buffer = &mut Buffer::default();
        assert_eq!(dir.text("dev", buffer), None, "too large for a cgroup's");
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        assert_eq!(dir.text("dev", buffer).map(str::len), Some(20_000));
    }
}
