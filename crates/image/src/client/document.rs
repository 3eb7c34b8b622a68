//! What is at a URL of the node's configuration: no registry, so no credentials.

use bytes::Bytes;
use http::{StatusCode, Uri};

use super::{Client, Outgoing, unexpected};
use crate::error::{Error, Result};

impl Client {
    /// Gets what is at a URL, of at most `limit` bytes; `None` if there is nothing.
    pub(crate) async fn document(&self, url: &str, limit: usize) -> Result<Option<Bytes>> {
        let url: Uri = url.parse().map_err(|error| Error::Registry {
            url: url.to_owned(),
            detail: format!("{error}"),
        })?;
        let answer = self.exchange(&Outgoing::get(url.clone(), false)).await?;
        match answer.response.status() {
            status if status.is_success() => {
                self.body(&url, answer.response, limit).await.map(Some)
            }
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_server_error() => Err(Error::RegistryUnavailable {
                registry: url.authority().map(ToString::to_string).unwrap_or_default(),
                detail: self.words(&url, answer.response).await,
            }),
            _ => Err(unexpected(&url, &self.words(&url, answer.response).await)),
        }
    }
}
