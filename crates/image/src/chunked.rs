//! zstd:chunked layers in parts: which files of a layer the store has in other layers, and the
//! layer's archive made of those and of the parts of the blob that have the others.
//!
//! The blob's table of contents and its tar-split are at places that the layer's annotations name,
//! and are checked by digests that the manifest promises. From the tar-split comes the archive that
//! the whole blob would give, byte for byte: it is unpacked as any other and has to have the diff ID
//! that the configuration promises. So nothing is believed that a pull of the whole blob would not
//! find out, and layer and image have the same IDs. A table of contents that lies costs a second pull.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};

use serde::Deserialize;
use storage::{ArchivePart, Digest, LayerId, Store, archive_parts};

use crate::limits;
use crate::manifest::Descriptor;

mod archive;

pub(crate) use archive::Archive;

/// Where a part of a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What a layer's annotations say of its table of contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    toc: Span,
    toc_digest: Digest,
    tar_split: Span,
}

/// A table of contents, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Toc {
    version: u64,
    entries: Vec<Entry>,
    #[serde(rename = "tarSplitDigest")]
    tar_split_digest: Option<Digest>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    r#type: String,
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
}

/// A table of contents and a tar-split that were checked.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The table, decompressed.
    pub(crate) toc: Vec<u8>,
    /// Compressed.
    tar_split: Vec<u8>,
    files: BTreeMap<Vec<u8>, Part>,
}

/// A file of a layer.
#[derive(Clone, Debug)]
struct Part {
    size: u64,
    digest: Option<Digest>,
    span: Span,
}

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another layer's file.
    Layer(LayerId, Vec<u8>),
    /// That part of the blob, compressed.
    Blob(Span),
}

/// How a layer is put together.
#[derive(Debug)]
pub(crate) struct Plan {
    tar_split: Vec<u8>,
    /// In the order of the archive.
    files: Vec<(u64, Source)>,
    /// Parts of the blob to fetch, in their order, none touching the next.
    pub(crate) spans: Vec<Span>,
}

impl Span {
    pub(crate) fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl Places {
    /// Those of a layer, if it says and they are in its blob.
    pub(crate) fn of(layer: &Descriptor) -> Option<Self> {
        const PREFIX: &str = "io.github.containers.zstd-chunked.";
        let numbers = |name: &str| -> Option<Vec<u64>> {
            let text = layer.annotations.get(&format!("{PREFIX}{name}"))?;
            text.split(':').map(|number| number.parse().ok()).collect()
        };
        let span = |start: u64, length: u64| -> Option<Span> {
            let end = start.checked_add(length)?;
            let fits = length > 0 && length <= limits::TOC_COMPRESSED_BYTES && end <= layer.size;
            fits.then_some(Span { start, end })
        };
        let digest = layer
            .annotations
            .get(&format!("{PREFIX}manifest-checksum"))?;
        let [toc, toc_length, _, 1] = numbers("manifest-position")?[..] else {
            return None;
        };
        let [tar_split, tar_split_length, _] = numbers("tarsplit-position")?[..] else {
            return None;
        };
        Some(Self {
            toc: span(toc, toc_length)?,
            toc_digest: digest.parse().ok()?,
            tar_split: span(tar_split, tar_split_length)?,
        })
    }

    /// The part of the blob that has both.
    pub(crate) fn span(&self) -> Option<Span> {
        let span = Span {
            start: self.toc.start.min(self.tar_split.start),
            end: self.toc.end.max(self.tar_split.end),
        };
        // They are beside each other.
        (span.length() <= 2 * limits::TOC_COMPRESSED_BYTES + 4096).then_some(span)
    }

    /// Reads both from the bytes of [`Places::span`].
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Contents, String> {
        let base = self.toc.start.min(self.tar_split.start);
        let part = |span: Span| {
            let at = |offset: u64| usize::try_from(offset.checked_sub(base)?).ok();
            bytes.get(at(span.start)?..at(span.end)?)
        };
        let (toc, tar_split) = part(self.toc)
            .zip(part(self.tar_split))
            .ok_or("too short")?;
        crate::blob::verify(toc, &self.toc_digest)
            .map_err(|actual| format!("the table of contents has the digest {actual}"))?;
        let toc = decompress(toc).map_err(|error| error.to_string())?;
        let contents = parse(&toc)?;
        let digest = contents.tar_split_digest.as_ref();
        let digest = digest.ok_or("the table of contents has no digest of the tar-split")?;
        crate::blob::verify(tar_split, digest)
            .map_err(|actual| format!("the tar-split has the digest {actual}"))?;
        let files = files(contents, self.toc.start)?;
        Ok(Contents {
            toc,
            tar_split: tar_split.to_vec(),
            files,
        })
    }
}

fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
    decoder
        .take(limits::TOC_BYTES + 1)
        .read_to_end(&mut plain)?;
    if plain.len() as u64 > limits::TOC_BYTES {
        return Err(io::Error::other("the table of contents is too large"));
    }
    Ok(plain)
}

