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
    assert!(!features.user_namespaces || escaped || says(b"\"namespaces\"") && says(b"\"user\""));
}

/// criu's images of open files: without a name to look for nothing changes; with one nothing is
/// left that would change a second time, and what is torn is refused.
pub fn criu_images(bytes: &[u8]) {
    use crate::checkpoint::{Confinement, cgroups, connect_pipes, descriptors, mounts, process};
    // What nobody gave anything to is refused, or is nobody.
    let nobody = Confinement::default();
    if process(bytes, &nobody).is_ok() {
        let more = Confinement {
            capabilities: u64::MAX,
            ..nobody
        };
        assert!(process(bytes, &more).is_ok());
    }
    let _whole = (mounts(bytes).is_ok(), cgroups(bytes).is_ok());
    let none = Default::default();
    let Ok((same, pipes)) = connect_pipes(bytes, &none) else {
        // A table of open files instead, with nothing to change in it.
        if let Ok(same) = descriptors(bytes, &crate::checkpoint::Pipes::default()) {
            assert_eq!(same, bytes);
        }
        return;
    };
    assert_eq!((same.as_slice(), pipes), (bytes, Default::default()));
    let keys = [vec![], vec!["file[56:2e6007]".to_owned()], vec![]];
    // An entry of that name may not be whole.
    let Ok((once, _)) = connect_pipes(bytes, &keys) else {
        return;
    };
    let (twice, again) = connect_pipes(&once, &keys).expect("our own image");
    assert_eq!((once, Default::default()), (twice, again));
}

/// The JSON of a checkpoint archive: read again it is the same, and a whiteout stays one.
pub fn checkpoint_json(bytes: &[u8]) {
    use crate::checkpoint::{Config, Process, deleted, safe_descriptors, whiteout};
    if let Ok(config) = Config::parse(bytes) {
        let json = serde_json::to_vec(&config).expect("texts");
        assert_eq!(Config::parse(&json), Ok(config));
    }
    for path in deleted(bytes).unwrap_or_default() {
        if let Ok(name) = whiteout(&path) {
            let base = name.rsplit('/').next().unwrap_or_default();
            assert!(base.starts_with(".wh.") && base.len() > 4, "{name:?}");
            assert!(!name.starts_with('/'), "{name:?}");
        }
    }
    let _read = Process::of_spec(bytes);
    if let Ok(safe) = safe_descriptors(bytes) {
        assert_eq!(safe_descriptors(&safe), Ok(safe.clone()));
    }
}
