//! What the fuzz targets do with this crate's decoders: each function takes any bytes and fails
//! where a decoder breaks a promise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};

use serde_json::{Map, Value};

use crate::artifacts::index::{Index, References};
use crate::check::salvaged;
use crate::gzip::{GzipReader, GzipWriter};
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, Record};
use crate::tar::{self, Source, Stream};
use crate::tar_split::{self, Crc64, Line, Writer};
use crate::unpack::EntryPath;
use crate::{Digest, limits};

/// Entries of an archive that are read.
const ENTRIES: u64 = 1000;
/// Bytes of an archive that are read.
const BYTES: u64 = 1 << 24;

/// Archives: every byte is accounted for, maps of sparse files hold what they promise, what is
/// held between two entries is bounded, and nothing depends on the size of the pieces that come.
/// Numbers agree with a slow reader.
pub fn tar(bytes: &[u8]) {
    let field = bytes.get(..12).unwrap_or(bytes);
    assert_eq!(tar::number(field), slow_number(field), "{field:?}");
    archive(bytes);
    archive(&with_checksums(bytes));
}

fn archive(bytes: &[u8]) {
    let whole = read(bytes, bytes);
    assert_eq!(
        whole,
        read(bytes, Trickle(bytes)),
        "pieces make no difference"
    );
}

/// What an archive holds, in words; the error at its end, if there is one.
fn read(all: &[u8], from: impl Read) -> (String, Option<String>) {
    let mut stream = Stream::new(Source::new(from, BYTES), ENTRIES);
    let (mut told, mut bytes) = (String::new(), Vec::new());
    let error = read_entries(&mut stream, &mut told, &mut bytes).err();
    bytes.append(stream.take_raw());
    match &error {
        Some(_) => assert!(all.starts_with(&bytes), "bytes that were not there"),
        None => {
            assert_eq!(bytes, all, "every byte is accounted for");
            assert_eq!(stream.finish(), (Digest::of(all), all.len() as u64));
        }
    }
    (told, error.map(|error| format!("{error:?}")))
}

fn read_entries(
    stream: &mut Stream<impl Read>,
    told: &mut String,
    bytes: &mut Vec<u8>,
) -> Result<(), crate::Error> {
    while let Some(entry) = stream.next()? {
        writeln!(told, "{entry:?}").expect("a string takes all");
        assert!(stream.take_raw().len() <= limits::HEADER_BYTES);
        assert!(entry.mode <= 0o7777);
        if let Some(map) = &entry.sparse {
            let (mut end, mut sum) = (0, 0);
            for (offset, length) in &map.segments {
                assert!(*offset >= end, "sorted");
                (end, sum) = (offset + length, sum + length);
            }
            assert!(end <= map.size && sum == entry.data);
        }
        bytes.append(stream.take_raw());
        let mut data = 0;
        loop {
            let piece = stream.data()?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(piece);
            let length = piece.len();
            data += length as u64;
            stream.consume(length);
        }
        assert_eq!(data, entry.data);
    }
    bytes.append(stream.take_raw());
    loop {
        let piece = stream.trailing()?;
        if piece.is_empty() {
            return Ok(());
        }
        bytes.extend(piece);
    }
}

/// An entry of an archive: its name, and its size where it is a regular file.
pub type Listed = (Vec<u8>, Option<u64>);

/// The archive with good checksums, and its entries; `None` where it is none.
#[must_use]
pub fn tar_entries(bytes: &[u8]) -> (Vec<u8>, Option<Vec<Listed>>) {
    let bytes = with_checksums(bytes);
    let mut stream = Stream::new(Source::new(&bytes[..], BYTES), ENTRIES);
    let mut entries = Vec::new();
    let mut read = || -> Result<(), crate::Error> {
        while let Some(entry) = stream.next()? {
            stream.take_raw().clear();
            loop {
                let length = stream.data()?.len();
                if length == 0 {
                    break;
                }
                stream.consume(length);
            }
            let size = entry.sparse.as_ref().map_or(entry.data, |map| map.size);
            match entry.kind {
                tar::Kind::Global => {}
                tar::Kind::Regular => entries.push((entry.name, Some(size))),
                _ => entries.push((entry.name, None)),
            }
        }
        Ok(())
    };
    let read = read().is_ok();
    (bytes, read.then_some(entries))
}

