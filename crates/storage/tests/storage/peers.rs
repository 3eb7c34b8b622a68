//! podman and skopeo of a Debian 13 tree on the same store as we: what we put there they use,
//! check and copy; what they put there we list and mount; and all at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crioxide_storage::{CheckOptions, Digest, Driver, ImageId, NewContainer};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, gnu_tar, run};

/// The tree's place, or `None` with a word why these tests can't run.
pub(crate) fn tree() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = std::env::var_os("CRIOXIDE_DEBIAN13")
        .map_or_else(|| root.join(".build/debian13"), PathBuf::from);
    if tree.join("usr/bin/podman").is_file() {
        return Some(tree);
    }
    eprintln!("skipped: no Debian 13 tree (scripts/in-debian13 -- true makes one)");
    None
}

/// Runs a shell command in the tree, with the store's directory in `$D`.
fn peer(store: &TestStore, command: &str) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/in-debian13");
    let dir = store.path().to_str().unwrap();
    let driver = store.store.driver();
    let options = match driver {
        Driver::Overlay => ":mountopt=nodev",
        Driver::Vfs => "",
    };
    let driver = driver.name();
    let prelude = format!(
        "D={dir}; S=\"[{driver}@$D/root+$D/run{options}]\"; mkdir -p $D/tmp; export TMPDIR=$D/tmp PODMAN_IGNORE_CGROUPSV1_WARNING=1; \
         mkdir -p /etc/containers; echo '{{\"default\":[{{\"type\":\"insecureAcceptAnything\"}}]}}' > $D/policy.json; \
         podman() {{ command podman --root $D/root --runroot $D/run --storage-driver {driver} \
           --cgroup-manager cgroupfs --events-backend none --tmpdir $D/run/libpod \"$@\"; }}; \
         skopeo() {{ command skopeo --policy $D/policy.json \"$@\"; }}; {command}"
    );
    let script = script.to_str().unwrap();
    run(
        script,
        &["--no-make", "--bind", dir, "--", "bash", "-uc", &prelude],
    )
}

#[track_caller]
pub(crate) fn peer_ok(store: &TestStore, command: &str) -> String {
    let (fine, output) = peer(store, command);
    assert!(fine, "{command}: {output}");
    output
}

/// Layers of a small system with busybox: base, changes, and removals.
pub(crate) fn system(tree: &Path) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "usr/bin/busybox",
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/libresolv.so.2",
    ] {
        let to = dir.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(tree.join(path), to).unwrap();
    }
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), dir.path().join(link)).unwrap();
    }
    for link in ["sh", "cat", "ls", "true", "sleep"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("usr/bin").join(link)).unwrap();
    }
    fs::create_dir_all(dir.path().join("etc/gone")).unwrap();
    fs::write(dir.path().join("etc/gone/file"), "lower").unwrap();
    fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(dir.path().join("etc/removed"), "lower").unwrap();
    let bottom = gnu_tar(dir.path(), &["--format=posix"]);
    let middle = Archive::default()
        .dir("etc/")
        .file("etc/middle", "in the middle\n")
        .file("etc/.wh.removed", "")
        .dir("etc/gone/")
        .file("etc/gone/.wh..wh..opq", "")
        .file("etc/gone/new", "upper")
        .hard_link("etc/middle2", "etc/middle")
        .end();
    let top = Archive::default()
        .dir("srv/")
        .file("srv/top", "on top\n")
        .end();
    vec![bottom, middle, top]
}

#[test]
fn peers_use_check_and_copy_what_we_unpacked() {
    for driver in [Driver::Overlay, Driver::Vfs] {
        use_check_and_copy(&TestStore::of(driver));
    }
}

