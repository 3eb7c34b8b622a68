//! Manifests and indexes: OCI's and docker's version 2, schema 2. Decoding only, no I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use storage::Digest;

use crate::limits;
use crate::platform::Platform;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What a manifest request accepts.
pub(crate) const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

const SCHEMA_1: &str = "docker manifest schema 1 is not supported: push the image again";

/// Whether it is a manifest that we refuse for its age. Signed, it does not have the digest of its
/// bytes, but of those that were signed.
pub(crate) fn is_schema_1(bytes: &[u8]) -> bool {
    Document::parse(bytes).is_err_and(|reason| reason == SCHEMA_1)
}

/// What a registry may answer a manifest request with.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image.
    Image(Manifest),
    /// Files that are no image, in OCI's form.
    Artifact(Manifest),
    /// Images of several platforms.
    Index(Vec<IndexEntry>),
}

/// One image or artifact: its configuration and its layers, the lowest first.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Where something is and how large it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether it is a layer that its maker does not let registries distribute (docker's "foreign").
    pub(crate) fn is_foreign(&self) -> bool {
        let media_type = &self.media_type;
        media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
    }

    /// Digest of the layer's table of contents, by which an additional layer store may offer it; none
    /// where there are two kinds (containers/storage, `GetTOCDigest`).
    pub(crate) fn toc(&self) -> Option<Digest> {
        const KINDS: [&str; 2] = [
            "containerd.io/snapshot/stargz/toc.digest",
            "io.github.containers.zstd-chunked.manifest-checksum",
        ];
        let mut told = KINDS.iter().filter_map(|kind| self.annotations.get(*kind));
        match (told.next(), told.next()) {
            (Some(only), None) => only.parse().ok(),
            _ => None,
        }
    }
}

/// One manifest of an index.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IndexEntry {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl IndexEntry {
    /// containers/image's mark of an image that is there a second time, with zstd layers.
    fn is_zstd(&self) -> bool {
        let mark = self
            .annotations
            .get("io.github.containers.compression.zstd");
        mark.is_some_and(|value| value == "true")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<IndexEntry>>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Refuses JSON that is no object: serde would take a list for a struct as well.
pub(crate) fn must_be_object(bytes: &[u8]) -> Result<(), String> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        _ => Err("not a JSON object".to_owned()),
    }
}

impl Document {
    /// Reads one. What could be taken for an image by one reader and for an index by another
    /// (`layers` and `manifests`) is refused (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > limits::MANIFEST_BYTES {
            return Err(format!("larger than {} bytes", limits::MANIFEST_BYTES));
        }
        must_be_object(bytes)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if raw.schema_version == 1 || raw.fs_layers.is_some() {
            return Err(SCHEMA_1.to_owned());
        }
        match (raw.manifests, raw.layers, raw.config) {
            (Some(entries), None, None) => {
                check_type(&raw.media_type, &[OCI_INDEX, DOCKER_LIST])?;
                if entries.len() > limits::INDEX_ENTRIES {
                    return Err(format!("more than {} manifests", limits::INDEX_ENTRIES));
                }
                Ok(Self::Index(entries))
            }
            (None, Some(layers), Some(config)) => {
                check_type(&raw.media_type, &[OCI_MANIFEST, DOCKER_MANIFEST])?;
                let manifest = Manifest {
                    config,
                    layers,
                    annotations: raw.annotations,
                };
                manifest.check()?;
                match manifest.check_image() {
                    Ok(()) => Ok(Self::Image(manifest)),
                    Err(reason) if raw.media_type == DOCKER_MANIFEST => Err(reason),
                    Err(_) if manifest.is_artifact(&raw.artifact_type) => {
                        Ok(Self::Artifact(manifest))
                    }
                    Err(reason) => Err(reason),
                }
            }
            (Some(_), _, _) => Err("it is image and index at once".to_owned()),
            _ => Err("neither an image manifest nor an index".to_owned()),
        }
    }
}

