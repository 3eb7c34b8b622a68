//! What the fuzz target does with what a runtime says of itself.

use crate::Features;

/// Features: whatever a runtime says, the version is one that we write; and an option counts only
/// if its words are there.
pub fn features(bytes: &[u8]) {
    let features = Features::parse(bytes);
    let numbers: Vec<u32> = features
        .oci_version
        .split('.')
        .map(|number| number.parse().expect("a number"))
        .collect();
    assert!((&[1, 0, 2][..]..=&[1, 2, 0][..]).contains(&&numbers[..]));
    let says = |word: &[u8]| bytes.windows(word.len()).any(|found| found == word);
    // JSON can hide a word behind an escape.
    let escaped = says(b"\\");
    assert!(!features.recursive_readonly || escaped || says(b"\"rro\""));
    assert!(!features.id_mapped_mounts || escaped || says(b"\"idmap\"") && says(b"true"));
}
