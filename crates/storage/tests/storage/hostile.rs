//! Archives that want out, or want us to fall over.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use crioxide_storage::{CheckOptions, Error, UnpackLimits};

use crate::archive::{Archive, base, checksum, header};
use crate::harness::TestStore;

/// Unpacks and must fail with an archive error that says `reason`; nothing stays.
fn refused(tar: Vec<u8>, reason: &str) {
    let store = TestStore::new();
    match store.unpack(&tar) {
        Err(error @ (Error::Archive { .. } | Error::TooLarge { .. })) => {
            assert!(
                error.to_string().contains(reason),
                "{error} should say {reason:?}"
            );
        }
        other => panic!("{reason}: {other:?}"),
    }
    assert!(store.staging_is_empty());
}

#[test]
fn names_and_links_that_climb_are_refused() {
    for name in ["../x", "a/../../x", "/../x", ".."] {
        refused(Archive::default().file(name, "x").end(), "climbs");
        refused(
            Archive::default().file("a", "x").hard_link("b", name).end(),
            "climbs",
        );
    }
    refused(
        Archive::default().file("a", "x").hard_link("b", "/").end(),
        "root",
    );
    refused(
        Archive::default().file(".", "x").end(),
        "root has to be a directory",
    );
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."] {
        refused(Archive::default().dir("a").file(name, "").end(), "whiteout");
    }
}

#[test]
fn symbolic_links_as_parents_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let store = TestStore::new();
    let tar = Archive::default()
        .symlink("absolute", target)
        .symlink("climbing", "../../../../../../../..")
        .dir("real")
        .symlink("inside", "/real")
        .file("inside/file", "one")
        .file("climbing/top", "two")
        .file("climbing/tmp/deep/file", "three")
        .hard_link("linked", "inside/file")
        .end();
    let layer = store.layer(&tar, None);
    let diff = store.diff(&layer);
    assert_eq!(fs::read_to_string(diff.join("real/file")).unwrap(), "one");
    assert_eq!(fs::read_to_string(diff.join("top")).unwrap(), "two");
    assert_eq!(
        fs::read_to_string(diff.join("tmp/deep/file")).unwrap(),
        "three"
    );
    assert_eq!(fs::metadata(diff.join("real/file")).unwrap().nlink(), 2);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    refused(
        Archive::default()
            .symlink("a", target)
            .file("a/x", "x")
            .end(),
        "nowhere",
    );
    refused(
        Archive::default()
            .symlink("a", "/proc/self")
            .file("a/x", "x")
            .end(),
        "nowhere",
    );
    refused(
        Archive::default().file("a", "x").file("a/b", "x").end(),
        "not a directory",
    );
    refused(
        Archive::default()
            .symlink("a", target)
            .hard_link("b", "a/x")
            .end(),
        "not in this layer",
    );
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_one_more_link_and_never_its_target() {
    let store = TestStore::new();
    let tar = Archive::default()
        .symlink("shadow", "/etc/shadow")
        .hard_link("copy", "shadow")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    assert_eq!(
        fs::read_link(diff.join("copy")).unwrap().to_str(),
        Some("/etc/shadow")
    );
}

#[test]
fn a_file_written_over_a_symbolic_link_replaces_the_link() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "untouched").unwrap();
    let store = TestStore::new();
    let target = outside.path().to_str().unwrap();
    let tar = Archive::default()
        .symlink("x", target)
        .file("x", "new")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    assert_eq!(fs::read_to_string(diff.join("x")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "untouched");
}

#[test]
fn limits_hold() {
    let store = TestStore::new();
    let unpack = |tar: &[u8], bytes, entries| {
        store
            .store
            .unpack(tar, UnpackLimits { bytes, entries })
            .map(drop)
    };
    let tar = base();
    unpack(&tar, tar.len() as u64, 7).unwrap();
    let less = unpack(&tar, tar.len() as u64 - 1, 7).unwrap_err();
    assert!(
        matches!(less, Error::TooLarge { what: "bytes", .. }),
        "{less}"
    );
    let fewer = unpack(&tar, 1 << 20, 6).unwrap_err();
    assert!(
        matches!(
            fewer,
            Error::TooLarge {
                what: "entries",
                ..
            }
        ),
        "{fewer}"
    );
    // An endless stream of extended headers is one of entries.
    let mut endless = Archive::default();
    for _ in 0..100 {
        endless = endless.pax(&[("comment", b"x")]);
    }
    assert!(matches!(
        unpack(&endless.0, 1 << 20, 50).unwrap_err(),
        Error::TooLarge { .. }
    ));
    // And one of zeros behind the archive's end is bounded by its bytes.
    let mut zeros = tar.clone();
    zeros.resize(1 << 20, 0);
    assert!(matches!(
        unpack(&zeros, 1 << 19, 50).unwrap_err(),
        Error::TooLarge { .. }
    ));
    let huge = Archive::default()
        .add(&header(b'x', "pax").size(2 << 20))
        .data(&[b'x'; 512])
        .end();
    assert!(matches!(
        unpack(&huge, 1 << 30, 50).unwrap_err(),
        Error::TooLarge { .. }
    ));
    assert!(store.staging_is_empty());
}

