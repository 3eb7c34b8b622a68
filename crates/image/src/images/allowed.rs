//! Whether an image of the store may run.

use std::sync::Arc;

use trust::{Evidence, Policy, Refused};

use super::{Images, Shared};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::reference::Reference;
use crate::signatures;

impl Images {
    /// Tells whether an image may run in a Kubernetes namespace under the name that the user gave it
    /// (or, by ID, under one of its own). Asked again at every creation: it may be in the store for
    /// another's sake, and the policy may be another. What signatures it has was kept with it when
    /// it was pulled; no registry is asked.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Policy`].
    pub async fn allowed(
        &self,
        image: &Image,
        user_specified: &str,
        namespace: &str,
    ) -> Result<()> {
        let (shared, image) = (Arc::clone(&self.0), image.clone());
        let namespace = namespace.to_owned();
        let named: Option<Reference> = user_specified.parse().ok();
        let check = move || {
            let policy = shared.puller.options.policy_of(&namespace)?;
            shared.check_allowed(&policy, &image, named)
        };
        self.0.puller.files.run(check).await
    }
}

impl Shared {
    fn check_allowed(
        &self,
        policy: &Policy,
        image: &Image,
        named: Option<Reference>,
    ) -> Result<()> {
        if let Some(named) = named {
            return named.ask(|name| self.check_name(policy, image, name));
        }
        let own = image.repo_tags.iter().chain(&image.repo_digests);
        let mut refused = None;
        for name in own.filter_map(|name| name.parse::<Reference>().ok()) {
            match name.ask(|name| self.check_name(policy, image, name)) {
                Ok(()) => return Ok(()),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        // Nothing but the default can speak for an image without any name.
        let nameless = trust::Name {
            repository: "",
            tag: None,
            digest: None,
        };
        refused.map_or_else(|| self.check_name(policy, image, &nameless), Err)
    }

    fn check_name(&self, policy: &Policy, image: &Image, name: &trust::Name<'_>) -> Result<()> {
        if !policy.needs_signatures(name)? {
            return Ok(());
        }
        let record = self.puller.store.image(&image.id)?;
        let (manifests, signatures) = signatures::evidence(&self.puller.store, &record);
        let mut refused: Option<Refused> = None;
        for manifest in &manifests {
            let evidence = Evidence {
                manifest,
                signatures: &signatures,
            };
            match policy.check(name, &evidence) {
                Ok(()) => return Ok(()),
                Err(why) => refused = Some(why),
            }
        }
        // An image that a peer made may have no manifest that we read: there is nothing that could
        // be signed.
        let nothing = Evidence {
            manifest: b"",
            signatures: &[],
        };
        match refused {
            Some(why) => Err(Error::Refused(why)),
            None => Ok(policy.check(name, &nothing)?),
        }
    }
}
