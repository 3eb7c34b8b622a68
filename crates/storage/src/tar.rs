//! A tar stream as entries, with every byte accounted for.
//!
//! Reads what Go's archive/tar reads, since that is what the images were made for and what peers
//! read our layers with: ustar, PAX, GNU and star headers, long names, sparse files. Where readers
//! are known to differ (and images were crafted to exploit it) this one does as Go: a PAX size
//! beats the header's, whatever that says; a link, directory or device has no data, whatever its
//! size says; a global PAX header changes nothing.
//!
//! The bytes that are no file's data are kept in between ([`Stream::take_raw`]): with them and the
//! files the archive can be made again, bit by bit (see [`crate::tar_split`]).

mod header;
mod number;
mod pax;
mod source;
mod sparse;

use std::io::Read;

use self::header::{BLOCK, BadHeader, Header};
#[cfg(feature = "fuzzing")]
pub(crate) use self::number::parse as number;
pub(crate) use self::source::Source;
pub(crate) use self::sparse::Map;
use crate::{Error, limits};

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A PAX header for all that follows; nothing on disk.
    Global,
}

/// Seconds and nanoseconds.
pub(crate) type Time = (i64, i64);

/// An entry of the archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions with set-user-ID, set-group-ID and the sticky bit.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    pub(crate) accessed: Option<Time>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where its data goes.
    pub(crate) sparse: Option<Map>,
    /// Bytes of data that follow in the archive.
    pub(crate) data: u64,
}

/// An archive being read.
pub(crate) struct Stream<R> {
    source: Source<R>,
    /// Read, and no file's data; not taken yet.
    raw: Vec<u8>,
    /// Data of the current entry that is still to be read.
    data_left: u64,
    padding: usize,
    entries: u64,
    entry_limit: u64,
    /// Name of the last entry, for errors.
    name: Vec<u8>,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(source: Source<R>, entry_limit: u64) -> Self {
        let (raw, name) = (Vec::new(), Vec::new());
        Self {
            source,
            raw,
            data_left: 0,
            padding: 0,
            entries: 0,
            entry_limit,
            name,
        }
    }

