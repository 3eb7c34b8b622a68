//! Digests of manifests, as signatures name them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// A digest: algorithm, colon, lower-case hexadecimal digits of the right number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: &'static str,
    hex: String,
}

const ALGORITHMS: [(&str, &Algorithm); 3] = [
    ("sha256", &SHA256),
    ("sha384", &SHA384),
    ("sha512", &SHA512),
];

impl Digest {
    /// Whether `bytes` have this digest.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        let algorithm = ALGORITHMS.iter().find(|(name, _)| *name == self.algorithm);
        algorithm.is_some_and(|(_, algorithm)| hex(digest(algorithm, bytes).as_ref()) == self.hex)
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid digest {text:?}");
        let (name, hex) = text.split_once(':').ok_or_else(bad)?;
        let known = ALGORITHMS.iter().find(|(known, _)| *known == name);
        let (algorithm, hash) = known.ok_or_else(bad)?;
        let digits = hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || hex.len() != 2 * hash.output_len() {
            return Err(bad());
        }
        let hex = hex.to_owned();
        Ok(Self { algorithm, hex })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_its_bytes_only() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = empty.parse().unwrap();
        assert!(digest.is_of(b"") && !digest.is_of(b"a"));
        for bad in [
            "",
            "sha256:",
            "md5:00",
            "sha256:E3",
            &empty[..70],
            &empty.to_uppercase(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
