//! What a killed process or a power cut left behind.

use std::fs;
use std::os::unix::fs::symlink;

use crioxide_storage::CheckOptions;

use crate::archive::{Archive, base};
use crate::harness::TestStore;
use crate::peers::new_container;

#[test]
fn torn_volatile_tables_are_made_again_from_the_containers_directories() {
    for torn in [&b""[..], b"[{\"id\":", b"\0\0\0\0", b"[{\"id\":\"\xff\"}]"] {
        let store = TestStore::new();
        let image = store.image(&[base()], &["localhost/a:1"]);
        let made = store
            .store
            .create_container(new_container("c1", Some(&image)))
            .unwrap();
        let pod = store
            .store
            .create_container(new_container("pod", None))
            .unwrap();
        let before = store.store.containers().unwrap();
        for table in ["layers", "containers"] {
            let path = format!("root/overlay-{table}/volatile-{table}.json");
            fs::write(store.path().join(path), torn).unwrap();
        }
        let again = store.reopen();
        let mut after = again.containers().unwrap().to_vec();
        after.sort_by_key(|container| container.id != made.id);
        assert_eq!(after, before.to_vec(), "{torn:?}");
        let root = again.mount(&made.id).unwrap();
        assert_eq!(fs::read_to_string(root.join("bin/t")).unwrap(), "abc");
        again.delete_container(&made.id).unwrap();
        again.delete_container(&pod.id).unwrap();
        again.remove_image(&image).unwrap();
    }
}

#[test]
fn what_is_marked_abandoned_or_without_a_record_is_swept() {
    let store = TestStore::new();
    let image = store.image(&[base()], &["localhost/a:1"]);
    let top = store
        .store
        .image(&image)
        .unwrap()
        .top_layer
        .clone()
        .unwrap();
    let overlay = store.path().join("root/overlay");
    // Abandoned in the middle of unpacking: nobody holds its lock.
    fs::create_dir_all(overlay.join("staging/dead/dir/diff/etc")).unwrap();
    fs::write(overlay.join("staging/dead/staging.lock"), "").unwrap();
    let waiting = store
        .path()
        .join("root/overlay-layers/.tmp-0123456789abcdef.tar-split.gz");
    fs::write(&waiting, "").unwrap();
    // One that is being unpacked stays.
    let staged = store
        .unpack(&Archive::default().file("x", "x").end())
        .unwrap();
    // A directory whose record went with a volatile table.
    let orphan = overlay.join("ef".repeat(32));
    fs::create_dir_all(orphan.join("diff")).unwrap();
    fs::write(orphan.join("link"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
    symlink("../x/diff", overlay.join("l/ABCDEFGHIJKLMNOPQRSTUVWXYZ")).unwrap();
    // Marked by whoever died while it made or removed it.
    let table = store.path().join("root/overlay-layers/layers.json");
    let json = fs::read_to_string(&table).unwrap();
    let marked = "cd".repeat(32);
    fs::create_dir_all(overlay.join(&marked).join("diff")).unwrap();
    let row = format!(
        r#",{{"id":"{marked}","created":"2024-01-01T00:00:00Z","flags":{{"incomplete":true}}}}]"#
    );
    fs::write(&table, json.replace("}]", &format!("}}{row}"))).unwrap();
    // A short name that a power cut took.
    let link = fs::read_to_string(overlay.join(top.as_str()).join("link")).unwrap();
    fs::remove_file(overlay.join("l").join(&link)).unwrap();

    let again = store.reopen();
    assert!(!orphan.try_exists().unwrap());
    assert!(!overlay.join(&marked).try_exists().unwrap());
    assert!(!overlay.join("staging/dead").try_exists().unwrap());
    assert!(!waiting.try_exists().unwrap());
    assert!(!fs::read_to_string(&table).unwrap().contains(&marked));
    assert!(fs::symlink_metadata(overlay.join("l").join(&link)).is_ok());
    assert_eq!(fs::read_dir(overlay.join("staging")).unwrap().count(), 1);
    drop(staged);
    assert!(store.staging_is_empty());
    assert_eq!(again.check(&CheckOptions::default()).unwrap(), []);
    assert_eq!(again.images().unwrap().len(), 1);
}

#[test]
fn a_changed_file_is_found_by_its_checksum() {
    let store = TestStore::new();
    let layer = store.layer(&base(), None);
    fs::write(store.diff(&layer).join("etc/hostname"), "best\n").unwrap();
    let damage = store.store.check_layer(&layer).unwrap().unwrap();
    assert!(
        damage.reason.contains("etc/hostname has changed"),
        "{damage:?}"
    );
    fs::remove_file(
        store
            .path()
            .join(format!("root/overlay-layers/{layer}.tar-split.gz")),
    )
    .unwrap();
    assert_eq!(
        store.store.check(&CheckOptions::default()).unwrap().len(),
        1
    );
}

#[test]
fn a_store_on_overlay_is_refused_with_its_reason() {
    let store = TestStore::new();
    let image = store.image(&[base()], &["localhost/a:1"]);
    let made = store
        .store
        .create_container(new_container("c", Some(&image)))
        .unwrap();
    let root = store.store.mount(&made.id).unwrap();
    let error = crioxide_storage::Store::open(crate::harness::options(&root)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("'overlay' is not supported over overlay"),
        "{error}"
    );
}
