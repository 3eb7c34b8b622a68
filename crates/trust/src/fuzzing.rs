//! What the fuzz target does with policies: it takes any bytes and fails where a decision differs
//! from that of a slow reader of the same policy.

use std::path::Path;

use crate::file::{Content, Requirement};
use crate::{Name, Policy};

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
            assert_eq!(policy.check(&name).is_ok(), allowed, "{name:?}");
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
