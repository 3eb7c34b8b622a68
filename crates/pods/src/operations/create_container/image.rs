//! The image that a container is created from.

use std::collections::BTreeMap;
use std::sync::Arc;

use spec::process::ImageDefaults;

use crate::node::Node;
use crate::{ContainerRequest, Error, checkpoint};

/// What a creation needs of an image.
pub(super) struct Image {
    pub(super) id: String,
    pub(super) reference: String,
    pub(super) name: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) defaults: ImageDefaults,
}

/// Finds the image and asks whether it may run here under the name that was meant.
pub(super) async fn image(
    node: &Node,
    request: &ContainerRequest,
    namespace: &str,
) -> Result<Image, Error> {
    let name = match checkpoint::archive(request) {
        Some(_) => checkpoint::base_image(request)?,
        None => &request.image,
    };
    let Some(image) = node.images.find(name).await? else {
        return Err(Error::NoImage(name.to_owned()));
    };
    let meant = if request.user_specified_image.is_empty() {
        &request.image
    } else {
        &request.user_specified_image
    };
    node.images.allowed(&image, meant, namespace).await?;
    let config = Arc::clone(&image.config);
    let name = image.repo_tags.first().cloned().unwrap_or_default();
    Ok(Image {
        reference: image
            .repo_digests
            .first()
            .cloned()
            .unwrap_or_else(|| image.id.to_string()),
        id: image.id.to_string(),
        annotations: image.annotations.clone(),
        name,
        defaults: ImageDefaults {
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            env: config.env.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            stop_signal: config.stop_signal.clone(),
            volumes: config.volumes.clone(),
        },
    })
}
