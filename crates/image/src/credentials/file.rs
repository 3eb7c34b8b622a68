//! The files that podman, docker and the kubelet's plugins write: `auth.json`.
//!
//! Source: `containers-auth.json(5)`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Credentials;

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    /// Host → name of a helper program.
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

/// What a file says about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    Known(Credentials),
    /// This helper has them for the host.
    Ask(String),
}

/// Looks a repository (`host/path`) up in a file's content: its host among those with a helper, else
/// the longest key that is the repository, a namespace above it, or the host.
pub(crate) fn look_up(bytes: &[u8], repository: &str) -> Result<Said, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Said::Nothing);
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let host = repository.split('/').next().unwrap_or_default();
    if let Some(helper) = file.cred_helpers.get(host) {
        return Ok(Said::Ask(helper.clone()));
    }
    let best = file
        .auths
        .iter()
        .map(|(written, entry)| (normalised(written), written, entry))
        .filter(|(key, ..)| {
            repository
                .strip_prefix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        // Of keys that mean the same, the one that needs no normalising.
        .max_by_key(|(key, written, _)| (key.len(), key == *written));
    let Some((key, _, entry)) = best else {
        return Ok(Said::Nothing);
    };
    let found = Credentials::from_request(
        &entry.username,
        &entry.password,
        &entry.auth,
        &entry.identitytoken,
        &entry.registrytoken,
    );
    let found = found.map_err(|error| format!("{key}: {error}"))?;
    Ok(found.map_or(Said::Nothing, Said::Known))
}

/// Docker's keys may be URLs, with the version of the protocol.
fn normalised(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let (host, rest) = key
        .split_once('/')
        .map_or((key, None), |(host, rest)| (host, Some(rest)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    rest.map_or_else(|| host.to_owned(), |rest| format!("{host}/{rest}"))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_key_counts() {
        let auth = |text: &str| json!({"auth": STANDARD.encode(text)});
        let file = json!({"auths": {
            "https://index.docker.io/v1/": auth("hub:1"),
            "h.io": auth("host:2"),
            "h.io/team": auth("team:3:with:colons"),
            "h.io/team/app": auth("app:4"),
            "h.io:5000": {"auth": "", "identitytoken": "secret"},
            "https://twice.io/v1/": auth("docker:5"),
            "twice.io": auth("podman:6"),
        }, "credHelpers": {"helped.io": "vault"}});
        let file = file.to_string();
        for (repository, user) in [
            ("docker.io/library/busybox", Some("hub")),
            ("h.io/other", Some("host")),
            ("h.io/team/x", Some("team")),
            ("h.io/teamx/x", Some("host")),
            ("h.io/team/app", Some("app")),
            ("h.io.evil.com/a", None),
            ("h.io:5000/a", Some("")),
            ("twice.io/a", Some("podman")),
        ] {
            let name = match look_up(file.as_bytes(), repository).unwrap() {
                Said::Known(
                    Credentials::Basic { username, .. }
                    | Credentials::IdentityToken { username, .. },
                ) => Some(username),
                Said::Nothing => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(name.as_deref(), user, "{repository}");
        }
        let helped = look_up(file.as_bytes(), "helped.io/a");
        assert_eq!(helped, Ok(Said::Ask("vault".to_owned())));
        assert_eq!(look_up(b" \n", "h.io/a"), Ok(Said::Nothing));
        assert!(look_up(b"{", "h.io/a").is_err());
    }
}
