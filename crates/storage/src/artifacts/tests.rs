use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn store(dir: &Path) -> ArtifactStore {
    ArtifactStore::new(dir, &[], Duration::from_secs(5))
}

/// An artifact with these blobs, the first of which is its configuration.
fn manifest(blobs: &[&[u8]]) -> Vec<u8> {
    let descriptor =
        |bytes: &&[u8]| json!({"digest": Digest::of(bytes).as_str(), "size": bytes.len()});
    let layers: Vec<_> = blobs[1..].iter().map(descriptor).collect();
    json!({"schemaVersion": 2, "config": descriptor(&blobs[0]), "layers": layers})
        .to_string()
        .into_bytes()
}

fn staged(store: &ArtifactStore, bytes: &[u8]) -> StagedBlob {
    let mut writer = store.stage_blob().unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish(&Digest::of(bytes)).unwrap()
}

fn put(store: &ArtifactStore, name: &str, blobs: &[&[u8]]) -> Result<Digest, Error> {
    put_signed(store, name, blobs, |_| Vec::new())
}

fn put_signed(
    store: &ArtifactStore,
    name: &str,
    blobs: &[&[u8]],
    signatures: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<Digest, Error> {
    let manifest = manifest(blobs);
    let digest = Digest::of(&manifest);
    let artifact = NewArtifact {
        name: name.to_owned(),
        digest: digest.clone(),
        manifest,
        media_type: MANIFEST.to_owned(),
        blobs: blobs.iter().map(|bytes| staged(store, bytes)).collect(),
        needed: blobs
            .iter()
            .map(|bytes| (Digest::of(bytes), bytes.len() as u64))
            .collect(),
    };
    store.put(artifact, signatures)?;
    Ok(digest)
}

fn names(store: &ArtifactStore) -> Vec<String> {
    let list = store.list().unwrap();
    list.iter()
        .map(|artifact| artifact.name.clone().unwrap_or_default())
        .collect()
}

fn blobs(dir: &Path) -> usize {
    fs::read_dir(dir.join("artifacts/blobs/sha256"))
        .unwrap()
        .count()
}

#[test]
fn an_artifact_is_a_layout_that_others_read_and_goes_with_its_last_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert!(names(&store).is_empty());
    assert!(!fs::exists(dir.path().join("artifacts")).unwrap());
    let one = put(&store, "a.io/x:1", &[b"{}", b"shared", b"one"]).unwrap();
    let two = put(&store, "a.io/x:2", &[b"{}", b"shared", b"two"]).unwrap();
    put(&store, "a.io/y:1", &[b"{}", b"shared", b"one"]).unwrap();
    assert_eq!(names(&store), ["a.io/x:1", "a.io/x:2", "a.io/y:1"]);
    assert_eq!(blobs(dir.path()), 6);
    let found = store.list().unwrap();
    let path = found[0].blob(&Digest::of(b"one")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
    let layout = fs::read_to_string(dir.path().join("artifacts/oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);

    store.remove(&one, Some("a.io/x:1")).unwrap();
    assert_eq!(names(&store), ["a.io/x:2", "a.io/y:1"]);
    assert_eq!(blobs(dir.path()), 6);
    store.remove(&one, Some("a.io/y:1")).unwrap();
    // Its manifest and the blob that only it had.
    assert_eq!(blobs(dir.path()), 4);
    store.remove(&two, None).unwrap();
    store.remove(&two, None).unwrap();
    assert!(names(&store).is_empty());
    assert_eq!(blobs(dir.path()), 0);
}

#[test]
fn what_was_not_put_leaves_nothing_and_what_is_missing_is_not_put() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    drop(staged(&store, b"left"));
    assert_eq!(blobs(dir.path()), 0);
    let manifest = manifest(&[b"{}", b"gone"]);
    let missing = NewArtifact {
        name: "a.io/x:1".to_owned(),
        digest: Digest::of(&manifest),
        manifest,
        media_type: MANIFEST.to_owned(),
        blobs: vec![staged(&store, b"{}")],
        needed: vec![(Digest::of(b"gone"), 4)],
    };
    let missing = store.put(missing, |_| b"signed".to_vec());
    assert!(matches!(missing, Err(Error::NoBlob(_))), "{missing:?}");
    assert!(names(&store).is_empty());
    assert_eq!(store.prune(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 2);
    assert_eq!(blobs(dir.path()), 0);
}

#[test]
fn signatures_are_made_of_those_that_are_kept_and_go_with_the_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let kept = || {
        let list = store.list().unwrap();
        let of = list.iter().map(|one| one.signatures(10).unwrap());
        of.collect::<Vec<_>>()
    };
    let files = || fs::read_dir(dir.path().join("artifacts/signatures")).unwrap();
    let blobs: &[&[u8]] = &[b"{}", b"one"];
    let digest = put_signed(&store, "a.io/x:1", blobs, |_| b"first".to_vec()).unwrap();
    let add = |kept: &[u8]| [kept, b"+2"].concat();
    put_signed(&store, "a.io/x:2", blobs, add).unwrap();
    assert_eq!(kept(), [b"first+2", b"first+2"]);
    let list = store.list().unwrap();
    assert!(matches!(
        list[0].signatures(5),
        Err(Error::TooLarge { limit: 5, .. })
    ));
    store.remove(&digest, Some("a.io/x:1")).unwrap();
    assert_eq!(kept(), [b"first+2"]);
    store.remove(&digest, None).unwrap();
    assert_eq!(files().count(), 0);

    // One that is pulled again without any keeps those that it has.
    put_signed(&store, "a.io/x:1", blobs, |_| b"third".to_vec()).unwrap();
    put(&store, "a.io/x:1", blobs).unwrap();
    assert_eq!(kept(), [b"third"]);
    // A peer removes the artifact, and knows nothing of signatures.
    put_signed(&store, "a.io/x:1", blobs, |_| b"fourth".to_vec()).unwrap();
    fs::remove_file(dir.path().join("artifacts/index.json")).unwrap();
    store.prune(Duration::from_secs(3600)).unwrap();
    assert_eq!(files().count(), 1);
    fs::write(dir.path().join("artifacts/signatures/.tmp-left"), "x").unwrap();
    store.prune(Duration::ZERO).unwrap();
    assert_eq!(files().count(), 0);
}

#[test]
fn additional_stores_come_first_and_are_not_written() {
    let (main, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let theirs = put(&store(other.path()), "a.io/x:1", &[b"{}", b"theirs"]).unwrap();
    put(&store(main.path()), "a.io/x:1", &[b"{}", b"ours"]).unwrap();
    put(&store(main.path()), "a.io/x:2", &[b"{}", b"ours"]).unwrap();
    let absent = main.path().join("absent");
    let both = ArtifactStore::new(
        main.path(),
        &[absent.clone(), other.path().to_owned()],
        Duration::from_secs(5),
    );
    let list = both.list().unwrap();
    let found: Vec<_> = list
        .iter()
        .map(|artifact| (artifact.name.as_deref().unwrap(), artifact.read_only))
        .collect();
    assert_eq!(found, [("a.io/x:1", true), ("a.io/x:2", false)]);
    assert_eq!(list[0].digest, theirs);
    both.remove(&theirs, None).unwrap();
    assert_eq!(both.list().unwrap().len(), 2);
    assert!(!fs::exists(&absent).unwrap());
    fs::write(other.path().join("artifacts/index.json"), "{").unwrap();
    assert_eq!(both.list().unwrap().len(), 2);
}

#[test]
fn a_manifest_that_was_changed_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = put(&store, "a.io/x:1", &[b"{}", b"one"]).unwrap();
    put(&store, "a.io/x:2", &[b"{}", b"two"]).unwrap();
    let path = dir.path().join("artifacts/blobs/sha256").join(digest.hex());
    fs::write(path, "{}").unwrap();
    // Another process has read nothing yet.
    let again = self::store(dir.path());
    assert_eq!(names(&again), ["a.io/x:2"]);
}
