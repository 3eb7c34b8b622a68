//! Removing an image, or one of its names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::find::Found;
use super::{Images, Shared, names};
use crate::error::{Error, Result};

impl Images {
    /// Removes an image, or an artifact, by its ID, with all names; or one name of it, and the image with its last
    /// one. What is not there is removed already. `mounted` has the ids of images that a container
    /// has mounted beside its own, which the store does not know, each with its container.
    ///
    /// # Errors
    /// [`Error::InUse`] while a container uses it: nothing is removed then.
    pub async fn remove(&self, name_or_id: &str, mounted: BTreeMap<String, String>) -> Result<()> {
        let (shared, text) = (Arc::clone(&self.0), name_or_id.to_owned());
        let files = &self.0.puller.files;
        files.run(move || shared.remove(&text, &mounted)).await
    }
}

impl Shared {
    fn remove(&self, text: &str, mounted: &BTreeMap<String, String>) -> Result<()> {
        let store = &self.puller.store;
        let Some(found) = self.look_up(text)? else {
            return self.remove_artifact(text, mounted);
        };
        let (record, doomed) = match found {
            Found::ById(record) => (record, None),
            Found::ByName(record, reference) => {
                let exact = reference.stored_name();
                let doomed: Vec<_> = if record.names.contains(&exact) {
                    vec![exact]
                } else {
                    // By a digest that it has by its tags: all of that repository.
                    let repository = reference.repository();
                    let of = |name: &&String| {
                        names::split(name).is_some_and(|(own, _)| own == repository)
                    };
                    record.names.iter().filter(of).cloned().collect()
                };
                (record, Some(doomed))
            }
        };
        if let Some(doomed) = doomed
            && record.names.iter().any(|name| !doomed.contains(name))
        {
            for name in doomed {
                store.untag(&name)?;
            }
            return Ok(());
        }
        if let Some(container) = mounted.get(record.id.as_str()) {
            return Err(Error::InUse {
                image: text.to_owned(),
                container: container.clone(),
            });
        }
        match store.remove_image(&record.id) {
            Err(storage::Error::ImageUnknown(_)) | Ok(()) => Ok(()),
            Err(storage::Error::ImageInUse { container, .. }) => Err(Error::InUse {
                image: text.to_owned(),
                container: container.to_string(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}
