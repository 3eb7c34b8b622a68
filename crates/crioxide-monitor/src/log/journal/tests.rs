use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

struct Bench {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    read: std::os::fd::OwnedFd,
    write: std::os::fd::OwnedFd,
    scratch: Scratch,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).unwrap();
        let path = dir.path().join("journal");
        Self {
            _dir: dir,
            path,
            read,
            write,
            scratch: Scratch::new().unwrap(),
        }
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.path).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.write, bytes).unwrap(), bytes.len());
    }

    fn read(&self, journal: &mut Journal) -> Vec<u8> {
        let probe = 0x1122_3344_5566_7788;
        journal
            .read(self.read.as_fd(), Kind::Pipe, probe, &self.scratch)
            .unwrap()
            .to_vec()
    }

    /// Puts the journal where a crash right before or right after the read would have left it.
    fn crash_at_read(&self, bytes: &[u8], happened: bool) {
        self.put(bytes);
        let mut journal = self.journal();
        let (words, _) = journal.mapping.split();
        let before = load(words);
        let place_before = before.end;
        assert_eq!(self.read(&mut journal), bytes);
        let (words, all) = journal.mapping.split();
        let mut state = load(words);
        state.intent = state.end - place_before;
        state.end = place_before;
        store(words, state);
        if !happened {
            // The bytes are still in the pipe, and the probe is in their place.
            let probe = word(words, PROBE).load(Ordering::Acquire);
            let place = &mut half(all, state.second_half)[place_before..place_before + bytes.len()];
            put_probe(place, probe, Kind::Pipe);
            self.put(bytes);
        }
    }
}

#[test]
fn a_crash_around_the_read_neither_loses_nor_doubles() {
    for length in [1, 2, 7, 8, 9, 5000, 16_000] {
        for happened in [true, false] {
            let bench = Bench::new();
            let bytes: Vec<u8> = (0..length)
                .map(|n| u8::try_from(n % 251).unwrap())
                .collect();
            bench.put(b"before ");
            bench.read(&mut bench.journal());
            bench.crash_at_read(&bytes, happened);
            let mut successor = bench.journal();
            assert_eq!(
                bench.read(&mut successor).is_empty(),
                happened,
                "{length} {happened}"
            );
            assert!(
                successor.pending() == [b"before ".as_slice(), &bytes].concat(),
                "{length} {happened}"
            );
        }
    }
}

#[test]
fn a_crash_while_writing_is_found_with_its_place() {
    let bench = Bench::new();
    bench.put(b"one\ntwo\nthr");
    let mut journal = bench.journal();
    bench.read(&mut journal);
    assert_eq!(journal.unfinished(), None);
    let write = Write {
        time: 7,
        device: 1,
        inode: 2,
        offset: 3,
        consumed: 8,
    };
    journal.begin(write);
    drop(journal);
    let mut successor = bench.journal();
    assert_eq!(successor.unfinished(), Some(write));
    successor.consume(8);
    assert_eq!(
        (successor.unfinished(), successor.pending()),
        (None, &b"thr"[..])
    );
    drop(successor);
    assert_eq!(bench.journal().pending(), b"thr");
}

#[test]
fn bytes_pass_in_order_however_they_are_consumed() {
    let bench = Bench::new();
    let mut journal = bench.journal();
    let (mut next, mut expected) = (0u32, 0u32);
    for round in 0..2000usize {
        let mut chunk = Vec::new();
        for _ in 0..(round * 37 % 300 + 1) {
            chunk.extend(next.to_le_bytes());
            next += 1;
        }
        bench.put(&chunk);
        bench.read(&mut journal);
        if round % 5 == 0 {
            journal = {
                drop(journal);
                bench.journal()
            };
        }
        // All but a tail of up to 4000 bytes.
        let take = journal
            .pending()
            .len()
            .saturating_sub(round * 91 % 1000 * 4)
            / 4
            * 4;
        for number in journal.pending()[..take].chunks(4) {
            assert_eq!(u32::from_le_bytes(number.try_into().unwrap()), expected);
            expected += 1;
        }
        journal.consume(take);
    }
    assert!(expected > 200_000);
}

#[test]
fn a_damaged_state_is_an_empty_one() {
    let bench = Bench::new();
    let mut journal = bench.journal();
    let (words, _) = journal.mapping.split();
    word(words, STATE).store(u64::MAX, Ordering::Release);
    drop(journal);
    let mut journal = bench.journal();
    assert!(journal.pending().is_empty());
    bench.put(b"x");
    assert_eq!(bench.read(&mut journal), b"x");
}
