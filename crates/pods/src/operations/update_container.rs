//! UpdateContainerResources: other limits for a container that lives.
//!
//! The OCI runtime's `update` changes the cgroup: it alone knows how it maps limits to version 2,
//! and under systemd the unit's properties have to change with the files. It gets all limits in
//! force, not only the changed ones, so that its own record stays whole and a repeat does no harm.
//! What runtimes leave out of an update follows by our hand: huge pages and OOM scores.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spec::oci;
use spec::resources::{self, Request};
use sys::cgroup::Cgroup;
use sys::spawn::{self, Program};

use super::stage::step;
use super::{Outcome, act};
use crate::node::{Node, blocking};
use crate::state::container::{Container, Phase};
use crate::{Error, handlers, records};

pub(crate) const OPERATION: &str = "update-container";
/// Its steps. Each states all limits, so that a repeat mends what one before left half done.
pub(crate) const STEPS: &[&str] = &["limits", "state"];
/// How long the runtime may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What is kept of its words.
const WORDS: usize = 16 * 1024;

/// Changes a container's limits.
pub(crate) async fn run(node: &Arc<Node>, id: &str, update: Request) -> Outcome {
    let container = node.table.load().container(id)?;
    // Another update waits for this one; only the same one joins it.
    let subject = format!("{} {}", container.id, records::fingerprint(&update));
    act(node, OPERATION, subject, "update", |node| async move {
        work(&node, &container, &update).await
    })
    .await
}

async fn work(node: &Arc<Node>, container: &Container, update: &Request) -> Result<(), Error> {
    let live = node.live(&container.pod);
    let _gate = live.gate.read().await;
    let _update = live.updates.lock().await;
    let snapshot = node.table.load();
    let container = snapshot.container(container.id.as_str())?;
    let pod = snapshot.pod(container.pod.as_str())?;
    if matches!(container.phase, Phase::Exited { .. }) {
        return Err(ended(&container));
    }
    let handler = handlers::of(node, &pod)?;
    let limits = resources::merge(&container.limits, update);
    let minimum = handler.config.minimum_memory;
    let resources = resources::resolve(&limits, node.host.controllers, minimum, 0)?;
    let score = (limits.oom_score_adj != container.limits.oom_score_adj)
        .then(|| node.host.oom_score(limits.oom_score_adj));
    let call = call(&handler, &container, &resources)?;
    let (worker, subject) = (Arc::clone(node), Arc::clone(&container));
    let apply = move || {
        let statistics = &worker.statistics;
        fits(&subject, &resources, statistics.memory_usage(&subject))?;
        runtime_update(&call)?;
        huge_pages(&subject, &resources)?;
        if let Some(score) = score {
            let old = worker.host.oom_score(subject.limits.oom_score_adj);
            oom_scores(&statistics.processes(&subject), old, score);
        }
        Ok(())
    };
    let applied = step(OPERATION, "limits", blocking(&node.pools.helpers, apply));
    if let Err(error) = applied.await {
        // A runtime's words for a container that ended meanwhile are its own.
        let now = node.table.load().container(container.id.as_str())?;
        return match now.phase {
            Phase::Exited { .. } => Err(ended(&now)),
            Phase::Created { .. } | Phase::Running { .. } => Err(error),
        };
    }
    let _states = live.states.lock().await;
    let updated = Container {
        limits: Arc::new(limits),
        ..Container::clone(&*node.table.load().container(container.id.as_str())?)
    };
    step(OPERATION, "state", async {
        if let Some(dirs) = node.dirs(container.id.as_str()).await? {
            let record = updated.clone();
            let write = move || records::write_state(&record, &dirs);
            blocking(&node.pools.files, write).await?;
        }
        Ok(())
    })
    .await?;
    node.table.limit(&updated.id, updated.limits);
    tracing::info!(container = container.id.as_str(), "limits updated");
    Ok(())
}