    /// Goes to the next entry; the current one's data must have been read. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        debug_assert_eq!(
            self.data_left, 0,
            "an entry's data is read before the next entry"
        );
        let padding = std::mem::take(&mut self.padding);
        // Some writers end with the last file's data (umoci), and Go reads them.
        self.raw_up_to(padding)?;
        let mut extended = Extended::default();
        loop {
            let Some((block, header)) = self.header()? else {
                return if extended == Extended::default() {
                    Ok(None)
                } else {
                    Err(self.bad("the archive ends after an extended header"))
                };
            };
            self.count()?;
            match header.type_flag {
                b'x' => {
                    let bytes = self.extension(&header)?;
                    let records = pax::Records::parse(&bytes);
                    extended.pax = records.ok_or_else(|| self.bad("damaged PAX header"))?;
                }
                b'L' => extended.name = Some(self.long_name(&header)?),
                b'K' => extended.link = Some(self.long_name(&header)?),
                b'g' => {
                    let bytes = self.extension(&header)?;
                    pax::Records::parse(&bytes).ok_or_else(|| self.bad("damaged PAX header"))?;
                    return Ok(Some(Entry::global(header)));
                }
                _ => return self.entry(&block, header, extended).map(Some),
            }
        }
    }

    /// How many bytes of the archive are behind us.
    pub(crate) fn position(&self) -> u64 {
        self.source.position()
    }

    /// The next piece of the current entry's data, empty at its end. It has to be consumed
    /// before anything else is read.
    pub(crate) fn data(&mut self) -> Result<&[u8], Error> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let piece = self.source.peek()?;
        if piece.is_empty() {
            return Err(bad(&self.name, "the archive ends within a file's data"));
        }
        let piece = &piece[..piece.len().min(left)];
        Ok(piece)
    }

    /// Marks `bytes` of what [`Stream::data`] returned as read.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.data_left -= bytes as u64;
    }

    /// The bytes since the last call that are no file's data: headers, padding, the end's zeros.
    pub(crate) fn take_raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// What follows the archive's end, piece by piece; ends with an empty one.
    pub(crate) fn trailing(&mut self) -> Result<Vec<u8>, Error> {
        let piece = self.source.peek()?.to_vec();
        self.source.consume(piece.len());
        Ok(piece)
    }

    /// Once everything was read: digest and bytes of the whole stream.
    pub(crate) fn finish(self) -> (crate::Digest, u64) {
        self.source.finish()
    }

    /// A block that is no padding. `None` at the archive's end: two blocks of zeros, or one and
    /// the stream's end, or the stream's end alone.
    fn header(&mut self) -> Result<Option<([u8; BLOCK], Header)>, Error> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block == [0; BLOCK] {
            return match self.block()? {
                None => Ok(None),
                Some(block) if block == [0; BLOCK] => Ok(None),
                Some(_) => Err(self.bad("data after a block of zeros")),
            };
        }
        match Header::parse(&block) {
            Ok(header) => Ok(Some((block, header))),
            Err(BadHeader::Checksum) => Err(self.bad("the next header has a wrong checksum")),
            Err(BadHeader::Number(field)) => {
                Err(self.bad(&format!("the next header has a bad number: {field}")))
            }
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let piece = self.source.peek()?;
            if piece.is_empty() {
                return if have == 0 {
                    Ok(None)
                } else {
                    Err(bad(&self.name, "the archive ends within a block"))
                };
            }
            let take = piece.len().min(BLOCK - have);
            block[have..have + take].copy_from_slice(&piece[..take]);
            self.source.consume(take);
            have += take;
        }
        if self.raw.len() + BLOCK > limits::HEADER_BYTES {
            return Err(too_large());
        }
        self.raw.extend_from_slice(&block);
        Ok(Some(block))
    }

    /// Reads `length` bytes that belong to no file.
    fn raw_bytes(&mut self, length: usize) -> Result<(), Error> {
        match self.raw_up_to(length)? {
            0 => Ok(()),
            _ => Err(bad(&self.name, "the archive ends too early")),
        }
    }

    /// The same, or what is left of the archive; how many bytes are missing.
    fn raw_up_to(&mut self, mut length: usize) -> Result<usize, Error> {
        while length > 0 {
            let piece = self.source.peek()?;
            if piece.is_empty() {
                break;
            }
            let take = piece.len().min(length);
            if self.raw.len() + take > limits::HEADER_BYTES {
                return Err(too_large());
            }
            self.raw.extend_from_slice(&piece[..take]);
            self.source.consume(take);
            length -= take;
        }
        Ok(length)
    }

    /// The content of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = u64::try_from(header.size).unwrap_or(u64::MAX);
        if size > limits::EXTENDED_HEADER_BYTES {
            let (what, limit) = ("bytes of an extended header", limits::EXTENDED_HEADER_BYTES);
            return Err(Error::TooLarge { what, limit });
        }
        let size = usize::try_from(size).expect("just bounded");
        let start = self.raw.len();
        self.raw_bytes(size)?;
        let content = self.raw[start..].to_vec();
        self.raw_bytes(padding(size as u64))?;
        Ok(content)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        Ok(header::until_nul(&self.extension(header)?).to_vec())
    }

    /// Headers that only announce another count too: an archive of nothing else has an end.
    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.entry_limit {
            return Err(Error::TooLarge {
                what: "entries",
                limit: self.entry_limit,
            });
        }
        Ok(())
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: Header,
        extended: Extended,
    ) -> Result<Entry, Error> {
        let gnu = header.gnu;
        let type_flag = header.type_flag;
        let (mut entry, mut size) =
            merge(header, &extended).map_err(|reason| bad(&self.name, reason))?;
        self.name.clone_from(&entry.name);
        if entry.kind != Kind::Regular {
            size = 0;
        }
        entry.data = size;
        self.data_left = size;
        if entry.kind == Kind::Regular {
            entry.sparse = if type_flag == b'S' {
                if !gnu {
                    return Err(self.bad("a sparse file in an archive that is not GNU's"));
                }
                Some(self.old_sparse(block, size)?)
            } else {
                self.pax_sparse(&mut entry, &extended.pax)?
            };
        }
        self.padding = padding(size);
        Ok(entry)
    }

    fn old_sparse(&mut self, block: &[u8; BLOCK], data: u64) -> Result<Map, Error> {
        let damaged = "damaged map of a sparse file";
        let mut segments = Vec::new();
        let (array, mut more, size) = sparse::old_header(block).ok_or_else(|| self.bad(damaged))?;
        sparse::old_entries(array, &mut segments).ok_or_else(|| self.bad(damaged))?;
        while more {
            let block = self.block()?.ok_or_else(|| self.bad(damaged))?;
            let (array, another) = sparse::old_extension(&block);
            sparse::old_entries(array, &mut segments).ok_or_else(|| self.bad(damaged))?;
            self.count()?;
            more = another;
        }
        Map::new(size, segments, data).ok_or_else(|| self.bad(damaged))
    }

    fn pax_sparse(
        &mut self,
        entry: &mut Entry,
        records: &pax::Records,
    ) -> Result<Option<Map>, Error> {
        let damaged = "damaged or unknown map of a sparse file";
        let announced = sparse::announced(records).ok_or_else(|| self.bad(damaged))?;
        let segments = match announced {
            sparse::Announced::No => return Ok(None),
            sparse::Announced::InRecords(segments) => segments,
            sparse::Announced::InData => {
                let mut reader = sparse::MapReader::default();
                loop {
                    if self.data_left < BLOCK as u64 {
                        return Err(self.bad(damaged));
                    }
                    let block = self.block()?.ok_or_else(|| self.bad(damaged))?;
                    self.data_left -= BLOCK as u64;
                    if let Some(segments) = reader.block(&block).ok_or_else(|| self.bad(damaged))? {
                        break segments;
                    }
                }
            }
        };
        entry.data = self.data_left;
        if let Some(name) = records.get(b"GNU.sparse.name") {
            entry.name = name.to_vec();
        }
        let size = sparse::real_size(records).ok_or_else(|| self.bad(damaged))?;
        Map::new(size, segments, entry.data)
            .map(Some)
            .ok_or_else(|| self.bad(damaged))
    }

    fn bad(&self, reason: &str) -> Error {
        bad(&self.name, reason)
    }
}

