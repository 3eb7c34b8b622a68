//! Tokens: distribution's token service, by GET with a password or by OAuth 2 with a refresh
//! token.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::{Client, Outgoing, header, unexpected};
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::limits;

/// What a token is for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) realm: &'a str,
    pub(super) service: &'a str,
    /// The repository's path.
    pub(super) path: &'a str,
    /// The reference, for messages.
    pub(super) reference: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
    /// The registry is asked by plain HTTP, or its certificate does not matter.
    pub(super) insecure: bool,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Gets one, as the value of an `Authorization` header.
pub(super) async fn fetch(client: &Client, wanted: &Wanted<'_>) -> Result<HeaderValue> {
    let outgoing = request(wanted)?;
    let answer = client.exchange(&outgoing).await?;
    let status = answer.response.status();
    if !status.is_success() {
        let detail = client.words(&outgoing.url, answer.response).await;
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Error::Unauthorized {
                    reference: wanted.reference.to_owned(),
                    detail,
                }
            }
            _ => Error::RegistryUnavailable {
                registry: outgoing
                    .url
                    .authority()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                detail: format!("its token service answers {detail}"),
            },
        });
    }
    let body = client
        .body(&outgoing.url, answer.response, limits::TOKEN_BYTES)
        .await?;
    let token: Token = serde_json::from_slice(&body)
        .map_err(|error| unexpected(&outgoing.url, &format!("gives no token: {error}")))?;
    let token = if token.token.is_empty() {
        token.access_token
    } else {
        token.token
    };
    if token.is_empty() {
        return Err(unexpected(&outgoing.url, "gives an empty token"));
    }
    secret(&format!("Bearer {token}"))
        .ok_or_else(|| unexpected(&outgoing.url, "gives a token that can't be a header"))
}

/// A header's value that is not printed.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn request(wanted: &Wanted<'_>) -> Result<Outgoing> {
    let bad = |detail: &str| Error::Registry {
        url: wanted.realm.chars().take(limits::QUOTED_BYTES).collect(),
        detail: format!("token service of {}: {detail}", wanted.reference),
    };
    let realm: Uri = wanted.realm.parse().map_err(|_| bad("no URL"))?;
    match realm.scheme_str() {
        Some("https") => {}
        // CVE-2019-10214: a password must not be had by who can listen.
        Some("http") if wanted.insecure => {}
        _ => return Err(bad("it is not reached by HTTPS")),
    }
    let scope = format!("repository:{}:pull", wanted.path);
    if let Some(Credentials::IdentityToken { token, .. }) = wanted.credentials {
        let form = query(&[
            ("grant_type", "refresh_token"),
            ("service", wanted.service),
            ("scope", &scope),
            ("client_id", "crioxide"),
            ("refresh_token", token),
        ]);
        let mut outgoing = Outgoing::get(realm, wanted.insecure);
        outgoing.method = Method::POST;
        outgoing
            .headers
            .extend(header(CONTENT_TYPE, "application/x-www-form-urlencoded"));
        outgoing.body = Bytes::from(form);
        return Ok(outgoing);
    }
    let mut parameters = vec![("service", wanted.service), ("scope", scope.as_str())];
    let mut authorization = None;
    if let Some(Credentials::Basic { username, password }) = wanted.credentials {
        parameters.insert(0, ("account", username));
        authorization = secret(&Credentials::basic(username, password));
    }
    parameters.retain(|(_, value)| !value.is_empty());
    let separator = if realm.query().is_some() { '&' } else { '?' };
    let url = format!("{}{separator}{}", wanted.realm, query(&parameters));
    let mut outgoing = Outgoing::get(url.parse().map_err(|_| bad("no URL"))?, wanted.insecure);
    outgoing.authorization = authorization;
    Ok(outgoing)
}

/// `application/x-www-form-urlencoded`.
fn query(parameters: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(realm: &'a str, credentials: Option<&'a Credentials>) -> Wanted<'a> {
        Wanted {
            realm,
            service: "a b",
            path: "x/y",
            reference: "r.io/x/y:1",
            credentials,
            insecure: false,
        }
    }

    #[test]
    fn a_password_goes_by_https_only() {
        let basic = Credentials::Basic {
            username: "joe".into(),
            password: "sesame".into(),
        };
        for realm in ["http://a.io/t", "/t", "a.io/t", "ftp://a.io/t"] {
            assert!(request(&wanted(realm, Some(&basic))).is_err(), "{realm}");
        }
        let good = request(&wanted("https://a.io/t?k=v", Some(&basic))).unwrap();
        let expected =
            "https://a.io/t?k=v&account=joe&service=a%20b&scope=repository%3Ax%2Fy%3Apull";
        assert_eq!(good.url.to_string(), expected);
        assert!(good.authorization.unwrap().is_sensitive());
    }

    #[test]
    fn a_refresh_token_is_posted() {
        let identity = Credentials::IdentityToken {
            username: String::new(),
            token: "t&k".into(),
        };
        let sent = request(&wanted("https://a.io/t", Some(&identity))).unwrap();
        assert_eq!(sent.method, Method::POST);
        assert!(sent.authorization.is_none());
        assert!(String::from_utf8_lossy(&sent.body).ends_with("&refresh_token=t%26k"));
    }
}
