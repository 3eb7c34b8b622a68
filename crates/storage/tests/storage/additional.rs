//! Stores that are only read, and a root of its own for images.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crioxide_storage::{
    CheckOptions, Depth, Error, ImageId, Item, NewImage, Options, RepairContainers, Store,
};
use sys::mount::{Flags, bind, remount_bind};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, new_layer, options, put_image};
use crate::peers::new_container;

/// Every file below `dir`, with what a write would change.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() {
                waiting.push(path.clone());
            }
            all.insert(path, (stat.len(), stat.mtime(), stat.mtime_nsec()));
        }
    }
    all
}

fn text(name: &str, text: &str) -> Vec<u8> {
    Archive::default().file(name, text).end()
}

fn everything() -> CheckOptions {
    CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    }
}

/// Runs a container of `image`: what is in `file`; writes in it, and deletes it.
fn read_in_container(store: &Store, name: &str, image: &ImageId, file: &str) -> String {
    let made = store
        .create_container(new_container(name, Some(image)))
        .unwrap();
    let root = store.mount(&made.id).unwrap();
    let text = fs::read_to_string(root.join(file)).unwrap();
    fs::write(root.join(file), "changed").unwrap();
    store.unmount(&made.id).unwrap();
    assert_eq!(store.check(&everything()).unwrap(), []);
    store.delete_container(&made.id).unwrap();
    text
}

#[test]
fn what_a_read_only_store_knows_of_an_image_is_not_lost_when_it_is_pulled() {
    let (first, own) = (TestStore::new(), TestStore::new());
    let tars = [base(), text("a", "first")];
    let image = put_image(&first.store, &tars, &["localhost/first:1"]);
    let new = |item: &[u8], metadata: &str| NewImage {
        id: image.id.clone(),
        names: vec!["localhost/own:1".to_owned()],
        digest: image.digest.clone(),
        top_layer: image.top_layer.clone(),
        created: None,
        big_data: vec![("signature-1".to_owned(), item.to_vec())],
        metadata: metadata.to_owned(),
    };
    first.store.put_image(new(b"1", "one")).unwrap();
    let before = state(&first.path().join("root"));
    let store = Store::open(Options {
        additional: vec![first.path().join("root")],
        ..options(own.path())
    })
    .unwrap();
    let put = store.put_image_with(new(b"2", ""), |new, known| {
        let known = known.unwrap();
        new.metadata = format!("{}, two", known.metadata());
        new.big_data[0].1.extend(known.item("signature-1")?);
        Ok(())
    });
    assert_eq!(put.unwrap().names, ["localhost/own:1"]);
    let found = store.image(&image.id).unwrap();
    assert_eq!(
        (found.metadata.as_str(), found.read_only),
        ("one, two", false)
    );
    assert_eq!(store.big_data(&image.id, "signature-1").unwrap(), b"21");
    for (key, _) in &image.big_data {
        let (ours, theirs) = (&store, &first.store);
        let theirs = theirs.big_data(&image.id, key).unwrap();
        assert_eq!(ours.big_data(&image.id, key).unwrap(), theirs, "{key}");
    }
    assert_eq!(state(&first.path().join("root")), before);
    assert_eq!(read_in_container(&store, "c", &image.id, "a"), "first");
}

