//! What GNU tar packs, in each of its formats, against what GNU tar unpacks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{TestStore, gnu_tar, gnu_untar};

/// A tree with a bit of everything.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(200));
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join("f".repeat(250)), "long").unwrap();
    fs::create_dir_all(at("usr/bin")).unwrap();
    for n in 0..200_usize {
        fs::write(at(&format!("usr/bin/{n}")), vec![b'a'; n * 37]).unwrap();
    }
    fs::set_permissions(at("usr/bin/7"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(at("usr/bin/8"), Some(70_000), Some(4_000_000_000)).unwrap();
    fs::write(at("large"), vec![7; 3 << 20]).unwrap();
    fs::hard_link(at("large"), at("usr/large")).unwrap();
    symlink("usr/bin", at("bin")).unwrap();
    symlink("x".repeat(300), at("long-link")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    for n in 0..40 {
        sparse
            .write_all_at(&[b'0' + n as u8; 4096], n * 500_000)
            .unwrap();
    }
    sparse.set_len(30 << 20).unwrap();
    fs::File::create(at("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    rustix::fs::setxattr(
        at("usr"),
        "user.k",
        b"v\0w",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    dir
}

/// Everything that matters of a tree, by path.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut listing = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    let mut inodes = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        let mut paths: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.push(directory);
        paths.sort();
        for path in paths {
            let name = path.strip_prefix(root).unwrap().to_owned();
            if listing.contains_key(&name) {
                continue;
            }
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                if path != root {
                    directories.push(path.clone());
                }
                String::new()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if !stat.is_file() {
                format!("device {}", stat.rdev())
            } else {
                let first = inodes
                    .entry(stat.ino())
                    .or_insert_with(|| name.clone())
                    .clone();
                format!(
                    "{} {first:?}",
                    crioxide_storage::Digest::of(&fs::read(&path).unwrap())
                )
            };
            let (mode, uid, gid) = (stat.mode(), stat.uid(), stat.gid());
            let size = if stat.is_dir() { 0 } else { stat.len() };
            let time = (stat.mtime(), stat.mtime_nsec());
            listing.insert(
                name,
                format!("{mode:o} {uid}:{gid} {size} {time:?} {content}"),
            );
        }
    }
    listing
}

#[test]
fn all_formats_of_gnu_tar_unpack_alike() {
    let tree = tree();
    for options in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=posix"],
        &["--format=pax", "--xattrs"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &[
            "--format=ustar",
            "--exclude=dd*",
            "--exclude=long-link",
            "--exclude=usr/bin/8",
        ],
        &[
            "--format=v7",
            "--exclude=dd*",
            "--exclude=long-link",
            "--exclude=usr/bin/8",
        ],
    ] {
        let tar = gnu_tar(tree.path(), options);
        let store = TestStore::new();
        let diff = store.diff(&store.layer(&tar, None));
        let (ours, theirs) = (listing(&diff), listing(gnu_untar(&tar).path()));
        let differing: Vec<_> = ours
            .iter()
            .filter(|(path, text)| theirs.get(*path) != Some(text))
            .chain(theirs.iter().filter(|(path, _)| !ours.contains_key(*path)))
            .collect();
        assert_eq!(differing, Vec::new(), "{options:?}");
        if options.contains(&"--sparse") {
            let blocks = fs::metadata(diff.join("sparse")).unwrap().blocks();
            assert!(
                blocks < 1000,
                "{options:?}: holes stay holes, not {blocks} blocks"
            );
        }
        if options.contains(&"--xattrs") {
            let mut value = [0_u8; 8];
            let length = rustix::fs::getxattr(diff.join("usr"), "user.k", &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"v\0w");
        }
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    use crate::archive::{Archive, header};
    for records in [
        // More data than there is, overlapping, beyond the end, an unknown version, no size.
        &[
            ("GNU.sparse.map", &b"0,4,8,4"[..]),
            ("GNU.sparse.numblocks", b"2"),
        ][..],
        &[
            ("GNU.sparse.map", b"2,2,0,2"),
            ("GNU.sparse.numblocks", b"2"),
        ],
        &[
            ("GNU.sparse.map", b"18446744073709551615,4"),
            ("GNU.sparse.numblocks", b"1"),
        ],
        &[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")],
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")],
    ] {
        let mut records = records.to_vec();
        records.push(("GNU.sparse.realsize", b"20"));
        let tar = Archive::default()
            .pax(&records)
            .add(&header(b'0', "x").size(4))
            .data(b"1234")
            .end();
        let store = TestStore::new();
        assert!(store.unpack(&tar).is_err(), "{records:?}");
    }
}
