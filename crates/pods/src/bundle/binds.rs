//! The mounts that a request asks for: where what they show is on the host.

use std::fs;
use std::path::PathBuf;

use runtime::Handler;
use spec::mounts::{self, Bind};

use super::Ingredients;
use crate::node::Node;
use crate::request::Mount;
use crate::{Error, id_mapped, image_volumes, selinux};

/// Finds, makes and labels what the request's mounts show.
pub(super) fn requested(
    node: &Node,
    from: &Ingredients,
    handler: &Handler,
) -> Result<Vec<Bind>, Error> {
    let request = &from.request;
    let mut binds = Vec::with_capacity(request.mounts.len());
    let volumes = image_volumes::sources(&from.bundle, request, &from.image_volumes)?;
    let mut volumes = volumes.into_iter();
    for (number, mount) in request.mounts.iter().enumerate() {
        let whole = |source| vec![(mount.container_path.clone(), source)];
        if mount.image.is_none() && mount.selinux_relabel {
            let source = host_source(node, mount)?;
            let allowed = &handler.config.allowed_annotations;
            selinux::label_volume(&source, mount, request, &from.pod, &from.selinux, allowed)?;
        }
        let shown = match (&mount.image, mount.id_map) {
            (Some(_), _) => volumes.next().unwrap_or_default(),
            (None, Some(_)) => whole(id_mapped::place(node, &from.id, number)),
            (None, None) => whole(host_source(node, mount)?),
        };
        let rro_supported = handler.features.recursive_readonly;
        for (destination, source) in shown {
            binds.push(bind(mount, destination, source, rro_supported)?);
        }
    }
    Ok(binds)
}

/// A requested mount of what is at `source`.
fn bind(
    mount: &Mount,
    destination: String,
    source: PathBuf,
    rro_supported: bool,
) -> Result<Bind, Error> {
    if mount.recursive_readonly
        && !(mount.readonly && mount.propagation == mounts::Propagation::Private)
    {
        let text = format!(
            "recursive read-only mount of {} must be read-only and private",
            mount.container_path
        );
        return Err(Error::Invalid(text));
    }
    if mount.recursive_readonly && !rro_supported {
        return Err(Error::Invalid(
            "the runtime handler has no recursive read-only mounts".to_owned(),
        ));
    }
    Ok(Bind {
        destination,
        source,
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_readonly,
        propagation: mount.propagation,
    })
}

/// A mount's source on the host, made where it is missing.
pub(crate) fn host_source(node: &Node, mount: &Mount) -> Result<PathBuf, Error> {
    let source = match node.options.bind_mount_prefix.as_os_str().is_empty() {
        true => PathBuf::from(&mount.host_path),
        false => node
            .options
            .bind_mount_prefix
            .join(mount.host_path.trim_start_matches('/')),
    };
    if !source.is_absolute() {
        return Err(Error::Invalid(format!(
            "host path {:?} of a mount is not absolute",
            mount.host_path
        )));
    }
    match source.metadata() {
        Ok(_) => Ok(source),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            if node.options.absent_sources_rejected.contains(&source) {
                return Err(Error::Invalid(format!(
                    "cannot mount {}: no such file or directory",
                    source.display()
                )));
            }
            fs::create_dir_all(&source).map_err(Error::io("create mount source", &source))?;
            Ok(source)
        }
        Err(error) => Err(Error::io("look at mount source", source)(error)),
    }
}
