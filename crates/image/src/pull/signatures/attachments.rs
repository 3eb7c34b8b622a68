//! cosign's attachments: an OCI manifest under a tag that is made of the signed one's digest, in the
//! same repository, with a layer per signature.
//!
//! Source: cosign, `specs/SIGNATURE_SPEC.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use storage::Digest;
use trust::{Attachment, Signature};

use super::bad;
use crate::client::Session;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{Descriptor, OCI_MANIFEST, must_be_object};
use crate::pull::check;

/// One attachment, as the manifest lists it.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: String,
    layers: Vec<Listed>,
}

/// Reads the manifest that lists attachments: few, and small ones.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    if bytes.len() > limits::MANIFEST_BYTES {
        return Err(format!("larger than {} bytes", limits::MANIFEST_BYTES));
    }
    must_be_object(bytes)?;
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !["", OCI_MANIFEST].contains(&manifest.media_type.as_str()) {
        return Err(format!("of type {:?}", manifest.media_type));
    }
    if manifest.layers.len() > trust::limits::SIGNATURES {
        return Err(format!(
            "more than {} attachments",
            trust::limits::SIGNATURES
        ));
    }
    let large = |one: &Listed| one.descriptor.size > trust::limits::SIGNATURE_BYTES as u64;
    if manifest.layers.iter().any(large) {
        return Err("an attachment is too large".to_owned());
    }
    let sizes = manifest.layers.iter().map(|one| one.descriptor.size);
    if sizes.sum::<u64>() > limits::SIGNATURES_BYTES as u64 {
        return Err("the attachments are too large".to_owned());
    }
    Ok(manifest.layers)
}

/// Fetches the attachments of a manifest. All of them: which are signatures is the policy's to say.
pub(super) async fn fetch(session: &Session, manifest: &Digest) -> Result<Vec<Signature>> {
    let tag = format!("{}-{}.sig", manifest.algorithm(), manifest.hex());
    let bytes = match session.manifest(&tag).await {
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let listed = parse(&bytes).map_err(|why| bad(manifest, format!("{tag}: {why}")))?;
    let mut found = Vec::with_capacity(listed.len());
    for one in listed {
        let digest = &one.descriptor.digest;
        let limit = usize::try_from(one.descriptor.size).unwrap_or(usize::MAX);
        let payload = session.small_blob(digest, limit).await?;
        check(&payload, digest)?;
        found.push(Signature::Sigstore(Attachment {
            media_type: one.descriptor.media_type,
            payload: payload.into(),
            annotations: one.annotations,
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn lists_of_attachments_are_bounded() {
        let digest = Digest::of(b"");
        let layer = |size: u64| {
            json!({"mediaType": "x", "digest": digest, "size": size,
            "annotations": {"a": "b"}})
        };
        let manifest = |layers: Vec<Value>| json!({"schemaVersion": 2, "layers": layers});
        let listed = parse(manifest(vec![layer(5)]).to_string().as_bytes()).unwrap();
        assert_eq!(listed[0].annotations["a"], "b");
        assert_eq!(listed[0].descriptor.size, 5);
        for bad in [
            manifest(vec![layer(1); 129]),
            manifest(vec![layer(4 << 20); 20]),
            manifest(vec![layer(u64::MAX)]),
            manifest(vec![json!({"digest": "sha256:0", "size": 1})]),
            json!({"mediaType": "application/vnd.oci.image.index.v1+json", "layers": []}),
            json!({"schemaVersion": 2}),
        ] {
            assert!(parse(bad.to_string().as_bytes()).is_err(), "{bad:.100}");
        }
    }
}
