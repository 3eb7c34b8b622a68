//! A tar being written: ustar headers, with PAX records for what doesn't fit (POSIX.1-2017, pax,
//! "ustar Interchange Format" and "pax Extended Header").

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// What an octal field of 8 bytes holds, and one of 12.
const SHORT: u64 = 0o7_777_777;
const LONG: u64 = 0o77_777_777_777;

/// A tar being written to `W`.
#[derive(Debug)]
pub struct ArchiveWriter<W>(W);

/// What a member is like, beside its name and data.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// Permissions with set-user-ID and the like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification, in seconds since 1970.
    pub modified: i64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Attributes {
    /// A file of root's that nobody else reads.
    fn default() -> Self {
        Self {
            mode: 0o600,
            uid: 0,
            gid: 0,
            modified: 0,
            xattrs: Vec::new(),
        }
    }
}

/// What a header says beside the attributes.
#[derive(Default)]
struct Said<'a> {
    flag: u8,
    size: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive.
    pub fn new(to: W) -> Self {
        Self(to)
    }

    /// Writes a directory.
    ///
    /// # Errors
    /// Of the writer.
    pub fn directory(&mut self, name: &[u8], attributes: &Attributes) -> io::Result<()> {
        let name = [name, b"/"].concat();
        let said = Said {
            flag: b'5',
            ..Said::default()
        };
        self.header(&name, attributes, &said)
    }

    /// Writes a regular file of exactly `size` bytes of `data`: zeros where there are fewer, for a
    /// file that shrinks while it is read.
    ///
    /// # Errors
    /// Of the writer and of `data`.
    pub fn file(
        &mut self,
        name: &[u8],
        attributes: &Attributes,
        size: u64,
        data: impl Read,
    ) -> io::Result<()> {
        let said = Said {
            flag: b'0',
            size,
            ..Said::default()
        };
        self.header(name, attributes, &said)?;
        let copied = io::copy(&mut data.take(size), &mut self.0)?;
        let end = size.next_multiple_of(BLOCK as u64);
        io::copy(&mut io::repeat(0).take(end - copied), &mut self.0)?;
        Ok(())
    }

    /// Writes a symbolic link to `target`.
    ///
    /// # Errors
    /// Of the writer.
    pub fn symlink(
        &mut self,
        name: &[u8],
        attributes: &Attributes,
        target: &[u8],
    ) -> io::Result<()> {
        let said = Said {
            flag: b'2',
            link: target,
            ..Said::default()
        };
        self.header(name, attributes, &said)
    }

    /// Writes another name of the member `first`.
    ///
    /// # Errors
    /// Of the writer.
    pub fn hard_link(
        &mut self,
        name: &[u8],
        attributes: &Attributes,
        first: &[u8],
    ) -> io::Result<()> {
        let said = Said {
            flag: b'1',
            link: first,
            ..Said::default()
        };
        self.header(name, attributes, &said)
    }

    /// Writes a FIFO, or a device of this number: `flag` is tar's `6`, `3` or `4`.
    ///
    /// # Errors
    /// Of the writer.
    pub fn special(
        &mut self,
        name: &[u8],
        attributes: &Attributes,
        flag: u8,
        device: (u32, u32),
    ) -> io::Result<()> {
        let said = Said {
            flag,
            device,
            ..Said::default()
        };
        self.header(name, attributes, &said)
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        self.0.flush()?;
        Ok(self.0)
    }

    /// Gives the writer back without the archive's end: another archive is to follow.
    pub fn into_inner(self) -> W {
        self.0
    }

    fn header(&mut self, name: &[u8], of: &Attributes, said: &Said<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        if name.len() > 100 {
            records.extend(record(b"path", name));
        }
        if said.link.len() > 100 {
            records.extend(record(b"linkpath", said.link));
        }
        for (key, value, most) in [
            ("size", said.size, LONG),
            ("uid", of.uid.into(), SHORT),
            ("gid", of.gid.into(), SHORT),
        ] {
            if value > most {
                records.extend(record(key.as_bytes(), value.to_string().as_bytes()));
            }
        }
        if of.modified < 0 {
            records.extend(record(b"mtime", of.modified.to_string().as_bytes()));
        }
        for (key, value) in &of.xattrs {
            records.extend(record(&[b"SCHILY.xattr.", &key[..]].concat(), value));
        }
        if !records.is_empty() {
            let extension = Said {
                flag: b'x',
                size: records.len() as u64,
                ..Said::default()
            };
            self.0
                .write_all(&block(b"pax", &Attributes::default(), &extension))?;
            records.resize(records.len().next_multiple_of(BLOCK), 0);
            self.0.write_all(&records)?;
        }
        self.0.write_all(&block(name, of, said))
    }
}

