//! A store of its own for each test, cleaned up even where the test fails.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crioxide_storage::{
    Compression, Digest, Driver, Error, Image, ImageId, LayerId, NewImage, NewLayer, Options,
    StagedLayer, Store, UnpackLimits,
};
use tempfile::TempDir;

/// A private store.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("crioxide-store-")
            .tempdir()
            .unwrap();
        Self {
            store: Store::open(options(dir.path())).unwrap(),
            dir,
        }
    }

    /// One whose layers are kept in another way.
    pub(crate) fn of(driver: Driver) -> Self {
        Self::of_in(driver, &std::env::temp_dir())
    }

    /// The same in a directory below `parent`.
    pub(crate) fn of_in(driver: Driver, parent: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("crioxide-store-")
            .tempdir_in(parent)
            .unwrap();
        Self {
            store: Store::open(options_of(driver, dir.path())).unwrap(),
            dir,
        }
    }

    /// A store in the directory `dir`, which does not exist yet.
    pub(crate) fn at(dir: &Path) -> Self {
        let name = dir.file_name().unwrap().to_str().unwrap();
        let parent = dir.parent().unwrap();
        let dir = tempfile::Builder::new()
            .prefix(name)
            .rand_bytes(6)
            .tempdir_in(parent)
            .unwrap();
        Self {
            store: Store::open(options(dir.path())).unwrap(),
            dir,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the same store again, as another process would.
    pub(crate) fn reopen(&self) -> Store {
        Store::open(options_of(self.store.driver(), self.path())).unwrap()
    }

    pub(crate) fn unpack(&self, tar: &[u8]) -> Result<StagedLayer, Error> {
        self.store.unpack(tar, UnpackLimits::default())
    }

    /// Unpacks and commits `tar`; checks that the very archive can be made again.
    pub(crate) fn layer(&self, tar: &[u8], parent: Option<&LayerId>) -> LayerId {
        let staged = self.unpack(tar).unwrap();
        assert_eq!(staged.diff_id(), &Digest::of(tar));
        assert_eq!(staged.size(), tar.len() as u64);
        let id = self
            .store
            .commit_layer(staged, new_layer(tar, parent))
            .unwrap();
        let mut again = Vec::new();
        self.store.write_layer(&id, &mut again).unwrap();
        assert!(again == tar, "the archive made again differs");
        assert_eq!(self.store.check_layer(&id).unwrap(), None);
        id
    }

    /// The directory of a layer's files.
    pub(crate) fn diff(&self, layer: &LayerId) -> PathBuf {
        match self.store.driver() {
            Driver::Overlay => self
                .path()
                .join("root/overlay")
                .join(layer.as_str())
                .join("diff"),
            Driver::Vfs => self.path().join("root/vfs/dir").join(layer.as_str()),
        }
    }

    /// An image of those layers, bottom first, under those names.
    pub(crate) fn image(&self, tars: &[Vec<u8>], names: &[&str]) -> ImageId {
        put_image(&self.store, tars, names).id.clone()
    }

    pub(crate) fn staging_is_empty(&self) -> bool {
        let home = self.path().join("root").join(self.store.driver().name());
        fs::read_dir(home.join("staging")).unwrap().next().is_none()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        // Peers leave `overlay` mounted onto itself, a failed test its containers' roots.
        for mount in sys::mount::beneath(self.dir.path()).unwrap() {
            sys::mount::unmount_lazily(&mount).unwrap();
        }
    }
}

pub(crate) fn options(dir: &Path) -> Options {
    Options {
        mount_options: vec!["nodev".into(), "metacopy=on".into()],
        lock_timeout: Duration::from_secs(60),
        ..Options::new(dir.join("root"), dir.join("run"))
    }
}

pub(crate) fn options_of(driver: Driver, dir: &Path) -> Options {
    Options {
        driver,
        ..options(dir)
    }
}

pub(crate) fn new_layer(tar: &[u8], parent: Option<&LayerId>) -> NewLayer {
    NewLayer {
        parent: parent.cloned(),
        diff_id: Digest::of(tar),
        compressed_digest: Some(Digest::of(tar)),
        compressed_size: Some(tar.len() as u64),
        compression: Compression::None,
    }
}

/// An image of those layers with an OCI manifest and configuration.
pub(crate) fn put_image(store: &Store, tars: &[Vec<u8>], names: &[&str]) -> std::sync::Arc<Image> {
    let mut top: Option<LayerId> = None;
    for tar in tars {
        let staged = store
            .unpack(tar.as_slice(), UnpackLimits::default())
            .unwrap();
        top = Some(
            store
                .commit_layer(staged, new_layer(tar, top.as_ref()))
                .unwrap(),
        );
    }
    let (manifest, config) = manifest_and_config(tars);
    let (manifest_digest, config_digest) = (Digest::of(&manifest), Digest::of(&config));
    store
        .put_image(NewImage {
            id: config_digest.hex().parse().unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: Some(manifest_digest.clone()),
            top_layer: top,
            created: Some(1_700_000_000_123_000_000),
            big_data: vec![
                (format!("manifest-{manifest_digest}"), manifest.clone()),
                ("manifest".into(), manifest),
                (config_digest.to_string(), config),
            ],
            metadata: "{}".into(),
        })
        .unwrap()
}

pub(crate) fn manifest_and_config(tars: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let quoted = |tar: &Vec<u8>| format!("\"{}\"", Digest::of(tar));
    let ids: Vec<String> = tars.iter().map(quoted).collect();
    let config = format!(
        r#"{{"created":"2023-11-14T22:13:20.123Z","architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let layer = |tar: &Vec<u8>| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}"#,
            Digest::of(tar),
            tar.len()
        )
    };
    let layers: Vec<String> = tars.iter().map(layer).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        layers.join(",")
    );
    (manifest.into_bytes(), config.into_bytes())
}

