//! Certificates for keys that sign: their chain, and whom they are for.
//!
//! The chain is verified by webpki, as TLS's are; what is not TLS's is read by `x509-cert`: e-mail
//! addresses, and the extension in which Fulcio notes who vouched for one.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::ObjectIdentifier;

use super::key::PublicKey;
use crate::time::Now;

/// RFC 5280, 4.2.1.12: `id-kp-codeSigning`, as DER without its tag.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
/// RFC 5280, 4.2.1.6.
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// Fulcio, `docs/oid-info.md`: the issuer as plain bytes (deprecated), and as a UTF-8 string.
const ISSUER_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");

/// A certificate whose chain was verified.
pub(super) struct Issued {
    der: CertificateDer<'static>,
    certificate: Certificate,
}

/// The one certificate of an annotation, as DER.
pub(super) fn der(pem: &str) -> Result<CertificateDer<'static>, String> {
    let mut all = certificates(pem.as_bytes())?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err("the signature's annotation has no certificate".to_owned()),
        (Some(_), false) => Err("the signature's annotation has several certificates".to_owned()),
    }
}

impl Issued {
    /// Verifies that a certificate (PEM) was valid at `when` and is for signing code. The last of
    /// `chain` (PEM) is the root as the signer sees it, which proves nothing; the others, and
    /// `intermediates`, may stand between the certificate and one of `roots` (PEM).
    pub(super) fn verify(
        leaf: &str,
        chain: &str,
        roots: &[Vec<u8>],
        intermediates: &[Vec<u8>],
        when: Now,
    ) -> Result<Self, String> {
        let der = der(leaf)?;
        let mut between = certificates(chain.as_bytes())?;
        between.pop();
        for pem in intermediates {
            between.extend(certificates(pem)?);
        }
        let roots = valid_roots(roots, when)?;
        let anchors = roots.iter().map(anchor_from_trusted_cert);
        let anchors: Vec<TrustAnchor<'_>> = anchors
            .collect::<Result<_, _>>()
            .map_err(|error| format!("a root certificate of the policy can't be used: {error}"))?;
        let refused = |error: webpki::Error| format!("the signer's certificate: {error}");
        let end = EndEntityCert::try_from(&der).map_err(refused)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(when.0));
        let usage = KeyUsage::required_if_present(CODE_SIGNING);
        end.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &between,
            time,
            usage,
            None,
            None,
        )
        .map_err(refused)?;
        let certificate = Certificate::from_der(&der)
            .map_err(|error| format!("the signer's certificate: {error}"))?;
        let extensions = certificate.tbs_certificate.extensions.iter().flatten();
        let mut seen = BTreeSet::new();
        if !extensions
            .into_iter()
            .all(|extension| seen.insert(extension.extn_id))
        {
            return Err("the signer's certificate has an extension twice".to_owned());
        }
        Ok(Self { der, certificate })
    }

    /// The key that it is for.
    pub(super) fn key(&self) -> Result<PublicKey, String> {
        let info = &self.certificate.tbs_certificate.subject_public_key_info;
        let der = info
            .to_der()
            .map_err(|error| format!("the signer's key: {error}"))?;
        PublicKey::from_der(&der)
    }

    pub(super) fn check_email(&self, email: &str) -> Result<(), String> {
        let names = match self.extension(SUBJECT_ALT_NAME) {
            None => Vec::new(),
            Some(value) => {
                SubjectAltName::from_der(value)
                    .map_err(|error| format!("the signer's certificate: {error}"))?
                    .0
            }
        };
        let emails = names.iter().filter_map(|name| match name {
            GeneralName::Rfc822Name(email) => Some(email.as_str()),
            _ => None,
        });
        let emails: Vec<_> = emails.collect();
        if emails.contains(&email) {
            return Ok(());
        }
        Err(format!("the signer is {emails:?}, and not {email:?}"))
    }

    pub(super) fn check_host(&self, host: &str) -> Result<(), String> {
        let wrong = || format!("the signer's certificate is not for host {host:?}");
        let name = ServerName::try_from(host).map_err(|_| wrong())?;
        let end = EndEntityCert::try_from(&self.der).map_err(|_| wrong())?;
        end.verify_is_valid_for_subject_name(&name)
            .map_err(|_| wrong())
    }

    /// Checks who vouched for the signer's address, as Fulcio noted it. Both forms may be there, and
    /// then they are the same.
    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), String> {
        let bad = || "the certificate's issuer extension is damaged".to_owned();
        let first = self
            .extension(ISSUER_V1)
            .map(|value| std::str::from_utf8(value).map_err(|_| bad()));
        let second = self
            .extension(ISSUER_V2)
            .map(|value| String::from_der(value).map_err(|_| bad()));
        let (first, second) = (first.transpose()?, second.transpose()?);
        let found = match (first, second.as_deref()) {
            (Some(first), Some(second)) if first != second => return Err(bad()),
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => return Err("the certificate has no issuer extension".to_owned()),
        };
        if found == issuer {
            return Ok(());
        }
        Err(format!(
            "the signer was vouched for by {found:?}, and not by {issuer:?}"
        ))
    }

    fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.certificate.tbs_certificate.extensions.iter().flatten();
        let found = extensions
            .into_iter()
            .find(|extension| extension.extn_id == oid);
        found.map(|extension| extension.extn_value.as_bytes())
    }
}

/// All certificates of a PEM text, which may have none.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem);
    all.collect::<Result<_, _>>()
        .map_err(|error| format!("certificates: {error}"))
}

/// webpki takes a root for good at any time; here one that has expired is none.
fn valid_roots(pems: &[Vec<u8>], when: Now) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut roots = Vec::new();
    for pem in pems {
        roots.extend(certificates(pem)?);
    }
    if roots.is_empty() {
        return Err("the policy names no root certificate".to_owned());
    }
    let is_valid = |der: &CertificateDer<'_>| {
        Certificate::from_der(der).is_ok_and(|root| {
            let validity = root.tbs_certificate.validity;
            let from = validity.not_before.to_unix_duration().as_secs();
            let until = validity.not_after.to_unix_duration().as_secs();
            (from..=until).contains(&when.0)
        })
    };
    roots.retain(is_valid);
    Ok(roots)
}
