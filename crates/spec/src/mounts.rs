//! Mounts of a container: what every one has, and what the request adds or replaces.

use serde::{Deserialize, Serialize};

use std::path::{Path, PathBuf};

use crate::{Error, oci};

/// How mounts made later travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A bind mount that the request asks for; `source` exists and is resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path in the container.
    pub destination: String,
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Whether it can't be written.
    pub readonly: bool,
    /// Whether that goes for mounts beneath it too.
    pub recursive_readonly: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// What the mounts depend on.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Sees the host's devices and writes to its sysfs and cgroups.
    pub privileged: bool,
    /// The pod's IPC namespace is the host's.
    pub host_ipc: bool,
    /// Its sysfs is the host's, bound: nobody can mount one of a network that belongs to another
    /// user namespace (`user_namespaces(7)`).
    pub host_sysfs: bool,
    /// The container's root can't be written.
    pub readonly_root: bool,
    /// Give a read-only root writable `/run`, `/tmp` and `/var/tmp`.
    pub tmpfs: bool,
    /// Files and directories of the pod: destination, source.
    pub pod: Vec<(&'static str, PathBuf)>,
    /// What the kubelet asks for.
    pub binds: Vec<Bind>,
}

/// The file of host names (hosts(5)).
pub const HOSTS: &str = "/etc/hosts";

/// The mounts in the order in which a runtime makes them.
///
/// # Errors
/// [`Error::Invalid`] for a destination that is not absolute.
pub fn resolve(request: &Request) -> Result<Vec<oci::Mount>, Error> {
    let mut mounts = defaults(request);
    if request.readonly_root && request.tmpfs {
        let options = ["rw", "nosuid", "nodev", "tmpcopyup"];
        mounts.extend(
            ["/run", "/tmp", "/var/tmp"].map(|path| mount(path, "tmpfs", "tmpfs", &options)),
        );
    }
    for (destination, source) in &request.pod {
        let read_only = match *destination {
            "/dev/shm" => false,
            // The node's own, where there is one.
            HOSTS => true,
            _ => request.readonly_root,
        };
        let writable = if read_only { "ro" } else { "rw" };
        mounts.push(bind(
            destination,
            source,
            &["bind", writable, "nosuid", "nodev", "noexec"],
        ));
    }
    let mut binds = request.binds.clone();
    binds.sort_by_key(|bind| Path::new(&bind.destination).components().count());
    for asked in &binds {
        let destination = normal(&asked.destination)?;
        // A request's mount takes the place of ours, and of what we have beneath it.
        mounts.retain(|ours| {
            ours.destination != destination
                && !(destination != "/" && Path::new(&ours.destination).starts_with(&destination))
        });
        mounts.push(requested(asked, &destination));
    }
    Ok(mounts)
}

/// Propagation of the root: a container that receives mounts can't have a private one.
#[must_use]
pub fn root_propagation(binds: &[Bind]) -> &'static str {
    if binds
        .iter()
        .any(|bind| bind.propagation == Propagation::Bidirectional)
    {
        "rshared"
    } else if binds
        .iter()
        .any(|bind| bind.propagation == Propagation::HostToContainer)
    {
        "rslave"
    } else {
        ""
    }
}

fn defaults(request: &Request) -> Vec<oci::Mount> {
    let writable = if request.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
    ];
    if request.host_sysfs {
        // With the cgroups in it.
        let access = if request.privileged { "rw" } else { "rro" };
        let options = ["rbind", "nosuid", "noexec", "nodev", access];
        mounts.push(mount("/sys", "bind", "/sys", &options));
    } else {
        let options = ["nosuid", "noexec", "nodev", writable];
        mounts.push(mount("/sys", "sysfs", "sysfs", &options));
        let options = ["nosuid", "noexec", "nodev", "relatime", writable];
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    if !request.host_ipc {
        mounts.push(mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ));
    }
    mounts
}

fn requested(asked: &Bind, destination: &str) -> oci::Mount {
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (asked.readonly, asked.recursive_readonly) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    bind(destination, &asked.source, &["rbind", access, propagation])
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> oci::Mount {
    mount(destination, "bind", &source.to_string_lossy(), options)
}

/// `path` without `.`, `..` and doubled slashes.
fn normal(path: &str) -> Result<String, Error> {
    if !path.starts_with('/') {
        return Err(Error::Invalid {
            what: "mount",
            reason: format!("container path {path:?} is not absolute"),
        });
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(destination: &str) -> Bind {
        Bind {
            destination: destination.into(),
            source: "/host".into(),
            ..Bind::default()
        }
    }

    #[test]
    fn requested_mounts_replace_ours_and_parents_come_first() {
        let request = Request {
            binds: vec![asked("/a/b"), asked("/dev/shm"), asked("/a")],
            pod: vec![("/dev/shm", "/pod/shm".into())],
            ..Request::default()
        };
        let mounts = resolve(&request).unwrap();
        let from_host: Vec<_> = mounts
            .iter()
            .filter(|mount| mount.source == "/host")
            .map(|mount| mount.destination.as_str())
            .collect();
        assert_eq!(from_host, ["/a", "/a/b", "/dev/shm"]);
        assert_eq!(
            mounts
                .iter()
                .filter(|mount| mount.destination == "/dev/shm")
                .count(),
            1
        );
    }

    #[test]
    fn files_of_a_pod_are_as_writable_as_the_root_and_those_of_the_node_are_not() {
        for (readonly_root, expected) in [(false, ["rw", "ro", "rw"]), (true, ["ro", "ro", "rw"])] {
            let files = ["/etc/hostname", HOSTS, "/dev/shm"];
            let request = Request {
                readonly_root,
                pod: files.map(|file| (file, "/pod".into())).into(),
                ..Request::default()
            };
            let mounts = resolve(&request).unwrap();
            let own = mounts.iter().filter(|mount| mount.source == "/pod");
            let own: Vec<_> = own.map(|mount| mount.options[1].as_str()).collect();
            assert_eq!(own, expected);
        }
    }

    #[test]
    fn a_mount_on_dev_or_sys_takes_all_beneath_it() {
        let request = Request {
            binds: vec![asked("/sys")],
            ..Request::default()
        };
        let destinations: Vec<_> = resolve(&request)
            .unwrap()
            .into_iter()
            .map(|mount| mount.destination)
            .collect();
        assert!(
            !destinations.contains(&"/sys/fs/cgroup".to_owned()),
            "{destinations:?}"
        );
    }

    #[test]
    fn only_privileged_containers_write_sysfs() {
        for (privileged, access) in [(false, "ro"), (true, "rw")] {
            let mounts = resolve(&Request {
                privileged,
                ..Request::default()
            })
            .unwrap();
            for path in ["/sys", "/sys/fs/cgroup"] {
                let mount = mounts
                    .iter()
                    .find(|mount| mount.destination == path)
                    .unwrap();
                assert!(
                    mount.options.iter().any(|option| option == access),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn relative_destinations_are_refused() {
        assert!(
            resolve(&Request {
                binds: vec![asked("etc")],
                ..Request::default()
            })
            .is_err()
        );
        assert_eq!(normal("/a/./b/../../etc//x").unwrap(), "/etc/x");
    }
}
