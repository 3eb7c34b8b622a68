//! An image in another store of the node: it answers by manifest and configuration as a registry does;
//! its layers are archives as they were before they were compressed.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::{Digest, Driver, Image, LayerId, OtherStore};
use trust::Signature;

use super::location::Location;
use crate::error::{Error, Result};
use crate::image::OciConfig;
use crate::manifest::Document;
use crate::reference::Reference;
use crate::signatures;

/// How long to wait for a peer that writes its tables.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// An image of another store.
#[derive(Debug)]
pub(crate) struct Stored {
    location: Location,
    driver: Driver,
    store: OtherStore,
    image: Arc<Image>,
    /// The name by which it is meant.
    named: Option<Reference>,
    layers: HashMap<Digest, LayerId>,
}

impl Stored {
    /// Opens the store and finds the image; blocks.
    ///
    /// # Errors
    /// [`Error::Local`]: there is no such store, image or layer.
    pub(super) fn open(location: &Location, driver: Driver) -> Result<Self> {
        let wrong = |error: storage::Error| location.error(crate::error::chain(&error));
        let store = OtherStore::open(&location.path, driver, LOCK_TIMEOUT).map_err(wrong)?;
        let images = store.images().map_err(wrong)?;
        let which = location.which.as_deref().unwrap_or_default();
        let found = find(&images, which).map_err(|reason| location.error(reason))?;
        let (image, named) = found;
        let layers = layers(&store, &image).map_err(wrong)?;
        Ok(Self {
            location: location.clone(),
            driver,
            store,
            image,
            named,
            layers,
        })
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    /// Asks a policy about it.
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(&trust::Local<'_>) -> Result<T, trust::Refused>,
    ) -> Result<T> {
        let root = self.location.real_path()?;
        let stored = trust::Stored {
            driver: self.driver.name(),
            root: &root,
            name: None,
            id: None,
        };
        let asked = match &self.named {
            Some(named) => named.ask(|name| {
                ask(&trust::Local::Stored(trust::Stored {
                    name: Some(*name),
                    ..stored
                }))
            }),
            None => ask(&trust::Local::Stored(trust::Stored {
                id: Some(self.image.id.as_str()),
                ..stored
            })),
        };
        Ok(asked?)
    }

    /// The names that it is to have: the one by which it is meant, or all that it has there.
    pub(super) fn names(&self) -> Vec<Reference> {
        let own = self.image.names.iter().filter_map(|name| name.parse().ok());
        self.named
            .clone()
            .map_or_else(|| own.collect(), |it| vec![it])
    }

    pub(super) fn manifest(&self, digest: Option<&Digest>, limit: usize) -> Result<Bytes> {
        match digest {
            None => self.item("manifest", limit),
            Some(digest) => self.item(&format!("manifest-{digest}"), limit),
        }
    }

    pub(super) fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        self.item(digest.as_str(), limit)
    }

    fn item(&self, key: &str, limit: usize) -> Result<Bytes> {
        let bytes = self.store.big_data(&self.image, key);
        let bytes = bytes.map_err(|error| self.wrong(&error))?;
        if bytes.len() > limit {
            let reason = format!("{key}: larger than {limit} bytes");
            return Err(self.location.error(reason));
        }
        Ok(bytes.into())
    }

    /// The signatures that its store keeps with one of its manifests.
    pub(super) fn signatures(&self, of: &Digest) -> Vec<Signature> {
        let read = |key: &str| self.store.big_data(&self.image, key).ok();
        let found = signatures::of_manifest(&self.image, of, read);
        let bytes = found.iter().map(|signature| signature.encode().len()).sum();
        match signatures::exceed_limits(found.len(), bytes) {
            true => Vec::new(),
            false => found,
        }
    }

    /// Writes the archive of the layer with that diff ID; that it is it is for who reads it to check.
    pub(crate) fn write_layer(&self, diff_id: &Digest, into: impl Write) -> Result<()> {
        let layer = self.layers.get(diff_id).ok_or_else(|| {
            let reason = format!("its store has no layer with the diff ID {diff_id}");
            self.location.error(reason)
        })?;
        self.store
            .write_layer(layer, into)
            .map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, error: &storage::Error) -> Error {
        self.location.error(crate::error::chain(error))
    }
}

/// Its layers by their diff IDs: those that its configuration says, since not all records of layers have
/// one (those of layers that a peer pulled in parts).
fn layers(store: &OtherStore, image: &Image) -> Result<HashMap<Digest, LayerId>, storage::Error> {
    let (recorded, ids): (Vec<_>, Vec<_>) = store.layers(image)?.into_iter().unzip();
    let said = diff_ids(store, image).filter(|said| said.len() == ids.len());
    Ok(match said {
        Some(said) => said.into_iter().zip(ids).collect(),
        None => {
            let known = recorded.into_iter().zip(ids);
            known
                .filter_map(|(diff_id, id)| Some((diff_id?, id)))
                .collect()
        }
    })
}

fn diff_ids(store: &OtherStore, image: &Image) -> Option<Vec<Digest>> {
    let manifest = store.big_data(image, "manifest").ok()?;
    let Ok(Document::Image(manifest)) = Document::parse(&manifest) else {
        return None;
    };
    let config = store
        .big_data(image, manifest.config.digest.as_str())
        .ok()?;
    Some(OciConfig::parse(&config).ok()?.diff_ids)
}

/// The image that `which` means, and by what name: `NAME`, `NAME@ID`, `@ID`, or an ID or the beginning
/// of one.
fn find(images: &[Arc<Image>], which: &str) -> Result<(Arc<Image>, Option<Reference>), String> {
    let (name, id) = match which.rsplit_once('@') {
        Some((name, id)) if !id.contains(':') => (name, Some(id)),
        None if is_id(which) && !is_name(images, which) => ("", Some(which)),
        _ => (which, None),
    };
    let named = match name {
        "" => None,
        name => Some(Reference::normalized(name).map_err(|error| error.to_string())?),
    };
    let fits = |image: &&Arc<Image>| {
        id.is_none_or(|id| is_id(id) && image.id.as_str().starts_with(id))
            && named.as_ref().is_none_or(|named| has_name(image, named))
    };
    let mut found = images.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(image), None) => Ok((Arc::clone(image), named)),
        (Some(_), Some(_)) => Err(format!("several images {which:?} in it")),
        (None, _) => Err(format!("no image {which:?} in it")),
    }
}

/// Whether a text can be an ID or its beginning: three digits at least.
fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (3..=64).contains(&text.len()) && text.bytes().all(is_digit)
}

/// Whether what could be an ID is a name: `abc` may be `docker.io/library/abc:latest`.
fn is_name(images: &[Arc<Image>], text: &str) -> bool {
    let named = Reference::normalized(text);
    named.is_ok_and(|named| images.iter().any(|image| has_name(image, &named)))
}

fn has_name(image: &Image, named: &Reference) -> bool {
    let by_digest = named.digest().is_some_and(|digest| {
        let of_repository = |name: &String| {
            let own = name.parse::<Reference>();
            own.is_ok_and(|own| own.repository() == named.repository())
        };
        image.digests.contains(digest) && image.names.iter().any(of_repository)
    });
    by_digest || image.names.contains(&named.stored_name())
}
