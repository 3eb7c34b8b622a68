//! A pod's namespaces: made, prepared and pinned by `pinns`, named after the pod's id so that an
//! undo finds them without a record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storage::{IdRange, UserNamespace};
use sys::spawn::{Program, run as run_program};

use crate::node::{Node, blocking};
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::{PodRequest, Shared};
use crate::{Error, PodId};

/// How long `pinns` may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Directories of pins beneath `namespaces_dir`.
const KINDS: [&str; 4] = ["netns", "ipcns", "utsns", "userns"];
/// Groups that may send ICMP echo requests, as a range of ids (icmp(7)).
const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// Where a pod's namespaces are pinned; `None` where it uses the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pins {
    pub(crate) network: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
}

impl Pins {
    pub(crate) fn of(node: &Node, id: &PodId, request: &PodRequest) -> Self {
        let pin = |kind: &str, own: bool| {
            own.then(|| node.options.namespaces_dir.join(kind).join(id.as_str()))
        };
        let network = request.network == Shared::Pod;
        Self {
            network: pin("netns", network),
            ipc: pin("ipcns", request.ipc == Shared::Pod),
            // In the host's network a pod has the host's name too.
            uts: pin("utsns", network),
            user: pin("userns", request.id_map.is_some()),
        }
    }
}

/// The stage `namespaces`. Sysctls are set inside before any plugin runs.
pub(crate) async fn pin(run: &Run) -> Result<(), Error> {
    let pins = Pins::of(&run.node, &run.id, &run.request);
    let mut flags = Vec::new();
    let maps = run
        .request
        .id_map
        .map(|map| [map.users, map.groups].map(argument));
    if let Some([users, groups]) = &maps {
        // The others are made inside of it, so that they belong to it.
        flags.extend(["--user", "--uid-mapping", users, "--gid-mapping", groups]);
    }
    if pins.network.is_some() {
        flags.extend(["--net", "--loopback"]);
    }
    if pins.ipc.is_some() {
        flags.push("--ipc");
    }
    if pins.uts.is_some() {
        flags.extend(["--uts", "--hostname", &run.hostname]);
    }
    if flags.is_empty() {
        return Ok(());
    }
    let sysctls = sysctls(&run.node, &run.request);
    let sysctls = sysctls
        .iter()
        .flat_map(|(name, value)| ["-s".to_owned(), format!("{name}={value}")]);
    let program = Program::new(&run.node.options.pinns, TIMEOUT)
        .arg("-d")
        .arg(&run.node.options.namespaces_dir)
        .arg("-f")
        .arg(run.id.as_str())
        .args(flags)
        .args(sysctls);
    let output = blocking(&run.node.pools.helpers, move || run_program(&program)).await;
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::Helper {
                program: "pinns",
                text,
            })
        }
        Err(error) => Err(Error::Helper {
            program: "pinns",
            text: crate::operations::chain(&error),
        }),
    }
}

/// The node's default sysctls, as far as they are in a namespace of the pod's own, and those of the
/// request, which win.
fn sysctls(node: &Node, request: &PodRequest) -> BTreeMap<String, String> {
    let (network, ipc) = (request.network == Shared::Pod, request.ipc == Shared::Pod);
    let own = |name: &str| {
        if name.starts_with("net.") {
            network
        } else {
            ipc
        }
    };
    let defaults = node
        .options
        .default_sysctls
        .iter()
        .filter(|(name, _)| own(name));
    let mut all: BTreeMap<String, String> = defaults
        .chain(&request.sysctls)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let (Some(map), Some(range)) = (request.id_map, all.get_mut(PING_GROUPS))
        && let Some(inside) = within(range, map.groups)
    {
        *range = inside;
    }
    all
}

/// The part of a range of groups (`first last`) that a user namespace has; the kernel refuses ids
/// that nobody has. `None` for what is no range: the kernel says so.
fn within(range: &str, groups: IdRange) -> Option<String> {
    let (first, last) = range.split_once(char::is_whitespace)?;
    let (first, last): (u32, u32) = (first.parse().ok()?, last.trim().parse().ok()?);
    let top = groups.count.saturating_sub(1);
    // A first that is more than the last stands for nobody.
    (first <= last).then(|| format!("{} {}", first.min(top), last.min(top)))
}

/// A map as `pinns` takes it.
fn argument(range: IdRange) -> String {
    format!("0-{}-{}", range.host, range.count)
}

/// A pod's user namespace, where it has one. Blocks.
pub(crate) fn users(
    request: &PodRequest,
    pin: Option<&Path>,
) -> Result<Option<UserNamespace>, Error> {
    let (Some(map), Some(pin)) = (request.id_map, pin) else {
        return Ok(None);
    };
    let namespace = sys::namespace::open(pin).map_err(Error::io("open", pin))?;
    Ok(Some(UserNamespace {
        map,
        namespace: Arc::new(namespace),
    }))
}

/// Takes a pod's pins away, whichever there are.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(unpin(node, &subject.pod))
}

/// Takes a pod's pins away, whichever there are.
pub(crate) async fn unpin(node: &Node, id: &PodId) -> Result<(), Error> {
    let dir = node.options.namespaces_dir.clone();
    let pins: Vec<_> = KINDS
        .iter()
        .map(|kind| dir.join(kind).join(id.as_str()))
        .collect();
    let unpin = move || {
        pins.into_iter()
            .try_for_each(|pin| sys::namespace::unpin(&pin).map_err(Error::io("unpin", pin)))
    };
    blocking(&node.pools.mounts, unpin).await
}

/// Ids of pods for which there is a pin.
pub(crate) fn pinned(node: &Node) -> Vec<PodId> {
    let dirs = KINDS
        .iter()
        .filter_map(|kind| std::fs::read_dir(node.options.namespaces_dir.join(kind)).ok());
    let names = dirs
        .flatten()
        .filter_map(|entry| PodId::parse(entry.ok()?.file_name().to_str()?));
    let mut ids: Vec<_> = names.collect();
    ids.sort();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_may_ping_are_those_of_the_namespace() {
        let groups = IdRange {
            host: 200_000,
            count: 65_536,
        };
        for (range, inside) in [
            ("0 2147483647", Some("0 65535")),
            ("0\t0", Some("0 0")),
            ("100 200", Some("100 200")),
            ("1 0", None),
            ("none", None),
        ] {
            assert_eq!(within(range, groups).as_deref(), inside, "{range}");
        }
    }
}
