//! An archive that may be hostile, read member by member: where its data goes is the caller's to say.

use std::io::{Read, Write};

use crate::tar::{Kind, Source, Stream};
use crate::unpack::EntryPath;
use crate::{Error, UnpackLimits};

/// A tar being read.
pub struct ArchiveReader<R>(Stream<R>);

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path: relative, without `.`, `..` and double slashes.
    pub path: Vec<u8>,
    /// Whether it is a regular file; a link, a device or a directory is not.
    pub regular: bool,
    /// Whether it is a directory.
    pub directory: bool,
    /// What it is a link to, as it is written: a hard link's is a member's path.
    pub link: Option<Link>,
    /// Bytes of data.
    pub size: u64,
    /// Where its data begins in the archive, in bytes.
    pub offset: u64,
}

/// Where a link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// To another member, by its path from the archive's root.
    Hard(Vec<u8>),
    /// To a path that is relative to the link's directory, or absolute.
    Symbolic(Vec<u8>),
}

impl<R> std::fmt::Debug for ArchiveReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveReader").finish_non_exhaustive()
    }
}

impl<R: Read> ArchiveReader<R> {
    /// Reads an uncompressed archive from `tar`, up to the limits.
    pub fn new(tar: R, limits: UnpackLimits) -> Self {
        Self(Stream::new(Source::new(tar, limits.bytes), limits.entries))
    }

    /// Goes to the next member, past what was not read of the one before.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::TooLarge`], [`Error::Read`].
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        self.copy(&mut std::io::sink())?;
        loop {
            let Some(entry) = self.0.next()? else {
                return Ok(None);
            };
            self.0.take_raw().clear();
            if entry.kind == Kind::Global {
                continue;
            }
            if entry.sparse.is_some() {
                return Err(entry.bad("a sparse file is not expected here"));
            }
            let path = EntryPath::parse(&entry.name).map_err(|reason| entry.bad(reason))?;
            return Ok(Some(Member {
                path: path.bytes().to_vec(),
                regular: entry.kind == Kind::Regular,
                directory: entry.kind == Kind::Directory,
                link: match entry.kind {
                    Kind::HardLink => Some(Link::Hard(entry.link)),
                    Kind::Symlink => Some(Link::Symbolic(entry.link)),
                    _ => None,
                },
                size: entry.data,
                offset: self.0.position(),
            }));
        }
    }

    /// Copies what is left of the current member's data.
    ///
    /// # Errors
    /// As [`ArchiveReader::next_member`]; [`Error::Io`] of the writer.
    pub fn copy(&mut self, to: &mut impl Write) -> Result<u64, Error> {
        let mut copied = 0;
        loop {
            let piece = self.0.data()?;
            if piece.is_empty() {
                return Ok(copied);
            }
            to.write_all(piece).map_err(|source| Error::Io {
                doing: "write",
                path: "a member of an archive".into(),
                source,
            })?;
            let length = piece.len();
            copied += length as u64;
            self.0.consume(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ArchiveWriter, Attributes};

    #[test]
    fn members_come_with_clean_names_and_a_climbing_one_is_refused() {
        let mut writer = ArchiveWriter::new(Vec::new());
        writer.directory(b"dir", &Attributes::default()).unwrap();
        for name in [&b"./dir//a"[..], b"/b"] {
            writer
                .file(name, &Attributes::default(), 3, &b"abc"[..])
                .unwrap();
        }
        writer
            .file(b"../up", &Attributes::default(), 0, &b""[..])
            .unwrap();
        let tar = writer.finish().unwrap();
        let mut reader = ArchiveReader::new(&tar[..], UnpackLimits::default());
        let mut next = || {
            reader
                .next_member()
                .map(|member| member.map(|one| one.path))
        };
        assert_eq!(next().unwrap().unwrap(), b"dir");
        assert_eq!(next().unwrap().unwrap(), b"dir/a");
        assert_eq!(next().unwrap().unwrap(), b"b");
        assert!(matches!(next(), Err(Error::Archive { .. })));
    }
}
