//! The mounts that a request asks for: where what they show is on the host.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use runtime::Handler;
use rustix::fs::{Mode, OFlags};
use spec::mounts::{Bind, Propagation};
use sys::mount::Propagation as Host;

use super::Ingredients;
use crate::node::Node;
use crate::request::Mount;
use crate::{Error, id_mapped, image_volumes, linked_logs, selinux};

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
    let logs = linked_logs::place_of(&from.pod.made.files)?;
    let root = node.store.root();
    let store = without_links(root).unwrap_or_else(|_| root.to_owned());
    for (number, mount) in request.mounts.iter().enumerate() {
        let whole = |source| vec![(mount.container_path.clone(), source)];
        let host = match &mount.image {
            Some(_) => None,
            None => Some(host_source(node, mount)?),
        };
        let resolved = host.as_deref().map(without_links).transpose();
        let resolved = resolved.map_err(Error::io("resolve", &mount.host_path))?;
        let propagation = match &resolved {
            Some(source) => propagation(&store, mount, source)?,
            None => mount.propagation,
        };
        // Read only, whatever the request and the runtime make of the mount on the node.
        let has_logs = match (&resolved, &logs) {
            (Some(source), Some(logs)) => source.starts_with(logs),
            _ => false,
        };
        if let Some(source) = host.as_deref().filter(|_| mount.selinux_relabel) {
            let allowed = &handler.config.allowed_annotations;
            selinux::label_volume(source, mount, request, &from.pod, &from.selinux, allowed)?;
        }
        let shown = match (host, mount.id_map) {
            (None, _) => volumes.next().unwrap_or_default(),
            (Some(_), Some(_)) => whole(id_mapped::place(node, &from.id, number)),
            (Some(source), None) => whole(source),
        };
        let rro_supported = handler.features.recursive_readonly;
        for (destination, source) in shown {
            let place = (destination, source);
            let mut bind = bind(mount, place, propagation, rro_supported)?;
            bind.readonly |= has_logs;
            binds.push(bind);
        }
    }
    Ok(binds)
}

/// How mounts travel through a mount of `source`, which has no links: as asked, where the host's mount can do it, and else
/// the error that peers give. A private mount that has the store in it would keep containers' roots
/// from being unmounted: it follows the host instead, where it can, as with CRI-O.
fn propagation(store: &Path, mount: &Mount, source: &Path) -> Result<Propagation, Error> {
    let holding = || sys::mount::holding(source).map_err(Error::io("look at mount of", source));
    let lacks = |point: PathBuf, what: &str| {
        let (source, point) = (source.display(), point.display());
        Error::Invalid(format!(
            "path {source:?} is mounted on {point:?} but it is not a {what} mount"
        ))
    };
    let has_store = || store.starts_with(source);
    match mount.propagation {
        Propagation::Private if mount.recursive_readonly || !has_store() => {
            Ok(Propagation::Private)
        }
        Propagation::Private => match holding()? {
            (_, Host::Private) => Ok(Propagation::Private),
            (_, Host::Slave | Host::Shared) => Ok(Propagation::HostToContainer),
        },
        Propagation::HostToContainer => match holding()? {
            (point, Host::Private) => Err(lacks(point, "shared or slave")),
            (_, Host::Slave | Host::Shared) => Ok(Propagation::HostToContainer),
        },
        Propagation::Bidirectional => match holding()? {
            (point, Host::Private | Host::Slave) => Err(lacks(point, "shared")),
            (_, Host::Shared) => Ok(Propagation::Bidirectional),
        },
    }
}

/// The path that a host path leads to.
fn without_links(path: &Path) -> std::io::Result<PathBuf> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A requested mount at a place in the container of what is on the host.
fn bind(
    mount: &Mount,
    (destination, source): (String, PathBuf),
    propagation: Propagation,
    rro_supported: bool,
) -> Result<Bind, Error> {
    if mount.recursive_readonly && !(mount.readonly && propagation == Propagation::Private) {
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
        propagation,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is a mount of its own until this is dropped.
    struct Mounted(tempfile::TempDir);

    impl Drop for Mounted {
        fn drop(&mut self) {
            sys::mount::unmount_all(self.0.path()).unwrap();
        }
    }

    #[test]
    fn mounts_travel_as_asked_where_the_host_can_do_it() {
        use Propagation::{Bidirectional, HostToContainer, Private};
        let dir = Mounted(tempfile::tempdir().unwrap());
        let dir = dir.0.path();
        sys::mount::bind(dir, dir, false).unwrap();
        let (store, other) = (dir.join("a/store"), dir.join("b"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir(&other).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(dir.join("a"), &link).unwrap();
        let found = |asked, rro, source: &Path| {
            let mount = Mount {
                propagation: asked,
                recursive_readonly: rro,
                ..Mount::default()
            };
            let source = without_links(source).unwrap();
            propagation(&store, &mount, &source).map_err(|error| error.to_string())
        };
        let refused = |what: &str| {
            let text = format!("path {other:?} is mounted on {dir:?} but it is not a {what} mount");
            Err(text)
        };
        for (host, asked, expected) in [
            (Host::Private, Private, Ok(Private)),
            (Host::Private, HostToContainer, refused("shared or slave")),
            (Host::Private, Bidirectional, refused("shared")),
            (Host::Shared, Private, Ok(Private)),
            (Host::Shared, HostToContainer, Ok(HostToContainer)),
            (Host::Shared, Bidirectional, Ok(Bidirectional)),
        ] {
            sys::mount::set_propagation(dir, host, false).unwrap();
            assert_eq!(found(asked, false, &other), expected, "{host:?} {asked:?}");
            // What holds the store follows the host where it can.
            let follows = match host {
                Host::Private => Private,
                Host::Slave | Host::Shared => HostToContainer,
            };
            for holds in [dir, &link, &store] {
                assert_eq!(found(Private, false, holds), Ok(follows), "{holds:?}");
                assert_eq!(found(Private, true, holds), Ok(Private), "{holds:?}");
            }
        }
    }
}
