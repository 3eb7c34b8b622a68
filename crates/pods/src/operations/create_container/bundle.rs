//! The stage `bundle`: what the runtime is given.

use std::path::{Component, Path};
use std::sync::Arc;

use spec::container::Namespace;

use super::{Create, from_checkpoint, once};
use crate::bundle::{self, Ingredients};
use crate::node::blocking;
use crate::request::PidMode;
use crate::state::container::Container;
use crate::state::pod::Pod;
use crate::{ContainerId, ContainerRequest, Error, checkpoint, handlers};

/// The log beneath the pod's log directory; by the container's id where the request does not name one.
pub(super) fn log_path(
    pod: &Pod,
    id: &ContainerId,
    request: &ContainerRequest,
) -> Result<String, Error> {
    let by_id = format!("{id}.log");
    let path = match request.log_path.as_str() {
        "" => Path::new(&by_id),
        given => Path::new(given),
    };
    if !path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(Error::Invalid(format!(
            "log path {:?} leaves the pod's log directory",
            request.log_path
        )));
    }
    Ok(pod
        .made
        .log_directory
        .join(path)
        .to_string_lossy()
        .into_owned())
}

/// The stage `bundle`: the container's spec, where the runtime reads it.
pub(super) async fn make_bundle(create: &Create) -> Result<(), Error> {
    let ingredients = Ingredients {
        id: create.id.clone(),
        pod: Arc::clone(&create.pod),
        request: create.request.clone(),
        image: create.image.defaults.clone(),
        image_id: create.image.id.clone(),
        image_ref: create.image.reference.clone(),
        image_name: create.image.name.clone(),
        repo_digests: create.image.repo_digests.clone(),
        created: create.created,
        root: create.root.get().cloned().unwrap_or_default(),
        bundle: create.dirs().bundle.clone(),
        image_volumes: create.image_volumes.clone(),
        seccomp: create.seccomp.clone(),
        selinux: create.selinux.clone(),
        pid_namespace: pid_namespace(create)?,
        log_path: create.log_path.clone(),
        restored: create.restored.get().cloned(),
    };
    let (node, dir) = (Arc::clone(&create.node), create.dirs().bundle.clone());
    let images = create.checkpoint.as_ref().map(|_| {
        let from = checkpoint::restore_dir(&create.dirs().persistent);
        checkpoint::images_dir(&from)
    });
    let build = move || {
        let built = bundle::build(&node, &ingredients)?;
        if let Some(images) = &images {
            checkpoint::confine(images, &from_checkpoint::confinement(&built.0)?)?;
        }
        make_log_dir(&ingredients.log_path)?;
        let path = dir.join("config.json");
        let text =
            serde_json::to_vec(&built.0).map_err(|wrong| Error::Internal(wrong.to_string()))?;
        // On tmpfs, read by the runtime at once: nothing is synced.
        sys::durable::replace_volatile(&path, &text, 0o600).map_err(Error::io("write", path))?;
        let image = handlers::of(&node, &ingredients.pod)?.image.get();
        Ok::<_, Error>((built, image))
    };
    let (built, image) = blocking(&create.node.pools.mounts, build).await?;
    once(&create.runtime, image)?;
    once(&create.built, built)
}

fn make_log_dir(log_path: &str) -> Result<(), Error> {
    let Some(dir) = Path::new(log_path)
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))
}

/// Whose processes the container sees.
fn pid_namespace(create: &Create) -> Result<Namespace, Error> {
    let of = |container: &Container| match container.phase.init() {
        Some(init) if init.pid > 0 => {
            Ok(Namespace::Join(format!("/proc/{}/ns/pid", init.pid).into()))
        }
        _ => Err(Error::WrongState(format!(
            "container {} has no process to share a namespace with",
            container.id
        ))),
    };
    match &create.request.pid {
        PidMode::Container => Ok(Namespace::New),
        PidMode::Host => Ok(Namespace::Host),
        PidMode::Pod => match create.pod.made.infra {
            Some(init) => Ok(Namespace::Join(format!("/proc/{}/ns/pid", init.pid).into())),
            None => {
                let text = "the pod sandbox has no process namespace to share";
                Err(Error::Invalid(text.to_owned()))
            }
        },
        PidMode::Target(id) => {
            let target = create.node.table.load().container(id)?;
            if target.pod == create.pod.id {
                of(&target)
            } else {
                Err(Error::Invalid(format!(
                    "container {id} is in another pod sandbox"
                )))
            }
        }
    }
}
