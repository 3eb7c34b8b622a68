//! Image references: `[host[:port]/]path[:tag][@digest]`, and what else names an image.

use std::fmt;
use std::str::FromStr;

use storage::Digest;

use crate::error::{Error, Result};
use crate::limits;

const DOCKER: &str = "docker.io";

/// A normalised reference: it has a host, and a tag or a digest (perhaps both, then the digest
/// counts).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A reference as a user writes it: with or without a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// It says which registry.
    Full(Reference),
    /// It does not: `busybox`, `team/app:v1`. The value has no host.
    Short(ShortName),
}

/// A name without a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortName {
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's `host[:port]`; `docker.io` for what is pulled from its registry.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path at the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `host/path`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag; there is one unless there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The last part of a manifest's URL: digest or tag.
    pub(crate) fn version(&self) -> &str {
        let tag = self.tag.as_deref().unwrap_or("latest");
        self.digest.as_ref().map_or(tag, Digest::as_str)
    }

    /// The name under which the store keeps it: with the digest alone where there is one.
    #[must_use]
    pub fn stored_name(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.repository()),
            None => format!("{}:{}", self.repository(), self.version()),
        }
    }

    /// The same version in another repository.
    pub(crate) fn in_repository(&self, repository: &str) -> Result<Self> {
        let mut moved: Self = repository.parse()?;
        moved.tag.clone_from(&self.tag);
        moved.digest.clone_from(&self.digest);
        Ok(moved)
    }

    /// Asks something about it that takes it as `trust` does.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&trust::Name<'_>) -> T) -> T {
        ask(&trust::Name {
            repository: &self.repository(),
            tag: self.tag.as_deref(),
            digest: self.digest.as_ref().map(Digest::as_str),
        })
    }
}

impl Reference {
    /// Reads a name as docker means it: without a host it is of docker's own registry.
    pub(crate) fn normalized(text: &str) -> Result<Self> {
        match text.parse()? {
            ImageName::Full(full) => Ok(full),
            ImageName::Short(short) => {
                let library = if short.path.contains('/') {
                    ""
                } else {
                    "library/"
                };
                short.at(&format!("docker.io/{library}{}", short.path))
            }
        }
    }
}

impl ShortName {
    /// The name without tag and digest, as the table of aliases has it.
    pub(crate) fn name(&self) -> &str {
        &self.path
    }

    /// The same version of a repository (`host/path`).
    pub(crate) fn at(&self, repository: &str) -> Result<Reference> {
        let reference: Reference = repository.parse()?;
        Ok(reference.with(self.tag.clone(), self.digest.clone()))
    }
}

