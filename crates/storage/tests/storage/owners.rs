//! Owners that can't be given: in a user namespace that has root alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crioxide_storage::{CheckOptions, Depth, Driver, Options, Store, UnpackLimits};

use crate::archive::{Archive, base, header};
use crate::harness::{is_apart, options_of, put_image};
use crate::peers::new_container;

#[test]
fn owners_that_can_t_be_given_are_left_out_where_that_is_wished() {
    let name = "owners::owners_that_can_t_be_given_are_left_out_where_that_is_wished";
    if !is_apart(name, &["--user", "--map-root-user"]) {
        return;
    }
    let mut file = header(b'0', "home/file").mode(0o640).size(2);
    file.uid = b"0001750\0".to_vec();
    let mut link = header(b'2', "home/link").link("file");
    link.gid = b"0001750\0".to_vec();
    let tar = Archive::default()
        .dir("home/")
        .add(&file)
        .data(b"me")
        .add(&link)
        .end();
    let dir = tempfile::tempdir().unwrap();
    let strict = options_of(Driver::Vfs, dir.path());
    let store = Store::open(strict.clone()).unwrap();
    let refused = store.unpack(&tar[..], UnpackLimits::default());
    let error = refused.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("Invalid argument"), "{error}: {source}");
    drop(store);

    let lenient = Options {
        ignore_chown_errors: true,
        ..strict.clone()
    };
    let store = Store::open(lenient).unwrap();
    let image = put_image(&store, &[base(), tar], &["localhost/owned:1"])
        .id
        .clone();
    let container = new_container("c", Some(&image));
    let id = store.create_container(container).unwrap().id.clone();
    let tree = store.writable_dir(&id).unwrap().unwrap();
    let found = fs::metadata(tree.join("home/file")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o640));
    let check = CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    };
    assert_eq!(store.check(&check).unwrap(), []);
    let strict = Store::open(strict).unwrap();
    let found = strict.check(&check).unwrap();
    assert!(
        found.iter().any(|damage| damage.reason.contains("owner")),
        "{found:?}"
    );
}
