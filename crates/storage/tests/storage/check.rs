//! Damage of every kind is found, and repaired by removing it and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crioxide_storage::{
    CheckOptions, ContainerId, Damage, Depth, Error, Item, LayerId, RepairContainers, Store,
    check_tables, salvage_tables,
};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, options};
use crate::peers::new_container;

/// A store with a whole image and its container, and one to be damaged with another.
struct Two {
    store: TestStore,
    bad: crioxide_storage::ImageId,
    bottom: LayerId,
    top: LayerId,
    container: ContainerId,
}

fn two() -> Two {
    let store = TestStore::new();
    let good = store.image(
        &[Archive::default().file("good", "1").end()],
        &["localhost/good:1"],
    );
    store
        .store
        .create_container(new_container("good", Some(&good)))
        .unwrap();
    let upper = Archive::default().dir("etc").file("etc/new", "text").end();
    let bad = store.image(&[base(), upper], &["localhost/bad:1"]);
    let container = store
        .store
        .create_container(new_container("bad", Some(&bad)))
        .unwrap();
    let top = store.store.image(&bad).unwrap().top_layer.clone().unwrap();
    let digest = crioxide_storage::Digest::of(&base());
    let bottom = store.store.layer_for(&digest, None).unwrap().unwrap();
    let container = container.id.clone();
    Two {
        store,
        bad,
        bottom,
        top,
        container,
    }
}

fn check(store: &Store, depth: Depth) -> Vec<Damage> {
    store
        .check(&CheckOptions {
            depth,
            unreferenced: None,
        })
        .unwrap()
}

fn items(damages: &[Damage]) -> Vec<&Item> {
    damages.iter().map(|damage| &damage.item).collect()
}

/// After a repair the whole image with its container is all that there is, and it works.
fn only_good_is_left(store: &Store) {
    assert_eq!(check(store, Depth::Attributes), []);
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.containers().unwrap().len(), 1);
    let id = store.containers().unwrap()[0].id.clone();
    let root = store.mount(&id).unwrap();
    assert_eq!(fs::read_to_string(root.join("good")).unwrap(), "1");
    store.unmount(&id).unwrap();
}

#[test]
fn a_changed_file_is_found_by_content_and_takes_its_image_and_container_along() {
    let two = two();
    let store = &two.store.store;
    assert_eq!(check(store, Depth::Attributes), []);
    fs::write(two.store.diff(&two.bottom).join("etc/hostname"), "best\n").unwrap();
    assert_eq!(check(store, Depth::Presence), []);
    let damages = check(store, Depth::Content);
    let found = items(&damages);
    let writable = store.container(&two.container).unwrap();
    for layer in [&two.bottom, &two.top, writable.layer.as_ref().unwrap()] {
        assert!(found.contains(&&Item::Layer(layer.clone())), "{found:?}");
    }
    let image = Item::Image(two.bad.clone());
    let container = Item::Container(two.container.clone());
    assert_eq!(found[3..5], [&image, &container]);

    // Its container stays without force, and with it all that it needs.
    let failed = store.repair(&damages, RepairContainers::Keep).unwrap();
    assert!(matches!(failed[0], Error::ImageInUse { .. }), "{failed:?}");
    assert_eq!(store.images().unwrap().len(), 2);
    store.mount(&two.container).unwrap();
    store.repair(&damages, RepairContainers::Unmounted).unwrap();
    assert_eq!(store.containers().unwrap().len(), 2, "it is mounted");
    let failed = store.repair(&damages, RepairContainers::All).unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    only_good_is_left(store);
}

#[test]
fn changed_attributes_and_files_that_nobody_packed_are_found() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 6] = [
        (
            |diff| {
                let path = diff.join("bin/t");
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            },
            "bin/t has another mode",
        ),
        (
            |diff| {
                std::os::unix::fs::chown(diff.join("bin/t"), Some(7), None).unwrap();
            },
            "bin/t has another owner",
        ),
        (
            |diff| fs::write(diff.join("etc/added"), "x").unwrap(),
            "etc/added is in no archive",
        ),
        (
            |diff| {
                let file = fs::File::open(diff.join("bin/t")).unwrap();
                file.set_modified(std::time::SystemTime::now()).unwrap();
            },
            "bin/t has another time",
        ),
        (
            |diff| fs::remove_file(diff.join("etc/empty")).unwrap(),
            "etc/empty is missing",
        ),
        (
            |diff| {
                fs::remove_file(diff.join("etc/empty")).unwrap();
                symlink("t", diff.join("etc/empty")).unwrap();
            },
            "etc/empty has another kind",
        ),
    ];
    for (change, told) in changes {
        let store = TestStore::new();
        let tar = Archive::default()
            .dir("bin")
            .file("bin/t", "abc")
            .dir("etc")
            .file("etc/empty", "")
            .end();
        let layer = store.layer(&tar, None);
        assert_eq!(check(&store.store, Depth::Attributes), []);
        change(&store.diff(&layer));
        assert_eq!(check(&store.store, Depth::Content), [], "{told}");
        let damages = check(&store.store, Depth::Attributes);
        assert_eq!(damages.len(), 1, "{told}: {damages:?}");
        assert_eq!(damages[0].item, Item::Layer(layer));
        assert_eq!(damages[0].reason, told);
    }
}

