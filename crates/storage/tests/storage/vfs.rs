//! Layers that are whole trees: what shows is what overlay shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crioxide_storage::{CheckOptions, Damage, Depth, Driver, ImageId, Item, Store};

use crate::archive::{Archive, base, header};
use crate::harness::{TestStore, options_of, put_image};
use crate::peers::new_container;
use crate::round_trip::listing;

/// Layers that replace, hide and remove what is below, in every way there is.
pub(crate) fn layers() -> Vec<Vec<u8>> {
    let mut device = header(b'3', "dev/null");
    device.device = (1, 3);
    let lower = Archive::default()
        .dir("dev/")
        .add(&device)
        .dir("gone/")
        .file("gone/a", "a")
        .dir("hidden/")
        .file("hidden/below", "x")
        .dir("becomes-file/")
        .file("becomes-file/a", "a")
        .file("becomes-dir", "a")
        .dir("kept/")
        .pax(&[("SCHILY.xattr.user.k", b"v"), ("mtime", b"1234567890.5")])
        .file("kept/with-attribute", "a")
        .file("kept/first", "linked")
        .hard_link("kept/second", "kept/first")
        .symlink("kept/link", "/etc/hostname")
        .add(&header(b'6', "kept/fifo"))
        .end();
    let upper = Archive::default()
        .file(".wh.gone", "")
        .dir("dev/")
        .dir("etc/")
        .file("dev/.wh.null", "")
        .add(&header(b'5', "hidden/").mode(0o700))
        .file("hidden/.wh..wh..opq", "")
        .file("hidden/above", "y")
        .file("becomes-file", "f")
        .dir("becomes-dir/")
        .file("becomes-dir/b", "b")
        .add(&header(b'5', "kept/").mode(0o1777))
        .file("kept/first", "replaced")
        .add(&header(b'0', "etc/hostname").mode(0o4711).size(2))
        .data(b"me")
        .hard_link("etc/also", "etc/hostname")
        .end();
    let top = Archive::default()
        .dir("gone/")
        .file("gone/again", "again")
        .end();
    vec![base(), lower, upper, top]
}

fn damages(store: &TestStore) -> Vec<Damage> {
    let options = CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    };
    store.store.check(&options).unwrap()
}

fn image(store: &TestStore) -> ImageId {
    store.image(&layers(), &["localhost/all:1"])
}

