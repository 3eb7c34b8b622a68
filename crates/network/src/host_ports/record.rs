//! What is on tmpfs of pods that have ports: a file each.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Backend, Forwarded};
use crate::error::{Error, Result};

/// A pod as its file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) pod: Forwarded,
    /// What has set its rules. `None` where an older daemon wrote the file: then what sets them now.
    #[serde(default)]
    pub(super) backend: Option<Backend>,
}

/// All files of the directory. One that is no record of a pod is not ours.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, Kept>> {
    sys::durable::sweep(dir).map_err(|error| Error::io("sweep host ports", dir, error))?;
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(|error| Error::io("read host ports", dir, error))?,
    };
    let mut pods = BTreeMap::new();
    for entry in entries {
        let path = entry
            .map_err(|error| Error::io("read host ports", dir, error))?
            .path();
        let text =
            std::fs::read(&path).map_err(|error| Error::io("read host ports", &path, error))?;
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) => {
                pods.insert(kept.pod.pod_id.clone(), kept);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no record of host ports");
            }
        }
    }
    Ok(pods)
}

pub(super) fn write(dir: &Path, kept: &Kept) -> Result<()> {
    let path = dir.join(&kept.pod.pod_id);
    let text = serde_json::to_vec(kept).expect("addresses and ports serialise");
    std::fs::create_dir_all(dir)
        .and_then(|()| sys::durable::replace_volatile(&path, &text, 0o600))
        .map_err(|error| Error::io("write host ports", path, error))
}

pub(super) fn erase(dir: &Path, pod_id: &str) -> Result<()> {
    let path = dir.join(pod_id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove host ports", path, error))
        }
        _ => Ok(()),
    }
}
