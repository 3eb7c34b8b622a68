//! Additional layer stores: of plain directories, which is all that is needed to offer layers, and one that
//! never answers.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_storage::{
    CheckOptions, Depth, Digest, Error, ImageId, LayerId, LayerStore, NewImage, Options, Store,
    image_id,
};

use crate::archive::{Archive, base};
use crate::harness::{TestStore, is_apart, manifest_and_config, new_layer, options};
use crate::peers::{new_container, peer_ok, system, tree};

const REFERENCE: &str = "registry.example/lazy:1";

/// A store in which each layer is one file, `lazy`; its table of contents is what the file holds.
struct Offers(PathBuf);

impl Offers {
    fn beside(own: &TestStore) -> Self {
        let dir = own.path().join("offers");
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn offer(&self, below: &str, text: &str) -> (PathBuf, Digest) {
        let toc = Digest::of(text.as_bytes());
        let dir = self.0.join(below).join(toc.as_str());
        fs::create_dir_all(dir.join("diff")).unwrap();
        fs::write(dir.join("diff/lazy"), text).unwrap();
        fs::write(dir.join("blob"), "").unwrap();
        let info = format!(r#"{{"toc-digest":"{toc}","diff-size":-1,"compression":2}}"#);
        fs::write(dir.join("info"), info).unwrap();
        (dir, toc)
    }

    fn options(&self, dir: &Path, by_reference: bool) -> Options {
        let path = self.0.clone();
        Options {
            layer_stores: vec![LayerStore { path, by_reference }],
            ..options(dir)
        }
    }
}

/// An image of those layers, whose configuration's digest is of nothing.
fn image(store: &Store, top: &LayerId, config: &Digest) -> ImageId {
    let tocs = store.layer_tocs(Some(top)).unwrap();
    let image = NewImage {
        id: image_id(config, &tocs).unwrap(),
        names: vec![REFERENCE.to_owned()],
        digest: None,
        top_layer: Some(top.clone()),
        created: None,
        big_data: Vec::new(),
        metadata: "{}".to_owned(),
    };
    store.put_image(image).unwrap().id.clone()
}

fn commit(store: &Store, tar: &[u8], parent: Option<&LayerId>) -> LayerId {
    let staged = store.unpack(tar, Default::default()).unwrap();
    store.commit_layer(staged, new_layer(tar, parent)).unwrap()
}

#[test]
fn an_offered_layer_is_used_where_it_is_and_goes_with_its_image() {
    let own = TestStore::new();
    let offers = Offers::beside(&own);
    let below = STANDARD.encode(REFERENCE);
    let (dir, toc) = offers.offer(&below, "lazily");
    let store = Store::open(offers.options(own.path(), true)).unwrap();
    let before = fs::read_dir(&dir).unwrap().count();
    assert!(store.offered_layer(&toc, "another/image:1").is_none());
    assert!(store.offered_layer(&Digest::of(b""), REFERENCE).is_none());

    // Between two layers that were unpacked.
    let diff_id = Digest::of(b"the archive that nobody has read");
    let bottom = commit(&store, &base(), None);
    let offered = store.offered_layer(&toc, REFERENCE).unwrap();
    let middle = store
        .commit_offered(offered, &diff_id, Some(&bottom))
        .unwrap();
    let again = store.offered_layer(&toc, REFERENCE).unwrap();
    assert_eq!(
        store
            .commit_offered(again, &diff_id, Some(&bottom))
            .unwrap(),
        middle
    );
    let expected = Digest::of(format!("{bottom}+@TOC={}", toc.hex()).as_bytes());
    assert_eq!(middle.as_str(), expected.hex());
    let top = commit(
        &store,
        &Archive::default().file("top", "top").end(),
        Some(&middle),
    );
    assert_eq!(
        fs::read_dir(&dir).unwrap().count(),
        before,
        "nothing is left there"
    );

    // It stands for nothing but itself.
    assert_eq!(store.layer_for(&diff_id, Some(&bottom)).unwrap(), None);
    let found = |toc: &Digest, diff_id: &Digest| store.layer_for_toc(toc, diff_id, Some(&bottom));
    assert_eq!(found(&toc, &diff_id).unwrap(), Some(middle.clone()));
    assert_eq!(found(&toc, &Digest::of(b"")).unwrap(), None);
    assert_eq!(found(&Digest::of(b""), &diff_id).unwrap(), None);
    let tocs = store.layer_tocs(Some(&top)).unwrap();
    assert_eq!(tocs, [None, Some(toc.clone()), None]);
    let config = Digest::of(b"configuration");
    let id = image(&store, &top, &config);
    let text = format!("@With TOC:{}||{toc}||", config.hex());
    assert_eq!(id.as_str(), Digest::of(text.as_bytes()).hex());

    let made = store
        .create_container(new_container("lazy", Some(&id)))
        .unwrap();
    let root = store.mount(&made.id).unwrap();
    assert_eq!(fs::read_to_string(root.join("lazy")).unwrap(), "lazily");
    assert_eq!(fs::read_to_string(root.join("top")).unwrap(), "top");
    fs::write(root.join("lazy"), "changed").unwrap();
    store.unmount(&made.id).unwrap();
    store.delete_container(&made.id).unwrap();
    let target = tempfile::tempdir().unwrap();
    store
        .mount_image(&id, target.path(), Default::default())
        .unwrap();
    let seen = fs::read_to_string(target.path().join("lazy"));
    sys::mount::unmount_lazily(target.path()).unwrap();
    assert_eq!(seen.unwrap(), "lazily", "what a container wrote is its own");
    let everything = CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    };
    assert_eq!(store.check(&everything).unwrap(), []);

    // An emptied directory can be removed, and is: that is how the store is told.
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        fs::remove_dir_all(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
    }
    let error = store
        .create_container(new_container("gone", Some(&id)))
        .map(drop);
    let error = error.and_then(|()| {
        let made = store.containers().unwrap();
        store.mount(&made[0].id).map(drop)
    });
    assert!(matches!(error, Err(Error::Io { .. })), "{error:?}");
    for made in store.containers().unwrap().iter() {
        store.delete_container(&made.id).unwrap();
    }
    store.remove_image(&id).unwrap();
    assert!(!dir.try_exists().unwrap(), "the store is not told");
    assert!(own.staging_is_empty());
    assert!(!own.diff(&middle).parent().unwrap().try_exists().unwrap());
}

/// Done to an offered directory, with one outside of the store.
type Damage = fn(&Path, &Path);

#[test]
fn a_hostile_store_offers_nothing() {
    let own = TestStore::new();
    let offers = Offers::beside(&own);
    let store = Store::open(offers.options(own.path(), false)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("use"), "kept").unwrap();
    let damages: [(&str, Damage); 7] = [
        ("a link to files outside", |dir, outside| {
            fs::remove_dir_all(dir.join("diff")).unwrap();
            std::os::unix::fs::symlink(outside, dir.join("diff")).unwrap();
        }),
        ("no blob", |dir, _| {
            fs::remove_file(dir.join("blob")).unwrap()
        }),
        ("info that is a pipe", |dir, _| {
            fs::remove_file(dir.join("info")).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                dir.join("info"),
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .unwrap();
        }),
        ("info of another layer", |dir, _| {
            let info = format!(r#"{{"toc-digest":"{}"}}"#, Digest::of(b"x"));
            fs::write(dir.join("info"), info).unwrap();
        }),
        ("info without end", |dir, _| {
            fs::File::create(dir.join("info"))
                .unwrap()
                .set_len(1 << 40)
                .unwrap();
        }),
        ("info that is no JSON", |dir, _| {
            fs::write(dir.join("info"), "{").unwrap()
        }),
        ("a directory that is a link", |dir, outside| {
            sys::durable::rename_volatile(dir, &outside.join("moved")).unwrap();
            std::os::unix::fs::symlink(outside.join("moved"), dir).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (dir, toc) = offers.offer("", what);
        drop(store.offered_layer(&toc, REFERENCE).expect(what));
        damage(&dir, outside.path());
        assert!(store.offered_layer(&toc, REFERENCE).is_none(), "{what}");
    }
    // A file of the name that tells of a user is neither followed nor touched.
    let (dir, toc) = offers.offer("", "a link for a file");
    std::os::unix::fs::symlink(outside.path().join("use"), dir.join("use")).unwrap();
    drop(store.offered_layer(&toc, REFERENCE).unwrap());
    assert_eq!(
        fs::read_to_string(outside.path().join("use")).unwrap(),
        "kept"
    );
    assert!(dir.join("use").is_symlink());
}

#[test]
fn a_store_that_never_answers_holds_nobody_up_for_ever() {
    // Whoever looked at its mount would hang, too.
    let name = "layer_stores::a_store_that_never_answers_holds_nobody_up_for_ever";
    if !is_apart(name, &[]) {
        return;
    }
    let own = TestStore::new();
    let offers = Offers::beside(&own);
    let (dir, toc) = offers.offer("", "lazily");
    let store = Store::open(offers.options(own.path(), false)).unwrap();
    let offered = store.offered_layer(&toc, REFERENCE).unwrap();
    let layer = store
        .commit_offered(offered, &Digest::of(b"x"), None)
        .unwrap();
    let id = image(&store, &layer, &Digest::of(b"configuration"));
    // A file system whose program reads no question.
    let fuse = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        fuse.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).unwrap();
    let at = offers.0.as_path();
    rustix::mount::mount(
        "none",
        at,
        "fuse",
        rustix::mount::MountFlags::empty(),
        &*data,
    )
    .unwrap();
    let began = Instant::now();
    assert!(store.offered_layer(&toc, REFERENCE).is_none());
    assert!(began.elapsed() >= Duration::from_secs(30));
    // Nobody asks again at once.
    let began = Instant::now();
    assert!(store.offered_layer(&toc, REFERENCE).is_none());
    assert!(began.elapsed() < Duration::from_secs(5));
    // The container's layer takes its root's owner from there.
    let began = Instant::now();
    let made = store.create_container(new_container("lazy", Some(&id)));
    let mounted = made.and_then(|made| store.mount(&made.id));
    assert!(matches!(mounted, Err(Error::Io { .. })), "{mounted:?}");
    assert!(began.elapsed() < Duration::from_secs(90));
    for made in store.containers().unwrap().iter() {
        store.delete_container(&made.id).unwrap();
    }
    let began = Instant::now();
    store.remove_image(&id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    // Who waits is let go.
    drop(fuse);
    sys::mount::unmount_lazily(at).unwrap();
    assert!(dir.join("diff/lazy").try_exists().unwrap());
}

#[test]
fn podman_uses_an_image_with_an_offered_layer() {
    let Some(tree) = tree() else { return };
    let own = TestStore::new();
    let offers = Offers::beside(&own);
    let (dir, toc) = offers.offer("", "lazily");
    let store = Store::open(offers.options(own.path(), false)).unwrap();
    let mut tars = system(&tree);
    let mut top = None;
    for tar in &tars {
        top = Some(commit(&store, tar, top.as_ref()));
    }
    let archive = Archive::default().file("lazy", "lazily").end();
    let offered = store.offered_layer(&toc, REFERENCE).unwrap();
    let diff_id = Digest::of(&archive);
    let top = store
        .commit_offered(offered, &diff_id, top.as_ref())
        .unwrap();
    tars.push(archive);
    let (manifest, config) = manifest_and_config(&tars);
    let (manifest_digest, config_digest) = (Digest::of(&manifest), Digest::of(&config));
    let tocs = store.layer_tocs(Some(&top)).unwrap();
    let id = image_id(&config_digest, &tocs).unwrap();
    let image = NewImage {
        id: id.clone(),
        names: vec!["localhost/lazy:1".to_owned()],
        digest: Some(manifest_digest.clone()),
        top_layer: Some(top.clone()),
        created: None,
        big_data: vec![
            (format!("manifest-{manifest_digest}"), manifest.clone()),
            ("manifest".into(), manifest),
            (config_digest.to_string(), config),
        ],
        metadata: "{}".to_owned(),
    };
    store.put_image(image).unwrap();
    let seen = peer_ok(
        &own,
        "podman images --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'; \
         podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined \
           localhost/lazy:1 /bin/sh -c 'cat /lazy /srv/top; echo > /lazy'",
    );
    assert!(
        seen.contains(&format!("sha256:{id} localhost/lazy:1")),
        "{seen}"
    );
    assert!(seen.contains("lazilyon top"), "{seen}");
    let check = peer_ok(&own, "podman system check 2>&1; echo code $?");
    assert_eq!(check.trim(), "code 0");
    assert_eq!(fs::read_to_string(dir.join("diff/lazy")).unwrap(), "lazily");
    peer_ok(&own, "podman rmi localhost/lazy:1");
    assert!(store.images().unwrap().is_empty());
    assert!(!own.diff(&top).parent().unwrap().try_exists().unwrap());
    assert!(dir.join("diff/lazy").try_exists().unwrap());
}
