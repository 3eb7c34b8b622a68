//! podman and skopeo of a Debian 13 tree with several roots: read-only stores both ways, and images in
//! a root of their own.

use std::fs;

use crioxide_storage::{CheckOptions, Depth, Options, Store};

use crate::archive::Archive;
use crate::harness::{TestStore, gnu_tar, options, put_image};
use crate::peers::{new_container, peer_ok, system, tree};

const RUN: &str = "run --rm --network none --cgroups disabled --security-opt seccomp=unconfined";

fn everything() -> CheckOptions {
    CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    }
}

#[test]
fn podman_runs_from_our_store_that_is_read_only_to_it() {
    let Some(tree) = tree() else { return };
    let test = TestStore::new();
    let at = |name: &str| test.path().join(name);
    let ours = Store::open(Options::new(at("ours"), at("ours-run"))).unwrap();
    let id = put_image(&ours, &system(&tree), &["localhost/ours:1"])
        .id
        .clone();
    drop(ours);
    let with = "--storage-opt additionalimagestore=$D/ours";
    let images = peer_ok(
        &test,
        &format!("podman {with} images --no-trunc --format '{{{{.ID}}}} {{{{.ReadOnly}}}}'"),
    );
    assert!(images.contains(&format!("sha256:{id} true")), "{images}");
    let seen = peer_ok(
        &test,
        &format!(
            "podman {with} {RUN} localhost/ours:1 /bin/sh -c 'cat /srv/top; echo x > /srv/new'"
        ),
    );
    assert!(seen.contains("on top"), "{seen}");
}

#[test]
fn we_run_from_stores_that_peers_wrote() {
    let Some(tree) = tree() else { return };
    let test = TestStore::new();
    let layers = system(&tree);
    let at = |name: &str| test.path().join(name);
    test.image(&layers, &["localhost/source:1"]);
    peer_ok(
        &test,
        "skopeo copy -q containers-storage:${S}localhost/source:1 \
           \"containers-storage:[overlay@$D/by-skopeo+$D/run-s]localhost/by-skopeo:1\"; \
         skopeo copy -q containers-storage:${S}localhost/source:1 docker-archive:$D/image.tar:localhost/by-podman:1; \
         command podman --root $D/by-podman --runroot $D/run-p --storage-driver overlay --tmpdir $D/run-p/libpod \
           --events-backend none load -q -i $D/image.tar",
    );
    let with = Options {
        additional: vec![at("by-skopeo"), at("by-podman")],
        ..Options::new(at("new"), at("new-run"))
    };
    let store = Store::open(with).unwrap();
    for name in ["localhost/by-skopeo:1", "localhost/by-podman:1"] {
        let image = store.image_by_name(name).unwrap();
        assert!(image.read_only, "{name}");
        let id = image.id.clone();
        let made = store
            .create_container(new_container(&name[10..19], Some(&id)))
            .unwrap();
        let root = store.mount(&made.id).unwrap();
        assert_eq!(
            fs::read_to_string(root.join("srv/top")).unwrap(),
            "on top\n"
        );
        assert_eq!(
            fs::read_to_string(root.join("etc/gone/new")).unwrap(),
            "upper"
        );
        assert!(
            !root.join("etc/gone/file").try_exists().unwrap()
                && !root.join("etc/removed").try_exists().unwrap()
        );
        fs::write(root.join("srv/top"), "changed").unwrap();
        store.unmount(&made.id).unwrap();
        store.delete_container(&made.id).unwrap();
    }
    assert_eq!(store.check(&everything()).unwrap(), []);
}

#[test]
fn podman_and_we_share_a_root_for_images() {
    let Some(tree) = tree() else { return };
    let test = TestStore::new();
    let with = Options {
        image_root: Some(test.path().join("images")),
        ..options(test.path())
    };
    let store = Store::open(with).unwrap();
    put_image(&store, &system(&tree), &["localhost/ours:1"]);
    let podman = "podman --imagestore $D/images";
    let seen = peer_ok(
        &test,
        &format!("{podman} {RUN} localhost/ours:1 /bin/sh -c 'cat /srv/top; echo x > /srv/new'"),
    );
    assert!(seen.contains("on top"), "{seen}");

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("theirs"), "by podman").unwrap();
    fs::write(test.path().join("theirs.tar"), gnu_tar(dir.path(), &[])).unwrap();
    peer_ok(
        &test,
        &format!("{podman} import -q $D/theirs.tar localhost/theirs:1"),
    );
    let theirs = store.image_by_name("localhost/theirs:1").unwrap();
    assert!(!theirs.read_only);
    let made = store
        .create_container(new_container("c", Some(&theirs.id)))
        .unwrap();
    let root = store.mount(&made.id).unwrap();
    assert_eq!(
        fs::read_to_string(root.join("theirs")).unwrap(),
        "by podman"
    );
    store.unmount(&made.id).unwrap();
    store.delete_container(&made.id).unwrap();
    assert_eq!(store.check(&everything()).unwrap(), []);

    // A layer on top of theirs, and what podman says of it all.
    let mut tars = vec![gnu_tar(dir.path(), &[])];
    tars.push(Archive::default().file("more", "ours").end());
    put_image(&store, &tars, &["localhost/mixed:1"]);
    let check = peer_ok(&test, &format!("{podman} system check 2>&1; echo code $?"));
    assert_eq!(check.trim(), "code 0", "a full check finds nothing");
    peer_ok(
        &test,
        &format!("{podman} rmi localhost/ours:1 localhost/theirs:1"),
    );
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.check(&everything()).unwrap(), []);
}
