//! Whiteouts, replaced entries and extended headers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crioxide_storage::CheckOptions;

use crate::archive::{Archive, base, header};
use crate::harness::TestStore;

fn is_whiteout(path: &Path) -> bool {
    let stat = fs::symlink_metadata(path).unwrap();
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0_u8; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]).is_ok_and(|n| n == 1)
}

#[test]
fn whiteouts_become_overlays_own_in_any_order() {
    let store = TestStore::new();
    let tar = Archive::default()
        .dir("d")
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .dir("kept")
        .file("kept/x", "1")
        .file(".wh.kept", "")
        .file(".wh.late", "")
        .dir("late")
        .file("late/y", "2")
        .file("f", "3")
        .file(".wh.f", "")
        .file(".wh.g", "payload that means nothing")
        .file("g", "4")
        .file(".wh..wh.plnk/1.2", "aufs")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    assert!(is_whiteout(&diff.join("d/gone")));
    assert!(is_opaque(&diff.join("d")));
    assert!(
        is_opaque(&diff.join("kept")),
        "a whiteout beside a directory hides the lower one"
    );
    assert_eq!(fs::read_to_string(diff.join("kept/x")).unwrap(), "1");
    assert!(is_opaque(&diff.join("late")), "and so does one before it");
    assert_eq!(fs::read_to_string(diff.join("f")).unwrap(), "3");
    assert_eq!(fs::read_to_string(diff.join("g")).unwrap(), "4");
    assert!(!diff.join(".wh..wh.plnk").try_exists().unwrap());
}

#[test]
fn the_later_entry_wins_and_the_archive_can_still_be_made_again() {
    let store = TestStore::new();
    let big = "x".repeat(300_000);
    let tar = Archive::default()
        .file("a", "first")
        .file("a", "second")
        .file("./a", &big)
        .hard_link("b", "a")
        .file("a", "last")
        .dir("t")
        .dir("t")
        .file("t/u", "inside")
        .dir("t/v")
        .file("t/v/w", &big)
        .file("t", "a file now")
        .file("s", "data")
        .symlink("s", "a")
        .file("e", "")
        .file("e", "no longer empty")
        .file("n", "data")
        .file("n", "")
        .dir("r")
        .file("r/x", "through")
        .symlink("q", "r")
        .file("q/x", "over")
        .symlink("o", "a")
        .dir("o")
        .hard_link("b", "a")
        .hard_link("b", "b")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    for (name, content) in [
        ("a", "last"),
        ("b", "last"),
        ("t", "a file now"),
        ("s", "last"),
        ("e", "no longer empty"),
        ("n", ""),
        ("r/x", "over"),
    ] {
        assert_eq!(
            fs::read_to_string(diff.join(name)).unwrap(),
            content,
            "{name}"
        );
    }
    assert!(fs::symlink_metadata(diff.join("o")).unwrap().is_dir());
}

#[test]
fn a_pax_size_beats_the_headers() {
    let store = TestStore::new();
    let tar = Archive::default()
        .pax(&[("size", b"5")])
        .add(&header(b'0', "zero").size(0))
        .data(b"12345")
        .pax(&[("size", b"600")])
        .add(&header(b'0', "less").size(3))
        .data(&[b'y'; 600])
        .pax(&[("size", b"2")])
        .add(&header(b'0', "more").size(4096))
        .data(b"ab")
        .file("after", "still in step")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    for (name, size) in [("zero", 5), ("less", 600), ("more", 2), ("after", 13)] {
        assert_eq!(fs::metadata(diff.join(name)).unwrap().len(), size, "{name}");
    }
}

#[test]
fn links_and_directories_have_no_data_whatever_they_say() {
    let store = TestStore::new();
    let tar = Archive::default()
        .file("a", "data")
        .add(&header(b'1', "b").link("a").size(4))
        .add(&header(b'5', "d").size(4096))
        .add(&header(b'2', "l").link("a").size(1))
        .file("after", "still in step")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    assert_eq!(
        fs::read_to_string(diff.join("after")).unwrap(),
        "still in step"
    );
    assert_eq!(fs::read_to_string(diff.join("b")).unwrap(), "data");
}

