//! Signatures that a registry keeps itself, as OpenShift's does: a JSON list for each manifest.
//!
//! Source: containers/image, `docs/signature-protocols.md`, "docker/distribution API extension".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use storage::Digest;
use trust::Signature;

use super::bad;
use crate::client::Session;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{must_be_object, null_is_default};

/// The only version and type that there is; what else is listed is none of ours.
const VERSION: u64 = 2;
const TYPE: &str = "atomic";

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "null_is_default")]
    signatures: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "schemaVersion", default)]
    version: u64,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    content: String,
}

/// Reads a list. What has not the form of a simple signature can't be a good one, and is passed over.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Signature>, String> {
    if bytes.len() > limits::SIGNATURE_LIST_BYTES {
        return Err(format!(
            "larger than {} bytes",
            limits::SIGNATURE_LIST_BYTES
        ));
    }
    must_be_object(bytes)?;
    let list: List = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for listed in list.signatures {
        if listed.version != VERSION || listed.kind != TYPE {
            continue;
        }
        let content = STANDARD.decode(&listed.content);
        let content = content.map_err(|error| format!("content of a signature: {error}"))?;
        match Signature::simple(content) {
            Ok(signature) => found.push(signature),
            Err(error) => tracing::debug!(%error, "a listed signature is passed over"),
        }
    }
    Ok(found)
}

/// Fetches them; `None` from a registry that keeps none.
pub(super) async fn fetch(session: &Session, manifest: &Digest) -> Result<Option<Vec<Signature>>> {
    let list = session.kept_signatures(manifest, limits::SIGNATURE_LIST_BYTES);
    let list = match list.await {
        Ok(Some(list)) => list,
        Ok(None) => return Ok(None),
        // It promised them.
        Err(Error::NotFound { detail, .. }) => {
            return Err(bad(manifest, format!("the registry's list: {detail}")));
        }
        Err(error) => return Err(error),
    };
    let found = parse(&list).map_err(|why| bad(manifest, format!("the registry's list: {why}")))?;
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn of_a_list_those_of_the_known_kind_are_taken() {
        let (one, two) = ([0xa3, 1], [0xa3, 2]);
        let listed = |version: u64, kind: &str, content: &[u8]| {
            json!({"schemaVersion": version, "name": "sha256:0@x", "type": kind,
                "content": STANDARD.encode(content)})
        };
        let list = |listed: Vec<Value>| json!({"signatures": listed}).to_string();
        let text = list(vec![
            listed(2, "atomic", &one),
            listed(1, "atomic", &two),
            listed(2, "other", &two),
            listed(2, "atomic", b"<html>"),
            listed(2, "atomic", b"\0sigstore-json\n{}"),
            json!({"schemaVersion": 2, "type": "atomic", "content": null}),
            listed(2, "atomic", &two),
        ]);
        let found = parse(text.as_bytes()).unwrap();
        let expected = [one, two].map(|bytes| Signature::Simple(bytes.to_vec()));
        assert_eq!(found, expected);
        for (text, empty) in [
            (r#"{"signatures":null}"#, true),
            ("{}", true),
            ("1", false),
            ("<html>", false),
            (r#"{"signatures":[1]}"#, false),
            (
                r#"{"signatures":[{"schemaVersion":2,"type":"atomic","content":"!"}]}"#,
                false,
            ),
            (r#"{"signatures":[{"schemaVersion":"2"}]}"#, false),
        ] {
            let parsed = parse(text.as_bytes());
            assert_eq!(parsed.is_ok_and(|found| found.is_empty()), empty, "{text}");
        }
        let long = list(vec![listed(2, "x", &vec![0; limits::SIGNATURE_LIST_BYTES])]);
        assert!(parse(long.as_bytes()).is_err());
    }
}
