//! Quotas of containers, on file systems of the test's own that count what projects take.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::beneath::Dir;
use testkit::node::{Node, Options};
use testkit::requests::{container, host_network_pod};

use crate::fixture;

/// Where the file system is, in the process that sees it.
const MOUNTED: &str = "CRIOXIDE_TEST_DIR";
const MIB: u64 = 1 << 20;
/// What the outer process is told where the kernel has no quotas.
const NO_QUOTAS: i32 = 77;

/// Makes a file system and runs the calling test again where it is mounted, which nobody else sees.
#[allow(clippy::print_stdout, reason = "a skipped test says why")]
fn inside(name: &str, make: &[&str], size: u64) -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("crixq-")
        .tempdir_in("/var/tmp")?;
    let (file, place) = (dir.path().join("file"), dir.path().join("mounted"));
    fs::File::create(&file)?.set_len(size)?;
    fs::create_dir(&place)?;
    let made = Command::new(make[0]).args(&make[1..]).arg(&file).status();
    let made = made.with_context(|| make[0].to_owned())?;
    ensure!(made.success(), "{make:?}: {made}");
    let script = format!(
        "mount -o loop,prjquota \"$1\" \"$2\" || exit {NO_QUOTAS}
        {MOUNTED}=\"$2\" exec \"$3\" --exact \"$4\" --nocapture"
    );
    let ended = Command::new("unshare")
        .args([
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .args([&file, &place, &std::env::current_exe()?])
        .arg(name)
        .status()?;
    if ended.code() == Some(NO_QUOTAS) {
        let needed = std::env::var_os("CRIOXIDE_TEST_QUOTAS");
        ensure!(needed.is_none(), "no project quotas in this kernel");
        println!("skipped: no project quotas in this kernel ({})", make[0]);
        return Ok(());
    }
    ensure!(ended.success(), "{name}, {}: {ended}", make[0]);
    Ok(())
}

fn mounted() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os(MOUNTED)?);
    dir.to_str()?.contains("/crixq-").then_some(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_writes_as_much_as_it_may_and_the_others_go_on() -> Result<()> {
    let Some(dir) = mounted() else {
        let name = "quotas::a_container_writes_as_much_as_it_may_and_the_others_go_on";
        let ext4 = ["mkfs.ext4", "-q", "-O", "quota,project"];
        inside(name, &ext4, 256 * MIB)?;
        return inside(name, &["mkfs.xfs", "-q"], 512 * MIB);
    };
    let storage_conf = "[storage.options.overlay]\nsize = \"8M\"\ninodes = \"300\"\n";
    let options = Options {
        storage_conf: storage_conf.to_owned(),
        ..Options::default()
    };
    let mut f = fixture::with(options).await?;
    ensure!(f.node.dir.starts_with(&dir));
    let config = host_network_pod("quota", &f.node.logs());
    let pod = f.node.run_pod_config(config).await?;
    let mut containers = Vec::new();
    for name in ["greedy", "modest"] {
        let config = container(name, &f.image, &["sleep", "1000"]);
        containers.push(f.node.run(&pod, config).await?);
    }
    let (greedy, modest) = (&containers[0], &containers[1]);

    let wrote = write(&f.node, greedy, 64).await?;
    ensure!(wrote.exit_code != 0, "{wrote:?}");
    let said = String::from_utf8_lossy(&wrote.stderr).to_lowercase();
    ensure!(
        said.contains("no space left") || said.contains("quota exceeded"),
        "{said}"
    );
    let wrote = write(&f.node, modest, 4).await?;
    ensure!(wrote.exit_code == 0, "{wrote:?}");
    let taken = layer_bytes(&f.node, greedy).await?;
    ensure!((7 * MIB..=8 * MIB).contains(&taken), "{taken}");
    // Asked of the file system each time: nothing is older than the last write.
    for more in 1..=3 {
        let before = layer_bytes(&f.node, modest).await?;
        let script = format!("dd if=/dev/zero of=/more{more} bs=64k count=8");
        f.said(modest, &script).await?;
        let after = layer_bytes(&f.node, modest).await?;
        ensure!(after >= before + MIB / 2, "{before} {after}");
    }

    // A restart changes nothing, and the next container gets a quota of its own.
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    let wrote = write(&f.node, greedy, 64).await?;
    ensure!(wrote.exit_code != 0, "{wrote:?}");
    let config = container("late", &f.image, &["sleep", "1000"]);
    let late = f.node.run(&pod, config).await?;
    let wrote = write(&f.node, &late, 4).await?;
    ensure!(wrote.exit_code == 0, "{wrote:?}");
    let home = f.node.storage().join("overlay");
    let before = projects(&home)?;
    ensure!(before.len() == 3, "{before:?}");

    let request = v1::RemoveContainerRequest {
        container_id: greedy.clone(),
    };
    f.node.client().runtime().remove_container(request).await?;
    let after = projects(&home)?;
    ensure!(after.len() == 2, "{after:?}");
    let fs_of = Dir::open(&home)?;
    for project in before {
        let limits = sys::quota::get(fs_of.as_fd(), project)?.limits;
        let kept = after.contains(&project);
        ensure!(limits.is_any() == kept, "{project}: {limits:?}");
    }
    f.node.remove_pod(&pod).await?;
    ensure!(projects(&home)?.is_empty());
    f.node.finish().await
}

async fn write(node: &Node, id: &str, mib: u64) -> Result<v1::ExecSyncResponse> {
    let script = format!("dd if=/dev/zero of=/large bs=64k count={}", mib * 16);
    node.exec(id, &["sh", "-c", &script]).await
}

async fn layer_bytes(node: &Node, id: &str) -> Result<u64> {
    let request = v1::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = node.client().runtime().container_stats(request).await?;
    let layer = answer.into_inner().stats.context("stats")?.writable_layer;
    let used = layer.context("writable layer")?.used_bytes;
    Ok(used.context("bytes")?.value)
}

/// The projects of the layers in a driver's directory.
fn projects(home: &Path) -> Result<Vec<u32>> {
    let mut projects = Vec::new();
    for entry in fs::read_dir(home)? {
        let path = entry?.path();
        if path.join("diff").is_dir() {
            projects.push(sys::quota::project(Dir::open(&path)?)?);
        }
    }
    projects.retain(|project| *project != 0);
    Ok(projects)
}
