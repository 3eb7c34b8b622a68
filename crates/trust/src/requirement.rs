//! One requirement of a policy, parsed and evaluated.

use serde_json::Value;

use crate::identity::Identity;
use crate::json::Object;
use crate::material::{Keys, Material};
use crate::openpgp;
use crate::payload::{Kind, Payload};
use crate::scope::Name;
use crate::signature::{Evidence, Signature};
use crate::sigstore::Sigstore;
use crate::time::Now;

/// What a policy asks of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// `insecureAcceptAnything`.
    Accept,
    /// `reject`.
    Reject,
    /// `signedBy`.
    SignedBy(SignedBy),
    /// `sigstoreSigned`.
    Sigstore(Box<SigstoreSigned>),
    /// One that is known and that nobody evaluates; why it refuses.
    Never(String),
}

/// Why an unsigned image is refused where a signature is asked for.
const NO_SIGNATURE: &str = "a signature was required, but no signature exists";

/// All must hold. Never empty.
pub(crate) type Requirements = Vec<Requirement>;

/// `signedBy` with `keyType` `GPGKeys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedBy {
    keys: Material,
    identity: Identity,
}

/// `sigstoreSigned`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SigstoreSigned {
    by: Sigstore,
    identity: Identity,
}

/// Parses a policy's list of them.
pub(crate) fn parse_all(list: Value) -> Result<Requirements, String> {
    match list {
        Value::Array(list) if list.is_empty() => {
            Err("the list of requirements is empty".to_owned())
        }
        Value::Array(list) => list.into_iter().map(Requirement::parse).collect(),
        _ => Err("requirements are no list".to_owned()),
    }
}

impl Requirement {
    fn parse(value: Value) -> Result<Self, String> {
        let mut object = Object::of("requirement", value)?;
        let kind = object.string("type")?;
        let parsed = match kind.as_str() {
            "insecureAcceptAnything" => Self::Accept,
            "reject" => Self::Reject,
            "signedBy" => SignedBy::parse(&mut object)?,
            "signedBaseLayer" => {
                Identity::parse(object.need("baseLayerIdentity")?)?;
                Self::Never("signedBaseLayer is not implemented by anybody".to_owned())
            }
            "sigstoreSigned" => Self::Sigstore(Box::new(SigstoreSigned {
                by: Sigstore::take(&mut object)?,
                identity: Identity::parse_or_default(object.take("signedIdentity"))?,
            })),
            other => return Err(format!("unknown requirement type {other:?}")),
        };
        object.end()?;
        Ok(parsed)
    }

    /// What can be said before there are signatures: why no image meets this, or whether
    /// signatures are needed.
    pub(crate) fn needs_signatures(&self) -> Result<bool, String> {
        match self {
            Self::Accept => Ok(false),
            Self::Reject => Err("rejected by policy".to_owned()),
            Self::Never(why) => Err(why.clone()),
            Self::SignedBy(_) | Self::Sigstore(_) => Ok(true),
        }
    }

    /// Tells whether an image with these signatures meets it; one good signature is enough. An image in
    /// files has no name.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(
        &self,
        name: Option<&Name<'_>>,
        evidence: &Evidence<'_>,
        now: Now,
    ) -> Result<(), String> {
        if !self.needs_signatures()? {
            return Ok(());
        }
        let mut refused = Vec::new();
        for signature in evidence.signatures {
            let checked = match (self, signature) {
                (Self::SignedBy(wanted), Signature::Simple(message)) => {
                    wanted.check(message, name, evidence.manifest, now)
                }
                (Self::Sigstore(wanted), Signature::Sigstore(attached))
                    if attached.is_signature() =>
                {
                    let payload = wanted.by.verify(attached, now);
                    payload.and_then(|payload| {
                        is_meant(&payload, &wanted.identity, name, evidence.manifest)
                    })
                }
                // Of another kind: it says nothing to this requirement.
                _ => continue,
            };
            match checked {
                Ok(()) => return Ok(()),
                Err(why) => refused.push(why),
            }
        }
        Err(match refused.as_slice() {
            [] => NO_SIGNATURE.to_owned(),
            [only] => only.clone(),
            several => format!(
                "none of the signatures were accepted, reasons: {}",
                several.join("; ")
            ),
        })
    }
}

impl SignedBy {
    fn parse(object: &mut Object) -> Result<Requirement, String> {
        let keys = Keys {
            path: "keyPath",
            paths: "keyPaths",
            data: "keyData",
            datas: "",
        };
        let kind = object.string("keyType")?;
        let keys = Material::need(object, &keys)?;
        let identity = Identity::parse_or_default(object.take("signedIdentity"))?;
        match kind.as_str() {
            "GPGKeys" => Ok(Requirement::SignedBy(Self { keys, identity })),
            // containers/image knows these words, and refuses every image for them.
            "signedByGPGKeys" | "X509Certificates" | "signedByX509CAs" => Ok(Requirement::Never(
                format!("keyType {kind} is not implemented by anybody"),
            )),
            _ => Err(format!("unknown keyType {kind:?}")),
        }
    }

    fn check(
        &self,
        message: &[u8],
        name: Option<&Name<'_>>,
        manifest: &[u8],
        now: Now,
    ) -> Result<(), String> {
        let ring = openpgp::KeyRing::parse(&self.keys.load()?)?;
        let payload = ring.verify(message, now)?;
        let payload = Payload::parse(Kind::Simple, &payload)?;
        is_meant(&payload, &self.identity, name, manifest)
    }
}

/// A signature that was verified counts for an image only if it is for its manifest, and for a
/// reference that the policy takes for the image's.
fn is_meant(
    payload: &Payload,
    identity: &Identity,
    name: Option<&Name<'_>>,
    manifest: &[u8],
) -> Result<(), String> {
    if !payload.manifest.is_of(manifest) {
        return Err(format!(
            "signature for digest {} does not match",
            payload.manifest
        ));
    }
    if !identity.accepts(name, &payload.reference) {
        let reference = &payload.reference;
        let why = match name {
            Some(_) => "",
            None => {
                ": the image has no name here, so that signedIdentity has to be exactReference or \
                 exactRepository"
            }
        };
        return Err(format!(
            "signature for identity {reference:?} is not accepted{why}"
        ));
    }
    Ok(())
}
