//! One repository at one registry, with the credentials for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Response, StatusCode, Uri};
use hyper::body::Incoming;
use storage::Digest;
use tokio::sync::Mutex;

use super::challenge::{self, Challenge};
use super::token::{self, Wanted};
use super::{Answer, Client, Outgoing, header, unexpected};
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest;
use crate::registries::Source;

/// Where a session's requests go. All requests of a pull to one source share one.
pub(crate) struct Session {
    client: Client,
    source: Source,
    credentials: Option<Credentials>,
    /// What the registry asked to be shown, once it did.
    authorization: Mutex<Option<HeaderValue>>,
    /// An insecure registry turned out to speak plain HTTP.
    plain: AtomicBool,
    /// The registry said that it keeps signatures.
    keeps_signatures: AtomicBool,
}

/// What OpenShift's registry says in each of its answers, with the value 1, if it keeps signatures
/// (containers/image, `docs/signature-protocols.md`, "docker/distribution API extension").
const KEEPS_SIGNATURES: &str = "x-registry-supports-signatures";

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// A blob's body, from the offset that was asked for.
pub(crate) struct BlobBody {
    pub(crate) body: Incoming,
    /// Bytes at its beginning that were not asked for: the registry ignored the range.
    pub(crate) skip: u64,
}

impl Session {
    pub(crate) fn new(client: Client, source: Source, credentials: Option<Credentials>) -> Self {
        let authorization = match &credentials {
            Some(Credentials::RegistryToken(token)) => token::secret(&format!("Bearer {token}")),
            _ => None,
        };
        Self {
            client,
            source,
            credentials,
            authorization: Mutex::new(authorization),
            plain: AtomicBool::new(false),
            keeps_signatures: AtomicBool::new(false),
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// What the registry is shown, if there is something.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Fetches a manifest or an index by tag or digest.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Bytes> {
        let mut headers = HeaderMap::new();
        for media_type in manifest::ACCEPT {
            headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let (url, response) = self.get(&format!("manifests/{version}"), headers).await?;
        self.client
            .body(&url, response, limits::MANIFEST_BYTES)
            .await
    }

    /// Fetches a small blob whole.
    pub(crate) async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        let (url, response) = self
            .get(&format!("blobs/{digest}"), HeaderMap::new())
            .await?;
        self.client.body(&url, response, limit).await
    }

    /// Fetches the list of the signatures that the registry itself keeps for a manifest; `None` where
    /// no answer of it said that it does so. Its manifest was asked for before.
    pub(crate) async fn kept_signatures(
        &self,
        manifest: &Digest,
        limit: usize,
    ) -> Result<Option<Bytes>> {
        if !self.keeps_signatures.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let repository = self.source.reference.path();
        let path = format!("/extensions/v2/{repository}/signatures/{manifest}");
        let (url, response) = self.get_path(&path, HeaderMap::new()).await?;
        self.client.body(&url, response, limit).await.map(Some)
    }

    /// Begins to fetch a blob from an offset, up to `end` or to its own end.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
        end: Option<u64>,
    ) -> Result<BlobBody> {
        let mut headers = HeaderMap::new();
        match end {
            Some(end) => {
                let last = end.saturating_sub(1);
                headers.extend(header(RANGE, &format!("bytes={offset}-{last}")));
            }
            None if offset > 0 => headers.extend(header(RANGE, &format!("bytes={offset}-"))),
            None => {}
        }
        let (url, response) = self.get(&format!("blobs/{digest}"), headers).await?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if offset == 0 || starts_at(response.headers(), offset) => {
                0
            }
            StatusCode::PARTIAL_CONTENT => return Err(unexpected(&url, "sends another range")),
            _ => offset,
        };
        Ok(BlobBody {
            body: response.into_body(),
            skip,
        })
    }

    /// Begins to fetch the bytes of a blob from `start` up to `end`, and no others.
    pub(crate) async fn part(&self, digest: &Digest, start: u64, end: u64) -> Result<Incoming> {
        let range = format!("bytes={start}-{}", end.saturating_sub(1));
        let headers = header(RANGE, &range).into_iter().collect();
        let (url, response) = self.get(&format!("blobs/{digest}"), headers).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial && starts_at(response.headers(), start) {
            return Ok(response.into_body());
        }
        Err(unexpected(&url, "gives no part of a blob"))
    }

    /// Gets what is below the repository, with the credentials that are asked for.
    async fn get(&self, below: &str, headers: HeaderMap) -> Result<(Uri, Response<Incoming>)> {
        let path = format!("/v2/{}/{below}", self.source.reference.path());
        self.get_path(&path, headers).await
    }

    async fn get_path(&self, path: &str, headers: HeaderMap) -> Result<(Uri, Response<Incoming>)> {
        let mut challenged = false;
        loop {
            let shown = self.authorization.lock().await.clone();
            let (url, answer) = self.ask(path, &headers, shown.clone()).await?;
            let said = answer.response.headers().get(KEEPS_SIGNATURES);
            if !answer.foreign && said.is_some_and(|said| said == "1") {
                self.keeps_signatures.store(true, Ordering::Relaxed);
            }
            let status = answer.response.status();
            if status.is_success() {
                return Ok((url, answer.response));
            }
            // Another host's challenge is never answered: our credentials are not for it.
            if status == StatusCode::UNAUTHORIZED && !answer.foreign && !challenged {
                challenged = true;
                if self
                    .authorize(answer.response.headers(), shown.as_ref())
                    .await?
                {
                    continue;
                }
            }
            let detail = self.client.words(&url, answer.response).await;
            return Err(self.failure(&url, status, answer.foreign, detail));
        }
    }

    async fn ask(
        &self,
        path: &str,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<(Uri, Answer)> {
        loop {
            let plain = self.plain.load(Ordering::Relaxed);
            let url = self.url(path, if plain { "http" } else { "https" })?;
            let mut outgoing = Outgoing::get(url.clone(), self.source.insecure);
            outgoing.headers.clone_from(headers);
            outgoing.authorization.clone_from(&authorization);
            match self.client.exchange(&outgoing).await {
                Ok(answer) => return Ok((url, answer)),
                Err(Error::RegistryUnavailable { .. }) if self.source.insecure && !plain => {
                    self.plain.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn url(&self, path: &str, scheme: &str) -> Result<Uri> {
        let reference = &self.source.reference;
        let host = match reference.host() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        format!("{scheme}://{host}{path}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| Error::BadReference {
                reference: reference.to_string(),
                reason: error.to_string(),
            })
    }

    /// Gets what a challenge asks for. `false` if there is nothing else to show than `shown`.
    async fn authorize(&self, headers: &HeaderMap, shown: Option<&HeaderValue>) -> Result<bool> {
        let mut authorization = self.authorization.lock().await;
        if authorization.as_ref() != shown {
            // Another layer's request was faster.
            return Ok(true);
        }
        let next = match (challenge::of(headers), &self.credentials) {
            (_, Some(Credentials::RegistryToken(_))) => return Ok(false),
            (Some(Challenge::Bearer { realm, service }), credentials) => {
                let wanted = Wanted {
                    realm: &realm,
                    service: &service,
                    path: self.source.reference.path(),
                    reference: &self.source.reference.to_string(),
                    credentials: credentials.as_ref(),
                    insecure: self.source.insecure,
                };
                Some(token::fetch(&self.client, &wanted).await?)
            }
            (Some(Challenge::Basic), Some(Credentials::Basic { username, password })) => {
                token::secret(&Credentials::basic(username, password))
            }
            _ => None,
        };
        if next.is_none() || next.as_ref() == shown {
            return Ok(false);
        }
        *authorization = next;
        Ok(true)
    }

    fn failure(&self, url: &Uri, status: StatusCode, foreign: bool, detail: String) -> Error {
        let reference = self.source.reference.to_string();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !foreign => {
                Error::Unauthorized { reference, detail }
            }
            StatusCode::NOT_FOUND if !foreign => Error::NotFound { reference, detail },
            status if status.is_server_error() => Error::RegistryUnavailable {
                registry: url.authority().map(ToString::to_string).unwrap_or_default(),
                detail,
            },
            _ => unexpected(url, &detail),
        }
    }
}

/// RFC 9110, 14.4: `bytes 5-9/10`.
fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .trim()
            .parse()
            .ok()
    });
    start == Some(offset)
}
