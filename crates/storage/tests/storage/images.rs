//! Images and their layers without peers.

use std::fs;
use std::sync::Arc;

use crioxide_storage::{CheckOptions, Digest, Error, NewImage, Store, UnpackLimits};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, new_layer, put_image};
use crate::peers::new_container;

fn layer(n: u32) -> Vec<u8> {
    Archive::default().file("n", &n.to_string()).end()
}

#[test]
fn names_move_and_stay_in_the_history() {
    let store = TestStore::new();
    let first = store.image(&[base(), layer(1)], &["localhost/a:1", "localhost/b:1"]);
    let second = store.image(&[base(), layer(2)], &["localhost/a:1"]);
    let old = store.store.image(&first).unwrap();
    assert_eq!(old.names, ["localhost/b:1"]);
    assert!(old.names_history.contains(&"localhost/a:1".to_owned()));
    assert_eq!(
        store.store.image_by_name("localhost/a:1").unwrap().id,
        second
    );
    assert_eq!(old.created, 1_700_000_000_123_000_000);

    store.store.tag(&first, "localhost/a:1").unwrap();
    assert_eq!(
        store.store.image_by_name("localhost/a:1").unwrap().id,
        first
    );
    assert!(store.store.image(&second).unwrap().names.is_empty());
    store.store.untag("localhost/a:1").unwrap();
    store.store.untag("localhost/a:1").unwrap();
    let unknown = store.store.image_by_name("localhost/a:1").unwrap_err();
    assert!(matches!(unknown, Error::ImageUnknown(_)));
    // Another process' view of the same store is the same.
    assert_eq!(
        store.reopen().images().unwrap(),
        store.store.images().unwrap()
    );
}