#[test]
fn changed_extended_attributes_are_found_and_the_hosts_own_are_let_be() {
    let capability = |bits: u8| {
        let mut value = [0; 20];
        (value[0], value[3], value[5]) = (1, 2, bits);
        value
    };
    let set = |path: &Path, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let remove = |path: &Path, key: &str| rustix::fs::lremovexattr(path, key).unwrap();
    let net_raw = capability(0x20);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(Change<'_>, &str); 8] = [
        (
            &|diff| set(&diff.join("d/ping"), "security.capability", &capability(4)),
            "d/ping has another extended attribute security.capability",
        ),
        (
            &|diff| remove(&diff.join("d/ping"), "security.capability"),
            "d/ping has another extended attribute security.capability",
        ),
        (
            &|diff| set(&diff.join("d/plain"), "security.capability", &net_raw),
            "d/plain has another extended attribute security.capability",
        ),
        (
            &|diff| set(&diff.join("d/ping"), "user.mine", b"no"),
            "d/ping has another extended attribute user.mine",
        ),
        (
            &|diff| remove(&diff.join("d"), "user.d"),
            "d has another extended attribute user.d",
        ),
        (
            &|diff| set(&diff.join("d/plain"), "user.added", b""),
            "d/plain has another extended attribute user.added",
        ),
        (
            &|diff| {
                set(
                    &diff.join("d/plain"),
                    "user.containers.override_stat",
                    b"0:0:0644",
                )
            },
            "",
        ),
        (
            &|diff| set(&diff.join("d/plain"), "trusted.theirs", b"x"),
            "",
        ),
    ];
    for (change, told) in changes {
        let store = TestStore::new();
        let tar = Archive::default()
            .pax(&[
                ("SCHILY.xattr.user.d", b"1"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ])
            .dir("d")
            .pax(&[
                ("SCHILY.xattr.user.mine", b"yes"),
                ("SCHILY.xattr.security.capability", &net_raw),
                ("SCHILY.xattr.security.selinux", b"label"),
            ])
            .file("d/ping", "x")
            .file("d/plain", "x")
            // One that a link can't have is not missing.
            .pax(&[("SCHILY.xattr.user.l", b"1")])
            .symlink("l", "d")
            .end();
        let layer = store.layer(&tar, None);
        assert_eq!(check(&store.store, Depth::Attributes), []);
        change(&store.diff(&layer));
        assert_eq!(check(&store.store, Depth::Content), [], "{told}");
        let damages = check(&store.store, Depth::Attributes);
        let reasons: Vec<_> = damages.iter().map(|one| one.reason.as_str()).collect();
        let expected: &[&str] = if told.is_empty() { &[] } else { &[told] };
        assert_eq!(reasons, expected);
    }
}

#[test]
fn what_is_missing_is_found_without_reading_and_removed() {
    type Change = fn(&Two);
    let changes: [(&str, Change); 5] = [
        ("a layer's directory", |two| {
            let diff = two.store.diff(&two.bottom);
            fs::remove_dir_all(diff.parent().unwrap()).unwrap();
        }),
        ("a layer's list of those below", |two| {
            let diff = two.store.diff(&two.top);
            fs::remove_file(diff.parent().unwrap().join("lower")).unwrap();
        }),
        ("a layer's archive's headers", |two| {
            let name = format!("root/overlay-layers/{}.tar-split.gz", two.bottom);
            fs::remove_file(two.store.path().join(name)).unwrap();
        }),
        ("an image's manifest", |two| {
            let name = format!("root/overlay-images/{}/manifest", two.bad);
            fs::remove_file(two.store.path().join(name)).unwrap();
        }),
        ("some of an image's manifest", |two| {
            let name = format!("root/overlay-images/{}/manifest", two.bad);
            fs::write(two.store.path().join(name), "{}").unwrap();
        }),
    ];
    for (what, change) in changes {
        let two = two();
        change(&two);
        let damages = check(&two.store.store, Depth::Presence);
        let image = Item::Image(two.bad.clone());
        assert!(items(&damages).contains(&&image), "{what}: {damages:?}");
        let failed = two
            .store
            .store
            .repair(&damages, RepairContainers::All)
            .unwrap();
        assert!(failed.is_empty(), "{what}: {failed:?}");
        only_good_is_left(&two.store.store);
        // Layers that were whole and have lost their image go by age.
        two.store.store.prune_layers(Duration::ZERO).unwrap();
        two.store.image(&[base()], &["localhost/bad:2"]);
        assert_eq!(check(&two.store.store, Depth::Attributes), [], "{what}");
    }
}

#[test]
fn an_item_with_another_content_is_found_by_its_digest() {
    let two = two();
    let path = format!("root/overlay-images/{}/manifest", two.bad);
    let path = two.store.path().join(path);
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        manifest.replace("sha256:0", "sha256:1").replace(":2", ":3"),
    )
    .unwrap();
    assert_eq!(check(&two.store.store, Depth::Presence), []);
    let damages = check(&two.store.store, Depth::Content);
    assert_eq!(damages[0].item, Item::Image(two.bad.clone()));
    assert!(damages[0].reason.contains("digest"), "{damages:?}");
}

