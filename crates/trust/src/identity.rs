//! Whether the reference that a signature names is the one that an image goes by: the types of
//! `signedIdentity`.
//!
//! Source: `containers-policy.json(5)`, "signedBy".

use serde_json::Value;

use crate::json::Object;
use crate::scope::Name;

mod named;

use named::Named;

/// How the signed reference is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The same reference, tag or digest included.
    MatchExact,
    /// The same with a tag; with a digest, the same repository.
    MatchRepoDigestOrExact,
    /// The same repository.
    MatchRepository,
    /// This reference, whatever the image's is.
    ExactReference(Named),
    /// Any reference of this repository.
    ExactRepository(Named),
    /// As `MatchRepoDigestOrExact`, once the image's prefix is replaced.
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

impl Identity {
    /// The default where a policy says nothing.
    pub(crate) fn parse_or_default(value: Option<Value>) -> Result<Self, String> {
        value.map_or(Ok(Self::MatchRepoDigestOrExact), Self::parse)
    }

    pub(crate) fn parse(value: Value) -> Result<Self, String> {
        let mut object = Object::of("signedIdentity", value)?;
        let kind = object.string("type")?;
        let identity = match kind.as_str() {
            "matchExact" => Self::MatchExact,
            "matchRepoDigestOrExact" => Self::MatchRepoDigestOrExact,
            "matchRepository" => Self::MatchRepository,
            "exactReference" => {
                let reference = Named::normalized(&object.string("dockerReference")?)?;
                if reference.is_name_only() {
                    return Err("dockerReference has neither tag nor digest".to_owned());
                }
                Self::ExactReference(reference)
            }
            "exactRepository" => {
                Self::ExactRepository(Named::normalized(&object.string("dockerRepository")?)?)
            }
            "remapIdentity" => {
                let prefix = named::prefix(object.string("prefix")?)?;
                let signed_prefix = named::prefix(object.string("signedPrefix")?)?;
                Self::Remap {
                    prefix,
                    signed_prefix,
                }
            }
            other => return Err(format!("unknown type of signedIdentity {other:?}")),
        };
        object.end()?;
        Ok(identity)
    }

    /// Tells whether an image of this name, or without one, may have a signature for that reference.
    pub(crate) fn accepts(&self, image: Option<&Name<'_>>, signed: &str) -> bool {
        let Ok(signed) = Named::normalized(signed) else {
            return false;
        };
        match (self, image.map(Named::of)) {
            (Self::ExactReference(reference), _) => signed == *reference,
            (Self::ExactRepository(repository), _) => {
                signed.repository() == repository.repository()
            }
            (_, None) => false,
            (Self::MatchExact, Some(image)) => {
                !image.is_name_only() && !signed.is_name_only() && signed == image
            }
            (Self::MatchRepoDigestOrExact, Some(image)) => repo_digest_or_exact(&image, &signed),
            (Self::MatchRepository, Some(image)) => signed.repository() == image.repository(),
            (
                Self::Remap {
                    prefix,
                    signed_prefix,
                },
                Some(image),
            ) => image
                .remapped(prefix, signed_prefix)
                .is_ok_and(|image| repo_digest_or_exact(&image, &signed)),
        }
    }
}

