//! Whether an image or an artifact of the store may run or be mounted.

use std::sync::Arc;

use trust::{Evidence, Name, Policy, Refused};

use super::{Images, Shared};
use crate::artifact::Artifact;
use crate::error::Result;
use crate::image::Image;
use crate::reference::Reference;
use crate::signatures::{self, Visit};

/// By what something may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The policy takes it as it is.
    Unsigned,
    /// The policy asks for signatures, and it has them.
    Signed,
}

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
    ) -> Result<Trust> {
        let names = Names::of(user_specified, &image.repo_tags, &image.repo_digests);
        let id = image.id.clone();
        let evidence = move |shared: &Shared, visit: Visit<'_>| {
            let record = shared.puller.store.image(&id)?;
            signatures::evidence(&shared.puller.store, &record, visit);
            Ok(())
        };
        self.names_allowed(names, namespace, evidence).await
    }

    /// As [`Images::allowed`], for an artifact.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Policy`].
    pub async fn artifact_allowed(
        &self,
        artifact: &Artifact,
        user_specified: &str,
        namespace: &str,
    ) -> Result<()> {
        let (tags, digests) = (&artifact.repo_tags, &artifact.repo_digests);
        let names = Names::of(user_specified, tags, digests);
        let stored = artifact.stored();
        let evidence = move |_: &Shared, visit: Visit<'_>| {
            signatures::evidence_of_artifact(&stored, visit);
            Ok(())
        };
        self.names_allowed(names, namespace, evidence).await?;
        Ok(())
    }

    async fn names_allowed(
        &self,
        names: Names,
        namespace: &str,
        evidence: impl Fn(&Shared, Visit<'_>) -> Result<()> + Send + 'static,
    ) -> Result<Trust> {
        let (shared, namespace) = (Arc::clone(&self.0), namespace.to_owned());
        let check = move || {
            let policy = shared.puller.options.policy_of(&namespace)?;
            names.check(&policy, |visit| evidence(&shared, visit))
        };
        self.0.puller.files.run(check).await
    }
}

/// What something stored goes by.
enum Names {
    /// The user named it.
    Given(Reference),
    /// The user gave its ID: these are its own.
    Own(Vec<Reference>),
}

impl Names {
    fn of(user_specified: &str, tags: &[String], digests: &[String]) -> Self {
        match user_specified.parse() {
            Ok(given) => Self::Given(given),
            Err(_) => {
                let own = tags.iter().chain(digests);
                Self::Own(own.filter_map(|name| name.parse().ok()).collect())
            }
        }
    }

    /// The given name must be allowed, or one of its own.
    fn check(&self, policy: &Policy, kept: impl Fn(Visit<'_>) -> Result<()>) -> Result<Trust> {
        let own = match self {
            Self::Given(given) => return given.ask(|name| check(policy, name, &kept)),
            Self::Own(own) => own,
        };
        let mut refused = None;
        for reference in own {
            match reference.ask(|name| check(policy, name, &kept)) {
                Ok(trust) => return Ok(trust),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        // Nothing but the default can speak for what has no name.
        let nameless = Name {
            repository: "",
            tag: None,
            digest: None,
        };
        refused.map_or_else(|| check(policy, &nameless, &kept), Err)
    }
}

/// `kept` shows the manifests that something stored may stand for, each with its signatures.
fn check(
    policy: &Policy,
    name: &Name<'_>,
    kept: &impl Fn(Visit<'_>) -> Result<()>,
) -> Result<Trust> {
    if !policy.needs_signatures(name)? {
        return Ok(Trust::Unsigned);
    }
    let mut checked: Option<Result<(), Refused>> = None;
    kept(&mut |evidence| {
        let one = policy.check(name, evidence);
        let is_enough = one.is_ok();
        checked = Some(one);
        is_enough
    })?;
    // An image that a peer made may have no manifest that we read: there is nothing that could be
    // signed.
    let nothing = Evidence {
        manifest: b"",
        signatures: &[],
    };
    let checked = checked.unwrap_or_else(|| policy.check(name, &nothing));
    checked?;
    Ok(Trust::Signed)
}