#[test]
fn images_of_read_only_stores_are_listed_run_and_never_changed() {
    let (first, second) = (TestStore::new(), TestStore::new());
    let shared = [base(), text("mark", "first")];
    let one = first.image(&shared, &["localhost/one:1", "localhost/taken:1"]);
    let two = second.image(&[text("mark", "second")], &["localhost/two:1"]);
    first.image(&[text("x", "in both")], &["localhost/both:1"]);
    let both = second.image(&[text("x", "in both")], &["localhost/both:1"]);
    // Nobody could write these even if they tried, nor make the locks that one lacks.
    fs::remove_file(second.path().join("root/overlay-images/images.lock")).unwrap();
    fs::remove_file(second.path().join("root/overlay-layers/layers.lock")).unwrap();
    let ours = TestStore::new();
    let mut with = options(ours.path());
    for (name, store) in [("ro1", &first), ("ro2", &second)] {
        let at = ours.path().join(name);
        fs::create_dir(&at).unwrap();
        bind(&store.path().join("root"), &at, false).unwrap();
        let flags = Flags {
            read_only: true,
            ..Flags::default()
        };
        remount_bind(&at, flags).unwrap();
        with.additional.push(at);
    }
    let before = (
        state(&first.path().join("root")),
        state(&second.path().join("root")),
    );
    let own = ours.image(
        &[text("own", "ours")],
        &["localhost/own:1", "localhost/taken:1"],
    );
    let store = Store::open(with).unwrap();

    let images = store.images().unwrap();
    let mut names: Vec<_> = images
        .iter()
        .map(|image| (&image.names[..], image.read_only))
        .collect();
    names.sort();
    let listed: Vec<(Vec<&str>, bool)> = names
        .iter()
        .map(|(names, read_only)| (names.iter().map(String::as_str).collect(), *read_only))
        .collect();
    assert_eq!(
        listed,
        [
            (vec!["localhost/both:1"], true),
            (vec!["localhost/one:1"], true),
            (vec!["localhost/own:1", "localhost/taken:1"], false),
            (vec!["localhost/two:1"], true),
        ]
    );
    assert_eq!(store.image_by_name("localhost/taken:1").unwrap().id, own);
    assert_eq!(store.image_by_name("localhost/one:1").unwrap().id, one);
    assert_eq!(
        store.image_size(&one).unwrap(),
        first.store.image_size(&one).unwrap()
    );
    assert!(!store.big_data(&two, "manifest").unwrap().is_empty());
    assert_eq!(
        store.usage().unwrap().bytes,
        ours.store.usage().unwrap().bytes
    );

    assert_eq!(read_in_container(&store, "c1", &one, "mark"), "first");
    assert_eq!(read_in_container(&store, "c2", &two, "mark"), "second");
    let target = ours.path().join("target");
    fs::create_dir(&target).unwrap();
    store
        .mount_image(&one, &target, crioxide_storage::View::default())
        .unwrap();
    assert_eq!(fs::read_to_string(target.join("mark")).unwrap(), "first");
    sys::mount::unmount_lazily(&target).unwrap();

    // Our layer on top of theirs, which is not unpacked again.
    let image = store.image(&one).unwrap();
    let found = store
        .layer_for(&crioxide_storage::Digest::of(&shared[0]), None)
        .unwrap();
    assert!(found.is_some());
    let upper = text("upper", "on theirs");
    let staged = store.unpack(upper.as_slice(), Default::default()).unwrap();
    let layer = new_layer(&upper, image.top_layer.as_ref());
    store.commit_layer(staged, layer).unwrap();
    let stacked = [shared[0].clone(), shared[1].clone(), upper];
    let mixed = put_image(&store, &stacked, &["localhost/mixed:1"])
        .id
        .clone();
    assert_eq!(
        fs::read_dir(ours.path().join("root/overlay-layers"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".tar-split.gz")
            })
            .count(),
        2,
        "only what is ours was unpacked"
    );
    assert_eq!(read_in_container(&store, "c3", &mixed, "mark"), "first");
    assert_eq!(
        read_in_container(&store, "c4", &mixed, "upper"),
        "on theirs"
    );

    for error in [
        store.remove_image(&two).unwrap_err(),
        store.untag("localhost/two:1").unwrap_err(),
    ] {
        assert!(matches!(error, Error::ReadOnly(_)), "{error}");
    }
    // A name of ours makes it ours, on their layers; without it, it is theirs again.
    store.tag(&both, "localhost/named:1").unwrap();
    let named = store.image(&both).unwrap();
    assert_eq!(
        (&named.names[..], named.read_only),
        (&["localhost/named:1".to_owned()][..], false)
    );
    assert_eq!(read_in_container(&store, "c5", &both, "x"), "in both");
    store.remove_image(&both).unwrap();
    assert!(store.image(&both).unwrap().read_only);
    store.remove_image(&mixed).unwrap();
    assert_eq!(store.check(&everything()).unwrap(), []);

    // What its owner adds is seen.
    let added = first.image(&[text("added", "later")], &["localhost/added:1"]);
    assert_eq!(read_in_container(&store, "c6", &added, "added"), "later");
    first.store.remove_image(&added).unwrap();
    drop(store);
    let changed = |path: &PathBuf| !path.to_string_lossy().contains("overlay-");
    let kept = |state: &BTreeMap<PathBuf, _>| {
        state
            .keys()
            .filter(|p| changed(p))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&state(&first.path().join("root"))), kept(&before.0));
    assert_eq!(state(&second.path().join("root")), before.1);
}

