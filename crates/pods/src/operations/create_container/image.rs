//! The image that a container is created from, and the checkpoint that it goes on from.

use std::collections::BTreeMap;
use std::sync::Arc;

use spec::process::ImageDefaults;

use super::from_checkpoint;
use crate::checkpoint::{self, Place};
use crate::node::Node;
use crate::state::pod::Pod;
use crate::{ContainerRequest, Error};

/// What a creation needs of an image.
pub(super) struct Image {
    pub(super) id: String,
    pub(super) reference: String,
    pub(super) name: String,
    pub(super) repo_digests: Vec<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) defaults: ImageDefaults,
}

/// Finds the image and asks whether it may run here under the name that was meant. Where the request
/// names a checkpoint, tells where that is, beside the image that it goes on from.
pub(super) async fn image(
    node: &Arc<Node>,
    pod: &Pod,
    request: &ContainerRequest,
) -> Result<(Image, Option<Place>), Error> {
    let namespace = &pod.request.key.namespace;
    let mut place = checkpoint::archive(request);
    let name = if place.is_some() {
        from_checkpoint::restorable(node, pod).await?;
        checkpoint::base_image(request)?
    } else {
        &request.image
    };
    let find = async |name: &str| {
        let found = node.images.find(name).await?;
        found.ok_or_else(|| Error::NoImage(name.to_owned()))
    };
    let mut image = find(name).await?;
    let meant = if request.user_specified_image.is_empty() {
        &request.image
    } else {
        &request.user_specified_image
    };
    let trust = node.images.allowed(&image, meant, namespace).await?;
    if place.is_none()
        && let Some(config) = from_checkpoint::of_image(node, &image).await?
    {
        from_checkpoint::restorable(node, pod).await?;
        let base = from_checkpoint::base_of(config, &image, trust)?;
        place = Some(Place::Image(image.id.clone()));
        image = find(&base).await?;
        node.images.allowed(&image, &base, namespace).await?;
    }
    let config = Arc::clone(&image.config);
    let name = image.repo_tags.first().cloned().unwrap_or_default();
    let image = Image {
        reference: image
            .repo_digests
            .first()
            .cloned()
            .unwrap_or_else(|| image.id.to_string()),
        id: image.id.to_string(),
        annotations: image.annotations.clone(),
        name,
        repo_digests: image.repo_digests.clone(),
        defaults: ImageDefaults {
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            env: config.env.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            stop_signal: config.stop_signal.clone(),
            volumes: config.volumes.clone(),
        },
    };
    Ok((image, place))
}
