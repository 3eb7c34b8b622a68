//! A short run with any compiler: every target takes its seeds and some thousand mutations of them,
//! the same each time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use crioxide_fuzz_targets::{TARGETS, Target};

/// Mutations of all seeds of one target together.
const MUTATIONS: usize = 2000;

/// Pieces that decoders look for.
const WORDS: [&[u8]; 24] = [
    b"0",
    b"-1",
    b"4294967296",
    b"9223372036854775808",
    b"null",
    b"\"\"",
    b"{}",
    b"[]",
    b"[[[[",
    b"\\u0000",
    b"..",
    b"/",
    b"\0",
    b"\n",
    b"\r\n",
    b"=",
    b":",
    b"@",
    b"*",
    b",",
    b" ",
    b"\xff\xff\xff\xff",
    b"\xc3\xa9",
    b"1e9",
];

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let files =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .collect()
}

/// Numbers that look random (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }

    fn mutated(&mut self, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].1.clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(64) + 1);
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let again = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, again));
                }
                4 => {
                    let word = WORDS[self.below(WORDS.len())];
                    drop(bytes.splice(at..at, word.iter().copied()));
                }
                5 => {
                    let other = &seeds[self.below(seeds.len())].1;
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    }
}

#[test]
fn no_seed_and_no_mutation_breaks_a_decoders_promise() {
    let failed: Vec<_> = TARGETS.iter().filter_map(|one| failure(*one)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The first input that a target fails on; its own message is on stderr.
fn failure((name, target): (&str, Target)) -> Option<String> {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seed");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let inputs = seeds
        .iter()
        .map(|(path, seed)| (path.display().to_string(), seed.clone()));
    let mutated = (0..MUTATIONS).map(|round| (format!("mutation {round}"), dice.mutated(&seeds)));
    let mut inputs = inputs.chain(mutated);
    let (what, bytes) =
        inputs.find(|(_, bytes)| std::panic::catch_unwind(|| target(bytes)).is_err())?;
    Some(format!(
        "{name}: {what}: {:?}",
        String::from_utf8_lossy(&bytes)
    ))
}

#[test]
fn every_target_has_a_fuzzer() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let source = directory.join(format!("fuzz_targets/{name}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!("run(\"{name}\"")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    let seeds = std::fs::read_dir(directory.join("seeds")).unwrap().count();
    assert_eq!(seeds, TARGETS.len(), "seeds without a target");
}
