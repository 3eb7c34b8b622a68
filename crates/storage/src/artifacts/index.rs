//! `index.json` of an image layout (image-spec, image-layout.md) and what a manifest refers to.
//! Decoding only; members that are not known here stay as they are.

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value, json};

use crate::{Digest, limits};

/// The content of `oci-layout`.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

const NAME: &str = "org.opencontainers.image.ref.name";

/// An index.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Index {
    document: Map<String, Value>,
    entries: Vec<Map<String, Value>>,
}

impl Default for Index {
    fn default() -> Self {
        let mut document = Map::new();
        document.insert("schemaVersion".to_owned(), json!(2));
        let media_type = "application/vnd.oci.image.index.v1+json";
        document.insert("mediaType".to_owned(), json!(media_type));
        Self {
            document,
            entries: Vec::new(),
        }
    }
}

impl Index {
    /// Reads one; an entry without a digest that we know is an error, lest it be lost.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut document: Map<String, Value> = serde_json::from_slice(bytes)?;
        let entries = match document.remove("manifests") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => Vec::<Map<String, Value>>::deserialize(list)?,
        };
        if entries.len() > limits::ARTIFACTS {
            let text = format!("more than {} artifacts", limits::ARTIFACTS);
            return Err(serde_json::Error::custom(text));
        }
        for entry in &entries {
            if digest(entry).is_none() {
                return Err(serde_json::Error::custom("an entry without a digest"));
            }
            if !matches!(
                entry.get("annotations"),
                None | Some(Value::Null | Value::Object(_))
            ) {
                return Err(serde_json::Error::custom("annotations are no object"));
            }
        }
        Ok(Self { document, entries })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut document = self.document.clone();
        let entries = self.entries.iter().cloned().map(Value::Object);
        document.insert("manifests".to_owned(), entries.collect());
        Value::Object(document).to_string().into_bytes()
    }

    /// Digest and name of each entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Digest, Option<String>)> + '_ {
        self.entries
            .iter()
            .filter_map(|entry| Some((digest(entry)?, name(entry).map(str::to_owned))))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives `name` to the artifact with that digest, which need not be there. Who had it stays
    /// without, and an entry of that digest without a name gets it, as containers/image does.
    pub(crate) fn put(&mut self, name: &str, of: &Digest, size: u64, media_type: &str) {
        let same = |entry: &Map<String, Value>| digest(entry).as_ref() == Some(of);
        for entry in &mut self.entries {
            if self::name(entry) == Some(name) {
                if same(entry) {
                    return;
                }
                if let Some(Value::Object(annotations)) = entry.get_mut("annotations") {
                    annotations.remove(NAME);
                }
            }
        }
        let mut unnamed = self.entries.iter_mut();
        if let Some(entry) = unnamed.find(|entry| same(entry) && self::name(entry).is_none()) {
            match entry.get_mut("annotations") {
                Some(Value::Object(annotations)) => {
                    annotations.insert(NAME.to_owned(), json!(name));
                }
                _ => {
                    entry.insert("annotations".to_owned(), json!({ NAME: name }));
                }
            }
            return;
        }
        let entry = json!({"mediaType": media_type, "digest": of.as_str(), "size": size,
            "annotations": {NAME: name}});
        if let Value::Object(entry) = entry {
            self.entries.push(entry);
        }
    }

    /// Removes the entries with that digest, or the one of them that has `name`.
    pub(crate) fn remove(&mut self, of: &Digest, name: Option<&str>) {
        self.entries.retain(|entry| {
            digest(entry).as_ref() != Some(of)
                || name.is_some_and(|name| self::name(entry) != Some(name))
        });
    }
}

fn digest(entry: &Map<String, Value>) -> Option<Digest> {
    entry.get("digest")?.as_str()?.parse().ok()
}

fn name(entry: &Map<String, Value>) -> Option<&str> {
    let name = entry.get("annotations")?.get(NAME)?.as_str()?;
    (!name.is_empty()).then_some(name)
}

/// What a manifest or an index refers to.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct References {
    config: Option<Reference>,
    layers: Option<Vec<Reference>>,
    manifests: Option<Vec<Reference>>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    digest: Digest,
}

impl References {
    pub(crate) fn parse(manifest: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(manifest)
    }

    /// Blobs of a manifest.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let layers = self.layers.iter().flatten();
        layers.chain(&self.config).map(|blob| &blob.digest)
    }

    /// Manifests of an index.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Digest> {
        self.manifests.iter().flatten().map(|one| &one.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_and_what_others_wrote_stays() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let text = format!(
            r#"{{"schemaVersion":2,"x":[1],"manifests":[{{"digest":"{one}","size":1,
            "annotations":{{"{NAME}":"a.io/b:1","k":"v"}},"artifactType":"t"}}]}}"#
        );
        let mut index = Index::parse(text.as_bytes()).unwrap();
        index.put("a.io/b:1", &one, 1, "m");
        assert_eq!(index.len(), 1);
        index.put("a.io/b:1", &two, 2, "m");
        let names = |index: &Index| index.entries().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(&index), [None, Some("a.io/b:1".to_owned())]);
        index.put("a.io/b:2", &one, 1, "m");
        assert_eq!(
            names(&index),
            [Some("a.io/b:2".to_owned()), Some("a.io/b:1".to_owned())]
        );
        index.put("a.io/b:3", &one, 1, "m");
        assert_eq!(index.len(), 3);
        let again = Index::parse(&index.to_bytes()).unwrap();
        assert_eq!(again, index);
        let written: Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        assert_eq!(written["x"], json!([1]));
        assert_eq!(written["manifests"][0]["artifactType"], "t");
        assert_eq!(written["manifests"][0]["annotations"]["k"], "v");
        index.remove(&one, Some("a.io/b:3"));
        assert_eq!(index.len(), 2);
        index.remove(&one, None);
        assert_eq!(names(&index), [Some("a.io/b:1".to_owned())]);
    }

    #[test]
    fn an_index_that_would_lose_something_is_refused() {
        for text in [
            "[]",
            r#"{"manifests":[{}]}"#,
            r#"{"manifests":[{"digest":"md5:1"}]}"#,
            r#"{"manifests":{}}"#,
            r#"{"manifests":[7]}"#,
        ] {
            assert!(Index::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Index::parse(br#"{"manifests":null}"#).unwrap().len(), 0);
    }
}
