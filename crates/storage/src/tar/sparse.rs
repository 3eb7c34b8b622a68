//! Sparse files of GNU tar: the old format, and the three that came with PAX.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::header::{BLOCK, field};
use super::{number, pax};
use crate::limits;

/// Where a sparse file has data. Sorted, not overlapping, all within `size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// Offset and length of each piece of data.
    pub(crate) segments: Vec<(u64, u64)>,
}

impl Map {
    /// Checks a map that came from outside: `data` is how many bytes the archive holds for it.
    pub(crate) fn new(size: u64, segments: Vec<(u64, u64)>, data: u64) -> Option<Self> {
        let (mut end, mut sum) = (0, 0_u64);
        for (offset, length) in &segments {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        (end <= size && sum == data).then_some(Self { size, segments })
    }
}

/// Adds the entries of one array of the old format (24 bytes each, 12 for a number) to
/// `segments`. `None` where it is damaged or too long.
pub(crate) fn old_entries(array: &[u8], segments: &mut Vec<(u64, u64)>) -> Option<()> {
    for entry in array.chunks_exact(24) {
        if entry.first() == Some(&0) {
            break;
        }
        let (offset, length) = entry.split_at_checked(12)?;
        push(
            segments,
            number::parse(offset)?.try_into().ok()?,
            number::parse(length)?.try_into().ok()?,
        )?;
    }
    Some(())
}

/// The array in a header block of the old format, whether a block of more follows, and the
/// file's size.
pub(crate) fn old_header(block: &[u8; BLOCK]) -> Option<(&[u8], bool, u64)> {
    let size = number::parse(field(block, 483, 12))?.try_into().ok()?;
    Some((field(block, 386, 96), field(block, 482, 1) != [0], size))
}

/// The array in a block of more entries, and whether another follows.
pub(crate) fn old_extension(block: &[u8; BLOCK]) -> (&[u8], bool) {
    (field(block, 0, 504), field(block, 504, 1) != [0])
}

/// Which format a PAX header announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Not a sparse file.
    No,
    /// The map is in the records themselves (0.0 and 0.1).
    InRecords(Vec<(u64, u64)>),
    /// The map is at the start of the data (1.0).
    InData,
}

/// Which sparse format `records` announce. `None` where they are damaged.
pub(crate) fn announced(records: &pax::Records) -> Option<Announced> {
    let version = (
        records.get(b"GNU.sparse.major"),
        records.get(b"GNU.sparse.minor"),
    );
    match version {
        (Some(b"1"), Some(b"0")) => Some(Announced::InData),
        (Some(b"0"), Some(b"0" | b"1")) => map_in_records(records).map(Announced::InRecords),
        (None, None) if is_old_pax(records) => map_in_records(records).map(Announced::InRecords),
        (None, None) => Some(Announced::No),
        // A format that nobody has written yet: its data can't be placed.
        _ => None,
    }
}

/// The file's size, as `records` of either format tell it.
pub(crate) fn real_size(records: &pax::Records) -> Option<u64> {
    let size = records
        .get(b"GNU.sparse.size")
        .or_else(|| records.get(b"GNU.sparse.realsize"))?;
    number::decimal(size)
}

fn is_old_pax(records: &pax::Records) -> bool {
    records.get(b"GNU.sparse.map").is_some() || records.get(b"GNU.sparse.offset").is_some()
}

fn map_in_records(records: &pax::Records) -> Option<Vec<(u64, u64)>> {
    let mut segments = Vec::new();
    if let Some(map) = records.get(b"GNU.sparse.map") {
        let mut numbers = map.split(|byte| *byte == b',').map(number::decimal);
        while let Some(offset) = numbers.next() {
            push(&mut segments, offset?, numbers.next()??)?;
        }
    } else {
        let mut offset = None;
        for (key, value) in records.iter() {
            match (key, offset) {
                (b"GNU.sparse.offset", None) => offset = Some(number::decimal(value)?),
                (b"GNU.sparse.numbytes", Some(at)) => {
                    push(&mut segments, at, number::decimal(value)?)?;
                    offset = None;
                }
                (b"GNU.sparse.offset" | b"GNU.sparse.numbytes", _) => return None,
                _ => {}
            }
        }
        if offset.is_some() {
            return None;
        }
    }
    let told = number::decimal(records.get(b"GNU.sparse.numblocks").unwrap_or(b"0"))?;
    (usize::try_from(told).ok()? == segments.len()).then_some(segments)
}

/// Reads the map of format 1.0 block by block: decimal numbers, each on a line of its own,
/// the first being how many pairs follow; filled up to a whole block.
#[derive(Debug, Default)]
pub(crate) struct MapReader {
    line: Vec<u8>,
    pairs: Option<usize>,
    offset: Option<u64>,
    segments: Vec<(u64, u64)>,
}

impl MapReader {
    /// Takes a block; `Some(None)` asks for another, `Some(Some(_))` is the whole map, `None`
    /// that it is damaged.
    pub(crate) fn block(&mut self, block: &[u8; BLOCK]) -> Option<Option<Vec<(u64, u64)>>> {
        for byte in block {
            if *byte != b'\n' {
                // A number has at most 20 digits: what is longer is none.
                if self.line.len() >= 20 {
                    return None;
                }
                self.line.push(*byte);
                continue;
            }
            let number = number::decimal(&std::mem::take(&mut self.line))?;
            match (self.pairs, self.offset.take()) {
                (None, _) => {
                    let pairs = usize::try_from(number).ok()?;
                    if pairs > limits::SPARSE_SEGMENTS {
                        return None;
                    }
                    self.pairs = Some(pairs);
                }
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => push(&mut self.segments, offset, number)?,
            }
            if self.pairs == Some(self.segments.len()) && self.offset.is_none() {
                return Some(Some(std::mem::take(&mut self.segments)));
            }
        }
        Some(None)
    }
}

fn push(segments: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Option<()> {
    if segments.len() >= limits::SPARSE_SEGMENTS {
        return None;
    }
    segments.push((offset, length));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_sorted_whole_and_inside_the_file() {
        for (size, segments, data, good) in [
            (0, vec![], 0, true),
            (10, vec![], 0, true),
            (10, vec![(0, 4), (4, 6)], 10, true),
            (10, vec![(10, 0)], 0, true),
            (10, vec![(0, 4), (3, 1)], 5, false),
            (10, vec![(5, 1), (0, 1)], 2, false),
            (10, vec![(8, 3)], 3, false),
            (10, vec![(0, 4)], 5, false),
            (u64::MAX, vec![(u64::MAX, 1)], 1, false),
        ] {
            assert_eq!(
                Map::new(size, segments.clone(), data).is_some(),
                good,
                "{segments:?}"
            );
        }
    }

    #[test]
    fn a_map_in_the_data_ends_with_its_last_number() {
        let mut block = [0; BLOCK];
        block[..10].copy_from_slice(b"2\n0\n1\n5\n2\n");
        assert_eq!(
            MapReader::default().block(&block),
            Some(Some(vec![(0, 1), (5, 2)]))
        );
        block[..10].copy_from_slice(b"2\n0\n1\n5\n\0\0");
        assert_eq!(
            MapReader::default().block(&block),
            None,
            "a NUL is no digit"
        );
        assert_eq!(MapReader::default().block(&[b'1'; BLOCK]), None);
        block[..10].copy_from_slice(b"99999999\n0");
        assert_eq!(MapReader::default().block(&block), None);
    }
}
