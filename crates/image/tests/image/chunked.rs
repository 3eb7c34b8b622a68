//! zstd:chunked layers in parts. The blobs are made here; the tests of the whole have skopeo make
//! them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::Error;
use serde_json::{Value, json};

use crate::fake::{Asked, Fake, Reply};
use crate::image_maker::{Blob, Entry, archive};
use crate::support::Node;

type Files = BTreeMap<&'static str, Vec<u8>>;

/// A blob as containers/storage makes them, and its layer's annotations.
struct Chunked {
    blob: Blob,
    diff_id: String,
    annotations: Value,
}

/// `lies` are digests that the table of contents tells in place of the true ones.
fn chunked(files: &Files, lies: &BTreeMap<&str, &[u8]>) -> Chunked {
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 1).unwrap();
    let (mut blob, mut tar) = (Vec::new(), Vec::new());
    let (mut entries, mut lines) = (Vec::new(), Vec::new());
    let segment = |lines: &mut Vec<Value>, bytes: &[u8]| {
        let position = lines.len();
        lines.push(json!({"type": 2, "payload": STANDARD.encode(bytes), "position": position}));
    };
    for (name, content) in files {
        // The archive of one file: a header, the content, padding, and two blocks for its end.
        let one = archive(&[Entry::file(name, 0o644, content.clone())]);
        let (header, rest) = one.split_at(512);
        let padding = (512 - content.len() % 512) % 512;
        let padding = &rest[content.len()..content.len() + padding];
        blob.extend(zstd(header));
        segment(&mut lines, header);
        let offset = blob.len();
        blob.extend(zstd(content));
        let position = lines.len();
        lines.push(
            json!({"type": 1, "name": name, "size": content.len(), "payload": "AAAAAAAAAAA=",
            "position": position}),
        );
        let digest = Blob::new(lies.get(name).map_or(content.clone(), |lie| lie.to_vec()));
        entries.push(
            json!({"type": "reg", "name": name, "mode": 0o644, "size": content.len(),
            "digest": digest.digest(), "offset": offset, "endOffset": blob.len()}),
        );
        blob.extend(zstd(padding));
        segment(&mut lines, padding);
        tar.extend([header, content, padding].concat());
    }
    let end = vec![0; 1024];
    blob.extend(zstd(&end));
    segment(&mut lines, &end);
    tar.extend(end);

    let text: Vec<u8> = lines
        .iter()
        .flat_map(|line| format!("{line}\n").into_bytes())
        .collect();
    let tar_split = Blob::new(zstd(&text));
    let toc =
        json!({"version": 1, "entries": entries, "tarSplitDigest": tar_split.digest()}).to_string();
    let compressed = Blob::new(zstd(toc.as_bytes()));
    let mut frame = |bytes: &[u8]| {
        blob.extend([0x50, 0x2a, 0x4d, 0x18]);
        blob.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        let at = blob.len();
        blob.extend(bytes);
        at
    };
    let (toc_at, tar_split_at) = (frame(compressed.bytes()), frame(tar_split.bytes()));
    let annotations = json!({
        "io.github.containers.zstd-chunked.manifest-checksum": compressed.digest(),
        "io.github.containers.zstd-chunked.manifest-position":
            format!("{toc_at}:{}:{}:1", compressed.bytes().len(), toc.len()),
        "io.github.containers.zstd-chunked.tarsplit-position":
            format!("{tar_split_at}:{}:{}", tar_split.bytes().len(), text.len())});
    Chunked {
        blob: Blob::new(blob),
        diff_id: Blob::new(tar).digest().to_owned(),
        annotations,
    }
}

/// What a registry does with a request for a part.
#[derive(Clone, Copy, PartialEq)]
enum Ranges {
    Served,
    Ignored,
    Unavailable,
}

fn registry(layers: Vec<Chunked>, ranges: Ranges) -> Fake {
    let mut blobs = BTreeMap::new();
    let mut manifests = Vec::new();
    for layer in layers {
        let config = json!({"os": "linux", "architecture": "amd64", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
        let config = Blob::new(config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.digest(), "size": config.bytes().len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
                "digest": layer.blob.digest(), "size": layer.blob.bytes().len(),
                "annotations": layer.annotations}]});
        manifests.push(manifest.to_string().into_bytes());
        for blob in [config, layer.blob] {
            blobs.insert(blob.digest().to_owned(), blob.bytes().to_vec());
        }
    }
    Fake::start(move |asked: &Asked| {
        if let Some((_, tag)) = asked.path.split_once("/manifests/") {
            return Reply::ok(manifests[tag.parse::<usize>().unwrap()].clone());
        }
        let digest = asked.path.rsplit('/').next().unwrap_or_default();
        let Some(bytes) = blobs.get(digest) else {
            return Reply::status(if asked.path == "/v2/" { 200 } else { 404 });
        };
        let range = asked.header("range").and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
        });
        match (range, ranges) {
            (Some((start, end)), Ranges::Served) => {
                let content_range = format!("bytes {start}-{end}/{}", bytes.len());
                Reply::Full(
                    206,
                    vec![("Content-Range", content_range)],
                    bytes[start..=end].to_vec(),
                )
            }
            (Some(_), Ranges::Unavailable) => Reply::status(503),
            _ => Reply::ok(bytes.clone()),
        }
    })
}

/// Bytes that no compression makes smaller.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn first() -> Files {
    BTreeMap::from([
        ("a", noise(1, 300_000)),
        ("b", noise(2, 300_001)),
        ("c", noise(3, 511)),
    ])
}

