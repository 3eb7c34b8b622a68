//! Which image a text means: an ID, the beginning of one, or a name.

use std::sync::Arc;

use super::{Images, Shared, config_of, manifest_of, names};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::reference::{ImageName, Reference, full_id, is_id_prefix};

/// What a text was found to mean.
pub(super) enum Found {
    /// It is an ID.
    ById(Arc<storage::Image>),
    /// It is a name, and the image has it.
    ByName(Arc<storage::Image>, Reference),
}

impl Images {
    /// Finds an image by its ID (whole, or three digits of its beginning at least), tag, digest
    /// or short name; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::BadReference`] of a text that can't be a name; the store can't be read.
    pub async fn find(&self, name_or_id: &str) -> Result<Option<Image>> {
        let (shared, text) = (Arc::clone(&self.0), name_or_id.to_owned());
        self.0.puller.files.run(move || shared.find(&text)).await
    }

    /// An image's configuration, all of it (image-spec, config.md).
    ///
    /// # Errors
    /// The store can't be read, or it is no JSON.
    pub async fn configuration(&self, id: &storage::ImageId) -> Result<serde_json::Value> {
        let (shared, id) = (Arc::clone(&self.0), id.clone());
        let read = move || {
            let store = &shared.puller.store;
            let config = config_of(store, &id, manifest_of(store, &id).as_ref())?;
            serde_json::from_slice(&config).map_err(|wrong| {
                Error::bad_manifest(format!("configuration {id}"), wrong.to_string())
            })
        };
        self.0.puller.files.run(read).await
    }
}

impl Shared {
    fn find(&self, text: &str) -> Result<Option<Image>> {
        match self.look_up(text)? {
            Some(Found::ById(record) | Found::ByName(record, _)) => {
                self.describe(&record).map(Some)
            }
            None => Ok(None),
        }
    }

    pub(super) fn look_up(&self, text: &str) -> Result<Option<Found>> {
        let images = self.puller.store.images()?;
        if let Some(id) = full_id(text)
            && let Some(image) = images.iter().find(|image| image.id.as_str() == id)
        {
            return Ok(Some(Found::ById(Arc::clone(image))));
        }
        if is_id_prefix(text) {
            let mut found = images
                .iter()
                .filter(|image| image.id.as_str().starts_with(text));
            match (found.next(), found.next()) {
                (Some(image), None) => return Ok(Some(Found::ById(Arc::clone(image)))),
                (Some(_), Some(_)) => {
                    let reason = "several images' IDs begin so".to_owned();
                    return Err(Error::BadReference {
                        reference: text.to_owned(),
                        reason,
                    });
                }
                (None, _) => {}
            }
        }
        if full_id(text).is_some() {
            return Ok(None);
        }
        for reference in self.stored_candidates(text)? {
            if let Some(image) = images.iter().find(|image| has_name(image, &reference)) {
                return Ok(Some(Found::ByName(Arc::clone(image), reference)));
            }
        }
        Ok(None)
    }

    /// The references that a name may mean among what is stored; none of what looks like the beginning
    /// of an ID and is ambiguous as a name.
    pub(super) fn stored_candidates(&self, text: &str) -> Result<Vec<Reference>> {
        let name: ImageName = text.parse()?;
        if let ImageName::Full(reference) = name {
            return Ok(vec![reference]);
        }
        let registries = self.puller.options.registries()?;
        match registries.stored_candidates(&name) {
            Err(Error::BadReference { .. }) if is_id_prefix(text) => Ok(Vec::new()),
            found => found,
        }
    }
}

/// Whether an image has that name; by digest also if it was pulled by a tag of that repository.
fn has_name(image: &storage::Image, reference: &Reference) -> bool {
    if image.names.contains(&reference.stored_name()) {
        return true;
    }
    let Some(digest) = reference.digest() else {
        return false;
    };
    let repository = reference.repository();
    let of_repository =
        |name: &String| names::split(name).is_some_and(|(own, _)| own == repository);
    (image.digest.as_ref() == Some(digest) || image.digests.contains(digest))
        && image
            .names
            .iter()
            .chain(&image.names_history)
            .any(of_repository)
}