/// What fuzzing does with a table of contents of a blob whose files end at `end`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8], end: u64) {
    if let Ok(files) = parse(bytes).and_then(|toc| files(toc, end)) {
        for file in files.values() {
            assert!(file.size > 0 && file.span.start < file.span.end && file.span.end <= end);
        }
    }
    let compressed = zstd::stream::encode_all(bytes, 1).expect("a vector takes all");
    let length = compressed.len() as u64;
    let at = |start, length| Span {
        start,
        end: start + length,
    };
    let places = Places {
        toc: at(100, length),
        toc_digest: Digest::of(&compressed),
        tar_split: at(100 + length, 0),
    };
    let read = places.read(&compressed);
    let digest = parse(bytes).ok().and_then(|toc| toc.tar_split_digest);
    assert!(
        read.is_err() || digest == Some(Digest::of(b"")),
        "another tar-split"
    );
    let mut changed = compressed;
    if let Some(byte) = changed.last_mut() {
        *byte ^= 1;
    }
    assert!(places.read(&changed).is_err(), "a change is seen");
}

fn parse(toc: &[u8]) -> Result<Toc, String> {
    let toc: Toc = serde_json::from_slice(toc).map_err(|error| error.to_string())?;
    match toc.version {
        1 => Ok(toc),
        other => Err(format!("a table of contents of version {other}")),
    }
}

/// The files that have bytes, all before `end` in the blob.
fn files(toc: Toc, end: u64) -> Result<BTreeMap<Vec<u8>, Part>, String> {
    let mut files = BTreeMap::new();
    for entry in toc
        .entries
        .into_iter()
        .filter(|entry| entry.r#type == "reg" && entry.size > 0)
    {
        let span = Span {
            start: entry.offset,
            end: entry.end_offset,
        };
        if span.start >= span.end || span.end > end {
            return Err(format!("{:?} is at an impossible place", entry.name));
        }
        let part = Part {
            size: entry.size,
            digest: entry.digest.and_then(|digest| digest.parse().ok()),
            span,
        };
        if files.insert(entry.name.into_bytes(), part).is_some() {
            return Err("a name twice".to_owned());
        }
    }
    Ok(files)
}

impl Contents {
    /// How the layer is put together with what the store has. Blocks: files are read whole to see
    /// that they are what their layers' tables of contents say.
    pub(crate) fn plan(&self, store: &Store) -> Result<Plan, String> {
        let mut there = self.find(store)?;
        let mut files = Vec::new();
        let mut spans: Vec<Span> = Vec::new();
        let mut position = 0;
        for part in archive_parts(plain(&self.tar_split).map_err(|error| error.to_string())?) {
            let ArchivePart::File { name, size } = part.map_err(|error| error.to_string())? else {
                continue;
            };
            let file = self.files.get(&name).filter(|file| file.size == size);
            let file = file.ok_or("tar-split and table of contents differ")?;
            let local = file
                .digest
                .as_ref()
                .and_then(|digest| there.good(store, digest, size));
            if let Some((layer, name)) = local {
                files.push((size, Source::Layer(layer, name)));
                continue;
            }
            if file.span.start < position {
                return Err("the files are in another order".to_owned());
            }
            position = file.span.end;
            files.push((size, Source::Blob(file.span)));
            match spans.last_mut() {
                Some(last) if file.span.start - last.end <= limits::SPAN_GAP => {
                    last.end = file.span.end
                }
                _ => spans.push(file.span),
            }
        }
        Ok(Plan {
            tar_split: self.tar_split.clone(),
            files,
            spans,
        })
    }

    /// Files of the store's layers that have one of the wanted digests, as they say.
    fn find(&self, store: &Store) -> Result<There, String> {
        let wanted: BTreeSet<&Digest> = self
            .files
            .values()
            .filter_map(|file| file.digest.as_ref())
            .collect();
        let mut there = There::default();
        let layers = store.layers_with_toc().map_err(|error| error.to_string())?;
        for layer in layers {
            let Ok(Some(toc)) = store.layer_toc(&layer) else {
                continue;
            };
            let Ok(toc) = parse(&toc) else { continue };
            for entry in toc.entries {
                let digest = entry.digest.and_then(|digest| digest.parse().ok());
                if let Some(digest) = digest.filter(|digest| wanted.contains(digest)) {
                    let named = (layer.clone(), entry.name.into_bytes());
                    there.0.entry(digest).or_default().unchecked.push(named);
                }
            }
        }
        Ok(there)
    }
}

/// Files that layers say to have, by digest.
#[derive(Debug, Default)]
struct There(BTreeMap<Digest, Candidates>);

#[derive(Debug, Default)]
struct Candidates {
    unchecked: Vec<(LayerId, Vec<u8>)>,
    good: Option<(LayerId, Vec<u8>)>,
}

impl There {
    /// One that has that digest indeed: it was read.
    fn good(&mut self, store: &Store, digest: &Digest, size: u64) -> Option<(LayerId, Vec<u8>)> {
        let candidates = self.0.get_mut(digest)?;
        while candidates.good.is_none() {
            let (layer, name) = candidates.unchecked.pop()?;
            if has_digest(store, &layer, &name, digest, size) {
                candidates.good = Some((layer, name));
            }
        }
        candidates.good.clone()
    }
}

fn has_digest(store: &Store, layer: &LayerId, name: &[u8], digest: &Digest, size: u64) -> bool {
    let Ok(Some(mut file)) = store.layer_file(layer, name, size) else {
        return false;
    };
    let mut hash = crate::blob::Hash::like(digest);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return hash.compare().is_ok(),
            Ok(length) => hash.update(&buffer[..length]),
            Err(_) => return false,
        }
    }
}

