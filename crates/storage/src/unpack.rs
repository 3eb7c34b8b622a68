//! From an uncompressed tar stream to a directory that overlay can use.

mod attributes;
mod extract;
mod keys;
mod marks;
mod path;
mod remove;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use self::attributes::Rules;
pub(crate) use self::attributes::{may_set, tolerate};
use self::extract::{Extractor, Placed};
use self::keys::Keys;
pub(crate) use self::marks::Hidden;
use self::marks::Marks;
pub(crate) use self::path::{EntryPath, Wanted};
use crate::error::Context;
use crate::staging::{Owners, Staging};
use crate::tar::{Entry, Kind, Map, Source, Stream};
use crate::tar_split::{self, Crc64, Fix, Writer};
use crate::{ContainerId, Error, StagedLayer, Store, limits};

/// How much a layer may hold.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive, and of the largest sparse file in it.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: limits::LAYER_BYTES,
            entries: limits::ENTRIES,
        }
    }
}

impl Store {
    /// Unpacks an uncompressed tar stream (to its very end, past the archive's) into a staging
    /// directory, computing its digest. Takes no lock.
    ///
    /// # Errors
    /// [`Error::Read`] with the reader's own error, [`Error::Archive`], [`Error::TooLarge`],
    /// [`Error::Io`]. Nothing stays on disk then.
    pub fn unpack(&self, tar: impl Read, limits: UnpackLimits) -> Result<StagedLayer, Error> {
        let how = self.how(Marks::of(self.driver()));
        unpack(Staging::new(self.paths())?, tar, limits, how)
    }

    /// The same for what is to fill the layer of the container `id` ([`Store::fill`]): on the disk that it
    /// is on, and within its quota.
    ///
    /// # Errors
    /// As [`Store::unpack`]; [`Error::ContainerUnknown`].
    pub fn unpack_changes(
        &self,
        id: &ContainerId,
        tar: impl Read,
        limits: UnpackLimits,
    ) -> Result<StagedLayer, Error> {
        let staging = Staging::for_containers(self.paths())?;
        self.count_as(id, staging.path())?;
        let staged = unpack(staging, tar, limits, self.how(Marks::AtFiles))?;
        // Who unpacks is root, whom ext4 lets have more.
        self.is_within_quota(id)?;
        Ok(staged)
    }

    fn how(&self, marks: Marks) -> How {
        let rules = Rules::of(&self.0.options);
        How { marks, rules }
    }
}

/// What files become of entries.
struct How {
    marks: Marks,
    rules: Rules,
}

fn unpack(
    staging: Staging,
    tar: impl Read,
    limits: UnpackLimits,
    how: How,
) -> Result<StagedLayer, Error> {
    staging.make_layer_dirs()?;
    let stream = Stream::new(Source::new(tar, limits.bytes), limits.entries);
    Unpacking::new(staging, stream, limits, how)?.run()
}

struct Unpacking<R> {
    staging: Staging,
    stream: Stream<R>,
    limits: UnpackLimits,
    extractor: Extractor,
    split: Writer<BufWriter<File>>,
    /// Names in the tar-split, by position.
    names: Keys,
    fixes: BTreeMap<u64, Fix>,
    owners: Owners,
}

/// Where an entry's data goes.
enum Data<'a> {
    /// Nowhere: there is none, or it makes no file.
    Nowhere,
    Whole(&'a File),
    Sparse(&'a File, &'a Map),
}

impl<R: Read> Unpacking<R> {
    fn new(
        staging: Staging,
        stream: Stream<R>,
        limits: UnpackLimits,
        how: How,
    ) -> Result<Self, Error> {
        let path = staging.tar_split();
        let file = File::create_new(path).at("make", path)?;
        let split = Writer::new(BufWriter::with_capacity(64 << 10, file));
        let extractor = Extractor::new(&staging.diff(), &staging.replaced(), how)?;
        let (names, fixes, owners) = (Keys::default(), BTreeMap::new(), Owners::default());
        Ok(Self {
            staging,
            stream,
            limits,
            extractor,
            split,
            names,
            fixes,
            owners,
        })
    }

