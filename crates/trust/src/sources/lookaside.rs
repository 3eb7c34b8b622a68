//! A place of simple signatures, and where in it those of a manifest are.
//!
//! Source of the layout: containers/image, `docs/signature-protocols.md`.

use std::fmt;
use std::path::PathBuf;

/// A directory or a server that has signatures, numbered from 1, for each manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookaside {
    /// Beneath this directory.
    Dir(PathBuf),
    /// Beneath this URL, `http://` or `https://`, which ends without a slash.
    Server(String),
}

impl Lookaside {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("lookaside {url:?}: {why}");
        if let Some(path) = url.strip_prefix("file://") {
            let path = unescape(path).ok_or_else(|| bad("invalid escape"))?;
            if !path.starts_with('/') {
                return Err(bad("a file's URL has three slashes"));
            }
            return Ok(Self::Dir(path.into()));
        }
        let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"));
        match rest {
            None => Err(bad("neither file:// nor http:// nor https://")),
            Some(rest)
                if rest.contains(['?', '#', '@']) || rest.starts_with('/') || rest.is_empty() =>
            {
                Err(bad("a host and a path, and nothing else, are expected"))
            }
            Some(_) => Ok(Self::Server(url.trim_end_matches('/').to_owned())),
        }
    }

    /// The place of a signature beneath this: `path` is the repository's without its host, `number`
    /// counts from 1. All of them are made of plain characters that neither climb nor need escapes,
    /// since the caller has parsed a reference and a digest.
    #[must_use]
    pub fn beneath(path: &str, digest: &str, number: usize) -> String {
        let digest = digest.replacen(':', "=", 1);
        format!("{path}@{digest}/signature-{number}")
    }
}

impl fmt::Display for Lookaside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "file://{}", dir.display()),
            Self::Server(url) => f.write_str(url),
        }
    }
}

/// Percent escapes of RFC 3986.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = 16 * digit(rest.next()?)? + digit(rest.next()?)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_directories_or_servers() {
        let dir = |path: &str| Ok(Lookaside::Dir(path.into()));
        let server = |url: &str| Ok(Lookaside::Server(url.to_owned()));
        for (url, place) in [
            ("file:///a/b", dir("/a/b")),
            ("file:///a%2fb%25", dir("/a/b%")),
            ("https://a.io/x/", server("https://a.io/x")),
            ("http://a.io:80", server("http://a.io:80")),
            ("file://a/b", Err(())),
            ("file:///%zz", Err(())),
            ("file:///%e2", Err(())),
            ("/a/b", Err(())),
            ("ftp://a.io", Err(())),
            ("https://", Err(())),
            ("https://joe:sesame@a.io", Err(())),
            ("https://a.io?x", Err(())),
        ] {
            assert_eq!(Lookaside::parse(url).map_err(|_| ()), place, "{url}");
        }
        assert_eq!(
            Lookaside::beneath("team/app", "sha256:0a", 2),
            "team/app@sha256=0a/signature-2"
        );
    }
}
