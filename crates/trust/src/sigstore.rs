//! `sigstoreSigned`: signatures in cosign's form, verified with nothing but what the policy names.
//!
//! There are three ways to a key that may have signed: the policy names it, or Fulcio certified it for
//! somebody's e-mail address for some minutes, or a certificate authority of one's own did. Rekor's
//! log entry, a signed time stamp that is kept with the signature (SET), tells when; it is verified
//! offline, with the log's public key. Inclusion in the log is not asked for, as with containers/image.

use crate::json::Object;
use crate::material::{Keys, Material};
use crate::payload::{Kind, Payload};
use crate::signature::Attachment;
use crate::time::Now;

mod certificate;
mod key;
mod rekor;

use certificate::Issued;
use key::PublicKey;

/// cosign's annotations.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";

/// Who may have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sigstore {
    signer: Signer,
    /// The logs' keys; without any, no log entry is asked for.
    rekor: Option<Material>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Signer {
    Keys(Material),
    Fulcio {
        roots: Material,
        issuer: String,
        email: String,
    },
    Pki {
        roots: Material,
        intermediates: Option<Material>,
        email: Option<String>,
        host: Option<String>,
    },
}

impl Sigstore {
    /// Takes its keys from a requirement.
    pub(crate) fn take(object: &mut Object) -> Result<Self, String> {
        let keys = Material::take(
            object,
            &Keys {
                path: "keyPath",
                paths: "keyPaths",
                data: "keyData",
                datas: "keyDatas",
            },
        )?;
        let fulcio = object
            .take("fulcio")
            .map(|value| Object::of("fulcio", value));
        let pki = object.take("pki").map(|value| Object::of("pki", value));
        let rekor = Material::take(
            object,
            &Keys {
                path: "rekorPublicKeyPath",
                paths: "rekorPublicKeyPaths",
                data: "rekorPublicKeyData",
                datas: "rekorPublicKeyDatas",
            },
        )?;
        let signer = match (keys, fulcio.transpose()?, pki.transpose()?) {
            (Some(keys), None, None) => Signer::Keys(keys),
            (None, Some(fulcio), None) => Signer::fulcio(fulcio)?,
            (None, None, Some(pki)) => Signer::pki(pki)?,
            _ => return Err("exactly one of keys, fulcio and pki must be given".to_owned()),
        };
        match (&signer, &rekor) {
            (Signer::Fulcio { .. }, None) => Err(
                "fulcio needs Rekor's public key, since its certificates are short-lived"
                    .to_owned(),
            ),
            (Signer::Pki { .. }, Some(_)) => {
                Err("pki and Rekor's public key can't be used together".to_owned())
            }
            _ => Ok(Self { signer, rekor }),
        }
    }

    /// Verifies an attachment and returns what it says.
    ///
    /// # Errors
    /// A part is missing, wrong, or by somebody else; a key of the policy can't be read.
    pub(crate) fn verify(&self, attached: &Attachment, now: Now) -> Result<Payload, String> {
        let signature = annotation(attached, SIGNATURE)?;
        let signature = crate::json::decode(SIGNATURE, signature)?;
        let signed = rekor::Signed {
            signature: &signature,
            payload: &attached.payload,
        };
        let keys = match &self.signer {
            Signer::Keys(keys) => self.logged_keys(PublicKey::load(keys)?, attached, &signed)?,
            Signer::Fulcio {
                roots,
                issuer,
                email,
            } => {
                let rekor = self.rekor.as_ref().ok_or("Rekor's public key is missing")?;
                let rekor = PublicKey::load(rekor)?;
                let bundle = annotation(attached, BUNDLE)?;
                let leaf = annotation(attached, CERTIFICATE)?;
                let when = rekor::verify(bundle, &rekor, &certificate::der(leaf)?, &signed)?;
                let issued = Issued::verify(leaf, chain(attached), &roots.load()?, &[], when)?;
                issued.check_issuer(issuer)?;
                issued.check_email(email)?;
                vec![issued.key()?]
            }
            Signer::Pki {
                roots,
                intermediates,
                email,
                host,
            } => {
                let leaf = annotation(attached, CERTIFICATE)?;
                let own = intermediates
                    .as_ref()
                    .map_or(Ok(Vec::new()), Material::load)?;
                let issued = Issued::verify(leaf, chain(attached), &roots.load()?, &own, now)?;
                if let Some(email) = email {
                    issued.check_email(email)?;
                }
                if let Some(host) = host {
                    issued.check_host(host)?;
                }
                vec![issued.key()?]
            }
        };
        if !keys
            .iter()
            .any(|key| key.verifies(&attached.payload, &signature))
        {
            return Err("the sigstore signature is wrong, or by another key".to_owned());
        }
        Payload::parse(Kind::Sigstore, &attached.payload)
    }

    /// Those of the policy's keys that the log saw sign this; all, if no log is asked.
    fn logged_keys(
        &self,
        keys: Vec<PublicKey>,
        attached: &Attachment,
        signed: &rekor::Signed<'_>,
    ) -> Result<Vec<PublicKey>, String> {
        let Some(rekor) = &self.rekor else {
            return Ok(keys);
        };
        let rekor = PublicKey::load(rekor)?;
        let bundle = annotation(attached, BUNDLE)?;
        let mut refused = Vec::new();
        for key in keys {
            match rekor::verify(bundle, &rekor, key.der(), signed) {
                Ok(_) => return Ok(vec![key]),
                Err(why) => refused.push(why),
            }
        }
        Err(refused.join("; "))
    }
}

impl Signer {
    fn fulcio(mut object: Object) -> Result<Self, String> {
        let keys = Keys {
            path: "caPath",
            paths: "",
            data: "caData",
            datas: "",
        };
        let roots = Material::need(&mut object, &keys)?;
        let issuer = filled(&mut object, "oidcIssuer")?.ok_or("\"oidcIssuer\" is missing")?;
        let email = filled(&mut object, "subjectEmail")?.ok_or("\"subjectEmail\" is missing")?;
        object.end()?;
        Ok(Self::Fulcio {
            roots,
            issuer,
            email,
        })
    }

    fn pki(mut object: Object) -> Result<Self, String> {
        let roots = Keys {
            path: "caRootsPath",
            paths: "",
            data: "caRootsData",
            datas: "",
        };
        let roots = Material::need(&mut object, &roots)?;
        let intermediates = Keys {
            path: "caIntermediatesPath",
            paths: "",
            data: "caIntermediatesData",
            datas: "",
        };
        let intermediates = Material::take(&mut object, &intermediates)?;
        let email = filled(&mut object, "subjectEmail")?;
        let host = filled(&mut object, "subjectHostname")?;
        object.end()?;
        if email.is_none() && host.is_none() {
            return Err("one of \"subjectEmail\" and \"subjectHostname\" must be given".to_owned());
        }
        Ok(Self::Pki {
            roots,
            intermediates,
            email,
            host,
        })
    }
}

fn filled(object: &mut Object, key: &str) -> Result<Option<String>, String> {
    let text = object.string_if_any(key)?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn annotation<'a>(attached: &'a Attachment, key: &str) -> Result<&'a str, String> {
    let found = attached.annotations.get(key).map(String::as_str);
    found.ok_or_else(|| format!("the sigstore signature has no annotation {key}"))
}

fn chain(attached: &Attachment) -> &str {
    attached.annotations.get(CHAIN).map_or("", String::as_str)
}

#[cfg(test)]
mod tests;