fn ended(container: &Container) -> Error {
    Error::WrongState(format!(
        "container {} is not in created or running state: it has exited",
        container.id
    ))
}

/// The kernel would reclaim, and then kill: a limit below what is in use is refused instead.
fn fits(container: &Container, wanted: &oci::Resources, used: Option<u64>) -> Result<(), Error> {
    let limit = wanted.memory.as_ref().and_then(|memory| memory.limit);
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    match (limit, used) {
        (Some(limit), Some(used)) if limit < used => Err(Error::WrongState(format!(
            "memory limit {limit} of container {} is below the {used} bytes that it uses",
            container.id
        ))),
        _ => Ok(()),
    }
}

fn call(
    handler: &runtime::Handler,
    container: &Container,
    resources: &oci::Resources,
) -> Result<Program, Error> {
    let json = serde_json::to_vec(resources)
        .map_err(|wrong| Error::Internal(format!("limits as JSON: {wrong}")))?;
    let mut program = Program::new(&handler.config.path, TIMEOUT)
        .args(handler.global_arguments())
        .args(["update", "--resources", "-", container.id.as_str()])
        .stdin(json);
    program.output_limit = WORDS;
    // systemd's bus and the programs that a runtime may call.
    for name in ["PATH", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            program = program.env(name, value);
        }
    }
    Ok(program)
}

fn runtime_update(program: &Program) -> Result<(), Error> {
    const DOING: &str = "container update failed";
    match spawn::run(program) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words: Vec<_> = words.lines().map(str::trim).collect();
            let text = if words.is_empty() {
                format!("runtime ended with {}", output.status)
            } else {
                words.join("; ")
            };
            Err(Error::Runtime { doing: DOING, text })
        }
        Err(spawn::Error::TimedOut { after, .. }) => Err(Error::TimedOut(format!(
            "{DOING}: runtime timed out after {after:?}"
        ))),
        Err(error) => Err(Error::Runtime {
            doing: DOING,
            text: super::chain(&error),
        }),
    }
}

/// Runtimes take huge page limits at creation only; systemd has no property for them.
fn huge_pages(container: &Container, wanted: &oci::Resources) -> Result<(), Error> {
    if wanted.hugepage_limits.is_empty() {
        return Ok(());
    }
    let path = &container.made.cgroup;
    let cgroup = Cgroup::at(path).map_err(Error::io("find cgroup", path))?;
    let (dir, file) = match (cgroup.v1("hugetlb"), cgroup.v2()) {
        (Some(dir), _) => (dir, "limit_in_bytes"),
        (None, Some(dir)) => (dir, "max"),
        (None, None) => return Ok(()),
    };
    for limit in &wanted.hugepage_limits {
        let size = &limit.page_size;
        if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!("{size:?} is no page size")));
        }
        let path = dir.join(format!("hugetlb.{size}.{file}"));
        fs::write(&path, limit.limit.to_string()).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// Gives the processes that have the container's score the new one; a process that was given one
/// of its own keeps it.
fn oom_scores(pids: &[i32], old: i64, new: i64) {
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        let has_old = fs::read_to_string(&path).is_ok_and(|text| text.trim().parse() == Ok(old));
        // One that ends meanwhile needs none.
        if has_old && let Err(error) = fs::write(&path, new.to_string()) {
            tracing::debug!(pid, %error, "OOM score not changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_their_own_are_kept() {
        let own = i32::try_from(std::process::id()).unwrap();
        let path = "/proc/self/oom_score_adj";
        let score = || -> i64 { fs::read_to_string(path).unwrap().trim().parse().unwrap() };
        let before = score();
        oom_scores(&[own, i32::MAX], before + 1, before + 2);
        assert_eq!(score(), before, "it is not the container's");
        oom_scores(&[own], before, before + 1);
        assert_eq!(score(), before + 1);
        fs::write(path, before.to_string()).ok();
    }
}
