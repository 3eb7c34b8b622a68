//! An image's names: tags, digests, pins. Pure.

use storage::Digest;

use crate::reference::Reference;

/// Its names that have a tag.
pub(super) fn tags(record: &storage::Image) -> Vec<String> {
    record
        .names
        .iter()
        .filter(|name| !name.contains('@'))
        .cloned()
        .collect()
}

/// Each repository that it has a name in, with each of its digests. An image without any name is
/// listed by the repositories that it was in.
pub(super) fn digests(record: &storage::Image) -> Vec<String> {
    let names = if record.names.is_empty() {
        &record.names_history
    } else {
        &record.names
    };
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let Some((repository, own)) = split(name) else {
            continue;
        };
        let digests = own.iter().chain(&record.digest).chain(&record.digests);
        for digest in digests {
            let full = format!("{repository}@{digest}");
            if !found.contains(&full) {
                found.push(full);
            }
        }
    }
    found
}

/// A name's repository, and its digest if it has one.
pub(super) fn split(name: &str) -> Option<(String, Option<Digest>)> {
    let reference: Reference = name.parse().ok()?;
    Some((reference.repository(), reference.digest().cloned()))
}

/// Whether one of the names matches one of the patterns: exactly, `glob*`, or `*keyword*`; in capitals
/// or not, as with CRI-O.
pub(super) fn is_pinned<'a>(
    patterns: &[String],
    names: impl Iterator<Item = &'a str> + Clone,
) -> bool {
    patterns
        .iter()
        .any(|pattern| names.clone().any(|name| matches(pattern, name)))
}

fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (&*pattern.to_ascii_lowercase(), &*name.to_ascii_lowercase());
    let (head, tail) = (pattern.strip_prefix('*'), pattern.strip_suffix('*'));
    match (head, tail) {
        _ if pattern.is_empty() || pattern == "*" => false,
        (Some(head), Some(_)) => name.contains(head.trim_end_matches('*')),
        (None, Some(start)) => name.starts_with(start),
        _ => name == pattern || name.strip_suffix(":latest") == Some(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str], history: &[&str], digests: &[&str]) -> storage::Image {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        storage::Image {
            id: "0f".repeat(32).parse().unwrap(),
            digest: digests.first().map(|digest| Digest::of(digest.as_bytes())),
            digests: digests
                .iter()
                .map(|digest| Digest::of(digest.as_bytes()))
                .collect(),
            names: text(names),
            names_history: text(history),
            top_layer: None,
            created: 0,
            big_data: Vec::new(),
            metadata: String::new(),
            read_only: false,
        }
    }

    #[test]
    fn every_repository_has_every_digest() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let by_digest = format!("b.io/y@{two}");
        let image = record(
            &["a.io/x:1", "a.io/x:2", &by_digest],
            &["c.io/z:1"],
            &["1", "2"],
        );
        assert_eq!(tags(&image), ["a.io/x:1", "a.io/x:2"]);
        assert_eq!(
            digests(&image),
            [
                format!("a.io/x@{one}"),
                format!("a.io/x@{two}"),
                by_digest,
                format!("b.io/y@{one}")
            ]
        );
        assert_eq!(
            digests(&record(&[], &["c.io/z:1"], &["1"])),
            [format!("c.io/z@{one}")]
        );
    }

    #[test]
    fn pins_are_exact_globs_or_keywords() {
        for (pattern, name, pinned) in [
            ("a.io/pause:3.9", "a.io/pause:3.9", true),
            ("a.io/pause:3.9", "a.io/pause:3.90", false),
            ("a.io/pause", "a.io/pause:latest", true),
            ("a.io/*", "a.io/pause:1", true),
            ("a.io/*", "b.io/a.io/pause:1", false),
            ("*pause*", "b.io/my-pause-image:1", true),
            ("*pause*", "b.io/other:1", false),
            ("*Pause*", "b.io/pause:V1", true),
            ("a.io/x:v1", "a.io/x:V1", true),
            ("", "a.io/x:1", false),
        ] {
            assert_eq!(
                is_pinned(&[pattern.to_owned()], [name].into_iter()),
                pinned,
                "{pattern} {name}"
            );
        }
    }
}