/// A reader of few bytes at once.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(61);
        self.0.read(&mut into[..most])
    }
}

/// The archive with good checksums in what looks like header blocks: no fuzzer guesses one.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if !block[257..].starts_with(b"ustar") {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    bytes
}

/// A number of a header, in 128 bits and step by step.
fn slow_number(field: &[u8]) -> Option<i64> {
    let Some(first) = field.first() else {
        return Some(0);
    };
    let mut value: i128 = 0;
    if first & 0x80 != 0 {
        value = i128::from(first & 0x3f) - i128::from(first & 0x40);
        for byte in field.iter().skip(1) {
            value = value * 256 + i128::from(*byte);
        }
    } else {
        let blank = |c: char| c == ' ' || c == '\0';
        let text: String = field.iter().copied().map(char::from).collect();
        let text = text.trim_start_matches(blank);
        let text = text.split('\0').next().unwrap_or_default();
        for digit in text.trim_end_matches(' ').chars() {
            value = value * 8 + i128::from(digit.to_digit(8)?);
        }
    }
    value.try_into().ok()
}

/// Names in archives: what is accepted is beneath the root, bounded and clean already.
pub fn entry_path(bytes: &[u8]) {
    let Ok(path) = EntryPath::parse(bytes) else {
        return;
    };
    let clean = path.as_path();
    assert!(clean.is_relative() && clean.as_os_str().len() <= limits::PATH_BYTES);
    for part in clean.components() {
        assert!(
            matches!(part, std::path::Component::Normal(name) if name.len() <= limits::NAME_BYTES)
        );
    }
    let again = EntryPath::parse(clean.as_os_str().as_encoded_bytes());
    assert_eq!(again.as_ref(), Ok(&path));
    let (parent, name) = path.split();
    assert!(!name.contains(&b'/') && (parent.is_empty() || bytes.len() > parent.len()));
    let _wanted = path.wanted();
}

/// tar-split files: lines come back from what is written of them, and what was changed once needs
/// no change. Checksums agree with a slow sum.
pub fn tar_split(bytes: &[u8]) {
    let mut crc = Crc64::new();
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    crc.update(first);
    crc.update(rest);
    assert_eq!(crc.finish(), slow_crc(bytes));

    let gzipped = gzip(bytes);
    let slow: Result<Vec<Line>, _> = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(serde_json::from_slice)
        .collect();
    let lines: io::Result<Vec<Line>> = tar_split::lines(&gzipped[..]).collect();
    assert_eq!(lines.is_ok(), slow.is_ok());
    let Ok(lines) = lines else {
        return;
    };
    for line in &lines {
        let Ok(name) = line.name() else { continue };
        assert!(!name.is_empty() || line.name.is_empty());
    }
    let mut fixed = Vec::new();
    tar_split::fix(&gzipped[..], &BTreeMap::new(), &mut fixed).expect("lines that can be read");
    let again: io::Result<Vec<Line>> = tar_split::lines(&fixed[..]).collect();
    let again = again.expect("our own lines");
    assert_eq!(again.len(), lines.len());
    for (position, (line, again)) in lines.iter().zip(&again).enumerate() {
        assert_eq!(again.position, position as u64);
        let words = |line: &Line| {
            let Line {
                kind,
                name,
                name_raw,
                size,
                payload,
                ..
            } = line;
            (
                *kind,
                name.clone(),
                name_raw.clone(),
                *size,
                payload.clone(),
            )
        };
        assert_eq!(words(line), words(again));
    }
    let mut twice = Vec::new();
    tar_split::fix(&fixed[..], &BTreeMap::new(), &mut twice).expect("our own lines");
    assert_eq!(gunzip(&twice, BYTES).ok(), gunzip(&fixed, BYTES).ok());
    // A name of any bytes comes back from its line.
    let mut writer = Writer::new(Vec::new());
    writer.file(bytes, 1, Some(1)).expect("a vector takes all");
    let written = writer.finish().expect("a vector takes all");
    let line = tar_split::lines(&written[..]).next().expect("one line");
    assert_eq!(
        line.and_then(|line| line.name()).ok().as_deref(),
        Some(bytes)
    );
}

