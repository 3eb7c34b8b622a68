//! Where the cgroups of pods, containers and monitors are, and who keeps them: we ourselves beneath
//! a parent (cgroupfs), or systemd in its slices and scopes.
//!
//! Everything behind this module speaks of paths as in `/proc/PID/cgroup`, with either keeper.

use std::path::Path;
use std::sync::Arc;

use sys::cgroup::Cgroup;
use systemd::{Scope, Slice, Systemd};

use crate::node::{Node, blocking};
use crate::operations::chain;
use crate::state::container::Container;
use crate::{Error, PodId, monitors};

/// Slice of pods that name none, as CRI-O has it.
const DEFAULT_SLICE: &str = "system.slice";

/// Who keeps the cgroups.
#[derive(Debug, Clone)]
pub enum Keeper {
    /// We do, by making and removing directories.
    Cgroupfs {
        /// Parent of the cgroups of monitors, and of pods that name none.
        root: String,
    },
    /// systemd does.
    Systemd {
        /// The way to it.
        systemd: Arc<Systemd>,
        /// Slice of the monitors' scopes.
        monitors: Slice,
    },
}

impl Keeper {
    /// Whether it is systemd.
    #[must_use]
    pub fn is_systemd(&self) -> bool {
        matches!(self, Self::Systemd { .. })
    }

    /// Whether systemd answers, where it is the keeper.
    ///
    /// # Errors
    /// [`Error::Systemd`].
    pub async fn check(&self) -> Result<(), Error> {
        match self {
            Self::Cgroupfs { .. } => Ok(()),
            Self::Systemd { systemd, .. } => Ok(systemd.check().await?),
        }
    }

    /// What a pod's containers are beneath: a path, or with systemd a slice's name. `asked` is the
    /// request's, of either form; empty for the default.
    pub(crate) fn parent(&self, asked: &str) -> Result<String, Error> {
        match self {
            Self::Cgroupfs { root } if asked.is_empty() => Ok(root.clone()),
            Self::Cgroupfs { .. } => plain_path(asked),
            Self::Systemd { .. } if asked.is_empty() => Ok(DEFAULT_SLICE.to_owned()),
            Self::Systemd { .. } => {
                // The kubelet sends the whole path in some versions; the last name says it all.
                let name = asked.rsplit('/').next().unwrap_or_default();
                let slice = name.parse::<Slice>().map_err(|_| {
                    // CRI-O's words.
                    Error::Invalid(format!(
                        "cri-o configured with systemd cgroup manager, but did not receive slice as parent: {asked}"
                    ))
                })?;
                Ok(slice.name().to_owned())
            }
        }
    }

    /// Path of the cgroup of a container, or of a pod's own process.
    pub(crate) fn container(&self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs { .. } => format!("{parent}/crio-{id}"),
            Self::Systemd { .. } => format!("{}/crio-{id}.scope", of_pod(parent)),
        }
    }

    /// The same for the runtime: `cgroupsPath` of the OCI runtime specification.
    pub(crate) fn for_runtime(&self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs { .. } => self.container(parent, id),
            Self::Systemd { .. } => format!("{parent}:crio:{id}"),
        }
    }

    /// Path of the cgroup of a pod's monitor: never the daemon's, and never beneath the pod's memory
    /// limit.
    pub(crate) fn monitor(&self, pod: &PodId) -> String {
        match self {
            Self::Cgroupfs { root } => format!("{root}/crio-conmon-{pod}"),
            Self::Systemd { monitors, .. } => {
                format!("{}/{}", monitors.cgroup(), monitor_scope(pod))
            }
        }
    }

    /// Path of the cgroup of an image pull's own process. With systemd its name is CRI-O's, but for the
    /// number.
    pub(crate) fn pull(&self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs { .. } => format!("{parent}/crio-pull-image-{id}"),
            Self::Systemd { .. } => format!("{}/crio-pull-image-{id}.scope", of_pod(parent)),
        }
    }

    /// Puts the process of a pull into its cgroup, one of [`Keeper::pull`]; by us, it was born there.
    pub(crate) async fn adopt_pull(
        &self,
        parent: &str,
        cgroup: &str,
        pid: u32,
    ) -> Result<(), Error> {
        let (Self::Systemd { systemd, .. }, Some(name)) = (self, unit_of(cgroup)) else {
            return Ok(());
        };
        let slice = parent.parse::<Slice>();
        let scope = Scope {
            name,
            description: "Pull of an image",
            slice: &slice.map_err(|wrong| Error::Internal(wrong.to_string()))?,
            pid,
        };
        Ok(systemd.start_scope(&scope).await?)
    }

    /// Puts a monitor that was just started where it belongs; by us, it was born there.
    pub(crate) async fn adopt_monitor(&self, pod: &PodId, pid: u32) -> Result<(), Error> {
        let Self::Systemd { systemd, monitors } = self else {
            return Ok(());
        };
        let scope = Scope {
            name: &monitor_scope(pod),
            description: &format!("Monitor of pod sandbox {pod}"),
            slice: monitors,
            pid,
        };
        Ok(systemd.start_scope(&scope).await?)
    }
}

fn monitor_scope(pod: &PodId) -> String {
    format!("crio-conmon-{pod}.scope")
}

