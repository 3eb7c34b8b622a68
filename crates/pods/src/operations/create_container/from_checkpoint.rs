//! What creating a container from a checkpoint does beside.

use std::sync::Arc;

use image::{Image, Trust};

use super::{Create, once};
use crate::node::{Node, blocking};
use crate::state::container::Restored;
use crate::state::pod::Pod;
use crate::{Error, checkpoint};

/// The annotation of an image that is a checkpoint: the name of the container it was made of.
const CHECKPOINT: &str = "io.kubernetes.cri-o.annotations.checkpoint.name";

/// What an image that is a checkpoint says of its container; `None` of another one. Its annotation says
/// that it is one, and so does its content: one image may have several manifests, and anybody may have one
/// pulled that says anything.
pub(super) async fn of_image(
    node: &Arc<Node>,
    image: &Image,
) -> Result<Option<runtime::checkpoint::Config>, Error> {
    if !image.annotations.contains_key(CHECKPOINT) {
        return Ok(None);
    }
    let (store, id) = (node.store.clone(), image.id.clone());
    blocking(&node.pools.files, move || checkpoint::config(&store, &id)).await
}

/// The image that the checkpoint `image` was made on, if the checkpoint may be restored. What criu's
/// images say is done as root, and whoever may run a pod chooses its image: so it has to be signed.
pub(super) fn base_of(
    config: runtime::checkpoint::Config,
    image: &Image,
    trust: Trust,
) -> Result<String, Error> {
    if trust != Trust::Signed {
        return Err(Error::WrongState(format!(
            "image {} is a checkpoint: it is restored only where the signature policy asks for its signature",
            image.id
        )));
    }
    if config.rootfs_image_ref.parse::<image::ImageId>().is_err() {
        return Err(Error::Invalid(format!(
            "checkpoint image {}: names no image that it was made on",
            image.id
        )));
    }
    Ok(config.rootfs_image_ref)
}

/// Whether a container may be restored here.
pub(super) async fn restorable(node: &Arc<Node>, pod: &Pod) -> Result<(), Error> {
    if pod.request.id_map.is_some() {
        let text = "a container can't be restored in a user namespace: that is not built";
        return Err(Error::Invalid(text.to_owned()));
    }
    let looker = Arc::clone(node);
    blocking(&node.pools.files, move || checkpoint::available(&looker)).await
}

/// The stage `archive`: criu's images go into the record's directory, the changes into the layer.
pub(super) async fn unpack(create: &Create) -> Result<(), Error> {
    let Some(place) = create.checkpoint.clone() else {
        return Ok(());
    };
    let (store, id) = (create.node.store.clone(), create.id.clone());
    let to = checkpoint::restore_dir(&create.dirs().persistent);
    let tty = create.request.tty;
    let unpack = move || {
        let unpacked = checkpoint::unpack(&store, &place, &to)?;
        // criu gives processes back what they had as standard input and output.
        if unpacked.process.terminal != tty {
            let had = if tty { "no" } else { "a" };
            let text = format!("the checkpoint's container had {had} terminal: tty has to say so");
            return Err(Error::Invalid(text));
        }
        checkpoint::fill(&store, &id, &to, &unpacked)?;
        Ok::<_, Error>((unpacked.config, unpacked.process))
    };
    let (config, process) = blocking(&create.node.pools.storage, unpack).await?;
    let made_on = &config.rootfs_image_ref;
    if !made_on.is_empty() && *made_on != create.image.id {
        return Err(Error::Invalid(format!(
            "the checkpoint was made on image {made_on}, and the request names {}",
            create.image.id
        )));
    }
    let restored = Restored {
        checkpointed: config.checkpointed_time,
        args: process.args,
    };
    once(&create.restored, restored)
}

/// What a restored process may be: what the spec gives the first one.
pub(super) fn confinement(
    spec: &spec::oci::Spec,
) -> Result<runtime::checkpoint::Confinement, Error> {
    let missing = || Error::Internal("a container's spec without a process".to_owned());
    let process = spec.process.as_ref().ok_or_else(missing)?;
    let bounding = process.capabilities.as_ref().map(|sets| &sets.bounding);
    let user = &process.user;
    let own = std::iter::once(user.gid);
    Ok(runtime::checkpoint::Confinement {
        uid: user.uid,
        gids: own.chain(user.additional_gids.iter().copied()).collect(),
        capabilities: spec::capabilities::Set::parse(bounding.map_or(&[][..], |names| names))?
            .bits(),
        no_new_privileges: process.no_new_privileges,
        seccomp: spec
            .linux
            .as_ref()
            .is_some_and(|linux| linux.seccomp.is_some()),
    })
}
