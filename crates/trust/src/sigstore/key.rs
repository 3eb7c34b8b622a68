//! Public keys, and signatures of the kinds that cosign makes.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::material::Material;

/// A public key, with the kind of signature that it is for. All hash with SHA-256, or with what
/// Ed25519 says.
pub(super) struct PublicKey {
    /// Its SubjectPublicKeyInfo.
    der: Vec<u8>,
    raw: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    P521,
    Rsa,
    Ed25519,
}

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const CURVES: [(ObjectIdentifier, Kind); 3] = [
    (
        ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
        Kind::P256,
    ),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), Kind::P384),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), Kind::P521),
];

impl PublicKey {
    /// Reads a policy's keys, one of each file or piece. All have to be good, so that one that is
    /// not is found before it is needed.
    pub(super) fn load(material: &Material) -> Result<Vec<Self>, String> {
        material
            .load()?
            .iter()
            .map(|pem| Self::from_pem(pem))
            .collect()
    }

    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("a public key of the policy is no PEM: {error}"))?;
        Self::from_der(&der)
    }

    /// Reads a SubjectPublicKeyInfo.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, String> {
        let bad = |error: x509_cert::der::Error| format!("invalid public key: {error}");
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(bad)?;
        let oid = info.algorithm.oid;
        let kind = if oid == EC {
            let curve = info.algorithm.parameters_oid().ok();
            let known = CURVES.iter().find(|(oid, _)| Some(*oid) == curve);
            known.map(|(_, kind)| *kind)
        } else if oid == RSA {
            Some(Kind::Rsa)
        } else {
            (oid == ED).then_some(Kind::Ed25519)
        };
        let kind = kind.ok_or_else(|| format!("a public key is of an unknown kind ({oid})"))?;
        let raw = info.subject_public_key.as_bytes();
        let raw = raw.ok_or("invalid public key: unused bits")?.to_owned();
        let der = info.to_der().map_err(bad)?;
        Ok(Self { der, raw, kind })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it is one that Rekor signs with.
    pub(super) fn is_ecdsa(&self) -> bool {
        matches!(self.kind, Kind::P256 | Kind::P384 | Kind::P521)
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
            Kind::P384 => &ECDSA_P384_SHA256_ASN1,
            Kind::P521 => &ECDSA_P521_SHA256_ASN1,
            Kind::Rsa => &RSA_PKCS1_2048_8192_SHA256,
            Kind::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(algorithm, &self.raw)
            .verify(message, signature)
            .is_ok()
    }
}
