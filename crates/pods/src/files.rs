//! A pod's own files: resolv.conf, hostname, .containerenv, /dev/shm and the log directory, which may
//! be mounted on a volume.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::node::{Node, blocking};
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::{Dns, PodRequest, Shared};
use crate::{Error, linked_logs, selinux};

/// Size of a pod's /dev/shm: the default of the field.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Names in the pod's bundle directory.
pub(crate) const RESOLV_CONF: &str = "resolv.conf";
/// The pod's host name.
pub(crate) const HOSTNAME: &str = "hostname";
/// Empty, and there: by it programs know that they are in a container.
pub(crate) const CONTAINERENV: &str = ".containerenv";
/// Mount point of the pod's /dev/shm.
pub(crate) const SHM: &str = "shm";

/// The stage `files`.
pub(crate) async fn make(run: &Run) -> Result<(), Error> {
    let (dir, logs) = (run.dirs().bundle.clone(), run.log_directory.clone());
    let (request, hostname) = (run.request.clone(), run.hostname.clone());
    let label = run.selinux.mount.clone();
    let handler = Arc::clone(&run.handler);
    blocking(&run.node.pools.mounts, move || {
        write(&dir, &logs, &request, &hostname, &label)?;
        let allowed = &handler.config.allowed_annotations;
        linked_logs::mount(&request, allowed, &dir, &logs, &label);
        for name in [HOSTNAME, CONTAINERENV, RESOLV_CONF] {
            selinux::label(&dir.join(name), &label)?;
        }
        match request.id_map {
            Some(map) => give_away(&dir, map.root()),
            None => Ok(()),
        }
    })
    .await
}

fn write(
    dir: &Path,
    logs: &Path,
    request: &PodRequest,
    hostname: &str,
    label: &str,
) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(logs)
        .map_err(Error::io("create", logs))?;
    put(dir, HOSTNAME, &format!("{hostname}\n"))?;
    let path = dir.join(CONTAINERENV);
    fs::File::create(&path).map_err(Error::io("create", path))?;
    let resolv_conf = resolv_conf(request.dns.as_ref(), Path::new("/etc/resolv.conf"))?;
    put(dir, RESOLV_CONF, &resolv_conf)?;
    if request.ipc == Shared::Pod {
        let shm = dir.join(SHM);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&shm)
            .map_err(Error::io("create", &shm))?;
        let flags = sys::mount::Flags {
            no_dev: true,
            no_suid: true,
            no_exec: true,
            ..Default::default()
        };
        sys::mount::tmpfs(&shm, SHM_BYTES, 0o1777, flags, label)
            .map_err(Error::io("mount", &shm))?;
    }
    Ok(())
}

/// Gives the files to the root of the pod's user namespace, for whom they are somebody's then.
fn give_away(dir: &Path, (user, group): (u32, u32)) -> Result<(), Error> {
    for name in [HOSTNAME, CONTAINERENV, RESOLV_CONF, SHM] {
        let path = dir.join(name);
        match std::os::unix::fs::chown(&path, Some(user), Some(group)) {
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
            given => given.map_err(Error::io("give away", path))?,
        }
    }
    Ok(())
}

/// On tmpfs and read by containers only: nothing is synced.
fn put(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    sys::durable::replace_volatile(&path, text.as_bytes(), 0o644).map_err(Error::io("write", path))
}

/// resolv.conf(5) of the pod; the node's where the request has none, or has nothing in it.
fn resolv_conf(dns: Option<&Dns>, nodes: &Path) -> Result<String, Error> {
    let Some(dns) = dns.filter(|dns| **dns != Dns::default()) else {
        return match fs::read_to_string(nodes) {
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(Error::io("read", nodes)),
        };
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

/// Unmounts what the stage mounted; the files go with their directory.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        let Some(dirs) = node.dirs(subject.pod.as_str()).await? else {
            return Ok(());
        };
        unmount(node, dirs.bundle).await
    })
}

/// Unmounts a pod's /dev/shm, and its logs from a volume; fine if they are not mounted.
pub(crate) async fn unmount(node: &Node, bundle: PathBuf) -> Result<(), Error> {
    let shm = bundle.join(SHM);
    let unmount = move || {
        linked_logs::unmount(&bundle)?;
        match sys::mount::is_mount_point(&shm).map_err(Error::io("look at", &shm))? {
            true => sys::mount::unmount_lazily(&shm).map_err(Error::io("unmount", shm)),
            false => Ok(()),
        }
    };
    blocking(&node.pools.mounts, unmount).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_requests_lines() {
        let dns = Dns {
            servers: vec!["10.0.0.1".into(), "::1".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(Some(&dns), Path::new("/")).unwrap(),
            "search a b\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n"
        );
    }

    #[test]
    fn without_any_line_of_the_request_the_nodes_file_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path().join("resolv.conf");
        for dns in [None, Some(&Dns::default())] {
            assert_eq!(resolv_conf(dns, &nodes.with_extension("none")).unwrap(), "");
            fs::write(&nodes, "nameserver 10.0.0.9\n# the node's\n").unwrap();
            let text = resolv_conf(dns, &nodes).unwrap();
            assert_eq!(text, "nameserver 10.0.0.9\n# the node's\n");
        }
    }
}