/// Runs a program to its end; its output, whatever it returned.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> (bool, String) {
    #[allow(clippy::disallowed_methods, reason = "a test's own children")]
    let output = Command::new(program).args(arguments).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Runs the calling test, of that whole name, again in namespaces of its own, one of mounts and what `unshare(1)` is
/// asked for besides: whatever ends that process, no mount of it is left. True in that process.
pub(crate) fn is_apart(name: &str, namespaces: &[&str]) -> bool {
    const APART: &str = "CRIOXIDE_TEST_APART";
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let (this, apart) = (std::env::current_exe().unwrap(), format!("{APART}=1"));
    let test = [this.to_str().unwrap(), "--exact", name, "--nocapture"];
    let mounts = ["--mount", "--propagation=private"];
    let arguments = [namespaces, &mounts, &["env", &apart], &test].concat();
    let (fine, output) = run("unshare", &arguments);
    eprintln!("{output}");
    assert!(fine, "see above");
    false
}

/// An archive that GNU tar makes of `.` in `dir`.
pub(crate) fn gnu_tar(dir: &Path, options: &[&str]) -> Vec<u8> {
    let mut tar = tempfile::NamedTempFile::new().unwrap();
    let path = tar.path().to_str().unwrap().to_owned();
    let dir = dir.to_str().unwrap();
    let mut arguments = vec!["-C", dir, "-cf", &path, "--sort=name", "--numeric-owner"];
    arguments.extend(options);
    arguments.push(".");
    let (fine, output) = run("tar", &arguments);
    assert!(fine, "{output}");
    let mut bytes = Vec::new();
    tar.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What GNU tar makes of an archive, in a directory of its own.
pub(crate) fn gnu_untar(tar: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), tar).unwrap();
    let arguments = [
        "--numeric-owner",
        "--same-owner",
        "-p",
        "--xattrs",
        "--xattrs-include=*",
        "-C",
        dir.path().to_str().unwrap(),
        "-xf",
        file.path().to_str().unwrap(),
    ];
    let (fine, output) = run("tar", &arguments);
    assert!(fine, "{output}");
    dir
}
