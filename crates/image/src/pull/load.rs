//! Loading an image from files of the node, for preloading: no registry is asked.

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
use crate::local::{Bundle, Location};
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

/// A bundle whose small files are read on a pool.
struct Opened<'a> {
    bundle: Arc<Bundle>,
    files: &'a Pool,
}

impl Origin for Opened<'_> {
    fn name(&self) -> String {
        self.bundle.location().to_string()
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes> {
        let (bundle, digest) = (Arc::clone(&self.bundle), digest.cloned());
        let read = move || bundle.manifest(digest.as_ref(), limits::MANIFEST_BYTES);
        self.files.run(read).await
    }

    async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        let (bundle, digest) = (Arc::clone(&self.bundle), digest.clone());
        self.files
            .run(move || bundle.small_blob(&digest, limit))
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
            let bundle = Bundle::open(&location, options.unpack_limits, &options.temporary)?;
            let needed = location.ask(|files| policy.files_need_signatures(files))?;
            Ok::<_, Error>((bundle, needed.then_some(policy)))
        });
        let (bundle, policy) = opened.await?;
        let bundle = Arc::new(bundle);
        let names = if names.is_empty() {
            bundle.names.clone()
        } else {
            names
        };
        if names.is_empty() {
            let reason = "it says no name with a host: give it one";
            return Err(bundle.location().error(reason));
        }
        let opened = Opened {
            bundle: Arc::clone(&bundle),
            files: &self.files,
        };
        let fetched = fetch::image(&opened, &self.options.platform).await?;
        if fetched.is_artifact {
            return Err(bundle.location().error("it is an artifact, not an image"));
        }
        let signed = Arc::clone(&bundle);
        let add = move || with_signatures(fetched, &signed, policy.as_ref());
        let fetched = self.files.run(add).await?;
        let tracker = Arc::new(Tracker::new(bundle.location().to_string()));
        let id = self
            .store_image(&names, fetched, Blobs::Local(bundle), &tracker)
            .await?;
        let names = names.iter().map(Reference::stored_name).collect();
        Ok(Loaded { id, names })
    }
}

/// Adds the signatures that are there, if `policy` allows it with them: one that asks for any.
fn with_signatures(
    mut fetched: Fetched,
    bundle: &Bundle,
    policy: Option<&Policy>,
) -> Result<Fetched> {
    match (bundle.signatures(&fetched.manifest_digest), policy) {
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
        let location = bundle.location();
        location.ask(|files| policy.check_files(files, &evidence))?;
    }
    Ok(fetched)
}