impl Reference {
    fn with(mut self, tag: Option<String>, digest: Option<Digest>) -> Self {
        let tag = if tag.is_none() && digest.is_none() {
            Some("latest".to_owned())
        } else {
            tag
        };
        (self.tag, self.digest) = (tag, digest);
        self
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadReference {
            reference: text.chars().take(limits::QUOTED_BYTES).collect(),
            reason: reason.to_owned(),
        };
        if text.len() > limits::REFERENCE_BYTES {
            return Err(bad("too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse()
                        .map_err(|_| bad("unsupported or malformed digest"))?,
                ),
            ),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest.get(last..).and_then(|part| part.find(':')) {
            Some(colon) if last > 0 || !looks_like_host_only(rest) => {
                let (name, tag) = rest.split_at(last + colon);
                (name, tag.strip_prefix(':').map(str::to_owned))
            }
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("malformed tag"));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (Some(first), path),
            _ => (None, name),
        };
        if !is_path(path) {
            return Err(bad(if path.chars().any(|c| c.is_ascii_uppercase()) {
                "a repository name must be lower case"
            } else {
                "malformed repository name"
            }));
        }
        if name.len() > limits::REPOSITORY_BYTES {
            return Err(bad("repository name too long"));
        }
        let Some(host) = host else {
            return Ok(Self::Short(ShortName {
                path: path.to_owned(),
                tag,
                digest,
            }));
        };
        if !is_well_formed_host(host) {
            return Err(bad("malformed host"));
        }
        let host = if host == "index.docker.io" {
            DOCKER
        } else {
            host
        };
        let path = if host == DOCKER && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if host.len() + 1 + path.len() > limits::REPOSITORY_BYTES {
            return Err(bad("repository name too long"));
        }
        let bare = Reference {
            host: host.to_owned(),
            path,
            tag: None,
            digest: None,
        };
        Ok(Self::Full(bare.with(tag, digest)))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse()? {
            ImageName::Full(reference) => Ok(reference),
            ImageName::Short(_) => Err(Error::BadReference {
                reference: text.to_owned(),
                reason: "it names no registry".to_owned(),
            }),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// An image ID, in full, with or without its algorithm.
pub(crate) fn full_id(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (hex.len() == 64 && is_hex(hex)).then_some(hex)
}

/// What may be the beginning of an image ID: three digits at least, as CRI-O asks.
pub(crate) fn is_id_prefix(text: &str) -> bool {
    (3..64).contains(&text.len()) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// `name:tag` without a slash is never a host with a port.
fn looks_like_host_only(text: &str) -> bool {
    text.starts_with('[')
}

/// What containers/image takes for a host: it has a dot or a port, is `localhost`, or could be no
/// repository since it has an upper case letter.
fn is_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_well_formed_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            }
            _ => return false,
        },
        None => host
            .split_once(':')
            .map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// distribution-spec, "Pulling manifests": the grammar of a repository's name.
fn is_path(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(is_component)
}

/// Alphanumerics, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut after_text = false;
    for c in component.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let joined = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.chars().all(|c| c == '-');
            if !joined {
                return false;
            }
            separator.clear();
            after_text = true;
        } else if matches!(c, '.' | '_' | '-') && after_text {
            separator.push(c);
        } else {
            return false;
        }
    }
    after_text && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= limits::TAG_BYTES
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_normalised() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        for (text, full) in [
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:1", "docker.io/a/b:1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("h.io:5000/a/b_c/d--e:V1.2-x", "h.io:5000/a/b_c/d--e:V1.2-x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("UPPER/a", "UPPER/a:latest"),
            (&format!("h.io/a@{digest}"), &format!("h.io/a@{digest}")),
            (&format!("h.io/a:t@{digest}"), &format!("h.io/a:t@{digest}")),
        ] {
            assert_eq!(
                text.parse::<Reference>().unwrap().to_string(),
                full,
                "{text}"
            );
        }
        let both: Reference = format!("h.io/a:t@{digest}").parse().unwrap();
        assert_eq!(both.stored_name(), format!("h.io/a@{digest}"));
    }

    #[test]
    fn names_without_a_host_are_short() {
        for text in ["busybox", "busybox:1.36", "team/app", "a/b/c:d"] {
            let ImageName::Short(short) = text.parse().unwrap() else {
                panic!("{text}")
            };
            assert_eq!(short.to_string(), text);
        }
        let ImageName::Short(short) = "busybox:1".parse().unwrap() else {
            panic!()
        };
        assert_eq!(
            short.at("docker.io/library/busybox").unwrap().to_string(),
            "docker.io/library/busybox:1"
        );
    }

    #[test]
    fn a_name_that_grows_too_long_is_refused() {
        for (length, good) in [(237, true), (238, false)] {
            let text = format!("docker.io/{}", "a".repeat(length));
            let parsed = text.parse::<Reference>();
            assert_eq!(parsed.is_ok(), good, "{length}");
            assert!(parsed.is_ok_and(|it| it.stored_name().parse::<Reference>().is_ok()) == good);
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        let short = format!("h.io/a@sha256:{}", "a".repeat(63));
        let climbing = "h.io/a@sha256:../../../../etc/passwd".to_owned();
        let long = format!("h.io/{}", "a".repeat(300));
        for text in [
            "",
            "/",
            "h.io/",
            "h.io//a",
            "h.io/../a",
            "h.io/a/..",
            "h.io/a:",
            "h.io/a:-t",
            "h.io/A",
            "h.io/a_-b",
            "h.io/a.",
            "h.io:port/a",
            "h.io:99999/a",
            "h..io/a",
            "-h.io/a",
            "[::g]/a",
            "h.io/a?x=y",
            "h.io/a#f",
            "h.io/a b",
            "user@h.io/a",
            "http://h.io/a",
            "h.io/a@md5:00",
            "[::1]:5000",
            &short,
            &climbing,
            &long,
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_are_told_from_names() {
        let id = "0f".repeat(32);
        assert_eq!(full_id(&id), Some(id.as_str()));
        assert_eq!(full_id(&format!("sha256:{id}")), Some(id.as_str()));
        assert_eq!(full_id("0f0f"), None);
        for (text, prefix) in [
            ("0f0", true),
            ("0f", false),
            ("xyz", false),
            (id.as_str(), false),
        ] {
            assert_eq!(is_id_prefix(text), prefix, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_what_parses_to_the_same(text in "[a-zA-Z0-9./:@_-]{0,80}") {
            if let Ok(ImageName::Full(reference)) = text.parse::<ImageName>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn no_path_climbs(text in "\\PC{0,60}") {
            if let Ok(ImageName::Full(reference)) = text.parse::<ImageName>() {
                prop_assert!(!reference.path().split('/').any(|part| part.is_empty() || part.starts_with('.')));
            }
        }
    }
}