#[test]
fn damaged_archives_are_refused() {
    let tar = base();
    let mut flipped = tar.clone();
    flipped[2 * 512 + 5] ^= 1;
    refused(flipped, "checksum");
    refused(tar[..2048 + 100].to_vec(), "ends within");
    refused(
        Archive::default()
            .add(&header(b'0', "x").size(600))
            .data(&[1; 512])
            .0,
        "ends within",
    );
    refused(
        Archive::default().add(&header(b'9', "x")).end(),
        "unknown type",
    );
    refused(
        Archive::default()
            .pax(&[("size", b"-1")])
            .file("x", "")
            .end(),
        "bad number",
    );
    refused(
        Archive::default()
            .pax(&[("uid", b"4294967296")])
            .file("x", "")
            .end(),
        "owner",
    );
    refused(
        Archive::default()
            .pax(&[("mtime", b"x")])
            .file("x", "")
            .end(),
        "time",
    );
    refused(
        Archive::default()
            .pax(&[("path", b"a\0b")])
            .file("x", "")
            .end(),
        "PAX",
    );
    refused(
        Archive::default().pax(&[("comment", b"x")]).end(),
        "ends after",
    );
    let mut zero_then_data = Archive::default().file("x", "").0;
    zero_then_data.extend_from_slice(&[0; 512]);
    refused(Archive(zero_then_data).file("y", "").end(), "zeros");
    let mut negative = header(b'0', "x");
    negative.uid = b"\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    refused(Archive::default().add(&negative).end(), "negative");
    // Bytes at random are an error or an empty archive, never a panic.
    let mut state = 1_u64;
    for length in 0..200 {
        let mut bytes = base();
        for _ in 0..length {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
            if length % 2 == 0 {
                let block = at / 512 * 512;
                if let Ok(block) = <&mut [u8; 512]>::try_from(&mut bytes[block..block + 512]) {
                    checksum(block);
                }
            }
        }
        let store = TestStore::new();
        drop(store.unpack(&bytes));
    }
}

#[test]
fn the_readers_error_comes_through_and_nothing_stays() {
    struct Breaking;
    impl std::io::Read for Breaking {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("connection lost"))
        }
    }
    let store = TestStore::new();
    let error = store
        .store
        .unpack(Breaking, UnpackLimits::default())
        .unwrap_err();
    assert!(matches!(&error, Error::Read(source) if source.to_string() == "connection lost"));
    assert!(store.staging_is_empty());
}

#[test]
fn attributes_of_the_host_are_not_the_images_to_set() {
    let store = TestStore::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Archive::default()
        .pax(&[
            ("SCHILY.xattr.user.mine", b"yes"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
        ])
        .file("x", "x")
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.d", b"1"),
        ])
        .dir("d")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    let names = |path: &str| {
        let mut buffer = [0_u8; 1024];
        let length = rustix::fs::llistxattr(diff.join(path), &mut buffer[..]).unwrap();
        let mut names: Vec<_> = buffer[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("x"), ["security.capability", "user.mine"]);
    assert_eq!(names("d"), ["user.d"]);
}

#[test]
fn devices_are_nodes_and_nothing_is_opened() {
    let store = TestStore::new();
    let mut device = header(b'3', "null");
    device.device = (1, 3);
    let tar = Archive::default()
        .add(&device)
        .add(&header(b'6', "fifo"))
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    let null = fs::metadata(diff.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert!(
        fs::metadata(diff.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn a_store_that_links_out_is_not_followed_by_the_unpacker() {
    // The staging directory is ours alone (0700); the one thing to follow would be `diff` itself.
    let store = TestStore::new();
    symlink(
        "/etc",
        store
            .path()
            .join("root/overlay/l/AAAAAAAAAAAAAAAAAAAAAAAAAA"),
    )
    .unwrap();
    store.layer(&base(), None);
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}
