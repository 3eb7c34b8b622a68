//! What the fuzz targets do with this crate's decoders: each function takes any bytes and fails
//! where a decoder breaks a promise.

use std::fs;

use crate::log::fuzzing::{HALF, HEADER, LAYOUT, LINE, VERSION};
use crate::log::fuzzing::{Journal, Write, format, stamp};

/// Bytes of records that are made at once.
const LIMIT: usize = 64 * 1024;

/// A journal of a container's output as a predecessor may have left it, or a damaged disk: it is
/// settled into the same once and for all, keeps its bounds, loses nothing when it is consumed, and
/// its records say what was pending.
///
/// # Panics
/// One of these is not so.
pub fn journal(bytes: &[u8]) {
    let dir = tempfile();
    let path = dir.join("journal");
    fs::write(&path, image(bytes)).expect("a file on tmpfs");
    settle(&path);
    fs::remove_dir_all(&dir).ok();
}

fn settle(path: &std::path::Path) {
    let open = || Journal::open(path).expect("a journal of our layout");
    let mut journal = open();
    let pending = journal.pending().to_vec();
    assert!(pending.len() <= HALF);
    let unfinished = journal.unfinished();
    assert!(unfinished.is_none_or(|write| write.consumed <= pending.len()));
    drop(journal);
    let mut journal = open();
    assert_eq!(journal.pending(), pending, "a second look finds the same");
    assert_eq!(journal.unfinished(), unfinished);

    // All is logged, in as many steps as it takes.
    let (mut left, mut said) = (pending.clone(), Vec::new());
    while !left.is_empty() {
        let mut records = Vec::new();
        let stamp = stamp(7);
        let mut consumed = format(&left, "stdout", &stamp, false, LIMIT, &mut records);
        if consumed == 0 {
            // A line without an end, as at the stream's end.
            consumed = format(&left, "stdout", &stamp, true, LIMIT, &mut records);
        }
        assert!(consumed > 0, "there is always a record");
        let write = Write {
            time: 7,
            device: 1,
            inode: 2,
            offset: 3,
            consumed,
        };
        journal.begin(write);
        drop(journal);
        journal = open();
        assert_eq!(journal.unfinished(), Some(write), "known to a successor");
        assert_eq!(journal.pending(), left, "and not gone yet");
        journal.consume(consumed);
        assert_eq!(journal.unfinished(), None);
        left.drain(..consumed);
        assert_eq!(journal.pending(), left, "what follows stays");
        read(&records, &mut said);
    }
    assert_eq!(said, pending, "the records say it all");
}

/// What records say, one after another.
fn read(mut records: &[u8], said: &mut Vec<u8>) {
    const STAMP: usize = "1970-01-01T00:00:00.000000007Z stdout F ".len();
    while !records.is_empty() {
        let end = records.iter().position(|byte| *byte == b'\n');
        let (record, rest) = records.split_at(end.expect("a record ends") + 1);
        let (head, text) = record.split_at(STAMP);
        let full = head == b"1970-01-01T00:00:00.000000007Z stdout F ";
        assert!(full || head == b"1970-01-01T00:00:00.000000007Z stdout P ");
        assert!(text.len() <= LINE + 1);
        // Its own end is the text's where the record is a full one.
        let text = if full { text } else { &text[..text.len() - 1] };
        said.extend_from_slice(text);
        records = rest;
    }
}

/// A journal whose words are the first bytes and whose halves hold the rest, again and again. One of
/// another layout would be refused.
fn image(bytes: &[u8]) -> Vec<u8> {
    let mut image = vec![0; HEADER + 2 * HALF];
    let (words, text) = bytes.split_at(bytes.len().min(8 * VERSION));
    image[..words.len()].copy_from_slice(words);
    image[8 * VERSION..8 * VERSION + 8].copy_from_slice(&LAYOUT.to_le_bytes());
    if !text.is_empty() {
        for (to, from) in image[HEADER..].iter_mut().zip(text.iter().cycle()) {
            *to = *from;
        }
    }
    image
}

/// A directory of this run, on tmpfs.
fn tempfile() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("crioxide-fuzz-{}-{number}", std::process::id());
    let dir = std::path::Path::new("/dev/shm").join(name);
    fs::create_dir_all(&dir).expect("a directory on tmpfs");
    dir
}
