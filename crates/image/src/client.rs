//! The registry client: distribution-spec's pull part over HTTP/1.1.
//!
//! An [`Outgoing`] request goes to one origin. Redirects are followed by hand, so that the
//! `Authorization` header never goes to another origin than the one it is for, and HTTPS never
//! falls back to HTTP. "Come back later" answers are waited for, within bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER,
    USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use sys::pool::Pool;
use tokio::time::timeout;

use crate::error::{Error, Result, chain};
use crate::limits;
use crate::options::Options;

mod challenge;
mod document;
mod session;
mod token;
mod transport;

#[cfg(feature = "fuzzing")]
pub(crate) use challenge::fuzzed as challenges;
pub(crate) use session::{BlobBody, Session};
use transport::Transport;

/// What all sessions share: connections, certificates, times. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    transport: Transport,
    user_agent: HeaderValue,
    connect_timeout: Duration,
    header_timeout: Duration,
    retry_wait: Duration,
}

/// A request to one origin.
#[derive(Clone, Debug)]
struct Outgoing {
    method: Method,
    url: Uri,
    headers: HeaderMap,
    /// Only ever sent to the origin of `url`.
    authorization: Option<HeaderValue>,
    body: Bytes,
    insecure: bool,
}

/// An answer that is no redirect and no "later".
struct Answer {
    response: Response<Incoming>,
    /// It came from another origin than was asked, after a redirect.
    foreign: bool,
}

impl Outgoing {
    fn get(url: Uri, insecure: bool) -> Self {
        let (method, headers, body) = (Method::GET, HeaderMap::new(), Bytes::new());
        Self {
            method,
            url,
            headers,
            authorization: None,
            body,
            insecure,
        }
    }
}

impl Client {
    pub(crate) fn new(options: &Options, files: Pool) -> Self {
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .unwrap_or_else(|_| HeaderValue::from_static("crioxide"));
        Self(Arc::new(Shared {
            transport: Transport::new(options, files),
            user_agent,
            connect_timeout: options.connect_timeout,
            header_timeout: options.header_timeout,
            retry_wait: options.retry_wait,
        }))
    }

    /// Sends a request; waits and repeats it while the server says so.
    async fn exchange(&self, outgoing: &Outgoing) -> Result<Answer> {
        let mut repeats = 0;
        loop {
            let answer = self.follow(outgoing).await?;
            let later = matches!(
                answer.response.status(),
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            if !later || repeats == limits::REPEATS {
                return Ok(answer);
            }
            let wait = retry_after(answer.response.headers())
                .unwrap_or(Duration::from_millis(250 << repeats))
                .min(self.0.retry_wait);
            tracing::debug!(url = %outgoing.url, status = %answer.response.status(), ?wait, "asked again later");
            drop(answer);
            #[allow(
                clippy::disallowed_methods,
                reason = "the server asks for a time, not for an event"
            )]
            tokio::time::sleep(wait).await;
            repeats += 1;
        }
    }

    /// Sends a request and follows redirects.
    async fn follow(&self, outgoing: &Outgoing) -> Result<Answer> {
        let mut url = outgoing.url.clone();
        for _ in 0..=limits::REDIRECTS {
            let foreign = !same_origin(&url, &outgoing.url);
            let authorization = outgoing.authorization.as_ref().filter(|_| !foreign);
            let response = self.send(outgoing, &url, authorization).await?;
            if !is_redirect(response.status()) {
                return Ok(Answer { response, foreign });
            }
            if outgoing.method != Method::GET {
                return Err(unexpected(
                    &url,
                    "redirects a request that carries credentials",
                ));
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| resolve(&url, to));
            let next = next.ok_or_else(|| unexpected(&url, "redirects to nowhere"))?;
            if next.scheme_str() != Some("https")
                && url.scheme_str() == Some("https")
                && !outgoing.insecure
            {
                return Err(unexpected(&url, "redirects from HTTPS to something else"));
            }
            url = next;
        }
        Err(unexpected(&outgoing.url, "redirects too often"))
    }

    async fn send(
        &self,
        outgoing: &Outgoing,
        url: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>> {
        let unavailable = |detail: String| Error::RegistryUnavailable {
            registry: url.authority().map(ToString::to_string).unwrap_or_default(),
            detail,
        };
        let http = self.0.transport.client(url, outgoing.insecure).await?;
        let mut request = Request::builder()
            .method(outgoing.method.clone())
            .uri(url.clone())
            .body(Full::new(outgoing.body.clone()))
            .map_err(|error| unexpected(url, &error.to_string()))?;
        request.headers_mut().extend(outgoing.headers.clone());
        request
            .headers_mut()
            .insert(USER_AGENT, self.0.user_agent.clone());
        if let Some(authorization) = authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(of_proxy) = self.0.transport.proxy_authorization(url) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, of_proxy);
        }
        let budget = self.0.connect_timeout.saturating_add(self.0.header_timeout);
        match timeout(budget, http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unavailable(chain(&error))),
            Err(_) => Err(unavailable(format!("no answer within {budget:?}"))),
        }
    }

    /// Reads a body of at most `limit` bytes, all of it within the time for headers.
    async fn body(&self, url: &Uri, response: Response<Incoming>, limit: usize) -> Result<Bytes> {
        let too_large = || unexpected(url, &format!("answers with more than {limit} bytes"));
        let mut body = response.into_body();
        let read = async {
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| unexpected(url, &chain(&error)))?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if bytes.len() + data.len() > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
            Ok(Bytes::from(bytes))
        };
        match timeout(self.0.header_timeout, read).await {
            Ok(done) => done,
            Err(_) => Err(unexpected(url, "does not end its answer")),
        }
    }

    /// The words of an error's body: the specification's JSON or its beginning.
    async fn words(&self, url: &Uri, response: Response<Incoming>) -> String {
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                bytes.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                if bytes.len() > limits::ERROR_BODY_BYTES {
                    break;
                }
            }
        };
        if timeout(self.0.header_timeout, read).await.is_err() {
            tracing::debug!(%url, "the body of an error does not end");
        }
        let words = error_words(&bytes);
        if words.is_empty() {
            status.to_string()
        } else {
            format!("{status}: {words}")
        }
    }
}

