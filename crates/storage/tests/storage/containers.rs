//! Containers: records, writable layers, mounts.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crioxide_storage::{CheckOptions, Error, LayerId};

use crate::archive::{Archive, base};
use crate::harness::TestStore;
use crate::peers::new_container;

fn mount_count(store: &TestStore) -> String {
    fs::read_to_string(store.path().join("run/overlay-layers/mountpoints.json")).unwrap()
}

#[test]
fn a_container_is_made_once_mounted_once_and_deleted_for_good() {
    let store = TestStore::new();
    let change = Archive::default()
        .dir("etc")
        .file("etc/.wh.hostname", "")
        .end();
    let image = store.image(&[base(), change], &["localhost/a:1"]);
    let made = store
        .store
        .create_container(new_container("c1", Some(&image)))
        .unwrap();
    let again = store
        .store
        .create_container(new_container("c1", Some(&image)))
        .unwrap();
    assert_eq!(made, again);
    assert!(made.dir.is_dir() && made.run_dir.is_dir());
    assert_eq!(fs::metadata(&made.dir).unwrap().mode() & 0o777, 0o700);

    let root = store.store.mount(&made.id).unwrap();
    assert_eq!(store.store.mount(&made.id).unwrap(), root);
    assert!(mount_count(&store).contains(r#""count":1"#));
    assert_eq!(fs::read_to_string(root.join("bin/t")).unwrap(), "abc");
    assert!(!root.join("etc/hostname").try_exists().unwrap());
    assert_eq!(
        fs::metadata(root.join("bin/tool")).unwrap().mode() & 0o7777,
        0o4755
    );
    fs::write(root.join("etc/new"), "written").unwrap();

    // Unmounted and mounted again (a volatile overlay would refuse), the data is still there.
    store.store.unmount(&made.id).unwrap();
    store.store.unmount(&made.id).unwrap();
    assert_eq!(mount_count(&store), "[]");
    assert!(fs::read_dir(&root).unwrap().next().is_none());
    assert_eq!(store.store.mount(&made.id).unwrap(), root);
    assert_eq!(fs::read_to_string(root.join("etc/new")).unwrap(), "written");

    store
        .store
        .set_container_metadata(&made.id, "{\"new\":1}")
        .unwrap();
    let other = store.reopen();
    assert_eq!(other.container(&made.id).unwrap().metadata, "{\"new\":1}");
    assert_eq!(
        other.mount(&made.id).unwrap(),
        root,
        "a restart finds it mounted"
    );
    other.delete_container(&made.id).unwrap();
    other.delete_container(&made.id).unwrap();
    assert!(matches!(
        store.store.container(&made.id),
        Err(Error::ContainerUnknown(_))
    ));
    assert!(!made.dir.try_exists().unwrap() && !made.run_dir.try_exists().unwrap());
    assert!(!root.try_exists().unwrap());
    assert_eq!(mount_count(&store), "[]");
    assert!(store.staging_is_empty());
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn names_are_unique_and_a_sandbox_needs_no_layer() {
    let store = TestStore::new();
    let pod = store
        .store
        .create_container(new_container("pod", None))
        .unwrap();
    assert_eq!((&pod.image, &pod.layer), (&None, &None));
    assert!(matches!(store.store.mount(&pod.id), Err(Error::NoLayer(_))));
    let mut same = new_container("other", None);
    same.names.clone_from(&pod.names);
    match store.store.create_container(same).unwrap_err() {
        Error::NameInUse { holder, .. } => assert_eq!(holder, pod.id),
        other => panic!("{other}"),
    }
    let absent = "ab".repeat(32).parse().unwrap();
    let error = store
        .store
        .create_container(new_container("x", Some(&absent)))
        .unwrap_err();
    assert!(matches!(error, Error::ImageUnknown(_)), "{error}");
    store.store.delete_container(&pod.id).unwrap();
    assert!(store.store.containers().unwrap().is_empty());
}

#[test]
fn many_at_once() {
    let store = TestStore::new();
    let image = store.image(&[base()], &["localhost/a:1"]);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (store, image) = (&store, &image);
            scope.spawn(move || {
                for m in 0..5 {
                    let id = format!("c{n}-{m}");
                    let made = store
                        .store
                        .create_container(new_container(&id, Some(image)));
                    let made = made.unwrap();
                    let root = store.store.mount(&made.id).unwrap();
                    fs::write(root.join("own"), &id).unwrap();
                    store.store.unmount(&made.id).unwrap();
                    if m % 2 == 0 {
                        store.store.delete_container(&made.id).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.store.containers().unwrap().len(), 12);
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn more_layers_than_one_page_of_options_can_name() {
    if !sys::mount::has_lowerdir_plus() {
        eprintln!("skipped: this kernel has overlay's options in one page");
        return;
    }
    let store = TestStore::new();
    let mut top: Option<LayerId> = None;
    let mut tars = Vec::new();
    for n in 0..160 {
        tars.push(Archive::default().file(&format!("f{n}"), "x").end());
    }
    for tar in &tars {
        top = Some(store.layer(tar, top.as_ref()));
    }
    let image = store.image(&tars, &["localhost/deep:1"]);
    let made = store
        .store
        .create_container(new_container("deep", Some(&image)))
        .unwrap();
    let root = store.store.mount(&made.id).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 160);
    store.store.delete_container(&made.id).unwrap();
}

#[test]
fn without_the_new_mount_api_short_names_do() {
    // What `overlay` falls back to where names are too long for the new one's strings.
    let long = format!("crioxide-{}", "long-directory-name-".repeat(11));
    let dir = std::env::temp_dir().join(long);
    let store = TestStore::at(&dir);
    let image = store.image(
        &[base(), Archive::default().file("x", "x").end()],
        &["localhost/a:1"],
    );
    let made = store
        .store
        .create_container(new_container("c", Some(&image)))
        .unwrap();
    let before = std::env::current_dir().unwrap();
    let root = store.store.mount(&made.id).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), before);
    assert_eq!(fs::read_to_string(root.join("x")).unwrap(), "x");
    store.store.delete_container(&made.id).unwrap();
}
