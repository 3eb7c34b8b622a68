//! What `docker save` writes: `manifest.json` lists configurations and layers by path. It has no
//! manifest of the registry's kind; one is made, of the layers as they stand there.

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;
use serde_json::json;
use storage::{Digest, Hasher};

use super::location::Location;
use super::tree::{Result, Tree};
use super::{Blobs, Content};
use crate::limits;
use crate::manifest::{DOCKER_MANIFEST, null_is_default};
use crate::reference::Reference;

const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const BUFFER_BYTES: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

/// Finds the image that is meant, and its names.
pub(super) fn find(tree: &Tree, location: &Location) -> Result<(Content, Vec<String>)> {
    let list = tree.bytes("manifest.json", limits::MANIFEST_BYTES)?;
    let items: Vec<Item> =
        serde_json::from_slice(&list).map_err(|error| format!("manifest.json: {error}"))?;
    let names = |item: &Item| item.repo_tags.iter().map(|tag| docker_name(tag)).collect();
    let item = location.choose(&items, names, docker_name)?;
    if item.layers.len() > limits::LAYERS {
        return Err(format!("more than {} layers", limits::LAYERS));
    }
    let config = tree.bytes(&item.config, limits::CONFIG_BYTES)?;
    let mut paths = HashMap::new();
    let mut layers = Vec::with_capacity(item.layers.len());
    // A layer that is listed twice is read once.
    let mut seen: HashMap<&str, (Digest, u64)> = HashMap::new();
    for path in &item.layers {
        let (digest, size) = match seen.get(path.as_str()) {
            Some(known) => known.clone(),
            None => digest(tree, path)?,
        };
        seen.insert(path, (digest.clone(), size));
        layers.push(json!({"mediaType": LAYER, "digest": digest, "size": size}));
        paths.insert(digest, path.clone());
    }
    let config_digest = Digest::of(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
        "layers": layers,
    });
    paths.insert(config_digest, item.config.clone());
    let content = Content {
        first: manifest.to_string().into(),
        blobs: Blobs::Listed(paths),
    };
    Ok((content, names(item)))
}

/// docker writes the names of its own registry without their host.
fn docker_name(tag: &str) -> String {
    Reference::normalized(tag).map_or_else(|_| tag.to_owned(), |full| full.to_string())
}

fn digest(tree: &Tree, path: &str) -> Result<(Digest, u64)> {
    let say = |reason: String| format!("{path}: {reason}");
    let mut section = tree.open(path).map_err(say)?;
    let size = section.size();
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match section.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) => return Err(say(error.to_string())),
        }
    }
}
