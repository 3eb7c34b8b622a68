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

/// What a registry may answer a manifest request with.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image.
    Image(Manifest),
    /// Images of several platforms.
    Index(Vec<IndexEntry>),
}

/// One image: its configuration and its layers, the lowest first.
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
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<IndexEntry>>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads one. What could be taken for an image by one reader and for an index by another
    /// (`layers` and `manifests`) is refused (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > limits::MANIFEST_BYTES {
            return Err(format!("larger than {} bytes", limits::MANIFEST_BYTES));
        }
        // serde would take a list for a struct as well.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err("not a JSON object".to_owned());
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if raw.schema_version == 1 || raw.fs_layers.is_some() {
            return Err(
                "docker manifest schema 1 is not supported: push the image again".to_owned(),
            );
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
                Ok(Self::Image(manifest))
            }
            (Some(_), _, _) => Err("it is image and index at once".to_owned()),
            _ => Err("neither an image manifest nor an index".to_owned()),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), String> {
        let config = &self.config;
        if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
            return Err(format!(
                "not an image but an artifact: its configuration is of type {:?}",
                config.media_type
            ));
        }
        if config.digest.algorithm() != "sha256" {
            return Err(format!(
                "configuration digest {} is not SHA-256",
                config.digest
            ));
        }
        if config.size > limits::CONFIG_BYTES as u64 {
            return Err(format!(
                "configuration larger than {} bytes",
                limits::CONFIG_BYTES
            ));
        }
        if self.layers.len() > limits::LAYERS {
            return Err(format!("more than {} layers", limits::LAYERS));
        }
        for layer in &self.layers {
            if layer.media_type.contains("encrypted") {
                return Err(format!(
                    "layer {} is encrypted, which is not supported",
                    layer.digest
                ));
            }
            if !layer.media_type.contains("tar") {
                return Err(format!(
                    "layer {} is of type {:?}",
                    layer.digest, layer.media_type
                ));
            }
            if layer.size > limits::BLOB_BYTES {
                return Err(format!("layer {} is larger than allowed", layer.digest));
            }
        }
        Ok(())
    }
}

/// The entry of an index that fits the platform best; of equal ones the first.
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
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    // An index of one image need not say its platform.
    best.or(match entries {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    })
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
    fn what_is_ambiguous_or_hostile_is_refused() {
        for (value, reason) in [
            (with("manifests", json!([])), "image and index at once"),
            (with("schemaVersion", json!(1)), "schema 1"),
            (with("fsLayers", json!([])), "schema 1"),
            (with("mediaType", json!(OCI_INDEX)), "does not fit"),
            (
                with(
                    "config",
                    descriptor("application/vnd.cncf.helm.config.v1+json"),
                ),
                "artifact",
            ),
            (
                with("layers", json!([descriptor("text/plain")])),
                "is of type",
            ),
            (
                with(
                    "layers",
                    json!([descriptor(
                        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
                    )]),
                ),
                "encrypted",
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

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _parsed = Document::parse(&bytes);
        }
    }
}