/// `a` and `c` moved, `b` is another, and there is one more.
fn second() -> Files {
    BTreeMap::from([
        ("b", noise(4, 10_000)),
        ("d", noise(3, 511)),
        ("e", noise(1, 300_000)),
        ("f", noise(5, 1)),
    ])
}

/// The parts of blobs that were asked for.
fn parts(registry: &Fake) -> Vec<usize> {
    let asked = registry.asked();
    let ranges = asked.iter().filter_map(|asked| {
        let (start, end) = asked
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some(end.parse::<usize>().ok()? - start.parse::<usize>().ok()? + 1)
    });
    ranges.collect()
}

fn wholes(registry: &Fake, digest: &str) -> usize {
    let asked = registry.asked();
    let whole = |asked: &&Asked| asked.path.ends_with(digest) && asked.header("range").is_none();
    asked.iter().filter(whole).count()
}

/// The content of the files of the node's second image's layer.
fn stored(node: &Node, name: &str) -> Vec<Vec<u8>> {
    let dirs = std::fs::read_dir(node.path("root/overlay"))
        .unwrap()
        .flatten();
    dirs.filter_map(|dir| std::fs::read(dir.path().join("diff").join(name)).ok())
        .collect()
}

#[tokio::test]
async fn only_files_that_no_layer_has_are_fetched() {
    let (one, two) = (
        chunked(&first(), &BTreeMap::new()),
        chunked(&second(), &BTreeMap::new()),
    );
    let digest = two.blob.digest().to_owned();
    let registry = registry(vec![one, two], Ranges::Served);
    let node = Node::new(&registry.conf());
    node.pull(&registry.reference("app:0")).await.unwrap();
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(wholes(&registry, &digest), 0);
    // Two tables of contents, then `b`, and `f` far behind it.
    let parts = parts(&registry);
    assert_eq!(parts.len(), 4, "{parts:?}");
    let fetched: usize = parts[2..].iter().sum();
    assert!((10_000..12_000).contains(&fetched), "{parts:?}");
    for (name, content) in second() {
        assert!(stored(&node, name).contains(&content), "{name}");
    }
    assert!(node.leftovers().is_empty());
    assert_eq!(
        node.store.check(&storage::CheckOptions::default()).unwrap(),
        []
    );
    let tables = || {
        let dirs = std::fs::read_dir(node.path("root/overlay-layers"))
            .unwrap()
            .flatten();
        dirs.filter(|dir| std::fs::exists(dir.path().join("crioxide.toc")).is_ok_and(|there| there))
            .count()
    };
    assert_eq!(tables(), 2);
    for tag in ["app:0", "app:1"] {
        let reference = registry.reference(tag);
        node.images
            .remove(&reference, BTreeMap::new())
            .await
            .unwrap();
    }
    assert_eq!(tables(), 0);
}

#[tokio::test]
async fn without_parts_or_with_a_table_that_lies_the_whole_is_fetched() {
    // The lie: `b` is said to be what another image has as `a`.
    let a = noise(1, 300_000);
    let mut same_size = second();
    same_size.insert("b", noise(9, 300_000));
    let lie = BTreeMap::from([("b", &a[..])]);
    for (name, files, lies, ranges, off) in [
        (
            "no ranges",
            second(),
            BTreeMap::new(),
            Ranges::Ignored,
            false,
        ),
        ("a lie", same_size, lie, Ranges::Served, false),
        (
            "switched off",
            second(),
            BTreeMap::new(),
            Ranges::Served,
            true,
        ),
    ] {
        let (one, two) = (chunked(&first(), &BTreeMap::new()), chunked(&files, &lies));
        let digest = two.blob.digest().to_owned();
        let registry = registry(vec![one, two], ranges);
        let node = Node::with(&registry.conf(), |options| options.partial_pulls = !off);
        node.pull(&registry.reference("app:0")).await.unwrap();
        node.pull(&registry.reference("app:1")).await.unwrap();
        assert_eq!(wholes(&registry, &digest), 1, "{name}");
        assert_eq!(parts(&registry).is_empty(), off, "{name}");
        for (file, content) in files {
            assert!(stored(&node, file).contains(&content), "{name}: {file}");
        }
        assert!(node.leftovers().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_error_of_the_network_is_one_and_what_changed_on_disk_is_not_used() {
    let layers = || {
        vec![
            chunked(&first(), &BTreeMap::new()),
            chunked(&second(), &BTreeMap::new()),
        ]
    };
    let down = registry(layers(), Ranges::Unavailable);
    let node = Node::new(&down.conf());
    let error = node.pull(&down.reference("app:1")).await.unwrap_err();
    assert!(
        matches!(error.root(), Error::RegistryUnavailable { .. }),
        "{error}"
    );
    assert!(node.leftovers().is_empty());

    let registry = registry(layers(), Ranges::Served);
    let node = Node::new(&registry.conf());
    node.pull(&registry.reference("app:0")).await.unwrap();
    let dirs = std::fs::read_dir(node.path("root/overlay"))
        .unwrap()
        .flatten();
    for dir in dirs {
        let path = dir.path().join("diff/a");
        if std::fs::exists(&path).unwrap() {
            std::fs::write(path, noise(7, 300_000)).unwrap();
        }
    }
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert!(stored(&node, "e").contains(&noise(1, 300_000)));
}
