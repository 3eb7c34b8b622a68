//! Images in files of the node.

use std::fs;
use std::path::{Path, PathBuf};

use crioxide_image::{Error, LoadRequest, Loaded};
use serde_json::{Value, json};

use crate::image_maker::{Compression, Entry, ImageMaker, MadeImage, archive, compress};
use crate::support::Node;

fn made() -> MadeImage {
    ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .layer(&[Entry::file("b", 0o644, vec![b'b'; 300_000])])
        .build()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// An OCI layout with these images, each under its name.
fn layout(node: &Node, images: &[(&str, &MadeImage)]) -> PathBuf {
    let dir = node.path("layout");
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let blob =
        |digest: &str, bytes: &[u8]| write(&dir.join("blobs/sha256").join(hex(digest)), bytes);
    let mut entries = Vec::new();
    for (name, image) in images {
        for part in image.layers().iter().chain([image.config()]) {
            blob(part.digest(), part.bytes());
        }
        blob(&image.digest(), image.manifest());
        entries.push(
            json!({"mediaType": image.media_type(), "digest": image.digest(),
            "size": image.manifest().len(),
            "annotations": {"org.opencontainers.image.ref.name": name}}),
        );
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    write(&dir.join("index.json"), index.to_string());
    dir
}

/// What `skopeo copy … dir:PATH` writes.
pub(crate) fn directory(path: &Path, image: &MadeImage) {
    write(&path.join("version"), "Directory Transport Version: 1.1\n");
    write(&path.join("manifest.json"), image.manifest());
    for part in image.layers().iter().chain([image.config()]) {
        write(&path.join(hex(part.digest())), part.bytes());
    }
}

/// The entries of what `docker save` writes, with the second layer by a link to it.
fn saved(image: &MadeImage, list: Option<Value>) -> Vec<Entry> {
    let [one, two] = image.layers() else { panic!() };
    let list = list.unwrap_or_else(|| {
        json!([{"Config": "config.json", "RepoTags": ["busybox:1", "a.io/b:2"],
            "Layers": ["one/layer.tar", "two/layer.tar"]}])
    });
    vec![
        Entry::file("config.json", 0o644, image.config().bytes()),
        Entry::file("one/layer.tar", 0o644, one.bytes()),
        Entry::file("blobs/two", 0o644, two.bytes()),
        Entry::symlink("two/layer.tar", "../blobs/two"),
        Entry::symlink("up/layer.tar", "../../etc/passwd"),
        Entry::file("manifest.json", 0o644, list.to_string()),
    ]
}

pub(crate) async fn load(node: &Node, location: &str, names: &[&str]) -> Result<Loaded, Error> {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    let location = location.parse().unwrap();
    node.images.load(LoadRequest { location, names }).await
}

#[tokio::test]
async fn every_layout_of_an_image_is_loaded() {
    let image = made();
    let node = Node::new("");
    let dir = layout(&node, &[("a.io/oci:1", &image)]);
    directory(&node.path("skopeo"), &image);
    write(&node.path("saved.tar"), archive(&saved(&image, None)));
    let packed = compress(&archive(&saved(&image, None)), Compression::Gzip);
    write(&node.path("saved.tar.gz"), packed);
    let mut entries = Vec::new();
    for file in ["oci-layout", "index.json"] {
        entries.push(Entry::file(file, 0o644, fs::read(dir.join(file)).unwrap()));
    }
    for blob in fs::read_dir(dir.join("blobs/sha256")).unwrap().flatten() {
        let name = format!("blobs/sha256/{}", blob.file_name().display());
        entries.push(Entry::file(&name, 0o644, fs::read(blob.path()).unwrap()));
    }
    write(&node.path("oci.tar"), archive(&entries));

    let here = node.path("").display().to_string();
    for (location, given, names) in [
        ("oci:{}layout", &[][..], &["a.io/oci:1"][..]),
        (
            "oci-archive:{}oci.tar:a.io/oci:1",
            &["a.io/c:2", "a.io/d:3"],
            &["a.io/c:2", "a.io/d:3"],
        ),
        ("dir:{}skopeo", &["a.io/dir:1"], &["a.io/dir:1"]),
        (
            "docker-archive:{}saved.tar",
            &[],
            &["docker.io/library/busybox:1", "a.io/b:2"],
        ),
        (
            "docker-archive:{}saved.tar.gz:busybox:1",
            &["a.io/gz:1"],
            &["a.io/gz:1"],
        ),
        (
            "docker-archive:{}saved.tar:@0",
            &["a.io/at:1"],
            &["a.io/at:1"],
        ),
    ] {
        let loaded = load(&node, &location.replace("{}", &here), given)
            .await
            .unwrap();
        assert_eq!(loaded.id.as_str(), image.id(), "{location}");
        assert_eq!(loaded.names, names, "{location}");
    }
    // One image, by all its names, and with the layers of the first.
    let listed = node.images.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags.len(), 8, "{:?}", listed[0].repo_tags);
    let damaged = node.store.check(&storage::CheckOptions::default());
    assert!(damaged.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

#[tokio::test]
async fn what_is_missing_ambiguous_or_hostile_is_refused() {
    let (one, two) = (
        made(),
        ImageMaker::new()
            .layer(&[Entry::file("c", 0o644, "c")])
            .build(),
    );
    let node = Node::new("");
    let dir = layout(&node, &[("a.io/one:1", &one), ("short", &two)]);
    let secret = node.path("secret");
    write(&secret, "of the node");
    let lists = [
        ("climbing", json!([{"Config": "../secret", "Layers": []}])),
        (
            "linked",
            json!([{"Config": "config.json", "Layers": ["one/layer.tar", "up/layer.tar"]}]),
        ),
        (
            "missing",
            json!([{"Config": "config.json", "Layers": ["three/layer.tar"]}]),
        ),
        (
            "fewer",
            json!([{"Config": "config.json", "RepoTags": ["a.io/x:1"], "Layers": ["one/layer.tar"]}]),
        ),
    ];
    for (name, list) in lists {
        write(&node.path(name), archive(&saved(&one, Some(list))));
    }
    // A blob that is another file, one that is not its digest's, one that never ends.
    let blob = |image: &MadeImage, at: usize| {
        dir.join("blobs/sha256")
            .join(hex(image.layers()[at].digest()))
    };
    let here = node.path("").display().to_string();
    let cases: [(&str, &str, &[&str], &str); 9] = [
        ("", "oci:{}layout", &[], "several images in it"),
        ("", "oci:{}layout:a.io/three:1", &[], "no image"),
        ("", "oci:{}layout:short", &[], "no name"),
        ("", "oci:{}nowhere", &[], "No such file"),
        ("", "oci-archive:{}layout", &[], "not a regular file"),
        ("", "docker-archive:{}climbing", &["a.io/x:1"], "leads out"),
        (
            "",
            "docker-archive:{}linked",
            &["a.io/x:1"],
            "not in the archive",
        ),
        (
            "",
            "docker-archive:{}missing",
            &["a.io/x:1"],
            "not in the archive",
        ),
        (
            "",
            "docker-archive:{}fewer",
            &[],
            "1 layers, but 2 diff IDs",
        ),
    ];
    for (_, location, names, expected) in cases {
        let error = load(&node, &location.replace("{}", &here), names)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{location}: {error}");
    }
    fs::remove_file(blob(&one, 1)).unwrap();
    std::os::unix::fs::symlink(&secret, blob(&one, 1)).unwrap();
    let outside = load(&node, &format!("oci:{here}layout:@0"), &[])
        .await
        .unwrap_err();
    assert!(matches!(outside, Error::Local { .. }), "{outside}");
    fs::remove_file(blob(&one, 1)).unwrap();
    fs::copy(&secret, blob(&one, 1)).unwrap();
    let other = load(&node, &format!("oci:{here}layout:@0"), &[])
        .await
        .unwrap_err();
    assert!(matches!(other, Error::DigestMismatch { .. }), "{other}");
    fs::remove_file(blob(&two, 0)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        blob(&two, 0),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let fifo = load(&node, &format!("oci:{here}layout:@1"), &["a.io/x:1"])
        .await
        .unwrap_err();
    assert!(fifo.to_string().contains("not a regular file"), "{fifo}");
    assert!(node.images.list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

#[tokio::test]
async fn the_policy_decides_by_path() {
    let image = made();
    let node = Node::new("");
    let dir = layout(&node, &[("a.io/one:1", &image)]);
    let real = dir.canonicalize().unwrap();
    let policy = |scopes: Value| {
        let policy = json!({"default": [{"type": "reject"}], "transports": {"oci": scopes}});
        fs::write(node.path("policy.json"), policy.to_string()).unwrap();
    };
    let location = format!("oci:{}:a.io/one:1", dir.display());
    policy(json!({}));
    let refused = load(&node, &location, &[]).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    policy(json!({real.parent().unwrap().to_str().unwrap(): accept}));
    load(&node, &location, &[]).await.unwrap();
    // A link to it is where it leads.
    std::os::unix::fs::symlink(&dir, node.path("link")).unwrap();
    policy(json!({format!("{}:a.io/one:1", real.display()): accept}));
    let linked = format!("oci:{}:a.io/one:1", node.path("link").display());
    load(&node, &linked, &[]).await.unwrap();
    policy(json!({format!("{}:a.io/two:1", real.display()): accept}));
    assert!(load(&node, &linked, &[]).await.is_err());
    // A pod's reference is never one of files.
    let pulled = node.pull(&location).await.unwrap_err();
    assert!(matches!(*pulled, Error::BadReference { .. }), "{pulled}");
}
