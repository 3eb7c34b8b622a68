//! What an additional layer store says of a layer: a record as `layers.json` has them, of which little is
//! believed. That it is of the table of contents that was asked for is the store's word, as for
//! containers/image; a diff ID that it tells is not looked at.

use serde::Deserialize;

use crate::{Digest, limits};

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "toc-digest")]
    toc_digest: String,
    #[serde(default, rename = "diff-size")]
    size: i64,
    #[serde(default, rename = "compressed-size")]
    compressed_size: i64,
    #[serde(default)]
    compression: i64,
}

/// What is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Bytes of the uncompressed archive; -1 if nobody knows.
    pub(super) size: i64,
    /// Bytes of the blob; 0 if nobody knows.
    pub(super) compressed_size: i64,
    /// As in [`crate::Compression`].
    pub(super) compression: i64,
}

impl Info {
    pub(super) fn parse(bytes: &[u8], toc: &Digest) -> Result<Self, String> {
        const COMPRESSIONS: std::ops::RangeInclusive<i64> = 0..=4;
        if bytes.len() as u64 > limits::OFFERED_INFO_BYTES {
            return Err("its info is too large".to_owned());
        }
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| format!("its info: {error}"))?;
        if raw.toc_digest != toc.as_str() {
            return Err(format!(
                "its table of contents has the digest {:?}",
                raw.toc_digest
            ));
        }
        let known = |size: i64, unknown: i64| {
            let fits = u64::try_from(size).is_ok_and(|size| size <= limits::OFFERED_LAYER_BYTES);
            if fits && size > 0 { size } else { unknown }
        };
        Ok(Self {
            size: known(raw.size, -1),
            compressed_size: known(raw.compressed_size, 0),
            compression: match COMPRESSIONS.contains(&raw.compression) {
                true => raw.compression,
                false => 0,
            },
        })
    }
}

/// Fuzzed: sizes keep their bounds, and what is taken comes back.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let toc = Digest::of(b"");
    if let Ok(info) = Info::parse(bytes, &toc) {
        assert!(info.size == -1 || info.size > 0);
        assert!(info.compressed_size >= 0);
        let most = i64::try_from(limits::OFFERED_LAYER_BYTES).unwrap_or(i64::MAX);
        assert!(info.size <= most && info.compressed_size <= most);
        let text = format!(
            r#"{{"toc-digest":"{toc}","diff-size":{},"compressed-size":{},"compression":{}}}"#,
            info.size, info.compressed_size, info.compression
        );
        assert_eq!(Info::parse(text.as_bytes(), &toc), Ok(info));
        let other = Digest::of(b"another");
        assert!(
            Info::parse(bytes, &other).is_err(),
            "it is asked for by its digest"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_believed() {
        let toc = Digest::of(b"toc");
        let with = |rest: &str| {
            Info::parse(
                format!(r#"{{"toc-digest":"{toc}"{rest}}}"#).as_bytes(),
                &toc,
            )
        };
        let unknown = Info {
            size: -1,
            compressed_size: 0,
            compression: 0,
        };
        assert_eq!(with(""), Ok(unknown));
        assert_eq!(
            with(r#","diff-size":-1,"compression":2,"flags":{"a":"b"},"diff-digest":"sha256:0""#),
            Ok(Info {
                compression: 2,
                ..unknown
            })
        );
        assert_eq!(
            with(r#","diff-size":7,"compressed-size":5,"compression":99"#),
            Ok(Info {
                size: 7,
                compressed_size: 5,
                ..unknown
            })
        );
        assert_eq!(
            with(r#","diff-size":9223372036854775807,"compressed-size":-9"#),
            Ok(unknown)
        );
        for (text, expected) in [
            ("{}".to_owned(), "has the digest \"\""),
            (
                format!(r#"{{"toc-digest":"{}"}}"#, Digest::of(b"")),
                "has the digest",
            ),
            ("[".to_owned(), "its info"),
            (" ".repeat(1 << 20) + "{}", "too large"),
        ] {
            let error = Info::parse(text.as_bytes(), &toc).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