fn use_check_and_copy(store: &TestStore) {
    let Some(tree) = tree() else { return };
    let layers = system(&tree);
    let id = store.image(&layers, &["localhost/ours:1", "localhost/also:1"]);
    let images = peer_ok(
        store,
        "podman images --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'",
    );
    assert!(
        images.contains(&format!("sha256:{id} localhost/ours:1")),
        "{images}"
    );
    assert!(images.contains("localhost/also:1"), "{images}");

    let command = "podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined \
         localhost/ours:1 /bin/sh -c 'cat /srv/top /etc/middle2; ls /etc /etc/gone; echo > /etc/new'";
    let seen = peer_ok(store, command);
    assert!(seen.contains("on top\nin the middle\n"), "{seen}");
    assert!(
        seen.contains("new") && !seen.contains("removed") && !seen.contains("file"),
        "{seen}"
    );

    let check = peer_ok(store, "podman system check 2>&1; echo code $?");
    assert_eq!(check.trim(), "code 0", "a full check finds nothing");

    // The layers come out bit by bit, so they have the digests that they had.
    peer_ok(
        store,
        "skopeo copy --dest-decompress containers-storage:${S}localhost/ours:1 dir:$D/out",
    );
    for layer in &layers {
        let copied = store.path().join("out").join(Digest::of(layer).hex());
        assert!(
            fs::read(copied).unwrap() == *layer,
            "the layer came out as it went in"
        );
    }
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
}

#[test]
fn we_list_and_mount_what_peers_put_there() {
    for driver in [Driver::Overlay, Driver::Vfs] {
        list_and_mount(&TestStore::of(driver), &TestStore::of(driver));
    }
}

fn list_and_mount(theirs: &TestStore, ours: &TestStore) {
    let Some(tree) = tree() else { return };
    let layers = system(&tree);
    let id = ours.image(&layers, &["localhost/source:1"]);
    peer_ok(
        ours,
        "skopeo copy containers-storage:${S}localhost/source:1 dir:$D/image",
    );
    sys::durable::rename_volatile(&ours.path().join("image"), &theirs.path().join("image"))
        .unwrap();
    assert!(theirs.store.images().unwrap().is_empty());
    peer_ok(
        theirs,
        "skopeo copy dir:$D/image containers-storage:${S}localhost/theirs:2",
    );

    // Their writer record is noticed without opening the store again.
    let image = theirs.store.image_by_name("localhost/theirs:2").unwrap();
    let mine = ours.store.image(&id).unwrap();
    assert_eq!(
        (&image.id, &image.top_layer),
        (&id, &mine.top_layer),
        "IDs are derived alike"
    );
    assert_eq!(
        theirs.store.image_size(&id).unwrap() / 1024,
        ours.store.image_size(&id).unwrap() / 1024
    );
    let manifest = theirs.store.big_data(&id, "manifest").unwrap();
    assert_eq!(Some(Digest::of(&manifest)), image.digest);
    let mut parent = None;
    for layer in &layers {
        let found = theirs
            .store
            .layer_for(&Digest::of(layer), parent.as_ref())
            .unwrap();
        let found = found.expect("a layer of theirs is one we need not fetch");
        assert_eq!(theirs.store.check_layer(&found).unwrap(), None);
        parent = Some(found);
    }
    let container = theirs
        .store
        .create_container(new_container("c1", Some(&id)))
        .unwrap();
    let root = theirs.store.mount(&container.id).unwrap();
    assert_eq!(
        fs::read_to_string(root.join("etc/middle2")).unwrap(),
        "in the middle\n"
    );
    assert!(!root.join("etc/removed").try_exists().unwrap());
    theirs.store.delete_container(&container.id).unwrap();

    // They remove it, and we see that too.
    peer_ok(theirs, "podman rmi localhost/theirs:2");
    assert!(theirs.store.images().unwrap().is_empty());
    assert_eq!(
        theirs
            .store
            .layer_for(&Digest::of(&layers[0]), None)
            .unwrap(),
        None
    );
}

