//! One header block of a tar archive (POSIX ustar, GNU, star, V7): fields, not yet their meaning.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::number;

/// Size of a block, in bytes.
pub(crate) const BLOCK: usize = 512;

/// The fields of a header block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: i64,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) size: i64,
    pub(crate) modified: i64,
    pub(crate) type_flag: u8,
    pub(crate) device: (i64, i64),
    pub(crate) gnu: bool,
}

/// Why a block is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Checksum,
    Number(&'static str),
}

impl Header {
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, BadHeader> {
        verify_checksum(block)?;
        let number = |at, length, name| {
            number::parse(field(block, at, length)).ok_or(BadHeader::Number(name))
        };
        let magic = field(block, 257, 6);
        let ustar = magic == b"ustar\0";
        let gnu = magic == b"ustar " && field(block, 263, 2) == b" \0";
        let star = ustar && field(block, 508, 4) == b"tar\0";
        let mut name = text(block, 0, 100).to_vec();
        let prefix = match (star, ustar) {
            (true, _) => text(block, 345, 131),
            (false, true) => text(block, 345, 155),
            (false, false) => b"",
        };
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let device = if ustar || gnu {
            (
                number(329, 8, "device major")?,
                number(337, 8, "device minor")?,
            )
        } else {
            (0, 0)
        };
        Ok(Self {
            name,
            link: text(block, 157, 100).to_vec(),
            mode: number(100, 8, "mode")?,
            uid: number(108, 8, "uid")?,
            gid: number(116, 8, "gid")?,
            size: number(124, 12, "size")?,
            modified: number(136, 12, "mtime")?,
            type_flag: field(block, 156, 1).first().copied().unwrap_or(0),
            device,
            gnu,
        })
    }
}

/// The sum of all bytes with the checksum's own as spaces; Sun's tar took the bytes as signed.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), BadHeader> {
    let told = number::octal(field(block, 148, 8)).ok_or(BadHeader::Checksum)?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned = unsigned.saturating_add(byte.into());
        signed = signed.saturating_add(byte.cast_signed().into());
    }
    let told = i64::try_from(told).map_err(|_| BadHeader::Checksum)?;
    if told == unsigned || told == signed {
        Ok(())
    } else {
        Err(BadHeader::Checksum)
    }
}

/// `length` bytes at `at`; the callers' figures lie within a block.
pub(crate) fn field(block: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    block.get(at..at.saturating_add(length)).unwrap_or_default()
}

/// A field up to its first NUL, if it has one.
fn text(block: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    until_nul(field(block, at, length))
}

pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
