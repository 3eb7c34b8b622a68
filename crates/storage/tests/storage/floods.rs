//! Archives of more entries than anybody has, and paths of more bytes: there is an end to time and
//! memory, and the error says which.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use crioxide_storage::{Error, UnpackLimits};

use crate::archive::Archive;
use crate::harness::TestStore;

/// An archive that is made while it is read: each entry by its number.
struct Flood<F> {
    next: u64,
    make: F,
    rest: Vec<u8>,
    at: usize,
}

impl<F: FnMut(u64) -> Vec<u8>> Flood<F> {
    fn new(make: F) -> Self {
        Self {
            next: 0,
            make,
            rest: Vec::new(),
            at: 0,
        }
    }
}

impl<F: FnMut(u64) -> Vec<u8>> Read for Flood<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.rest.len() {
            self.rest = (self.make)(self.next);
            self.next += 1;
            self.at = 0;
        }
        let length = into.len().min(self.rest.len() - self.at);
        into[..length].copy_from_slice(&self.rest[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

type Maker = fn(u64) -> Vec<u8>;

/// How many entries are let in, and what makes them.
const FLOODS: [(&str, u64, Maker); 6] = [
    ("the same directory", 50_000, |_| {
        Archive::default().dir("d/").0
    }),
    ("the root", 50_000, |_| Archive::default().dir("./").0),
    ("the same file", 10_000, |_| {
        Archive::default().file("f", "").0
    }),
    ("other files", 10_000, |number| {
        let name = format!("{}/{number}", number / 1000);
        match number % 1000 {
            0 => Archive::default().dir(&format!("{}/", number / 1000)).0,
            _ => Archive::default().file(&name, "").0,
        }
    }),
    ("whiteouts", 10_000, |number| {
        Archive::default().file(&format!(".wh.{number}"), "").0
    }),
    ("extended headers", 2_000_000, |_| {
        Archive::default().pax(&[("comment", b"x")]).0
    }),
];

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Not a test of its own: the figure is the whole process's.
#[test]
#[ignore = "run by the test below, alone in its process"]
fn flooded() {
    for (name, entries, make) in FLOODS {
        let store = TestStore::new();
        let (before, started) = (peak(), Instant::now());
        let limits = UnpackLimits {
            entries,
            ..UnpackLimits::default()
        };
        let error = store.store.unpack(Flood::new(make), limits).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{name}: {error}");
        assert!(store.staging_is_empty(), "{name}");
        let (taken, time) = (peak() - before, started.elapsed());
        println!("{name}: {taken} kB, {time:?}");
        // Four megabytes for buffers, and what an entry may leave behind.
        let most = (4 << 10) + entries.min(50_000) * 300 / 1024;
        assert!(taken < most, "{name}: {taken} kB");
        assert!(time < Duration::from_secs(120), "{name}: {time:?}");
    }
}

#[test]
fn any_number_of_entries_ends_at_the_limit_with_little_memory() {
    #[allow(clippy::disallowed_methods, reason = "a test's own child")]
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "floods::flooded", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{words}");
    assert_eq!(said.matches(" kB, ").count(), FLOODS.len(), "{said}");
}

#[test]
fn paths_and_names_have_the_kernels_length_at_most() {
    let unpack = |name: &str| {
        let store = TestStore::new();
        let tar = Archive::default()
            .pax(&[("path", name.as_bytes())])
            .file("short", "x")
            .end();
        let unpacked = store.unpack(&tar).map(drop);
        let refused = unpacked.map_err(|error| error.to_string());
        (refused, store.staging_is_empty())
    };
    let name = "n".repeat(255);
    let deep = |bytes: usize| {
        let mut path = "d/".repeat(bytes / 2);
        path.truncate(bytes - 1);
        path + "f"
    };
    let long = [name.as_str(); 15].join("/");
    for (path, words) in [
        (name.clone(), ""),
        (format!("{name}n"), "file name too long"),
        (format!("{name}n/x"), "file name too long"),
        (long, ""),
        (format!("./{}", deep(4095)), ""),
        (deep(4096), "path too long"),
        (deep(1 << 19), "path too long"),
    ] {
        // Directories that no entry has are not made.
        let (refused, clean) = unpack(&path);
        match (refused, words) {
            (Ok(()), "") => {}
            (Err(error), words) if !words.is_empty() => {
                assert!(error.contains(words), "{} bytes: {error}", path.len());
            }
            (other, _) => panic!("{} bytes, {words:?}: {other:?}", path.len()),
        }
        assert!(clean);
    }
    // The same length, one directory after another: the deepest is reached and removed again.
    let mut archive = Archive::default();
    for depth in 1..=2000 {
        let path = "d/".repeat(depth);
        archive = archive.pax(&[("path", path.as_bytes())]).dir("short");
    }
    let store = TestStore::new();
    let layer = store.layer(&archive.end(), None);
    assert!(store.diff(&layer).join("d/d/d/d/d/d/d/d").is_dir());
    // A link's target is bounded as well.
    let target = "t".repeat(5000);
    let tar = Archive::default()
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("l", "short")
        .end();
    assert!(store.unpack(&tar).is_err());
    assert!(store.staging_is_empty());
}