/// What extended headers say of the entry that follows.
#[derive(Default, PartialEq, Eq)]
struct Extended {
    pax: pax::Records,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Header block and extended headers in one; the size beside it.
fn merge(header: Header, extended: &Extended) -> Result<(Entry, u64), &'static str> {
    let records = &extended.pax;
    let pick = |long: &Option<Vec<u8>>, key: &[u8], short: Vec<u8>| {
        long.clone()
            .or_else(|| records.get(key).map(<[u8]>::to_vec))
            .unwrap_or(short)
    };
    let name = pick(&extended.name, b"path", header.name);
    let link = pick(&extended.link, b"linkpath", header.link);
    let number = |key: &[u8], short: i64| match records.get(key) {
        Some(value) => number::decimal(value).ok_or("bad number in a PAX header"),
        None => u64::try_from(short).map_err(|_| "negative number in a header"),
    };
    let size = number(b"size", header.size)?;
    if i64::try_from(size).is_err() {
        return Err("size out of range");
    }
    let owner = |key: &[u8], short: i64| {
        u32::try_from(number(key, short)?).map_err(|_| "owner out of range")
    };
    let time = |key: &[u8]| match records.get(key) {
        Some(value) => number::pax_time(value)
            .map(Some)
            .ok_or("bad time in a PAX header"),
        None => Ok(None),
    };
    let kind = kind(header.type_flag, &name)?;
    let part = |value: i64| match kind {
        Kind::CharacterDevice | Kind::BlockDevice => {
            u32::try_from(value).map_err(|_| "device number out of range")
        }
        _ => Ok(0),
    };
    let entry = Entry {
        kind,
        mode: u32::try_from(header.mode & 0o7777).map_err(|_| "mode out of range")?,
        uid: owner(b"uid", header.uid)?,
        gid: owner(b"gid", header.gid)?,
        modified: time(b"mtime")?.unwrap_or((header.modified, 0)),
        accessed: time(b"atime")?,
        device: (part(header.device.0)?, part(header.device.1)?),
        xattrs: records.xattrs(),
        sparse: None,
        data: 0,
        name,
        link,
    };
    Ok((entry, size))
}

fn kind(type_flag: u8, name: &[u8]) -> Result<Kind, &'static str> {
    Ok(match type_flag {
        // V7 had no type for a directory but a name that ends in a slash.
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharacterDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err("an entry of unknown type"),
    })
}

impl Entry {
    fn global(header: Header) -> Self {
        Self {
            name: header.name,
            link: Vec::new(),
            kind: Kind::Global,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            accessed: None,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
            data: 0,
        }
    }

    /// An error about this entry.
    pub(crate) fn bad(&self, reason: &str) -> Error {
        bad(&self.name, reason)
    }
}

fn bad(name: &[u8], reason: &str) -> Error {
    Error::Archive {
        entry: String::from_utf8_lossy(name).into_owned(),
        reason: reason.to_owned(),
    }
}

fn too_large() -> Error {
    Error::TooLarge {
        what: "bytes in front of one entry",
        limit: limits::HEADER_BYTES as u64,
    }
}

/// Bytes from the end of `size` bytes of data to the next block.
fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    (BLOCK - over) % BLOCK
}

#[cfg(test)]
mod tests;
