//! podman, skopeo, buildah and umoci of a Debian 13 tree, on the store of a running node.

use std::io::Seek as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sys::spawn::{Session, Spec, spawn};
use testkit::node::Node;

/// The tree, if there is one; says that the test is skipped where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn tree() -> Option<PathBuf> {
    let tree = std::env::var_os("CRIOXIDE_DEBIAN13").map(PathBuf::from);
    let tree = tree.filter(|tree| tree.join("usr/bin/podman").is_file());
    if tree.is_none() {
        eprintln!(
            "skipped: CRIOXIDE_DEBIAN13 names no Debian 13 tree (scripts/in-debian13 makes one)"
        );
    }
    tree
}

/// Runs a shell script in the tree, with `podman` and `skopeo` set to the node's store; what it
/// wrote, if it ended well.
pub(crate) async fn peer(node: &Node, script: &str) -> Result<String> {
    let in_tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/in-debian13");
    let prelude = format!(
        r#"set -eu; root={root} run={run}; export TMPDIR=/tmp PODMAN_IGNORE_CGROUPSV1_WARNING=1
mkdir -p /etc/containers
# The tree is others' as well, who read it at the same time.
policy=$(mktemp /etc/containers/policy.XXXXXX)
echo '{{"default":[{{"type":"insecureAcceptAnything"}}]}}' > "$policy"
mv "$policy" /etc/containers/policy.json
podman() {{ command podman --root $root --runroot $run --storage-driver {driver} \
    --cgroup-manager cgroupfs --events-backend none --tmpdir /tmp/libpod "$@"; }}
store() {{ echo "containers-storage:[{driver}@$root+$run]$1"; }}
{script}"#,
        driver = node.storage_driver(),
        root = node.storage().display(),
        run = node.run_dir.join("storage").display(),
    );
    let mut output = tempfile::tempfile()?;
    let mut spec = Spec::new(&in_tree);
    spec.args = ["--no-make", "--bind"].map(Into::into).to_vec();
    spec.args.push(node.dir.clone().into());
    spec.args.push("--bind".into());
    spec.args.push(node.run_dir.clone().into());
    spec.args.extend(["--", "bash", "-c"].map(Into::into));
    spec.args.push(prelude.into());
    spec.env = std::env::vars_os().collect();
    spec.session = Session::Group;
    spec.fds = vec![(output.as_fd(), 1), (output.as_fd(), 2)];
    let mut child = spawn(&spec)?;
    let ended = tokio::task::spawn_blocking(move || child.wait(Some(Duration::from_secs(900))));
    let status = ended.await??.context("a peer did not end")?;
    output.rewind()?;
    let text = std::io::read_to_string(output)?;
    ensure!(status.code() == 0, "{script}: {status:?}\n{text}");
    Ok(text)
}
