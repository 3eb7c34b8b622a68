//! Containers' layers on file systems that count what projects take, made in files and mounted where
//! nobody else sees it.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crioxide_storage::{
    ContainerId, Driver, Error, ImageId, Options, QuotaLimits, Store, UnpackLimits,
};
use sys::beneath::Dir;

use crate::archive::{Archive, base};
use crate::harness::{is_apart, options, options_of, put_image, run};
use crate::peers::new_container;

/// Set where a kernel with quotas is what the tests are run for.
const NEEDED: &str = "CRIOXIDE_TEST_QUOTAS";

const MIB: u64 = 1 << 20;

/// Runs `test` on each kind of file system that this kernel counts projects on, with or without limits
/// in force; `name` is the calling test's, which is run again in a mount namespace of its own.
fn on_each(name: &str, enforced: bool, test: fn(&Path)) {
    if !is_apart(&format!("quota::{name}"), &[]) {
        return;
    }
    for (kind, bytes, features, counting) in [
        ("ext4", 128 * MIB, &["-O", "quota,project"][..], "noquota"),
        ("xfs", 512 * MIB, &[], "pqnoenforce"),
    ] {
        let option = if enforced { "prjquota" } else { counting };
        let dir = tempfile::tempdir().unwrap();
        let (file, place) = (dir.path().join("file"), dir.path().join("mounted"));
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        fs::create_dir(&place).unwrap();
        let (file, at) = (file.to_str().unwrap(), place.to_str().unwrap());
        let make = [&["-q"], features, &[file]].concat();
        let (fine, output) = run(&format!("mkfs.{kind}"), &make);
        assert!(fine, "{output}");
        let (fine, output) = run("mount", &["-o", &format!("loop,{option}"), file, at]);
        if !fine {
            assert!(std::env::var_os(NEEDED).is_none(), "{kind}: {output}");
            eprintln!("skipped on {kind}: no project quotas in this kernel: {output}");
            continue;
        }
        eprintln!("on {kind}");
        test(&place);
        for mount in sys::mount::beneath(&place).unwrap() {
            sys::mount::unmount_lazily(&mount).unwrap();
        }
    }
}

fn with(dir: &Path, bytes: u64, inodes: u64) -> Options {
    Options {
        quota: QuotaLimits { bytes, inodes },
        ..options(dir)
    }
}

fn image(store: &Store) -> ImageId {
    put_image(store, &[base()], &["localhost/base:1"])
        .id
        .clone()
}

fn container(store: &Store, name: &str, image: &ImageId) -> ContainerId {
    let wanted = new_container(name, Some(image));
    store.create_container(wanted).unwrap().id.clone()
}

/// The directory of a container's layer.
fn layer(store: &Store, id: &ContainerId) -> PathBuf {
    let diff = store.writable_dir(id).unwrap().unwrap();
    diff.parent().unwrap().to_owned()
}

