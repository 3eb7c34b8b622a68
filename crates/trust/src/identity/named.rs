//! References as signatures and policies write them. Source of the grammar and of what is left
//! out: distribution's `reference` package, "familiar names".

use crate::digest::Digest;
use crate::limits::{NAME_BYTES, TAG_BYTES};
use crate::scope::Name;

/// A reference, normalised: `domain/path[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Named {
    /// An image's own name, in which the digest counts where there are both.
    pub(super) fn of(name: &Name<'_>) -> Self {
        Self {
            repository: name.repository.to_owned(),
            tag: name
                .tag
                .filter(|_| name.digest.is_none())
                .map(str::to_owned),
            digest: name.digest.map(str::to_owned),
        }
    }

    /// Parses a reference as a user writes it: `busybox` is `docker.io/library/busybox`.
    pub(super) fn normalized(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid reference {text:?}");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest {
            digest.parse::<Digest>().map_err(|_| bad())?;
        }
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        // It could be an image's ID.
        if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let (domain, path) = split_domain(name);
        if !is_domain(domain) || !is_path(&path) || domain.len() + 1 + path.len() > NAME_BYTES {
            return Err(bad());
        }
        Ok(Self {
            repository: format!("{domain}/{path}"),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub(super) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    pub(super) fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The same with another prefix, if it has this one: a domain, or whole parts of the name.
    ///
    /// # Errors
    /// What comes out is no full name.
    pub(super) fn remapped(mut self, prefix: &str, other: &str) -> Result<Self, String> {
        let Some(rest) = self.repository.strip_prefix(prefix) else {
            return Ok(self);
        };
        if !rest.is_empty() && !rest.starts_with('/') {
            return Ok(self);
        }
        let repository = format!("{other}{rest}");
        let parsed = Self::normalized(&repository)?;
        if parsed.repository != repository || !parsed.is_name_only() {
            return Err(format!("{repository:?} is no full name"));
        }
        self.repository = repository;
        Ok(self)
    }
}

/// Checks a prefix of `remapIdentity`: a domain, with or without a path.
pub(super) fn prefix(text: String) -> Result<String, String> {
    let good = match text.split_once('/') {
        None => is_domain(&text),
        Some((domain, path)) => is_domain(domain) && is_path(path),
    };
    if good {
        Ok(text)
    } else {
        Err(format!("invalid prefix {text:?}"))
    }
}

fn split_domain(name: &str) -> (&str, String) {
    let first = name.split_once('/').filter(|(first, _)| {
        first.contains(['.', ':']) || *first == "localhost" || first.chars().any(char::is_uppercase)
    });
    let (domain, path) = first.unwrap_or(("docker.io", name));
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    if domain == "docker.io" && !path.contains('/') {
        return (domain, format!("library/{path}"));
    }
    (domain, path.to_owned())
}

/// `host[:port]`; a host is labels of letters, digits and inner dashes, or an IPv6 address in
/// brackets.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
    if port.is_some_and(|port| !digits(port)) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        let inner = address.strip_suffix(']');
        return inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    }
    host.split('.').all(|label| {
        let inner = label
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    })
}

fn is_path(path: &str) -> bool {
    path.split('/').all(|part| {
        let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let separator =
            |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|c| c == b'-');
        edge(part.chars().next())
            && edge(part.chars().last())
            && separators.into_iter().all(separator)
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= TAG_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_or_refused() {
        for (text, repository) in [
            ("busybox", Some("docker.io/library/busybox")),
            ("team/app:1", Some("docker.io/team/app")),
            ("index.docker.io/app", Some("docker.io/library/app")),
            ("localhost/app", Some("localhost/app")),
            ("Host/app", Some("Host/app")),
            ("a.io:5000/b/c_d__e-f.g:x", Some("a.io:5000/b/c_d__e-f.g")),
            ("[::1]:5000/b", Some("[::1]:5000/b")),
            ("", None),
            ("a.io/", None),
            ("a.io//b", None),
            ("a.io/B", None),
            ("a.io/b..c", None),
            ("a.io/-b", None),
            ("a.io/b___c", None),
            ("a.io/b:", None),
            ("a.io/b:.x", None),
            ("a.io:x/b", None),
            ("-a.io/b", None),
            ("a.io/b@sha256:0", None),
            ("a.io/b@sha256:0@sha256:1", None),
            ("a.io/ b", None),
            (&"a".repeat(64), None),
            (&"z".repeat(300), None),
        ] {
            let parsed = Named::normalized(text).ok();
            assert_eq!(
                parsed.as_ref().map(Named::repository),
                repository,
                "{text:?}"
            );
        }
    }
}