#[test]
fn peers_see_our_containers_and_leave_their_image() {
    let Some(tree) = tree() else { return };
    let store = TestStore::new();
    let id = store.image(&system(&tree), &["localhost/ours:1"]);
    let container = store
        .store
        .create_container(new_container("0123abcd", Some(&id)))
        .unwrap();
    store
        .store
        .create_container(new_container("feedbeef", None))
        .unwrap();
    let root = store.store.mount(&container.id).unwrap();
    fs::write(root.join("written"), "kept").unwrap();
    let listed = peer_ok(&store, "podman ps -a --external --no-trunc");
    assert!(
        listed.contains("0123abcd") && listed.contains("feedbeef"),
        "{listed}"
    );
    let (removed, output) = peer(&store, "podman rmi localhost/ours:1");
    assert!(!removed && output.contains("0123abcd"), "{output}");
    let check = peer_ok(&store, "podman system check 2>&1; echo code $?");
    assert_eq!(check.trim(), "code 0");
    assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "kept");
    // Its mount namespace is another here, where ours can't be unmounted from.
    store.store.unmount(&container.id).unwrap();
    peer_ok(&store, "podman rm -f 0123abcd");
    let left = store.store.containers().unwrap();
    assert_eq!(
        left.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
        ["feedbeef"]
    );
    store.store.delete_container(&container.id).unwrap();
    store.store.delete_container(&left[0].id).unwrap();
    store.store.remove_image(&id).unwrap();
    let check = peer_ok(
        &store,
        "podman system check 2>&1; podman images -q; echo code $?",
    );
    assert_eq!(check.trim(), "code 0");
}

#[test]
fn concurrent_writers_leave_a_whole_store() {
    let Some(tree) = tree() else { return };
    let store = TestStore::new();
    let layers = system(&tree);
    let source = TestStore::new();
    source.image(&layers, &["localhost/source:1"]);
    peer_ok(
        &source,
        "skopeo copy containers-storage:${S}localhost/source:1 dir:$D/image",
    );
    sys::durable::rename_volatile(&source.path().join("image"), &store.path().join("image"))
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let skopeo = scope.spawn(|| {
            let rounds = "for n in 1 2 3 4 5 6; do \
                skopeo copy -q dir:$D/image containers-storage:${S}localhost/theirs:$n || exit 1; \
                podman rmi -f localhost/theirs:$n >/dev/null || exit 1; done";
            let result = peer(&store, rounds);
            done.store(true, Ordering::Relaxed);
            result
        });
        let ours = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !done.load(Ordering::Relaxed) || rounds < 6 {
                let own = Archive::default().file("n", &rounds.to_string()).end();
                let id = store.image(&[base(), own], &["localhost/ours:1"]);
                let name = format!("c{rounds}");
                let container = store
                    .store
                    .create_container(new_container(&name, Some(&id)));
                let container = container.unwrap();
                let root = store.store.mount(&container.id).unwrap();
                assert_eq!(
                    fs::read_to_string(root.join("n")).unwrap(),
                    rounds.to_string()
                );
                store.store.delete_container(&container.id).unwrap();
                if rounds.is_multiple_of(2) {
                    store.store.remove_image(&id).unwrap();
                }
                rounds += 1;
            }
            rounds
        });
        let rounds = ours.join().unwrap();
        let (fine, output) = skopeo.join().unwrap();
        assert!(fine, "{output}");
        eprintln!("{rounds} rounds of ours beside 6 of theirs");
    });
    let check = peer_ok(&store, "podman system check 2>&1; echo code $?");
    assert_eq!(check.trim(), "code 0");
    assert_eq!(store.store.check(&CheckOptions::default()).unwrap(), []);
    assert!(store.staging_is_empty());
}

pub(crate) fn new_container(id: &str, image: Option<&ImageId>) -> NewContainer {
    NewContainer {
        id: id.parse().unwrap(),
        names: vec![format!("k8s_{id}_pod_ns_uid_0")],
        image: image.cloned(),
        metadata: r#"{"pod-name":"pod","pod-id":"p1"}"#.into(),
        mount_label: String::new(),
        process_label: String::new(),
        id_map: None,
    }
}