#[test]
fn a_store_that_is_no_directory_is_told() {
    let ours = TestStore::new();
    for (path, told) in [("nowhere", "nowhere"), ("file", "no directory")] {
        let at = ours.path().join(path);
        if path == "file" {
            fs::write(&at, "").unwrap();
        }
        let with = Options {
            additional: vec![at],
            ..options(ours.path())
        };
        let error = Store::open(with).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// Options of a store whose images have a root of their own.
fn split(dir: &Path) -> Options {
    Options {
        image_root: Some(dir.join("images")),
        ..options(dir)
    }
}

#[test]
fn images_can_have_a_root_of_their_own() {
    let test = TestStore::new();
    let old = test.image(&[base(), text("old", "before")], &["localhost/old:1"]);
    let store = Store::open(split(test.path())).unwrap();
    let tars = [base(), text("new", "after")];
    let new = put_image(&store, &tars, &["localhost/new:1"]).id.clone();

    let in_root = |name: &str| fs::read_to_string(test.path().join(name)).unwrap();
    assert!(in_root("images/overlay-images/images.json").contains(new.as_str()));
    assert!(!in_root("root/overlay-images/images.json").contains(new.as_str()));
    let top = store.image(&new).unwrap().top_layer.clone().unwrap();
    assert!(in_root("root/overlay-layers/layers.json").contains(top.as_str()));
    assert!(
        test.path()
            .join("images/overlay")
            .join(top.as_str())
            .join("diff/new")
            .is_file()
    );
    assert!(
        !test
            .path()
            .join("root/overlay")
            .join(top.as_str())
            .try_exists()
            .unwrap()
    );
    // The same bytes in both locks, by which peers notice.
    let lock =
        |root: &str| fs::read(test.path().join(root).join("overlay-layers/layers.lock")).unwrap();
    assert_eq!(lock("root"), lock("images"));

    // Current peers put the record into the images' root.
    let records = in_root("root/overlay-layers/layers.json");
    fs::write(
        test.path().join("images/overlay-layers/layers.json"),
        records,
    )
    .unwrap();
    fs::write(test.path().join("root/overlay-layers/layers.json"), "[]").unwrap();
    let store = Store::open(split(test.path())).unwrap();
    let made = store
        .create_container(new_container("c", Some(&new)))
        .unwrap();
    let layer = made.layer.clone().unwrap();
    assert!(
        test.path()
            .join("root/overlay")
            .join(layer.as_str())
            .is_dir()
    );
    let root = store.mount(&made.id).unwrap();
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "after");
    assert_eq!(fs::read_to_string(root.join("bin/t")).unwrap(), "abc");
    store.unmount(&made.id).unwrap();

    // What was pulled before is still there; its base layer was not unpacked a second time.
    assert!(store.image(&old).unwrap().read_only);
    assert_eq!(read_in_container(&store, "o", &old, "old"), "before");
    assert_eq!(store.check(&everything()).unwrap(), []);
    let again = Store::open(split(test.path())).unwrap();
    // The same layers as the old one's, under another record.
    let tars = [base(), text("old", "before"), text("above", "it")];
    let shared = put_image(&again, &tars, &["localhost/shared:1"]).id.clone();
    assert_eq!(again.images().unwrap().len(), 3);
    again.delete_container(&made.id).unwrap();
    assert!(
        !test
            .path()
            .join("root/overlay")
            .join(layer.as_str())
            .try_exists()
            .unwrap()
    );
    // Its layers are needed, those that the new image shares with it too.
    assert_eq!(again.prune_layers(std::time::Duration::ZERO).unwrap(), 0);
    again.remove_image(&new).unwrap();
    again.remove_image(&shared).unwrap();
    assert_eq!(read_in_container(&again, "p", &old, "old"), "before");
    assert!(!in_root("images/overlay-layers/layers.json").contains(top.as_str()));
    assert!(
        !test
            .path()
            .join("images/overlay")
            .join(top.as_str())
            .try_exists()
            .unwrap()
    );
    assert_eq!(again.check(&everything()).unwrap(), []);
    assert_eq!(
        fs::read_dir(test.path().join("images/overlay/staging"))
            .unwrap()
            .count(),
        0
    );
    // What a killed process left in either root is swept.
    for root in ["root", "images"] {
        let dead = test.path().join(root).join("overlay/staging/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("staging.lock"), "").unwrap();
    }
    Store::open(split(test.path())).unwrap();
    for root in ["root", "images"] {
        let dead = test.path().join(root).join("overlay/staging/dead");
        assert!(!dead.try_exists().unwrap(), "{root}");
    }
}

#[test]
fn damage_of_a_read_only_store_is_told_and_left_alone() {
    let (theirs, ours) = (TestStore::new(), TestStore::new());
    let id = theirs.image(&[base(), text("x", "y")], &["localhost/theirs:1"]);
    let with = Options {
        additional: vec![theirs.path().join("root")],
        ..options(ours.path())
    };
    let store = Store::open(with).unwrap();
    let made = store
        .create_container(new_container("c", Some(&id)))
        .unwrap();
    let digest = crioxide_storage::Digest::of(&base());
    let bottom = store.layer_for(&digest, None).unwrap().unwrap();
    fs::write(theirs.diff(&bottom).join("etc/hostname"), "best\n").unwrap();
    let damages = store.check(&everything()).unwrap();
    let items: Vec<_> = damages.iter().map(|damage| &damage.item).collect();
    for item in [
        Item::ReadOnlyLayer(bottom.clone()),
        Item::ReadOnlyImage(id),
        Item::Layer(made.layer.clone().unwrap()),
        Item::Container(made.id.clone()),
    ] {
        assert!(items.contains(&&item), "{item}: {damages:?}");
    }
    let failed = store.repair(&damages, RepairContainers::All).unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(store.containers().unwrap().is_empty());
    assert!(theirs.diff(&bottom).is_dir());
    assert_eq!(store.images().unwrap().len(), 1);
}
