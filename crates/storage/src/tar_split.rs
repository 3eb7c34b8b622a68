//! tar-split files: what it takes, besides the files on disk, to make a layer's archive again.
//!
//! The format is that of `vbatts/tar-split`, one JSON object a line, gzipped: type 2 is a segment
//! of the archive's own bytes (headers, padding), type 1 a file whose bytes are found on disk
//! under its name, with its size and the CRC-64 (ISO, big-endian) of its bytes; a file of size 0
//! stands for nothing. Positions count from 0. A name occurs once among the files: peers refuse
//! a second. What can't be found on disk under its name (a sparse file's data, a file that a
//! later entry replaced) is kept in segments here.

mod assemble;
mod crc64;
mod fix;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

pub(crate) use self::assemble::assemble;
#[cfg(feature = "fuzzing")]
pub(crate) use self::assemble::lines;
pub(crate) use self::crc64::Crc64;
pub(crate) use self::fix::{Fix, fix};
use crate::gzip::GzipWriter;

/// One line.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Line {
    #[serde(rename = "type")]
    pub(crate) kind: u8,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// Base64 of a name that is not UTF-8.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name_raw: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    /// Base64: a segment's bytes, a file's checksum.
    pub(crate) payload: Option<String>,
    pub(crate) position: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

pub(crate) const FILE: u8 = 1;
pub(crate) const SEGMENT: u8 = 2;

/// Writes a tar-split.
pub(crate) struct Writer<W: Write> {
    gzip: GzipWriter<W>,
    position: u64,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            gzip: GzipWriter::new(inner),
            position: 0,
            line: Vec::new(),
        }
    }

    /// Adds bytes of the archive's own, if there are any.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.add(SEGMENT, b"", 0, Some(STANDARD.encode(bytes)))
            .map(drop)
    }

    /// Adds a file; `checksum` for one with data. Returns its position.
    pub(crate) fn file(
        &mut self,
        name: &[u8],
        size: u64,
        checksum: Option<u64>,
    ) -> io::Result<u64> {
        let payload = checksum.map(|checksum| STANDARD.encode(checksum.to_be_bytes()));
        self.add(FILE, name, size, payload)
    }

    fn add(
        &mut self,
        kind: u8,
        name: &[u8],
        size: u64,
        payload: Option<String>,
    ) -> io::Result<u64> {
        let (name, name_raw) = match std::str::from_utf8(name) {
            Ok(name) => (name.to_owned(), String::new()),
            Err(_) => (String::new(), STANDARD.encode(name)),
        };
        self.line(Line {
            kind,
            name,
            name_raw,
            size,
            payload,
            position: 0,
        })
    }

    /// Adds a line, numbering it.
    fn line(&mut self, mut line: Line) -> io::Result<u64> {
        line.position = self.position;
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line)?;
        self.line.push(b'\n');
        self.gzip.write_all(&self.line)?;
        self.position += 1;
        Ok(line.position)
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        self.gzip.finish()
    }
}
