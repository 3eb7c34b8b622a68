//! Loading an image from files or another store of the node, for preloading: no registry is asked.

use std::sync::Arc;

use bytes::Bytes;
use storage::{Digest, ImageId};
use sys::pool::Pool;
use trust::{Evidence, Policy};

use super::fetch::{self, Fetched, Origin};
use super::layers::Blobs;
use super::{Puller, Tracker};
use crate::error::{Error, Result};
use crate::limits;
use crate::local::{Local, Location};
use crate::reference::Reference;

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The files.
    pub location: Location,
    /// The names to give it; where there are none, those that the files say.
    pub names: Vec<Reference>,
}

/// A loaded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its ID.
    pub id: ImageId,
    /// The names that it has now.
    pub names: Vec<String>,
}

/// An image whose small parts are read on a pool.
struct Opened<'a> {
    local: Arc<Local>,
    files: &'a Pool,
}

impl Origin for Opened<'_> {
    fn name(&self) -> String {
        self.local.location().to_string()
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes> {
        let (local, digest) = (Arc::clone(&self.local), digest.cloned());
        let read = move || local.manifest(digest.as_ref(), limits::MANIFEST_BYTES);
        self.files.run(read).await
    }

    async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        let (local, digest) = (Arc::clone(&self.local), digest.clone());
        self.files
            .run(move || local.small_blob(&digest, limit))
            .await
    }
}

impl Puller {
    /// Loads an image from files of the node.
    pub(crate) async fn load(&self, request: LoadRequest) -> Result<Loaded> {
        let LoadRequest { location, names } = request;
        let options = self.options.clone();
        let opened = self.files.run(move || {
            let policy = options.policy_of("")?;
            let local = Local::open(&location, options.unpack_limits, &options.temporary)?;
            let needed = local.ask(|local| policy.local_needs_signatures(local))?;
            Ok::<_, Error>((local, needed.then_some(policy)))
        });
        let (local, policy) = opened.await?;
        let local = Arc::new(local);
        let names = if names.is_empty() {
            local.names()
        } else {
            names
        };
        if names.is_empty() {
            let reason = "it says no name with a host: give it one";
            return Err(local.location().error(reason));
        }
        let opened = Opened {
            local: Arc::clone(&local),
            files: &self.files,
        };
        let fetched = fetch::image(&opened, &self.options.platform).await?;
        if fetched.is_artifact {
            return Err(local.location().error("it is an artifact, not an image"));
        }
        let signed = Arc::clone(&local);
        let add = move || with_signatures(fetched, &signed, policy.as_ref());
        let fetched = self.files.run(add).await?;
        let tracker = Arc::new(Tracker::new(local.location().to_string()));
        let id = self
            .store_image(&names, fetched, Blobs::Local(local), &tracker)
            .await?;
        let names = names.iter().map(Reference::stored_name).collect();
        Ok(Loaded { id, names })
    }
}

/// Adds the signatures that are there, if `policy` allows it with them: one that asks for any.
fn with_signatures(
    mut fetched: Fetched,
    local: &Local,
    policy: Option<&Policy>,
) -> Result<Fetched> {
    match (local.signatures(&fetched.manifest_digest), policy) {
        (Ok(signatures), _) => fetched.signatures = signatures,
        (Err(error), Some(_)) => return Err(error),
        (Err(error), None) => {
            tracing::warn!(%error, "signatures that are not needed can't be had");
        }
    }
    if let Some(policy) = policy {
        let evidence = Evidence {
            manifest: &fetched.manifest_bytes,
            signatures: &fetched.signatures,
        };
        local.ask(|local| policy.check_local(local, &evidence))?;
        fetched.accepted = true;
    }
    Ok(fetched)
}
