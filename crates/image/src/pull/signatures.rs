//! The signatures of an image that is being pulled: they are fetched, checked against the policy
//! before a layer is asked for, and kept with the image.
//!
//! They are those of the manifest that is run: of an index's, the one that was chosen, as with
//! containers/image. They are looked for where `registries.d` says for the registry that is asked, a
//! mirror's own, or in that registry where it keeps signatures itself; the reference that they have to be for is the one that was meant, whatever mirror
//! has the image.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;

use storage::Digest;
use trust::{Evidence, Lookaside, Policy, Signature, Sources};

use super::Puller;
use super::fetch::Fetched;
use crate::client::Session;
use crate::error::{Error, Result, chain};
use crate::options::Options;
use crate::reference::Reference;
use crate::signatures::exceed_limits;

mod attachments;
mod kept;

#[cfg(feature = "fuzzing")]
pub(crate) use attachments::parse as parse_attachments;
#[cfg(feature = "fuzzing")]
pub(crate) use kept::parse as parse_signature_list;

/// What decides about a pull's images.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) policy: Policy,
    sources: Sources,
}

impl Trust {
    /// Reads policy and `registries.d`: both may have changed since the last pull.
    pub(super) fn load(options: &Options, namespace: &str) -> Result<Self> {
        let dir = options.registries_d();
        let sources = Sources::load(dir).map_err(|error| Error::Config {
            path: dir.to_owned(),
            reason: chain(&error),
        })?;
        Ok(Self {
            policy: options.policy_of(namespace)?,
            sources,
        })
    }
}

impl Puller {
    /// Adds the signatures of what was fetched from a source, if the policy allows it under the name
    /// that was asked for.
    ///
    /// # Errors
    /// [`Error::Refused`]. Signatures that can't be had are an error only where they are needed.
    pub(super) async fn with_signatures(
        &self,
        mut fetched: Fetched,
        reference: &Reference,
        session: &Session,
        trust: &Arc<Trust>,
    ) -> Result<Fetched> {
        let needed = reference.ask(|name| trust.policy.needs_signatures(name))?;
        let digest = Digest::of(&fetched.manifest_bytes);
        match self.signatures(&digest, session, trust).await {
            Ok(signatures) => fetched.signatures = signatures,
            Err(error) if needed => return Err(error),
            Err(error) => {
                tracing::warn!(image = %reference, %error, "signatures that are not needed can't be had");
            }
        }
        if !needed {
            return Ok(fetched);
        }
        let (trust, reference) = (Arc::clone(trust), reference.clone());
        // Keys are read from files.
        let check = move || {
            let evidence = Evidence {
                manifest: &fetched.manifest_bytes,
                signatures: &fetched.signatures,
            };
            reference.ask(|name| trust.policy.check(name, &evidence))?;
            fetched.accepted = true;
            Ok(fetched)
        };
        self.files.run(check).await
    }

    async fn signatures(
        &self,
        digest: &Digest,
        session: &Session,
        trust: &Trust,
    ) -> Result<Vec<Signature>> {
        let at = &session.source().reference;
        let mut found = match kept::fetch(session, digest).await? {
            Some(kept) => kept,
            None => {
                let lookaside = at.ask(|name| trust.sources.lookaside(name));
                let lookaside = lookaside.map_err(|reason| Error::Config {
                    path: self.options.registries_d().to_owned(),
                    reason,
                })?;
                self.of_lookaside(&lookaside, at.path(), digest).await?
            }
        };
        if at.ask(|name| trust.sources.use_attachments(name)) {
            found.extend(attachments::fetch(session, digest).await?);
        }
        let bytes = found.iter().map(|signature| signature.encode().len()).sum();
        if exceed_limits(found.len(), bytes) {
            return Err(bad(digest, "they are too many or too large"));
        }
        Ok(found)
    }

    /// Those of a lookaside are numbered; the first that is not there ends them.
    async fn of_lookaside(
        &self,
        lookaside: &Lookaside,
        path: &str,
        digest: &Digest,
    ) -> Result<Vec<Signature>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        loop {
            let place = Lookaside::beneath(path, digest.as_str(), found.len() + 1);
            let next = match lookaside {
                Lookaside::Dir(dir) => {
                    let file = dir.join(place);
                    self.files.run(move || read(file)).await?
                }
                Lookaside::Server(url) => {
                    let url = format!("{url}/{place}");
                    let limit = trust::limits::SIGNATURE_BYTES;
                    let body = self.client.document(&url, limit).await?;
                    body.map(Vec::from)
                }
            };
            let Some(next) = next else {
                return Ok(found);
            };
            bytes += next.len();
            if exceed_limits(found.len() + 1, bytes) {
                return Err(bad(
                    digest,
                    format!("{lookaside} has too many or too large ones"),
                ));
            }
            let signature = Signature::parse(&next);
            found.push(signature.map_err(|why| bad(digest, format!("{lookaside}: {why}")))?);
        }
    }
}

/// A file's content; `None` if it is not there.
fn read(path: PathBuf) -> Result<Option<Vec<u8>>> {
    let failed = |error: std::io::Error| Error::Config {
        path: path.clone(),
        reason: error.to_string(),
    };
    let file = match File::open(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    let limit = trust::limits::SIGNATURE_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn bad(manifest: &Digest, reason: impl ToString) -> Error {
    Error::bad_manifest(format!("signatures of manifest {manifest}"), reason)
}