/// The listing of an image's files, mounted in a directory of the test's.
fn mounted(store: &TestStore, id: &ImageId) -> BTreeMap<PathBuf, String> {
    let target = store.path().join("mounted");
    fs::create_dir(&target).unwrap();
    store
        .store
        .mount_image(id, &target, crioxide_storage::View::default())
        .unwrap();
    let written = fs::write(target.join("new"), "x");
    assert_eq!(
        written.unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    let fifo = fs::symlink_metadata(target.join("kept/fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    let first = fs::metadata(target.join("etc/also")).unwrap();
    assert_eq!(
        first.ino(),
        fs::metadata(target.join("etc/hostname")).unwrap().ino()
    );
    let mut value = [0; 8];
    let path = target.join("kept/with-attribute");
    assert_eq!(
        rustix::fs::lgetxattr(path, "user.k", &mut value).unwrap(),
        1
    );
    let mut listed = listing(&target);
    // Without an entry in the topmost layer the root's time is that of its unpacking.
    listed.remove(Path::new(""));
    sys::mount::unmount_lazily(&target).unwrap();
    listed
}

#[test]
fn a_tree_shows_what_overlay_shows() {
    let (overlay, vfs) = (TestStore::new(), TestStore::of(Driver::Vfs));
    let (one, other) = (image(&overlay), image(&vfs));
    assert_eq!(one, other);
    let (expected, found) = (mounted(&overlay, &one), mounted(&vfs, &other));
    for (path, what) in &expected {
        assert_eq!(found.get(path), Some(what), "{}", path.display());
    }
    assert_eq!(expected.len(), found.len(), "{found:?}");
    // Each layer gives its archive back, and nothing is damaged.
    assert_eq!(damages(&vfs), []);
    // The bytes of a layer count in each that stands on it.
    let sizes: Vec<_> = layers().iter().map(|tar| tar.len() as u64).collect();
    let trees: u64 = (0..=sizes.len())
        .map(|n| sizes[..n].iter().sum::<u64>())
        .sum();
    let (flat, whole) = (overlay.store.usage(), vfs.store.usage());
    let further = whole.unwrap().bytes - flat.unwrap().bytes;
    assert_eq!(further, trees - sizes.iter().sum::<u64>());
    let dir = vfs.path().join("root/vfs/dir");
    assert_eq!(fs::read_dir(dir).unwrap().count(), layers().len());
    assert!(!vfs.path().join("root/overlay").try_exists().unwrap());
}

/// An overlay, which takes no whiteouts by `mknod(2)`.
struct Over(tempfile::TempDir);

impl Over {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["lower", "upper", "work", "merged"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let overlay = sys::mount::Overlay {
            base: dir.path().to_owned(),
            lowers: vec!["lower".into()],
            upper: Some(("upper".into(), "work".into())),
            options: Vec::new(),
            flags: sys::mount::Flags::default(),
        };
        sys::mount::overlay(&overlay, &dir.path().join("merged")).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        sys::mount::unmount_lazily(&self.path()).unwrap();
    }
}

#[test]
fn files_are_removed_where_no_marks_can_be_made() {
    let over = Over::mount();
    let dir = sys::beneath::Dir::open(&over.path()).unwrap();
    let kind = rustix::fs::FileType::CharacterDevice;
    let mark = dir.make_node("mark".as_ref(), kind, 0, 0);
    assert_eq!(
        mark.unwrap_err().kind(),
        std::io::ErrorKind::PermissionDenied
    );
    let (overlay, vfs) = (
        TestStore::new(),
        TestStore::of_in(Driver::Vfs, &over.path()),
    );
    let (one, other) = (image(&overlay), image(&vfs));
    assert_eq!(mounted(&overlay, &one), mounted(&vfs, &other));
    assert_eq!(damages(&vfs), []);
    let container = new_container("c", Some(&other));
    let id = vfs.store.create_container(container).unwrap().id.clone();
    let root = vfs.store.mount(&id).unwrap();
    assert!(!root.join("gone/a").try_exists().unwrap());
    assert!(root.join("gone/again").try_exists().unwrap());
    vfs.store.delete_container(&id).unwrap();
    assert!(vfs.staging_is_empty());
}

/// Kinds and contents of all files, without times, which directories get from their making.
pub(crate) fn shape(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut shape = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // Overlay lists a whiteout where it has nothing to hide, and nobody can open it.
            if !path.try_exists().unwrap() {
                continue;
            }
            let what = if path.is_dir() {
                waiting.push(path.clone());
                String::new()
            } else if path.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                format!("{:?}", path.metadata().unwrap().file_type())
            };
            shape.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    shape
}

/// Layers of entries that are drawn at random, and hide, replace and undo each other.
fn drawn(seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let names = ["a", "a/b", "a/b/c", "a/d", "e", "e/f"];
    let layer = |number: usize| {
        let mut archive = Archive::default();
        for _ in 0..1 + draw(7) {
            let name = names[draw(names.len())];
            let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
            let beside = |name: &str| match parent {
                "" => name.to_owned(),
                parent => format!("{parent}/{name}"),
            };
            archive = match draw(6) {
                0 | 1 => archive.file(name, &format!("{number}")),
                2 => archive.dir(&format!("{name}/")),
                3 | 4 => archive.file(&beside(&format!(".wh.{last}")), ""),
                // Of the root it is nothing to overlay.
                5 if !parent.is_empty() => archive.file(&beside(".wh..wh..opq"), ""),
                _ => archive,
            };
        }
        archive.end()
    };
    (0..3).map(layer).collect()
}

#[test]
fn what_layers_hide_is_what_overlay_hides() {
    let (overlay, vfs) = (TestStore::new(), TestStore::of(Driver::Vfs));
    let mut compared = 0;
    for seed in 0..100 {
        let tars = drawn(seed);
        let fits = |store: &TestStore| tars.iter().all(|tar| store.unpack(tar).is_ok());
        // With marks at files, nothing can be put beneath one.
        if !fits(&overlay) {
            continue;
        }
        compared += 1;
        let name = format!("localhost/drawn:{seed}");
        let shown = [&overlay, &vfs].map(|store| {
            let id = store.image(&tars, &[&name]);
            let target = store.path().join(format!("mounted-{seed}"));
            fs::create_dir(&target).unwrap();
            let view = crioxide_storage::View::default();
            store.store.mount_image(&id, &target, view).unwrap();
            let shape = shape(&target);
            sys::mount::unmount_lazily(&target).unwrap();
            shape
        });
        assert_eq!(shown[0], shown[1], "{seed}");
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn a_sparse_file_takes_no_more_room_in_trees_and_containers_above() {
    const SIZE: u64 = 64 << 20;
    let size = SIZE.to_string();
    let sparse = Archive::default()
        .pax(&[
            ("GNU.sparse.map", b"33554432,4"),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.realsize", size.as_bytes()),
            ("GNU.sparse.name", b"large"),
        ])
        .file("large", "here")
        .end();
    let above = Archive::default().file("small", "x").end();
    let store = TestStore::of(Driver::Vfs);
    let id = store.image(&[base(), sparse, above], &["localhost/sparse:1"]);
    let container = new_container("c", Some(&id));
    let container = store.store.create_container(container).unwrap();
    let root = store.store.mount(&container.id).unwrap();
    let mut trees = vec![root];
    for tree in fs::read_dir(store.path().join("root/vfs/dir")).unwrap() {
        trees.push(tree.unwrap().path());
    }
    let large = trees.iter().map(|tree| tree.join("large"));
    let large: Vec<_> = large.filter(|path| path.try_exists().unwrap()).collect();
    // Two layers have it, and the container, which is listed twice.
    assert_eq!(large.len(), 4, "{large:?}");
    for path in large {
        let of = fs::metadata(&path).unwrap();
        assert_eq!(of.len(), SIZE, "{}", path.display());
        let room = of.blocks() * 512;
        assert!(room <= 1 << 20, "{}: {room} bytes", path.display());
        let mut found = [1; 8];
        let file = fs::File::open(&path).unwrap();
        file.read_exact_at(&mut found, (32 << 20) - 2).unwrap();
        assert_eq!(&found, b"\0\0here\0\0");
    }
    assert_eq!(damages(&store), []);
}

#[test]
fn a_container_has_a_copy_of_its_own_and_goes_for_good() {
    let store = TestStore::of(Driver::Vfs);
    let id = image(&store);
    let container = new_container("c", Some(&id));
    let container = store.store.create_container(container).unwrap();
    assert!(!store.store.is_mounted(&container.id).unwrap());
    let root = store.store.mount(&container.id).unwrap();
    assert_eq!(store.store.mount(&container.id).unwrap(), root);
    assert!(store.store.is_mounted(&container.id).unwrap());
    fs::write(root.join("etc/hostname"), "other").unwrap();
    fs::write(root.join("new"), "x").unwrap();
    assert_eq!(damages(&store), [], "the image's layers are untouched");
    let again = store.reopen();
    assert!(again.is_mounted(&container.id).unwrap());
    store.store.unmount(&container.id).unwrap();
    assert!(!store.store.is_mounted(&container.id).unwrap());
    assert_eq!(
        store.store.writable_dir(&container.id).unwrap(),
        Some(root.clone())
    );
    let exported = store.store.export_changes(&container.id, &[], Vec::new());
    let error = exported.unwrap_err().to_string();
    assert!(
        error.contains("can't tell what a container has changed"),
        "{error}"
    );
    store.store.delete_container(&container.id).unwrap();
    assert!(!root.try_exists().unwrap());
    store.store.remove_image(&id).unwrap();
    assert_eq!(
        fs::read_dir(store.path().join("root/vfs/dir"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(damages(&store), []);
    assert!(sys::mount::beneath(store.path()).unwrap().is_empty());
}

#[test]
fn damage_of_a_tree_is_found_in_the_layer_that_has_it() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 4] = [
        (
            |tree| fs::write(tree.join("hidden/above"), "z").unwrap(),
            "",
        ),
        (
            |tree| fs::write(tree.join("dev/null"), "").unwrap(),
            "dev/null is there",
        ),
        (
            |tree| fs::remove_file(tree.join("becomes-file")).unwrap(),
            "",
        ),
        (
            |tree| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(tree.join("becomes-dir"), mode).unwrap();
            },
            "becomes-dir has another mode",
        ),
    ];
    for (change, told) in changes {
        let store = TestStore::of(Driver::Vfs);
        let id = image(&store);
        let top = store.store.image(&id).unwrap().top_layer.clone().unwrap();
        let layers = layers();
        let mut parent = None;
        for tar in &layers[..3] {
            let digest = crioxide_storage::Digest::of(tar);
            parent = store.store.layer_for(&digest, parent.as_ref()).unwrap();
        }
        let damaged = parent.unwrap();
        change(&store.path().join("root/vfs/dir").join(damaged.as_str()));
        let found = damages(&store);
        let reason = |id: &crioxide_storage::LayerId| {
            let item = Item::Layer(id.clone());
            found
                .iter()
                .find(|damage| damage.item == item)
                .map(|it| it.reason.clone())
        };
        assert!(reason(&damaged).unwrap().contains(told), "{found:?}");
        assert!(reason(&top).unwrap().contains("is damaged"), "{found:?}");
        assert_eq!(found.len(), 3, "{found:?}");
    }
}

#[test]
fn trees_of_several_roots_are_built_on_each_other() {
    let first = TestStore::of(Driver::Vfs);
    let below = &layers()[..2];
    let lower = first.image(below, &["localhost/lower:1"]);
    let dir = tempfile::tempdir().unwrap();
    let options = crioxide_storage::Options {
        image_root: Some(dir.path().join("images")),
        additional: vec![first.path().join("root")],
        ..options_of(Driver::Vfs, dir.path())
    };
    let store = Store::open(options).unwrap();
    assert!(store.image(&lower).unwrap().read_only);
    let id = put_image(&store, &layers(), &["localhost/upper:1"])
        .id
        .clone();
    let own = dir.path().join("images/vfs/dir");
    assert_eq!(
        fs::read_dir(own).unwrap().count(),
        layers().len() - below.len()
    );
    let check = CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    };
    assert_eq!(store.check(&check).unwrap(), []);
    let container = store
        .create_container(new_container("c", Some(&id)))
        .unwrap();
    let root = store.mount(&container.id).unwrap();
    assert!(root.starts_with(dir.path().join("root/vfs/dir")));
    assert_eq!(fs::read_to_string(root.join("hidden/above")).unwrap(), "y");
    assert_eq!(
        fs::read_to_string(root.join("kept/second")).unwrap(),
        "linked"
    );
    assert!(!root.join("gone/a").try_exists().unwrap());
    store.delete_container(&container.id).unwrap();
    store.remove_image(&id).unwrap();
    assert_eq!(damages(&first), []);
}