fn unexpected(url: &Uri, detail: &str) -> Error {
    // A query may hold a signature that is as good as a password.
    let url = url.to_string();
    let url = url
        .split_once('?')
        .map_or(url.as_str(), |(url, _)| url)
        .to_owned();
    Error::Registry {
        url,
        detail: detail.to_owned(),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or_else(|| match uri.scheme_str() {
            Some("https") => Some(443),
            _ => Some(80),
        })
    };
    one.scheme_str() == other.scheme_str() && one.host() == other.host() && port(one) == port(other)
}

/// A `Location`, absolute or relative to what was asked.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.host().is_some());
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = match location {
        rest if rest.starts_with("//") => format!("{scheme}:{rest}"),
        rest if rest.starts_with('/') => format!("{scheme}://{authority}{rest}"),
        rest if rest.contains("://") || rest.is_empty() => return None,
        rest => {
            let (directory, _) = base.path().rsplit_once('/')?;
            format!("{scheme}://{authority}{directory}/{rest}")
        }
    };
    text.parse().ok()
}

/// Seconds; the form with a date is not seen on registries, and a clock may be wrong.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// distribution-spec, "Error Codes".
fn error_words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let words = errors
                .iter()
                .map(|one| format!("{}: {}", one.code, one.message));
            words.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(limits::QUOTED_BYTES)
        .collect()
}

fn header(name: HeaderName, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name, HeaderValue::from_str(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        for (one, other, same) in [
            ("https://a.io/x", "https://a.io:443/y", true),
            ("https://a.io/x", "http://a.io/x", false),
            ("https://a.io/x", "https://b.io/x", false),
            ("https://a.io/x", "https://a.io:444/x", false),
            ("http://a.io:80/x", "http://a.io/", true),
        ] {
            assert_eq!(
                same_origin(&one.parse().unwrap(), &other.parse().unwrap()),
                same,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn locations_are_resolved() {
        let base = "https://a.io:5000/v2/x/blobs/y".parse().unwrap();
        for (location, resolved) in [
            ("https://b.io/z?s=1", Some("https://b.io/z?s=1")),
            ("//b.io/z", Some("https://b.io/z")),
            ("/z", Some("https://a.io:5000/z")),
            ("z", Some("https://a.io:5000/v2/x/blobs/z")),
            ("ftp://b.io/z", None),
            ("https://", None),
            ("", None),
        ] {
            let found = resolve(&base, location).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), resolved, "{location}");
        }
    }

    #[test]
    fn an_errors_words_are_short_and_clean() {
        let spec = br#"{"errors":[{"code":"DENIED","message":"no\nway"}]}"#;
        assert_eq!(error_words(spec), "DENIED: no way");
        assert_eq!(error_words(&[b'x'; 5000]).len(), limits::QUOTED_BYTES);
    }
}