/// A PAX record: its own length, a key, a value.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    // The digits of the length count, and may make one more of themselves.
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn block(name: &[u8], of: &Attributes, said: &Said<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        let bytes = &bytes[..bytes.len().min(most)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, name, 100);
    let octal = |value: u64, most: u64, digits: usize| {
        // What doesn't fit is in a PAX record, which is what counts then.
        let value = if value > most { 0 } else { value };
        format!("{value:0digits$o}")
    };
    put(
        100,
        octal((of.mode & 0o7777).into(), SHORT, 7).as_bytes(),
        7,
    );
    put(108, octal(of.uid.into(), SHORT, 7).as_bytes(), 7);
    put(116, octal(of.gid.into(), SHORT, 7).as_bytes(), 7);
    put(124, octal(said.size, LONG, 11).as_bytes(), 11);
    let modified = u64::try_from(of.modified).unwrap_or(0);
    put(136, octal(modified, LONG, 11).as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[said.flag], 1);
    put(157, said.link, 100);
    put(257, b"ustar\x0000", 8);
    put(329, octal(said.device.0.into(), SHORT, 7).as_bytes(), 7);
    put(337, octal(said.device.1.into(), SHORT, 7).as_bytes(), 7);
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Kind, Source, Stream};

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 0..1200 {
            let value = vec![b'x'; length];
            let record = record(b"path", &value);
            let digits = record.iter().position(|byte| *byte == b' ').unwrap();
            let said: usize = std::str::from_utf8(&record[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(said, record.len(), "{length}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = [&[b'n'; 100][..], &[b'm'; 100]].join(&b'/');
        let attributes = Attributes {
            mode: 0o4711,
            uid: 3_000_000,
            gid: 7,
            modified: 1_700_000_000,
            xattrs: vec![(b"user.k".to_vec(), vec![0, 10, 255])],
        };
        let mut writer = ArchiveWriter::new(Vec::new());
        writer.file(&long, &attributes, 600, &[1; 600][..]).unwrap();
        writer.symlink(b"s", &attributes, &long).unwrap();
        writer.special(b"d", &attributes, b'3', (5, 1)).unwrap();
        writer.hard_link(b"h", &attributes, &long).unwrap();
        let tar = writer.finish().unwrap();
        let mut stream = Stream::new(Source::new(&tar[..], 1 << 20), 100);
        let mut entries = Vec::new();
        while let Some(entry) = stream.next().unwrap() {
            while !stream.data().unwrap().is_empty() {
                let length = stream.data().unwrap().len();
                stream.consume(length);
            }
            entries.push(entry);
        }
        assert_eq!(entries.len(), 4);
        assert_eq!((&entries[0].name, entries[0].data), (&long, 600));
        assert_eq!((entries[0].uid, entries[0].mode), (3_000_000, 0o4711));
        assert_eq!(entries[0].xattrs, attributes.xattrs);
        assert_eq!((entries[1].kind, &entries[1].link), (Kind::Symlink, &long));
        assert_eq!(entries[2].device, (5, 1));
        assert_eq!(entries[3].kind, Kind::HardLink);
    }
}