#[test]
fn broken_records_are_told_and_those_that_can_be_read_are_kept() {
    for (table, what) in [
        ("layers", "cut short"),
        ("images", "cut short"),
        ("images", "with a record that makes no sense"),
        ("images", "of zeros"),
    ] {
        let two = two();
        let options = options(two.store.path());
        assert_eq!(check_tables(&options).unwrap(), []);
        let path = two
            .store
            .path()
            .join(format!("root/overlay-{table}/{table}.json"));
        let json = fs::read_to_string(&path).unwrap();
        let broken = match what {
            "cut short" => json[..json.len() - 9].to_owned(),
            "of zeros" => "\0".repeat(40),
            _ => json.replace("[{", "[{\"id\":\"../x\"},{"),
        };
        fs::write(&path, &broken).unwrap();
        assert!(Store::open(options.clone()).is_err(), "{table} {what}");
        let told = check_tables(&options).unwrap();
        assert_eq!(told.len(), 1, "{table} {what}");
        assert_eq!(told[0].item, Item::Table(path.clone()));
        assert_eq!(fs::read_to_string(&path).unwrap(), broken, "only looked at");
        assert_eq!(salvage_tables(&options).unwrap(), told);
        let kept = format!("{}.damaged", path.display());
        assert_eq!(fs::read_to_string(kept).unwrap(), broken);
        assert_eq!(check_tables(&options).unwrap(), []);

        let store = Store::open(options).unwrap();
        let damages = check(&store, Depth::Content);
        let failed = store.repair(&damages, RepairContainers::All).unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        store.prune_layers(Duration::ZERO).unwrap();
        assert_eq!(check(&store, Depth::Attributes), [], "{table} {what}");
        let left = store.images().unwrap().len();
        let wanted = match what {
            "cut short" => 1,
            "of zeros" => 0,
            _ => 2,
        };
        assert_eq!(left, wanted, "{table} {what}");
        let images = fs::read_dir(two.store.path().join("root/overlay-images")).unwrap();
        let directories = images.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(directories.count(), wanted, "{table} {what}");
    }
}

#[test]
fn layers_of_no_image_are_told_when_they_are_old_and_leftovers_at_once() {
    let store = TestStore::new();
    let layer = store.layer(&base(), None);
    let unreferenced = |age| {
        let options = CheckOptions {
            unreferenced: Some(age),
            ..CheckOptions::default()
        };
        store.store.check(&options).unwrap()
    };
    assert_eq!(unreferenced(Duration::from_secs(3600)), []);
    let mut damages = unreferenced(Duration::ZERO);
    assert_eq!(items(&damages), [&Item::Layer(layer)]);

    let image = store
        .path()
        .join("root/overlay-images")
        .join("ab".repeat(32));
    let container = store
        .path()
        .join("root/overlay-containers")
        .join("cd".repeat(32));
    let overlay = store.path().join("root/overlay").join("ef".repeat(32));
    for dir in [&image, &container, &overlay] {
        fs::create_dir_all(dir.join("x")).unwrap();
    }
    let looking = Store::open_as_it_is(options(store.path())).unwrap();
    damages.extend(check(&looking, Depth::Presence));
    assert_eq!(damages.len(), 4, "{damages:?}");
    let failed = store
        .store
        .repair(&damages, RepairContainers::Keep)
        .unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(unreferenced(Duration::ZERO), []);
    for dir in [&image, &container, &overlay] {
        assert!(!dir.try_exists().unwrap(), "{}", dir.display());
    }
}

#[test]
fn a_store_is_removed_as_a_whole_unless_a_container_is_mounted() {
    let two = two();
    fs::write(two.store.path().join("root/db.sql"), "another tool's").unwrap();
    two.store.store.mount(&two.container).unwrap();
    let error = two.store.reopen().remove_all(false).unwrap_err();
    assert!(matches!(error, Error::ContainerInUse(_)), "{error}");
    assert_eq!(two.store.store.images().unwrap().len(), 2);
    two.store.reopen().remove_all(true).unwrap();
    let root = two.store.path().join("root");
    assert!(!root.try_exists().unwrap());
    assert!(sys::mount::beneath(&root).unwrap().is_empty());
    let again = two.store.reopen();
    assert!(again.images().unwrap().is_empty() && again.containers().unwrap().is_empty());
}
