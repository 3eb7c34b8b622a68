//! A process that dies, or is told of an error, at every fault point of the store: the next one
//! finds a whole store and can do all that was not done.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crioxide_storage::{
    ArtifactStore, CheckOptions, ContainerId, Damage, Digest, Driver, Error, ImageId, Item,
    NewArtifact, Store,
};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, options_of, put_image};
use crate::peers::new_container;

const POINTS: [&str; 8] = [
    "storage.layer.synced",
    "storage.layer.recorded",
    "storage.layer.placed",
    "storage.container.layered",
    "storage.container.marked",
    "storage.image.unrecorded",
    "storage.artifact.blobs",
    "storage.artifact.unnamed",
];

/// All of them, with each driver.
fn points() -> impl Iterator<Item = (&'static str, Driver)> {
    let with = |point| [(point, Driver::Overlay), (point, Driver::Vfs)];
    POINTS.into_iter().flat_map(with)
}

/// A whole life: pull, create, mount, delete, remove.
fn life(store: &Store) -> Result<(), Error> {
    let top = Archive::default().file("x", "x").end();
    let mut parent = None;
    for tar in [base(), top.clone()] {
        let staged = store.unpack(tar.as_slice(), crioxide_storage::UnpackLimits::default())?;
        let layer = crate::harness::new_layer(&tar, parent.as_ref());
        parent = Some(store.commit_layer(staged, layer)?);
    }
    let image: ImageId = put_image(store, &[base(), top], &["localhost/a:1"])
        .id
        .clone();
    let id: ContainerId = store
        .create_container(new_container("c", Some(&image)))?
        .id
        .clone();
    store.mount(&id)?;
    store.delete_container(&id)?;
    store.remove_image(&image)?;
    artifact(&artifacts(store))
}

fn artifacts(store: &Store) -> ArtifactStore {
    store.artifacts(&[])
}

/// Stores one and removes it.
fn artifact(store: &ArtifactStore) -> Result<(), Error> {
    let mut blob = store.stage_blob()?;
    blob.write_all(b"{}").unwrap();
    let config = Digest::of(b"{}");
    let manifest = format!(r#"{{"config":{{"digest":"{config}","size":2}},"layers":[]}}"#);
    let digest = Digest::of(manifest.as_bytes());
    let artifact = NewArtifact {
        name: "a.io/x:1".to_owned(),
        digest: digest.clone(),
        manifest: manifest.into_bytes(),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        blobs: vec![blob.finish(&config)?],
        needed: vec![(config, 2)],
    };
    store.put(artifact, |_| b"signed".to_vec())?;
    assert_eq!(store.list()?.len(), 1);
    store.remove(&digest, None)
}

/// Not a test of its own: the process that dies.
#[test]
#[ignore = "run by the tests below, with a store and a fault"]
fn dying() {
    let dir = std::env::var_os("CRIOXIDE_TEST_STORE").unwrap();
    let driver = std::env::var("CRIOXIDE_TEST_DRIVER").unwrap();
    let options = options_of(driver.parse().unwrap(), Path::new(&dir));
    let store = Store::open(options).unwrap();
    let full = std::env::var("CRIOXIDE_FAULTS").unwrap().ends_with("=full");
    match life(&store) {
        Ok(()) if full => {
            let bottom = store.layer_for(&Digest::of(&base()), None).unwrap();
            assert_eq!(bottom, None, "it is left");
            assert_eq!(store.check(&CheckOptions::default()).unwrap(), []);
        }
        // A fault that is an error: nothing stays half done, and all of it works a second time.
        Err(error) => {
            assert!(format!("{error:?}").contains("fault injected"), "{error:?}");
            assert_eq!(store.check(&CheckOptions::default()).unwrap(), []);
            start_again(&store);
        }
        Ok(()) => panic!("no fault"),
    }
}

#[track_caller]
fn start_again(store: &Store) {
    if let Some(container) = store.containers().unwrap().first() {
        store.delete_container(&container.id).unwrap();
    }
    life(store).unwrap();
    assert!(store.images().unwrap().is_empty());
    assert_eq!(store.layer_for(&Digest::of(&base()), None).unwrap(), None);
    assert_eq!(store.check(&CheckOptions::default()).unwrap(), []);
    let artifacts = artifacts(store);
    assert!(artifacts.list().unwrap().is_empty());
    artifacts.prune(Duration::ZERO).unwrap();
    let blobs = store.root().join("artifacts/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

fn die(store: &TestStore, fault: &str) -> std::process::ExitStatus {
    #[allow(clippy::disallowed_methods, reason = "a test's own child")]
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::dying", "--ignored", "--nocapture"])
        .env("CRIOXIDE_FAULTS", fault)
        .env("CRIOXIDE_TEST_STORE", store.path())
        .env("CRIOXIDE_TEST_DRIVER", store.store.driver().name())
        .output()
        .unwrap();
    if output.status.code().is_some_and(|code| code != 0) {
        panic!("{fault}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status
}

#[test]
fn killed_at_any_point_the_next_process_starts_clean() {
    use std::os::unix::process::ExitStatusExt;
    for (point, driver) in points() {
        let store = TestStore::of(driver);
        let status = die(&store, &format!("{point}=kill"));
        assert_eq!(status.signal(), Some(9), "{point} was not reached");
        let next = store.reopen();
        let damages = next.check(&CheckOptions::default()).unwrap();
        if point == "storage.container.marked" {
            // Its layer went first, so that it can be deleted again.
            let of_container = |damage: &Damage| matches!(damage.item, Item::Container(_));
            assert!(damages.iter().all(of_container), "{damages:?}");
        } else {
            assert_eq!(damages, [], "{point}");
        }
        assert!(store.staging_is_empty(), "{point}");
        start_again(&next);
        assert!(store.staging_is_empty(), "{point}");
        // What died between an image and its layers leaves layers that nobody uses: a start
        // can't tell them from those of a pull that goes on in another process.
    }
}

#[test]
fn a_disk_that_is_full_between_an_image_and_its_layers_keeps_neither() {
    for driver in [Driver::Overlay, Driver::Vfs] {
        let store = TestStore::of(driver);
        assert!(die(&store, "storage.image.unrecorded=full").success());
        assert!(store.staging_is_empty());
    }
}

#[test]
fn an_error_at_any_point_leaves_a_whole_store() {
    for (point, driver) in points() {
        let store = TestStore::of(driver);
        assert!(die(&store, &format!("{point}=fail")).success(), "{point}");
        assert!(store.staging_is_empty(), "{point}");
    }
}