    fn run(mut self) -> Result<StagedLayer, Error> {
        while let Some(entry) = self.stream.next()? {
            self.flush_raw()?;
            self.entry(&entry)?;
        }
        self.flush_raw()?;
        loop {
            let piece = self.stream.trailing()?;
            if piece.is_empty() {
                break;
            }
            self.split
                .segment(&piece)
                .at("write", self.staging.tar_split())?;
        }
        self.finish()
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind == Kind::Global {
            return Ok(());
        }
        let path = EntryPath::parse(&entry.name).map_err(|reason| entry.bad(reason))?;
        if let Some(map) = &entry.sparse
            && map.size > self.limits.bytes
        {
            return Err(Error::TooLarge {
                what: "bytes of a file",
                limit: self.limits.bytes,
            });
        }
        let placed = self.extractor.place(entry, &path)?;
        match &placed {
            Placed::File { file, .. } => match &entry.sparse {
                Some(map) => self.copy_inline(entry, &Data::Sparse(file, map))?,
                None if placed.is_where_it_says() => self.copy_as_file(entry, file)?,
                None => self.copy_inline(entry, &Data::Whole(file))?,
            },
            Placed::Other => self.copy_inline(entry, &Data::Nowhere)?,
        }
        if !path.is_whiteout() {
            self.owners.add(entry.uid, entry.gid);
        }
        for (position, moved) in self.extractor.complete(entry, &path, placed)? {
            self.fixes.insert(position, Fix::Inline(moved));
        }
        Ok(())
    }

    /// Data that will be found under the entry's name again.
    fn copy_as_file(&mut self, entry: &Entry, mut file: &File) -> Result<(), Error> {
        let mut crc = Crc64::new();
        loop {
            let piece = self.stream.data()?;
            if piece.is_empty() {
                break;
            }
            crc.update(piece);
            file.write_all(piece)
                .at("write", String::from_utf8_lossy(&entry.name).as_ref())?;
            let length = piece.len();
            self.stream.consume(length);
        }
        let key = path::go_clean(&entry.name);
        let earlier = self.names.get(&key);
        if entry.data == 0 && earlier.is_some() {
            return Ok(());
        }
        let checksum = (entry.data > 0).then(|| crc.finish());
        let position = self
            .split
            .file(&entry.name, entry.data, checksum)
            .at("write", self.staging.tar_split())?;
        self.names.insert(&key, position);
        if entry.data > 0 {
            self.extractor.remember(position);
        }
        if let Some(earlier) = earlier {
            // If it had data, that was moved away when this entry took its place.
            self.fixes.entry(earlier).or_insert(Fix::Drop);
        }
        Ok(())
    }

    /// Data that won't be found on disk as it was in the archive: it stays in the tar-split.
    fn copy_inline(&mut self, entry: &Entry, data: &Data<'_>) -> Result<(), Error> {
        let mut at = 0;
        let mut segments = match data {
            Data::Sparse(_, map) => map.segments.iter().copied().collect(),
            Data::Nowhere | Data::Whole(_) => std::collections::VecDeque::new(),
        };
        loop {
            let piece = self.stream.data()?;
            if piece.is_empty() {
                break;
            }
            let mut taken = piece.len();
            let written = match data {
                Data::Nowhere => Ok(()),
                Data::Whole(file) => file.write_all_at(piece, at),
                Data::Sparse(file, _) => {
                    let Some((offset, left)) = segments.pop_front() else {
                        return Err(entry.bad("more data than its map says"));
                    };
                    taken = taken.min(usize::try_from(left).unwrap_or(usize::MAX));
                    let rest = left - taken as u64;
                    if rest > 0 {
                        segments.push_front((offset + taken as u64, rest));
                    }
                    file.write_all_at(&piece[..taken], offset)
                }
            };
            written.at("write", String::from_utf8_lossy(&entry.name).as_ref())?;
            self.split
                .segment(&piece[..taken])
                .at("write", self.staging.tar_split())?;
            at += taken as u64;
            self.stream.consume(taken);
        }
        if let Data::Sparse(file, map) = data {
            file.set_len(map.size)
                .at("extend", String::from_utf8_lossy(&entry.name).as_ref())?;
        }
        Ok(())
    }

    fn flush_raw(&mut self) -> Result<(), Error> {
        let raw = self.stream.take_raw();
        self.split
            .segment(raw)
            .at("write", self.staging.tar_split())?;
        raw.clear();
        Ok(())
    }

    fn finish(self) -> Result<StagedLayer, Error> {
        let (has_root, hidden) = self.extractor.finish()?;
        let path = self.staging.tar_split().to_owned();
        self.split
            .finish()
            .and_then(|file| {
                file.into_inner()
                    .map_err(std::io::IntoInnerError::into_error)
            })
            .at("write", &path)?;
        if !self.fixes.is_empty() {
            let old = File::open(&path).at("open", &path)?;
            fs::remove_file(&path).at("remove", &path)?;
            let new = BufWriter::new(File::create_new(&path).at("make", &path)?);
            tar_split::fix(old, &self.fixes, new).at("write", &path)?;
        }
        let (diff_id, size) = self.stream.finish();
        Ok(StagedLayer {
            staging: self.staging,
            diff_id,
            size,
            owners: self.owners,
            has_root,
            hidden,
        })
    }
}