impl Manifest {
    /// Whether it is something else than an image, as CRI-O tells: by the type of its
    /// configuration, or by an artifact type where the layers are none of an image.
    fn is_artifact(&self, artifact_type: &str) -> bool {
        !self.has_image_config() || !artifact_type.is_empty()
    }

    /// Without a type it is an image's by convention.
    fn has_image_config(&self) -> bool {
        let media_type = self.config.media_type.as_str();
        media_type.is_empty() || CONFIG_TYPES.contains(&media_type)
    }

    /// What goes for images and artifacts.
    fn check(&self) -> Result<(), String> {
        let config = &self.config;
        if config.size > limits::CONFIG_BYTES as u64 {
            return Err(format!(
                "configuration larger than {} bytes",
                limits::CONFIG_BYTES
            ));
        }
        if self.layers.len() > limits::LAYERS {
            return Err(format!("more than {} layers", limits::LAYERS));
        }
        match self.layers.iter().find(|it| it.size > limits::BLOB_BYTES) {
            Some(layer) => Err(format!("layer {} is larger than allowed", layer.digest)),
            None => Ok(()),
        }
    }

    fn check_image(&self) -> Result<(), String> {
        let config = &self.config;
        if !self.has_image_config() {
            return Err(format!(
                "not an image: its configuration is of type {:?}",
                config.media_type
            ));
        }
        if config.digest.algorithm() != "sha256" {
            return Err(format!(
                "configuration digest {} is not SHA-256",
                config.digest
            ));
        }
        for layer in &self.layers {
            if !layer.media_type.contains("tar") {
                return Err(format!(
                    "layer {} is of type {:?}",
                    layer.digest, layer.media_type
                ));
            }
        }
        Ok(())
    }
}

/// The entry of an index that fits the platform best; of equal ones one with zstd layers, which
/// inflate faster, else the first. What says no platform (an index in an index, an artifact) is the last choice.
pub(crate) fn choose<'a>(entries: &'a [IndexEntry], here: &Platform) -> Option<&'a IndexEntry> {
    let rank = |entry: &IndexEntry| {
        let RawPlatform {
            os,
            architecture,
            variant,
        } = entry.platform.clone()?;
        here.rank(&Platform {
            os,
            architecture,
            variant,
        })
    };
    let ranked = entries
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry)));
    let best = ranked.min_by_key(|(rank, entry)| (*rank, !entry.is_zstd()));
    best.map(|(_, entry)| entry)
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
}

fn check_type(found: &str, known: &[&str]) -> Result<(), String> {
    if found.is_empty() || known.contains(&found) {
        return Ok(());
    }
    Err(format!("its mediaType {found:?} does not fit its content"))
}