/// With a digest the repository is enough: that the signature is for this manifest is checked
/// beside this.
fn repo_digest_or_exact(image: &Named, signed: &Named) -> bool {
    if signed.is_name_only() {
        return false;
    }
    match (image.tag(), image.digest()) {
        (Some(_), _) => signed == image,
        (None, Some(_)) => signed.repository() == image.repository(),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn identity(value: Value) -> Identity {
        Identity::parse(value).unwrap()
    }

    #[test]
    fn references_are_compared_as_the_type_says() {
        let exact = || json!({"type": "matchExact"});
        let default = || json!({"type": "matchRepoDigestOrExact"});
        let repository = || json!({"type": "matchRepository"});
        let reference = || json!({"type": "exactReference", "dockerReference": "busybox:1"});
        let of_repository = || json!({"type": "exactRepository", "dockerRepository": "up.io/x"});
        let remap =
            || json!({"type": "remapIdentity", "prefix": "a.io/m", "signedPrefix": "up.io/x"});
        let by_digest = format!("a.io/b@{DIGEST}");
        let (tag, digest) = ((Some("1"), None), (None, Some(DIGEST)));
        for (policy, repo, (tag, digest), signed, accepted) in [
            (exact(), "a.io/b", tag, "a.io/b:1", true),
            (exact(), "a.io/b", tag, "a.io/b:2", false),
            (exact(), "a.io/b", tag, "a.io/b", false),
            (exact(), "a.io/b", tag, "c.io/b:1", false),
            (exact(), "docker.io/library/busybox", tag, "busybox:1", true),
            (exact(), "a.io/b", digest, "a.io/b:1", false),
            (exact(), "a.io/b", digest, by_digest.as_str(), true),
            (default(), "a.io/b", tag, "a.io/b:1", true),
            (default(), "a.io/b", tag, "a.io/b:2", false),
            (default(), "a.io/b", tag, by_digest.as_str(), false),
            (default(), "a.io/b", digest, "a.io/b:2", true),
            (default(), "a.io/b", digest, "a.io/b", false),
            (default(), "a.io/b", digest, "a.io/bb:2", false),
            (default(), "a.io/b", (None, None), "a.io/b:1", false),
            (repository(), "a.io/b", tag, "a.io/b:2", true),
            (repository(), "a.io/b", tag, "a.io/b", true),
            (repository(), "a.io/b", tag, "a.io/b/c:1", false),
            (repository(), "a.io/b", tag, "A nonsense", false),
            (
                reference(),
                "a.io/b",
                tag,
                "docker.io/library/busybox:1",
                true,
            ),
            (
                reference(),
                "docker.io/library/busybox",
                (Some("2"), None),
                "busybox:2",
                false,
            ),
            (of_repository(), "a.io/b", tag, "up.io/x:9", true),
            (of_repository(), "a.io/b", tag, "a.io/b:1", false),
            (remap(), "a.io/m", tag, "up.io/x:1", true),
            (remap(), "a.io/m/app", tag, "up.io/x/app:1", true),
            (remap(), "a.io/m/app", tag, "a.io/m/app:1", false),
            (remap(), "a.io/mm", tag, "up.io/xm:1", false),
            (remap(), "other.io/y", tag, "other.io/y:1", true),
        ] {
            let name = Name {
                repository: repo,
                tag,
                digest,
            };
            let accepts = identity(policy.clone()).accepts(Some(&name), signed);
            assert_eq!(accepts, accepted, "{policy} {name:?} {signed}");
        }
        // What is in files has no name.
        for (policy, signed, accepted) in [
            (exact(), "a.io/b:1", false),
            (default(), "a.io/b:1", false),
            (repository(), "a.io/b:1", false),
            (remap(), "up.io/x:1", false),
            (reference(), "docker.io/library/busybox:1", true),
            (reference(), "busybox:2", false),
            (of_repository(), "up.io/x:9", true),
            (of_repository(), "a.io/b:1", false),
        ] {
            let accepts = identity(policy.clone()).accepts(None, signed);
            assert_eq!(accepts, accepted, "{policy} {signed}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for value in [
            json!({}),
            json!("matchExact"),
            json!({"type": "matchNothing"}),
            json!({"type": "matchExact", "x": 1}),
            json!({"type": "exactReference", "dockerReference": "busybox"}),
            json!({"type": "exactReference", "dockerReference": "BUSYBOX:1"}),
            json!({"type": "exactReference"}),
            json!({"type": "exactRepository", "dockerRepository": "/"}),
            json!({"type": "remapIdentity", "prefix": "a.io"}),
            json!({"type": "remapIdentity", "prefix": "a.io/", "signedPrefix": "b.io"}),
            json!({"type": "remapIdentity", "prefix": "a.io", "signedPrefix": "b.io/x:1"}),
        ] {
            assert!(Identity::parse(value.clone()).is_err(), "{value}");
        }
        assert_eq!(
            Identity::parse_or_default(None),
            Ok(Identity::MatchRepoDigestOrExact)
        );
    }
}