/// Path of a pod's own cgroup, from what [`Keeper::parent`] gave: a path, or the name of a slice.
#[must_use]
pub fn of_pod(parent: &str) -> String {
    match parent.parse::<Slice>() {
        Ok(slice) if !parent.starts_with('/') => slice.cgroup(),
        _ => parent.to_owned(),
    }
}

fn plain_path(asked: &str) -> Result<String, Error> {
    if asked.ends_with(".slice") && !asked.contains('/') {
        let text = format!(
            "cgroup parent {asked:?} is a systemd slice, but the cgroup manager is cgroupfs"
        );
        return Err(Error::Invalid(text));
    }
    if asked.split('/').any(|part| part == ".." || part == ".") {
        return Err(Error::Invalid(format!(
            "cgroup parent {asked:?} is not a plain path"
        )));
    }
    Ok(format!("/{}", asked.trim_matches('/')))
}

/// Kills what is left in a cgroup of ours, waits for its end and removes the cgroup, with its unit.
pub(crate) async fn remove(node: &Node, path: String) -> Result<(), Error> {
    let unit = unit_of(&path).map(str::to_owned);
    blocking(&node.pools.mounts, move || monitors::remove_cgroup(&path)).await?;
    if let (Keeper::Systemd { systemd, .. }, Some(unit)) = (&node.options.keeper, unit) {
        // It is empty, so that stopping it ends nothing.
        systemd.stop(&unit).await?;
    }
    Ok(())
}

/// Removes a pod's own cgroup where nothing is in it any more: the kubelet removes those that it
/// made itself, and without one nobody would.
pub(crate) async fn remove_pod(node: &Node, parent: &str) {
    let path = of_pod(parent);
    let shared = match &node.options.keeper {
        Keeper::Cgroupfs { root } => parent == root,
        Keeper::Systemd { .. } => parent == DEFAULT_SLICE,
    };
    if shared || path.is_empty() {
        return;
    }
    let gone = blocking(&node.pools.mounts, move || {
        monitors::remove_empty_cgroup(&path)
    });
    let gone = gone.await;
    if let Keeper::Systemd { systemd, .. } = &node.options.keeper
        && gone
        && let Err(error) = systemd.stop(parent).await
    {
        tracing::debug!(slice = parent, error = chain(&error), "slice not stopped");
    }
}

/// Lets a container's processes go on; fine if they do. The kernel's file is written, not the
/// runtime called: it has to work after anything.
pub(crate) async fn thaw(node: &Node, container: &Container) -> Result<(), Error> {
    let path = container.made.cgroup.clone();
    let init = container.phase.init();
    let init = init.and_then(|init| sys::pidfd::of_number(init.pid));
    let thaw = move || {
        let cgroup = Cgroup::at(&path).map_err(Error::io("find cgroup", &path))?;
        cgroup.thaw(init).map_err(Error::io("thaw", &path))
    };
    blocking(&node.pools.mounts, thaw).await
}

/// The unit of a cgroup, by its name.
fn unit_of(path: &str) -> Option<&str> {
    let name = Path::new(path).file_name()?.to_str()?;
    name.ends_with(".scope").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd() -> Keeper {
        Keeper::Systemd {
            systemd: Arc::default(),
            monitors: "system.slice".parse().unwrap(),
        }
    }

    #[test]
    fn systemds_parents_are_slices() {
        for (asked, parent) in [
            ("", Some("system.slice")),
            ("a-b.slice", Some("a-b.slice")),
            ("/a.slice/a-b.slice", Some("a-b.slice")),
            ("/crio", None),
            ("a-b.slice/x", None),
        ] {
            assert_eq!(systemd().parent(asked).ok().as_deref(), parent, "{asked:?}");
        }
        let error = systemd().parent("/crio").unwrap_err().to_string();
        assert!(
            error.ends_with("did not receive slice as parent: /crio"),
            "{error}"
        );
    }

    #[test]
    fn both_keepers_tell_paths() {
        let ours = Keeper::Cgroupfs {
            root: "/crio".into(),
        };
        let pod = PodId::parse(&"a".repeat(64)).unwrap();
        assert_eq!(ours.container("/p", "x"), "/p/crio-x");
        assert_eq!(ours.for_runtime("/p", "x"), "/p/crio-x");
        assert_eq!(ours.monitor(&pod), format!("/crio/crio-conmon-{pod}"));
        assert_eq!(
            systemd().container("a-b.slice", "x"),
            "/a.slice/a-b.slice/crio-x.scope"
        );
        assert_eq!(systemd().for_runtime("a-b.slice", "x"), "a-b.slice:crio:x");
        assert_eq!(ours.pull("/p", "x"), "/p/crio-pull-image-x");
        assert_eq!(
            systemd().pull("a-b.slice", "x"),
            "/a.slice/a-b.slice/crio-pull-image-x.scope"
        );
        assert_eq!(
            systemd().monitor(&pod),
            format!("/system.slice/crio-conmon-{pod}.scope")
        );
    }

    #[test]
    fn a_plain_parent_does_not_climb() {
        for (asked, parent) in [
            ("/a/b/", Some("/a/b")),
            ("a", Some("/a")),
            ("../a", None),
            ("a.slice", None),
            ("/kubepods.slice/a.slice", Some("/kubepods.slice/a.slice")),
        ] {
            assert_eq!(plain_path(asked).ok().as_deref(), parent, "{asked:?}");
        }
    }
}
