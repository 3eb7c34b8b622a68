//! `WWW-Authenticate`: which way a registry wants to be shown credentials. Pure.

use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of that service.
    Bearer { realm: String, service: String },
    /// Name and password.
    Basic,
}

/// The challenge to answer: a token where one is offered, since it shows no password to whoever
/// reads the registry's logs.
pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for (scheme, parameters) in parse(value.to_str().unwrap_or_default()) {
            let get = |name: &str| {
                let found = parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            if scheme.eq_ignore_ascii_case("bearer") && !get("realm").is_empty() {
                return Some(Challenge::Bearer {
                    realm: get("realm"),
                    service: get("service"),
                });
            }
            basic |= scheme.eq_ignore_ascii_case("basic");
        }
    }
    basic.then_some(Challenge::Basic)
}

/// RFC 9110, 11.6.1: challenges and their parameters are both separated by commas.
fn parse(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=');
        rest = match (value, challenges.last_mut()) {
            (Some(value), Some((_, parameters))) if !word.is_empty() => {
                let (value, after) = parameter(value.trim_start());
                parameters.push((word.to_owned(), value));
                after
            }
            (None, _) if !word.is_empty() => {
                challenges.push((word.to_owned(), Vec::new()));
                after
            }
            // Not ours to understand.
            _ => return challenges,
        };
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

/// A token or a quoted string, and what comes after it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What the fuzz target does: whatever a registry writes, no more is read than is there.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed(text: &str) {
    let mut read = 0;
    for (scheme, parameters) in parse(text) {
        assert!(text.contains(&scheme) && !scheme.is_empty());
        read += scheme.len();
        for (name, value) in parameters {
            assert!(text.contains(&name) && !name.is_empty());
            read += name.len() + value.len();
        }
    }
    assert!(read <= text.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (WWW_AUTHENTICATE, value.parse().unwrap()))
            .collect()
    }

    fn bearer(realm: &str, service: &str) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
        })
    }

    #[test]
    fn challenges_are_found_however_they_are_written() {
        for (values, challenge) in [
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="x:y:pull,push""#][..],
                bearer("https://a/t", "s"),
            ),
            (
                &["bearer realm=https://a/t , service=s"],
                bearer("https://a/t", "s"),
            ),
            (
                &[r#"Basic realm="r", Bearer realm="https://a/t""#],
                bearer("https://a/t", ""),
            ),
            (
                &[r#"Negotiate"#, r#"Basic realm="a \" b, Bearer realm=x""#],
                Some(Challenge::Basic),
            ),
            (&["Bearer service=s"], None),
            (&["Negotiate abc=="], None),
            (&["="], None),
            (&[], None),
        ] {
            assert_eq!(of(&headers(values)), challenge, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_ends(text in "[ -~]{0,100}") {
            let _challenges = parse(&text);
        }
    }
}
