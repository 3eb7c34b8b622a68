//! The node's private keys: files of PEM, DER or JSON (JWK) anywhere beneath one directory.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, PrivateKey};
use aws_lc_rs::rsa::{OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::{Error, Result};
use crate::limits;

mod jwk;

/// A private key.
#[derive(Debug)]
pub(crate) enum Key {
    /// One key, for either padding.
    Rsa {
        oaep: OaepPrivateDecryptingKey,
        pkcs1: Pkcs1PrivateDecryptingKey,
    },
    /// For ECDH.
    Ec(PrivateKey),
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Keys {
    dir: PathBuf,
    pub(super) keys: Vec<Key>,
    /// Files that are no key that we can use, and why.
    unusable: Vec<String>,
}

impl Keys {
    /// Reads them; a directory that is not there has none.
    ///
    /// # Errors
    /// [`Error::Config`] where it can't be read; of a symbolic link, as with CRI-O.
    pub(super) fn load(dir: &Path) -> Result<Self> {
        let mut keys = Self {
            dir: dir.to_owned(),
            ..Self::default()
        };
        keys.walk(dir, 0)?;
        Ok(keys)
    }

    /// An error's reason, with what may be the cause of it.
    pub(super) fn explain(&self, reason: String) -> String {
        let dir = self.dir.display();
        let mut text = match self.keys.is_empty() {
            true => format!("no key in {dir}"),
            false => format!("{reason} ({} in {dir})", self.keys.len()),
        };
        for unusable in &self.unusable {
            text.push_str(&format!(", {unusable}"));
        }
        text
    }

    fn walk(&mut self, dir: &Path, depth: usize) -> Result<()> {
        let wrong = |path: &Path, reason: String| Error::Config {
            path: path.to_owned(),
            reason,
        };
        let entries = match fs::read_dir(dir) {
            Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(());
            }
            entries => entries.map_err(|error| wrong(dir, error.to_string()))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| wrong(dir, error.to_string()))?;
            let path = entry.path();
            let kind = entry
                .file_type()
                .map_err(|error| wrong(&path, error.to_string()))?;
            if self.keys.len() + self.unusable.len() >= limits::KEYS {
                return Err(wrong(dir, format!("more than {} keys", limits::KEYS)));
            }
            if kind.is_symlink() {
                return Err(wrong(
                    &path,
                    "symbolic links are not followed to keys".to_owned(),
                ));
            }
            if kind.is_dir() {
                if depth >= limits::KEY_DIRECTORIES {
                    return Err(wrong(&path, "directories nested too deeply".to_owned()));
                }
                self.walk(&path, depth + 1)?;
            } else if kind.is_file() {
                let bytes = read(&path).map_err(|error| wrong(&path, error.to_string()))?;
                match Key::parse(&bytes) {
                    Ok(key) => self.keys.push(key),
                    Err(reason) => self.unusable.push(format!("{}: {reason}", path.display())),
                }
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limits::KEY_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Key {
    /// A JSON Web Key, PEM, or DER of any of the usual forms.
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if jwk::is_one(bytes) {
            return jwk::parse(bytes);
        }
        let is_pem = bytes.windows(10).any(|part| part == b"-----BEGIN");
        let encrypted = |part: &[u8]| part == b"ENCRYPTED ";
        if is_pem && bytes.windows(10).any(encrypted) || contains(bytes, b"Proc-Type: 4,ENCRYPTED")
        {
            return Err("encrypted with a password");
        }
        match PrivateKeyDer::from_pem_slice(bytes) {
            Ok(PrivateKeyDer::Pkcs1(der)) => Self::from_pkcs8(&pkcs8_of(der.secret_pkcs1_der())),
            Ok(key) => Self::from_pkcs8(key.secret_der()),
            Err(_) if contains(bytes, b"-----BEGIN CERTIFICATE") => {
                Err("a certificate, of which only the key is needed")
            }
            Err(_) if is_pem => Err("no private key"),
            Err(_) => Self::from_pkcs8(bytes).or_else(|_| Self::from_pkcs8(&pkcs8_of(bytes))),
        }
    }

    /// Of PKCS #8, or SEC 1 for elliptic curves.
    fn from_pkcs8(der: &[u8]) -> Result<Self, &'static str> {
        if let Ok(key) = PrivateDecryptingKey::from_pkcs8(der) {
            let refused = |_| "an RSA key that is not accepted";
            return Ok(Self::Rsa {
                oaep: OaepPrivateDecryptingKey::new(key.clone()).map_err(refused)?,
                pkcs1: Pkcs1PrivateDecryptingKey::new(key).map_err(refused)?,
            });
        }
        let curves = [
            &agreement::ECDH_P256,
            &agreement::ECDH_P384,
            &agreement::ECDH_P521,
        ];
        let mut keys = curves
            .iter()
            .filter_map(|curve| PrivateKey::from_private_key_der(curve, der).ok());
        keys.next()
            .map(Self::Ec)
            .ok_or("no private key of a known kind")
    }

    #[cfg(test)]
    pub(super) fn of_pkcs8(der: &[u8]) -> Self {
        Self::from_pkcs8(der).expect("a key that was just made")
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn test_ec() -> Self {
        let key = PrivateKey::from_private_key(&agreement::ECDH_P256, &[7; 32]);
        Self::Ec(key.expect("a number below the order"))
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|part| part == text)
}

/// An RSA key's own structure (PKCS #1) in the common one (PKCS #8, RFC 5208, 5).
fn pkcs8_of(pkcs1: &[u8]) -> Vec<u8> {
    /// Version 0, and the algorithm rsaEncryption without parameters.
    const HEAD: [u8; 18] = [
        2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0,
    ];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 4;
    der(SEQUENCE, &[&HEAD[..], &der(OCTETS, pkcs1)].concat())
}

/// A DER element (X.690, 8.1.3).
pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = length.iter().copied().skip_while(|byte| *byte == 0);
    let significant: Vec<u8> = significant.collect();
    let mut element = vec![tag];
    match significant[..] {
        [] => element.push(0),
        [short] if short < 0x80 => element.push(short),
        _ => {
            let octets = u8::try_from(significant.len()).unwrap_or(u8::MAX);
            element.push(0x80 | octets);
            element.extend(&significant);
        }
    }
    element.extend(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_der() {
        for (length, head) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (1200, vec![4, 0x82, 4, 0xb0]),
        ] {
            let element = der(4, &vec![0; length]);
            assert_eq!(element[..head.len()], head);
            assert_eq!(element.len(), head.len() + length);
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_a_link_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Keys::load(&dir.path().join("absent"))
                .unwrap()
                .keys
                .is_empty()
        );
        fs::create_dir(dir.path().join("more")).unwrap();
        fs::write(dir.path().join("more/README"), "no key").unwrap();
        let locked =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        fs::write(dir.path().join("locked.pem"), locked).unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(dir.path().join("its.crt"), certificate).unwrap();
        let keys = Keys::load(dir.path()).unwrap();
        let text = keys.explain(String::new());
        assert!(text.contains("README: no private key"), "{text}");
        assert!(
            text.contains("locked.pem: encrypted with a password"),
            "{text}"
        );
        assert!(text.contains("its.crt: a certificate"), "{text}");
        std::os::unix::fs::symlink("more", dir.path().join("link")).unwrap();
        assert!(matches!(Keys::load(dir.path()), Err(Error::Config { .. })));
    }
}