/// A tar-split, decompressed.
fn plain(tar_split: &[u8]) -> io::Result<impl io::Read + '_> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(tar_split)?;
    decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
    Ok(decoder.take(limits::TAR_SPLIT_BYTES))
}

impl Plan {
    /// Bytes that are fetched.
    pub(crate) fn fetched(&self) -> u64 {
        self.spans.iter().map(|span| span.length()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn layer(toc: &str, tar_split: &str) -> Descriptor {
        let name = |name: &str| format!("io.github.containers.zstd-chunked.{name}");
        serde_json::from_value(
            json!({"mediaType": "m", "digest": Digest::of(b"x").as_str(), "size": 1000,
            "annotations": {name("manifest-position"): toc, name("tarsplit-position"): tar_split,
                name("manifest-checksum"): Digest::of(b"toc").as_str()}}),
        )
        .unwrap()
    }

    #[test]
    fn places_are_in_the_blob_or_none() {
        let span = |start, end| Some(Span { start, end });
        let places = Places::of(&layer("100:50:900:1", "158:20:300")).unwrap();
        assert_eq!(places.span(), span(100, 178));
        for (toc, tar_split) in [
            ("100:50:900:2", "158:20:300"),
            ("100:50:900", "158:20:300"),
            ("100:901:900:1", "158:20:300"),
            ("18446744073709551615:2:900:1", "158:20:300"),
            ("100:0:900:1", "158:20:300"),
            ("100:50:900:1", "158:-20:300"),
            ("100:50:900:1", "999:2:300"),
            ("", ""),
        ] {
            assert_eq!(
                Places::of(&layer(toc, tar_split)),
                None,
                "{toc} {tar_split}"
            );
        }
    }

    #[test]
    fn files_have_places_of_their_own_before_the_table() {
        let toc = |entries: serde_json::Value| {
            let text = json!({"version": 1, "entries": entries}).to_string();
            parse(text.as_bytes()).and_then(|toc| files(toc, 100))
        };
        let file = |name: &str, start: u64, end: u64| json!({"type": "reg", "name": name, "size": 5, "offset": start, "endOffset": end});
        let good = toc(
            json!([file("a", 0, 50), {"type": "dir", "name": "a"}, file("b", 50, 100),
            {"type": "reg", "name": "empty"}, {"type": "chunk", "name": "b", "offset": 60}]),
        );
        assert_eq!(good.unwrap().len(), 2);
        for bad in [
            json!([file("a", 0, 50), file("a", 50, 60)]),
            json!([file("a", 50, 50)]),
            json!([file("a", 50, 101)]),
        ] {
            assert!(toc(bad.clone()).is_err(), "{bad}");
        }
        assert!(parse(br#"{"version":2,"entries":[]}"#).is_err());
    }
}