#[test]
fn a_repeated_pull_adds_what_is_new() {
    let store = TestStore::new();
    let tars = [base(), layer(1)];
    let first = put_image(&store.store, &tars, &["localhost/a:1"]);
    let digest = Digest::of(b"an index");
    let again = store
        .store
        .put_image(NewImage {
            id: first.id.clone(),
            names: vec!["localhost/a:2".into()],
            digest: first.digest.clone(),
            top_layer: first.top_layer.clone(),
            created: None,
            big_data: vec![(format!("manifest-{digest}"), b"an index".to_vec())],
            metadata: "{}".into(),
        })
        .unwrap();
    assert_eq!(again.names, ["localhost/a:1", "localhost/a:2"]);
    assert_eq!(again.digest, first.digest);
    assert!(again.digests.contains(&digest));
    assert_eq!(again.created, first.created);
    let item = store
        .store
        .big_data(&first.id, &format!("manifest-{digest}"))
        .unwrap();
    assert_eq!(item, b"an index");
    let missing = store.store.big_data(&first.id, "signature-00").unwrap_err();
    assert!(matches!(missing, Error::NoBigData { .. }));
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn what_pulls_make_of_the_same_image_at_once_is_all_there() {
    const PULLS: usize = 8;
    let store = TestStore::new();
    let image = put_image(&store.store, &[base()], &["localhost/a:1"]);
    std::thread::scope(|scope| {
        for n in 0..PULLS {
            // Each has a view of its own, as another process would.
            let (own, image) = (store.reopen(), &image);
            scope.spawn(move || {
                let new = NewImage {
                    id: image.id.clone(),
                    names: Vec::new(),
                    digest: image.digest.clone(),
                    top_layer: image.top_layer.clone(),
                    created: None,
                    big_data: Vec::new(),
                    metadata: String::new(),
                };
                let put = own.put_image_with(new, |new, known| {
                    let known = known.unwrap();
                    let mut item = match known.item("all") {
                        Err(Error::NoBigData { .. }) => Vec::new(),
                        item => item?,
                    };
                    item.push(b'0' + n as u8);
                    new.big_data.push(("all".to_owned(), item));
                    new.metadata = format!("{}{n}", known.metadata());
                    Ok(())
                });
                put.unwrap();
            });
        }
    });
    let sorted = |mut bytes: Vec<u8>| {
        bytes.sort_unstable();
        String::from_utf8(bytes).unwrap()
    };
    let item = store.store.big_data(&image.id, "all").unwrap();
    assert_eq!(sorted(item), "01234567");
    let metadata = store.store.image(&image.id).unwrap().metadata.clone();
    assert_eq!(sorted(metadata.into_bytes()), "01234567{}");
    // Where nothing can be made of it, nothing changes.
    let new = NewImage {
        id: image.id.clone(),
        names: vec!["localhost/b:1".to_owned()],
        digest: None,
        top_layer: None,
        created: None,
        big_data: Vec::new(),
        metadata: "gone".to_owned(),
    };
    let before = store.store.images().unwrap();
    let failed = store
        .store
        .put_image_with(new, |_, known| known.unwrap().item("none").map(drop));
    assert!(matches!(failed, Err(Error::NoBigData { .. })), "{failed:?}");
    assert_eq!(store.store.images().unwrap(), before);
}

#[test]
fn layers_are_shared_used_again_and_freed_with_their_last_image() {
    let store = TestStore::new();
    let first = store.image(&[base(), layer(1)], &["localhost/a:1"]);
    let second = store.image(&[base(), layer(2)], &["localhost/b:1"]);
    let bottom = store
        .store
        .layer_for(&Digest::of(&base()), None)
        .unwrap()
        .unwrap();
    let size = (base().len() + layer(1).len()) as u64;
    let whole = store.store.image_size(&first).unwrap();
    assert!(whole > size && whole < size + 2000, "{whole}");
    let usage = store.store.usage().unwrap();
    assert!(usage.bytes > size && usage.inodes > 0);

    let container = store
        .store
        .create_container(new_container("c", Some(&first)))
        .unwrap();
    match store.store.remove_image(&first).unwrap_err() {
        Error::ImageInUse { container: by, .. } => assert_eq!(by, container.id),
        other => panic!("{other}"),
    }
    store.store.delete_container(&container.id).unwrap();
    store.store.remove_image(&first).unwrap();
    assert_eq!(
        store
            .store
            .layer_for(&Digest::of(&layer(1)), Some(&bottom))
            .unwrap(),
        None
    );
    assert_eq!(
        store.store.check_layer(&bottom).unwrap(),
        None,
        "the other image's stays"
    );
    store.store.remove_image(&second).unwrap();
    assert!(matches!(
        store.store.remove_image(&second),
        Err(Error::ImageUnknown(_))
    ));
    assert_eq!(
        store.store.layer_for(&Digest::of(&base()), None).unwrap(),
        None
    );
    let left: Vec<_> = fs::read_dir(store.path().join("root/overlay"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 2, "only `l` and `staging` are left: {left:?}");
    assert_eq!(
        fs::read_dir(store.path().join("root/overlay/l"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn wrong_content_is_not_committed() {
    let store = TestStore::new();
    let staged = store.unpack(&base()).unwrap();
    let error = store
        .store
        .commit_layer(staged, new_layer(&layer(1), None))
        .unwrap_err();
    assert!(matches!(error, Error::DiffIdMismatch { .. }), "{error}");
    assert!(store.staging_is_empty());
    let staged = store.unpack(&layer(1)).unwrap();
    let parent = "ab".repeat(32).parse().unwrap();
    let error = store
        .store
        .commit_layer(staged, new_layer(&layer(1), Some(&parent)))
        .unwrap_err();
    assert!(matches!(error, Error::LayerUnknown(_)), "{error}");
    assert!(store.staging_is_empty());
}

#[test]
fn of_many_that_commit_the_same_layers_one_wins() {
    let store = TestStore::new();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8)
            .map(|n| {
                let other = Store::clone(&store.store);
                let own = if n % 2 == 0 { other } else { store.reopen() };
                scope.spawn(move || {
                    let name = format!("localhost/a:{n}");
                    put_image(&own, &[base(), layer(1), layer(2)], &[&name])
                        .id
                        .clone()
                })
            })
            .collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(store.store.image(&ids[0]).unwrap().names.len(), 8);
    assert!(store.staging_is_empty());
    let json = fs::read(store.path().join("root/overlay-layers/layers.json")).unwrap();
    assert_eq!(
        String::from_utf8(json)
            .unwrap()
            .matches("\"diff-digest\"")
            .count(),
        3
    );
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn a_list_costs_no_more_than_the_lock_files_64_bytes_and_never_waits() {
    use sys::lock::{Kind, LockFile};
    let store = TestStore::new();
    store.image(&[base()], &["localhost/a:1"]);
    let before = store.store.images().unwrap();
    assert!(
        Arc::ptr_eq(&before, &store.store.images().unwrap()),
        "nothing is read again"
    );

    // A peer that holds the lock and has announced a change: the last snapshot answers at once.
    let path = store.path().join("root/overlay-images/images.lock");
    let peer = LockFile::open(&path).unwrap();
    peer.lock(Kind::Exclusive, std::time::Duration::from_secs(5))
        .unwrap();
    peer.write_start(&[7; 64]).unwrap();
    assert!(Arc::ptr_eq(&before, &store.store.images().unwrap()));
    fs::write(path.with_file_name("images.json"), "[]").unwrap();
    peer.unlock().unwrap();
    assert!(store.store.images().unwrap().is_empty());
}

#[test]
fn a_lock_that_is_held_too_long_is_an_error_with_its_file() {
    use sys::lock::{Kind, LockFile};
    let store = TestStore::new();
    let mut options = crate::harness::options(store.path());
    options.lock_timeout = std::time::Duration::from_millis(20);
    let hasty = Store::open(options).unwrap();
    let path = store.path().join("root/overlay-layers/layers.lock");
    let peer = LockFile::open(&path).unwrap();
    peer.lock(Kind::Exclusive, std::time::Duration::from_secs(5))
        .unwrap();
    let staged = hasty
        .unpack(base().as_slice(), UnpackLimits::default())
        .unwrap();
    match hasty
        .commit_layer(staged, new_layer(&base(), None))
        .unwrap_err()
    {
        Error::Locked { path: file, .. } => assert_eq!(file, path),
        other => panic!("{other}"),
    }
}

#[test]
fn layers_of_a_pull_that_never_ended_go_when_they_are_old_enough() {
    use std::time::Duration;
    let store = TestStore::new();
    let kept = store.image(&[base()], &["localhost/a:1"]);
    let bottom = store.store.image(&kept).unwrap().top_layer.clone().unwrap();
    let left = store.layer(&layer(1), Some(&bottom));
    store.layer(&layer(2), Some(&left));
    assert_eq!(
        store.store.prune_layers(Duration::from_secs(3600)).unwrap(),
        0
    );
    assert_eq!(store.store.prune_layers(Duration::ZERO).unwrap(), 2);
    assert_eq!(
        store.store.layer_for(&Digest::of(&base()), None).unwrap(),
        Some(bottom)
    );
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}
