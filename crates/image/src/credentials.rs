//! Credentials: from a request, or what the node knows for a repository.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

mod file;
mod helper;
mod search;

pub(crate) use search::Search;

#[cfg(feature = "fuzzing")]
pub(crate) use file::look_up as find;

/// What is shown to a registry. Its `Debug` shows no secret; serialized it is for a worker alone
/// ([`crate::worker`]), through a pipe.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
