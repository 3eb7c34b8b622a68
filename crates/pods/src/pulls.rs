//! Cgroups of image pulls that have a process of their own (`separate_pull_cgroup`).
//!
//! Each pull gets a cgroup beneath its pod's or beneath one that the configuration names. What is made is
//! recorded on tmpfs before, in `pulls` of the run directory, so that the successor of a killed daemon
//! takes it away, with the process that may still be in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sys::cgroup::Cgroup;
use sys::spawn::EnterCgroup;

use crate::Error;
use crate::cgroups::{self, Keeper};
use crate::node::{Node, blocking};
use crate::operations::chain;

/// Beneath what pulls get their cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullParent {
    /// The parent of the pod that the image is for, or the default one where there is none.
    Pod,
    /// This one: a path, or with systemd a slice.
    Named(String),
}

impl PullParent {
    /// From the option's text: `pod`, or a parent as [`Keeper`] wants them; empty: pulls have no process
    /// of their own.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str, keeper: &Keeper) -> Result<Option<Self>, Error> {
        match text {
            "" => Ok(None),
            "pod" => Ok(Some(Self::Pod)),
            named => Ok(Some(Self::Named(keeper.parent(named)?))),
        }
    }
}

/// The cgroup for a pull, where pulls have one. `asked` is the parent that the request's pod has, of any
/// form; empty for none.
pub(crate) fn place(node: &Arc<Node>, asked: &str) -> Result<Option<Arc<dyn image::Place>>, Error> {
    let (parent, stays) = match &node.options.pull_parent {
        None => return Ok(None),
        Some(PullParent::Named(parent)) => (parent.clone(), true),
        Some(PullParent::Pod) => (node.options.keeper.parent(asked)?, false),
    };
    let id: String = sys::random::bytes::<8>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cgroup = node.options.keeper.pull(&parent, &id);
    Ok(Some(Arc::new(Place {
        node: Arc::clone(node),
        parent,
        stays,
        cgroup,
        record: dir(node).join(id),
    })))
}

/// Directory of the records.
pub(crate) fn dir(node: &Node) -> PathBuf {
    node.options.run_dir.join("pulls")
}

/// A pull's cgroup.
#[derive(Debug)]
struct Place {
    node: Arc<Node>,
    parent: String,
    /// Whether the parent stays, whoever made it.
    stays: bool,
    cgroup: String,
    record: PathBuf,
}

/// What is recorded of one.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Its path.
    cgroup: String,
    /// The parent that was made for it, where it was not there: a pod's that nobody has made yet, or any
    /// more.
    made: Option<String>,
}

impl Place {
    async fn made(&self) -> Result<Option<EnterCgroup>, Error> {
        let (by_systemd, stays) = (self.node.options.keeper.is_systemd(), self.stays);
        let (parent, cgroup, path) = (
            self.parent.clone(),
            self.cgroup.clone(),
            self.record.clone(),
        );
        let make = move || {
            let record = Record {
                made: (!stays && !is_there(&parent)?).then_some(parent),
                cgroup: cgroup.clone(),
            };
            let text = serde_json::to_vec(&record);
            let text = text.map_err(|wrong| Error::Internal(wrong.to_string()))?;
            fs::write(&path, text).map_err(Error::io("write", &path))?;
            if by_systemd {
                return Ok(None);
            }
            let entry = || {
                let cgroup = Cgroup::at(&cgroup)?;
                cgroup.make()?;
                cgroup.entry()
            };
            entry().map(Some).map_err(Error::io("make cgroup", &cgroup))
        };
        blocking(&self.node.pools.mounts, make).await
    }
}

impl image::Place for Place {
    fn parent(&self) -> &str {
        &self.parent
    }

    fn make(&self) -> BoxFuture<'_, Result<Option<EnterCgroup>, String>> {
        Box::pin(async { self.made().await.map_err(|error| chain(&error)) })
    }

    fn adopt(&self, pid: u32) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let keeper = &self.node.options.keeper;
            let adopted = keeper.adopt_pull(&self.parent, &self.cgroup, pid).await;
            adopted.map_err(|error| chain(&error))
        })
    }

    fn remove(&self) -> BoxFuture<'_, ()> {
        Box::pin(remove(&self.node, &self.record))
    }
}

/// Takes away what the record says; where that fails, the next start tries again.
async fn remove(node: &Node, path: &Path) {
    let removed = async {
        let record = path.to_owned();
        let read = move || read(&record);
        let Some(record) = blocking(&node.pools.files, read).await? else {
            return Ok(());
        };
        cgroups::remove(node, record.cgroup).await?;
        if let Some(parent) = record.made {
            let pods = node.table.load();
            if !pods
                .pods
                .values()
                .any(|pod| pod.made.cgroup_parent == parent)
            {
                cgroups::remove_pod(node, &parent).await;
            }
        }
        let record = path.to_owned();
        let forget = move || fs::remove_file(&record).map_err(Error::io("remove", record));
        blocking(&node.pools.files, forget).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(record = %path.display(), error = chain(&error), "cgroup of a pull not removed");
    }
}

/// `None` for one that was not written to its end, before anything was made.
fn read(path: &Path) -> Result<Option<Record>, Error> {
    let text = match fs::read(path) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io("read", path))?,
    };
    match serde_json::from_slice(&text) {
        Ok(record) => Ok(Some(record)),
        Err(_) => {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
            Ok(None)
        }
    }
}

/// What an earlier daemon has recorded. Blocks.
pub(crate) fn recorded(node: &Node) -> Result<Vec<PathBuf>, Error> {
    let dir = dir(node);
    let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io("read", &dir))?.path()));
    paths.collect()
}

/// Takes away what an earlier daemon had made, and what its pulls left in the store.
pub(crate) async fn clear(node: &Node, records: &[PathBuf]) {
    for record in records {
        remove(node, record).await;
    }
    if !records.is_empty() {
        let store = node.store.clone();
        let swept = blocking(&node.pools.storage, move || store.sweep()).await;
        if let Err(error) = swept {
            tracing::warn!(error = chain(&error), "what pulls have left is not removed");
        }
    }
}

/// Whether a parent's cgroup is there.
fn is_there(parent: &str) -> Result<bool, Error> {
    let path = cgroups::of_pod(parent);
    let found = Cgroup::at(&path).map_err(Error::io("find cgroup", &path))?;
    let is_there = found.paths().any(Path::is_dir);
    Ok(is_there)
}
