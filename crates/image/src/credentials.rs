//! Credentials: from a request, or from the files that podman and docker write.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::registries::read_bounded;

/// What is shown to a registry. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, which the registry's token service exchanges.
    IdentityToken {
        /// The user's name, often empty.
        username: String,
        /// The token.
        token: String,
    },
    /// A token for the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::IdentityToken { username, .. } => write!(f, "IdentityToken({username:?}, …)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A request's `auth` is not `base64(name:password)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth is not base64 of name:password")]
pub struct BadAuth;

impl Credentials {
    /// What the fields of CRI's `AuthConfig` say; `None` if all are empty.
    ///
    /// # Errors
    /// `auth` can't be decoded.
    pub fn from_request(
        username: &str,
        password: &str,
        auth: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Option<Self>, BadAuth> {
        if !registry_token.is_empty() {
            return Ok(Some(Self::RegistryToken(registry_token.to_owned())));
        }
        if !identity_token.is_empty() {
            let (username, token) = (username.to_owned(), identity_token.to_owned());
            return Ok(Some(Self::IdentityToken { username, token }));
        }
        if !username.is_empty() || !password.is_empty() {
            let (username, password) = (username.to_owned(), password.to_owned());
            return Ok(Some(Self::Basic { username, password }));
        }
        if auth.is_empty() {
            Ok(None)
        } else {
            Self::from_auth(auth).map(Some)
        }
    }

    pub(crate) fn from_auth(auth: &str) -> Result<Self, BadAuth> {
        let auth = auth.trim_end_matches(['=', '\n', '\0']);
        let bytes = STANDARD_NO_PAD.decode(auth).map_err(|_| BadAuth)?;
        let text = String::from_utf8(bytes).map_err(|_| BadAuth)?;
        let (username, password) = text.split_once(':').ok_or(BadAuth)?;
        Ok(Self::Basic {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }

    /// The value of an `Authorization` header of kind Basic.
    pub(crate) fn basic(username: &str, password: &str) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("{username}:{password}"))
        )
    }
}

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
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

/// Looks a repository (`host/path`) up in a file: its longest key that is the repository, a
/// namespace above it, or the host. An absent file knows none.
pub(crate) fn look_up(file: &Path, repository: &str) -> Result<Option<Credentials>> {
    let bad = |reason: String| Error::Config {
        path: file.to_owned(),
        reason,
    };
    let Some(bytes) = read_bounded(file).map_err(|error| bad(error.to_string()))? else {
        return Ok(None);
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    find(&bytes, repository).map_err(bad)
}

/// The same in a file's content.
pub(crate) fn find(bytes: &[u8], repository: &str) -> Result<Option<Credentials>, String> {
    let File { auths } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let best = auths
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
        return Ok(None);
    };
    Credentials::from_request(
        &entry.username,
        &entry.password,
        &entry.auth,
        &entry.identitytoken,
        &entry.registrytoken,
    )
    .map_err(|error| format!("{key}: {error}"))
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
    use super::*;
    use serde_json::json;

    #[test]
    fn the_longest_key_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let auth = |text: &str| json!({"auth": STANDARD.encode(text)});
        let file = json!({"auths": {
            "https://index.docker.io/v1/": auth("hub:1"),
            "h.io": auth("host:2"),
            "h.io/team": auth("team:3:with:colons"),
            "h.io/team/app": auth("app:4"),
            "h.io:5000": {"auth": "", "identitytoken": "secret"},
            "https://twice.io/v1/": auth("docker:5"),
            "twice.io": auth("podman:6"),
        }, "credHelpers": {}});
        std::fs::write(&path, file.to_string()).unwrap();
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
            let found = look_up(&path, repository).unwrap();
            let name = found.as_ref().map(|found| match found {
                Credentials::Basic { username, .. }
                | Credentials::IdentityToken { username, .. } => username.as_str(),
                Credentials::RegistryToken(_) => "token",
            });
            assert_eq!(name, user, "{repository}");
        }
        assert_eq!(look_up(Path::new("/nonexistent"), "h.io/a").unwrap(), None);
        std::fs::write(&path, "{").unwrap();
        assert!(look_up(&path, "h.io/a").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        for fields in [
            ["joe", "sesame", "", "", ""],
            ["", "", &STANDARD.encode("joe:sesame"), "", ""],
            ["", "", "", "sesame", ""],
            ["", "", "", "", "sesame"],
        ] {
            let [user, password, auth, identity, registry] = fields;
            let made = Credentials::from_request(user, password, auth, identity, registry);
            assert!(!format!("{:?}", made.unwrap().unwrap()).contains("sesame"));
        }
        assert_eq!(Credentials::from_request("", "", "", "", ""), Ok(None));
        assert_eq!(
            Credentials::from_request("", "", "%%", "", ""),
            Err(BadAuth)
        );
    }
}
