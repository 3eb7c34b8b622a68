//! The daemon as a service of systemd, by the unit of `contrib/systemd`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::spawn::Program;
use testkit::audit;
use testkit::node::{Node, binary};
use testkit::requests::container;

use crate::fixture;

const UNIT: &str = include_str!("../../../../contrib/systemd/crioxide.service");
/// Units that are gone with the next boot.
const UNITS: &str = "/run/systemd/system";

/// A unit that starts a node's daemon; stopped and removed when this is dropped.
struct Unit {
    name: String,
    path: PathBuf,
}

impl Unit {
    /// The unit as it is shipped but for the program and its arguments.
    fn install(node: &Node) -> Result<Self> {
        let program = "ExecStart=/usr/bin/crioxide\n";
        ensure!(UNIT.contains(program), "the unit starts the daemon");
        let own = binary("crioxide")?.display().to_string();
        let own = format!("ExecStart={own} {}\n", node.arguments().join(" "));
        // Never the machine's own.
        let storage_conf = node.dir.join("storage.conf");
        let environment = format!(
            "Environment=CONTAINERS_STORAGE_CONF={}\n",
            storage_conf.display()
        );
        let text = UNIT.replace(program, &format!("{own}{environment}"));
        let name = format!("{}.service", node.name);
        let path = Path::new(UNITS).join(&name);
        fs::write(&path, text)?;
        let unit = Self { name, path };
        systemctl(&["daemon-reload"])?;
        Ok(unit)
    }

    fn systemctl(&self, verb: &str) -> Result<String> {
        systemctl(&[verb, &self.name])
    }

    fn main_pid(&self) -> Result<i32> {
        let pid = systemctl(&["show", "--property=MainPID", "--value", &self.name])?;
        Ok(pid.trim().parse()?)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // After a failed test too; what can't be done here is found by the audit.
        self.systemctl("stop").ok();
        fs::remove_file(&self.path).ok();
        systemctl(&["daemon-reload"]).ok();
    }
}

pub(crate) fn systemctl(arguments: &[&str]) -> Result<String> {
    let program = sys::spawn::which("systemctl", "/usr/bin:/bin").context("systemctl")?;
    let program = Program::new(program, Duration::from_secs(300)).args(arguments);
    let output = sys::spawn::run(&program).map_err(|error| anyhow::anyhow!("{error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All processes of a node but its daemon: monitors, and what they have started last.
fn monitors(node: &Node) -> BTreeSet<i32> {
    let all = audit::processes(node).into_iter();
    let monitors = all.filter(|(_, line)| line.contains("crioxide-monitor"));
    monitors.map(|(pid, _)| pid).collect()
}

async fn init(node: &Node, id: &str) -> Result<i64> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let mut client = node.client().runtime();
    let status = client.container_status(request).await?.into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    info["pid"].as_i64().context("a pid")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_stop_of_the_service_leave_pods_alone() -> Result<()> {
    if !Path::new(UNITS).is_dir() {
        println!("skipped: systemd is not what started this machine");
        return Ok(());
    }
    let mut f = fixture::node().await?;
    f.node.stop_daemon()?;
    let unit = Unit::install(&f.node)?;
    // The unit is of type "notify": started is when the daemon says that it serves.
    unit.systemctl("start")?;
    f.node.connect().await?;
    let daemon = unit.main_pid()?;
    let pods = [
        f.node.run_pod("first").await?,
        f.node.run_pod("second").await?,
    ];
    let script = ["sh", "-c", "while true; do echo tick; sleep 0.2; done"];
    let first = f
        .node
        .run(&pods[0], container("c", &f.image, &script))
        .await?;
    let second = f
        .node
        .run(&pods[1], container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let before = (
        monitors(&f.node),
        init(&f.node, &first).await?,
        init(&f.node, &second).await?,
    );
    assert_eq!(before.0.len(), 2, "a monitor of each pod: {before:?}");

    unit.systemctl("restart")?;
    f.node.connect().await?;
    assert_ne!(unit.main_pid()?, daemon, "another daemon");
    let after = (
        monitors(&f.node),
        init(&f.node, &first).await?,
        init(&f.node, &second).await?,
    );
    assert_eq!(after, before);
    for id in [&first, &second] {
        let status = f.node.status(id).await?;
        assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
        assert_eq!(f.node.exec(id, &["true"]).await?.exit_code, 0);
    }

    unit.systemctl("stop")?;
    assert_eq!(monitors(&f.node), before.0, "pods outlive the service");
    for pid in [before.1, before.2] {
        assert!(Path::new(&format!("/proc/{pid}")).is_dir(), "{pid}");
    }
    let lines = f.node.log("first", "c")?.lines().count();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..300 {
        tick.tick().await;
        if f.node.log("first", "c")?.lines().count() > lines + 1 {
            break;
        }
    }
    let later = f.node.log("first", "c")?.lines().count();
    assert!(later > lines + 1, "the log goes on without a daemon");
    drop(unit);
    f.node.start_daemon().await?;
    f.node.finish().await
}
