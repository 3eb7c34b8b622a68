//! Artifacts made from files in memory.

use serde_json::{Value, json};

use super::Blob;

/// Collects what an artifact is to be.
#[derive(Clone, Debug)]
pub struct ArtifactMaker {
    config: (String, Blob),
    /// Media type, annotations, bytes.
    layers: Vec<(String, Value, Blob)>,
    artifact_type: String,
}

impl Default for ArtifactMaker {
    fn default() -> Self {
        Self::new()
    }
}

impl ArtifactMaker {
    /// An artifact without files, with OCI's empty configuration.
    #[must_use]
    pub fn new() -> Self {
        let empty = "application/vnd.oci.empty.v1+json".to_owned();
        Self {
            config: (empty, Blob::new(b"{}".to_vec())),
            layers: Vec::new(),
            artifact_type: "application/vnd.example.files".to_owned(),
        }
    }

    /// Adds a file with that title.
    #[must_use]
    pub fn file(self, title: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let annotations = json!({"org.opencontainers.image.title": title});
        self.layer(annotations, bytes)
    }

    /// Adds a layer with these annotations.
    #[must_use]
    pub fn layer(mut self, annotations: Value, bytes: impl Into<Vec<u8>>) -> Self {
        let kind = "application/octet-stream".to_owned();
        self.layers
            .push((kind, annotations, Blob::new(bytes.into())));
        self
    }

    /// Chooses the configuration's media type.
    #[must_use]
    pub fn config_type(mut self, media_type: &str) -> Self {
        self.config.0 = media_type.to_owned();
        self
    }

    /// Makes it.
    #[must_use]
    pub fn build(&self) -> MadeArtifact {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(kind, annotations, blob)| {
                let mut layer = descriptor(kind, blob);
                layer["annotations"] = annotations.clone();
                layer
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "artifactType": self.artifact_type, "config": descriptor(&self.config.0, &self.config.1),
            "layers": layers});
        let mut blobs: Vec<_> = self
            .layers
            .iter()
            .map(|(_, _, blob)| blob.clone())
            .collect();
        blobs.push(self.config.1.clone());
        MadeArtifact {
            blobs,
            manifest: Blob::new(manifest.to_string().into_bytes()),
        }
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest(), "size": blob.bytes().len()})
}

/// An artifact's blobs and manifest.
#[derive(Clone, Debug)]
pub struct MadeArtifact {
    blobs: Vec<Blob>,
    manifest: Blob,
}

impl MadeArtifact {
    /// Its layers, then its configuration.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        self.manifest.bytes()
    }

    /// The manifest's media type.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        MANIFEST
    }

    /// The manifest's digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.manifest.digest()
    }

    /// The id under which it is stored: the digits of that.
    #[must_use]
    pub fn id(&self) -> &str {
        self.digest().trim_start_matches("sha256:")
    }
}