fn project(dir: &Path) -> u32 {
    sys::quota::project(Dir::open(dir).unwrap()).unwrap()
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Writes up to `bytes`, and says how much there was room for.
fn fill(path: &Path, bytes: u64) -> u64 {
    let mut file = fs::File::create(path).unwrap();
    let block = [7; 64 << 10];
    let mut written = 0;
    while written < bytes {
        match file.write(&block) {
            Ok(more) => written += more as u64,
            Err(error) => {
                assert!(is_full(&error), "{error}");
                break;
            }
        }
    }
    written
}

#[test]
fn a_container_takes_what_it_may_and_no_more() {
    on_each("a_container_takes_what_it_may_and_no_more", true, |dir| {
        let store = Store::open(with(dir, 4 * MIB, 100)).unwrap();
        let image = image(&store);
        let (greedy, modest) = (
            container(&store, "greedy", &image),
            container(&store, "modest", &image),
        );
        let before = store.quota(&greedy).unwrap().unwrap();
        assert_eq!(
            before.limits,
            QuotaLimits {
                bytes: 4 * MIB,
                inodes: 100
            }
        );
        assert!(before.inodes < 20 && before.bytes < MIB, "{before:?}");

        let many = container(&store, "many", &image);
        let of_many = store.mount(&many).unwrap();
        let made = (0..200).take_while(|n| match fs::File::create(of_many.join(n.to_string())) {
            Ok(_) => true,
            Err(error) => {
                assert!(is_full(&error), "{error}");
                false
            }
        });
        let made = made.count();
        assert!((70..100).contains(&made), "{made}");
        store.delete_container(&many).unwrap();

        let root = store.mount(&greedy).unwrap();
        let written = fill(&root.join("large"), 16 * MIB);
        assert!((3 * MIB..=4 * MIB).contains(&written), "{written}");
        let other = store.mount(&modest).unwrap();
        assert_eq!(fill(&other.join("large"), 2 * MIB), 2 * MIB);
        let full = store.quota(&greedy).unwrap().unwrap();
        assert!((written..=4 * MIB).contains(&full.bytes), "{full:?}");
        // What the image has is not the container's before it is changed.
        let counted = store.quota(&modest).unwrap().unwrap();
        assert!((2 * MIB..3 * MIB).contains(&counted.bytes), "{counted:?}");

        let home = store.root().join("overlay");
        let fs_of = Dir::open(&home).unwrap();
        for entry in fs::read_dir(&home).unwrap() {
            let path = entry.unwrap().path();
            let ours = [layer(&store, &greedy), layer(&store, &modest)].contains(&path);
            if path.join("diff").is_dir() && !ours {
                assert_eq!(project(&path.join("diff")), 0, "an image's layer has none");
            }
        }
        let gone = project(&layer(&store, &greedy));
        let stays = project(&layer(&store, &modest));
        store.delete_container(&greedy).unwrap();
        let left = sys::quota::get(fs_of.as_fd(), gone).unwrap();
        // XFS takes what is gone off the count a little later.
        assert!(!left.limits.is_any(), "{left:?}");
        assert_eq!(fill(&other.join("more"), MIB), MIB);
        let kept = sys::quota::get(fs_of.as_fd(), stays).unwrap();
        assert_eq!(kept.limits, before.limits);
        store.delete_container(&modest).unwrap();
    });
}

#[test]
fn a_restart_keeps_limits_and_no_project_is_used_twice() {
    let name = "a_restart_keeps_limits_and_no_project_is_used_twice";
    on_each(name, true, |dir| {
        let options = with(dir, 4 * MIB, 0);
        let store = Store::open(options.clone()).unwrap();
        let image = image(&store);
        let mut containers: Vec<_> = (0..3)
            .map(|n| container(&store, &format!("c{n}"), &image))
            .collect();
        let first = project(&layer(&store, &containers[0]));
        // A peer's, with the project that would be the next one.
        let foreign = store.root().join("overlay/foreign");
        fs::create_dir(&foreign).unwrap();
        sys::quota::give_project(Dir::open(&foreign).unwrap(), first + 3).unwrap();
        store.delete_container(&containers.remove(0)).unwrap();
        drop(store);

        let store = Store::open(options).unwrap();
        containers.extend((3..6).map(|n| container(&store, &format!("c{n}"), &image)));
        let mut projects: Vec<_> = containers
            .iter()
            .map(|id| project(&layer(&store, id)))
            .collect();
        projects.push(project(&foreign));
        projects.sort_unstable();
        projects.dedup();
        assert_eq!(projects.len(), containers.len() + 1, "{projects:?}");
        for id in &containers {
            assert_eq!(store.quota(id).unwrap().unwrap().limits.bytes, 4 * MIB);
            let root = store.mount(id).unwrap();
            assert!(fill(&root.join("large"), 8 * MIB) <= 4 * MIB);
            store.delete_container(id).unwrap();
        }
    });
}

#[test]
fn without_limits_layers_are_counted_all_the_same() {
    let name = "without_limits_layers_are_counted_all_the_same";
    on_each(name, true, |dir| {
        let store = Store::open(options(dir)).unwrap();
        let image = image(&store);
        let id = container(&store, "c", &image);
        let root = store.mount(&id).unwrap();
        let before = store.quota(&id).unwrap().unwrap();
        assert!(!before.limits.is_any());
        assert_eq!(fill(&root.join("large"), 8 * MIB), 8 * MIB);
        for n in 0..20 {
            fs::create_dir(root.join(n.to_string())).unwrap();
        }
        let after = store.quota(&id).unwrap().unwrap();
        let more = after.inodes - before.inodes;
        // What overlay tried at its mount, XFS takes off the count a little later.
        assert!((16..=21).contains(&more), "{more}");
        let more = after.bytes - before.bytes;
        assert!((8 * MIB..9 * MIB).contains(&more), "{more}");
        store.delete_container(&id).unwrap();
    });
}

#[test]
fn changes_are_put_into_a_layer_within_its_limit() {
    let name = "changes_are_put_into_a_layer_within_its_limit";
    on_each(name, true, |dir| {
        let store = Store::open(with(dir, 4 * MIB, 50)).unwrap();
        let image = image(&store);
        let id = container(&store, "c", &image);
        let mut many = Archive::default();
        for n in 0..100 {
            many = many.file(&format!("f{n}"), "x");
        }
        let limits = UnpackLimits::default();
        let unpacked = store.unpack_changes(&id, &many.end()[..], limits);
        let error = unpacked.unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        let some = Archive::default().file("changed", "here").end();
        let staged = store.unpack_changes(&id, &some[..], limits).unwrap();
        let before = store.quota(&id).unwrap().unwrap();
        store.fill(&id, staged).unwrap();
        let after = store.quota(&id).unwrap().unwrap();
        assert!(after.inodes <= before.inodes, "{before:?} {after:?}");
        let root = store.mount(&id).unwrap();
        assert_eq!(fs::read_to_string(root.join("changed")).unwrap(), "here");
        assert!(fill(&root.join("large"), 8 * MIB) <= 4 * MIB);
        store.delete_container(&id).unwrap();
        assert_eq!(
            fs::read_dir(dir.join("root/overlay/staging"))
                .unwrap()
                .count(),
            0
        );
    });
}

#[test]
fn an_administrators_project_of_the_store_is_where_ours_begin() {
    let name = "an_administrators_project_of_the_store_is_where_ours_begin";
    on_each(name, true, |dir| {
        let home = dir.join("root/overlay");
        fs::create_dir_all(&home).unwrap();
        sys::quota::give_project(Dir::open(&home).unwrap(), 100_000).unwrap();
        let store = Store::open(with(dir, 4 * MIB, 0)).unwrap();
        let image = image(&store);
        let id = container(&store, "c", &image);
        assert_eq!(project(&layer(&store, &id)), 100_001);
        store.delete_container(&id).unwrap();
        store.remove_image(&image).unwrap();
        assert_eq!(project(&home), 100_000);
    });
}

#[test]
fn limits_that_nobody_enforces_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let home = Dir::open(dir.path()).unwrap();
    if sys::quota::state(home.as_fd()).is_ok_and(|state| state.counted) {
        eprintln!("skipped: temporary files are on a file system that counts projects");
        return;
    }
    let refused = |options: Options| match Store::open(options) {
        Err(Error::Unsuitable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let reason = refused(with(dir.path(), MIB, 0));
    assert!(
        reason.contains("Filesystem does not support Project Quota"),
        "{reason}"
    );
    let reason = refused(Options {
        quota: QuotaLimits {
            bytes: 0,
            inodes: 1,
        },
        ..options_of(Driver::Vfs, &dir.path().join("vfs"))
    });
    assert!(reason.contains("for the driver overlay"), "{reason}");
    let store = Store::open(options(&dir.path().join("none"))).unwrap();
    let image = image(&store);
    let id = container(&store, "c", &image);
    assert_eq!(store.quota(&id).unwrap(), None);
    store.delete_container(&id).unwrap();
    drop(store);
    for mount in sys::mount::beneath(dir.path()).unwrap() {
        sys::mount::unmount_lazily(&mount).unwrap();
    }
}

#[test]
fn a_file_system_that_only_counts_takes_no_limits() {
    let name = "a_file_system_that_only_counts_takes_no_limits";
    on_each(name, false, |dir| {
        let error = Store::open(with(dir, MIB, 0)).unwrap_err().to_string();
        assert!(error.contains("does not enforce"), "{error}");
        let store = Store::open(options(dir)).unwrap();
        let image = image(&store);
        let id = container(&store, "c", &image);
        assert!(store.quota(&id).unwrap().unwrap().inodes > 0);
        store.delete_container(&id).unwrap();
    });
}
