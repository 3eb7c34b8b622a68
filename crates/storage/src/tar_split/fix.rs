//! Second thoughts about lines that are written: a later entry replaced the file they stand for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::Writer;
use super::assemble::lines;

/// What becomes of a file's line.
#[derive(Debug)]
pub(crate) enum Fix {
    /// It goes: it stood for no bytes, and a later entry has its name.
    Drop,
    /// Its bytes, which were moved to this file, become segments.
    Inline(PathBuf),
}

const PIECE: usize = 128 << 10;

/// Copies a tar-split, changing the lines at the positions of `fixes`.
pub(crate) fn fix(
    tar_split: impl Read,
    fixes: &BTreeMap<u64, Fix>,
    fixed: impl Write,
) -> io::Result<()> {
    let mut writer = Writer::new(fixed);
    for line in lines(tar_split) {
        let line = line?;
        match fixes.get(&line.position) {
            None => drop(writer.line(line)?),
            Some(Fix::Drop) => {}
            Some(Fix::Inline(path)) => {
                let mut file = File::open(path)?.take(line.size);
                let mut piece = Vec::with_capacity(PIECE);
                loop {
                    piece.clear();
                    file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
                    if piece.is_empty() {
                        break;
                    }
                    writer.segment(&piece)?;
                }
            }
        }
    }
    writer.finish().map(drop)
}