#[test]
fn owners_modes_and_times_are_exact() {
    let store = TestStore::new();
    let mut large = header(b'0', "large");
    large.uid = b"\x80\0\0\0\xff\xff\xff\xfe".to_vec();
    large.gid = b"\x80\0\0\0\0\x20\0\0".to_vec();
    let tar = Archive::default()
        .pax(&[("mtime", b"1234567890.123456789"), ("uid", b"70000")])
        .add(&header(b'0', "x").mode(0o6711))
        .pax(&[("mtime", b"-1.5")])
        .add(&header(b'5', "d").mode(0o1777))
        .file("d/in", "x")
        .pax(&[("mtime", b"7.25"), ("gid", b"3")])
        .symlink("l", "x")
        .add(&large)
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    let of = |name: &str| fs::symlink_metadata(diff.join(name)).unwrap();
    let x = of("x");
    assert_eq!((x.uid(), x.mode() & 0o7777), (70000, 0o6711));
    assert_eq!((x.mtime(), x.mtime_nsec()), (1_234_567_890, 123_456_789));
    let d = of("d");
    assert_eq!(
        (d.mode() & 0o7777, d.mtime(), d.mtime_nsec()),
        (0o1777, -2, 500_000_000)
    );
    assert_eq!((of("l").gid(), of("l").mtime()), (3, 7));
    assert_eq!(
        (of("large").uid(), of("large").gid()),
        (u32::MAX - 1, 0x20_0000)
    );
}

#[test]
fn a_root_entry_sets_the_root_and_without_one_it_is_the_parents() {
    let store = TestStore::new();
    let mut root = header(b'5', "./").mode(0o711);
    root.uid = b"0000007\0".to_vec();
    let bottom = store.layer(&Archive::default().add(&root).end(), None);
    let top = store.layer(&Archive::default().file("x", "x").end(), Some(&bottom));
    let plain = store.layer(&Archive::default().file("x", "x").end(), None);
    let of = |layer| fs::metadata(store.diff(layer)).unwrap();
    assert_eq!((of(&bottom).mode() & 0o7777, of(&bottom).uid()), (0o711, 7));
    assert_eq!((of(&top).mode() & 0o7777, of(&top).uid()), (0o711, 7));
    assert_eq!(of(&plain).mode() & 0o7777, 0o555);
}

#[test]
fn odd_ends_are_kept() {
    let store = TestStore::new();
    let tar = base();
    let body = &tar[..tar.len() - 1024];
    for tail in [0, 512, 1024, 1025, 10_240, 3 << 20] {
        let mut odd = body.to_vec();
        odd.resize(body.len() + tail, 0);
        store.layer(&odd, None);
        if tail > 1024 {
            *odd.last_mut().unwrap() = 7;
            store.layer(&odd, None);
        }
    }
    store.layer(b"", None);
    store.layer(&[0; 1024], None);
    // umoci ends with the last file's data: no padding, no blocks of zeros.
    let whole = Archive::default().file("x", "x").end();
    for padding in [0, 1, 510] {
        store.layer(&whole[..whole.len() - 1024 - 511 + padding], None);
    }
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn names_that_are_not_utf_8_and_global_headers() {
    let store = TestStore::new();
    let mut latin = header(b'0', "");
    latin.name = b"caf\xe9".to_vec();
    latin.size = 2;
    let comment = b"20 comment=whatever\n";
    let tar = Archive::default()
        .add(&header(b'g', "pax_global_header").size(comment.len() as u64))
        .data(comment)
        .add(&latin)
        .data(b"au")
        .end();
    let diff = store.diff(&store.layer(&tar, None));
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    assert_eq!(fs::read(diff.join(name)).unwrap(), b"au");
    assert_eq!(fs::read_dir(&diff).unwrap().count(), 1);
}
