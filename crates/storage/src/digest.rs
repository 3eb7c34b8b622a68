//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The digest of some bytes (image-spec, descriptor.md "Digests"): `sha256:` or `sha512:` and
/// lower-case hexadecimal digits of the right number.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole text: algorithm, colon, digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The algorithm's name.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(digest: String) -> Result<Self, Error> {
        let good = digest.split_once(':').is_some_and(|(algorithm, hex)| {
            let digits = match algorithm {
                "sha256" => 64,
                "sha512" => 128,
                _ => return false,
            };
            hex.len() == digits && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        });
        if good {
            Ok(Self(digest.into()))
        } else {
            Err(Error::Invalid {
                what: "digest",
                value: digest,
            })
        }
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(digest: &str) -> Result<Self, Error> {
        digest.to_owned().try_into()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a SHA-256 digest piece by piece.
#[derive(Clone)]
pub struct Hasher(aws_lc_rs::digest::Context);

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in self.0.finish().as_ref() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(nibble.into(), 16).expect("a nibble is a digit"));
            }
        }
        Digest(text.into())
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_canonical() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        for (text, good) in [
            (empty.to_owned(), true),
            (format!("sha512:{}", "a".repeat(128)), true),
            (empty.to_uppercase(), false),
            (empty.replace('e', "E"), false),
            ("sha256:".into(), false),
            (format!("sha256:{}", "a".repeat(63)), false),
            (format!("sha256:{}", "/".repeat(64)), false),
            (format!("md5:{}", "a".repeat(32)), false),
        ] {
            assert_eq!(text.parse::<Digest>().is_ok(), good, "{text}");
        }
    }
}
