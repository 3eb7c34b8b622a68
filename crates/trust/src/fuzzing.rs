//! What the fuzz targets do with this crate's decoders: each function takes any bytes and fails where
//! a decision differs from that of a slow reader of the same, or where something is accepted that
//! nobody signed.

use std::path::Path;

use crate::file::Content;
use crate::requirement::Requirement;
use crate::sources::Sources;
use crate::{Evidence, Name, Policy};

mod signatures;

pub use signatures::{openpgp_keys, openpgp_message, payload, sigstore};

const REPOSITORIES: [&str; 6] = [
    "docker.io/library/busybox",
    "a.io/b",
    "a.io:5000/b/c",
    "x.a.io/b/c/d",
    "y.x.a.io/b",
    "localhost/a",
];

/// Policies: among all scopes that an image falls under, looked at one by one, the most exact one
/// decides.
pub fn policy(bytes: &[u8]) {
    let path = Path::new("policy.json");
    let Ok(content) = Content::parse(bytes) else {
        assert!(Policy::parse(path, bytes).is_err());
        return;
    };
    assert!(!content.default.is_empty() && content.docker.values().all(|all| !all.is_empty()));
    let policy = Policy::parse(path, bytes).expect("its content is good");
    for repository in REPOSITORIES {
        for (tag, digest) in [
            (None, None),
            (Some("v1"), None),
            (Some("v1"), Some("sha256:00")),
        ] {
            let name = Name {
                repository,
                tag,
                digest,
            };
            let scopes = content.docker.iter();
            let best = scopes
                .filter_map(|(scope, wanted)| Some((exactness(scope, &name)?, wanted)))
                .max_by_key(|(exactness, _)| *exactness);
            let wanted = best.map_or(&content.default, |(_, wanted)| wanted);
            let allowed = wanted.iter().all(|one| *one == Requirement::Accept);
            let unsigned = Evidence {
                manifest: b"",
                signatures: &[],
            };
            let checked = policy.check(&name, &unsigned);
            assert_eq!(checked.is_ok(), allowed, "{name:?}");
            if let Ok(false) = policy.needs_signatures(&name) {
                assert!(allowed, "{name:?}");
            }
        }
    }
}

/// `registries.d`: among all namespaces that say something, looked at one by one, the most exact one
/// decides; a place is one that can be read, and is written as it was.
pub fn sources(bytes: &[u8]) {
    let Ok(sources) = Sources::parse(bytes) else {
        return;
    };
    for repository in REPOSITORIES {
        let name = Name {
            repository,
            tag: Some("v1"),
            digest: None,
        };
        let best = sources
            .namespaces()
            .filter(|(scope, said)| !scope.is_empty() && said.is_some())
            .filter_map(|(scope, said)| Some((exactness(scope, &name)?, said)))
            .max_by_key(|(exactness, _)| *exactness);
        let expected = best.map_or(sources.default_attachments(), |(_, said)| said);
        assert_eq!(sources.use_attachments(&name), expected.unwrap_or(false));
        if let Ok(place) = sources.lookaside(&name) {
            let text = place.to_string();
            assert!(
                ["file:///", "http://", "https://"]
                    .iter()
                    .any(|it| text.starts_with(it))
            );
        }
    }
}

/// How exactly a scope means the image: paths before wildcards before the transport's default, and
/// of each the longest.
fn exactness(scope: &str, name: &Name<'_>) -> Option<(u8, usize)> {
    let (repository, length) = (name.repository, scope.len());
    let host = repository.split('/').next().unwrap_or_default();
    if scope == name.full() {
        return Some((3, length));
    }
    if scope.is_empty() {
        return Some((0, 0));
    }
    if let Some(domain) = scope.strip_prefix('*') {
        let beneath = domain.starts_with('.') && host.ends_with(domain);
        return beneath.then_some((1, length));
    }
    let rest = repository.strip_prefix(scope)?;
    (rest.is_empty() || rest.starts_with('/')).then_some((2, length))
}