fn slow_crc(bytes: &[u8]) -> u64 {
    let mut crc = !0_u64;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xd800_0000_0000_0000;
            }
        }
    }
    !crc
}

/// `bytes`, gzipped.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzipWriter::new(Vec::new());
    writer.write_all(bytes).expect("a vector takes all");
    writer.finish().expect("a vector takes all")
}

/// At most `limit` bytes of what `bytes` are gzipped of.
///
/// # Errors
/// They are none.
pub fn gunzip(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzipReader::new(bytes).take(limit).read_to_end(&mut plain)?;
    Ok(plain)
}

/// Tables of containers/storage: what can be read comes back from what is written, with the
/// fields that are not ours; of a table that is cut short all whole records are salvaged.
pub fn tables(bytes: &[u8]) {
    salvage(bytes);
    table::<LayerRecord>(bytes);
    table::<ImageRecord>(bytes);
    table::<ContainerRecord>(bytes);
}

fn salvage(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let whole = serde_json::from_str::<Option<Vec<serde::de::IgnoredAny>>>(text);
    let (records, torn) = salvaged(bytes);
    match whole {
        Ok(whole) => {
            assert!(torn.is_none(), "{torn:?}");
            assert_eq!(records.len(), whole.unwrap_or_default().len());
        }
        Err(error) => assert!(torn.is_some(), "{error}"),
    }
    let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
    let (of_half, _) = salvaged(half);
    // A number that is cut is another number: the last record of all may differ.
    let certain = of_half.len().saturating_sub(1);
    for (one, other) in of_half.iter().zip(&records).take(certain) {
        assert_eq!(one.get(), other.get());
    }
}

fn table<R: Record>(bytes: &[u8]) {
    let Ok(Some(rows)) = serde_json::from_slice::<Option<Vec<R>>>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&rows).expect("a record has a form");
    let again: Vec<R> = serde_json::from_slice(&written).expect("our own table");
    assert_eq!(
        serde_json::to_vec(&again).expect("a record has a form"),
        written
    );
    // What is not read by its name is there as it came.
    let Ok(before) = serde_json::from_slice::<Vec<Map<String, Value>>>(bytes) else {
        return;
    };
    let after: Vec<Map<String, Value>> = serde_json::from_slice(&written).expect("our own table");
    for (before, after) in before.iter().zip(&after) {
        for (key, value) in before {
            let same = after.get(key) == Some(value);
            assert!(same || is_nothing(value), "{key}: {value}");
        }
    }
}

/// What Go writes for a field that is not set.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The index of artifacts and what a manifest refers to: bounded; what was read comes back from what
/// is written, and a name that is given and taken away leaves the rest as it was.
pub fn artifact_index(bytes: &[u8]) {
    const NAME: &str = "fuzz.example/a:1";
    if let Ok(references) = References::parse(bytes) {
        let all = references.blobs().chain(references.manifests());
        assert!(all.count() * 71 <= bytes.len(), "each digest was there");
    }
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    assert!(index.len() <= limits::ARTIFACTS);
    assert_eq!(index.entries().count(), index.len());
    let again = Index::parse(&index.to_bytes()).expect("our own index");
    assert_eq!(again, index);
    let mut changed = index.clone();
    let other = Digest::of(b"not in any seed");
    changed.put(NAME, &other, 1, "");
    let named = changed
        .entries()
        .filter(|(_, name)| name.as_deref() == Some(NAME));
    assert!(
        named.map(|(digest, _)| digest).eq([other.clone()]),
        "one has the name"
    );
    changed.remove(&other, Some(NAME));
    let digests = |index: &Index| {
        index
            .entries()
            .map(|(digest, _)| digest)
            .collect::<Vec<_>>()
    };
    assert_eq!(digests(&changed), digests(&index));
}

/// What an additional layer store says of a layer: sizes keep their bounds, and what is taken comes back.
pub fn offered_layer(bytes: &[u8]) {
    crate::layer_stores::fuzz(bytes);
}