/// Go writes empty maps and lists as `null`.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "0".repeat(64)), "size": 7})
    }

    fn image() -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(CONFIG_TYPES[0]),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")], "annotations": null})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut image = image();
        image[key] = value;
        image
    }

    #[test]
    fn images_and_indexes_are_told_apart() {
        let parse = |value: Value| Document::parse(value.to_string().as_bytes()).unwrap();
        assert!(matches!(parse(image()), Document::Image(_)));
        assert!(matches!(
            parse(with("mediaType", json!(""))),
            Document::Image(_)
        ));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(index), Document::Index(_)));
    }

    #[test]
    fn an_artifact_is_told_by_its_configuration_or_its_type() {
        let helm = "application/vnd.cncf.helm.config.v1+json";
        let text = json!([descriptor("text/plain")]);
        let mut typed = with("layers", text.clone());
        typed["artifactType"] = json!("text/plain");
        let mut image = image();
        image["artifactType"] = json!("x/y");
        let mut docker = with("config", descriptor(helm));
        docker["mediaType"] = json!(DOCKER_MANIFEST);
        for (name, value, kind) in [
            (
                "another configuration",
                with("config", descriptor(helm)),
                "artifact",
            ),
            ("a type, and no layers of an image", typed, "artifact"),
            ("a type, and layers of an image", image, "image"),
            (
                "no type of configuration",
                with("config", descriptor("")),
                "image",
            ),
            ("no layers of an image", with("layers", text), "error"),
            ("in docker's form", docker, "error"),
        ] {
            let found = match Document::parse(value.to_string().as_bytes()) {
                Ok(Document::Image(_)) => "image",
                Ok(Document::Artifact(_)) => "artifact",
                Ok(Document::Index(_)) => "index",
                Err(_) => "error",
            };
            assert_eq!(found, kind, "{name}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_hostile_is_refused() {
        for (value, reason) in [
            (with("manifests", json!([])), "image and index at once"),
            (with("schemaVersion", json!(1)), "schema 1"),
            (with("fsLayers", json!([])), "schema 1"),
            (with("mediaType", json!(OCI_INDEX)), "does not fit"),
            (
                with("layers", json!([descriptor("text/plain")])),
                "is of type",
            ),
            (
                with("layers", json!([{"digest": "sha256:../../x", "size": 1}])),
                "digest",
            ),
            (
                with(
                    "layers",
                    json!([{"digest": format!("sha256:{}", "0".repeat(63)), "size": 1}]),
                ),
                "digest",
            ),
            (
                with(
                    "layers",
                    json!([{"digest": format!("sha256:{}", "0".repeat(64)), "size": -1}]),
                ),
                "invalid value",
            ),
            (
                with("layers", json!(vec![descriptor("x.tar"); 501])),
                "more than 500 layers",
            ),
            (json!({"schemaVersion": 2}), "neither"),
            (json!([]), "not a JSON object"),
        ] {
            let error = Document::parse(value.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let twice = format!(
            "{{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[{}]}}",
            image()
        );
        assert!(Document::parse(twice.as_bytes()).is_err());
    }

    #[test]
    fn the_platform_chooses() {
        let entry = |os: &str, architecture: &str, size: u64| {
            let mut entry = descriptor(OCI_MANIFEST);
            entry["platform"] = json!({"os": os, "architecture": architecture});
            entry["size"] = json!(size);
            entry
        };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("windows", "amd64", 1), entry("unknown", "unknown", 2), entry("linux", "arm64", 3),
            entry("linux", "amd64", 4), entry("linux", "amd64", 5)]});
        let Document::Index(entries) = Document::parse(index.to_string().as_bytes()).unwrap()
        else {
            panic!()
        };
        let mut here = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: "".into(),
        };
        assert_eq!(choose(&entries, &here).unwrap().descriptor.size, 4);
        here.architecture = "s390x".into();
        assert!(choose(&entries, &here).is_none());
    }

    #[test]
    fn of_equal_images_the_one_in_zstd_is_taken_and_without_a_platform_the_last() {
        let entry = |size: u64, platform: Value, annotations: Value| {
            json!({"digest": format!("sha256:{}", "0".repeat(64)), "size": size, "mediaType": OCI_MANIFEST,
                "platform": platform, "annotations": annotations})
        };
        let linux = json!({"os": "linux", "architecture": "amd64"});
        let zstd = json!({"io.github.containers.compression.zstd": "true"});
        let here = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: "".into(),
        };
        for (entries, size) in [
            (
                vec![
                    entry(1, Value::Null, Value::Null),
                    entry(2, linux.clone(), Value::Null),
                    entry(3, linux, zstd),
                ],
                3,
            ),
            (
                vec![
                    entry(
                        1,
                        json!({"os": "linux", "architecture": "s390x"}),
                        Value::Null,
                    ),
                    entry(2, Value::Null, Value::Null),
                ],
                2,
            ),
        ] {
            let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let Document::Index(entries) = Document::parse(index.as_bytes()).unwrap() else {
                panic!("{index}")
            };
            assert_eq!(choose(&entries, &here).unwrap().descriptor.size, size);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _parsed = Document::parse(&bytes);
        }
    }
}
